//! Learns how long unused connections to an origin stay usable.
//!
//! After a close, the gateway cannot tell whether the server ignored a request or carried it out. So a connection is
//! used only at an age at which the server was seen to keep others open, with a margin: this avoids the moment at which
//! a server that closes unused connections after 1 s or 5 s does so.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A younger connection is used even if nothing is known yet: no server closes one so soon, except those that close
/// every connection, and the first connection exposes those.
const YOUNG: Duration = Duration::from_millis(500);

/// A connection is not used in this margin before the age at which the server may close it.
const MARGIN: Duration = Duration::from_millis(500);

/// A server that closes unused connections within this time keeps none; in milliseconds.
const AT_ONCE: u64 = 100;

/// The observed ages of unused connections to one origin, in milliseconds.
pub(super) struct Habit {
    /// The greatest age at which one was still open.
    kept: AtomicU64,
    /// The least age at which one was closed, unless an older one was seen open since.
    closed: AtomicU64,
}

impl Default for Habit {
    fn default() -> Self {
        Self { kept: AtomicU64::new(0), closed: AtomicU64::new(u64::MAX) }
    }
}

impl Habit {
    /// Whether a connection of this age needs no check.
    pub(super) fn is_young(&self, age: Duration) -> bool {
        age < YOUNG && self.closed.load(Ordering::Relaxed) == u64::MAX
    }

    /// Whether a connection of this age can be used. `announced`: the server announced that it keeps the connection.
    pub(super) fn allows(&self, age: Duration, announced: bool) -> bool {
        let closed = Duration::from_millis(self.closed.load(Ordering::Relaxed));
        let kept = Duration::from_millis(self.kept.load(Ordering::Relaxed));
        let margin = MARGIN.min(closed / 2);
        let is_kept = self.keeps_any() && age + margin <= closed;
        is_kept && (announced || age < YOUNG || age + margin <= kept)
    }

    /// Whether the server keeps unused connections at all.
    pub(super) fn keeps_any(&self) -> bool {
        self.closed.load(Ordering::Relaxed) > AT_ONCE
    }

    /// Records a connection that was open at this age.
    pub(super) fn saw_open(&self, age: Duration) {
        let age = millis(age);
        if self.kept.load(Ordering::Relaxed) < age {
            self.kept.store(age, Ordering::Relaxed);
        }
        if self.closed.load(Ordering::Relaxed) < age {
            self.closed.store(u64::MAX, Ordering::Relaxed);
        }
    }

    /// Records a connection that was closed at this age.
    pub(super) fn saw_closed(&self, age: Duration) {
        let age = millis(age);
        if self.closed.load(Ordering::Relaxed) > age {
            self.closed.store(age, Ordering::Relaxed);
        }
        if self.kept.load(Ordering::Relaxed) > age {
            self.kept.store(age, Ordering::Relaxed);
        }
    }
}

fn millis(age: Duration) -> u64 {
    u64::try_from(age.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    /// The ages, of some, at which a connection can be used.
    fn allowed(habit: &Habit, announced: bool) -> Vec<u64> {
        [0, 60, 400, 600, 1_400, 3_000, 4_400].into_iter().filter(|age| habit.allows(ms(*age), announced)).collect()
    }

    #[test]
    fn what_is_not_known_to_be_kept_is_used_only_while_it_is_young() {
        let habit = Habit::default();
        assert_eq!(allowed(&habit, false), [0, 60, 400]);
        assert_eq!(allowed(&habit, true), [0, 60, 400, 600, 1_400, 3_000, 4_400]);
        habit.saw_open(ms(2_000));
        assert_eq!(allowed(&habit, false), [0, 60, 400, 600, 1_400]);
        habit.saw_open(ms(1_000));
        habit.saw_open(ms(4_900));
        assert_eq!(allowed(&habit, false), [0, 60, 400, 600, 1_400, 3_000, 4_400]);
    }

    #[test]
    fn what_was_closed_bounds_the_age_until_an_older_one_is_seen_open() {
        for announced in [false, true] {
            let habit = Habit::default();
            habit.saw_open(ms(4_900));
            habit.saw_closed(ms(5_000));
            assert_eq!(allowed(&habit, announced), [0, 60, 400, 600, 1_400, 3_000, 4_400]);
            habit.saw_closed(ms(1_000));
            assert_eq!(allowed(&habit, announced), [0, 60, 400]);
            habit.saw_closed(ms(130));
            assert_eq!(allowed(&habit, announced), [0, 60]);
            habit.saw_closed(ms(3));
            assert_eq!(allowed(&habit, announced), [0; 0]);
            assert!(!habit.is_young(ms(0)));
            habit.saw_open(ms(700));
            assert!(habit.is_young(ms(0)));
        }
    }
}

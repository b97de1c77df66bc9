//! Ejection: a server that fails often comes last for a while.
//!
//! Updated by every call, so an unchanged value is not written again.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// Consecutive failures after which a server is ejected.
const EJECT_AFTER: u32 = 3;

/// The first pause of an ejected server; each further one is twice as long.
const FIRST_EJECTION: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);

/// The longest pause that a server can ask for.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The recent results of calls to a server.
pub(super) struct Ejection {
    failures: AtomicU32,
    /// Consecutive ejections.
    rounds: AtomicU32,
    /// Milliseconds since `born`; 0: not ejected.
    ejected_until: AtomicU64,
    /// The end of the pause that the server asked for, in the same unit.
    rests_until: AtomicU64,
    last_success: AtomicU64,
    born: Instant,
}

impl Default for Ejection {
    fn default() -> Self {
        Self {
            failures: AtomicU32::new(0),
            rounds: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
            last_success: AtomicU64::new(0),
            born: Instant::now(),
        }
    }
}

impl Ejection {
    /// Whether others come first, because the server failed often lately or asked for a pause.
    pub(super) fn is_ejected(&self) -> bool {
        let until = [&self.ejected_until, &self.rests_until].map(|until| until.load(Ordering::Relaxed));
        until[0].max(until[1]) > self.now()
    }

    /// Records that the server asked for a pause of this length: others come first meanwhile.
    pub(super) fn leave_alone(&self, time: Duration) {
        let until = self.now() + millis(time.min(LONGEST_REST));
        self.rests_until.store(until, Ordering::Relaxed);
    }

    /// Records an answered check: the server lives, but its calls may still fail.
    pub(super) fn alive(&self) {
        let now = self.now();
        // Not for each of many calls in a millisecond: other processors read adjacent memory.
        if self.last_success.load(Ordering::Relaxed) != now {
            self.last_success.store(now, Ordering::Relaxed);
        }
    }

    /// Records an answered call.
    pub(super) fn succeeded(&self) {
        self.alive();
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.rounds.load(Ordering::Relaxed) > 0 {
            self.ejected_until.store(0, Ordering::Relaxed);
            self.rounds.store(0, Ordering::Relaxed);
        }
    }

    /// Records a call that failed because of the server; true if this ejects it.
    pub(super) fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= EJECT_AFTER && self.eject()
    }

    /// Records a new session: the server is tried again at once, but the next pause stays a long one.
    pub(super) fn give_a_chance(&self) {
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Relaxed);
    }

    /// Calls that fail together cause one pause, not one each.
    fn eject(&self) -> bool {
        let (before, now) = (self.ejected_until.load(Ordering::Relaxed), self.now());
        let round = self.rounds.load(Ordering::Relaxed).min(10);
        let until = now + millis((FIRST_EJECTION * 2u32.pow(round)).min(LONGEST_EJECTION));
        let free = before <= now;
        let begins =
            free && self.ejected_until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if begins {
            self.rounds.fetch_add(1, Ordering::Relaxed);
        }
        begins
    }

    /// Time since the last answer.
    pub(super) fn since_success(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last_success.load(Ordering::Relaxed)))
    }

    fn now(&self) -> u64 {
        millis(self.born.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

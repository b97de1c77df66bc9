//! How many gateway replicas share the limits of policies.
//!
//! Pure: the caller passes the time. The number is rather too high than too low for a moment: with a number that is too low,
//! callers could make more calls than a limit allows.

use std::time::Duration;

use tokio::time::Instant;

/// A replica that is ready no longer counts for this time: it still serves the connections that it has, and may be back soon.
const FALL_DELAY: Duration = Duration::from_secs(10);

/// The number of replicas, which rises at once and falls late.
#[derive(Debug, Default)]
pub(crate) struct ReplicaCount {
    /// Replicas that are ready; none: never known.
    ready: Option<u32>,
    /// Replicas that count; 0: not known.
    counted: u32,
    /// When those that count are those that are ready.
    falls_at: Option<Instant>,
}

impl ReplicaCount {
    /// Takes what the slots say, which an operator before this one wrote: it counts until the cluster says more.
    pub(crate) fn assume(&mut self, replicas: u32) {
        if self.ready.is_none() {
            self.counted = self.counted.max(replicas);
        }
    }

    /// Whether the cluster has not said how many are ready.
    pub(crate) fn is_unknown(&self) -> bool {
        self.ready.is_none()
    }

    /// Takes the number of replicas that are ready. With none, nobody is served, and the number stays.
    pub(crate) fn see(&mut self, ready: u32, now: Instant) {
        if ready == 0 {
            self.falls_at = None;
            return;
        }
        self.ready = Some(ready);
        if ready >= self.counted {
            (self.counted, self.falls_at) = (ready, None);
        } else {
            self.falls_at.get_or_insert(now + FALL_DELAY);
        }
    }

    /// When the number falls next.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.falls_at
    }

    /// The number of replicas that count, at least 1.
    pub(crate) fn at(&mut self, now: Instant) -> u32 {
        if self.falls_at.is_some_and(|at| at <= now) {
            self.falls_at = None;
            self.counted = self.ready.unwrap_or(self.counted);
        }
        self.counted.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_counts_at_once_and_one_that_leaves_for_a_while_longer() {
        let (mut count, now) = (ReplicaCount::default(), Instant::now());
        assert_eq!((count.at(now), count.is_unknown()), (1, true));
        count.see(2, now);
        assert_eq!((count.at(now), count.next(), count.is_unknown()), (2, None, false));
        // A rolling update: one more, one less, one more.
        for (ready, counted) in [(3, 3), (2, 3), (3, 3), (1, 3), (2, 3)] {
            count.see(ready, now);
            assert_eq!(count.at(now), counted);
        }
        assert_eq!(count.next(), Some(now + FALL_DELAY));
        assert_eq!(count.at(now + FALL_DELAY), 2);
        assert_eq!(count.next(), None);
    }

    #[test]
    fn while_no_replica_is_ready_the_number_stays() {
        let (mut count, now) = (ReplicaCount::default(), Instant::now());
        count.see(3, now);
        count.see(2, now);
        count.see(0, now);
        assert_eq!((count.at(now + 10 * FALL_DELAY), count.next()), (3, None));
        count.see(1, now);
        assert_eq!((count.at(now), count.at(now + FALL_DELAY)), (3, 1));
    }

    #[test]
    fn what_the_slots_say_counts_until_the_cluster_says_more() {
        let (mut count, now) = (ReplicaCount::default(), Instant::now());
        count.assume(3);
        count.assume(2);
        count.see(0, now);
        assert_eq!((count.at(now), count.is_unknown()), (3, true));
        count.see(2, now);
        count.assume(9);
        assert_eq!((count.at(now), count.at(now + FALL_DELAY)), (3, 2));
    }
}

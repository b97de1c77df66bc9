//! Tracks readiness for traffic: named latches, each released once.
//!
//! A released latch never returns, so a process cannot flap; only draining ends readiness again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;

/// The name under which [`Readiness::ready`] reports a process that is shutting down.
const DRAINING: &str = "draining";

/// Whether this process may receive traffic. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    missing: Mutex<Vec<&'static str>>,
    draining: AtomicBool,
}

/// A condition for the process to be ready.
///
/// Dropping it does not release it: a task that died before its part was done leaves the process unready.
#[derive(Debug)]
#[must_use = "an unreleased latch keeps the process unready"]
pub struct Latch {
    name: &'static str,
    readiness: Readiness,
}

// === impl Readiness ===

impl Readiness {
    /// Adds a latch; the process is not ready until it is released. `name` appears in `/readyz`.
    pub fn latch(&self, name: &'static str) -> Latch {
        self.missing().push(name);
        Latch { name, readiness: self.clone() }
    }

    /// Ends readiness for good: the process is shutting down.
    pub fn drain(&self) {
        self.inner.draining.store(true, Ordering::Release);
    }

    /// Whether the process is shutting down.
    pub fn is_draining(&self) -> bool {
        self.inner.draining.load(Ordering::Acquire)
    }

    /// Whether the process may receive traffic.
    ///
    /// # Errors
    /// The names of the unreleased latches, in order of creation, then `draining`.
    pub fn ready(&self) -> Result<(), Vec<&'static str>> {
        let mut missing = self.missing().clone();
        if self.is_draining() {
            missing.push(DRAINING);
        }
        if missing.is_empty() { Ok(()) } else { Err(missing) }
    }

    fn missing(&self) -> parking_lot::MutexGuard<'_, Vec<&'static str>> {
        self.inner.missing.lock()
    }
}

// === impl Latch ===

impl Latch {
    /// Marks this part as done.
    pub fn release(self) {
        let mut missing = self.readiness.missing();
        if let Some(index) = missing.iter().position(|name| *name == self.name) {
            missing.remove(index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_ready_when_every_latch_is_released() {
        let readiness = Readiness::default();
        let (snapshot, keys) = (readiness.latch("snapshot"), readiness.latch("keys"));

        assert_eq!(readiness.ready(), Err(vec!["snapshot", "keys"]));
        snapshot.release();
        assert_eq!(readiness.ready(), Err(vec!["keys"]));
        keys.release();
        assert_eq!(readiness.ready(), Ok(()));
    }

    #[test]
    fn a_latch_lost_unreleased_keeps_the_process_unready() {
        let readiness = Readiness::default();

        drop(readiness.latch("snapshot"));

        assert_eq!(readiness.ready(), Err(vec!["snapshot"]));
    }

    #[test]
    fn two_latches_of_one_name_are_released_one_by_one() {
        let readiness = Readiness::default();
        let (first, _second) = (readiness.latch("keys"), readiness.latch("keys"));

        first.release();

        assert_eq!(readiness.ready(), Err(vec!["keys"]));
    }

    #[test]
    fn draining_ends_readiness_for_every_clone() {
        let readiness = Readiness::default();
        let other = readiness.clone();

        other.drain();

        assert!(readiness.is_draining());
        assert_eq!(readiness.ready(), Err(vec!["draining"]));
    }
}

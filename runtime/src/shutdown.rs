//! The one way to tell tasks to stop: a [`Stop`] asks, every clone of its [`Shutdown`] hears it.

use tokio::sync::watch;

/// Asks every task that holds the matching [`Shutdown`] to stop.
///
/// Dropping it asks as well: a task whose owner is gone has no reason to go on.
#[derive(Debug)]
pub struct Stop {
    asked: watch::Sender<()>,
}

/// Tells a task whether it has been asked to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    // Never marked as seen, so "changed" means "asked", for ever and for each later clone.
    asked: watch::Receiver<()>,
}

/// Makes a pair: who asks, and what tasks listen to.
pub fn channel() -> (Stop, Shutdown) {
    let (sender, receiver) = watch::channel(());
    (Stop { asked: sender }, Shutdown { asked: receiver })
}

// === impl Stop ===

impl Stop {
    /// Asks all listeners to stop. Asking again changes nothing.
    pub fn request(&self) {
        self.asked.send_replace(());
    }
}

// === impl Shutdown ===

impl Shutdown {
    /// Waits until stopping is asked for; ready at once if it already was.
    pub async fn requested(&self) {
        // An error means that the `Stop` is gone, which asks as well.
        let _ = self.asked.clone().changed().await;
    }

    /// Tells whether stopping has been asked for. One atomic load.
    pub fn is_requested(&self) -> bool {
        self.asked.has_changed().unwrap_or(true)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn nobody_is_stopped_unasked() {
        let (_stop, shutdown) = channel();

        let waited = timeout(Duration::from_secs(3600), shutdown.requested()).await;

        assert!(waited.is_err());
        assert!(!shutdown.is_requested());
    }

    #[tokio::test]
    async fn a_request_reaches_waiting_and_later_listeners() {
        let (stop, shutdown) = channel();
        let waiting = shutdown.clone();

        tokio::join!(waiting.requested(), async { stop.request() });
        shutdown.clone().requested().await;

        assert!(shutdown.is_requested() && waiting.is_requested());
    }

    #[tokio::test]
    async fn a_lost_owner_asks_as_well() {
        let (stop, shutdown) = channel();

        drop(stop);
        shutdown.requested().await;

        assert!(shutdown.is_requested());
    }
}

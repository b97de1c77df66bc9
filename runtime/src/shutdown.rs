//! Tells tasks to stop: a [`Stop`] sends the request, every clone of its [`Shutdown`] receives it.

use tokio::sync::watch;

/// Requests every task with the matching [`Shutdown`] to stop.
///
/// Dropping it is a request as well: a task whose owner is gone has no reason to continue.
#[derive(Debug)]
pub struct Stop {
    asked: watch::Sender<()>,
}

/// Receives the request to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Shutdown {
    // Never marked as seen, so "changed" means "requested", forever and for each later clone.
    asked: watch::Receiver<()>,
}

/// Creates a pair: the sender of the request, and the receiver for tasks.
pub fn channel() -> (Stop, Shutdown) {
    let (sender, receiver) = watch::channel(());
    (Stop { asked: sender }, Shutdown { asked: receiver })
}

// === impl Stop ===

impl Stop {
    /// Requests all tasks to stop. Repeating it changes nothing.
    pub fn request(&self) {
        self.asked.send_replace(());
    }
}

// === impl Shutdown ===

impl Shutdown {
    /// Waits until a stop is requested; ready at once if it already was.
    pub async fn requested(&self) {
        // An error means that the `Stop` is gone, which is a request as well.
        let _ = self.asked.clone().changed().await;
    }

    /// Whether a stop was requested. One atomic load.
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

//! The deadline of a call: progress of the tool moves it, a cap ends it.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// Progress extends a call to at most so many times its limit.
pub const PROGRESS_CAP: u32 = 10;

/// A call's deadline has passed.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no answer in time")]
pub struct Elapsed;

/// When a call began, how long it may stay silent, and when it last made progress.
#[derive(Debug)]
pub struct Timing {
    began: Instant,
    silence: Duration,
    /// Milliseconds from `began` to the last progress.
    progress: AtomicU64,
    /// So many reasons not to count the time now.
    held: AtomicU32,
}

/// As long as it lives, the call counts as making progress.
#[derive(Debug)]
pub struct Held(Arc<Timing>);

impl Timing {
    /// A call that begins now and may be silent for `silence`.
    pub fn new(silence: Duration) -> Self {
        Self::since(Instant::now(), silence)
    }

    /// The same of one that began then.
    pub fn since(began: Instant, silence: Duration) -> Self {
        Self { began, silence, progress: AtomicU64::new(0), held: AtomicU32::new(0) }
    }

    /// The tool said that it works on.
    pub fn progressed(&self) {
        let elapsed = self.began.elapsed().as_millis();
        self.progress.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The call waits for somebody else than the tool.
    pub fn hold(self: &Arc<Self>) -> Held {
        self.held.fetch_add(1, Ordering::Relaxed);
        Held(self.clone())
    }

    /// When the call ends unless there is more progress.
    pub fn deadline(&self) -> Instant {
        if self.held.load(Ordering::Relaxed) > 0 {
            self.progressed();
        }
        let last = Duration::from_millis(self.progress.load(Ordering::Relaxed));
        self.began + (last + self.silence).min(self.silence * PROGRESS_CAP)
    }

    /// Waits for `work` until the deadline, which may move meanwhile. It stays where it is: moved in here, each call
    /// would have room for it twice.
    ///
    /// # Errors
    /// [`Elapsed`] at the deadline.
    pub async fn limit<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Elapsed> {
        loop {
            let deadline = self.deadline();
            match timeout_at(deadline, work.as_mut()).await {
                Ok(value) => return Ok(value),
                Err(_) if self.deadline() > deadline => {}
                Err(_) => return Err(Elapsed),
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.progressed();
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_ends_a_call_and_progress_keeps_it_up_to_the_cap() {
        let timing = Timing::new(Duration::from_secs(1));
        assert_eq!(timing.limit(pin!(std::future::pending::<()>())).await, Err(Elapsed));
        assert_eq!(timing.began.elapsed(), Duration::from_secs(1));

        let timing = Timing::new(Duration::from_secs(1));
        let busy = async {
            loop {
                tokio::time::sleep(Duration::from_millis(700)).await;
                timing.progressed();
            }
        };
        assert_eq!(
            timing.limit(pin!(async { tokio::join!(busy, std::future::pending::<()>()) })).await.err(),
            Some(Elapsed)
        );
        assert_eq!(timing.began.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_does_not_count_while_it_is_held_up_to_the_cap() {
        for (held_seconds, expected) in [(3, 4), (60, 10)] {
            let timing = Arc::new(Timing::new(Duration::from_secs(1)));
            let held = timing.hold();
            let waiting = async {
                tokio::time::sleep(Duration::from_secs(held_seconds)).await;
                drop(held);
                std::future::pending::<()>().await;
            };
            assert_eq!(timing.limit(pin!(waiting)).await, Err(Elapsed));
            assert_eq!(timing.began.elapsed(), Duration::from_secs(expected), "{held_seconds}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_passed_on() {
        assert_eq!(Timing::new(Duration::from_secs(1)).limit(pin!(async { 7 })).await, Ok(7));
    }
}

//! The deadline of a call: progress of the tool extends it, a cap ends it.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::time::{Instant, timeout_at};

/// Progress extends a call to at most this many times its limit.
pub const PROGRESS_CAP: u32 = 10;

/// A call's deadline has passed.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("no answer in time")]
pub(crate) struct Elapsed;

/// When a call began, how long it may stay silent, and when it last made progress.
#[derive(Debug)]
pub struct Timing {
    began: Instant,
    silence: Duration,
    /// Milliseconds from `began` to the last progress.
    progress: AtomicU64,
    /// The number of reasons to stop the clock now.
    held: AtomicU32,
    /// When to wake the waiting task once, even without an answer.
    wake: Option<Instant>,
}

/// While it lives, the call counts as making progress.
#[derive(Debug)]
pub(crate) struct Held(Arc<Timing>);

impl Timing {
    /// The clock of a call that begins now and may be silent for `silence`.
    pub fn new(silence: Duration) -> Self {
        Self::since(Instant::now(), silence)
    }

    /// The same for a call that began at `began`.
    pub fn since(began: Instant, silence: Duration) -> Self {
        Self { began, silence, progress: AtomicU64::new(0), held: AtomicU32::new(0), wake: None }
    }

    /// The same, waking the task that waits for the answer at this time too. No separate timer is needed.
    #[must_use]
    pub fn waking(self, wake: Option<Instant>) -> Self {
        Self { wake, ..self }
    }

    /// Records that the tool makes progress.
    pub(crate) fn progressed(&self) {
        let elapsed = self.began.elapsed().as_millis();
        self.progress.store(u64::try_from(elapsed).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// Stops the clock while the call waits for anything but the tool.
    pub(crate) fn hold(self: &Arc<Self>) -> Held {
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

    /// Waits for `work` until the deadline, which may move meanwhile. Takes `work` by reference: moved in here, it
    /// would take its space twice in each call.
    ///
    /// # Errors
    /// [`Elapsed`] at the deadline.
    pub(crate) async fn limit<T>(&self, mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Elapsed> {
        let mut wake = self.wake;
        loop {
            let deadline = self.deadline();
            let until = wake.take().map_or(deadline, |wake| wake.min(deadline));
            match timeout_at(until, work.as_mut()).await {
                Ok(value) => return Ok(value),
                Err(_) if until < deadline || self.deadline() > deadline => {}
                Err(_) => return Err(Elapsed),
            }
        }
    }
}

/// Waits for `work`, and wakes the polling task at that time too.
pub async fn woken<T>(work: impl Future<Output = T>, at: Option<Instant>) -> T {
    let mut work = pin!(work);
    if let Some(at) = at
        && let Ok(value) = timeout_at(at, work.as_mut()).await
    {
        return value;
    }
    work.await
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.progressed();
        self.0.held.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

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
    async fn whoever_waits_is_woken_once_more_and_the_deadline_stays() {
        for (wake, expected) in [(0, 1), (400, 2), (1000, 1), (2000, 1)] {
            let began = Instant::now();
            let timing = Timing::new(Duration::from_secs(1)).waking(Some(began + Duration::from_millis(wake)));
            let mut polled = Vec::new();
            let mut never = pin!(std::future::pending::<()>());
            let mut waiting = pin!(timing.limit(never.as_mut()));
            let ended = poll_fn(|cx| {
                polled.push(began.elapsed());
                waiting.as_mut().poll(cx)
            });
            assert_eq!((ended.await, began.elapsed()), (Err(Elapsed), Duration::from_secs(1)));
            let meanwhile = polled.iter().filter(|at| **at < Duration::from_secs(1)).count();
            assert_eq!(meanwhile, expected, "{wake}: {polled:?}");
        }
        let began = Instant::now();
        let mut work = pin!(woken(tokio::time::sleep(Duration::from_secs(9)), Some(began + Duration::from_secs(1))));
        let mut polled = 0;
        poll_fn(|cx| {
            polled += 1;
            if began.elapsed() == Duration::from_secs(1) { Poll::Ready(()) } else { work.as_mut().poll(cx) }
        })
        .await;
        assert_eq!((polled, began.elapsed()), (2, Duration::from_secs(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_in_time_is_passed_on() {
        assert_eq!(Timing::new(Duration::from_secs(1)).limit(pin!(async { 7 })).await, Ok(7));
    }
}

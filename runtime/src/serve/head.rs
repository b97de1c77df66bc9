//! The two deadlines of a client that we wait for: a short one for the rest of a head, a long one between requests.
//!
//! hyper has one deadline for both: it starts its timer as soon as it waits for a head, and so would close idle
//! connections as fast as unfinished heads. The timer given to it here tells them apart by whether bytes came in.
//! It is armed once for each request, so it keeps one tokio timer for the whole connection and only moves it.

use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};

/// Counts the bytes received on one connection.
#[derive(Clone, Debug)]
pub(super) struct Received(Arc<Shared>);

/// The timer of one connection, for hyper's `header_read_timeout` and nothing else.
#[derive(Debug)]
pub(super) struct HeadTimer {
    shared: Arc<Shared>,
    first: Duration,
    head: Duration,
    idle: Duration,
}

#[derive(Debug)]
struct Shared {
    received: AtomicU64,
    alarm: Mutex<Pin<Box<tokio::time::Sleep>>>,
}

/// One wait for a head.
struct Wait {
    shared: Arc<Shared>,
    head: Duration,
    /// Bytes received when the wait began.
    before: u64,
    /// The head has begun: its deadline stands.
    begun: bool,
}

/// Makes the timer of one connection: limits for its first head, for each later one from its first byte, and for the
/// time between requests.
pub(super) fn timer(first: Duration, head: Duration, idle: Duration) -> (HeadTimer, Received) {
    let alarm = Mutex::new(Box::pin(tokio::time::sleep(first)));
    let shared = Arc::new(Shared { received: AtomicU64::new(0), alarm });
    (HeadTimer { shared: shared.clone(), first, head, idle }, Received(shared))
}

// === impl Received ===

impl Received {
    pub(super) fn add(&self, bytes: usize) {
        // The connection's task is the only one that writes or reads this.
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

// === impl Shared ===

impl Shared {
    fn alarm<T>(&self, act: impl FnOnce(Pin<&mut tokio::time::Sleep>) -> T) -> T {
        act(self.alarm.lock().unwrap_or_else(PoisonError::into_inner).as_mut())
    }

    fn set(&self, after: Duration) {
        self.alarm(|alarm| alarm.reset(tokio::time::Instant::now() + after));
    }
}

// === impl HeadTimer ===

impl HeadTimer {
    /// The limit that hyper is told.
    pub(super) fn head(&self) -> Duration {
        self.head
    }
}

impl Timer for HeadTimer {
    fn sleep(&self, _: Duration) -> Pin<Box<dyn Sleep>> {
        let before = self.shared.received.load(Ordering::Relaxed);
        // Who has just connected has no business being idle.
        let begun = before == 0;
        self.shared.set(if begun { self.first } else { self.idle });
        Box::pin(Wait { shared: self.shared.clone(), head: self.head, before, begun })
    }

    fn sleep_until(&self, _: Instant) -> Pin<Box<dyn Sleep>> {
        self.sleep(self.head)
    }
}

// === impl Wait ===

impl Sleep for Wait {}

impl Future for Wait {
    type Output = ();

    /// Polled only while the head is incomplete, after the socket was read.
    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        if !this.begun && this.shared.received.load(Ordering::Relaxed) != this.before {
            this.begun = true;
            this.shared.set(this.head);
        }
        this.shared.alarm(|alarm| alarm.poll(context))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::{Instant, advance};

    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(620);

    async fn polled_once(wait: &mut Pin<Box<dyn Sleep>>) -> Poll<()> {
        poll_fn(|context| Poll::Ready(wait.as_mut().poll(context))).await
    }

    /// Seconds from `start` to the end of the wait.
    async fn ended(wait: &mut Pin<Box<dyn Sleep>>, start: Instant) -> u64 {
        wait.await;
        start.elapsed().as_secs()
    }

    #[tokio::test(start_paused = true)]
    async fn the_first_head_is_due_from_the_start() {
        let (timer, received) = timer(HEAD, HEAD, IDLE);
        let start = Instant::now();
        let mut wait = timer.sleep(HEAD);

        assert!(polled_once(&mut wait).await.is_pending());
        advance(Duration::from_secs(7)).await;
        received.add(1);

        assert_eq!(ended(&mut wait, start).await, 10);
    }

    #[tokio::test(start_paused = true)]
    async fn a_later_head_is_due_from_its_first_byte() {
        let (timer, received) = timer(HEAD, HEAD, IDLE);
        let start = Instant::now();
        received.add(100);
        let mut wait = timer.sleep(HEAD);

        assert!(polled_once(&mut wait).await.is_pending());
        advance(Duration::from_secs(300)).await;
        received.add(1);
        assert!(polled_once(&mut wait).await.is_pending());
        advance(Duration::from_secs(7)).await;
        received.add(1);

        assert_eq!(ended(&mut wait, start).await, 310, "a drip of bytes does not move the deadline");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_the_long_limit_after_each_answer() {
        let (timer, received) = timer(HEAD, HEAD, IDLE);
        received.add(100);
        let mut wait = timer.sleep(HEAD);
        assert!(polled_once(&mut wait).await.is_pending());
        drop(wait);
        advance(Duration::from_secs(600)).await;
        received.add(100);
        let start = Instant::now();

        let mut wait = timer.sleep(HEAD);

        assert_eq!(ended(&mut wait, start).await, 620);
    }
}

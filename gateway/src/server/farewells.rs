//! What is left to tell a server when callers have gone: bounded, and sent by the server's own task.

use std::convert::Infallible;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Farewells that may wait; more are dropped.
const MAX_WAITING: usize = 64;

/// Those that are sent at the same time.
const AT_ONCE: usize = 8;

/// Requests that nobody waits for; each has a deadline of its own.
#[derive(Default)]
pub(crate) struct Farewells {
    waiting: Mutex<Vec<BoxFuture<'static, ()>>>,
    added: Notify,
}

impl Farewells {
    /// Leaves a request for the server's task, if there is room.
    pub(crate) fn leave(&self, farewell: BoxFuture<'static, ()>) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < MAX_WAITING {
            waiting.push(farewell);
            drop(waiting);
            self.added.notify_one();
        }
    }

    /// Sends what is left, and what will be.
    pub(super) async fn send(&self) -> Infallible {
        let mut sending = FuturesUnordered::new();
        loop {
            while sending.len() < AT_ONCE {
                let Some(farewell) = self.waiting.lock().pop() else { break };
                sending.push(farewell);
            }
            tokio::select! {
                () = self.added.notified() => {}
                Some(()) = sending.next() => {}
            }
        }
    }
}

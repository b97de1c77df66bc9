//! Takes a request's body without having its connection looked at once more for each piece.
//!
//! hyper wakes the task of a connection when a piece of a body is taken, so that the next one is read. It is that very
//! task which takes the piece, and of most bodies there is no next one: each call would have its task run a third time,
//! for nothing.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use hyper::body::{Body, Frame};

thread_local! {
    static WAKES: Cell<Wakes> = const { Cell::new(Wakes::Pass) };
}

/// What becomes of wake-ups that come from this thread.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wakes {
    /// They wake.
    Pass,
    /// They wait until it is known whether they are of use.
    Wait,
    /// One does.
    Waits,
}

/// Wakes the task of a connection.
struct OfConnection(Waker);

/// What wakes this task, but for what [`poll_piece`] finds to be of no use.
pub(super) fn waker(task: &Waker) -> Waker {
    Arc::new(OfConnection(task.clone())).into()
}

/// A piece of a body, or why there is none.
type Piece<B> = Result<Frame<<B as Body>::Data>, <B as Body>::Error>;

/// Polls a request's body for its next piece. Whoever does so within the task that serves the connection lets it sleep
/// when there is nothing more to be read.
pub fn poll_piece<B: Body>(mut body: Pin<&mut B>, context: &mut Context<'_>) -> Poll<Option<Piece<B>>> {
    let wakes = Held::new();
    let polled = body.as_mut().poll_frame(context);
    if wakes.end() && !body.is_end_stream() {
        context.waker().wake_by_ref();
    }
    polled
}

/// Wake-ups of this thread wait while this is there.
struct Held;

impl Held {
    fn new() -> Self {
        WAKES.set(Wakes::Wait);
        Self
    }

    /// Whether one waits.
    fn end(self) -> bool {
        WAKES.get() == Wakes::Waits
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        WAKES.set(Wakes::Pass);
    }
}

impl Wake for OfConnection {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        match WAKES.get() {
            Wakes::Pass => self.0.wake_by_ref(),
            Wakes::Wait | Wakes::Waits => WAKES.set(Wakes::Waits),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;
    use std::pin::pin;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::body::Bytes;

    use super::*;

    /// A body as hyper's: it wakes the task of its connection whenever a piece is taken.
    struct Pieces {
        left: VecDeque<&'static str>,
        connection: Waker,
    }

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.connection.wake_by_ref();
            Poll::Ready(self.left.pop_front().map(|piece| Ok(Frame::data(piece.into()))))
        }

        fn is_end_stream(&self) -> bool {
            self.left.is_empty()
        }
    }

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_connection_is_woken_for_the_next_piece_but_not_after_the_last() {
        let counted = Arc::new(Counted::default());
        let connection = waker(&counted.clone().into());
        let mut context = Context::from_waker(&connection);
        let mut body = pin!(Pieces { left: ["a", "b"].into(), connection: connection.clone() });
        let woken = || counted.0.load(Ordering::Relaxed);
        assert!(poll_piece(body.as_mut(), &mut context).is_ready());
        assert_eq!(woken(), 1, "there is another piece");
        assert!(poll_piece(body.as_mut(), &mut context).is_ready());
        assert_eq!(woken(), 1, "it was the last");
        connection.wake_by_ref();
        assert_eq!(woken(), 2, "all else wakes it as ever");
    }
}

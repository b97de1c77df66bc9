//! What a server tells before its answer: kept in its order, within a bound, until the caller takes it.
//!
//! Most calls tell nothing, so an unused one costs a single small allocation.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use super::message::Question;

/// So many messages may wait for a caller that reads slowly.
const ROOM: usize = 64;

/// What a server tells before its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The `params` of `notifications/progress`.
    Progress(Bytes),
    /// The `params` of `notifications/message`.
    Log(Bytes),
    /// It asks the caller something, and waits for [`Session::respond`](super::Session::respond).
    Question(Question),
}

/// Takes what a server tells, as far as there is room: what does not fit is dropped and counted.
///
/// All of it is there before the answer.
#[derive(Clone)]
pub struct Mailbox {
    shared: Arc<Mutex<Letters>>,
    /// Whether the caller can be asked.
    asks: bool,
}

#[derive(Default)]
struct Letters {
    waiting: VecDeque<Told>,
    reader: Option<Waker>,
}

impl Mailbox {
    /// An empty one. `asks`: questions of the server are wanted too.
    pub fn new(asks: bool) -> Self {
        Self { shared: Arc::default(), asks }
    }

    /// Whether it was taken.
    pub fn put(&self, told: Told) -> bool {
        if !self.asks && matches!(told, Told::Question(_)) {
            return false;
        }
        let mut letters = self.lock();
        if letters.waiting.len() >= ROOM {
            return false;
        }
        letters.waiting.push_back(told);
        let reader = letters.reader.take();
        drop(letters);
        reader.into_iter().for_each(Waker::wake);
        true
    }

    /// The next one. There is one reader at a time.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Told> {
        let mut letters = self.lock();
        match letters.waiting.pop_front() {
            Some(told) => Poll::Ready(told),
            None => {
                letters.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// The next one that is there already.
    pub fn take(&self) -> Option<Told> {
        self.lock().waiting.pop_front()
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(text: &'static str) -> Told {
        Told::Progress(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn what_is_told_comes_out_in_its_order_and_wakes_who_waits() {
        let mailbox = Mailbox::new(false);
        let taken = std::future::poll_fn(|cx| mailbox.poll_take(cx));
        let (first, ()) = tokio::join!(taken, async {
            tokio::task::yield_now().await;
            assert!(mailbox.put(progress("1")) && mailbox.put(progress("2")));
        });
        assert_eq!((first, mailbox.take(), mailbox.take()), (progress("1"), Some(progress("2")), None));
    }

    #[test]
    fn it_takes_no_more_than_it_has_room_for_and_no_questions_unless_asked_for() {
        let mailbox = Mailbox::new(false);
        assert_eq!((0..100).filter(|_| mailbox.put(progress("x"))).count(), ROOM);
        let question =
            || Told::Question(Question { id: "1".into(), method: "roots/list".into(), params: Bytes::new() });
        assert!(!Mailbox::new(false).put(question()));
        assert!(Mailbox::new(true).put(question()));
    }
}

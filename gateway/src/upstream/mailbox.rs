//! What a server tells before its answer: kept in its order, within a bound, until the caller takes it. The call learns
//! from it too that its caller has taken it back.
//!
//! Most calls tell nothing, so an unused one costs a single small allocation.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use portcullis_runtime::memory::{Held, SMALL, account};

use super::asked::Asked;
use super::timing::Timing;
use crate::capabilities::ClientCapabilities;

/// So many messages may wait for a caller that reads slowly.
const ROOM: usize = 64;

/// And so many bytes, or one message that is longer.
const ROOM_BYTES: usize = 1024 * 1024;

/// What a server tells before its answer.
#[derive(Debug)]
pub enum Told {
    /// The `params` of `notifications/progress`.
    Progress(Bytes),
    /// The `params` of `notifications/message`.
    Log(Bytes),
    /// It asks the caller something, and waits for the answer.
    Question(Asked),
}

/// Takes what a server tells, as far as there is room: what does not fit is dropped and counted.
///
/// All of it is there before the answer.
#[derive(Clone)]
pub struct Mailbox {
    shared: Arc<Shared>,
    /// What the caller can be asked.
    askable: ClientCapabilities,
}

#[derive(Default)]
struct Shared {
    letters: Mutex<Letters>,
    /// Something was put in once.
    used: AtomicBool,
    /// The caller has taken the call back.
    is_cancelled: AtomicBool,
}

struct Letters {
    waiting: VecDeque<Told>,
    bytes: usize,
    /// What is not small of them counts.
    held: Held,
    reader: Option<Waker>,
    timing: Option<Arc<Timing>>,
}

impl Mailbox {
    /// An empty one, of a caller that can be asked so much.
    pub fn new(askable: ClientCapabilities) -> Self {
        Self { shared: Arc::default(), askable }
    }

    /// Whether its caller can be asked this.
    pub fn allows(&self, asked: &Asked) -> bool {
        self.askable.allow(&asked.question().method, &asked.question().params)
    }

    /// The time of the call that it belongs to: it stands still while a question is open.
    pub fn times(&self, timing: &Arc<Timing>) {
        self.lock().timing = Some(timing.clone());
    }

    /// Puts something in.
    ///
    /// # Errors
    /// There is no room, or it is a question that the caller cannot be asked: gives it back.
    pub fn put(&self, mut told: Told) -> Result<(), Told> {
        if let Told::Question(asked) = &told
            && !self.allows(asked)
        {
            return Err(told);
        }
        // What is only told must not keep out what somebody waits for.
        let room = if matches!(told, Told::Question(_)) { 2 * ROOM } else { ROOM };
        let size = size(&told);
        let mut letters = self.lock();
        let too_much = letters.bytes > 0 && letters.bytes + size > ROOM_BYTES;
        if letters.waiting.len() >= room || too_much {
            return Err(told);
        }
        let bytes = letters.bytes + size;
        if !letters.count(bytes) {
            return Err(told);
        }
        if let (Told::Question(asked), Some(timing)) = (&mut told, &letters.timing) {
            asked.hold(timing);
        }
        letters.waiting.push_back(told);
        self.shared.used.store(true, Ordering::Release);
        let reader = letters.reader.take();
        drop(letters);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The next one. There is one reader at a time; it is woken too when the call is cancelled.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<Told> {
        let mut letters = self.lock();
        match letters.pop() {
            Some(told) => Poll::Ready(told),
            None => {
                letters.wakes(cx);
                drop(letters);
                // Whoever cancelled it before the lock was taken has woken nobody.
                if self.is_cancelled() {
                    cx.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    }

    /// Cancels the call, which wakes the reader.
    pub fn cancel(&self) {
        self.shared.is_cancelled.store(true, Ordering::Release);
        let reader = self.lock().reader.take();
        reader.into_iter().for_each(Waker::wake);
    }

    /// Whether the call is cancelled. Wakes nobody later: that is for the reader.
    pub fn is_cancelled(&self) -> bool {
        self.shared.is_cancelled.load(Ordering::Acquire)
    }

    /// Ready once the call is cancelled. It counts as the reader: it is for calls of which nobody wants to hear more.
    pub fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().wakes(cx);
        if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether both are the same one.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The next one that is there already.
    pub fn take(&self) -> Option<Told> {
        if self.shared.used.load(Ordering::Acquire) { self.lock().pop() } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.shared.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Letters {
    /// Whom to wake from now on.
    fn wakes(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    fn pop(&mut self) -> Option<Told> {
        let told = self.waiting.pop_front()?;
        let _ = self.count(self.bytes - size(&told));
        Some(told)
    }

    /// Holds so many bytes from now on; false if there is no memory for more.
    fn count(&mut self, bytes: usize) -> bool {
        let (before, now) = (self.held.bytes(), if bytes > SMALL { bytes } else { 0 });
        if now > before && !self.held.grow(now - before) {
            return false;
        }
        self.held.set(now);
        self.bytes = bytes;
        true
    }
}

impl Default for Letters {
    fn default() -> Self {
        let held = Held::none(&account().large);
        Self { waiting: VecDeque::new(), bytes: 0, held, reader: None, timing: None }
    }
}

fn size(told: &Told) -> usize {
    match told {
        Told::Progress(params) | Told::Log(params) => params.len(),
        Told::Question(asked) => asked.question().params.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    fn progress(text: &'static str) -> Told {
        Told::Progress(Bytes::from_static(text.as_bytes()))
    }

    fn text(told: Option<Told>) -> Option<String> {
        let Told::Progress(params) = told? else { return None };
        String::from_utf8(params.to_vec()).ok()
    }

    #[tokio::test]
    async fn what_is_told_comes_out_in_its_order_and_wakes_who_waits() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        let taken = std::future::poll_fn(|cx| mailbox.poll_take(cx));
        let (first, ()) = tokio::join!(taken, async {
            tokio::task::yield_now().await;
            assert!(mailbox.put(progress("1")).is_ok() && mailbox.put(progress("2")).is_ok());
        });
        assert_eq!(text(Some(first)).as_deref(), Some("1"));
        assert_eq!((text(mailbox.take()).as_deref(), text(mailbox.take())), (Some("2"), None));
    }

    /// Counts how often it is woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_call_that_is_taken_back_wakes_its_reader_whichever_was_first() {
        let (mailbox, reader) = (Mailbox::new(ClientCapabilities::NONE), Arc::<Woken>::default());
        let (waker, woken) = (reader.clone().into(), || reader.0.load(Ordering::Relaxed));
        let cx = &mut Context::from_waker(&waker);
        assert!(mailbox.poll_take(cx).is_pending() && mailbox.poll_cancelled(cx).is_pending());
        assert_eq!((mailbox.is_cancelled(), woken()), (false, 0));
        mailbox.cancel();
        assert_eq!((mailbox.is_cancelled(), woken()), (true, 1));
        assert!(mailbox.poll_take(cx).is_pending());
        assert_eq!(woken(), 2);
        assert!(mailbox.poll_cancelled(cx).is_ready());
    }

    #[test]
    fn it_takes_no_more_than_it_has_room_for_and_no_questions_that_its_caller_cannot_be_asked() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        assert_eq!((0..100).filter(|_| mailbox.put(progress("x")).is_ok()).count(), ROOM);
        let question = || Told::Question(Asked::by_us("roots/list", Bytes::new()).0);
        assert!(Mailbox::new(ClientCapabilities::SAMPLING).put(question()).is_err());
        assert!(Mailbox::new(ClientCapabilities::ROOTS).put(question()).is_ok());
    }

    #[test]
    fn it_takes_no_more_bytes_than_it_has_room_for_but_always_one_message() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        let large = |bytes: usize| Told::Log(vec![b' '; bytes].into());
        assert!(mailbox.put(large(8 * ROOM_BYTES)).is_ok());
        assert!(mailbox.put(large(1)).is_err());
        assert!(mailbox.take().is_some());
        assert_eq!((0..10).filter(|_| mailbox.put(large(ROOM_BYTES / 4)).is_ok()).count(), 4);
    }
}

//! Holds a server's messages that precede its answer: in order, within limits, until the caller takes them. A call also
//! learns from the mailbox that its caller has cancelled it.
//!
//! Most calls have no such messages, so an unused mailbox costs a single small allocation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use portcullis_runtime::memory::{Held, account};

use super::server_request::ServerRequest;
use super::timing::Timing;
use crate::protocol::client_capabilities::ClientCapabilities;

/// The limit for messages that wait for a slow caller.
const ROOM: usize = 64;

/// The limit for their bytes, except that one message may be longer.
const ROOM_BYTES: usize = 1024 * 1024;

/// A server's message before its answer.
#[derive(Debug)]
pub enum ServerMessage {
    /// The `params` of `notifications/progress`.
    Progress(Bytes),
    /// The `params` of `notifications/message`.
    Log(Bytes),
    /// The server sends the caller a request, and waits for the answer.
    Request(ServerRequest),
}

/// Accepts a server's messages up to the limits: the rest is dropped and counted.
///
/// All messages are in the mailbox before the answer.
#[derive(Clone)]
pub struct Mailbox {
    shared: Arc<Shared>,
    /// The capabilities of the caller.
    capabilities: ClientCapabilities,
}

#[derive(Default)]
struct Shared {
    letters: Mutex<Letters>,
    /// A message was put in at least once.
    used: AtomicBool,
    /// The caller has cancelled the call.
    is_cancelled: AtomicBool,
}

struct Letters {
    waiting: VecDeque<ServerMessage>,
    bytes: usize,
    /// Counts the messages, unless they are small.
    held: Held,
    reader: Option<Waker>,
    timing: Option<Arc<Timing>>,
}

impl Mailbox {
    /// An empty mailbox for a caller with these capabilities.
    pub fn new(capabilities: ClientCapabilities) -> Self {
        Self { shared: Arc::default(), capabilities }
    }

    /// Whether the caller can answer this request.
    pub fn allows(&self, request: &ServerRequest) -> bool {
        self.capabilities.allow(&request.raw().method, &request.raw().params)
    }

    /// Sets the clock of the call: it stands still while a request is open.
    pub fn times(&self, timing: &Arc<Timing>) {
        self.lock().timing = Some(timing.clone());
    }

    /// Puts a message in.
    ///
    /// # Errors
    /// There is no space, or the caller cannot answer the request: returns the message.
    pub fn put(&self, mut message: ServerMessage) -> Result<(), ServerMessage> {
        if let ServerMessage::Request(request) = &message
            && !self.allows(request)
        {
            return Err(message);
        }
        // Notifications must not keep out requests, which await an answer.
        let room = if matches!(message, ServerMessage::Request(_)) { 2 * ROOM } else { ROOM };
        let size = size(&message);
        let mut letters = self.lock();
        let too_much = letters.bytes > 0 && letters.bytes + size > ROOM_BYTES;
        if letters.waiting.len() >= room || too_much {
            return Err(message);
        }
        let bytes = letters.bytes + size;
        if !letters.held.count(bytes) {
            return Err(message);
        }
        letters.bytes = bytes;
        if let (ServerMessage::Request(request), Some(timing)) = (&mut message, &letters.timing) {
            request.hold(timing);
        }
        letters.waiting.push_back(message);
        self.shared.used.store(true, Ordering::Release);
        let reader = letters.reader.take();
        drop(letters);
        reader.into_iter().for_each(Waker::wake);
        Ok(())
    }

    /// The next message. There is one reader at a time; a cancelled call wakes it too.
    pub fn poll_take(&self, cx: &mut Context<'_>) -> Poll<ServerMessage> {
        let mut letters = self.lock();
        match letters.pop() {
            Some(message) => Poll::Ready(message),
            None => {
                letters.wakes(cx);
                drop(letters);
                // A cancellation before the lock was taken has woken no reader.
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

    /// Whether the call is cancelled. Does not register a waker: that is for the reader.
    pub fn is_cancelled(&self) -> bool {
        self.shared.is_cancelled.load(Ordering::Acquire)
    }

    /// Ready once the call is cancelled. Counts as the reader: it is for calls whose messages are no longer read.
    pub fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.lock().wakes(cx);
        if self.is_cancelled() { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Whether both are the same mailbox.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// The next message, if there is one already.
    pub fn take(&self) -> Option<ServerMessage> {
        if self.shared.used.load(Ordering::Acquire) { self.lock().pop() } else { None }
    }

    fn lock(&self) -> MutexGuard<'_, Letters> {
        self.shared.letters.lock()
    }
}

impl Letters {
    /// Registers the task to wake from now on.
    fn wakes(&mut self, cx: &Context<'_>) {
        if !self.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            self.reader = Some(cx.waker().clone());
        }
    }

    fn pop(&mut self) -> Option<ServerMessage> {
        let message = self.waiting.pop_front()?;
        self.bytes -= size(&message);
        self.held.count(self.bytes);
        Some(message)
    }
}

impl Default for Letters {
    fn default() -> Self {
        let held = Held::none(&account().large);
        Self { waiting: VecDeque::new(), bytes: 0, held, reader: None, timing: None }
    }
}

fn size(message: &ServerMessage) -> usize {
    match message {
        ServerMessage::Progress(params) | ServerMessage::Log(params) => params.len(),
        ServerMessage::Request(request) => request.raw().params.len(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    fn progress(text: &'static str) -> ServerMessage {
        ServerMessage::Progress(Bytes::from_static(text.as_bytes()))
    }

    fn text(message: Option<ServerMessage>) -> Option<String> {
        let ServerMessage::Progress(params) = message? else { return None };
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
        let raw = || ServerMessage::Request(ServerRequest::by_us("roots/list", Bytes::new()).0);
        assert!(Mailbox::new(ClientCapabilities::SAMPLING).put(raw()).is_err());
        assert!(Mailbox::new(ClientCapabilities::ROOTS).put(raw()).is_ok());
    }

    #[test]
    fn it_takes_no_more_bytes_than_it_has_room_for_but_always_one_message() {
        let mailbox = Mailbox::new(ClientCapabilities::NONE);
        let large = |bytes: usize| ServerMessage::Log(vec![b' '; bytes].into());
        assert!(mailbox.put(large(8 * ROOM_BYTES)).is_ok());
        assert!(mailbox.put(large(1)).is_err());
        assert!(mailbox.take().is_some());
        assert_eq!((0..10).filter(|_| mailbox.put(large(ROOM_BYTES / 4)).is_ok()).count(), 4);
    }
}

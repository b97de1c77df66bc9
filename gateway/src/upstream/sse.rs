//! Legacy HTTP+SSE (revision 2024-11-05): requests by POST, answers on one long stream.
//!
//! Answers arrive only on the stream, so a stream that ends takes its unanswered calls with it.

use std::collections::HashMap;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue, Uri};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::event_stream::{Event, Parser};
use super::heads::Heads;
use super::http::{Exchange, Outgoing};
use super::mailbox::{Mailbox, Told};
use super::message::{self, Message, Reply};
use super::request::request;
use super::session::{Call, CallError, Core, End, UNUSABLE, refusal};
use super::timing::Timing;

/// A POST is only acknowledged, so it must be quick; some servers never answer one with an unknown session.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// How long the acknowledgement of a POST may lag behind the answer itself.
const LATE_ACKNOWLEDGEMENT: Duration = Duration::from_millis(100);

/// A session over legacy HTTP+SSE.
pub struct SseSession {
    pub(super) core: Core,
    pub(super) heads: Heads,
    waiting: Waiting,
}

/// The calls that wait for an answer on the stream.
#[derive(Default)]
struct Waiting {
    calls: Mutex<HashMap<u64, Waiter>>,
    closed: AtomicBool,
}

struct Waiter {
    answer: oneshot::Sender<Result<Reply, CallError>>,
    timing: Arc<Timing>,
    mailbox: Option<Mailbox>,
}

/// Fails the waiting calls however the reading ends: at the end of the stream, or because it is given up.
struct Closing<'a>(&'a Waiting);

/// Takes a call out of the waiting ones when its caller goes away.
struct Ticket<'a> {
    session: &'a SseSession,
    id: u64,
    /// The server may have got the call, so it is told that nobody waits.
    cancel: bool,
}

/// The receiving half: read by the owner of the session.
pub struct Reader {
    stream: Exchange,
    parser: Parser,
    outbox: mpsc::Receiver<Bytes>,
}

// === impl SseSession ===

impl SseSession {
    pub(super) fn new(
        core: Core,
        queue: mpsc::Receiver<Bytes>,
        post_to: Uri,
        configured: HeaderMap,
        stream: Exchange,
        parser: Parser,
    ) -> (Self, Reader) {
        let heads = Heads::new(&core.pool, post_to, configured, &[]);
        let session = Self { core, heads, waiting: Waiting::default() };
        (session, Reader { stream, parser, outbox: queue })
    }

    /// Asks for this version in the headers of every request from now on.
    pub(super) fn negotiated(&self, version: &str) {
        if let Ok(version) = HeaderValue::from_str(version) {
            self.heads.own("mcp-protocol-version", version);
        }
    }

    pub(super) async fn call(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        let id = self.core.next_id();
        let (answer, mut answered) = oneshot::channel();
        let waiter = Waiter { answer, timing: timing.clone(), mailbox: call.mailbox.cloned() };
        self.waiting.lock().insert(id, waiter);
        let mut ticket = Ticket { session: self, id, cancel: true };
        if self.waiting.closed.load(Ordering::Acquire) {
            ticket.cancel = false;
            return Err(CallError::NotSent("its event stream is closed"));
        }
        let mut digits = itoa::Buffer::new();
        let text = self.heads.call(call.headers, &[], &request(digits.format(id), call, &[call.caller.meta]));
        let outcome = pin!(async {
            let mut posting = pin!(self.post(text));
            let answer = tokio::select! {
                biased;
                posted = self.acknowledged(&mut posting) => {
                    posted?;
                    return answered.await.unwrap_or(Err(CallError::Lost));
                }
                answer = &mut answered => answer,
            };
            // The rest of the acknowledgement frees its connection, or tells that the call was never sent.
            let posted = timeout(LATE_ACKNOWLEDGEMENT, posting).await;
            match (answer, posted) {
                (Ok(answer), _) => answer,
                (Err(_), Ok(Err(error))) if error.is_harmless() => Err(error),
                (Err(_), _) => Err(CallError::Lost),
            }
        });
        let answer = timing.limit(outcome).await?;
        ticket.cancel = false;
        answer
    }

    /// Waits for the acknowledgement of a call. Some servers give it only when the tool has finished, so it may be
    /// late; but then the server is looked at.
    async fn acknowledged(
        &self,
        posting: &mut (impl Future<Output = Result<(), CallError>> + Unpin),
    ) -> Result<(), CallError> {
        match timeout(POST_LIMIT, &mut *posting).await {
            Ok(posted) => posted,
            Err(_) => {
                self.core.notices.suspect.notify_one();
                posting.await
            }
        }
    }

    /// Sends a notification, or an answer of ours.
    pub(super) async fn notify(&self, text: Bytes) -> Result<(), CallError> {
        let sent = timeout(POST_LIMIT, self.post(self.heads.post(text))).await;
        sent.unwrap_or_else(|_| {
            self.core.notices.suspect.notify_one();
            Err(CallError::Lost)
        })
    }

    async fn post(&self, request: Outgoing) -> Result<(), CallError> {
        let exchange = self.core.pool.exchange(request).await?;
        let status = exchange.head.status.as_u16();
        if exchange.head.status.is_success() {
            exchange.linger();
            return Ok(());
        }
        self.core.notices.suspect.notify_one();
        Err(refusal(status, true))
    }

    /// Reads the stream until it ends, answers the server's own requests, and sends what is in the outbox.
    pub(super) async fn read(&self, mut reader: Reader) -> End {
        let _closing = Closing(&self.waiting);
        tokio::select! {
            end = read_stream(&mut reader.stream, &mut reader.parser, |message| self.take(message)) => end,
            () = send_all(&mut reader.outbox, |text| async { let _ = self.notify(text).await; }) => End::Closed,
        }
    }

    fn settle(&self, id: u64, answer: Result<Reply, CallError>) {
        match self.waiting.lock().remove(&id) {
            Some(waiter) => drop(waiter.answer.send(answer)),
            None => self.core.handle(Message::Nonsense, None),
        }
    }

    fn take(&self, message: Message) {
        match message {
            Message::Reply(id, reply) => self.settle(id, Ok(reply)),
            Message::Unusable(id) => self.settle(id, Err(UNUSABLE)),
            Message::Progress(token, params) => {
                if let Some(waiter) = self.waiting.lock().get(&token) {
                    waiter.timing.progressed();
                    self.core.put(waiter.mailbox.as_ref(), Told::Progress(params));
                }
            }
            // The stream does not say to which call it belongs.
            other => self.core.handle(other, None),
        }
    }
}

// === impl Waiting, Closing, Ticket ===

impl Waiting {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waiter>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails every call that waits, and all that come later.
    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.lock().clear();
    }
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        let unanswered = self.session.waiting.lock().remove(&self.id).is_some();
        if unanswered && self.cancel {
            self.session.core.cancel_later(self.id);
        }
    }
}

// === shared with the streamable transport ===

/// Reads events until the stream ends; every message goes to `take`.
pub(super) async fn read_stream(stream: &mut Exchange, parser: &mut Parser, mut take: impl FnMut(Message)) -> End {
    loop {
        if let Some(end) = read_events(parser, &mut take) {
            return end;
        }
        match stream.chunk().await {
            Ok(Some(piece)) => parser.push(&piece),
            Ok(None) | Err(_) => return End::Closed,
        }
    }
}

/// Reads the events that have arrived on a stream that is given up.
pub(super) fn read_arrived(stream: &mut Exchange, parser: &mut Parser, mut take: impl FnMut(Message)) -> Option<End> {
    loop {
        if let Some(end) = read_events(parser, &mut take) {
            return Some(end);
        }
        parser.push(&stream.arrived()?);
    }
}

/// Reads the events that are whole; tells if no more can be read after them.
fn read_events(parser: &mut Parser, take: &mut impl FnMut(Message)) -> Option<End> {
    loop {
        match parser.next_event() {
            Ok(Some(Event::Message { name, data })) if name.is_empty() || name == "message" => {
                message::read(&data, &mut *take);
            }
            Ok(Some(_)) => {}
            Ok(None) => return None,
            Err(_) => return Some(End::Broken("an event on its stream is too large")),
        }
    }
}

/// Sends what comes into an outbox, one after the other.
pub(super) async fn send_all<F: Future<Output = ()>>(outbox: &mut mpsc::Receiver<Bytes>, send: impl Fn(Bytes) -> F) {
    while let Some(text) = outbox.recv().await {
        send(text).await;
    }
}

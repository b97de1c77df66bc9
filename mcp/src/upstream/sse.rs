//! Legacy HTTP+SSE (revision 2024-11-05): requests by POST, answers on one long stream.
//!
//! Answers arrive only on the stream, so a stream that ends fails its unanswered calls.

use std::collections::HashMap;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::HeaderValue;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::call::{Call, CallError, UNUSABLE};
use super::core::{Core, End};
use super::doubts::{Heard, Hears, is_check, settle_doubts};
use super::event_stream::Event;
use super::events::Events;
use super::heads::Heads;
use super::large::Large;
use super::mailbox::{Mailbox, ServerMessage};
use super::message::{self, Message, Reply};
use super::request::request;
use super::timing::Timing;
use crate::http1::{Exchange, Outgoing};

/// A POST is only acknowledged, so it must be quick; some servers never answer one with an unknown session.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// How long the acknowledgement of a POST may lag behind the answer itself.
const LATE_ACKNOWLEDGEMENT: Duration = Duration::from_millis(100);

/// How long a call whose stream has closed waits for the acknowledgement of its POST: a refusal shows that it was never
/// carried out, so that it may be sent again. A busy machine takes a while to say so.
const LATE_REFUSAL: Duration = Duration::from_secs(2);

/// The limit for reading from an abandoned stream.
const MAX_ARRIVED: usize = 1024 * 1024;

/// Nothing more can be read from such a stream.
const ENDLESS: End = End::Broken("an event on its stream does not end");

/// A session over legacy HTTP+SSE.
pub struct SseSession {
    pub(super) core: Core,
    pub(super) heads: Heads,
    waiting: WaitingCalls,
}

/// The calls that wait for an answer on the stream.
#[derive(Default)]
struct WaitingCalls {
    calls: Mutex<HashMap<u64, Waiter>>,
    closed: AtomicBool,
}

struct Waiter {
    answer: oneshot::Sender<Result<Reply, CallError>>,
    timing: Arc<Timing>,
    mailbox: Option<Mailbox>,
}

/// Fails the waiting calls whenever the reading ends: at the end of the stream, or when it is abandoned.
struct Closing<'a>(&'a WaitingCalls);

/// Removes a call from the waiting ones when its caller leaves.
struct WaiterGuard<'a> {
    session: &'a SseSession,
    id: u64,
    /// The server may have received the call, so it is cancelled.
    cancel: bool,
}

/// The receiving half: read by the owner of the session.
pub(crate) struct StreamReader {
    stream: Exchange,
    events: Events,
    outbox: mpsc::Receiver<Bytes>,
}

// === impl SseSession ===

impl SseSession {
    pub(super) fn new(
        core: Core,
        queue: mpsc::Receiver<Bytes>,
        heads: Heads,
        stream: Exchange,
        events: Events,
    ) -> (Self, StreamReader) {
        let session = Self { core, heads, waiting: WaitingCalls::default() };
        (session, StreamReader { stream, events, outbox: queue })
    }

    /// Sends this version in the headers of every request from now on.
    pub(super) fn negotiated(&self, version: &str) {
        if let Ok(version) = HeaderValue::from_str(version) {
            self.heads.own("mcp-protocol-version", version);
        }
    }

    /// A request without checks of the session, which is not open yet.
    pub(super) async fn call(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        self.hear(call, timing).await.answer
    }

    /// Posts a request and waits for its answer on the stream.
    async fn outcome(
        &self,
        id: u64,
        call: &Call<'_>,
        write: impl Fn(&Heads) -> Outgoing,
        mut answered: oneshot::Receiver<Result<Reply, CallError>>,
    ) -> Heard {
        let method = call.method;
        let mut posting = pin!(self.post(call.repeatable, write, id, method));
        let answer = tokio::select! {
            biased;
            posted = self.acknowledged(&mut posting) => match posted {
                Ok(()) => return Heard::of(answered.await.unwrap_or(Err(CallError::Lost)), method),
                Err(refused) => return refused,
            },
            answer = &mut answered => answer,
        };
        // The rest of the acknowledgement frees its connection, or shows that the call was never sent.
        let patience = if answer.is_ok() { LATE_ACKNOWLEDGEMENT } else { LATE_REFUSAL };
        let posted = timeout(patience, posting).await;
        match (answer, posted) {
            (Ok(answer), _) => Heard::of(answer, method),
            (Err(_), Ok(Err(refused))) if tells_more_than_a_loss(&refused) => refused,
            (Err(_), _) => CallError::Lost.into(),
        }
    }

    /// Waits for the acknowledgement of a call. Some servers send it only when the tool has finished, so it may be
    /// late; but then the server is checked.
    async fn acknowledged(&self, posting: &mut (impl Future<Output = Result<(), Heard>> + Unpin)) -> Result<(), Heard> {
        match timeout(POST_LIMIT, &mut *posting).await {
            Ok(posted) => posted,
            Err(_) => {
                self.core.notices.suspect.notify_one();
                posting.await
            }
        }
    }

    /// Sends a notification, or an answer of the gateway.
    pub(super) async fn notify(&self, text: Bytes) -> Result<(), CallError> {
        match timeout(POST_LIMIT, self.post(true, |heads| heads.post(text.clone()), 0, "")).await {
            Ok(posted) => posted.or_else(|refused| refused.answer.map(drop)),
            Err(_) => {
                self.core.notices.suspect.notify_one();
                Err(CallError::Lost)
            }
        }
    }

    /// # Errors
    /// The server's refusal of the message.
    async fn post(
        &self,
        repeatable: bool,
        write: impl Fn(&Heads) -> Outgoing,
        id: u64,
        method: &str,
    ) -> Result<(), Heard> {
        let exchange = self.core.exchange(&self.heads, repeatable, write).await.map_err(CallError::from)?;
        if exchange.head.status.is_success() {
            exchange.linger();
            return Ok(());
        }
        if !is_check(method) {
            self.core.notices.suspect.notify_one();
        }
        Err(Box::pin(self.core.refused(exchange, id, method, true)).await)
    }

    /// Reads the stream until it ends, answers the server's own requests, sends the outbox, and runs the requested
    /// checks.
    pub(super) async fn read(&self, mut reader: StreamReader) -> End {
        let _closing = Closing(&self.waiting);
        let outbox = &mut reader.outbox;
        // With their own waker: each answer on the stream wakes this task, which need not poll these.
        let mut others: FuturesUnordered<Pin<Box<dyn Future<Output = End> + Send + '_>>> = FuturesUnordered::new();
        others.push(Box::pin(async {
            send_all(outbox, |text| async {
                let _ = self.notify(text).await;
            })
            .await;
            End::Closed
        }));
        others.push(Box::pin(async {
            settle_doubts(self).await;
            End::Expired
        }));
        tokio::select! {
            biased;
            end = read_stream(&mut reader.stream, &mut reader.events, |message| self.take(message)) => end,
            Some(end) = others.next() => end,
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
            Message::TooLarge(id) => self.settle(id, Err(CallError::TooLarge(self.core.max_message))),
            Message::Progress(token, params) => {
                if let Some(waiter) = self.waiting.lock().get(&token) {
                    waiter.timing.progressed();
                    self.core.put(waiter.mailbox.as_ref(), ServerMessage::Progress(params));
                }
            }
            // The stream does not identify the call to which the message belongs.
            other => self.core.handle(other, None),
        }
    }
}

impl Hears for SseSession {
    async fn hear(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Heard {
        let id = self.core.next_id();
        let (answer, answered) = oneshot::channel();
        let waiter = Waiter { answer, timing: timing.clone(), mailbox: call.mailbox.cloned() };
        self.waiting.lock().insert(id, waiter);
        let mut guard = WaiterGuard { session: self, id, cancel: true };
        if self.waiting.closed.load(Ordering::Acquire) {
            guard.cancel = false;
            // As with a refused POST: the call waits for the next session.
            let is_lost = self.core.doubts.is_lost();
            return if is_lost { CallError::SessionExpired } else { CallError::NotSent("its event stream is closed") }
                .into();
        }
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(id);
        let write = |heads: &Heads| {
            heads.call(call.is_own, call.headers, call.authorization, &[], &request(digits, call, &[call.caller.meta]))
        };
        let outcome = pin!(self.outcome(id, call, write, answered));
        let Ok(heard) = timing.limit(outcome).await else { return CallError::Timeout.into() };
        guard.cancel = false;
        heard
    }

    fn core(&self) -> &Core {
        &self.core
    }

    fn is_modern(&self) -> bool {
        false
    }
}

// === impl Waiting, Closing, Ticket ===

impl WaitingCalls {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Waiter>> {
        self.calls.lock()
    }

    /// Fails every waiting call, and all later ones.
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

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        let unanswered = self.session.waiting.lock().remove(&self.id).is_some();
        if unanswered && self.cancel {
            self.session.core.cancel_later(self.id);
        }
    }
}

/// Whether a refused POST shows that the call was not carried out, or may do so: what speaks of the session is examined,
/// whatever its status.
fn tells_more_than_a_loss(refused: &Heard) -> bool {
    refused.answer.as_ref().map_or_else(CallError::is_harmless, |_| true)
        || refused.refusal.as_ref().is_some_and(|said| said.is_suspicious())
}

// === shared with the streamable transport ===

/// Reads events until the stream ends; passes every message to `take`.
pub(super) async fn read_stream(stream: &mut Exchange, events: &mut Events, mut take: impl FnMut(Message)) -> End {
    let mut large = None;
    loop {
        match events.next(stream).await {
            Ok(Some(event)) => read_event(events, event, &mut large, &mut take),
            // Reading pauses while there is no memory.
            Ok(None) if events.is_starved() => {}
            Ok(None) => return End::Closed,
            Err(_) => return ENDLESS,
        }
    }
}

/// Reads the events that have arrived on an abandoned stream.
pub(super) async fn read_arrived(stream: &mut Exchange, events: &mut Events, mut take: impl FnMut(Message)) {
    let (mut large, mut left) = (None, MAX_ARRIVED);
    while let Ok(Some(event)) = events.arrived(stream, &mut left).await {
        read_event(events, event, &mut large, &mut take);
    }
}

/// Handles one event. `large`: what is known of the message that is being skipped.
fn read_event(events: &mut Events, event: Event, large: &mut Option<Large>, take: &mut impl FnMut(Message)) {
    match event {
        Event::Message { name, data } if is_message(&name) && !events.is_noted(&data) => {
            let mut may_come_again = true;
            message::read(&data, |message| {
                may_come_again &= matches!(message, Message::ListChanged(_) | Message::Updated(_));
                take(message);
            });
            if may_come_again {
                events.note(&data);
            }
        }
        Event::TooLarge { name, head } if is_message(&name) => {
            let begun = Large::of_head(&head);
            if let Large::Answer(Some(id)) = begun {
                take(Message::TooLarge(id));
            }
            *large = Some(begun);
        }
        Event::PassedOver { tail } => match large.take() {
            None | Some(Large::Answer(Some(_))) => {}
            Some(Large::Other) => take(Message::Nonsense),
            Some(Large::Answer(None) | Large::Unknown) => {
                take(Large::id_in_tail(&tail).map_or(Message::Nonsense, Message::TooLarge));
            }
        },
        Event::Message { .. } | Event::TooLarge { .. } | Event::Comment => {}
    }
}

/// Whether events of this name are messages.
pub(super) fn is_message(name: &[u8]) -> bool {
    matches!(name, b"" | b"message")
}

/// Sends the messages of an outbox, one after the other.
pub(super) async fn send_all<F: Future<Output = ()>>(outbox: &mut mpsc::Receiver<Bytes>, send: impl Fn(Bytes) -> F) {
    while let Some(text) = outbox.recv().await {
        send(text).await;
    }
}

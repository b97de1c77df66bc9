//! What every upstream session offers, whatever transport it speaks.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use ::http::{HeaderMap, HeaderValue};
use bytes::Bytes;
use thiserror::Error;
use tokio::sync::{Notify, mpsc};

use super::asked::Asked;
use super::doubts::{self, Doubts, Heard, Hears as _, Verdict};
use super::heads::Heads;
use super::http::{Exchange, HttpError, HttpPool, Media};
use super::mailbox::{Mailbox, Told};
use super::message::{self, List, Message, Question, Reply, RpcError};
use super::refusal::Denial;
use super::send::later;
use super::sse::SseSession;
use super::streamable::StreamableSession;
use super::timing::{Elapsed, Timing};
use crate::guard::Refusal;

/// Messages of ours that wait to be sent while nobody waits for them (cancellations, answers to pings).
const OUTBOX: usize = 256;

/// What is echoed of a request of the server may be so long: answers to it wait in memory.
const MAX_ECHO: usize = 1024;

/// Ids are below 2^31: some servers keep them in 32 bits. None is 0, which some take for none.
const IDS: u64 = (1 << 31) - 1;

/// A body of an HTTP failure is read up to here, to find the JSON-RPC error in it.
pub(super) const MAX_ERROR_BODY: usize = 64 * 1024;

/// An open session.
pub enum Session {
    /// Legacy HTTP+SSE.
    Sse(Arc<SseSession>),
    /// Streamable HTTP of any revision.
    Streamable(Arc<StreamableSession>),
}

/// One request to a server.
pub struct Call<'a> {
    /// The method.
    pub method: &'a str,
    /// The members of `params` besides `_meta`, without braces: `"name":"x","arguments":{}`.
    pub params: &'a [&'a str],
    /// The tool's name, where the request has one.
    pub name: Option<&'a str>,
    /// Headers beside the session's own.
    pub headers: &'a HeaderMap,
    /// Ask the server to tell about progress.
    pub progress: bool,
    /// It may be carried out twice.
    pub repeatable: bool,
    /// What is passed on of its caller.
    pub caller: Caller<'a>,
    /// Where what the server tells before its answer goes.
    pub mailbox: Option<&'a Mailbox>,
}

/// What a server is told of the caller.
#[derive(Clone, Copy, Default)]
pub struct Caller<'a> {
    /// Members of `_meta` that are passed on, without braces.
    pub meta: &'a str,
    /// What the caller can be asked, as a JSON object; empty: nothing. Only since 2026-07-28 requests say so.
    pub capabilities: &'a str,
    /// The log level that it wants, as JSON. Only since 2026-07-28 requests say so.
    pub log_level: Option<&'a str>,
}

/// Why a call has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// The server never got it: another may be tried.
    #[error("the server cannot be reached: {0}")]
    NotSent(&'static str),
    /// It has an address that the gateway must not connect to.
    #[error("the server has a refused address")]
    Blocked(Refusal),
    /// The server has forgotten the session and did nothing: open a new one, then try again.
    #[error("the server has forgotten the session")]
    SessionExpired,
    /// The server refused it before doing anything, with this HTTP status.
    #[error("the server refused the request with HTTP status {0}")]
    Refused(u16),
    /// The same with 429 or 503, and it says when it may be asked again.
    #[error("the server refused the request with HTTP status {status}: try again in {} s", whole_seconds(*.after))]
    Later {
        /// The HTTP status.
        status: u16,
        /// After so long.
        after: Duration,
    },
    /// It may have been carried out, but the answer is lost.
    #[error("the connection to the server was lost during the call")]
    Lost,
    /// It may have been carried out, but the answer makes no sense.
    #[error("the server's answer is unusable: {0}")]
    Nonsense(&'static str),
    /// It was carried out, but its answer cannot be passed on; another server's would be no better.
    #[error("the server's answer cannot be passed on: {0}")]
    Unfit(&'static str),
    /// It was carried out, but its answer is longer than so many bytes.
    #[error("the server's answer is too large, longer than {0} bytes: ask for less, or raise MAX_RESULT_BYTES")]
    TooLarge(usize),
    /// No answer in time.
    #[error("the server did not answer in time")]
    Timeout,
    /// It may have been carried out, but there is no memory for its answer.
    #[error("the gateway has no memory left for the answer, and the call may have been carried out: try again later")]
    NoMemory,
}

/// The answer to the right request, but none.
pub(super) const UNUSABLE: CallError = CallError::Nonsense("it is no valid JSON-RPC answer");

/// It answers with a redirect that is not followed.
pub(super) const REDIRECTS: &str = "it redirects to where the gateway does not follow";

/// The connection ended before the request was sent.
pub(super) const CLOSED: &str = "the connection closed";

/// The answer is compressed, or coded otherwise.
pub(super) const CODED: &str = "it is compressed, though the gateway asks for an answer that is not: turn compression off at the server, or at the proxy before it";

/// Why a session has ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed its stream, or the connection broke.
    Closed,
    /// The server has forgotten the session.
    Expired,
    /// The server sent something that no stream can recover from.
    Broken(&'static str),
}

/// Takes what a server tells or asks outside the answer to a call.
pub trait Unasked: Send + Sync {
    /// Takes it.
    ///
    /// # Errors
    /// There is nobody for it: gives it back.
    fn take(&self, told: Told) -> Result<(), Told>;
}

/// What a session tells its owner meanwhile.
#[derive(Default)]
pub struct Notices {
    /// The list of tools has changed.
    pub tools_changed: Notify,
    /// The list of prompts has changed.
    pub prompts_changed: Notify,
    /// The list of resources or that of their templates has changed.
    pub resources_changed: Notify,
    /// Takes the URIs of resources that have changed; false if it cannot.
    pub updated: OnceLock<Box<dyn Fn(String) -> bool + Send + Sync>>,
    /// Takes what belongs to no call, where the session is one client's alone. Without it, nobody can be asked.
    pub unasked: Option<Box<dyn Unasked>>,
    /// Something went wrong: look whether the server is still there.
    pub suspect: Notify,
    /// Messages that answered nothing of ours, were no JSON-RPC, or did not fit the outbox.
    pub dropped: AtomicU64,
}

/// What both transports hold.
pub(super) struct Core {
    pub(super) pool: Arc<HttpPool>,
    pub(super) notices: Arc<Notices>,
    pub(super) max_message: usize,
    /// Whether the server still knows the session.
    pub(super) doubts: Doubts,
    ids: AtomicU64,
    outbox: mpsc::Sender<Bytes>,
}

// === impl Notices ===

impl Notices {
    /// Announcements may have been missed.
    pub(super) fn lists_may_have_changed(&self) {
        for changed in [&self.tools_changed, &self.prompts_changed, &self.resources_changed] {
            changed.notify_one();
        }
    }
}

// === impl Call ===

impl<'a> Call<'a> {
    /// A request of the gateway itself, which has no caller.
    pub fn of_our_own(method: &'a str, params: &'a [&'a str], headers: &'a HeaderMap) -> Self {
        let (progress, repeatable, caller) = (false, true, Caller::default());
        Self { method, params, name: None, headers, progress, repeatable, caller, mailbox: None }
    }
}

// === impl Session ===

impl Session {
    /// Sends a request and waits for its answer; dropping the future cancels the call at the server.
    ///
    /// # Errors
    /// See [`CallError`]; an error that the server answers is a [`Reply::Error`].
    pub async fn call(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        let Heard { answer, refusal } = match self {
            Self::Sse(session) => session.hear(call, timing).await,
            Self::Streamable(session) => session.hear(call, timing).await,
        };
        match refusal.filter(|said| said.is_suspicious()) {
            None => answer,
            // In a box, so that the usual call does not carry the room for it.
            Some(said) => Box::pin(self.doubted(answer, &said, call.method, timing)).await,
        }
    }

    /// The answer that sounds as if the server did not know the session, or that it does not: then nothing was done, if
    /// the server refuses whatever it is asked in the same words.
    async fn doubted(
        &self,
        answer: Result<Reply, CallError>,
        said: &Denial,
        method: &str,
        timing: &Timing,
    ) -> Result<Reply, CallError> {
        let doubts = &self.core().doubts;
        if said.is_by_the_book() && self.is_long_open() {
            doubts.expire();
            return Err(CallError::SessionExpired);
        }
        let asking = pin!(doubts.verdict(method != doubts::LIST));
        match timing.limit(asking).await.unwrap_or(Verdict::Unclear) {
            Verdict::Lost(refusals) if said.is_by_the_book() || refusals.contains(said) => {
                Err(CallError::SessionExpired)
            }
            Verdict::Split(refusal) if refusal == *said => {
                doubts.expire();
                Err(CallError::SessionExpired)
            }
            Verdict::Unclear if said.is_by_the_book() => {
                doubts.expire();
                Err(CallError::SessionExpired)
            }
            Verdict::Unclear => {
                self.core().notices.suspect.notify_one();
                answer
            }
            Verdict::Known | Verdict::Split(_) | Verdict::Lost(_) => answer,
        }
    }

    /// Whether it was opened so long ago that the server may well have forgotten it since. The word of one that has just
    /// opened it is checked, or calls could have it opened anew again and again.
    fn is_long_open(&self) -> bool {
        matches!(self, Self::Streamable(session) if session.is_long_open())
    }

    /// Queues a notification for the server: `params` is a JSON object, or empty.
    pub fn tell(&self, method: &str, params: &str) {
        let params = if params.is_empty() { String::new() } else { format!(r#","params":{params}"#) };
        self.core().post_later(format!(r#"{{"jsonrpc":"2.0","method":"{method}"{params}}}"#));
    }

    fn core(&self) -> &Core {
        match self {
            Self::Sse(session) => &session.core,
            Self::Streamable(session) => &session.core,
        }
    }

    fn heads(&self) -> &Heads {
        match self {
            Self::Sse(session) => &session.heads,
            Self::Streamable(session) => &session.heads,
        }
    }

    /// Whether it speaks 2026-07-28, where a session keeps no state and requests say everything anew.
    pub fn is_modern(&self) -> bool {
        matches!(self, Self::Streamable(session) if session.is_modern())
    }

    /// What the server has told last of gateways behind it, if it is one.
    pub fn instances(&self) -> Option<HeaderValue> {
        self.heads().instances()
    }

    /// Replaces the configured headers from the next request on.
    pub fn set_headers(&self, headers: HeaderMap) {
        self.heads().configure(headers);
    }

    /// Replaces the limits for a connection to the server, and for one that is not used.
    pub fn set_limits(&self, connect: Duration, idle: Duration) {
        self.core().pool.set_limits(connect, idle);
    }

    /// Asks whether the server lives, and still knows this session; `by_list`: with the list of its tools.
    ///
    /// # Errors
    /// [`CallError::SessionExpired`] if the session is lost; others if the server does not answer.
    pub async fn check(&self, by_list: bool) -> Result<(), CallError> {
        match self {
            Self::Sse(session) => doubts::check(&**session, by_list).await,
            Self::Streamable(session) => doubts::check(&**session, by_list).await,
        }
    }

    /// Tells the server which single resources it is to tell of, where that is said with the listening stream: since
    /// 2026-07-28. False: it has to be asked for each.
    pub fn hear_of(&self, uris: BTreeSet<Arc<str>>) -> bool {
        match self {
            Self::Streamable(session) if session.is_modern() => {
                session.hear_of(uris);
                true
            }
            Self::Sse(_) | Self::Streamable(_) => false,
        }
    }

    /// Whether the server has a way to tell now that its tools have changed.
    pub fn hears(&self) -> bool {
        match self {
            Self::Sse(_) => true,
            Self::Streamable(session) => session.hears(),
        }
    }

    /// Closes connections to the server that nobody has used for long.
    pub fn tidy(&self) {
        self.core().pool.sweep();
    }

    /// Says goodbye where the transport has a way to. The caller sets the deadline.
    pub async fn close(&self) {
        if let Self::Streamable(session) = self {
            session.close().await;
        }
    }
}

/// The data of the last event of a stream that has ended.
fn last_data(stream: &[u8]) -> Bytes {
    let text = String::from_utf8_lossy(stream).replace("\r\n", "\n");
    let data = |event: &str| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data:"));
        let lines: Vec<&str> = lines.map(|line| line.strip_prefix(' ').unwrap_or(line)).collect();
        (!lines.is_empty()).then(|| lines.join("\n"))
    };
    text.split("\n\n").filter_map(data).last().unwrap_or_default().into()
}

// === impl Core ===

impl Core {
    pub(super) fn new(pool: Arc<HttpPool>, notices: Arc<Notices>, max_message: usize) -> (Self, mpsc::Receiver<Bytes>) {
        let (outbox, queue) = mpsc::channel(OUTBOX);
        // Servers must not be able to guess an id of a session with another.
        let mut seed = [0; 4];
        let _ = aws_lc_rs::rand::fill(&mut seed);
        let ids = AtomicU64::new(u32::from_le_bytes(seed).into());
        (Self { pool, notices, max_message, doubts: Doubts::default(), ids, outbox }, queue)
    }

    pub(super) fn next_id(&self) -> u64 {
        1 + self.ids.fetch_add(1, Ordering::Relaxed) % IDS
    }

    /// What an HTTP failure in answer to a request says. A JSON-RPC error in it is the server's answer, whatever the
    /// status; but who is not let in, or is told when to ask again, is refused whatever the reason that is given.
    pub(super) async fn refused(&self, exchange: Exchange, id: u64, method: &str, has_session: bool) -> Heard {
        let status = exchange.head.status.as_u16();
        let refused = later(&exchange.head).unwrap_or_else(|| refusal(status));
        if exchange.head.status.is_redirection() {
            return refused.into();
        }
        let is_stream = matches!(exchange.head.media, Media::EventStream);
        let mut body = exchange.whole(MAX_ERROR_BODY).await.unwrap_or_default();
        if is_stream {
            body = last_data(&body);
        }
        let (error, is_answer) = message::error_in(&body, id).unzip();
        let is_answer = is_answer == Some(true);
        let said = Denial::of_status(
            status,
            error.as_ref(),
            &String::from_utf8_lossy(&body),
            method,
            (has_session, is_answer),
        );
        let answer = match (status, error) {
            (429, _) if !is_answer || matches!(refused, CallError::Later { .. }) => Err(refused),
            (_, None) => Err(refused),
            (401 | 403, Some(_)) if !is_answer => Err(refused),
            (_, Some(_)) if said.is_by_the_book() => Err(refused),
            (status, Some(error)) => Ok(Reply::Error(RpcError { status: Some(status), ..error })),
        };
        Heard { answer, refusal: Some(Box::new(said)) }
    }

    /// Queues a message that nobody waits for; a full queue drops it, counted.
    pub(super) fn post_later(&self, message: String) {
        if self.outbox.try_send(Bytes::from(message)).is_err() {
            self.drop_one();
        }
    }

    /// Tells the server that nobody waits for this answer any more.
    pub(super) fn cancel_later(&self, id: u64) {
        self.post_later(format!(
            r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{id},"reason":"the caller went away or the deadline passed"}}}}"#
        ));
    }

    /// Does what a message asks for that is no awaited answer. `of_call`: of the call that it surely belongs to.
    pub(super) fn handle(&self, message: Message, of_call: Option<&Mailbox>) {
        match message {
            Message::ListChanged(List::Tools) => self.notices.tools_changed.notify_one(),
            Message::ListChanged(List::Prompts) => self.notices.prompts_changed.notify_one(),
            Message::ListChanged(List::Resources) => self.notices.resources_changed.notify_one(),
            Message::Updated(uri) => {
                if self.notices.updated.get().is_some_and(|updated| !updated(uri)) {
                    self.drop_one();
                }
            }
            Message::Request(question) => self.ask(question, of_call),
            Message::Log(params) => match (of_call, &self.notices.unasked) {
                (None, Some(unasked)) => drop(unasked.take(Told::Log(params))),
                _ => self.put(of_call, Told::Log(params)),
            },
            Message::Nonsense
            | Message::Unusable(_)
            | Message::TooLarge(_)
            | Message::Reply(..)
            | Message::Complaint(_) => self.drop_one(),
            Message::Notification | Message::Progress(..) => {}
        }
    }

    /// Puts what came before an answer where it is wanted, if it is.
    pub(super) fn put(&self, mailbox: Option<&Mailbox>, told: Told) {
        if mailbox.is_some_and(|mailbox| mailbox.put(told).is_err()) {
            self.drop_one();
        }
    }

    /// Puts a question of the server to the client, if there is one that can be asked.
    fn ask(&self, question: Question, of_call: Option<&Mailbox>) {
        if question.id.len() + question.method.len() > MAX_ECHO {
            return self.drop_one();
        }
        if question.method == "ping" {
            return self.post_later(format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{}}}}"#, question.id));
        }
        let told = Told::Question(Asked::by_server(question, self.outbox.clone()));
        let Some(unasked) = &self.notices.unasked else { return refuse(told) };
        let left = match of_call {
            Some(mailbox) => mailbox.put(told),
            None => Err(told),
        };
        if let Err(told) = left.or_else(|told| unasked.take(told)) {
            refuse(told);
        }
    }

    fn drop_one(&self) {
        self.notices.dropped.fetch_add(1, Ordering::Relaxed);
    }
}

/// Nobody has declared that it can be asked this, so the method does not exist here.
fn refuse(told: Told) {
    if let Told::Question(asked) = told {
        asked.refuse();
    }
}

impl From<HttpError> for CallError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Connect(why) => Self::NotSent(why),
            HttpError::Blocked(refusal) => Self::Blocked(refusal),
            HttpError::NotSent => Self::NotSent(CLOSED),
            HttpError::Lost | HttpError::Stale => Self::Lost,
            HttpError::TooLarge(limit) => Self::TooLarge(limit),
            HttpError::NoMemory => Self::NoMemory,
        }
    }
}

impl From<Elapsed> for CallError {
    fn from(_: Elapsed) -> Self {
        Self::Timeout
    }
}

impl CallError {
    /// Whether the server provably did nothing.
    ///
    /// Of HTTP statuses only those that are said before a request is looked into. 503 is none of them: proxies answer
    /// it too when the connection broke after the request was sent.
    pub fn is_harmless(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Blocked(_) | Self::SessionExpired => true,
            Self::Later { status, .. } => *status == 429,
            Self::Refused(status) => matches!(status, 400 | 401 | 403..=406 | 413 | 415 | 421 | 429),
            Self::Lost | Self::Nonsense(_) | Self::Unfit(_) | Self::TooLarge(_) | Self::Timeout | Self::NoMemory => {
                false
            }
        }
    }

    /// Whether it tells something about the server, rather than about this one call.
    pub fn lies_with_the_server(&self) -> bool {
        !matches!(
            self,
            Self::Refused(400 | 402 | 405..=428 | 430..=499) | Self::Unfit(_) | Self::TooLarge(_) | Self::NoMemory
        )
    }

    /// A short fixed word for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotSent(_) => "unreachable",
            Self::Blocked(_) => "blocked",
            Self::SessionExpired => "session_expired",
            Self::Refused(_) | Self::Later { .. } => "refused",
            Self::Lost => "lost",
            Self::Nonsense(_) => "nonsense",
            Self::Unfit(_) | Self::TooLarge(_) => "unfit",
            Self::Timeout => "timeout",
            Self::NoMemory => "no_memory",
        }
    }
}

/// Seconds, and never too few.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Classifies an HTTP status that carries no answer to a request.
pub(super) fn refusal(status: u16) -> CallError {
    match status {
        300..=399 => CallError::NotSent(REDIRECTS),
        400..=499 => CallError::Refused(status),
        503 => CallError::Refused(status),
        _ => CallError::Nonsense("it has an HTTP status for failures"),
    }
}

//! Streamable HTTP: every request is a POST that carries its own answer, as JSON or as a stream of events.
//!
//! Revisions 2025-03-26 to 2025-11-25 keep a session by header; 2026-07-28 has no sessions, and each request is
//! self-contained.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderName, HeaderValue, Uri};
use bytes::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::call::{CODED, Call, CallError, UNUSABLE, refusal};
use super::connect::ServerCapabilities;
use super::core::{Core, End};
use super::doubts::{Heard, Hears, is_check, settle_doubts};
use super::event_stream::{Event, Parser};
use super::events::Events;
use super::heads::{Heads, SessionHeaders};
use super::large::Large;
use super::mailbox::{Mailbox, ServerMessage};
use super::message::{self, Message, Reply};
use super::request::{modern_request, request};
use super::sse::{is_message, send_all};
use super::timing::Timing;
use crate::http1::{Exchange, Media, Outgoing};
use crate::protocol::extensions::{Extensions, TASKS};
use crate::protocol::param_headers::encode_value;

/// The first revision without sessions.
pub(crate) const MODERN: &str = "2026-07-28";

/// Headers that identify requests of 2026-07-28 without parsing them.
static NAMED: [HeaderName; 2] = [HeaderName::from_static("mcp-method"), HeaderName::from_static("mcp-name")];

/// The limit for messages that are only acknowledged.
pub(super) const POST_LIMIT: Duration = Duration::from_secs(10);

/// A server may forget, for no visible reason, a session that has been open for this long.
const LONG_OPEN: Duration = Duration::from_secs(60);

/// The delay before resuming a broken stream, if the server sets none.
const GO_ON: Duration = Duration::from_secs(1);

/// The bounds for the delay that a server sets.
const SOONEST: Duration = Duration::from_millis(100);
const LATEST: Duration = Duration::from_secs(60);

/// JSON-RPC code for arguments whose headers do not match the schema (since 2026-07-28).
const HEADER_MISMATCH: i64 = -32020;

/// JSON-RPC codes with HTTP status 400 that concern only one call, not the server (since 2026-07-28): the one above,
/// and that of a capability that the caller lacks.
const OF_ONE_CALL: [i64; 2] = [HEADER_MISMATCH, -32021];

/// What the listening stream is to tell of, besides lists.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// URIs of resources.
    pub resources: BTreeSet<Arc<str>>,
    /// Ids of tasks.
    pub tasks: BTreeSet<Arc<str>>,
}

/// A session over streamable HTTP.
pub struct StreamableSession {
    pub(super) core: Core,
    pub(super) heads: Heads,
    pub(super) has_session: bool,
    pub(super) modern: bool,
    /// The extensions that the server declares.
    pub(super) extensions: Extensions,
    born: Instant,
    /// The listening stream is open.
    pub(super) hears: AtomicBool,
    /// The single resources and tasks whose updates the listening stream carries, since 2026-07-28.
    pub(super) wanted: watch::Sender<Wanted>,
    /// The tasks for which the open listening stream was asked.
    pub(super) heard_tasks: watch::Sender<BTreeSet<Arc<str>>>,
}

impl StreamableSession {
    pub(super) fn new(core: Core, endpoint: Uri, configured: SessionHeaders, modern: bool) -> Self {
        let heads = Heads::new(&core.pool, endpoint, configured, if modern { &NAMED } else { &[] });
        if modern {
            heads.own("mcp-protocol-version", HeaderValue::from_static(MODERN));
        }
        let (hears, wanted, heard_tasks) = (AtomicBool::new(false), watch::Sender::default(), watch::Sender::default());
        let (extensions, born) = (Extensions::default(), Instant::now());
        Self { core, heads, has_session: false, modern, extensions, born, hears, wanted, heard_tasks }
    }

    /// Whether the server can currently announce changes of its tools.
    pub(crate) fn hears(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }

    /// Whether the server can report changes of tasks.
    pub(super) fn has_tasks(&self) -> bool {
        self.modern && self.extensions.has(TASKS)
    }

    /// Whether the session uses 2026-07-28.
    pub(crate) fn is_modern(&self) -> bool {
        self.modern
    }

    /// Sets the resources and tasks of the listening stream, which is reopened.
    pub(super) fn hear_of(&self, wanted: Wanted) {
        self.wanted.send_if_modified(|known| {
            let differs = *known != wanted;
            *known = wanted;
            differs
        });
    }

    /// Sends this version, and the session if there is one, from now on.
    pub(super) fn negotiated(&mut self, version: &str, session: Option<HeaderValue>) {
        if let Ok(version) = HeaderValue::from_str(version) {
            self.heads.own("mcp-protocol-version", version);
        }
        if let Some(id) = session {
            self.heads.own("mcp-session-id", id);
            self.has_session = true;
        }
    }

    /// Whether the session has been open for long.
    pub(super) fn is_long_open(&self) -> bool {
        self.born.elapsed() >= LONG_OPEN
    }

    /// A request without checks of the session, which may not be open yet.
    pub(super) async fn call(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        self.hear(call, timing).await.answer
    }

    /// Sends a request and returns the head of its response.
    pub(super) async fn post(&self, call: &Call<'_>, id: u64) -> Result<Exchange, CallError> {
        Ok(self.core.exchange(&self.heads, call.repeatable, |_| self.written(call, id)).await?)
    }

    fn written(&self, call: &Call<'_>, id: u64) -> Outgoing {
        let mut digits = itoa::Buffer::new();
        let id = digits.format(id);
        if !self.modern {
            return self.heads.call(
                call.is_own,
                call.headers,
                call.authorization,
                &[],
                &request(id, call, &[call.caller.meta]),
            );
        }
        let name = call.name.map(encode_value);
        let named = [("mcp-method", call.method), ("mcp-name", name.as_deref().unwrap_or_default())];
        let named = if name.is_some() { &named[..] } else { &named[..1] };
        self.heads.call(call.is_own, call.headers, call.authorization, named, &modern_request(id, call))
    }

    /// The answer to a request of a handshake.
    pub(super) async fn read_answer(
        &self,
        exchange: Exchange,
        id: u64,
        timing: &Timing,
        mailbox: Option<&Mailbox>,
    ) -> Result<Reply, CallError> {
        if !exchange.head.status.is_success() {
            return Box::pin(self.read_refusal(exchange, id, "")).await.answer;
        }
        self.read_success(exchange, id, timing, mailbox).await
    }

    async fn read_success(
        &self,
        exchange: Exchange,
        id: u64,
        timing: &Timing,
        mailbox: Option<&Mailbox>,
    ) -> Result<Reply, CallError> {
        match exchange.head.media {
            Media::Json => {
                let body = exchange.whole(self.core.max_message).await?;
                let mut found = None;
                message::read(&body, |message| match message {
                    Message::Reply(of, reply) if of == id => found = Some(Ok(reply)),
                    Message::Unusable(of) if of == id => found = Some(Err(UNUSABLE)),
                    // The body belongs to one request, so the error is unambiguous.
                    Message::Complaint(error) if found.is_none() => found = Some(Ok(Reply::Error(error))),
                    other => self.core.handle(other, mailbox),
                });
                found.ok_or(CallError::Nonsense("it is not an answer to the request"))?
            }
            Media::EventStream => self.read_events(exchange, id, timing, mailbox).await,
            Media::Coded => Err(CallError::Nonsense(CODED)),
            Media::Other => Err(CallError::Nonsense("it is neither JSON nor an event stream")),
        }
    }

    async fn read_events(
        &self,
        mut exchange: Exchange,
        id: u64,
        timing: &Timing,
        mailbox: Option<&Mailbox>,
    ) -> Result<Reply, CallError> {
        let too_large = CallError::TooLarge(self.core.max_message);
        let mut events = Events::new(self.core.max_message);
        let mut found = None;
        loop {
            let event = match events.next(&mut exchange).await {
                Ok(Some(event)) => event,
                Ok(None) if events.is_starved() => return Err(CallError::NoMemory),
                Ok(None) => {
                    exchange = Box::pin(self.gone_on(events.parser())).await.ok_or(CallError::Lost)?;
                    events = events.going_on();
                    continue;
                }
                Err(_) => return Err(too_large),
            };
            let data = match event {
                // An event without data only has an id.
                Event::Message { name, data } if is_message(&name) && !data.is_empty() => data,
                // The stream belongs to this call: so does an answer that does not start with another id.
                Event::TooLarge { name, head } if is_message(&name) => match Large::of_head(&head) {
                    Large::Answer(of) if of.is_none_or(|of| of == id) => return Err(too_large),
                    _ => continue,
                },
                Event::PassedOver { tail } if Large::id_in_tail(&tail) == Some(id) => return Err(too_large),
                _ => continue,
            };
            if events.is_noted(&data) {
                continue;
            }
            let mut may_come_again = true;
            message::read(&data, |message| {
                may_come_again &= matches!(message, Message::ListChanged(_) | Message::Updated(_));
                match message {
                    Message::Reply(of, reply) if of == id => found = Some(Ok(reply)),
                    Message::Unusable(of) if of == id => found = Some(Err(UNUSABLE)),
                    Message::Complaint(error) if found.is_none() => found = Some(Ok(Reply::Error(error))),
                    Message::Progress(of, params) if of == id => {
                        timing.progressed();
                        self.core.put(mailbox, ServerMessage::Progress(params));
                    }
                    other => self.core.handle(other, mailbox),
                }
            });
            if let Some(reply) = found {
                exchange.linger();
                return reply;
            }
            if may_come_again {
                events.note(&data);
            }
        }
    }

    /// Resumes a stream that has broken off, or that its server has closed meanwhile, as allowed since 2025-11-25.
    /// `None` if the server does not keep it: whatever the server says then, the call may have been carried out.
    async fn gone_on(&self, parser: &Parser) -> Option<Exchange> {
        let after = HeaderValue::from_bytes(parser.last_id().filter(|_| !self.modern)?).ok()?;
        sleep(parser.retry().unwrap_or(GO_ON).clamp(SOONEST, LATEST)).await;
        let exchange = self.core.exchange_in_place(&self.heads, true, |heads| heads.listen(Some(&after))).await.ok()?;
        (exchange.head.status.is_success() && exchange.head.media == Media::EventStream).then_some(exchange)
    }

    async fn read_refusal(&self, exchange: Exchange, id: u64, method: &str) -> Heard {
        let heard = self.core.refused(exchange, id, method, self.has_session).await;
        if let Ok(Reply::Error(error)) = &heard.answer
            && error.status == Some(400)
            && !OF_ONE_CALL.contains(&error.code)
            && !is_check(method)
        {
            // A server of another revision may have replaced it: the health check finds out.
            self.core.notices.suspect.notify_one();
        }
        heard
    }

    /// Sends a notification.
    pub(super) async fn notify(&self, text: Bytes) -> Result<(), CallError> {
        let sent = timeout(POST_LIMIT, self.core.exchange(&self.heads, true, |heads| heads.post(text.clone()))).await;
        let exchange = sent.map_err(|_| CallError::Timeout)??;
        let status = exchange.head.status;
        exchange.linger();
        if status.is_success() { Ok(()) } else { Err(refusal(status.as_u16())) }
    }

    /// The same, for messages whose outcome no task awaits.
    async fn notify_or_suspect(&self, text: Bytes) {
        if let Err(CallError::Refused(404 | 410)) = self.notify(text).await {
            self.core.notices.suspect.notify_one();
        }
    }

    /// Listens for the server's unsolicited messages, and sends the outbox, until the session ends.
    pub(super) async fn attend(&self, mut outbox: mpsc::Receiver<Bytes>, capabilities: ServerCapabilities) -> End {
        // If a client can answer requests, the server may send some while no call runs.
        let listens = capabilities.announces_any()
            || capabilities.resources_subscribe
            || self.has_tasks()
            || self.core.notices.unsolicited.is_some();
        let listening = async { if listens { self.listen(capabilities).await } else { std::future::pending().await } };
        tokio::select! {
            end = listening => end,
            () = settle_doubts(self) => End::Expired,
            () = send_all(&mut outbox, |text| self.notify_or_suspect(text)) => End::Closed,
        }
    }

    /// Tells the server that the session is over.
    pub(super) async fn close(&self) {
        if self.has_session {
            let _ = self.core.exchange_in_place(&self.heads, true, Heads::delete).await;
        }
    }
}

impl Hears for StreamableSession {
    async fn hear(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Heard {
        let id = self.core.next_id();
        let mut guard = CancelOnDrop { session: self, id, armed: !self.modern };
        let work = pin!(async {
            let exchange = match self.post(call, id).await {
                Ok(exchange) if exchange.head.status.is_success() => exchange,
                Ok(exchange) => return Box::pin(self.read_refusal(exchange, id, call.method)).await,
                Err(error) => return error.into(),
            };
            Heard::of(self.read_success(exchange, id, timing, call.mailbox).await, call.method)
        });
        let Ok(heard) = timing.limit(work).await else { return CallError::Timeout.into() };
        guard.armed = false;
        if let Ok(Reply::Error(error)) = &heard.answer
            && error.code == HEADER_MISMATCH
            && self.modern
        {
            // The schema has changed since it was listed, and with it the arguments that travel as headers.
            self.core.notices.tools_changed.notify_one();
        }
        heard
    }

    fn core(&self) -> &Core {
        &self.core
    }

    fn is_modern(&self) -> bool {
        self.modern
    }
}

/// Cancels a call whose caller leaves; since 2026-07-28 the closed connection does so.
struct CancelOnDrop<'a> {
    session: &'a StreamableSession,
    id: u64,
    armed: bool,
}

impl Drop for CancelOnDrop<'_> {
    fn drop(&mut self) {
        if self.armed {
            self.session.core.cancel_later(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::core::Notices;
    use super::*;
    use crate::http1::{HttpPool, Origin};

    const LIMIT: Duration = Duration::from_secs(20);
    const HEAD: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n";

    async fn session() -> (TcpListener, StreamableSession) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = HttpPool::new(Origin {
            host: "127.0.0.1".into(),
            port: listener.local_addr().unwrap().port(),
            authority: HeaderValue::from_static("server"),
            guard: Arc::default(),
            tls: None,
            connect_timeout: LIMIT,
            idle_timeout: LIMIT,
        });
        let (core, _outbox) = Core::new(pool, Arc::new(Notices::default()), 1024);
        (listener, StreamableSession::new(core, Uri::from_static("/mcp"), SessionHeaders::default(), false))
    }

    /// Takes a connection and reads a request up to this text; all of it.
    async fn asked(listener: &TcpListener, end: &str) -> (TcpStream, String) {
        let (mut server, _) = listener.accept().await.unwrap();
        let mut read = Vec::new();
        while memchr::memmem::find(&read, end.as_bytes()).is_none() {
            assert!(server.read_buf(&mut read).await.unwrap() > 0);
        }
        (server, String::from_utf8(read).unwrap())
    }

    /// The call that a request makes, by its id.
    fn id_of(request: &str) -> &str {
        request.split_once(r#""id":"#).and_then(|(_, rest)| rest.split_once(',')).unwrap().0
    }

    async fn called(session: &StreamableSession) -> Result<Reply, CallError> {
        let none = ::http::HeaderMap::new();
        let (call, timing) = (Call::of_our_own("m", &[], &none), Arc::new(Timing::new(LIMIT)));
        session.call(&call, &timing).await
    }

    #[tokio::test]
    async fn an_answer_that_is_none_ends_the_call_at_once() {
        for end in ["", r#","result":{},"error":{"code":1}"#, r#","error":"x""#] {
            let (listener, session) = session().await;
            let serving = async {
                let (mut server, request) = asked(&listener, "}").await;
                let message = format!(r#"{{"jsonrpc":"2.0","id":{}{end}}}"#, id_of(&request));
                server.write_all(format!("{HEAD}data: {message}\n\n").as_bytes()).await.unwrap();
                server
            };
            let (_server, found) = tokio::join!(serving, called(&session));
            assert_eq!(found, Err(CallError::Nonsense("it is not a valid JSON-RPC response")), "{end}");
        }
    }

    #[tokio::test]
    async fn a_stream_that_breaks_off_after_an_event_with_an_id_is_gone_on_with() {
        let (listener, session) = session().await;
        let serving = async {
            let (mut server, request) = asked(&listener, "}").await;
            let id = id_of(&request).to_owned();
            // An incomplete event does not count, nor does its id.
            let begun = format!("{HEAD}id: a-1\nretry: 100\ndata:\n\nid: a-2\ndata: {{\"jsonrpc\":");
            server.write_all(begun.as_bytes()).await.unwrap();
            drop(server);
            let (mut server, request) = asked(&listener, "\r\n\r\n").await;
            assert!(request.starts_with("GET /mcp ") && request.contains("last-event-id: a-1\r\n"), "{request}");
            server.write_all(format!("{HEAD}id: a-2\ndata:\n\n").as_bytes()).await.unwrap();
            drop(server);
            let (mut server, request) = asked(&listener, "\r\n\r\n").await;
            assert!(request.contains("last-event-id: a-2\r\n"), "{request}");
            let answer = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{}}}}"#);
            server.write_all(format!("{HEAD}id: a-3\ndata: {answer}\n\n").as_bytes()).await.unwrap();
            server
        };
        let both = async { tokio::join!(serving, called(&session)) };
        let (_server, found) = timeout(LIMIT, both).await.expect("it is not asked again");
        assert!(matches!(&found, Ok(Reply::Result(result)) if **result == "{}"), "{found:?}");
    }

    #[tokio::test]
    async fn a_stream_that_cannot_be_gone_on_with_is_lost_whatever_its_server_says() {
        for answer in ["404 Not Found", "405 Method Not Allowed", "200 OK"] {
            let (listener, session) = session().await;
            let serving = async {
                let (mut server, _) = asked(&listener, "}").await;
                server.write_all(format!("{HEAD}id: 1\nretry: 100\ndata:\n\n").as_bytes()).await.unwrap();
                drop(server);
                let (mut server, _) = asked(&listener, "\r\n\r\n").await;
                let text = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\n\r\n");
                server.write_all(text.as_bytes()).await.unwrap();
                server
            };
            let both = async { tokio::join!(serving, called(&session)) };
            let (_server, found) = timeout(LIMIT, both).await.expect("it is not asked again");
            assert_eq!(found, Err(CallError::Lost), "{answer}");
        }
    }
}

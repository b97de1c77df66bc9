//! Streamable HTTP: every request is a POST that carries its own answer, as JSON or as a stream of events.
//!
//! Revisions 2025-03-26 to 2025-11-25 keep a session by header; 2026-07-28 keeps none and says everything anew.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{HeaderMap, HeaderName, HeaderValue, Uri};
use bytes::Bytes;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, timeout};

use super::connect::ServerCapabilities;
use super::event_stream::{Event, Parser};
use super::heads::Heads;
use super::http::{Decimal, Exchange, Media, Outgoing};
use super::mailbox::{Mailbox, Told};
use super::message::{self, Message, Reply};
use super::params::encode_value;
use super::request::{modern_request, request};
use super::session::{Call, CallError, Core, End, refusal};
use super::sse::{read_stream, send_all};
use super::timing::Timing;

/// The first revision without sessions.
pub const MODERN: &str = "2026-07-28";

/// Headers by which requests of 2026-07-28 are told apart without reading them.
static NAMED: [HeaderName; 2] = [HeaderName::from_static("mcp-method"), HeaderName::from_static("mcp-name")];

/// For messages that are only acknowledged.
const POST_LIMIT: Duration = Duration::from_secs(10);

/// Between two attempts to open the listening stream: servers that close it at once must not be flooded.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// The longest of these pauses; they double while streams live shorter than this.
const LISTEN_SELDOM: Duration = Duration::from_secs(60);

/// A body of an HTTP error is read up to here, to find the JSON-RPC error in it.
const MAX_ERROR_BODY: usize = 64 * 1024;

/// JSON-RPC code that some servers use for a session they have forgotten.
const SESSION_NOT_FOUND: i64 = -32001;

/// JSON-RPC code for arguments that did not travel as headers as the schema says (since 2026-07-28).
const HEADER_MISMATCH: i64 = -32020;

/// A session over streamable HTTP.
pub struct StreamableSession {
    pub(super) core: Core,
    pub(super) heads: Heads,
    has_session: bool,
    modern: bool,
    expired: Notify,
    /// The listening stream is open.
    hears: AtomicBool,
    /// Single resources that the listening stream is to tell of, since 2026-07-28.
    resources: watch::Sender<BTreeSet<Arc<str>>>,
}

impl StreamableSession {
    pub(super) fn new(core: Core, endpoint: Uri, configured: HeaderMap, modern: bool) -> Self {
        let heads = Heads::new(&core.pool, endpoint, configured, if modern { &NAMED } else { &[] });
        if modern {
            heads.own("mcp-protocol-version", HeaderValue::from_static(MODERN));
        }
        let (expired, hears, resources) = (Notify::new(), AtomicBool::new(false), watch::Sender::default());
        Self { core, heads, has_session: false, modern, expired, hears, resources }
    }

    /// Whether the server has a way to tell now that its tools have changed.
    pub fn hears(&self) -> bool {
        self.hears.load(Ordering::Relaxed)
    }

    /// Whether it speaks 2026-07-28.
    pub fn is_modern(&self) -> bool {
        self.modern
    }

    /// The listening stream is to tell of these resources; it is opened anew for it.
    pub(super) fn hear_of(&self, uris: BTreeSet<Arc<str>>) {
        self.resources.send_if_modified(|known| {
            let differs = *known != uris;
            *known = uris;
            differs
        });
    }

    /// Asks for this version, in this session if there is one, from now on.
    pub(super) fn negotiated(&mut self, version: &str, session: Option<HeaderValue>) {
        if let Ok(version) = HeaderValue::from_str(version) {
            self.heads.own("mcp-protocol-version", version);
        }
        if let Some(id) = session {
            self.heads.own("mcp-session-id", id);
            self.has_session = true;
        }
    }

    pub(super) async fn call(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        let id = self.core.next_id();
        let mut guard = CancelOnDrop { session: self, id, armed: !self.modern };
        let answer = timing.limit(async {
            let exchange = self.post(call, id).await?;
            self.read_answer(exchange, id, timing, call.mailbox).await
        });
        let answer = answer.await?;
        guard.armed = false;
        if answer == Err(CallError::SessionExpired) {
            self.expired.notify_one();
        }
        answer
    }

    /// Sends a request and returns the head of its answer.
    pub(super) async fn post(&self, call: &Call<'_>, id: u64) -> Result<Exchange, CallError> {
        Ok(self.core.pool.exchange(self.written(call, id)).await?)
    }

    fn written(&self, call: &Call<'_>, id: u64) -> Outgoing {
        let id = Decimal::new(id);
        if !self.modern {
            return self.heads.call(call.headers, &[], &request(&id, call, &[call.caller.meta]));
        }
        let name = call.name.map(encode_value);
        let named = [("mcp-method", call.method), ("mcp-name", name.as_deref().unwrap_or_default())];
        let named = if name.is_some() { &named[..] } else { &named[..1] };
        self.heads.call(call.headers, named, &modern_request(&id, call))
    }

    pub(super) async fn read_answer(
        &self,
        exchange: Exchange,
        id: u64,
        timing: &Timing,
        mailbox: Option<&Mailbox>,
    ) -> Result<Reply, CallError> {
        if !exchange.head.status.is_success() {
            return Box::pin(self.read_refusal(exchange)).await;
        }
        match exchange.head.media {
            Media::Json => {
                let body = exchange.whole(self.core.max_message).await?;
                let mut found = None;
                message::read(&body, |message| match message {
                    Message::Reply(of, reply) if of == id => found = Some(reply),
                    // The body belongs to one request, so there is no doubt whose error it is.
                    Message::Complaint(error) if found.is_none() => found = Some(Reply::Error(error)),
                    other => self.core.handle(other, mailbox),
                });
                self.judge(found.ok_or(CallError::Nonsense("it is no answer to the request"))?)
            }
            Media::EventStream => self.read_events(exchange, id, timing, mailbox).await,
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
        let mut parser = Parser::new(self.core.max_message);
        let mut found = None;
        loop {
            while let Some(event) = parser.next_event().map_err(|_| CallError::Unfit("it is too large"))? {
                let Event::Message { name, data } = event else { continue };
                if !(name.is_empty() || name == "message") {
                    continue;
                }
                message::read(&data, |message| match message {
                    Message::Reply(of, reply) if of == id => found = Some(reply),
                    Message::Complaint(error) if found.is_none() => found = Some(Reply::Error(error)),
                    Message::Progress(of, params) if of == id => {
                        timing.progressed();
                        self.core.put(mailbox, Told::Progress(params));
                    }
                    other => self.core.handle(other, mailbox),
                });
                if let Some(reply) = found {
                    exchange.linger();
                    return self.judge(reply);
                }
            }
            match exchange.chunk().await? {
                Some(piece) => parser.push(&piece),
                None => return Err(CallError::Lost),
            }
        }
    }

    /// An HTTP error may carry a JSON-RPC error, which is the better answer.
    async fn read_refusal(&self, exchange: Exchange) -> Result<Reply, CallError> {
        let status = exchange.head.status.as_u16();
        let refusal = refusal(status, self.has_session);
        if refusal == CallError::SessionExpired || !(400..500).contains(&status) {
            return Err(refusal);
        }
        let body = exchange.whole(MAX_ERROR_BODY).await.unwrap_or_default();
        let error = message::error_in(&body);
        let text = error.as_ref().map_or_else(|| String::from_utf8_lossy(&body), |error| (&error.message).into());
        if status == 400 && self.has_session && tells_of_no_session(&text) {
            return Err(CallError::SessionExpired);
        }
        match error {
            Some(error) => self.judge(Reply::Error(error)),
            None => Err(refusal),
        }
    }

    fn judge(&self, reply: Reply) -> Result<Reply, CallError> {
        match &reply {
            Reply::Error(error)
                if self.has_session && error.code == SESSION_NOT_FOUND && tells_of_no_session(&error.message) =>
            {
                Err(CallError::SessionExpired)
            }
            Reply::Error(error) if self.modern && error.code == HEADER_MISMATCH => {
                // The schema has changed since it was listed, and with it the arguments that travel as headers.
                self.core.notices.tools_changed.notify_one();
                Ok(reply)
            }
            _ => Ok(reply),
        }
    }

    /// Sends a notification.
    pub(super) async fn notify(&self, text: Bytes) -> Result<(), CallError> {
        let sent = timeout(POST_LIMIT, self.core.pool.exchange(self.heads.post(text))).await;
        let exchange = sent.map_err(|_| CallError::Timeout)??;
        let status = exchange.head.status;
        exchange.linger();
        if status.is_success() { Ok(()) } else { Err(refusal(status.as_u16(), self.has_session)) }
    }

    /// Listens for what the server says unasked, and sends what is in the outbox, until the session ends.
    pub(super) async fn attend(&self, mut outbox: mpsc::Receiver<Bytes>, capabilities: ServerCapabilities) -> End {
        // Where a client can be asked, the server may want to when no call runs.
        let listens =
            capabilities.announces_any() || capabilities.resources_subscribe || self.core.notices.unasked.is_some();
        let listening = async { if listens { self.listen(capabilities).await } else { std::future::pending().await } };
        tokio::select! {
            end = listening => end,
            () = self.expired.notified() => End::Expired,
            () = send_all(&mut outbox, |text| async { let _ = self.notify(text).await; }) => End::Closed,
        }
    }

    /// Keeps a listening stream open: GET, or `subscriptions/listen` since 2026-07-28.
    ///
    /// It is a convenience: a server without one is polled instead. Only a forgotten session ends it.
    async fn listen(&self, capabilities: ServerCapabilities) -> End {
        let (mut pause, mut again) = (LISTEN_AGAIN, false);
        let mut resources = self.resources.subscribe();
        loop {
            if self.modern && !capabilities.announces_any() {
                // Until something is wanted there is nothing to hear.
                let _ = resources.wait_for(|uris| !uris.is_empty()).await;
            }
            let began = Instant::now();
            resources.mark_unchanged();
            match timeout(POST_LIMIT, self.open_listening(capabilities)).await {
                Ok(Ok(Some(mut stream))) => {
                    if std::mem::replace(&mut again, true) {
                        // Nobody listened for a while.
                        self.core.notices.lists_may_have_changed();
                    }
                    let _hearing = Hearing::begin(&self.hears);
                    match self.read_listening(&mut stream, &mut resources, capabilities).await {
                        Some(end @ End::Broken(_)) => return end,
                        Some(_) => {}
                        None => continue,
                    }
                }
                Ok(Ok(None)) => return std::future::pending().await,
                Ok(Err(CallError::SessionExpired)) => return End::Expired,
                // A ping tells whether it is the session or only this stream.
                Ok(Err(_)) => self.core.notices.suspect.notify_one(),
                Err(_) => {}
            }
            pause = if began.elapsed() < LISTEN_SELDOM { pause } else { LISTEN_AGAIN };
            sleep(pause).await;
            pause = (pause * 2).min(LISTEN_SELDOM);
        }
    }

    /// Reads the listening stream to its end. When other resources are wanted, another stream takes its place before it
    /// is given up, so that nothing is missed; `None` if there is none to be had.
    async fn read_listening(
        &self,
        stream: &mut Exchange,
        resources: &mut watch::Receiver<BTreeSet<Arc<str>>>,
        capabilities: ServerCapabilities,
    ) -> Option<End> {
        loop {
            let mut parser = Parser::new(self.core.max_message);
            tokio::select! {
                end = read_stream(stream, &mut parser, |message| self.core.handle(message, None)) => return Some(end),
                _ = resources.changed() => {}
            }
            *stream = timeout(POST_LIMIT, self.open_listening(capabilities)).await.ok()?.ok()??;
        }
    }

    /// The listening stream; `None` if the server has none.
    async fn open_listening(&self, capabilities: ServerCapabilities) -> Result<Option<Exchange>, CallError> {
        let exchange = if self.modern {
            let mut wanted = capabilities.announced_lists();
            wanted.push_str(&self.wanted_resources(!wanted.is_empty()));
            let params = [r#""notifications":{"#, &wanted, "}"];
            let none = HeaderMap::new();
            self.post(&Call::of_our_own("subscriptions/listen", &params, &none), self.core.next_id()).await?
        } else {
            self.core.pool.exchange(self.heads.listen()).await?
        };
        let status = exchange.head.status.as_u16();
        match refusal(status, self.has_session) {
            _ if exchange.head.status.is_success() => {}
            CallError::Refused(404 | 405) => return Ok(None),
            CallError::Refused(400..500) if self.modern => return Ok(None),
            refusal => return Err(refusal),
        }
        Ok(Some(exchange).filter(|exchange| exchange.head.media == Media::EventStream))
    }

    /// The resources to be told of, as a member of what is asked for, after others or not.
    fn wanted_resources(&self, after_others: bool) -> String {
        let uris: Vec<String> = self.resources.borrow().iter().map(|uri| message::json_string(uri)).collect();
        if uris.is_empty() {
            return String::new();
        }
        let comma = if after_others { "," } else { "" };
        format!(r#"{comma}"resourceSubscriptions":[{}]"#, uris.join(","))
    }

    /// Tells the server that the session is over.
    pub(super) async fn close(&self) {
        if self.has_session {
            let _ = self.core.pool.exchange(self.heads.delete()).await;
        }
    }
}

/// What servers write with HTTP 400 when they do not know the session, where the specification wants 404.
fn tells_of_no_session(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    text.contains("session") || text.contains("not initialized")
}

/// Says that the listening stream is open, as long as it is.
struct Hearing<'a>(&'a AtomicBool);

impl<'a> Hearing<'a> {
    fn begin(flag: &'a AtomicBool) -> Self {
        flag.store(true, Ordering::Relaxed);
        Self(flag)
    }
}

impl Drop for Hearing<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Cancels a call whose caller goes away; since 2026-07-28 the closed connection says it.
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

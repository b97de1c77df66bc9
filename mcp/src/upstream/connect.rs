//! Opens a session: detects the server's transport, and performs the handshake.
//!
//! Order for `auto`, as in the specification: `server/discover`, then `initialize`, then GET for the legacy event
//! stream. Over HTTP+SSE `server/discover` is never sent: Python servers change their era for that connection. Whatever
//! a server does on `server/discover`, `initialize` is tried next, as long as the server accepts connections.

mod error;
mod handshake;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Uri};
use bytes::Bytes;
use portcullis_crds::mcpserver::Transport;
use tokio::time::timeout;
use url::Url;

use super::call::{CLOSED, CODED, Call, CallError, REDIRECTS};
use super::core::{Core, End, Notices, failure_text};
use super::event_stream::Event;
use super::events::Events;
use super::heads::{Heads, SessionHeaders};
use super::loop_guard::LoopGuard;
use super::message::{self, Reply};
use super::send::{Redirect, path_and_query};
use super::session::Session;
use super::sse::SseSession;
use super::streamable::{MODERN, StreamableSession};
use super::timing::Timing;
use crate::http1::{Exchange, HttpPool, Media};
use crate::protocol::client_capabilities::ClientCapabilities;
use crate::protocol::extensions::Extensions;
use crate::protocol::json::json_string;

pub use error::ConnectError;
use error::VersionProblem;
use handshake::Handshake;
pub use handshake::ServerCapabilities;

/// The newest revision with a handshake, which `initialize` requests.
const LATEST_WITH_INITIALIZE: &str = "2025-11-25";

/// The supported revisions with a handshake.
const KNOWN: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_WITH_INITIALIZE];

/// All supported revisions.
const SPOKEN: [&str; 5] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_WITH_INITIALIZE, MODERN];

/// JSON-RPC codes that only servers of 2026-07-28 and later use.
const MODERN_ERRORS: [i64; 3] = [-32020, -32021, -32022];

/// HTTP: the request has returned to a gateway that it has passed (RFC 5842).
const LOOP_DETECTED: u16 = 508;

/// The limit for the first event of a legacy stream.
const MAX_ENDPOINT_BYTES: usize = 2048;

/// The expected answers in the steps of a handshake.
const DISCOVER: &str = "answer to server/discover";
const INITIALIZE: &str = "answer to initialize";
const STREAM: &str = "event stream";
const ENDPOINT: &str = "endpoint event";
const INITIALIZE_ON_STREAM: &str = "answer to initialize on the event stream";
const LAST: &str = "acknowledgement of the handshake";

/// How the gateway introduces itself.
const CLIENT_INFO: &str = client_info!();

/// The server to connect to.
#[derive(Clone)]
pub struct Target {
    /// URL of the MCP endpoint.
    pub url: Url,
    /// The configured transport.
    pub transport: Transport,
    /// Use only this revision.
    pub pinned: Option<String>,
    /// Configured headers.
    pub headers: SessionHeaders,
    /// Connections to the server.
    pub pool: Arc<HttpPool>,
    /// Limit of each step of the handshake.
    pub step: Duration,
    /// Messages above this many bytes are refused.
    pub max_message: usize,
    /// The client capabilities that the handshake declares.
    pub capabilities: ClientCapabilities,
    /// The extensions that it declares.
    pub extensions: Extensions,
    /// Detects whether the server leads back to this gateway.
    pub loops: Arc<dyn LoopGuard>,
}

/// The detected transport of a server; tried first the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Streamable HTTP, 2026-07-28.
    Modern,
    /// Streamable HTTP with a handshake.
    Streamable,
    /// Legacy HTTP+SSE.
    Sse,
}

/// An open session and the results of the handshake.
pub struct Connected {
    /// The session.
    pub session: Arc<Session>,
    /// Must be polled as long as the session is used; it ends with the session.
    pub attend: Pin<Box<dyn Future<Output = End> + Send>>,
    /// The detected transport.
    pub spoken: Spoken,
    /// The revision.
    pub version: String,
    /// `serverInfo.name` and `.version`, for users.
    pub server_info: Option<(String, String)>,
    /// What it says to those who use it, at most 16 KiB.
    pub instructions: Option<Arc<str>>,
    /// The capabilities that the server declares.
    pub capabilities: ServerCapabilities,
    /// The extensions that the server declares.
    pub extensions: Extensions,
}

/// Opens a session. `before` is the transport that was detected the last time.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    target: &Target,
    before: Option<Spoken>,
    notices: &Arc<Notices>,
) -> Result<Connected, ConnectError> {
    let connected = match (target.transport, before) {
        (Transport::Sse, _) | (Transport::Auto, Some(Spoken::Sse)) => open_sse(target, notices).await,
        (_, Some(Spoken::Streamable)) => open_legacy(target, notices).await,
        (_, Some(Spoken::Modern)) => open_modern(target, notices).await,
        _ => find_out(target, notices).await,
    }?;
    match connected.session.instances() {
        Some(told) if target.loops.leads_back(&told) => {
            let _ = timeout(target.step, connected.session.close()).await;
            Err(ConnectError::Loop)
        }
        _ => Ok(connected),
    }
}

/// Tries all allowed transports; if none works, reports the failure of the attempt that came furthest.
async fn find_out(target: &Target, notices: &Arc<Notices>) -> Result<Connected, ConnectError> {
    let mut discovered = None;
    if target.pinned.as_deref().is_none_or(|version| version == MODERN) {
        match open_modern(target, notices).await {
            Ok(connected) => return Ok(connected),
            Err(error) if error.is_final() || target.pinned.is_some() => return Err(error),
            Err(error) => discovered = Some(error).filter(says_something),
        }
    }
    let further = |error: ConnectError| match discovered {
        Some(discovered) => error.or_further(discovered),
        None => error,
    };
    let first = match open_legacy(target, notices).await {
        Err(error) if target.transport == Transport::Auto && may_be_legacy(&error) => error,
        outcome => return outcome.map_err(further),
    };
    open_sse(target, notices).await.map_err(|second| further(first.or_further(second)))
}

/// Whether a failed `server/discover` means more than that the server does not know the method.
fn says_something(error: &ConnectError) -> bool {
    match error {
        ConnectError::Version(problem) => problem.offered(&KNOWN).is_none(),
        ConnectError::Refused(refusal) => MODERN_ERRORS.contains(&refusal.code),
        _ => true,
    }
}

/// Whether a server with this failure of a POST may still provide the legacy event stream.
fn may_be_legacy(error: &ConnectError) -> bool {
    match error {
        ConnectError::Status(_) | ConnectError::NotMcp(_) | ConnectError::Silent(_) | ConnectError::HungUp(_) => true,
        ConnectError::Refused(refusal) => refusal.status.is_some(),
        _ => false,
    }
}

async fn open_modern(target: &Target, notices: &Arc<Notices>) -> Result<Connected, ConnectError> {
    let (core, outbox) = core(target, notices);
    let session = StreamableSession::new(core, endpoint(&target.url), target.headers.clone(), true);
    session.heads.name_instance(target.loops.hop());
    let call = ("server/discover", &[][..]);
    let handshake = match ask(target, DISCOVER, &session, call, MODERN).await {
        Err(ConnectError::Refused(refusal)) if target.pinned.is_some() => {
            let (asked, offers) = (MODERN.to_owned(), Vec::new());
            let problem = VersionProblem { asked, is_pinned: true, offers, refusal: Some(refusal) };
            return Err(ConnectError::Version(problem));
        }
        outcome => outcome?,
    };
    if !handshake.supported_versions.iter().any(|version| version == MODERN) {
        return Err(handshake.no_version(target, MODERN));
    }
    Ok(streamable(session, outbox, handshake, Spoken::Modern, MODERN.to_owned()))
}

/// Opens a session with `initialize`. If a server refuses the newest revision instead of answering with its own,
/// requests the one that the server names.
async fn open_legacy(target: &Target, notices: &Arc<Notices>) -> Result<Connected, ConnectError> {
    let newest = target.pinned.as_deref().unwrap_or(LATEST_WITH_INITIALIZE);
    match open_streamable(target, notices, newest).await {
        Err(ConnectError::Version(problem))
            if target.pinned.is_none()
                && problem.refusal.is_some()
                && let Some(offered) = problem.offered(&KNOWN) =>
        {
            open_streamable(target, notices, offered).await
        }
        outcome => outcome,
    }
}

async fn open_streamable(target: &Target, notices: &Arc<Notices>, asked: &str) -> Result<Connected, ConnectError> {
    let (core, outbox) = core(target, notices);
    let mut session = StreamableSession::new(core, endpoint(&target.url), target.headers.clone(), false);
    session.heads.name_instance(target.loops.hop());
    let timing = Arc::new(Timing::new(target.step));
    let params = initialize_params(target, asked);
    let none = HeaderMap::new();
    let params = [params.as_str()];
    let call = Call::of_our_own("initialize", &params, &none);
    let opened = {
        let greeting = pin!(async {
            let id = session.core.next_id();
            let exchange = session.post(&call, id).await.map_err(|error| problem(&session.heads, error, INITIALIZE))?;
            if !exchange.head.status.is_success() {
                return Err(refusal_of(target, &session.heads, exchange, asked).await);
            }
            let session_id = exchange.head.header("mcp-session-id");
            let reply = session.read_answer(exchange, id, &timing, None).await;
            Ok((reply.map_err(|error| problem(&session.heads, error, INITIALIZE))?, session_id))
        });
        timing.limit(greeting).await
    };
    let (reply, session_id) = opened.map_err(|_| ConnectError::Silent(INITIALIZE))??;
    session.negotiated(asked, session_id);
    match begin(target, &mut session, reply, asked).await {
        Ok((handshake, version)) => Ok(streamable(session, outbox, handshake, Spoken::Streamable, version)),
        Err(error) => {
            // Each attempt opens a session; none may be left open.
            let _ = timeout(target.step, session.close()).await;
            Err(error)
        }
    }
}

/// The meaning of an unsuccessful answer to the handshake.
async fn refusal_of(target: &Target, heads: &Heads, exchange: Exchange, asked: &str) -> ConnectError {
    let status = exchange.head.status.as_u16();
    if exchange.head.status.is_redirection() {
        return ConnectError::Redirected(Redirect::read(&heads.url(), &exchange.head));
    }
    if status == LOOP_DETECTED {
        return ConnectError::Loop;
    }
    let body = match exchange.head.media {
        Media::Json | Media::EventStream => failure_text(exchange).await,
        Media::Coded | Media::Other => Bytes::new(),
    };
    match (status, message::error_in(&body, 0).map(|(error, _)| error)) {
        (401 | 403, error) => ConnectError::Unauthorized(status, error.map(|error| error.code)),
        (_, Some(error)) => handshake::refused(target, asked, Some(status), &error),
        (_, None) => ConnectError::Status(status),
    }
}

/// Completes the handshake of a session that the server has opened with this answer.
async fn begin(
    target: &Target,
    session: &mut StreamableSession,
    reply: Reply,
    asked: &str,
) -> Result<(Handshake, String), ConnectError> {
    let handshake = Handshake::read(target, asked, reply)?;
    let version = handshake.agreed(target, asked, &KNOWN)?;
    session.negotiated(&version, None);
    let sent = timeout(target.step, session.notify(Bytes::from_static(INITIALIZED.as_bytes()))).await;
    sent.map_err(|_| ConnectError::Silent(LAST))?.map_err(|error| problem(&session.heads, error, LAST))?;
    Ok((handshake, version))
}

async fn open_sse(target: &Target, notices: &Arc<Notices>) -> Result<Connected, ConnectError> {
    let (core, outbox) = core(target, notices);
    let heads = Heads::new(&core.pool, endpoint(&target.url), target.headers.clone(), &[]);
    heads.name_instance(target.loops.hop());
    let opening = core.exchange(&heads, true, |heads| heads.listen(None));
    let mut stream = timeout(target.step, opening)
        .await
        .map_err(|_| ConnectError::Silent(STREAM))?
        .map_err(|error| problem(&heads, error.into(), STREAM))?;
    if !stream.head.status.is_success() {
        let refusal = timeout(target.step, refusal_of(target, &heads, stream, LATEST_WITH_INITIALIZE)).await;
        return Err(refusal.unwrap_or(ConnectError::Silent(STREAM)));
    }
    match stream.head.media {
        Media::EventStream => {}
        Media::Coded => return Err(ConnectError::NotMcp(CODED)),
        Media::Json | Media::Other => return Err(ConnectError::NotMcp("GET returns no event stream")),
    }
    let mut events = Events::new(target.max_message);
    let told = timeout(target.step, endpoint_event(&mut stream, &mut events)).await;
    let post_to = endpoint_in(&heads.url(), &told.map_err(|_| ConnectError::Silent(ENDPOINT))??)?;
    heads.move_to(post_to);
    let (session, reader) = SseSession::new(core, outbox, heads, stream, events);
    let session = Arc::new(session);
    let reading = session.clone();
    let mut attend = Box::pin(async move { reading.read(reader).await });
    // The answers arrive on the stream, so it is read during the handshake.
    let (handshake, version) = tokio::select! {
        end = &mut attend => return Err(ended(&end)),
        outcome = shake_hands(target, &session) => outcome?,
    };
    let capabilities = handshake.capabilities.read();
    let (instructions, extensions) = (handshake.instructions(), handshake.extensions());
    let server_info = handshake.server_info();
    let session = Arc::new(Session::Sse(session));
    let spoken = Spoken::Sse;
    Ok(Connected { session, attend, spoken, version, server_info, instructions, capabilities, extensions })
}

async fn shake_hands(target: &Target, session: &SseSession) -> Result<(Handshake, String), ConnectError> {
    let newest = target.pinned.as_deref().unwrap_or(LATEST_WITH_INITIALIZE);
    let initialize = async |asked| {
        let params = initialize_params(target, asked);
        let call = ("initialize", &[params.as_str()][..]);
        let handshake = ask(target, INITIALIZE_ON_STREAM, session, call, asked).await?;
        let version = handshake.agreed(target, asked, &KNOWN)?;
        Ok((handshake, version))
    };
    let (handshake, version) = match initialize(newest).await {
        Err(ConnectError::Version(problem))
            if target.pinned.is_none()
                && problem.refusal.is_some()
                && let Some(offered) = problem.offered(&KNOWN) =>
        {
            initialize(offered).await?
        }
        outcome => outcome?,
    };
    session.negotiated(&version);
    let sent = timeout(target.step, session.notify(Bytes::from_static(INITIALIZED.as_bytes()))).await;
    sent.map_err(|_| ConnectError::Silent(LAST))?.map_err(|error| problem(&session.heads, error, LAST))?;
    Ok((handshake, version))
}

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn core(target: &Target, notices: &Arc<Notices>) -> (Core, tokio::sync::mpsc::Receiver<Bytes>) {
    Core::new(target.pool.clone(), notices.clone(), target.max_message)
}

fn streamable(
    mut session: StreamableSession,
    outbox: tokio::sync::mpsc::Receiver<Bytes>,
    handshake: Handshake,
    spoken: Spoken,
    version: String,
) -> Connected {
    let (capabilities, extensions) = (handshake.capabilities.read(), handshake.extensions());
    session.extensions = extensions.clone();
    let session = Arc::new(session);
    let attending = session.clone();
    let attend = Box::pin(async move { attending.attend(outbox, capabilities).await });
    let session = Arc::new(Session::Streamable(session));
    let (instructions, server_info) = (handshake.instructions(), handshake.server_info());
    Connected { session, attend, spoken, version, instructions, server_info, capabilities, extensions }
}

/// Something that sends requests: both transports, before they become a [`Session`].
trait Asks {
    fn ask(&self, call: &Call<'_>, timing: &Arc<Timing>) -> impl Future<Output = Result<Reply, CallError>> + Send;

    fn heads(&self) -> &Heads;
}

impl Asks for StreamableSession {
    async fn ask(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        self.call(call, timing).await
    }

    fn heads(&self) -> &Heads {
        &self.heads
    }
}

impl Asks for SseSession {
    async fn ask(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        self.call(call, timing).await
    }

    fn heads(&self) -> &Heads {
        &self.heads
    }
}

async fn ask(
    target: &Target,
    what: &'static str,
    session: &impl Asks,
    (method, params): (&str, &[&str]),
    asked: &str,
) -> Result<Handshake, ConnectError> {
    let none = HeaderMap::new();
    let call = Call::of_our_own(method, params, &none);
    let reply = session.ask(&call, &Arc::new(Timing::new(target.step))).await;
    Handshake::read(target, asked, reply.map_err(|error| problem(session.heads(), error, what))?)
}

fn initialize_params(target: &Target, version: &str) -> String {
    let capabilities = target.extensions.in_capabilities(&target.capabilities.to_json());
    let version = json_string(version);
    format!(r#""protocolVersion":{version},"capabilities":{capabilities},"clientInfo":{CLIENT_INFO}"#)
}

/// The data of the `endpoint` event. The caller sets the deadline.
async fn endpoint_event(stream: &mut Exchange, events: &mut Events) -> Result<Bytes, ConnectError> {
    const TOO_LARGE: ConnectError = ConnectError::NotMcp("its endpoint event is too large");
    loop {
        match events.next(stream).await.map_err(|_| TOO_LARGE)? {
            Some(Event::Message { name, data }) if name == "endpoint" => return Ok(data),
            Some(Event::TooLarge { name, .. }) if name == "endpoint" => return Err(TOO_LARGE),
            // Earlier events, such as a keep-alive of the server, are ignored.
            Some(_) => {}
            None => return Err(ConnectError::HungUp(ENDPOINT)),
        }
    }
}

/// The URI to POST to. It must have the origin of the stream: credentials must not go elsewhere.
fn endpoint_in(stream: &Url, data: &[u8]) -> Result<Uri, ConnectError> {
    if data.len() > MAX_ENDPOINT_BYTES {
        return Err(ConnectError::BadEndpoint("it is too long"));
    }
    let text = std::str::from_utf8(data).map_err(|_| ConnectError::BadEndpoint("it is not text"))?;
    let url = stream.join(text.trim()).map_err(|_| ConnectError::BadEndpoint("it is not a URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConnectError::BadEndpoint("it contains a user name"));
    }
    if url.origin() != stream.origin() {
        return Err(ConnectError::BadEndpoint("its origin differs from that of the stream"));
    }
    Ok(endpoint(&url))
}

/// Path and query of a URL, as in a request line.
fn endpoint(url: &Url) -> Uri {
    path_and_query(url).unwrap_or_else(|| Uri::from_static("/"))
}

fn ended(end: &End) -> ConnectError {
    match end {
        End::Broken(why) => ConnectError::NotMcp(why),
        End::Closed | End::Expired => ConnectError::HungUp(INITIALIZE_ON_STREAM),
    }
}

fn problem(heads: &Heads, error: CallError, what: &'static str) -> ConnectError {
    match error {
        CallError::NotSent(REDIRECTS) => {
            heads.redirect().map_or(ConnectError::NotMcp(REDIRECTS), ConnectError::Redirected)
        }
        CallError::Lost | CallError::NotSent(CLOSED) => ConnectError::HungUp(what),
        CallError::NotSent(why) => ConnectError::Unreachable(why),
        CallError::Blocked(refusal) => ConnectError::Blocked(refusal),
        CallError::SessionExpired => ConnectError::Status(404),
        CallError::Refused(status @ (401 | 403)) => ConnectError::Unauthorized(status, None),
        CallError::Refused(status) | CallError::Later { status, .. } => ConnectError::Status(status),
        CallError::Nonsense(why) | CallError::Unfit(why) => ConnectError::NotMcp(why),
        CallError::TooLarge(_) => ConnectError::NotMcp("its answer to the handshake is too large"),
        CallError::Timeout => ConnectError::Silent(what),
        CallError::NoMemory => ConnectError::Unreachable("the gateway has no memory left for its answer"),
    }
}

/// Whether this step comes only after a valid answer of the server.
fn comes_after_an_answer(what: &str) -> bool {
    [ENDPOINT, INITIALIZE_ON_STREAM, LAST].contains(&what)
}

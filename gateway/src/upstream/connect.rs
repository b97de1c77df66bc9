//! Opens a session: finds out how the server speaks, and makes the handshake.
//!
//! Order for `auto`, as the specification has it: `server/discover`, then `initialize`, then GET for the legacy
//! event stream. Over HTTP+SSE `server/discover` is never sent: Python servers change their era for that connection.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use ::http::{HeaderMap, Method, Uri, header};
use bytes::Bytes;
use portcullis_crds::mcpserver::Transport;
use serde::Deserialize;
use serde_json::Value;
use thiserror::Error;
use tokio::time::timeout;
use url::Url;

use super::event_stream::Event;
use super::events::Events;
use super::http::{HttpPool, Media};
use super::message::{self, Reply};
use super::session::{Call, CallError, Core, End, Notices, Session};
use super::sse::SseSession;
use super::streamable::{MODERN, StreamableSession};
use super::timing::Timing;
use crate::capabilities::ClientCapabilities;
use crate::guard::Refusal;

/// The newest revision with a handshake: what is asked for in `initialize`.
const LATEST_WITH_INITIALIZE: &str = "2025-11-25";

/// The revisions with a handshake that are understood.
const KNOWN: [&str; 4] = ["2024-11-05", "2025-03-26", "2025-06-18", LATEST_WITH_INITIALIZE];

/// JSON-RPC codes that only servers of 2026-07-28 and later use.
const MODERN_ERRORS: [i64; 3] = [-32020, -32021, -32022];

/// The first event of a legacy stream may not be longer.
const MAX_ENDPOINT_BYTES: usize = 2048;

/// The last step of a handshake.
const LAST: &str = "acknowledgement of the handshake";

/// How the gateway introduces itself.
const CLIENT_INFO: &str = client_info!();

/// What to connect to.
#[derive(Clone)]
pub struct Target {
    /// URL of the MCP endpoint.
    pub url: Url,
    /// How it is said to speak.
    pub transport: Transport,
    /// Speak only this revision.
    pub pinned: Option<String>,
    /// Configured headers.
    pub headers: HeaderMap,
    /// Connections to it.
    pub pool: Arc<HttpPool>,
    /// Limit of each step of the handshake.
    pub step: Duration,
    /// Messages above this many bytes are refused.
    pub max_message: usize,
    /// What the server is told in the handshake that it may ask.
    pub capabilities: ClientCapabilities,
}

/// How a server turned out to speak; tried first the next time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Streamable HTTP, 2026-07-28.
    Modern,
    /// Streamable HTTP with a handshake.
    Streamable,
    /// Legacy HTTP+SSE.
    Sse,
}

/// An open session and what the handshake told.
pub struct Connected {
    /// The session.
    pub session: Arc<Session>,
    /// Must be polled as long as the session is used; it ends with the session.
    pub attend: Pin<Box<dyn Future<Output = End> + Send>>,
    /// How it speaks.
    pub spoken: Spoken,
    /// The revision.
    pub version: String,
    /// `serverInfo.name` and `.version`, for people.
    pub server_info: Option<(String, String)>,
    /// What the server says that it can do.
    pub capabilities: ServerCapabilities,
}

/// What a server says in the handshake that it can do. Whatever is not said is `false`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerCapabilities {
    /// It has tools.
    pub tools: bool,
    /// It has prompts.
    pub prompts: bool,
    /// It has resources or resource templates.
    pub resources: bool,
    /// It tells when a single resource changes, if asked to.
    pub resources_subscribe: bool,
    /// It completes arguments.
    pub completions: bool,
    /// It writes log messages for callers.
    pub logging: bool,
    /// It says when its tools change.
    pub announces_tools: bool,
    /// It says when its prompts change.
    pub announces_prompts: bool,
    /// It says when its resources or resource templates change.
    pub announces_resources: bool,
}

/// Why no session could be opened. The texts are safe to show: they hold nothing that the server sent.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConnectError {
    /// No connection, or it broke.
    #[error("cannot be reached: {0}")]
    Unreachable(&'static str),
    /// It must not be connected to.
    #[error("has an address that the gateway must not connect to: {0}")]
    Blocked(Refusal),
    /// No answer within the step's limit.
    #[error("does not answer: no {0} in time")]
    Silent(&'static str),
    /// HTTP 401 or 403.
    #[error("refuses the gateway's credentials (HTTP status {0}): check spec.headers")]
    Unauthorized(u16),
    /// Any other HTTP status.
    #[error("answers with HTTP status {0}: check the URL and the transport")]
    Status(u16),
    /// It redirects.
    #[error("redirects (HTTP status {0}), and redirects are not followed: use the final URL")]
    Redirected(u16),
    /// It does not speak MCP as it should.
    #[error("does not speak MCP at this URL: {0}")]
    NotMcp(&'static str),
    /// The endpoint event leads elsewhere.
    #[error("names an unusable endpoint for messages: {0}")]
    BadEndpoint(&'static str),
    /// It answers the handshake with a JSON-RPC error.
    #[error("refuses the handshake (JSON-RPC error {0})")]
    Refused(i64),
    /// No common revision.
    #[error("speaks no protocol version that is allowed here")]
    Version,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Handshake {
    #[serde(default)]
    protocol_version: String,
    #[serde(default)]
    supported_versions: Vec<String>,
    #[serde(default)]
    capabilities: Capabilities,
    server_info: Option<ServerInfo>,
    #[serde(rename = "_meta")]
    meta: Option<Meta>,
}

/// The members are read leniently: one that has another form than ours must not cost the others.
#[derive(Default, Deserialize)]
struct Capabilities {
    tools: Option<Value>,
    prompts: Option<Value>,
    resources: Option<Value>,
    completions: Option<Value>,
    logging: Option<Value>,
}

#[derive(Deserialize)]
struct Meta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<ServerInfo>,
}

#[derive(Deserialize)]
struct ServerInfo {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
}

/// Opens a session. `before` is how the server spoke the last time.
///
/// # Errors
/// See [`ConnectError`].
pub async fn connect(
    target: &Target,
    before: Option<Spoken>,
    notices: &Arc<Notices>,
) -> Result<Connected, ConnectError> {
    match (target.transport, before) {
        (Transport::Sse, _) | (Transport::Auto, Some(Spoken::Sse)) => open_sse(target, notices).await,
        (_, Some(Spoken::Streamable)) => open_legacy(target, notices).await,
        (_, Some(Spoken::Modern)) => open_modern(target, notices).await.map_err(Probe::into_error),
        (transport, _) => {
            if target.pinned.as_deref().is_none_or(|version| version == MODERN) {
                match open_modern(target, notices).await {
                    Ok(connected) => return Ok(connected),
                    Err(Probe::Failed(error)) => return Err(error),
                    Err(Probe::NotModern) if target.pinned.is_some() => return Err(ConnectError::Version),
                    Err(Probe::NotModern) => {}
                }
            }
            match open_legacy(target, notices).await {
                Err(ConnectError::Status(400..=499) | ConnectError::NotMcp(_) | ConnectError::Silent(_))
                    if transport == Transport::Auto =>
                {
                    open_sse(target, notices).await
                }
                outcome => outcome,
            }
        }
    }
}

enum Probe {
    NotModern,
    Failed(ConnectError),
}

impl Probe {
    fn into_error(self) -> ConnectError {
        match self {
            Self::NotModern => ConnectError::Version,
            Self::Failed(error) => error,
        }
    }
}

async fn open_modern(target: &Target, notices: &Arc<Notices>) -> Result<Connected, Probe> {
    let (core, outbox) = core(target, notices);
    let session = StreamableSession::new(core, endpoint(&target.url), target.headers.clone(), true);
    let handshake = match ask(target, "answer to server/discover", &session, "server/discover", &[]).await {
        Ok(handshake) => handshake,
        Err(error @ (ConnectError::Unreachable(_) | ConnectError::Blocked(_) | ConnectError::Redirected(_))) => {
            return Err(Probe::Failed(error));
        }
        Err(ConnectError::Refused(code)) if MODERN_ERRORS.contains(&code) && target.pinned.is_some() => {
            return Err(Probe::Failed(ConnectError::Version));
        }
        Err(_) => return Err(Probe::NotModern),
    };
    if !handshake.supported_versions.iter().any(|version| version == MODERN) {
        return Err(Probe::NotModern);
    }
    Ok(streamable(session, outbox, handshake, Spoken::Modern, MODERN.to_owned()))
}

async fn open_legacy(target: &Target, notices: &Arc<Notices>) -> Result<Connected, ConnectError> {
    let (core, outbox) = core(target, notices);
    let mut session = StreamableSession::new(core, endpoint(&target.url), target.headers.clone(), false);
    let timing = Arc::new(Timing::new(target.step));
    let params = initialize_params(target);
    let none = HeaderMap::new();
    let params = [params.as_str()];
    let call = Call::of_our_own("initialize", &params, &none);
    let what = "answer to initialize";
    let opened = {
        let greeting = pin!(async {
            let id = session.core.next_id();
            let exchange = session.post(&call, id).await.map_err(|error| problem(error, what))?;
            let status = exchange.head.status.as_u16();
            let session_id = exchange.head.header("mcp-session-id");
            if !exchange.head.status.is_success() {
                return Err(status_problem(status));
            }
            let reply = session.read_answer(exchange, id, &timing, None).await.map_err(|error| problem(error, what))?;
            Ok((reply, session_id))
        });
        timing.limit(greeting).await
    };
    let (reply, session_id) = opened.map_err(|_| ConnectError::Silent(what))??;
    session.negotiated(LATEST_WITH_INITIALIZE, session_id);
    match begin(target, &mut session, reply).await {
        Ok((handshake, version)) => Ok(streamable(session, outbox, handshake, Spoken::Streamable, version)),
        Err(error) => {
            // Each attempt opens a session; none may be left behind.
            let _ = timeout(target.step, session.close()).await;
            Err(error)
        }
    }
}

/// Ends the handshake of a session that the server has opened with this answer.
async fn begin(
    target: &Target,
    session: &mut StreamableSession,
    reply: Reply,
) -> Result<(Handshake, String), ConnectError> {
    let handshake = understood(reply)?;
    let version = agreed(target, &handshake)?;
    session.negotiated(&version, None);
    let sent = timeout(target.step, session.notify(Bytes::from_static(INITIALIZED.as_bytes()))).await;
    sent.map_err(|_| ConnectError::Silent(LAST))?.map_err(|error| problem(error, LAST))?;
    Ok((handshake, version))
}

async fn open_sse(target: &Target, notices: &Arc<Notices>) -> Result<Connected, ConnectError> {
    let (core, outbox) = core(target, notices);
    let mut headers = target.headers.clone();
    headers.insert(header::ACCEPT, ::http::HeaderValue::from_static("text/event-stream"));
    let path = endpoint(&target.url);
    let opening = core.pool.send(Method::GET, &path, &headers, Bytes::new());
    let mut stream = timeout(target.step, opening)
        .await
        .map_err(|_| ConnectError::Silent("event stream"))?
        .map_err(|error| problem(error.into(), "event stream"))?;
    if !stream.head.status.is_success() {
        return Err(status_problem(stream.head.status.as_u16()));
    }
    if stream.head.media != Media::EventStream {
        return Err(ConnectError::NotMcp("GET gives no event stream"));
    }
    let mut events = Events::new(target.max_message);
    let told = timeout(target.step, endpoint_event(&mut stream, &mut events)).await;
    let post_to = endpoint_in(&target.url, &told.map_err(|_| ConnectError::Silent("endpoint event"))??)?;
    let (session, reader) = SseSession::new(core, outbox, post_to, target.headers.clone(), stream, events);
    let session = Arc::new(session);
    let reading = session.clone();
    let mut attend = Box::pin(async move { reading.read(reader).await });
    // The answers come on the stream, so it is read while the handshake goes on.
    let (handshake, version) = tokio::select! {
        end = &mut attend => return Err(ended(&end)),
        outcome = shake_hands(target, &session) => outcome?,
    };
    let capabilities = handshake.capabilities.read();
    let server_info = server_info(handshake);
    let session = Arc::new(Session::Sse(session));
    Ok(Connected { session, attend, spoken: Spoken::Sse, version, server_info, capabilities })
}

async fn shake_hands(target: &Target, session: &SseSession) -> Result<(Handshake, String), ConnectError> {
    let params = initialize_params(target);
    let handshake = ask(target, "answer to initialize", session, "initialize", &[&params]).await?;
    let version = agreed(target, &handshake)?;
    session.negotiated(&version);
    let sent = timeout(target.step, session.notify(Bytes::from_static(INITIALIZED.as_bytes()))).await;
    sent.map_err(|_| ConnectError::Silent(LAST))?.map_err(|error| problem(error, LAST))?;
    Ok((handshake, version))
}

const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

fn core(target: &Target, notices: &Arc<Notices>) -> (Core, tokio::sync::mpsc::Receiver<Bytes>) {
    Core::new(target.pool.clone(), notices.clone(), target.max_message)
}

fn streamable(
    session: StreamableSession,
    outbox: tokio::sync::mpsc::Receiver<Bytes>,
    handshake: Handshake,
    spoken: Spoken,
    version: String,
) -> Connected {
    let capabilities = handshake.capabilities.read();
    let session = Arc::new(session);
    let attending = session.clone();
    let attend = Box::pin(async move { attending.attend(outbox, capabilities).await });
    let session = Arc::new(Session::Streamable(session));
    Connected { session, attend, spoken, version, server_info: server_info(handshake), capabilities }
}

/// Something that can ask: both transports, before they are a [`Session`].
trait Asks {
    fn ask(&self, call: &Call<'_>, timing: &Arc<Timing>) -> impl Future<Output = Result<Reply, CallError>> + Send;
}

impl Asks for StreamableSession {
    async fn ask(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        self.call(call, timing).await
    }
}

impl Asks for SseSession {
    async fn ask(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        self.call(call, timing).await
    }
}

async fn ask(
    target: &Target,
    what: &'static str,
    session: &impl Asks,
    method: &str,
    params: &[&str],
) -> Result<Handshake, ConnectError> {
    let none = HeaderMap::new();
    let call = Call::of_our_own(method, params, &none);
    let reply = session.ask(&call, &Arc::new(Timing::new(target.step))).await;
    understood(reply.map_err(|error| problem(error, what))?)
}

fn understood(reply: Reply) -> Result<Handshake, ConnectError> {
    match reply {
        Reply::Result(result) => serde_json::from_slice(&result)
            .map_err(|_| ConnectError::NotMcp("the answer to the handshake is not of its form")),
        Reply::Error(error) => Err(ConnectError::Refused(error.code)),
    }
}

fn initialize_params(target: &Target) -> String {
    let version = target.pinned.as_deref().unwrap_or(LATEST_WITH_INITIALIZE);
    let (version, capabilities) = (message::json_string(version), target.capabilities.to_json());
    format!(r#""protocolVersion":{version},"capabilities":{capabilities},"clientInfo":{CLIENT_INFO}"#)
}

fn agreed(target: &Target, handshake: &Handshake) -> Result<String, ConnectError> {
    let version = handshake.protocol_version.as_str();
    let allowed = match target.pinned.as_deref() {
        Some(pinned) => pinned == version,
        None => KNOWN.contains(&version),
    };
    if allowed { Ok(version.to_owned()) } else { Err(ConnectError::Version) }
}

impl ServerCapabilities {
    /// Whether it says when any of its lists changes.
    pub fn announces_any(self) -> bool {
        self.announces_tools || self.announces_prompts || self.announces_resources
    }

    /// What to ask for in `subscriptions/listen`, as JSON without braces.
    pub fn announced_lists(self) -> String {
        let lists = [
            (self.announces_tools, r#""toolsListChanged":true"#),
            (self.announces_prompts, r#""promptsListChanged":true"#),
            (self.announces_resources, r#""resourcesListChanged":true"#),
        ];
        lists.into_iter().filter_map(|(announced, list)| announced.then_some(list)).collect::<Vec<_>>().join(",")
    }
}

impl Capabilities {
    fn read(&self) -> ServerCapabilities {
        let says = |capability: &Option<Value>, what: &str| {
            capability.as_ref().is_some_and(|capability| capability.get(what) == Some(&Value::Bool(true)))
        };
        ServerCapabilities {
            tools: self.tools.is_some(),
            prompts: self.prompts.is_some(),
            resources: self.resources.is_some(),
            resources_subscribe: says(&self.resources, "subscribe"),
            completions: self.completions.is_some(),
            logging: self.logging.is_some(),
            announces_tools: says(&self.tools, "listChanged"),
            announces_prompts: says(&self.prompts, "listChanged"),
            announces_resources: says(&self.resources, "listChanged"),
        }
    }
}

fn server_info(handshake: Handshake) -> Option<(String, String)> {
    let info = handshake.server_info.or(handshake.meta.and_then(|meta| meta.server_info))?;
    Some((clipped(info.name), clipped(info.version)))
}

/// What a server says of itself is shown to people: short, and without control characters.
fn clipped(text: String) -> String {
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// The data of the `endpoint` event. The caller sets the deadline.
async fn endpoint_event(stream: &mut super::http::Exchange, events: &mut Events) -> Result<Bytes, ConnectError> {
    const TOO_LARGE: ConnectError = ConnectError::NotMcp("its endpoint event is too large");
    loop {
        match events.next(stream).await.map_err(|_| TOO_LARGE)? {
            Some(Event::Message { name, data }) if name == "endpoint" => return Ok(data),
            Some(Event::TooLarge { name, .. }) if name == "endpoint" => return Err(TOO_LARGE),
            // Whatever comes before, such as a keep-alive of the server's own, is not for us.
            Some(_) => {}
            None => return Err(ConnectError::Unreachable("the event stream ended before its endpoint event")),
        }
    }
}

/// The URI to POST to. It must have the origin of the stream: credentials must not be led elsewhere.
fn endpoint_in(stream: &Url, data: &[u8]) -> Result<Uri, ConnectError> {
    if data.len() > MAX_ENDPOINT_BYTES {
        return Err(ConnectError::BadEndpoint("it is too long"));
    }
    let text = std::str::from_utf8(data).map_err(|_| ConnectError::BadEndpoint("it is no text"))?;
    let url = stream.join(text.trim()).map_err(|_| ConnectError::BadEndpoint("it is no URL"))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(ConnectError::BadEndpoint("it holds a user name"));
    }
    if url.origin() != stream.origin() {
        return Err(ConnectError::BadEndpoint("it has another origin than the stream"));
    }
    Ok(endpoint(&url))
}

/// Path and query of a URL, as a request line has them.
fn endpoint(url: &Url) -> Uri {
    let mut text = url.path().to_owned();
    if let Some(query) = url.query() {
        text.push('?');
        text.push_str(query);
    }
    text.parse().unwrap_or_else(|_| Uri::from_static("/"))
}

fn ended(end: &End) -> ConnectError {
    match end {
        End::Broken(why) => ConnectError::NotMcp(why),
        End::Closed | End::Expired => ConnectError::Unreachable("the event stream ended during the handshake"),
    }
}

fn problem(error: CallError, what: &'static str) -> ConnectError {
    match error {
        CallError::NotSent(why) => ConnectError::Unreachable(why),
        CallError::Blocked(refusal) => ConnectError::Blocked(refusal),
        CallError::Lost => ConnectError::Unreachable("the connection closed during the handshake"),
        CallError::SessionExpired => ConnectError::Status(404),
        CallError::Refused(status) => status_problem(status),
        CallError::Nonsense(why) | CallError::Unfit(why) => ConnectError::NotMcp(why),
        CallError::TooLarge(_) => ConnectError::NotMcp("its answer to the handshake is too large"),
        CallError::Timeout => ConnectError::Silent(what),
    }
}

fn status_problem(status: u16) -> ConnectError {
    match status {
        401 | 403 => ConnectError::Unauthorized(status),
        300..=399 => ConnectError::Redirected(status),
        _ => ConnectError::Status(status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_must_have_the_origin_of_the_stream() {
        let stream = Url::parse("http://server:8080/a/sse").unwrap();
        let cases: [(&str, Option<&str>); 12] = [
            ("/message?sessionId=1", Some("/message?sessionId=1")),
            ("message?s=1", Some("/a/message?s=1")),
            ("?s=1", Some("/a/sse?s=1")),
            ("http://server:8080/m", Some("/m")),
            ("HTTP://SERVER:8080/m", Some("/m")),
            ("http://server:8081/m", None),
            ("https://server:8080/m", None),
            ("//evil.example/m", None),
            ("http://169.254.169.254/latest", None),
            ("http://user@server:8080/m", None),
            ("http://server:8080@evil/m", None),
            ("http://[", None),
        ];
        for (text, expected) in cases {
            let found = endpoint_in(&stream, text.as_bytes()).ok().map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), expected, "{text}");
        }
        assert!(endpoint_in(&stream, &[b'a'; 3000]).is_err());
        assert!(endpoint_in(&stream, b"/\xff").is_err());
    }

    #[test]
    fn capabilities_are_what_the_handshake_says_whatever_else_it_holds() {
        let read = |text: &str| serde_json::from_str::<Handshake>(text).unwrap().capabilities.read();
        let all = r#"{"capabilities":{"tools":{"listChanged":true},"prompts":{"listChanged":true},"logging":{},
            "resources":{"listChanged":true,"subscribe":true},"completions":{},"experimental":{"x":{}}}}"#;
        let expected = ServerCapabilities {
            tools: true,
            prompts: true,
            resources: true,
            resources_subscribe: true,
            completions: true,
            logging: true,
            announces_tools: true,
            announces_prompts: true,
            announces_resources: true,
        };
        assert_eq!(read(all), expected);
        let odd = r#"{"capabilities":{"tools":{"listChanged":"yes"},"prompts":null,"resources":7,"logging":{}}}"#;
        let expected = ServerCapabilities { tools: true, resources: true, logging: true, ..Default::default() };
        assert_eq!(read(odd), expected);
        assert_eq!(read("{}"), ServerCapabilities::default());
    }
}

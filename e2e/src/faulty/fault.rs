//! The faults of a faulty server, one line each; the default of each kind is honesty.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

/// The behaviour of a faulty server; the default is honest in everything. Changed at run time by
/// [`Faulty::behave`](super::Faulty::behave), and read again for every connection, request and event.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// The fault of new TCP connections.
    pub connection: ConnectionFault,
    /// The fault of GET requests.
    pub get: RequestFault,
    /// The fault of POST requests.
    pub post: RequestFault,
    /// The fault of POST requests with a `tools/call`.
    pub call: RequestFault,
    /// The first event of an SSE stream (legacy SSE only).
    pub endpoint: EndpointFault,
    /// The framing of events and bodies.
    pub framing: EventFraming,
    /// The fault of POST requests with a `server/discover`.
    pub discover: RequestFault,
    /// Whether a server with sessions claims 2026-07-28.
    pub in_name: InName,
    /// The answer to `initialize` and `server/discover`.
    pub init: ProtocolFault,
    /// The answer to `ping`.
    pub ping: ProtocolFault,
    /// The fault of POST requests with a `ping`.
    pub ping_door: RequestFault,
    /// The HTTP status of answers over streamable HTTP that hold a JSON-RPC error; 200 if there is none.
    pub error_status: Option<u16>,
    /// Every request but `initialize`, and `ping` where that is said, is answered with this error until the next
    /// `initialize`: as by a server that was restarted behind its address.
    pub uninitialized: Option<Uninitialized>,
    /// The ids of answers to requests of the protocol itself are written as strings.
    pub text_ids: bool,
    /// The answer to `tools/list`.
    pub list: ListFault,
    /// The answer to `tools/list` for single callers, by their credential: the subject of a signed one, or its text.
    pub callers: BTreeMap<String, ListFault>,
    /// The answer to `prompts/list`; absent: the server declares no prompts, and does not know the method.
    pub prompts: Option<ProtocolFault>,
    /// The answer to `resources/list`, likewise.
    pub resources: Option<ProtocolFault>,
    /// The answer to `resources/templates/list`, if there are resources; absent: the server does not know the method.
    pub templates: Option<ProtocolFault>,
    /// The text of every resource that is asked for; absent: it knows no `resources/read`.
    pub read: Option<String>,
    /// The server's own name (`serverInfo.name`); absent: `faulty`.
    pub name: Option<String>,
    /// The JSON of the extensions that it declares; absent: none.
    pub extensions: Option<String>,
    /// Raw results of further methods: `tasks/...`, `skills/...` and `example/...`.
    pub others: BTreeMap<String, String>,
    /// The answer to tool calls, unless the tool has its own.
    pub answer: CallFault,
    /// The answer to callers with an unknown or forgotten session.
    pub lost: LostSessionAnswer,
    /// The answer to the GET of streamable HTTP.
    pub listen: Listen,
    /// Whether calls over streamable HTTP are answered as JSON or as an event stream.
    pub form: AnswerForm,
    /// `/mcp` redirects to `/mcp/` with this status, as older Python servers do.
    pub moved: Option<u16>,
    /// Whether requests without a `User-Agent` get a page with 403, as from firewalls.
    pub wants_agent: bool,
    /// Whether answers are compressed.
    pub coding: Coding,
    /// Two replicas, with sessions of their own, stand behind a balancer: it sends a client to the replica that its
    /// cookie names, and takes turns with those that have none.
    pub balanced: bool,
    /// Raw messages (requests of the server) sent after `notifications/initialized`, or when a GET stream opens.
    pub asks: Vec<String>,
}

/// The fault of a TCP connection.
#[derive(Clone, Debug, Default)]
pub enum ConnectionFault {
    /// Speaks HTTP.
    #[default]
    Honest,
    /// Accepts, and never reads or writes a byte.
    Silent,
    /// Accepts and closes at once.
    Closed,
    /// Reads the request, writes these bytes whatever was asked, and closes.
    Raw(Bytes),
    /// Reads the request and writes endless header lines.
    EndlessHeaders,
}

/// The fault of a request before it is parsed.
#[derive(Clone, Debug, Default)]
pub enum RequestFault {
    /// It is let in.
    #[default]
    Open,
    /// It is never answered, not even with a 202.
    Hangs,
    /// The connection is closed without a byte.
    Slams,
    /// It gets this answer (401, 403, 500, 503, a redirect, a page of HTML) and nothing else.
    Answers(FixedAnswer),
}

/// A fixed HTTP answer.
#[derive(Clone, Debug)]
pub struct FixedAnswer {
    /// The status code.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// The first event of an SSE stream.
#[derive(Clone, Debug, Default)]
pub enum EndpointFault {
    /// `/message?sessionId=...`
    #[default]
    Honest,
    /// `http://<host>:<port>/message?sessionId=...`: absolute, same origin, allowed.
    Absolute,
    /// `message?sessionId=...`: relative to the stream, allowed.
    Relative,
    /// `//<this authority>/message?sessionId=...`: an attempt at another origin without naming a scheme.
    Authority(String),
    /// `<this origin>/message?sessionId=...`: another origin.
    Origin(String),
    /// `http://user:secret@<host>:<port>/message?sessionId=...`
    UserInfo,
    /// The honest endpoint, then one at this origin: the second must not win.
    Twice(String),
    /// A `message` event before the endpoint event.
    MessageFirst,
    /// A keep-alive event of the server's own, and one without a name, before the endpoint event.
    PingFirst,
    /// No event at all.
    Never,
    /// Exactly this text as the endpoint.
    Text(String),
    /// A `data:` line that never ends, before any endpoint.
    EndlessLine,
}

/// The framing of events; streams stay valid under each of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventFraming {
    /// The line end: `"\n"`, `"\r\n"` (Python servers) or `"\r"` (legal, and seen nowhere).
    pub line_end: &'static str,
    /// A byte order mark before the first event of a stream.
    pub bom: bool,
    /// Comments, `id:`, `retry:` and an unknown field around every event.
    pub comments: bool,
    /// JSON spread over three `data:` lines.
    pub multi_line: bool,
    /// `data:` without the space after the colon.
    pub no_space: bool,
    /// No `event:` field on messages (which means `message`).
    pub no_event: bool,
    /// The size of the pieces that streams and bodies are written in; 1 splits everything.
    pub piece: Option<usize>,
    /// The pause between pieces: a slow drip.
    pub pause: Duration,
}

impl Default for EventFraming {
    fn default() -> Self {
        Self {
            line_end: "\n",
            bom: false,
            comments: false,
            multi_line: false,
            no_space: false,
            no_event: false,
            piece: None,
            pause: Duration::ZERO,
        }
    }
}

/// The answer to a request of the protocol itself.
#[derive(Clone, Debug, Default)]
pub enum ProtocolFault {
    /// As it should be.
    #[default]
    Honest,
    /// Accepted, then never answered.
    Never,
    /// With this raw result.
    Result(String),
    /// With this raw error.
    Error(String),
}

/// The error of a server that has forgotten its client.
#[derive(Clone, Debug)]
pub struct Uninitialized {
    /// The code.
    pub code: i64,
    /// The message.
    pub message: &'static str,
    /// It answers `ping` all the same, as the specification allows.
    pub pings: bool,
}

/// The answer to `tools/list`.
#[derive(Clone, Debug, Default)]
pub enum ListFault {
    /// All tools on one page.
    #[default]
    Honest,
    /// Honest pages of this many tools.
    Pages(usize),
    /// Endless new pages with new cursors.
    EndlessPages,
    /// Endlessly the same page with the same cursor.
    SameCursor,
    /// So many tools (`tool-0`, ...) on one page.
    Many(usize),
    /// Any other way.
    Reply(ProtocolFault),
}

/// The answer to a tool call.
#[derive(Clone, Debug, Default)]
pub enum CallFault {
    /// Once, with the id that was asked.
    #[default]
    Honest,
    /// Accepted, then never answered, with the stream left open.
    Never,
    /// The connection that carries the call is closed without a byte (no 202).
    CutBeforeAccepting,
    /// Accepted (202, or the head of the answer), then the stream is cut.
    CutAfterAccepting,
    /// Half of the answer is written, then the stream is cut.
    CutMidAnswer,
    /// The stream ends properly, without the answer.
    EndWithout,
    /// The same answer two times.
    Twice,
    /// With this raw id instead of the one that was asked (`999`, `null`).
    Id(String),
    /// With the number that was asked, as a string.
    StringId,
    /// With the id of another call that is in flight; with an unknown id when there is none.
    OthersId,
    /// Without an id.
    NoId,
    /// With these bytes as the event's data (or as the body) instead of an answer.
    Instead(Bytes),
    /// With these bytes as an event of their own, then honestly.
    After(Bytes),
    /// These raw bytes are written to the stream (no framing at all), then the honest answer.
    AfterRaw(Bytes),
    /// One event (or body) of this many bytes.
    Huge(u64),
    /// The same, with the id at its end.
    HugeIdLast(u64),
    /// The call is carried out, then its POST is answered with this HTTP status and body; `ID` stands for the id.
    Http(u16, String),
    /// A `data:` line (or a body) that never ends.
    EndlessLine,
    /// `data:` lines without end and without an empty line between.
    EndlessLines,
}

/// The answer to callers with an unknown session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LostSessionAnswer {
    /// 404.
    #[default]
    NotFound,
    /// 404 with a JSON-RPC error -32001 in its body.
    NotFoundError,
    /// 200 with a JSON-RPC error -32001.
    Error,
    /// 400, as some servers say.
    BadRequest,
    /// 400 with a JSON-RPC error -32000, as server-everything says.
    BadRequestError,
    /// 410.
    Gone,
    /// 200 with this JSON-RPC error code and the words "Server not initialized", for the id of the request.
    Uninitialized(i64),
    /// Nothing: the request hangs, as server-everything lets it.
    Hangs,
}

/// The answer to the GET of streamable HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Listen {
    /// A stream that stays open.
    #[default]
    Open,
    /// 405, which the specification allows.
    NotAllowed,
    /// 404, as frameworks answer a method that nobody has given them.
    NotFound,
    /// A stream that ends at once.
    Closes,
}

/// Whether a server with sessions falsely claims 2026-07-28.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InName {
    /// Nothing.
    #[default]
    No,
    /// It names the revision, and then wants a session for everything.
    Yes,
    /// It names the revision, lists its tools without a session, and wants one for all else.
    Lists,
}

/// Whether answers are compressed. They only say so: nobody should look inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Coding {
    /// Never.
    #[default]
    Plain,
    /// Unless the request says that it takes only what is not.
    UnlessRuledOut,
    /// Always.
    Always,
}

/// The form of answers to calls over streamable HTTP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AnswerForm {
    /// An event stream for calls that report progress, else JSON.
    #[default]
    Auto,
    /// Always JSON; progress is not sent.
    Json,
    /// Always an event stream.
    Sse,
}

impl RequestFault {
    /// An empty answer with this status.
    pub fn status(status: u16) -> Self {
        Self::Answers(FixedAnswer { status, headers: Vec::new(), body: Bytes::new() })
    }

    /// A redirect (301, 302, 307, 308) to this URL.
    pub fn redirect(status: u16, to: &str) -> Self {
        let headers = vec![("location".into(), to.into())];
        Self::Answers(FixedAnswer { status, headers, body: Bytes::new() })
    }

    /// A 200 with a page of HTML, as a login page in between gives.
    pub fn html() -> Self {
        let headers = vec![("content-type".into(), "text/html".into())];
        Self::Answers(FixedAnswer { status: 200, headers, body: garbage::HTML })
    }
}

/// Bytes that are no message.
pub mod garbage {
    use bytes::Bytes;

    /// A page.
    pub const HTML: Bytes = Bytes::from_static(b"<!doctype html><title>502</title><h1>Bad gateway</h1>");
    /// Bytes that are no UTF-8, inside of JSON.
    pub const BAD_UTF8: Bytes = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":1,\"result\":\"\xff\xfe\xc3\x28\"}");
    /// JSON that stops.
    pub const BAD_JSON: Bytes = Bytes::from_static(b"{\"jsonrpc\":\"2.0\",\"id\":");
    /// JSON that is no JSON-RPC.
    pub const NOT_RPC: Bytes = Bytes::from_static(b"[1,\"two\",{\"three\":null}]");
    /// An event that is cut by the next one: two `data` fields of different messages in one event.
    pub const HALF_EVENT: Bytes = Bytes::from_static(b"event: message\ndata: {\"jsonrpc\":\"2.0\",\n\n");
    /// Events of other kinds, and fields that nobody knows.
    pub const ODD_EVENTS: Bytes = Bytes::from_static(b"event: surprise\ndata: {}\n\ndata\n\nfoo: bar\n\n:\n\n\n\n");
}

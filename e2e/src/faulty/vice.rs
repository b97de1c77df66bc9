//! Every vice of a faulty server, one line each; the default of each kind is honesty.

use std::time::Duration;

use bytes::Bytes;

/// How a faulty server behaves; the default is honest in everything. Changed at run time by
/// [`Faulty::behave`](super::Faulty::behave), and looked at anew for every connection, request and event.
#[derive(Clone, Debug, Default)]
pub struct Behaviour {
    /// What happens to new TCP connections.
    pub connection: Connection,
    /// What happens to GET requests.
    pub get: Door,
    /// What happens to POST requests.
    pub post: Door,
    /// What happens to POST requests that carry a `tools/call`.
    pub call: Door,
    /// What the first event of an SSE stream says (legacy SSE only).
    pub endpoint: Endpoint,
    /// How events and bodies are written.
    pub framing: Framing,
    /// What happens to POST requests that carry a `server/discover`.
    pub discover: Door,
    /// What a server with sessions says of 2026-07-28.
    pub in_name: InName,
    /// How `initialize` and `server/discover` are answered.
    pub init: Reply,
    /// How `ping` is answered.
    pub ping: Reply,
    /// What happens to POST requests that carry a `ping`.
    pub ping_door: Door,
    /// The HTTP status of answers over streamable HTTP that hold a JSON-RPC error; 200 if there is none.
    pub error_status: Option<u16>,
    /// Every request but `initialize`, and `ping` where that is said, is answered with this error until the next
    /// `initialize`: as by a server that was restarted behind its address.
    pub uninitialized: Option<Uninitialized>,
    /// The ids of answers to requests of the protocol itself are written as strings.
    pub text_ids: bool,
    /// How `tools/list` is answered.
    pub list: List,
    /// How `prompts/list` is answered; absent: it says that it has none, and knows no such method.
    pub prompts: Option<Reply>,
    /// How `resources/list` is answered, likewise.
    pub resources: Option<Reply>,
    /// How `resources/templates/list` is answered, where it has resources; absent: it knows no such method.
    pub templates: Option<Reply>,
    /// The text of every resource that is asked for; absent: it knows no `resources/read`.
    pub read: Option<String>,
    /// What it calls itself (`serverInfo.name`); absent: `faulty`.
    pub name: Option<String>,
    /// How tool calls are answered, unless the tool has its own way.
    pub answer: Answer,
    /// What callers with an unknown or forgotten session are told.
    pub lost: Lost,
    /// What the GET of streamable HTTP gives.
    pub listen: Listen,
    /// Whether calls over streamable HTTP are answered as JSON or as an event stream.
    pub form: Form,
    /// `/mcp` redirects to `/mcp/` with this status, as older Python servers do.
    pub moved: Option<u16>,
    /// What refuses requests without a `User-Agent`, as firewalls do: a page with 403.
    pub wants_agent: bool,
    /// Whether answers are compressed.
    pub coding: Coding,
    /// Two replicas, with sessions of their own, stand behind a balancer: it sends a client to the replica that its
    /// cookie names, and takes turns with those that have none.
    pub balanced: bool,
    /// Raw messages (requests of the server) sent after `notifications/initialized`, or when a GET stream opens.
    pub asks: Vec<String>,
}

/// What happens to a TCP connection.
#[derive(Clone, Debug, Default)]
pub enum Connection {
    /// Speaks HTTP.
    #[default]
    Honest,
    /// Accepts, and never reads or writes a byte.
    Silent,
    /// Accepts and closes at once.
    Closed,
    /// Reads the request, writes these bytes whatever was asked, and closes.
    Raw(Bytes),
    /// Reads the request and writes header lines for ever.
    EndlessHeaders,
}

/// What happens to a request before it is looked at.
#[derive(Clone, Debug, Default)]
pub enum Door {
    /// It is let in.
    #[default]
    Open,
    /// It is never answered, not even with a 202.
    Hangs,
    /// The connection is closed without a byte.
    Slams,
    /// It gets this answer (401, 403, 500, 503, a redirect, a page of HTML) and nothing else.
    Answers(Refusal),
}

/// A fixed HTTP answer.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The status code.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// What the first event of an SSE stream says.
#[derive(Clone, Debug, Default)]
pub enum Endpoint {
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

/// How events are written; streams stay valid under every one of these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framing {
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

impl Default for Framing {
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

/// How a request of the protocol itself is answered.
#[derive(Clone, Debug, Default)]
pub enum Reply {
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

/// What a server says that does not know its client any more.
#[derive(Clone, Debug)]
pub struct Uninitialized {
    /// The code.
    pub code: i64,
    /// The message.
    pub message: &'static str,
    /// It answers `ping` all the same, as the specification allows.
    pub pings: bool,
}

/// How `tools/list` is answered.
#[derive(Clone, Debug, Default)]
pub enum List {
    /// All tools on one page.
    #[default]
    Honest,
    /// Honest pages of so many tools.
    Pages(usize),
    /// A new page with a new cursor, for ever.
    EndlessPages,
    /// The same page with the same cursor, for ever.
    SameCursor,
    /// So many tools (`tool-0`, ...) on one page.
    Many(usize),
    /// Any other way.
    Reply(Reply),
}

/// How a tool call is answered.
#[derive(Clone, Debug, Default)]
pub enum Answer {
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
    /// One event (or body) of so many bytes.
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

/// What callers with an unknown session are told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lost {
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

/// What the GET of streamable HTTP gives.
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

/// What a server with sessions says of 2026-07-28, of which it is none.
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

/// How calls over streamable HTTP are answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Form {
    /// An event stream for calls that report progress, else JSON.
    #[default]
    Auto,
    /// Always JSON; progress is not sent.
    Json,
    /// Always an event stream.
    Sse,
}

impl Door {
    /// An empty answer with this status.
    pub fn status(status: u16) -> Self {
        Self::Answers(Refusal { status, headers: Vec::new(), body: Bytes::new() })
    }

    /// A redirect (301, 302, 307, 308) to this URL.
    pub fn redirect(status: u16, to: &str) -> Self {
        let headers = vec![("location".into(), to.into())];
        Self::Answers(Refusal { status, headers, body: Bytes::new() })
    }

    /// A 200 with a page of HTML, as a login page in between gives.
    pub fn html() -> Self {
        let headers = vec![("content-type".into(), "text/html".into())];
        Self::Answers(Refusal { status: 200, headers, body: garbage::HTML })
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

//! A small MCP client for these tests, which shows everything raw.

use std::time::Duration;

use portcullis_e2e::faulty::Faulty;
use portcullis_e2e::http::{self, HttpAnswer, HttpRequest};
use portcullis_e2e::sse::{self, SseEvent, SseEvents};

/// Longer than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(10);
/// Long enough to believe that nothing comes.
pub(crate) const SILENCE: Duration = Duration::from_millis(150);

pub(crate) const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"kit","version":"0"}}}"#;
pub(crate) const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
pub(crate) const LIST: &str = r#"{"jsonrpc":"2.0","id":2,"method":"tools/list"}"#;

/// A `tools/call` with these raw parts.
pub(crate) fn call(id: &str, tool: &str, arguments: &str) -> String {
    let token = format!("t{}", id.trim_matches('"'));
    let params = format!(r#"{{"name":"{tool}","arguments":{arguments},"_meta":{{"progressToken":"{token}"}}}}"#);
    format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{params}}}"#)
}

/// The answer of `echo` to these raw arguments.
pub(crate) fn echoed(id: &str, arguments: &str) -> String {
    let text = serde_json::to_string(arguments).expect("text");
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"content":[{{"type":"text","text":{text}}}]}}}}"#)
}

/// A client of a legacy SSE server.
pub(crate) struct SseClient {
    pub(crate) events: SseEvents,
    pub(crate) endpoint: String,
}

impl SseClient {
    pub(crate) async fn open(server: &Faulty) -> Self {
        let mut events = sse::open(http::get(&server.url())).await.expect("an event stream");
        let first = events.next(LIMIT).await.expect("an event").expect("not the end");
        assert_eq!(first.event, "endpoint");
        Self { events, endpoint: format!("http://{}{}", server.address(), first.data) }
    }

    /// Posts a message that must be accepted.
    pub(crate) async fn send(&self, message: &str) {
        let answer = self.post(message).send().await.expect("an answer");
        assert_eq!((answer.status, answer.text()), (202, "Accepted"));
    }

    pub(crate) fn post(&self, message: &str) -> HttpRequest {
        http::post(&self.endpoint, message.to_owned())
    }

    pub(crate) async fn next(&mut self) -> SseEvent {
        self.events.next(LIMIT).await.expect("an event").expect("not the end")
    }

    pub(crate) async fn ask(&mut self, message: &str) -> String {
        self.send(message).await;
        self.next().await.data
    }
}

/// Opens a session with a streamable server.
pub(crate) async fn session(server: &Faulty) -> String {
    let answer = http::post(&server.url(), INITIALIZE).send().await.expect("an answer");
    assert_eq!(answer.status, 200);
    answer.header("mcp-session-id").to_owned()
}

/// A POST within a session of a streamable server.
pub(crate) fn within(server: &Faulty, session: &str, message: &str) -> HttpRequest {
    http::post(&server.url(), message.to_owned()).header("mcp-session-id", session)
}

/// A POST of a request to a 2026-07-28 server; `params` are raw members that follow `_meta`.
pub(crate) fn modern(server: &Faulty, method: &str, name: &str, params: &str) -> HttpRequest {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let body = format!(r#"{{"jsonrpc":"2.0","id":5,"method":"{method}","params":{{{meta}{params}}}}}"#);
    let request = http::post(&server.url(), body).header("mcp-protocol-version", "2026-07-28");
    let request = request.header("mcp-method", method);
    if name.is_empty() { request } else { request.header("mcp-name", name) }
}

/// The JSON-RPC error code of an answer, or 0.
pub(crate) fn code(answer: &HttpAnswer) -> i64 {
    answer.json()["error"]["code"].as_i64().unwrap_or_default()
}

/// The names in a `tools/list` answer.
pub(crate) fn names(answer: &str) -> Vec<String> {
    let answer: serde_json::Value = serde_json::from_str(answer).expect("JSON");
    let tools = answer["result"]["tools"].as_array().expect("tools");
    tools.iter().map(|tool| tool["name"].as_str().unwrap_or("?").to_owned()).collect()
}

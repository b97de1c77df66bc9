//! A client of `/mcp` that shows raw messages.

use std::time::Duration;

use http::Method;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer, HttpRequest};
use portcullis_e2e::sse;
use serde_json::{Value, json};

pub(crate) const MODERN: &str = "2026-07-28";

/// A POST of this message.
pub(crate) fn message(gateway: &TestGateway, text: impl Into<bytes::Bytes>) -> HttpRequest {
    client::post(&gateway.url("/mcp"), text).bearer(&gateway.token).limit(LIMIT)
}

/// Sends this message.
pub(crate) async fn send(gateway: &TestGateway, text: impl Into<bytes::Bytes>) -> HttpAnswer {
    message(gateway, text).send().await.expect("an answer")
}

/// A request of 2026-07-28 with all it must say; `params` are members without braces.
pub(crate) fn modern(gateway: &TestGateway, path: &str, method: &str, name: Option<&str>, params: &str) -> HttpRequest {
    modern_as(gateway, path, (method, name), params, (1, "{}"))
}

/// The same, of a client with these capabilities, under this id.
pub(crate) fn modern_as(
    gateway: &TestGateway,
    path: &str,
    (method, name): (&str, Option<&str>),
    params: &str,
    (id, capabilities): (u32, &str),
) -> HttpRequest {
    let comma = if params.is_empty() { "" } else { "," };
    let text = format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{capabilities}}}}}}}"#
    );
    let request = client::post(&gateway.url(path), text).bearer(&gateway.token).limit(LIMIT);
    let request = request.header("mcp-protocol-version", MODERN).header("mcp-method", method);
    name.into_iter().fold(request, |request, name| request.header("mcp-name", name))
}

/// A session of this revision: its id.
pub(crate) async fn initialize(gateway: &TestGateway, version: &str) -> String {
    initialize_as(gateway, version, "{}").await
}

/// The same, of a client with these capabilities.
pub(crate) async fn initialize_as(gateway: &TestGateway, version: &str, capabilities: &str) -> String {
    let text = initialize_text(version).replace(r#""capabilities":{}"#, &format!(r#""capabilities":{capabilities}"#));
    let answer = send(gateway, text).await;
    assert_eq!(answer.json()["result"]["protocolVersion"], version, "{}", answer.text());
    answer.header("mcp-session-id").to_owned()
}

pub(crate) fn initialize_text(version: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": {
        "protocolVersion": version, "capabilities": {}, "clientInfo": {"name": "test", "version": "1"},
    }})
    .to_string()
}

/// The error of an answer: HTTP status, code, id.
pub(crate) fn error_of(answer: &HttpAnswer) -> (u16, i64, Value) {
    let body = answer.json();
    assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
    (answer.status, body["error"]["code"].as_i64().expect("a code"), body["id"].clone())
}

/// An open stream of messages.
pub(crate) struct MessageStream(sse::SseEvents);

impl MessageStream {
    /// Opens the stream of a session.
    pub(crate) async fn of_session(gateway: &TestGateway, path: &str, session: Option<&str>) -> Self {
        let request = client::request(Method::GET, &gateway.url(path)).bearer(&gateway.token);
        let request = request.header("accept", "text/event-stream").limit(LIMIT);
        Self::of(session.into_iter().fold(request, |request, id| request.header("mcp-session-id", id))).await
    }

    /// Opens the stream of a client of 2024-11-05.
    pub(crate) async fn of_sse(gateway: &TestGateway) -> Self {
        Self::of(client::request(Method::GET, &gateway.url("/sse")).bearer(&gateway.token).limit(LIMIT)).await
    }

    /// The URL for its messages, from the first event.
    pub(crate) async fn endpoint(&mut self) -> String {
        let event = self.0.next(LIMIT).await.expect("an event in time").expect("not the end");
        assert_eq!(event.event, "endpoint");
        event.data
    }

    /// Sends a request that is answered with a stream.
    pub(crate) async fn of(request: HttpRequest) -> Self {
        let stream = request.open().await.expect("an answer");
        let (kind, buffering) = (stream.header("content-type"), stream.header("x-accel-buffering"));
        assert_eq!((stream.status, kind, buffering), (200, "text/event-stream", "no"));
        Self(stream.into())
    }

    /// The next message; none at the end of the stream.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let event = self.0.next(LIMIT).await.expect("a message in time")?;
        Some(serde_json::from_str(&event.data).expect("an event is JSON"))
    }

    /// Whether no message arrives within this time.
    pub(crate) async fn is_quiet(&mut self, time: Duration) -> bool {
        self.0.next(time).await.is_err()
    }
}

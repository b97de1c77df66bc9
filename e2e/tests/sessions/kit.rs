//! A legacy client that may call any replica.

use std::time::Duration;

use http::Method;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer, HttpRequest};
use portcullis_e2e::sse::{self, SseEvents};
use serde_json::{Value, json};

/// A session.
pub(crate) struct TestSession {
    pub(crate) id: String,
    path: String,
}

impl TestSession {
    pub(crate) async fn begin(gateway: &TestGateway, path: &str) -> Self {
        let params =
            json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let request = client::post(&gateway.url(path), message.to_string()).bearer(&gateway.token);
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.json()["result"]["protocolVersion"], "2025-11-25", "{}", answer.text());
        Self { id: answer.header("mcp-session-id").to_owned(), path: path.into() }
    }

    /// Any request in this session.
    pub(crate) fn request(&self, gateway: &TestGateway, method: Method, body: &str) -> HttpRequest {
        let request = client::request(method, &gateway.url(&self.path)).bearer(&gateway.token).body(body.to_owned());
        let request = request.header("accept", "application/json, text/event-stream").limit(LIMIT);
        request.header("mcp-session-id", &self.id).header("content-type", "application/json")
    }

    pub(crate) async fn send(&self, gateway: &TestGateway, message: &Value) -> HttpAnswer {
        self.request(gateway, Method::POST, &message.to_string()).send().await.expect("an answer")
    }

    /// The whole answer to a request.
    pub(crate) async fn ask(&self, gateway: &TestGateway, method: &str, params: Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.send(gateway, &message).await.json()
    }

    pub(crate) async fn listen(&self, gateway: &TestGateway) -> SseEvents {
        sse::open(self.request(gateway, Method::GET, "")).await.expect("a stream")
    }

    pub(crate) async fn end(&self, gateway: &TestGateway) {
        let answer = self.request(gateway, Method::DELETE, "").send().await.expect("an answer");
        assert_eq!(answer.status, 204);
    }
}

/// An empty answer.
pub(crate) fn done() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "result": {}})
}

/// The next message of a stream.
pub(crate) async fn next(events: &mut SseEvents) -> Value {
    let event = events.next(LIMIT).await.expect("a message in time").expect("not the end");
    serde_json::from_str(&event.data).expect("JSON")
}

/// Whether nothing comes for a while.
pub(crate) async fn is_quiet(events: &mut SseEvents) -> bool {
    events.next(Duration::from_millis(300)).await.is_err()
}

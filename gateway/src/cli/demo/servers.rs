//! Two minimal MCP servers: legacy HTTP+SSE, and streamable HTTP.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::stream;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// The limit for queued events of a session.
const QUEUE: usize = 64;

/// How long a stopped server stays unavailable.
const AWAY: Duration = Duration::from_secs(20);

type DemoSessions = Arc<Mutex<HashMap<String, mpsc::Sender<String>>>>;

/// A server over legacy HTTP+SSE with the tools `greet` and `time`.
pub(super) fn legacy() -> Router {
    Router::new()
        .route("/sse", get(open_stream))
        .route("/message", post(take_message))
        .with_state(DemoSessions::default())
}

async fn open_stream(State(sessions): State<DemoSessions>) -> Response {
    let mut id = [0; 16];
    let _ = aws_lc_rs::rand::fill(&mut id);
    let id: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let (sender, events) = mpsc::channel(QUEUE);
    let _ = sender.try_send(format!("event: endpoint\ndata: /message?sessionId={id}\n\n"));
    let mut all = sessions.lock();
    all.retain(|_, sender| !sender.is_closed());
    all.insert(id, sender);
    let events = stream::unfold(events, |mut events| async move {
        events.recv().await.map(|event| (Ok::<_, std::convert::Infallible>(event), events))
    });
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(events)).into_response()
}

async fn take_message(
    State(sessions): State<DemoSessions>,
    Query(query): Query<HashMap<String, String>>,
    body: Bytes,
) -> StatusCode {
    let id = query.get("sessionId").map(String::as_str).unwrap_or_default();
    let Some(sender) = sessions.lock().get(id).cloned() else {
        return StatusCode::NOT_FOUND;
    };
    let Ok(message) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST };
    if let Some(answer) = answer(&["greet", "time"], &message) {
        let _ = sender.send(format!("event: message\ndata: {answer}\n\n")).await;
    }
    StatusCode::ACCEPTED
}

type Stopped = Arc<Mutex<Option<Instant>>>;

/// A server over streamable HTTP with the tools `add` and `time`; `POST /stop` makes it fail for a while.
pub(super) fn streamable() -> Router {
    Router::new().route("/mcp", post(take_request)).route("/stop", post(stop)).with_state(Stopped::default())
}

async fn stop(State(stopped): State<Stopped>) -> &'static str {
    *stopped.lock() = Some(Instant::now());
    "stopped for 20 seconds\n"
}

async fn take_request(State(stopped): State<Stopped>, body: Bytes) -> Response {
    if stopped.lock().is_some_and(|since| since.elapsed() < AWAY) {
        return StatusCode::SERVICE_UNAVAILABLE.into_response();
    }
    let Ok(message) = serde_json::from_slice::<Value>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    match answer(&["add", "time"], &message) {
        Some(answer) => ([(header::CONTENT_TYPE, "application/json")], answer.to_string()).into_response(),
        None => StatusCode::ACCEPTED.into_response(),
    }
}

/// The answer to a request; `None` for a notification.
///
/// Both servers report the same software, so that they share `time`.
fn answer(tools: &[&str], message: &Value) -> Option<Value> {
    let id = message.get("id")?;
    let params = message.get("params").cloned().unwrap_or_default();
    let result = match message.get("method").and_then(Value::as_str).unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}},
            "serverInfo": {"name": "demo", "version": env!("CARGO_PKG_VERSION")},
        }),
        "ping" => json!({}),
        "tools/list" => json!({"tools": tools.iter().map(|name| definition(name)).collect::<Vec<_>>()}),
        "tools/call" => match call(&params) {
            Some(text) => json!({"content": [{"type": "text", "text": text}]}),
            None => return Some(error(id, -32602, "unknown tool or wrong arguments")),
        },
        _ => return Some(error(id, -32601, "method not found")),
    };
    Some(json!({"jsonrpc": "2.0", "id": id, "result": result}))
}

fn error(id: &Value, code: i64, message: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
}

fn definition(name: &str) -> Value {
    let (description, properties) = match name {
        "greet" => ("Greets somebody by name.", json!({"name": {"type": "string"}})),
        "add" => ("Adds two numbers.", json!({"a": {"type": "number"}, "b": {"type": "number"}})),
        _ => ("Tells the seconds since 1970.", json!({})),
    };
    let required: Vec<&String> = properties.as_object().map(|all| all.keys().collect()).unwrap_or_default();
    json!({
        "name": name,
        "description": description,
        "inputSchema": {"type": "object", "properties": properties, "required": required},
        "annotations": {"readOnlyHint": true},
    })
}

fn call(params: &Value) -> Option<String> {
    let arguments = params.get("arguments")?;
    match params.get("name")?.as_str()? {
        "greet" => Some(format!("Hello, {}!", arguments.get("name")?.as_str()?)),
        "add" => Some((arguments.get("a")?.as_f64()? + arguments.get("b")?.as_f64()?).to_string()),
        "time" => Some(SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs().to_string()),
        _ => None,
    }
}

//! Checks requests as 2026-07-28 requires, and serves its `subscriptions/listen`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{Request, Response};

use super::call::Out;
use super::methods::{MODERN, modern_knows};
use super::pipe::{Payload, pipe};
use super::rpc::{self, RpcMessage, RpcParams};
use super::service::{event_stream, header, json, plain};
use super::state::FaultyState;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const SUBSCRIPTION: &str = "io.modelcontextprotocol/subscriptionId";

/// The refusal that a request deserves, if any; notifications are taken as they are.
pub(super) fn refusal(request: &Request<()>, message: &RpcMessage) -> Option<Response<Payload>> {
    let Some(id) = message.id() else { return Some(plain(202, "")) };
    let (method, params) = (message.method(), message.params());
    let Some(version) = params.meta_text(VERSION) else { return Some(bad(id, -32602, "_meta has no protocolVersion")) };
    if !params.meta.contains_key(CAPABILITIES) {
        return Some(bad(id, -32602, "_meta has no clientCapabilities"));
    }
    if let Some(name) = mismatch(request, method, &params, &version) {
        return Some(bad(id, -32020, &format!("Header mismatch: {name}")));
    }
    if version != MODERN {
        let data = format!(r#"{{"supported":["{MODERN}"],"requested":"{version}"}}"#);
        let error = format!(r#"{{"code":-32022,"message":"Unsupported protocol version","data":{data}}}"#);
        return Some(json(400, rpc::error(id, &error)));
    }
    (!modern_knows(method)).then(|| json(404, rpc::error_of(id, -32601, "Method not found")))
}

/// Opens the stream of notifications: the acknowledgement first, then whatever changes.
pub(super) async fn listen(state: &Arc<FaultyState>, message: &RpcMessage) -> Response<Payload> {
    let id = message.id().unwrap_or("null");
    let (pipe, body) = pipe();
    state.seen().streams += 1;
    let out = Out { pipe: pipe.clone(), events: true };
    let extra = r#","notifications":{"toolsListChanged":true}"#;
    out.message(state, &note("notifications/subscriptions/acknowledged", id, extra)).await;
    state.add_listen(id, &pipe);
    event_stream(body)
}

/// A notification of a subscription.
pub(super) fn note(method: &str, id: &str, extra: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"_meta":{{"{SUBSCRIPTION}":{id}}}{extra}}}}}"#)
}

fn mismatch(request: &Request<()>, method: &str, params: &RpcParams, version: &str) -> Option<&'static str> {
    if header(request, "mcp-protocol-version") != version {
        return Some("MCP-Protocol-Version");
    }
    if header(request, "mcp-method") != method {
        return Some("Mcp-Method");
    }
    let named = method == "tools/call" && decoded(header(request, "mcp-name")) != params.name;
    named.then_some("Mcp-Name")
}

fn decoded(value: &str) -> Option<String> {
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => String::from_utf8(STANDARD.decode(encoded).ok()?).ok(),
        None => Some(value.to_owned()),
    }
}

fn bad(id: &str, code: i64, message: &str) -> Response<Payload> {
    json(400, rpc::error_of(id, code, message))
}

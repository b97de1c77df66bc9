//! Servers that are the gateway itself, or gateways that lead back to it.

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::http;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::stack::{STATE_DEADLINE, ServerManifest, Stack, at, server};

const INSTANCE: &str = "portcullis-instance";

/// A gateway as a server of another, or of itself.
fn gateway(name: &str, to: &Stack, path: &str) -> ServerManifest {
    let value = format!("Bearer {}", to.token());
    at(name, &to.url(path)).with("headers", json!([{"name": "Authorization", "value": value}]))
}

#[tokio::test]
async fn a_server_that_is_the_gateway_itself_is_refused_with_and_without_a_token() {
    let faulty = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("fine", "fine")]).await;
    let stack = Stack::ready([server("honest", &faulty)]).await;
    let without = at("without", &stack.url("/mcp"));
    let entries = [
        gateway("self", &stack, "/mcp"),
        gateway("sse", &stack, "/sse").with("transport", json!("sse")),
        gateway("streamable", &stack, "/mcp").with("protocolVersion", json!("2025-11-25")),
        without,
    ];
    for entry in &entries {
        stack.set(entry);
    }
    for name in ["self", "sse", "streamable", "without"] {
        let state = stack.until(name, "a loop", |it| it["reason"] == "Loop").await;
        assert_eq!(state["connected"], false, "{name}");
    }
    assert_eq!(stack.tools().await, ["fine"]);
    assert_eq!(stack.call("fine").await.status, 200);
}

#[tokio::test]
async fn a_ring_of_gateways_is_refused_and_what_leads_nowhere_else_is_used() {
    let tool = async |name| Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text(name, name)]).await;
    let (of_first, of_second) = (tool("one").await, tool("two").await);
    let first = Stack::ready([server("own", &of_first)]).await;
    let second = Stack::ready([server("own", &of_second), gateway("first", &first, "/mcp")]).await;
    second.works("one").await;
    first.set(&gateway("second", &second, "/mcp"));
    first.until("second", "a loop", |it| it["reason"] == "Loop").await;
    assert_eq!(first.tools().await, ["one"]);
    assert_eq!(second.call("one").await.status, 200);
    assert_eq!(second.call("two").await.status, 200);
}

#[tokio::test]
async fn what_a_caller_says_of_gateways_harms_nobody_but_itself() {
    let faulty = Faulty::start(FaultyMode::Streamable).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    let hop = faulty.seen().requests.back().expect("a request").header(INSTANCE).to_owned();
    assert!(!hop.is_empty());
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo", "arguments": {}}});
    let said = async |value: &str| {
        let request = http::post(&stack.url("/mcp"), call.to_string()).bearer(stack.token());
        let accept = "application/json, text/event-stream";
        request.header("accept", accept).header(INSTANCE, value).send().await.expect("an answer")
    };
    // What the server was sent comes back: only this request is refused.
    assert_eq!(said(&hop).await.status, 508);
    assert_eq!(said(&["x"; 9].join(",")).await.status, 508);
    for (value, passed_on) in [("made-up", "made-up, "), ("no token at all", ""), ("a,b", "a, b, ")] {
        assert_eq!(said(value).await.status, 200, "{value}");
        let seen = faulty.seen();
        let last = seen.of("tools/call").pop().expect("a call").header(INSTANCE).to_owned();
        assert!(last.starts_with(passed_on) && last.len() == passed_on.len() + hop.len(), "{last}");
    }
    wait_for("calls that work", STATE_DEADLINE, || async {
        let answer = stack.call("echo").await;
        if answer.status == 200 { Ok(()) } else { Err(answer.status) }
    })
    .await;
    assert_eq!(stack.server("a").await["reason"], json!(null));
}

//! Each client at a server without the gateway: it must see the same through the gateway.

use std::collections::BTreeSet;

use portcullis_e2e::conformance::{self, Conforming};
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::{http, require};
use serde_json::{Value, json};

use crate::program::ClientProgram;
use crate::story::{ClientReport, ClientTask};
use crate::{inspector, rust};

const PROGRESS: [f64; 3] = [0.0, 50.0, 100.0];

fn task(server: &Conforming, legacy: bool) -> ClientTask {
    ClientTask {
        url: server.url(TestTransport::StreamableHttp),
        token: "nobody looks at it".into(),
        legacy,
        quick: ("test_simple_text", json!({})),
        slow: ("test_tool_with_progress", json!({})),
        fresh: "test_coming_and_going",
    }
}

/// The report of a client at [`Conforming`].
fn expected(legacy: bool) -> ClientReport {
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let names = |list: Vec<Value>| list.iter().map(|item| item["name"].as_str().expect("a name").into()).collect();
    ClientReport {
        revision: if legacy { "2025-11-25" } else { "2026-07-28" }.into(),
        tools: names(conformance::tools()),
        prompts: names(conformance::prompts()),
        resources: set(&["test://static-binary", "test://static-text", "test://watched-resource"]),
        quick: "This is a simple text response for testing.".into(),
        slow: "test_tool_with_progress is done".into(),
        progress: PROGRESS.to_vec(),
        fresh: set(&["test_coming_and_going"]),
    }
}

async fn bring_the_fresh_tool(server: &Conforming) {
    let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"test_trigger_tool_change","arguments":{{}},{meta}}}}}"#
    );
    let request = http::post(&server.url(TestTransport::StreamableHttp), call)
        .header("mcp-protocol-version", "2026-07-28")
        .header("mcp-method", "tools/call")
        .header("mcp-name", "test_trigger_tool_change");
    assert_eq!(request.send().await.expect("an answer").status, 200);
}

async fn program_works(program: ClientProgram, legacy: bool) {
    require!(ClientProgram::available());
    let server = Conforming::start().await;
    let seen = program.run(&task(&server, legacy), async || bring_the_fresh_tool(&server).await).await;
    assert_eq!(seen, expected(legacy));
}

async fn over_sse(program: ClientProgram) {
    require!(ClientProgram::available());
    let server = Conforming::start().await;
    let task = ClientTask { url: server.url(TestTransport::Sse), ..task(&server, true) };
    let seen = program.run(&task, async || bring_the_fresh_tool(&server).await).await;
    assert_eq!(seen, expected(true));
}

async fn rmcp_works(legacy: bool) {
    let server = Conforming::start().await;
    let seen = rust::run(&task(&server, legacy), PROGRESS.len(), async || bring_the_fresh_tool(&server).await).await;
    assert_eq!(seen, expected(legacy));
}

async fn inspector_works(legacy: bool) {
    require!(ClientProgram::available());
    let server = Conforming::start().await;
    let seen = inspector::run(&task(&server, legacy)).await;
    assert_eq!(seen, ClientReport { progress: Vec::new(), fresh: BTreeSet::new(), ..expected(legacy) });
}

#[tokio::test]
async fn the_python_sdk_1_sees_a_server() {
    program_works(ClientProgram::Mcp1, true).await;
}

#[tokio::test]
async fn the_python_sdk_1_sees_a_server_over_sse() {
    over_sse(ClientProgram::Mcp1).await;
}

#[tokio::test]
async fn fastmcp_sees_a_server_over_sse() {
    over_sse(ClientProgram::Fastmcp).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_sees_a_server_over_sse() {
    over_sse(ClientProgram::Typescript1).await;
}

#[tokio::test]
async fn the_python_sdk_2_sees_a_server() {
    program_works(ClientProgram::Mcp2, false).await;
}

#[tokio::test]
async fn the_python_sdk_2_sees_a_server_with_a_session() {
    program_works(ClientProgram::Mcp2, true).await;
}

#[tokio::test]
async fn fastmcp_sees_a_server() {
    program_works(ClientProgram::Fastmcp, false).await;
}

#[tokio::test]
async fn fastmcp_sees_a_server_with_a_session() {
    program_works(ClientProgram::Fastmcp, true).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_sees_a_server() {
    program_works(ClientProgram::Typescript1, true).await;
}

#[tokio::test]
async fn the_typescript_sdk_2_sees_a_server() {
    program_works(ClientProgram::Typescript2, false).await;
}

#[tokio::test]
async fn the_typescript_sdk_2_sees_a_server_with_a_session() {
    program_works(ClientProgram::Typescript2, true).await;
}

#[tokio::test]
async fn rmcp_sees_a_server() {
    rmcp_works(false).await;
}

#[tokio::test]
async fn rmcp_sees_a_server_with_a_session() {
    rmcp_works(true).await;
}

#[tokio::test]
async fn the_inspector_sees_a_server() {
    inspector_works(false).await;
}

#[tokio::test]
async fn the_inspector_sees_a_server_with_a_session() {
    inspector_works(true).await;
}

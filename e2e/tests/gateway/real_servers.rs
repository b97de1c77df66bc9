//! Every kind of real server behind the gateway: detected, listed and called unchanged.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, RealServerKind, TestTransport};
use portcullis_e2e::require;
use serde_json::{Value, json};

use crate::direct::{Direct, definitions};
use crate::fleet;

/// Calls whose results do not depend on anything, and calls that a tool refuses.
struct Calls {
    good: &'static [(&'static str, &'static str)],
    refused: &'static [(&'static str, &'static str)],
}

const EVERYTHING: Calls = Calls {
    good: &[
        ("echo", r#"{"message":"Grüße \u0000 \ud83d\ude00"}"#),
        ("get-sum", r#"{"a":2,"b":40}"#),
        ("get-structured-content", r#"{"location":"Chicago"}"#),
        ("get-tiny-image", "{}"),
        ("get-annotated-message", r#"{"messageType":"error","includeImage":true}"#),
    ],
    refused: &[("echo", "{}"), ("get-sum", r#"{"a":"x","b":1}"#)],
};

const OURS: Calls = Calls {
    good: &[("echo", r#"{"message":"Grüße \u0000 \ud83d\ude00"}"#), ("add", r#"{"a":2,"b":40}"#)],
    refused: &[("echo", "{}"), ("add", r#"{"a":"x","b":1}"#)],
};

/// One gateway in front of one real server twice: found out, and told.
async fn is_served_as_it_is(kind: RealServerKind, version: &str, info: &str) {
    let server = fleet::server(kind).await;
    let transport = match kind.transport() {
        TestTransport::Sse => "sse",
        TestTransport::StreamableHttp => "streamable-http",
    };
    let manifests = Manifests::new();
    manifests.add("found-out", &server.url, "");
    manifests.add("told", &server.url, &format!("transport: {transport}"));
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(2).await;

    let mut direct = Direct::open(server, version).await;
    let tools = direct.tools().await;
    let others = direct.others().await;
    assert_eq!(others.iter().all(|count| *count > 0), !kind.has_our_tools(), "server-everything has all of them");
    for name in ["found-out", "told"] {
        let mut view = gateway.server(name).await;
        assert!(view.as_object_mut().expect("a server").remove("since").is_some());
        assert!(view["server_info"]["version"].take().is_string());
        let expected = json!({
            "connected": true, "tools_count": tools.len(), "available_tools": tools.keys().collect::<Vec<_>>(),
            "prompts_count": others[0], "resources_count": others[1], "resource_templates_count": others[2],
            "transport": transport, "protocol_version": version, "last_error": null, "reason": null,
            "name": name, "state": "ready", "url": server.url, "display_name": null, "description": null,
            "instructions": direct.instructions, "server_info": {"name": info, "version": null},
            "extensions": direct.extensions, "tools_left_out": 0, "list_problems": [], "list_problems_count": 0,
        "calls_in_flight": 0, "ejected": false,
        });
        assert_eq!(view, expected);
        let listed = gateway.get(&format!("/tools/list?server={name}")).send().await.expect("a list");
        assert_eq!(definitions(listed.text()), tools);
        calls_are_passed_on(&gateway, name, kind, &mut direct).await;
    }
}

async fn calls_are_passed_on(gateway: &TestGateway, name: &str, kind: RealServerKind, direct: &mut Direct) {
    let calls = if kind.has_our_tools() { OURS } else { EVERYTHING };
    for (tool, arguments) in calls.good.iter().chain(calls.refused) {
        let answer = gateway.call_at(name, tool, arguments).await;
        let expected = direct.call(tool, arguments).await;
        assert_eq!((answer.status, answer.text()), (200, expected.as_str()), "{tool} {arguments}");
        assert_eq!((answer.header("x-portcullis-server"), answer.header("x-portcullis-attempts")), (name, "1"));
        assert_eq!(answer.header("content-type"), "application/json");
        let is_refused = calls.refused.contains(&(tool, arguments));
        assert_eq!(answer.json()["isError"] == true, is_refused, "{tool} {arguments}: {}", answer.text());
    }
}

const EVERYTHING_NAME: &str = "mcp-servers/everything";

#[tokio::test]
async fn server_everything_over_sse_is_served_as_it_is() {
    require!(real::available(RealServerKind::EverythingSse));
    is_served_as_it_is(RealServerKind::EverythingSse, "2025-11-25", EVERYTHING_NAME).await;
}

#[tokio::test]
async fn server_everything_over_streamable_http_is_served_as_it_is() {
    require!(real::available(RealServerKind::EverythingStreamable));
    is_served_as_it_is(RealServerKind::EverythingStreamable, "2025-11-25", EVERYTHING_NAME).await;
}

#[tokio::test]
async fn a_stdio_server_behind_supergateway_is_served_as_it_is() {
    require!(real::available(RealServerKind::SupergatewaySse));
    is_served_as_it_is(RealServerKind::SupergatewaySse, "2025-11-25", EVERYTHING_NAME).await;
}

#[tokio::test]
async fn the_python_sdk_over_sse_is_served_as_it_is() {
    require!(real::available(RealServerKind::PythonSse));
    is_served_as_it_is(RealServerKind::PythonSse, "2025-11-25", "python-mcp").await;
}

#[tokio::test]
async fn the_python_sdk_over_streamable_http_is_served_as_it_is() {
    require!(real::available(RealServerKind::PythonStreamable));
    is_served_as_it_is(RealServerKind::PythonStreamable, "2026-07-28", "python-mcp").await;
}

#[tokio::test]
async fn fastmcp_over_sse_is_served_as_it_is() {
    require!(real::available(RealServerKind::FastmcpSse));
    is_served_as_it_is(RealServerKind::FastmcpSse, "2025-11-25", "python-fastmcp").await;
}

#[tokio::test]
async fn fastmcp_over_streamable_http_is_served_as_it_is() {
    require!(real::available(RealServerKind::FastmcpStreamable));
    is_served_as_it_is(RealServerKind::FastmcpStreamable, "2026-07-28", "python-fastmcp").await;
}

#[tokio::test]
async fn progress_keeps_a_call_alive_beyond_its_time() {
    for kind in RealServerKind::ALL {
        require!(real::available(kind));
    }
    let manifests = Manifests::new();
    for (kind, url) in RealServerKind::ALL.iter().zip(fleet::urls(&RealServerKind::ALL).await) {
        manifests.add(
            &name(*kind),
            url,
            &format!("timeouts: {{requestSeconds: 2}}\ntools: {{prefix: {}}}", name(*kind)),
        );
    }
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(7).await;
    let began = Instant::now();
    join_all(RealServerKind::ALL.map(|kind| finishes_late(&gateway, kind))).await;
    assert!(began.elapsed() < LIMIT);
}

async fn finishes_late(gateway: &TestGateway, kind: RealServerKind) {
    let (tool, arguments, text) = if kind.has_our_tools() {
        ("slow", r#"{"seconds":3}"#, "done")
    } else {
        (
            "trigger-long-running-operation",
            r#"{"duration":3,"steps":6}"#,
            "Long running operation completed. Duration: 3 seconds, Steps: 6.",
        )
    };
    let began = Instant::now();
    let answer = gateway.call(&format!("{}__{tool}", name(kind)), arguments).await;
    assert!(began.elapsed() > Duration::from_millis(2900), "{kind:?}: {:?}", began.elapsed());
    assert_eq!((answer.status, &answer.json()["content"]), (200, &json!([{"type": "text", "text": text}])), "{kind:?}");
}

fn name(kind: RealServerKind) -> String {
    format!("{kind:?}").to_lowercase()
}

#[tokio::test]
async fn a_real_call_without_progress_ends_at_its_deadline() {
    require!(real::available(RealServerKind::PythonSse));
    let manifests = Manifests::new();
    manifests.add("python", &fleet::server(RealServerKind::PythonSse).await.url, "timeouts: {requestSeconds: 1}");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let answer = gateway.call("slow", r#"{"seconds":5}"#).await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.text(), r#"{"error":{"message":"the server did not answer in time","code":504}}"#);
}

const TOGETHER: [(&str, RealServerKind); 5] = [
    ("everything-http", RealServerKind::EverythingStreamable),
    ("everything-sse", RealServerKind::EverythingSse),
    ("fastmcp", RealServerKind::FastmcpStreamable),
    ("python", RealServerKind::PythonStreamable),
    ("supergateway", RealServerKind::SupergatewaySse),
];

#[tokio::test]
async fn five_real_servers_are_one_catalog() {
    for (_, kind) in TOGETHER {
        require!(real::available(kind));
    }
    let manifests = Manifests::new();
    let urls = fleet::urls(&TOGETHER.map(|(_, kind)| kind)).await;
    for ((name, _), url) in TOGETHER.iter().zip(&urls) {
        manifests.add(name, url, "");
    }
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(5).await;

    let list = gateway.get("/tools/list").send().await.expect("a list");
    let again = gateway.get("/tools/list").send().await.expect("a list");
    assert_eq!(list.body, again.body, "the order is always the same");
    let list = list.json();
    let servers: Vec<(&str, &Value, &Value)> = list["tools"]
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| (tool["name"].as_str().expect("a name"), &tool["available_servers"], &tool["server_count"]))
        .filter(|(name, ..)| {
            name.contains("echo") || name.contains("add") || name.contains("counter") || *name == "get-sum"
        })
        .collect();
    let three = json!(["everything-http", "everything-sse", "supergateway"]);
    let (fastmcp, python) = (json!(["fastmcp"]), json!(["python"]));
    let (n1, n3) = (json!(1), json!(3));
    assert_eq!(
        servers,
        [
            ("add", &fastmcp, &n1),
            ("counter", &fastmcp, &n1),
            ("echo", &three, &n3),
            ("fastmcp__echo", &fastmcp, &n1),
            ("get-sum", &three, &n3),
            ("python__add", &python, &n1),
            ("python__counter", &python, &n1),
            ("python__echo", &python, &n1),
        ]
    );
    preferences_are_heeded(&gateway, &urls).await;
}

async fn preferences_are_heeded(gateway: &TestGateway, urls: &[&str]) {
    let echo = r#"{"message":"hi"}"#;
    for ((name, _), url) in TOGETHER.iter().zip(urls).filter(|((name, _), _)| !["fastmcp", "python"].contains(name)) {
        for server in [*name, *url] {
            let answer = gateway.call_at(server, "echo", echo).await;
            assert_eq!((answer.status, answer.header("x-portcullis-server")), (200, *name), "preferred as {server}");
        }
    }
    let elsewhere = gateway.call_at("everything-sse", "python__echo", echo).await;
    assert_eq!((elsewhere.status, elsewhere.header("x-portcullis-server")), (200, "python"));
    let unknown = gateway.call_at("nobody", "echo", echo).await;
    let message = r#"{"error":{"message":"there is no server \"nobody\": GET /servers lists them","code":404}}"#;
    assert_eq!((unknown.status, unknown.text()), (404, message));
}

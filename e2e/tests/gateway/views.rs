//! The whole answers of `/health`, `/servers`, `/metrics` and the probes.

use portcullis_e2e::faulty::{Faulty, FaultyMode, ProtocolFault, Tool};
use portcullis_e2e::gateway::{TestGateway, options};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::port;
use portcullis_gateway::Options;
use serde_json::json;

use crate::rest::{send, start};

#[tokio::test]
async fn health_tells_strangers_names_only() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let url = format!("{}?key=hunter2", server.url());
    let away = format!("{}/sse?key=hunter2", port::hold().origin());
    let gateway = TestGateway::before(&[&url, &away]).await;
    gateway.connected(1).await;
    let port = |url: &str| url.split([':', '/']).nth(4).expect("a port").to_owned();
    let names = [&url, &away].map(|url| format!("127-0-0-1-{}-sse", port(url)));
    let body = |keys: [&str; 2]| {
        json!({
            "status": "healthy",
            "servers": {"total": 2, "connected": 1, "status": {
                keys[0]: {"connected": true, "tools_count": 1},
                keys[1]: {"connected": false, "tools_count": 0},
            }},
            "tools": {"total": 1},
            "configuration": {"ok": true},
        })
    };
    let stranger = send(client::get(&gateway.url("/health"))).await;
    assert_eq!((stranger.status, stranger.json()), (200, body([&names[0], &names[1]])));
    assert!(!stranger.text().contains("hunter2"));
    // A caller with a token sees the URLs, but not their parts that may hold a key.
    let [shown, shown_away] = [&url, &away].map(|url| url.split('?').next().expect("a part"));
    assert_eq!(gateway.health().await, body([shown, shown_away]));
    let wrong = send(client::get(&gateway.url("/health")).bearer("nonsense")).await;
    assert_eq!((wrong.status, wrong.json()), (200, body([&names[0], &names[1]])), "a bad token is no token");
}

#[tokio::test]
async fn servers_tells_everything_about_every_server() {
    let server = Faulty::with_tools(FaultyMode::Modern, vec![Tool::echo("b"), Tool::echo("a")]).await;
    let other = Faulty::start(FaultyMode::Sse).await;
    other.behave(|faults| faults.init = ProtocolFault::Error(r#"{"code":-32603,"message":"hunter2"}"#.into()));
    let manifests = Manifests::new();
    manifests.add("good", &server.url(), "displayName: Good one\ndescription: It works.");
    manifests.add("bad", &other.url(), "");
    manifests.add("off", &other.url(), "state: Disabled");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    gateway.fails("bad", "refuses the handshake (JSON-RPC error -32603)").await;
    let mut body = gateway.servers().await;
    for name in ["good", "bad", "off"] {
        let since = body["servers"][name].as_object_mut().expect("a server").remove("since").expect("a time");
        assert!(since.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{since}");
    }
    let nothing = json!({
        "connected": false, "tools_count": 0, "available_tools": [], "prompts_count": 0, "resources_count": 0,
        "resource_templates_count": 0, "transport": null, "protocol_version": null,
        "last_error": null, "reason": null, "name": "off", "state": "disabled", "url": other.url(), "display_name": null,
        "description": null, "instructions": null, "server_info": null, "extensions": [], "tools_left_out": 0, "list_problems": [], "list_problems_count": 0,
        "calls_in_flight": 0, "ejected": false,
    });
    let mut bad = nothing.clone();
    bad["name"] = "bad".into();
    bad["state"] = "backoff".into();
    bad["last_error"] = "refuses the handshake (JSON-RPC error -32603)".into();
    bad["reason"] = "HandshakeFailed".into();
    let good = json!({
        "connected": true, "tools_count": 2, "available_tools": ["a", "b"], "prompts_count": 0, "resources_count": 0,
        "resource_templates_count": 0, "transport": "streamable-http",
        "protocol_version": "2026-07-28", "last_error": null, "reason": null, "name": "good", "state": "ready", "url": server.url(),
        "display_name": "Good one", "description": "It works.", "instructions": null, "server_info": {"name": "faulty", "version": "1.0.0"},
        "extensions": [], "tools_left_out": 0, "list_problems": [], "list_problems_count": 0,
        "calls_in_flight": 0, "ejected": false,
    });
    let summary = json!({"total_servers": 3, "connected_servers": 1, "total_tools": 2});
    assert_eq!(body, json!({"servers": {"good": good, "bad": bad, "off": nothing}, "summary": summary}));
}

#[tokio::test]
async fn metrics_and_probes_are_on_the_main_port_or_on_their_own() {
    let (gateway, server) = start().await;
    assert_eq!(gateway.admin, gateway.address);
    let options = Options { mcp_url: Some(server.url()), admin_address: Some("127.0.0.1:0".into()), ..options() };
    let apart = TestGateway::start(options).await;
    assert_ne!(apart.admin, apart.address);
    gateway.ready().await;
    apart.ready().await;
    for (path, text) in [("/livez", "ok\n"), ("/readyz", "ok\n")] {
        for address in [gateway.address, apart.admin] {
            let answer = send(client::get(&format!("http://{address}{path}"))).await;
            assert_eq!((answer.status, answer.text()), (200, text));
        }
        assert_eq!(send(apart.get(path)).await.status, 404);
    }
    assert_eq!(send(apart.get("/metrics")).await.status, 404);
    assert_eq!(send(client::get(&format!("http://{}/tools/list", apart.admin))).await.status, 404);
}

#[tokio::test]
async fn the_names_and_labels_of_the_metrics_are_stable() {
    let (gateway, server) = start().await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    assert_eq!(gateway.call("nothing", "{}").await.status, 404);
    assert_eq!(send(client::get(&gateway.url("/servers"))).await.status, 401);
    assert_eq!(send(client::get(&gateway.url("/nowhere"))).await.status, 404);
    let text = gateway.metrics().await;
    let mut names: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("# TYPE portcullis_")).collect();
    names.sort_unstable();
    assert_eq!(names, METRICS);
    let server = gateway.servers().await["servers"][&server.url()]["name"].as_str().expect("a name").to_owned();
    for (series, wanted) in [
        (format!(r#"portcullis_tool_calls_total{{outcome="ok",server="{server}",tool="echo"}}"#), 1.0),
        (r#"portcullis_unknown_tool_calls_total"#.to_owned(), 1.0),
        (r#"portcullis_auth_rejections_total{reason="missing"}"#.to_owned(), 1.0),
        (r#"portcullis_http_request_duration_seconds_count{method="GET",route="other",status="404"}"#.to_owned(), 1.0),
        (format!(r#"portcullis_server_up{{server="{server}"}}"#), 1.0),
        (format!(r#"portcullis_catalog_tools{{server="{server}"}}"#), 1.0),
        (format!(r#"portcullis_server_calls_in_flight{{server="{server}"}}"#), 0.0),
        ("portcullis_configuration_ok".to_owned(), 1.0),
    ] {
        assert_eq!(gateway.metric(&series).await, Some(wanted), "{series}");
    }
    assert!(!text.contains("nothing") && !text.contains("nowhere"), "what callers send makes no series");
}

/// Names and kinds of the metrics that are there after a good call, a refused one and one of an unknown tool.
const METRICS: [&str; 36] = [
    "assertion_keys_ok gauge",
    "audit_lines_dropped_total counter",
    "audit_log_ok gauge",
    "audit_refusals_total counter",
    "auth_rejections_total counter",
    "build_info gauge",
    "calls_waiting_for_input gauge",
    "catalog_tools gauge",
    "client_questions_open gauge",
    "client_streams_open gauge",
    "config_source_up gauge",
    "configuration_ok gauge",
    "connections_accepted_total counter",
    "connections_evicted_total counter",
    "connections_open gauge",
    "connections_refused_total counter",
    "failovers_total counter",
    "http_request_duration_seconds histogram",
    "log_lines_dropped_total counter",
    "memory_held_bytes gauge",
    "memory_limit_bytes gauge",
    "memory_refusals_total counter",
    "server_calls_in_flight gauge",
    "server_ejections_total counter",
    "server_up gauge",
    "session_keys_ok gauge",
    "snapshot_applied_timestamp_seconds gauge",
    "snapshot_apply_duration_seconds histogram",
    "snapshot_delay_seconds histogram",
    "tls_certificate_expiry_timestamp_seconds gauge",
    "tls_certificate_ok gauge",
    "tool_call_duration_seconds histogram",
    "tool_calls_total counter",
    "tools_left_out gauge",
    "tools_renamed gauge",
    "unknown_tool_calls_total counter",
];

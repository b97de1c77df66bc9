//! Views: lists, calls and searches through them, and what happens when they come, change and go.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};

use crate::kit::{MessageStream, initialize_text, modern};

const QUIET_PERIOD: Duration = Duration::from_millis(700);

const VIEW: &str = "/mcp/_views/short";

fn view(name: &str, spec: &Value) -> String {
    json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpView", "metadata": {"name": name}, "spec": spec})
        .to_string()
}

/// A gateway before two servers, with these views.
struct Stage {
    weather: Faulty,
    _office: Faulty,
    manifests: Manifests,
    gateway: TestGateway,
}

async fn start(views: &[(&str, Value)]) -> Stage {
    let weather = ["get_weather", "get_forecast", "set_station"].map(Tool::echo).to_vec();
    let weather = Faulty::with_tools(FaultyMode::Streamable, weather).await;
    let office = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("send_mail"), Tool::text("print", "done")]).await;
    let manifests = Manifests::new();
    for (name, spec) in views {
        manifests.write(&format!("view-{name}.yaml"), &view(name, spec));
    }
    manifests.add("weather", &weather.url(), "");
    manifests.add("office", &office.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["get_forecast", "get_weather", "print", "send_mail", "set_station"]).await;
    Stage { weather, _office: office, manifests, gateway }
}

impl Stage {
    async fn ask_as(&self, subject: &str, path: &str, method: &str, params: Value) -> HttpAnswer {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let request = client::post(&self.gateway.url(path), message.to_string()).bearer(&mint(subject)).limit(LIMIT);
        request.send().await.expect("an answer")
    }

    async fn ask(&self, path: &str, method: &str, params: Value) -> Value {
        self.ask_as("agent", path, method, params).await.json()
    }

    async fn call(&self, path: &str, name: &str, arguments: Value) -> Value {
        self.ask(path, "tools/call", json!({"name": name, "arguments": arguments})).await
    }

    async fn names(&self, path: &str) -> Vec<String> {
        let answer = self.ask(path, "tools/list", json!({})).await;
        let tools = answer["result"]["tools"].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }

    async fn lists(&self, path: &str, wanted: &[&str]) {
        wait_for(&format!("{wanted:?} at {path}"), LIMIT, async || {
            let answer = self.ask(path, "tools/list", json!({})).await;
            let tools = answer["result"]["tools"].as_array().cloned().unwrap_or_default();
            let names: Vec<_> = tools.iter().filter_map(|tool| tool["name"].as_str()).collect();
            if names == wanted { Ok(()) } else { Err(answer.clone()) }
        })
        .await;
    }

    async fn rest(&self, body: Value) -> HttpAnswer {
        let request = client::post(&self.gateway.url("/tools"), body.to_string());
        request.bearer(&mint("agent")).limit(LIMIT).send().await.expect("an answer")
    }

    async fn get(&self, path: &str) -> HttpAnswer {
        client::get(&self.gateway.url(path)).bearer(&mint("agent")).limit(LIMIT).send().await.expect("an answer")
    }
}

fn text(answer: &Value) -> &str {
    answer["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{answer}"))
}

fn short() -> Value {
    json!({
        "select": [{"servers": {"names": ["weather"]}, "tools": ["get_*"]}],
        "tools": [{"server": "weather", "name": "get_forecast", "rename": "forecast", "description": "Tomorrow."}],
        "instructions": "Ask for the weather.",
    })
}

#[tokio::test]
async fn every_way_in_lists_what_the_view_holds_and_calls_nothing_else() {
    let stage = start(&[("short", short())]).await;
    assert_eq!(stage.names(VIEW).await, ["forecast", "get_weather"]);
    assert_eq!(stage.names("/mcp/_views/default/short").await, ["forecast", "get_weather"]);
    let since = modern(&stage.gateway, VIEW, "tools/list", None, "").send().await.expect("an answer").json();
    assert_eq!(since["result"]["tools"][0]["description"], "Tomorrow.");
    let listing = stage.get("/tools/list?view=short").await.json();
    let expected = json!([["forecast", ["weather"]], ["get_weather", ["weather"]]]);
    let of = |tool: &Value| json!([tool["name"], tool["available_servers"]]);
    assert_eq!(listing["tools"].as_array().expect("tools").iter().map(of).collect::<Value>(), expected);

    let called = stage.call(VIEW, "forecast", json!({"a": 1})).await;
    assert_eq!(text(&called), r#"{"a":1}"#);
    assert_eq!(stage.rest(json!({"method": "forecast", "args": {"a": 2}, "view": "short"})).await.status, 200);
    assert_eq!(stage.weather.seen().last_arguments().as_deref(), Some(r#"{"a":2}"#));
    for name in ["set_station", "send_mail", "get_forecast"] {
        assert_eq!(stage.call(VIEW, name, json!({})).await["error"]["code"], -32602, "{name}");
        let answer = stage.rest(json!({"method": name, "view": "short"})).await;
        assert_eq!(answer.status, 404, "{name}");
    }
    let begun = client::post(&stage.gateway.url(VIEW), initialize_text("2025-06-18")).bearer(&mint("agent"));
    let begun = begun.limit(LIMIT).send().await.expect("an answer").json();
    assert_eq!(begun["result"]["instructions"], "Ask for the weather.");

    for (path, status) in [
        ("/tools/list?view=nothing", 404),
        ("/tools/list?view=other/short", 404),
        ("/tools/list?view=short&server=weather", 200),
        ("/tools/list?view=short&server=office", 404),
        ("/.well-known/oauth-protected-resource/mcp/_views/default/short", 200),
    ] {
        assert_eq!(stage.get(path).await.status, status, "{path}");
    }
    let unknown = stage.ask_as("agent", "/mcp/_views/nothing", "tools/list", json!({})).await;
    assert_eq!(unknown.status, 404);
    assert!(unknown.text().contains("view nothing does not exist"), "{}", unknown.text());
    assert_eq!(stage.rest(json!({"method": "forecast", "view": "nothing"})).await.status, 404);
    assert_eq!(stage.rest(json!({"method": "forecast", "view": 7})).await.status, 400);
}

#[tokio::test]
async fn a_client_of_2024_reads_its_view_on_its_stream() {
    let stage = start(&[("short", short())]).await;
    let request = client::get(&stage.gateway.url("/sse/_views/short")).bearer(&mint("agent")).limit(LIMIT);
    let mut stream = MessageStream::of(request).await;
    let endpoint = stream.endpoint().await;
    assert!(endpoint.starts_with("/message/_views/short?sessionId="), "{endpoint}");
    for (text, id) in [
        (initialize_text("2024-11-05"), 0),
        (json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}).to_string(), 1),
    ] {
        let sent = client::post(&stage.gateway.url(&endpoint), text).bearer(&mint("agent")).limit(LIMIT);
        assert_eq!(sent.send().await.expect("an answer").status, 202);
        let answer = stream.next().await.expect("an answer");
        assert_eq!(answer["id"], id);
        if id == 1 {
            assert_eq!(answer["result"]["tools"].as_array().map(Vec::len), Some(2), "{answer}");
        }
    }
}

#[tokio::test]
async fn views_come_change_and_go_under_live_sessions_and_only_their_own_clients_are_told() {
    let stage = start(&[("short", short())]).await;
    let mut of_view = MessageStream::of_session(&stage.gateway, VIEW, None).await;
    stage.manifests.write("view-long.yaml", &view("long", &json!({"select": [{}]})));
    stage.lists("/mcp/_views/long", &["get_forecast", "get_weather", "print", "send_mail", "set_station"]).await;
    let mut of_long = MessageStream::of_session(&stage.gateway, "/mcp/_views/long", None).await;
    let news = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("news", "none")]).await;
    stage.manifests.add("news", &news.url(), "");
    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    assert_eq!(of_long.next().await, Some(changed.clone()));
    assert!(of_view.is_quiet(QUIET_PERIOD).await, "what it lists has not changed");

    let mut less = short();
    less["exclude"] = json!([{"tools": ["get_weather"]}]);
    stage.manifests.write("view-short.yaml", &view("short", &less));
    assert_eq!(of_view.next().await, Some(changed));
    assert_eq!(stage.names(VIEW).await, ["forecast"]);
    let called = stage.call(VIEW, "forecast", json!({"still": true})).await;
    assert_eq!(text(&called), r#"{"still":true}"#);

    stage.manifests.remove("view-short");
    wait_for("the view to be gone", LIMIT, async || {
        let status = stage.ask_as("agent", VIEW, "tools/list", json!({})).await.status;
        if status == 404 { Ok(()) } else { Err(status) }
    })
    .await;
    assert_eq!(stage.names("/mcp").await.len(), 6, "all else is there");
    stage.gateway.stop().await.expect("it ends well");
}

#[tokio::test]
async fn an_agent_finds_describes_and_calls_what_is_not_listed() {
    let spec = json!({"select": [{}], "search": "Auto", "budget": {"tokens": 0}});
    let stage = start(&[("search", spec), ("plain", json!({"select": [{}], "search": "Never"}))]).await;
    let path = "/mcp/_views/search";
    assert_eq!(stage.names(path).await, ["call_tool", "describe_tool", "search_tools"]);
    let found = stage.call(path, "search_tools", json!({"query": "will it rain? wether forecasts", "limit": 2})).await;
    let found: Value = serde_json::from_str(text(&found)).expect("JSON");
    assert_eq!(
        (&found[0]["name"], &found[0]["server"], found.as_array().map(Vec::len)),
        (&json!("get_forecast"), &json!("weather"), Some(2))
    );
    let described = stage.call(path, "describe_tool", json!({"name": "send_mail"})).await;
    let described: Value = serde_json::from_str(text(&described)).expect("JSON");
    assert_eq!((&described["name"], described["inputSchema"].is_object()), (&json!("send_mail"), true));

    // Byte for byte, as a direct call.
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"call_tool","arguments":{"name":"get_weather","arguments":{"b": 1.10,"a":"\u00e9"}}}}"#;
    let sent = client::post(&stage.gateway.url(path), body).bearer(&mint("agent")).limit(LIMIT);
    assert_eq!(sent.send().await.expect("an answer").status, 200);
    assert_eq!(stage.weather.seen().last_arguments().as_deref(), Some(r#"{"b": 1.10,"a":"\u00e9"}"#));
    let by_name = stage.call(path, "set_station", json!({"x": 1})).await;
    assert_eq!(text(&by_name), r#"{"x":1}"#, "found tools can also be called under their own names");
    let rest = json!({"method": "call_tool", "args": {"name": "set_station", "arguments": {"y": 2}}, "view": "search"});
    let rest = stage.rest(rest).await;
    assert_eq!((rest.status, rest.header("x-portcullis-server")), (200, "weather"));
    assert_eq!(
        stage.rest(json!({"method": "search_tools", "args": {"query": "mail"}, "view": "search"})).await.status,
        200
    );

    for (tool, arguments, problem) in [
        ("search_tools", json!({}), r#""query" is missing"#),
        ("search_tools", json!({"query": " "}), r#""query" is missing"#),
        ("search_tools", json!({"query": "x", "limit": 0}), "from 1 to 50"),
        ("search_tools", json!({"query": "x", "limit": 1.5}), "from 1 to 50"),
        ("describe_tool", json!({}), r#""name" is missing"#),
        ("describe_tool", json!({"name": "nothing"}), r#"there is no tool "nothing""#),
        ("call_tool", json!({}), r#""name" is missing"#),
        ("call_tool", json!({"name": 7}), r#""name" must be a string"#),
        ("call_tool", json!({"name": "call_tool"}), "call it by itself"),
        ("call_tool", json!({"name": "print", "arguments": []}), r#""arguments" must be an object"#),
    ] {
        let answer = stage.call(path, tool, arguments.clone()).await;
        assert_eq!(answer["result"]["isError"], true, "{tool} {arguments}: {answer}");
        assert!(text(&answer).contains(problem), "{tool} {arguments}: {answer}");
    }
    let unknown = stage.call(path, "call_tool", json!({"name": "nothing"})).await;
    assert_eq!(unknown["error"]["code"], -32602, "as a direct call: {unknown}");
    for path in ["/mcp", "/mcp/_views/plain", "/mcp/weather"] {
        assert_eq!(stage.call(path, "search_tools", json!({"query": "x"})).await["error"]["code"], -32602, "{path}");
    }
    let calls = stage.gateway.metrics().await;
    let of_tool =
        |tool: &str| calls.lines().any(|line| line.starts_with("portcullis_tool_calls_total{") && line.contains(tool));
    assert!(of_tool(r#"tool="get_weather""#) && !of_tool("call_tool"), "metrics name the real tool: {calls}");
}

#[tokio::test]
async fn a_policy_decides_about_what_call_tool_calls_and_binds_callers_to_views() {
    let search = json!({"select": [{}], "search": "Always"});
    let stage = start(&[("search", search), ("short", short())]).await;
    let rules = json!([
        {"name": "readers", "from": [{"subject": "reader"}], "allow": [{"tools": ["get_weather"]}]},
        {"name": "bound", "from": [{"subject": "agent"}], "allow": [{"tools": ["*"]}], "views": ["short"]},
    ]);
    let policy = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAccessPolicy", "metadata": {"name": "p"},
                        "spec": {"servers": {"names": ["weather"]}, "rules": rules}});
    stage.manifests.write("policy.yaml", &policy.to_string());
    stage.lists("/mcp", &["print", "send_mail"]).await;
    let searched = "/mcp/_views/search";
    stage.lists(searched, &["call_tool", "describe_tool", "print", "search_tools", "send_mail"]).await;
    stage.lists(VIEW, &["forecast", "get_weather"]).await;

    let call = |subject: &'static str, path: &'static str, tool: &'static str| {
        let stage = &stage;
        async move {
            let params = json!({"name": "call_tool", "arguments": {"name": tool, "arguments": {}}});
            let params = if path == searched { params } else { json!({"name": tool, "arguments": {}}) };
            let answer = stage.ask_as(subject, path, "tools/call", params).await.json();
            answer["error"]["code"].as_i64()
        }
    };
    assert_eq!(call("reader", searched, "get_weather").await, None);
    assert_eq!(call("reader", searched, "set_station").await, Some(-32003));
    assert_eq!(call("agent", searched, "get_weather").await, Some(-32003), "it may come through the other view alone");
    assert_eq!(call("agent", "/mcp", "get_weather").await, Some(-32003));
    assert_eq!(call("agent", "/mcp/weather", "get_weather").await, Some(-32003));
    assert_eq!(call("agent", VIEW, "get_weather").await, None);
    for (query, allowed) in [("&view=short", true), ("&view=search", false), ("", false)] {
        let explained = stage.get(&format!("/explain?tool=get_weather{query}")).await.json();
        assert_eq!(explained["allowed"], allowed, "{query}: {explained}");
    }
    assert_eq!(stage.get("/explain?tool=get_weather&view=nothing").await.status, 404);
    let params = json!({"name": "search_tools", "arguments": {"query": "weather"}});
    let found = stage.ask_as("reader", searched, "tools/call", params.clone()).await.json();
    let found: Value = serde_json::from_str(text(&found)).expect("JSON");
    assert_eq!(found.as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found[0]["name"], "get_weather");
    let none = stage.ask_as("agent", searched, "tools/call", params).await.json();
    assert_eq!(text(&none), "No tool fits: search with other words.");
}

#[tokio::test]
async fn three_replicas_list_the_same_bytes_whatever_the_order_of_changes() {
    let servers = [("a", 7), ("b", 5), ("c", 9)];
    let mut upstream = Vec::new();
    for (name, count) in servers {
        let tools = (0..count).map(|n| Tool::echo(&format!("{name}_tool_{n}"))).chain([Tool::echo("shared")]).collect();
        upstream.push((name, Faulty::with_tools(FaultyMode::Streamable, tools).await));
    }
    let spec = json!({"select": [{"tools": ["b*", "*"]}], "budget": {"bytes": 1500}});
    let mut bytes = Vec::new();
    for turn in 0..3 {
        let manifests = Manifests::new();
        let order = [[0, 1, 2], [2, 0, 1], [1, 2, 0]][turn];
        if turn == 1 {
            manifests.write("view.yaml", &view("v", &json!({"select": [{"tools": ["a*"]}]})));
        }
        manifests.add("gone", &upstream[0].1.url(), "");
        let gateway = TestGateway::start(manifests.options()).await;
        for at in order {
            let (name, server) = &upstream[at];
            manifests.add(name, &server.url(), "");
            wait_for("the server", LIMIT, async || {
                let view = gateway.server(name).await;
                if view["tools_count"].as_u64().is_some_and(|tools| tools > 0) { Ok(()) } else { Err(view) }
            })
            .await;
        }
        manifests.remove("gone");
        manifests.write("view.yaml", &view("v", &spec));
        let list = wait_for("the list", LIMIT, async || {
            let get = |path: &str| client::get(&gateway.url(path)).bearer(&mint("agent")).limit(LIMIT);
            let servers = get("/servers").send().await.expect("an answer").json();
            let list = client::post(&gateway.url("/mcp/_views/v"), r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
            let list = list.bearer(&mint("agent")).limit(LIMIT).send().await.expect("an answer");
            let is_there = servers["servers"].as_object().is_some_and(|all| all.len() == 3);
            if is_there && list.text().contains("b_tool_0") && list.text().contains("search_tools") {
                Ok(list.text().to_owned())
            } else {
                Err(list.text().to_owned())
            }
        })
        .await;
        bytes.push(list);
    }
    assert_eq!(bytes[0], bytes[1]);
    assert_eq!(bytes[0], bytes[2]);
}

//! Extensions: what each side declares reaches the other, as far as both have it.

use portcullis_e2e::faulty::{Faulty, FaultyMode, ProtocolFault, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};

use crate::kit::{MODERN, initialize_as, initialize_text, message, modern, modern_as};

const APPS: &str = "io.modelcontextprotocol/ui";
const TASKS: &str = "io.modelcontextprotocol/tasks";
const SKILLS: &str = "io.modelcontextprotocol/skills";

/// A server with one tool, named like it, and these extensions.
async fn server(mode: FaultyMode, name: &str, extensions: &Value) -> Faulty {
    let server = Faulty::with_tools(mode, vec![Tool::echo(name)]).await;
    let text = extensions.to_string();
    server.behave(|it| (it.name, it.extensions) = (Some(name.into()), Some(text)));
    server
}

struct Stage {
    new: Faulty,
    old: Faulty,
    manifests: Manifests,
    gateway: TestGateway,
}

impl Stage {
    /// A server of 2026-07-28, and one of before with a session for each client.
    async fn start() -> Self {
        let new = json!({TASKS: {}, SKILLS: {"directoryRead": true}, "com.example/new": {"a": 1}});
        let old = json!({APPS: {}, SKILLS: {}, "com.example/old": {}});
        let (new, old) =
            (server(FaultyMode::Modern, "new", &new).await, server(FaultyMode::Streamable, "old", &old).await);
        let manifests = Manifests::new();
        manifests.add("new", &new.url(), "");
        manifests.add("old", &old.url(), "session: PerClient");
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(2).await;
        Self { new, old, manifests, gateway }
    }

    async fn initialized(&self, path: &str, subject: &str) -> Value {
        let request = portcullis_e2e::http::post(&self.gateway.url(path), initialize_text("2025-11-25"));
        let answer = request.bearer(&mint(subject)).limit(LIMIT).send().await.expect("an answer").json();
        answer["result"]["capabilities"]["extensions"].clone()
    }

    async fn discovered(&self, path: &str) -> Value {
        let answer = modern(&self.gateway, path, "server/discover", None, "").send().await.expect("an answer").json();
        answer["result"]["capabilities"]["extensions"].clone()
    }
}

/// What the last call of a server of 2026-07-28 says of its client.
fn told(server: &Faulty) -> Value {
    let seen = server.seen();
    let meta = seen.of("tools/call").last().expect("a call").param("_meta").expect("_meta");
    let meta: Value = serde_json::from_str(&meta).expect("JSON");
    meta["io.modelcontextprotocol/clientCapabilities"].clone()
}

#[tokio::test]
async fn clients_are_told_of_the_extensions_of_the_servers_that_they_see() {
    let stage = Stage::start().await;
    let skills = json!({"directoryRead": true});
    let all = json!({APPS: {}, SKILLS: skills, TASKS: {}});
    let [mut without_tasks, mut alone] = [all.clone(), json!({TASKS: {}, SKILLS: skills, "com.example/new": {"a": 1}})];
    without_tasks.as_object_mut().expect("an object").remove(TASKS);
    for path in ["/mcp", "/mcp/~default"] {
        assert_eq!(stage.discovered(path).await, all, "{path}");
        assert_eq!(stage.initialized(path, "tester").await, without_tasks, "{path}");
    }
    assert_eq!(stage.discovered("/mcp/new").await, alone);
    alone.as_object_mut().expect("an object").remove(TASKS);
    assert_eq!(stage.initialized("/mcp/new", "tester").await, alone);
    assert_eq!(stage.initialized("/mcp/old", "tester").await, json!({APPS: {}, SKILLS: {}, "com.example/old": {}}));
    let names = json!(["com.example/new", SKILLS, TASKS]);
    assert_eq!(stage.gateway.server("new").await["extensions"], names);
    assert_eq!(stage.gateway.server("old").await["extensions"], json!(["com.example/old", SKILLS, APPS]));

    // A caller is told of what it sees.
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p}\nspec: {servers: {names: [new]}, rules: [{name: r, from: [{subject: alice}], allow: [{tools: ['*']}]}]}\n";
    stage.manifests.write("policy.yaml", policy);
    wait_for("the policy", LIMIT, async || {
        let told = stage.initialized("/mcp", "bob").await;
        if told == json!({APPS: {}, SKILLS: {}}) { Ok(()) } else { Err(told) }
    })
    .await;
    assert_eq!(stage.initialized("/mcp/new", "bob").await, Value::Null);
    assert_eq!(stage.initialized("/mcp", "alice").await, without_tasks);
}

#[tokio::test]
async fn a_server_is_told_of_the_extensions_of_a_client_that_it_has_too_and_of_apps() {
    let stage = Stage::start().await;
    let gateway = &stage.gateway;
    let apps = json!({"mimeTypes": ["text/html;profile=mcp-app"]});
    let able = json!({"roots": {}, "extensions": {APPS: apps, TASKS: {}, "com.example/old": {"b": 2}, "com.example/new": {"c": 3}}});
    let call = |name: &str| format!(r#""name":"{name}","arguments":{{}}"#);

    // Of 2026-07-28, which says it in each request: through both servers.
    for name in ["new", "old"] {
        let request = modern_as(gateway, "/mcp", ("tools/call", Some(name)), &call(name), (1, &able.to_string()));
        assert_eq!(request.send().await.expect("an answer").json()["error"], Value::Null);
    }
    let to_new = json!({"roots": {}, "extensions": {APPS: apps, TASKS: {}, "com.example/new": {"c": 3}}});
    assert_eq!(told(&stage.new), to_new);
    let to_old = json!({APPS: apps, "com.example/old": {"b": 2}});
    let begun = |server: &Faulty| -> Value {
        let seen = server.seen();
        let begun = seen.of("initialize").last().expect("a session").param("capabilities").expect("capabilities");
        serde_json::from_str::<Value>(&begun).expect("JSON")["extensions"].clone()
    };
    assert_eq!(begun(&stage.old), to_old);

    // Of before, which says it once: it is kept in the session's id.
    let session = initialize_as(gateway, "2025-11-25", &able.to_string()).await;
    let before = stage.old.seen().initializes;
    for name in ["new", "old"] {
        let text =
            json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": name, "arguments": {}}});
        let request = message(gateway, text.to_string()).header("mcp-session-id", &session);
        assert_eq!(request.send().await.expect("an answer").json()["error"], Value::Null);
    }
    assert_eq!(told(&stage.new)["extensions"], json!({APPS: apps, TASKS: {}, "com.example/new": {"c": 3}}));
    assert_eq!((stage.old.seen().initializes, begun(&stage.old)), (before + 1, to_old));

    // What the client lacks, the server is not told of.
    for able in ["{}", r#"{"roots":{}}"#, r#"{"extensions":{}}"#, r#"{"extensions":{"com.example/old":{}}}"#] {
        let request = modern_as(gateway, "/mcp", ("tools/call", Some("new")), &call("new"), (3, able));
        assert_eq!(request.send().await.expect("an answer").json()["error"], Value::Null, "{able}");
        assert_eq!(told(&stage.new)["extensions"], Value::Null, "{able}");
    }
}

#[tokio::test]
async fn extensions_of_a_wrong_form_cost_neither_side_its_session() {
    for (given, names) in [
        (json!([]), json!([])),
        (json!("x"), json!([])),
        (json!({"x": {}, "a/b": 7, "c/d": {}}), json!(["c/d"])),
        (json!({"a/b": {"c": "x".repeat(5000)}}), json!([])),
    ] {
        let odd = server(FaultyMode::Modern, "odd", &given).await;
        let manifests = Manifests::new();
        manifests.add("odd", &odd.url(), "");
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(1).await;
        assert_eq!(gateway.server("odd").await["extensions"], names);
        let able = json!({"extensions": given}).to_string();
        let call = (("tools/call", Some("odd")), r#""name":"odd","arguments":{}"#);
        let answer = modern_as(&gateway, "/mcp", call.0, call.1, (1, &able)).send().await.expect("an answer").json();
        assert_eq!(answer["error"], Value::Null, "{MODERN}");
    }
}

#[tokio::test]
async fn methods_of_extensions_that_the_gateway_does_not_know_reach_the_one_server_that_is_asked() {
    let modern_server = server(FaultyMode::Modern, "new", &json!({"com.example/new": {}})).await;
    let old_server = server(FaultyMode::Streamable, "old", &json!({"com.example/old": {}})).await;
    let plain = server(FaultyMode::Modern, "plain", &json!({TASKS: {}})).await;
    for one in [&modern_server, &old_server, &plain] {
        one.behave(|it| drop(it.others.insert("example/do".into(), r#"{"done": 1.10}"#.into())));
    }
    let manifests = Manifests::new();
    for (name, server) in [("new", &modern_server), ("old", &old_server), ("plain", &plain)] {
        manifests.add(name, &server.url(), "");
    }
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(3).await;
    let params = r#""b": [1.0],"a":null,"name":"x""#;
    for (path, expected) in [
        ("/mcp/new", json!({"resultType": "complete", "done": 1.10})),
        ("/mcp/old", json!({"resultType": "complete", "done": 1.10})),
        ("/mcp/plain", Value::Null),
        ("/mcp", Value::Null),
        ("/mcp/~default", Value::Null),
    ] {
        let answer = modern(&gateway, path, "example/do", None, params).send().await.expect("an answer");
        assert_eq!(answer.json()["result"], expected, "{path}: {}", answer.text());
        assert_eq!(answer.json()["error"]["code"] == json!(-32601), expected.is_null(), "{path}");
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"example/do","params":{{{params}}}}}"#);
        let request = portcullis_e2e::http::post(&gateway.url(path), text).bearer(&gateway.token).limit(LIMIT);
        let answer = request.send().await.expect("an answer").json();
        assert_eq!(answer["result"]["done"], expected["done"], "{path}: {answer}");
    }
    for (server, name) in [(&modern_server, "new"), (&old_server, "old")] {
        let seen = server.seen();
        let given = seen.of("example/do");
        assert_eq!(
            (given.len(), given[0].param("b"), given[0].param("name")),
            (2, Some("[1.0]".into()), Some("\"x\"".into())),
            "{name}"
        );
    }
    assert_eq!(plain.seen().of("example/do").len(), 0);
    let odd = modern(&gateway, "/mcp/new", "example/do ?", None, "").send().await.expect("an answer");
    assert_eq!(odd.json()["error"]["code"], -32601);

    // No policy speaks of such requests.
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p}\nspec: {servers: {names: [new]}, rules: [{name: r, from: [{subject: tester}], allow: [{tools: ['*']}]}]}\n";
    manifests.write("policy.yaml", policy);
    wait_for("the policy", LIMIT, async || {
        let answer = modern(&gateway, "/mcp/new", "example/do", None, "").send().await.expect("an answer").json();
        if answer["error"]["code"] == -32003 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn tasks_of_2025_11_25_work_in_a_client_session_of_one_server_and_are_refused_elsewhere() {
    let server = server(FaultyMode::Streamable, "old", &json!({})).await;
    let capabilities = r#"{"tools":{},"tasks":{"cancel":{},"requests":{"tools":{"call":{}}}}}"#;
    let init = json!({"protocolVersion": "2025-11-25", "capabilities": serde_json::from_str::<Value>(capabilities).expect("JSON"), "serverInfo": {"name": "old", "version": "1"}});
    server.behave(|it| {
        it.init = ProtocolFault::Result(init.to_string());
        it.others.insert("tasks/get".into(), r#"{"taskId":"t","status":"working"}"#.into());
    });
    let manifests = Manifests::new();
    manifests.add("own", &server.url(), "session: PerClient\nprotocolVersion: 2025-11-25");
    manifests.add("shared", &server.url(), "protocolVersion: 2025-11-25");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(2).await;
    for (path, tasks) in [
        ("/mcp/own", json!({"cancel": {}, "requests": {"tools": {"call": {}}}})),
        ("/mcp/shared", Value::Null),
        ("/mcp", Value::Null),
    ] {
        let begin =
            portcullis_e2e::http::post(&gateway.url(path), initialize_text("2025-11-25")).bearer(&gateway.token);
        let begun = begin.limit(LIMIT).send().await.expect("an answer");
        assert_eq!(begun.json()["result"]["capabilities"]["tasks"], tasks, "{path}");
        let session = begun.header("mcp-session-id").to_owned();
        let ask = async |method: &str, params: Value| {
            let text = json!({"jsonrpc": "2.0", "id": 2, "method": method, "params": params}).to_string();
            let request = portcullis_e2e::http::post(&gateway.url(path), text).bearer(&gateway.token).limit(LIMIT);
            request.header("mcp-session-id", &session).send().await.expect("an answer").json()
        };
        let called = ask(
            "tools/call",
            json!({"name": if path == "/mcp" { "own__old" } else { "old" }, "arguments": {}, "task": {"ttl": 1}}),
        )
        .await;
        let seen = server.seen();
        let call = seen.of("tools/call").last().map(|call| call.param("task"));
        if called["error"].is_null() {
            assert_eq!(call, Some((!tasks.is_null()).then(|| r#"{"ttl":1}"#.to_owned())), "{path}");
        }
        let answer = ask("tasks/get", json!({"taskId": "t"})).await;
        let expected = if tasks.is_null() { Value::Null } else { json!({"taskId": "t", "status": "working"}) };
        assert_eq!(
            (&answer["result"], answer["error"]["code"] == -32601),
            (&expected, tasks.is_null()),
            "{path}: {answer}"
        );
    }
}

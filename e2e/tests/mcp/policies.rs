//! Who may use what: every way in, for a caller that a policy allows something and for one that it allows nothing.

use std::time::Duration;

use http::Method;
use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer, HttpRequest};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::kit::{MODERN, MessageStream, initialize_text};

const NOT_ALLOWED: i64 = -32003;

const QUIET_PERIOD: Duration = Duration::from_millis(700);

const WATCHED: &str = "test://watched-resource";

/// What alice may use of the server `fixture`.
pub(crate) const READERS: &str = "{servers: {names: [fixture]}, rules: [{name: readers, from: [{subject: alice}], allow: [{tools: ['test_simple*', test_trigger_resource_change]}, {prompts: [test_simple_prompt]}, {resources: ['test://static-text', 'test://watched-resource', 'test://template/*']}]}]}";

pub(crate) struct Stage {
    _server: Conforming,
    manifests: Manifests,
    pub(crate) gateway: TestGateway,
}

fn policy(spec: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {{name: readers}}\nspec: {spec}\n")
}

pub(crate) async fn start(spec: &str) -> Stage {
    start_with(spec, |options| options).await
}

/// With these options besides.
pub(crate) async fn start_with(spec: &str, options: impl FnOnce(Options) -> Options) -> Stage {
    let (server, manifests) = (Conforming::start().await, Manifests::new());
    manifests.write("policy.yaml", &policy(spec));
    manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "");
    let gateway = TestGateway::start(options(manifests.options())).await;
    wait_for("a connected server", LIMIT, async || {
        // Without a token, whose caller may not see it.
        let health = client::get(&gateway.url("/health")).send().await.expect("an answer").json();
        if health["servers"]["connected"] == 1 { Ok(()) } else { Err(health) }
    })
    .await;
    Stage { _server: server, manifests, gateway }
}

impl Stage {
    fn legacy(&self, subject: &str, path: &str, message: &Value) -> HttpRequest {
        client::post(&self.gateway.url(path), message.to_string()).bearer(&mint(subject)).limit(LIMIT)
    }

    /// Asks in the way of 2025-06-18 without a session, and in that of 2026-07-28: the two statuses and answers.
    pub(crate) async fn ask(&self, subject: &str, path: &str, method: &str, params: Value) -> [(u16, Value); 2] {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let before = self.legacy(subject, path, &message).send().await.expect("an answer");
        [(before.status, before.json()), self.ask_modern(subject, path, method, params).await]
    }

    pub(crate) async fn ask_modern(&self, subject: &str, path: &str, method: &str, mut params: Value) -> (u16, Value) {
        let name = params["name"].as_str().or(params["uri"].as_str()).map(str::to_owned);
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {},
        });
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        let request = self.legacy(subject, path, &message);
        let request = request.header("mcp-protocol-version", MODERN).header("mcp-method", method);
        let named = method != "completion/complete";
        let request = name.iter().filter(|_| named).fold(request, |request, name| request.header("mcp-name", name));
        let answer = request.send().await.expect("an answer");
        (answer.status, answer.json())
    }

    pub(crate) async fn rest(&self, subject: &str, body: &str) -> HttpAnswer {
        let request = client::post(&self.gateway.url("/tools"), body.to_owned());
        request.bearer(&mint(subject)).limit(LIMIT).send().await.expect("an answer")
    }

    async fn get(&self, subject: &str, path: &str) -> Value {
        let request = client::get(&self.gateway.url(path)).bearer(&mint(subject)).limit(LIMIT);
        request.send().await.expect("an answer").json()
    }

    async fn names(&self, subject: &str, path: &str, method: &str) -> Vec<String> {
        let (list, naming) = match method {
            "tools/list" => ("tools", "name"),
            "prompts/list" => ("prompts", "name"),
            "resources/list" => ("resources", "uri"),
            _ => ("resourceTemplates", "uriTemplate"),
        };
        let [before, since] = self.ask(subject, path, method, json!({})).await.map(|(_, answer)| {
            let items = answer["result"][list].as_array().unwrap_or_else(|| panic!("{answer}")).clone();
            items.iter().map(|item| item[naming].as_str().expect("a name").to_owned()).collect::<Vec<_>>()
        });
        assert_eq!(before, since, "{method}");
        before
    }
}

fn outcomes(answers: [(u16, Value); 2]) -> [(u16, Option<i64>); 2] {
    answers.map(|(status, answer)| (status, answer["error"]["code"].as_i64()))
}

const ALLOWED: [(u16, Option<i64>); 2] = [(200, None), (200, None)];
const DENIED: [(u16, Option<i64>); 2] = [(200, Some(NOT_ALLOWED)), (403, Some(NOT_ALLOWED))];

#[tokio::test]
async fn a_caller_may_use_what_a_rule_allows_by_every_way_in_and_is_denied_the_rest() {
    let stage = start(READERS).await;
    let cases = [
        ("tools/call", json!({"name": "test_simple_text", "arguments": {}}), true),
        ("tools/call", json!({"name": "test_image_content", "arguments": {}}), false),
        ("prompts/get", json!({"name": "test_simple_prompt"}), true),
        ("prompts/get", json!({"name": "test_prompt_with_image"}), false),
        ("resources/read", json!({"uri": "test://static-text"}), true),
        ("resources/read", json!({"uri": "test://static-binary"}), false),
        ("resources/read", json!({"uri": "test://template/7/data"}), true),
        (
            "completion/complete",
            json!({"ref": {"type": "ref/prompt", "name": "test_prompt_with_arguments"}, "argument": {"name": "arg1", "value": "t"}}),
            false,
        ),
    ];
    for path in ["/mcp", "/mcp/fixture", "/mcp/~default"] {
        for (method, params, allowed) in &cases {
            let of_alice = outcomes(stage.ask("alice", path, method, params.clone()).await);
            assert_eq!(of_alice, if *allowed { ALLOWED } else { DENIED }, "{path} {method} {params}");
            let of_bob = outcomes(stage.ask("bob", path, method, params.clone()).await);
            assert_eq!(of_bob, DENIED, "{path} {method} {params}");
        }
    }
    let batch = json!([
        {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test_simple_text", "arguments": {}}},
        {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "test_image_content", "arguments": {}}},
    ]);
    let answer = stage.legacy("alice", "/mcp", &batch).header("mcp-protocol-version", "2025-03-26").send().await;
    let mut codes: Vec<_> = answer
        .expect("an answer")
        .json()
        .as_array()
        .expect("answers")
        .iter()
        .map(|answer| (answer["id"].as_i64(), answer["error"]["code"].as_i64()))
        .collect();
    codes.sort_unstable();
    assert_eq!(codes, [(Some(1), None), (Some(2), Some(NOT_ALLOWED))]);
}

#[tokio::test]
async fn a_denied_call_over_rest_is_forbidden_and_an_unknown_tool_is_not_found() {
    let stage = start(READERS).await;
    for (subject, body, status) in [
        ("alice", r#"{"method":"test_simple_text","args":{}}"#, 200),
        ("alice", r#"{"method":"test_simple_text","args":{},"server":"fixture"}"#, 200),
        ("alice", r#"{"method":"test_simple_text","args":{},"server":"default/fixture"}"#, 200),
        ("alice", r#"{"method":"test_image_content","args":{}}"#, 403),
        ("alice", r#"{"method":"test_image_content","args":{},"server":"fixture"}"#, 403),
        ("alice", r#"{"method":"nothing","args":{}}"#, 404),
        ("bob", r#"{"method":"test_simple_text","args":{}}"#, 403),
        ("bob", r#"{"method":"test_simple_text","args":{},"server":"fixture"}"#, 403),
        ("bob", r#"{"method":"nothing","args":{}}"#, 404),
        ("bob", r#"{"method":"test_simple_text","args":{},"server":"none"}"#, 404),
    ] {
        let answer = stage.rest(subject, body).await;
        assert_eq!(answer.status, status, "{subject} {body}: {}", answer.text());
    }
    let denied = stage.rest("bob", r#"{"method":"test_simple_text","args":{}}"#).await;
    let message = "the tool \"test_simple_text\" is not allowed for this caller";
    assert_eq!(denied.json(), json!({"error": {"message": message, "code": 403}}));
    let [_, (_, error)] = stage.ask("bob", "/mcp", "tools/call", json!({"name": "test_simple_text"})).await;
    assert_eq!(error["error"], json!({"code": NOT_ALLOWED, "message": message}));
}

#[tokio::test]
async fn a_caller_sees_what_it_may_use_and_nothing_else() {
    let stage = start(READERS).await;
    for path in ["/mcp", "/mcp/fixture", "/mcp/~default"] {
        for (method, expected) in [
            ("tools/list", vec!["test_simple_text", "test_trigger_resource_change"]),
            ("prompts/list", vec!["test_simple_prompt"]),
            ("resources/list", vec!["test://static-text", WATCHED]),
            ("resources/templates/list", vec!["test://template/{id}/data"]),
        ] {
            assert_eq!(stage.names("alice", path, method).await, expected, "{path} {method}");
            assert_eq!(stage.names("bob", path, method).await, Vec::<String>::new(), "{path} {method}");
        }
    }
    let names = |list: Value| -> Vec<String> {
        list["tools"]
            .as_array()
            .expect("tools")
            .iter()
            .map(|tool| tool["name"].as_str().expect("a name").into())
            .collect()
    };
    for path in ["/tools/list", "/tools/list?server=fixture", "/tools/list?namespace=default"] {
        assert_eq!(
            names(stage.get("alice", path).await),
            ["test_simple_text", "test_trigger_resource_change"],
            "{path}"
        );
        assert_eq!(names(stage.get("bob", path).await), Vec::<String>::new(), "{path}");
    }
    let of_alice = stage.get("alice", "/servers").await;
    assert_eq!(of_alice["summary"], json!({"total_servers": 1, "connected_servers": 1, "total_tools": 2}));
    let of_bob = stage.get("bob", "/servers").await;
    assert_eq!(
        of_bob,
        json!({"servers": {}, "summary": {"total_servers": 0, "connected_servers": 0, "total_tools": 0}})
    );
    assert_eq!(stage.get("bob", "/health").await["servers"]["total"], 0);
    assert_eq!(stage.get("alice", "/health").await["servers"]["status"]["fixture"]["tools_count"], 2);
    let stranger = client::get(&stage.gateway.url("/health")).send().await.expect("an answer").json();
    assert_eq!(stranger["servers"], json!({"total": 1, "connected": 1, "status": {}}), "it is counted, not named");
}

#[tokio::test]
async fn the_token_of_a_request_counts_not_that_of_its_session() {
    let stage =
        start("{rules: [{name: r, from: [{claims: [{path: role, values: [reader]}]}], allow: [{tools: ['*']}]}]}")
            .await;
    let token = |role: &str| {
        let claims =
            json!({"sub": "alice", "role": role, "exp": portcullis_e2e::token::after(Duration::from_secs(600))});
        portcullis_e2e::token::mint_with(portcullis_e2e::token::SECRET.as_bytes(), &claims)
    };
    let send = async |role: &str, session: Option<&str>, message: String| {
        let request = client::post(&stage.gateway.url("/mcp"), message).bearer(&token(role)).limit(LIMIT);
        session
            .into_iter()
            .fold(request, |request, id| request.header("mcp-session-id", id))
            .send()
            .await
            .expect("an answer")
    };
    let session = send("reader", None, initialize_text("2025-06-18")).await.header("mcp-session-id").to_owned();
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "test_simple_text", "arguments": {}}});
    for (role, code) in [("reader", None), ("guest", Some(NOT_ALLOWED)), ("reader", None)] {
        let answer = send(role, Some(&session), call.to_string()).await.json();
        assert_eq!(answer["error"]["code"].as_i64(), code, "{role}: {answer}");
    }
}

#[tokio::test]
async fn a_policy_that_changes_counts_at_once_and_open_streams_hear_of_their_own_view_alone() {
    let stage = start(READERS).await;
    let listen = |subject: &str| {
        let meta = json!({"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}});
        let params =
            json!({"notifications": {"toolsListChanged": true, "resourceSubscriptions": [WATCHED]}, "_meta": meta});
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
        let request = stage.legacy(subject, "/mcp", &message);
        request.header("mcp-protocol-version", MODERN).header("mcp-method", "subscriptions/listen")
    };
    let (mut of_alice, mut of_bob) = (MessageStream::of(listen("alice")).await, MessageStream::of(listen("bob")).await);
    let granted = |message: Option<Value>| message.expect("an acknowledgement")["params"]["notifications"].clone();
    assert_eq!(granted(of_alice.next().await), json!({"toolsListChanged": true, "resourceSubscriptions": [WATCHED]}));
    assert_eq!(granted(of_bob.next().await), json!({"toolsListChanged": true}));
    let change = r#"{"method":"test_trigger_resource_change","args":{}}"#;
    let mut told = false;
    for _ in 0..10 {
        // The gateway may not have subscribed at the server yet.
        assert_eq!(stage.rest("alice", change).await.status, 200);
        told = !of_alice.is_quiet(QUIET_PERIOD).await;
        if told {
            break;
        }
    }
    assert!(told, "an update");
    assert!(of_bob.is_quiet(QUIET_PERIOD).await, "what is hidden does not change");
    while !of_alice.is_quiet(QUIET_PERIOD).await {}

    // The resource and a tool are taken away.
    let less = READERS.replace(", 'test://watched-resource'", "").replace("'test_simple*', ", "");
    stage.manifests.write("policy.yaml", &policy(&less));
    let changed = of_alice.next().await.expect("a notification");
    assert_eq!(changed["method"], "notifications/tools/list_changed");
    assert_eq!(stage.rest("alice", r#"{"method":"test_simple_text","args":{}}"#).await.status, 403);
    assert_eq!(stage.rest("alice", change).await.status, 200);
    assert!(of_alice.is_quiet(Duration::from_millis(1500)).await, "no more updates of what it may not read");
    assert!(of_bob.is_quiet(QUIET_PERIOD).await, "nothing of it is bob's");

    // Without the policy everybody sees everything.
    std::fs::remove_file(stage.manifests.servers().join("policy.yaml")).expect("the policy's file");
    assert_eq!(of_bob.next().await.expect("a notification")["method"], "notifications/tools/list_changed");
    assert_eq!(stage.rest("bob", r#"{"method":"test_image_content","args":{}}"#).await.status, 200);
}

#[tokio::test]
async fn a_condition_on_arguments_is_decided_by_every_way_in() {
    let small = "{rules: [{name: r, from: [{authenticated: true}], allow: [{tools: ['*']}], when: 'has(args.n) && args.n <= 3'}]}";
    let stage = start(small).await;
    assert!(stage.names("bob", "/mcp", "tools/list").await.contains(&"test_simple_text".to_owned()));
    for (args, allowed) in [(r#"{"n":3}"#, true), (r#"{"n":4}"#, false), ("{}", false)] {
        let rest = stage.rest("bob", &format!(r#"{{"method":"test_simple_text","args":{args}}}"#)).await;
        assert_eq!(rest.status, if allowed { 200 } else { 403 }, "{args}: {}", rest.text());
        let args: Value = serde_json::from_str(args).expect("JSON");
        for path in ["/mcp", "/mcp/fixture"] {
            let params = json!({"name": "test_simple_text", "arguments": args});
            let answers = outcomes(stage.ask("bob", path, "tools/call", params).await);
            assert_eq!(answers, if allowed { ALLOWED } else { DENIED }, "{path} {args}");
        }
    }
}

#[tokio::test]
async fn a_broken_rule_allows_nothing_the_others_count_and_health_names_it() {
    let broken = READERS
        .replace("rules: [", "rules: [{name: odd, from: [{subject: bob, device: x}], allow: [{tools: ['*']}]}, {name: no-cel, from: [{subject: bob}], allow: [{tools: ['*']}], when: 'args.x =='}, ");
    let stage = start(&broken).await;
    assert_eq!(stage.rest("alice", r#"{"method":"test_simple_text","args":{}}"#).await.status, 200);
    assert_eq!(stage.rest("bob", r#"{"method":"test_simple_text","args":{}}"#).await.status, 403);
    let health = stage.get("alice", "/health").await.to_string();
    assert!(health.contains("McpAccessPolicy default/readers: rules[0]: member"), "{health}");
    assert!(health.contains("when is not valid CEL"), "{health}");
}

#[tokio::test]
async fn without_a_policy_a_server_is_open_or_closed_as_the_default_says() {
    let (server, manifests) = (Conforming::start().await, Manifests::new());
    manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "");
    let mut options = manifests.options();
    options.policy_default = Some("Deny".into());
    let gateway = TestGateway::start(options).await;
    let call = async || {
        let request = client::post(&gateway.url("/tools"), r#"{"method":"test_simple_text","args":{}}"#);
        request.bearer(&mint("alice")).limit(LIMIT).send().await.expect("an answer").status
    };
    wait_for("a server that denies", LIMIT, async || match call().await {
        403 => Ok(()),
        status => Err(status),
    })
    .await;
    manifests.write("policy.yaml", &policy(READERS));
    wait_for("a policy that allows", LIMIT, async || match call().await {
        200 => Ok(()),
        status => Err(status),
    })
    .await;
    let request = client::request(Method::GET, &gateway.url("/servers")).bearer(&mint("bob")).limit(LIMIT);
    assert_eq!(request.send().await.expect("an answer").json()["servers"], json!({}));
}

//! Servers that show each caller other tools: each caller sees its own, by every way in, and nobody sees another's.

use std::collections::BTreeMap;
use std::time::Duration;

use http::Method;
use portcullis_e2e::faulty::{Faulty, FaultyMode, ListFault, ProtocolFault, RequestFault, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};

use crate::kit::MODERN;

const FORWARDS: &str = "listing: {perCaller: true}\nforwardCallerToken: {from: x-mine-authorization}";

/// What a server lists of these tools.
fn listed(names: &[&str]) -> ListFault {
    let tools: Vec<Value> = names.iter().map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
    ListFault::Reply(ProtocolFault::Result(
        json!({"tools": tools, "resultType": "complete", "ttlMs": 0, "cacheScope": "private"}).to_string(),
    ))
}

/// A server that lists no tool but to alice and bob.
async fn server(mode: FaultyMode) -> Faulty {
    let tools = ["shared", "of-alice", "of-bob"].map(|name| Tool::text(name, &format!("mine: {name}")));
    let server = Faulty::with_tools(mode, tools.to_vec()).await;
    server.behave(|behaviour| {
        behaviour.list = ListFault::Reply(ProtocolFault::Error(r#"{"code":-32001,"message":"who?"}"#.into()));
        behaviour.callers =
            BTreeMap::from([("alice".into(), listed(&["of-alice", "shared"])), ("bob".into(), listed(&["of-bob"]))]);
    });
    server
}

/// Another server, which shows everybody the same.
async fn common() -> Faulty {
    Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("shared", "common")]).await
}

struct Stage {
    mine: Faulty,
    common: Faulty,
    manifests: Manifests,
    gateway: TestGateway,
}

impl Stage {
    async fn with(mode: FaultyMode, more: &str, options: impl FnOnce(Options) -> Options) -> Self {
        let (mine, common, manifests) = (server(mode).await, common().await, Manifests::new());
        manifests.add("mine", &mine.url(), more);
        manifests.add("common", &common.url(), "");
        let gateway = TestGateway::start(options(manifests.options())).await;
        wait_for("connected servers", LIMIT, async || {
            let health = client::get(&gateway.url("/health")).send().await.expect("an answer").json();
            if health["servers"]["connected"] == 2 { Ok(()) } else { Err(health) }
        })
        .await;
        Self { mine, common, manifests, gateway }
    }

    async fn start(mode: FaultyMode) -> Self {
        Self::with(mode, FORWARDS, |options| options).await
    }

    async fn ask(&self, caller: &str, method: Method, path: &str, body: Option<&Value>) -> HttpAnswer {
        let request = client::request(method, &self.gateway.url(path)).bearer(&mint(caller)).limit(LIMIT);
        let request = body.into_iter().fold(request, |request, body| request.body(body.to_string()));
        request.header("x-mine-authorization", caller).send().await.expect("an answer")
    }

    /// The names of the tools that REST lists, and the servers that are missing.
    async fn rest_list(&self, caller: &str, query: &str) -> (Vec<String>, Value) {
        let body = self.ask(caller, Method::GET, &format!("/tools/list{query}"), None).await.json();
        (names(&body["tools"]), body["missing_servers"].clone())
    }

    async fn rest_call(&self, caller: &str, tool: &str) -> (u16, Value) {
        let answer = self.ask(caller, Method::POST, "/tools", Some(&json!({"method": tool, "args": {}}))).await;
        (answer.status, answer.json())
    }

    /// A request of 2026-07-28.
    async fn modern(&self, caller: &str, path: &str, method: &str, params: &Value) -> Value {
        let mut params = params.clone();
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}});
        let text = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
        let request = client::post(&self.gateway.url(path), text).bearer(&mint(caller)).limit(LIMIT);
        let request = request.header("mcp-protocol-version", MODERN).header("mcp-method", method);
        let name = params["name"].as_str().unwrap_or_default().to_owned();
        let request = if name.is_empty() { request } else { request.header("mcp-name", &name) };
        request.header("x-mine-authorization", caller).send().await.expect("an answer").json()
    }

    /// A request of a client before 2026-07-28 without a session.
    async fn legacy(&self, caller: &str, path: &str, method: &str, params: &Value) -> Value {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
        self.ask(caller, Method::POST, path, Some(&message)).await.json()
    }
}

fn names(tools: &Value) -> Vec<String> {
    let tools = tools.as_array().unwrap_or_else(|| panic!("a list: {tools}"));
    tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
}

fn text(result: &Value) -> &str {
    result["content"][0]["text"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn each_caller_is_listed_and_calls_its_own_tools_by_every_way_in() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let stage = Stage::start(mode).await;
        // What everybody sees keeps its name, and what one caller sees gets another.
        let alice = ["mine__shared", "of-alice", "shared"];
        for (caller, all, own) in
            [("alice", &alice[..], &["of-alice", "shared"][..]), ("bob", &["of-bob", "shared"], &["of-bob"])]
        {
            let all: Vec<String> = all.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(stage.rest_list(caller, "").await, (all.clone(), Value::Null), "{mode:?}");
            let none = json!({});
            for (path, expected) in [("/mcp", &all[..]), ("/mcp/~default", &all), ("/mcp/common", &["shared".into()])] {
                let modern = stage.modern(caller, path, "tools/list", &none).await;
                assert_eq!(names(&modern["result"]["tools"]), expected, "{modern}");
                let legacy = stage.legacy(caller, path, "tools/list", &none).await;
                assert_eq!(names(&legacy["result"]["tools"]), expected, "{legacy}");
            }
            let alone = stage.modern(caller, "/mcp/mine", "tools/list", &none).await;
            assert_eq!(names(&alone["result"]["tools"]), own, "{alone}");
            assert_eq!(stage.rest_list(caller, "?namespace=default").await.0, all);
        }
        let lists = stage.mine.seen().lists;
        assert_eq!(stage.rest_call("alice", "of-alice").await.1["content"][0]["text"], "mine: of-alice");
        let (status, both) = stage.rest_call("alice", "mine__shared").await;
        assert_eq!((status, text(&both)), (200, "mine: shared"));
        assert_eq!(text(&stage.rest_call("alice", "shared").await.1), "common");
        let call = json!({"name": "of-alice", "arguments": {}});
        for path in ["/mcp", "/mcp/mine", "/mcp/~default"] {
            let modern = stage.modern("alice", path, "tools/call", &call).await;
            assert_eq!(text(&modern["result"]), "mine: of-alice", "{modern}");
            let legacy = stage.legacy("alice", path, "tools/call", &call).await;
            assert_eq!(text(&legacy["result"]), "mine: of-alice", "{legacy}");
        }
        assert_eq!(stage.mine.seen().lists, lists, "its list is kept");
        // Another's tool does not exist, by its name either.
        let (status, answer) = stage.rest_call("bob", "of-alice").await;
        assert_eq!((status, &answer["error"]["code"]), (404, &json!(404)), "{answer}");
        for path in ["/mcp", "/mcp/mine"] {
            let answer = stage.modern("bob", path, "tools/call", &call).await;
            assert_eq!(answer["error"]["code"], -32602, "{answer}");
        }
        let called: Vec<String> = stage
            .mine
            .seen()
            .of("tools/call")
            .iter()
            .map(|request| request.header("authorization").to_owned())
            .collect();
        assert!(called.len() == 8 && called.iter().all(|caller| caller == "alice"), "{called:?}");
        let view = stage.gateway.server("mine").await;
        assert_eq!(
            (&view["listing"], &view["available_tools"], &view["state"]),
            (&json!("perCaller"), &json!([]), &json!("ready"))
        );
        let (servers, metrics) = (stage.gateway.servers().await.to_string(), stage.gateway.metrics().await);
        for told in [&servers, &metrics] {
            assert!(!told.contains("of-alice"), "{told}");
        }
    }
}

#[tokio::test]
async fn an_assertion_of_the_caller_lists_too() {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.pem");
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
    std::fs::write(&keys, key).expect("a file");
    let signing = |options| Options {
        assertion_keys: Some(keys),
        assertion_issuer: Some("https://gateway.example.com".into()),
        ..options
    };
    let more = "identity: {assertion: {}}\nlisting: {perCaller: true}";
    let stage = Stage::with(FaultyMode::Modern, more, signing).await;
    assert_eq!(stage.rest_list("alice", "").await.0, ["mine__shared", "of-alice", "shared"]);
    assert_eq!(stage.rest_list("bob", "").await.0, ["of-bob", "shared"]);
    assert_eq!(text(&stage.rest_call("bob", "of-bob").await.1), "mine: of-bob");
}

#[tokio::test]
async fn a_list_that_fails_for_one_caller_hurts_nobody_else_and_says_so() {
    let stage = Stage::start(FaultyMode::Streamable).await;
    stage.mine.behave(|behaviour| {
        let long =
            format!(r#"{{"name":"big","description":"{}","inputSchema":{{"type":"object"}}}}"#, "x".repeat(2_000_000));
        let result = |tools: &str| ListFault::Reply(ProtocolFault::Result(format!(r#"{{"tools":[{tools}]}}"#)));
        for (caller, list) in [
            ("mute", ListFault::Reply(ProtocolFault::Never)),
            ("odd", ListFault::Reply(ProtocolFault::Result(r#"{"tools":7}"#.into()))),
            ("endless", ListFault::EndlessPages),
            ("many", ListFault::Many(5_000)),
            ("large", result(&long)),
            (
                "tasked",
                ListFault::Reply(ProtocolFault::Result(
                    r#"{"resultType":"task","taskId":"1","status":"working"}"#.into(),
                )),
            ),
            ("bad", result(r#"{"name":"broken"},{"name":"fine","inputSchema":{"type":"object"}}"#)),
        ] {
            behaviour.callers.insert(caller.into(), list);
        }
    });
    let missing = |reason: &str, message: &str| json!([{"server": "mine", "reason": reason, "message": message}]);
    let failed = |why: &str| missing("ListFailed", &format!("cannot list its tools: {why}"));
    let (hangs, others) = tokio::join!(stage.rest_list("mute", ""), async {
        let began = std::time::Instant::now();
        let alice = stage.rest_list("alice", "").await;
        let common = stage.rest_call("mute", "shared").await;
        (alice.0.len(), text(&common.1).to_owned(), began.elapsed() < Duration::from_secs(5))
    });
    assert_eq!(hangs, (vec!["shared".to_owned()], failed("it takes too long")));
    assert_eq!(others, (3, "common".to_owned(), true));
    assert_eq!(
        stage.rest_list("odd", "").await,
        (vec!["shared".to_owned()], failed("the answer is not a list of tools"))
    );
    assert_eq!(stage.rest_list("tasked", "").await.0, ["shared"]);
    // A caller that the server knows nothing of: and a name that it may well have is not called unknown.
    let carol = stage.rest_list("carol", "").await;
    assert_eq!(carol, (vec!["shared".to_owned()], failed("it answers with JSON-RPC error -32001")));
    assert_eq!(stage.rest_call("carol", "of-alice").await.0, 503);
    let modern = stage.modern("carol", "/mcp", "tools/list", &json!({})).await;
    assert_eq!(modern["result"]["_meta"]["dev.portcullis/servers"][0]["reason"], "ListFailed", "{modern}");
    let (tools, lacking) = stage.rest_list("bad", "").await;
    assert_eq!(
        (tools, lacking),
        (
            vec!["fine".to_owned(), "shared".to_owned()],
            missing("ListIncomplete", "1 of its tools, prompts and resources are left out")
        )
    );
    for (caller, at_most) in [("endless", 60), ("many", 1_001), ("large", 1)] {
        let tools = stage.rest_list(caller, "").await.0;
        assert!((1..=at_most).contains(&tools.len()), "{caller}: {}", tools.len());
    }
    assert_eq!(stage.rest_list("bob", "").await, (vec!["of-bob".to_owned(), "shared".to_owned()], Value::Null));
    assert_eq!(stage.common.seen().calls, 1);
}

#[tokio::test]
async fn a_list_is_read_once_for_requests_that_come_together_and_again_when_the_server_says_that_it_changed() {
    let stage = Stage::start(FaultyMode::Streamable).await;
    let (first, second, third) =
        tokio::join!(stage.rest_list("alice", ""), stage.rest_list("alice", ""), stage.rest_list("alice", ""));
    assert!(first == second && second == third);
    let of_alice = || {
        let seen = stage.mine.seen();
        seen.of("tools/list").iter().filter(|request| request.header("authorization") == "alice").count()
    };
    assert_eq!(of_alice(), 1);
    stage.mine.behave(|behaviour| drop(behaviour.callers.insert("alice".into(), listed(&["newer"]))));
    assert_eq!(stage.rest_list("alice", "").await.0.len(), 3, "kept");
    stage.mine.announce().await;
    wait_for("the newer list", LIMIT, async || {
        let tools = stage.rest_list("alice", "").await.0;
        if tools == ["newer", "shared"] { Ok(()) } else { Err(tools) }
    })
    .await;
    // Rules of the manifest apply to it, and so does a change of them.
    stage.manifests.add("mine", &stage.mine.url(), &format!("{FORWARDS}\ntools: {{prefix: p}}"));
    wait_for("the prefix", LIMIT, async || {
        let tools = stage.rest_list("alice", "").await.0;
        if tools == ["p__newer", "shared"] { Ok(()) } else { Err(tools) }
    })
    .await;
    // Without perCaller the same server shows everybody what it shows the gateway.
    stage.mine.reform();
    stage.manifests.add("mine", &stage.mine.url(), "");
    wait_for("a list for all", LIMIT, async || {
        let (view, tools) = (stage.gateway.server("mine").await, stage.rest_list("bob", "").await.0);
        // Servers of one software share what is the same.
        if view["listing"].is_null() && tools == ["of-alice", "of-bob", "shared"] { Ok(()) } else { Err((view, tools)) }
    })
    .await;
}

#[tokio::test]
async fn two_credentials_of_one_caller_are_two_lists() {
    let stage = Stage::start(FaultyMode::Streamable).await;
    let list = async |credential: &str| {
        let request = client::get(&stage.gateway.url("/tools/list")).bearer(&mint("carol")).limit(LIMIT);
        let answer = request.header("x-mine-authorization", credential).send().await.expect("an answer");
        names(&answer.json()["tools"])
    };
    assert_eq!(list("alice").await, ["mine__shared", "of-alice", "shared"]);
    assert_eq!(list("bob").await, ["of-bob", "shared"]);
    assert_eq!(list("alice").await, ["mine__shared", "of-alice", "shared"]);
}

#[tokio::test]
async fn policies_decide_about_these_tools_as_about_all() {
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: mine}\nspec: {servers: {names: [mine]}, rules: [{name: some, from: [{subject: alice}], allow: [{tools: ['of-*']}]}]}\n";
    let stage = Stage::start(FaultyMode::Streamable).await;
    stage.manifests.write("policy.yaml", policy);
    wait_for("the policy", LIMIT, async || {
        let tools = stage.rest_list("alice", "").await.0;
        if tools == ["of-alice", "shared"] { Ok(()) } else { Err(tools) }
    })
    .await;
    let modern = stage.modern("alice", "/mcp/mine", "tools/list", &json!({})).await;
    assert_eq!(names(&modern["result"]["tools"]), ["of-alice"]);
    assert_eq!(stage.rest_call("alice", "of-alice").await.0, 200);
    assert_eq!(stage.rest_call("alice", "mine__shared").await.0, 403);
    // A caller that may use nothing of the server is not shown to it.
    let of_bob = |stage: &Stage| {
        let seen = stage.mine.seen();
        seen.requests.iter().filter(|request| request.header("authorization") == "bob").count()
    };
    let before = of_bob(&stage);
    assert_eq!(stage.rest_list("bob", "").await, (vec!["shared".to_owned()], Value::Null));
    assert_eq!(stage.rest_call("bob", "of-bob").await.0, 404);
    assert_eq!(of_bob(&stage), before);
}

#[tokio::test]
async fn prompts_and_resources_are_the_callers_too() {
    let stage = Stage::start(FaultyMode::Streamable).await;
    stage.mine.behave(|behaviour| {
        behaviour.prompts = Some(ProtocolFault::Result(r#"{"prompts":[{"name":"ask"}]}"#.into()));
        behaviour.resources = Some(ProtocolFault::Result(r#"{"resources":[{"uri":"x://a/1","name":"one"}]}"#.into()));
        behaviour.templates = Some(ProtocolFault::Result(r#"{"resourceTemplates":[]}"#.into()));
        behaviour.read = Some("the text".into());
        // The session begins anew, with other capabilities.
        behaviour.post = RequestFault::Slams;
    });
    wait_for("the end of the session", LIMIT, async || {
        let _ = stage.rest_call("alice", "of-alice").await;
        let view = stage.gateway.server("mine").await;
        if view["connected"] == false { Ok(()) } else { Err(view) }
    })
    .await;
    stage.mine.behave(|behaviour| behaviour.post = RequestFault::Open);
    stage.gateway.connected(2).await;
    wait_for("the prompts of alice", LIMIT, async || {
        let list = stage.modern("alice", "/mcp", "prompts/list", &json!({})).await;
        if names(&list["result"]["prompts"]) == ["ask"] { Ok(()) } else { Err(list) }
    })
    .await;
    let resources = stage.modern("alice", "/mcp", "resources/list", &json!({})).await;
    assert_eq!(resources["result"]["resources"], json!([{"uri": "x://a/1", "name": "one"}]));
    let view = stage.gateway.server("mine").await;
    assert_eq!((&view["prompts_count"], &view["resources_count"]), (&json!(0), &json!(0)), "{view}");
    let read = stage.legacy("alice", "/mcp", "resources/read", &json!({"uri": "x://a/1"})).await;
    assert_eq!(read["result"]["contents"][0]["text"], "the text", "{read}");
}

//! One catalog of many servers: shared tools, contested names, filters, new names, weights and priorities.

use std::collections::BTreeMap;

use portcullis_e2e::faulty::{Faulty, FaultyMode, RequestFault, Tool};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use serde_json::json;

const OTHER_SCHEMA: &str = r#"{"type":"object","properties":{"city":{"type":"string"}}}"#;

#[tokio::test]
async fn a_tool_of_several_servers_is_one_tool_and_another_schema_gets_another_name() {
    let one = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("shared", "one"), Tool::text("own", "one")]).await;
    let two = Faulty::with_tools(FaultyMode::Modern, vec![Tool::text("shared", "two")]).await;
    let odd = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("shared", "odd").schema(OTHER_SCHEMA)]).await;
    let manifests = Manifests::new();
    manifests.add("a-one", &one.url(), "");
    manifests.add("b-two", &two.url(), "");
    manifests.add("c-odd", &odd.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(3).await;
    let list = gateway.get("/tools/list").send().await.expect("a list").json();
    let servers: BTreeMap<&str, _> = list["tools"]
        .as_array()
        .expect("tools")
        .iter()
        .map(|tool| (tool["name"].as_str().expect("a name"), (&tool["available_servers"], &tool["server_count"])))
        .collect();
    let (both, first, third) = (json!(["a-one", "b-two"]), json!(["a-one"]), json!(["c-odd"]));
    let expected =
        [("c-odd__shared", (&third, &json!(1))), ("own", (&first, &json!(1))), ("shared", (&both, &json!(2)))];
    assert_eq!(servers, BTreeMap::from(expected));
    gateway.counts(r#"portcullis_tools_renamed{server="c-odd"}"#, 1.0).await;
    for (server, tool, text) in
        [("b-two", "shared", "two"), ("a-one", "shared", "one"), ("a-one", "c-odd__shared", "odd")]
    {
        let answer = gateway.call_at(server, tool, "{}").await;
        assert_eq!(answer.json()["content"][0]["text"], text);
    }
    let own = gateway.get("/tools/list?server=c-odd").send().await.expect("a list");
    assert_eq!(own.text(), format!(r#"{{"tools":[{{"name":"c-odd__shared","inputSchema":{OTHER_SCHEMA}}}]}}"#));
}

#[tokio::test]
async fn tools_are_filtered_renamed_and_described_by_their_rules() {
    let tools = ["issues_list", "issues_delete", "search", "other"].map(Tool::echo).to_vec();
    let server = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let manifests = Manifests::new();
    let rules = "tools:\n  prefix: gh\n  include: ['issues_*', search]\n  exclude: ['*_delete']\n  overrides:\n  - name: search\n    rename: find\n    description: Finds.\n    annotations: {readOnlyHint: true}";
    manifests.add("github", &server.url(), rules);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["gh__find", "gh__issues_list"]).await;
    let list = gateway.get("/tools/list").send().await.expect("a list").json();
    assert_eq!(
        (&list["tools"][0]["description"], &list["tools"][0]["annotations"]),
        (&json!("Finds."), &json!({"readOnlyHint": true}))
    );
    let answer = gateway.call("gh__find", r#"{"message":"x"}"#).await;
    assert_eq!((answer.status, server.seen().of("tools/call")[0].param("name").as_deref()), (200, Some(r#""search""#)));
    for hidden in ["search", "gh__search", "issues_delete", "gh__issues_delete", "gh__other"] {
        assert_eq!(gateway.call(hidden, "{}").await.status, 404, "{hidden}");
    }
    assert_eq!(server.seen().calls, 1);
}

#[tokio::test]
async fn calls_go_by_preference_priority_and_weight() {
    let servers = [
        Faulty::start(FaultyMode::Sse).await,
        Faulty::start(FaultyMode::Streamable).await,
        Faulty::start(FaultyMode::Modern).await,
    ];
    let manifests = Manifests::new();
    manifests.add("first", &servers[0].url(), "");
    manifests.add("second", &servers[1].url(), "priority: 1");
    manifests.add("named-only", &servers[2].url(), "weight: 0");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(3).await;
    for _ in 0..6 {
        assert_eq!(gateway.call("echo", "{}").await.header("x-portcullis-server"), "first");
    }
    for name in ["first", "second", "named-only"] {
        assert_eq!(gateway.call_at(name, "echo", "{}").await.header("x-portcullis-server"), name);
    }
    servers[0].behave(|faults| faults.call = RequestFault::status(429));
    let elsewhere = gateway.call("echo", "{}").await;
    let facts = (elsewhere.status, elsewhere.header("x-portcullis-server"), elsewhere.header("x-portcullis-attempts"));
    assert_eq!(facts, (200, "second", "2"));
    gateway.counts(r#"portcullis_failovers_total{server="first"}"#, 1.0).await;
}

#[tokio::test]
async fn equal_servers_share_the_calls() {
    let servers = [Faulty::start(FaultyMode::Sse).await, Faulty::start(FaultyMode::Streamable).await];
    let gateway = TestGateway::before(&[&servers[0].url(), &servers[1].url()]).await;
    gateway.connected(2).await;
    for _ in 0..20 {
        assert_eq!(gateway.call("echo", "{}").await.status, 200);
    }
    // A place is kept until the answer is written, so a caller that is quick may find the server in turn busy.
    let calls = servers.map(|server| server.seen().calls);
    assert!(calls.iter().sum::<u64>() == 20 && calls.iter().all(|calls| (8..=12).contains(calls)), "{calls:?}");
}

#[tokio::test]
async fn only_the_callers_headers_that_a_server_may_get_reach_it() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let manifests = Manifests::new();
    let more = "headers: [{name: X-Team, value: a}, {name: X-Fixed, value: ours}]\nforwardHeaders: [x-tenant, x-fixed]";
    manifests.add("one", &server.url(), more);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let call = gateway.post(r#"{"method":"echo"}"#).header("x-tenant", "t1").header("x-fixed", "theirs");
    assert_eq!(call.header("x-other", "o").header("cookie", "c").send().await.expect("an answer").status, 200);
    let seen = server.seen();
    let call = seen.of("tools/call")[0];
    let sent = ["x-team", "x-fixed", "x-tenant", "x-other", "cookie", "authorization"].map(|name| call.header(name));
    assert_eq!(sent, ["a", "ours", "t1", "", "", ""]);
    assert_eq!(seen.of("initialize")[0].header("x-team"), "a");
}

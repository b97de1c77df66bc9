//! Tasks (SEP-2663): from any replica, of their caller alone, and waited for where a client takes none.

use std::time::Duration;

use portcullis_e2e::conformance::Extended;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::kit::{MODERN, MessageStream, initialize, message};

const TASKS: &str = "io.modelcontextprotocol/tasks";

/// A request of a client of 2026-07-28 that takes tasks and can be asked, of this subject.
fn request(
    gateway: &TestGateway,
    subject: &str,
    (method, name): (&str, &str),
    mut params: Value,
) -> client::HttpRequest {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}, "extensions": {TASKS: {}}},
    });
    let text = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let request = client::post(&gateway.url("/mcp"), text).bearer(&mint(subject)).limit(LIMIT);
    request.header("mcp-protocol-version", MODERN).header("mcp-method", method).header("mcp-name", name)
}

async fn ask(gateway: &TestGateway, subject: &str, (method, name): (&str, &str), params: Value) -> Value {
    request(gateway, subject, (method, name), params).send().await.expect("an answer").json()
}

async fn begin(gateway: &TestGateway, tool: &str, arguments: Value) -> String {
    let answer = ask(gateway, "alice", ("tools/call", tool), json!({"name": tool, "arguments": arguments})).await;
    assert_eq!(answer["result"]["resultType"], "task", "{answer}");
    answer["result"]["taskId"].as_str().expect("an id").to_owned()
}

async fn about(gateway: &TestGateway, subject: &str, method: &str, task: &str, mut params: Value) -> Value {
    params["taskId"] = task.into();
    ask(gateway, subject, (method, task), params).await
}

/// The state of a task of alice's, once it has this status.
async fn reached(gateway: &TestGateway, task: &str, status: &str) -> Value {
    let state = wait_for(status, LIMIT, async || {
        let answer = about(gateway, "alice", "tasks/get", task, json!({})).await;
        if answer["result"]["status"] == status { Ok(answer["result"].clone()) } else { Err(answer) }
    })
    .await;
    assert_eq!(state["taskId"], task);
    state
}

/// Two replicas with the same keys before the same server.
async fn replicas() -> (Extended, Manifests, [TestGateway; 2]) {
    let (server, manifests) = (Extended::start("add").await, Manifests::new());
    manifests.add("extended", &server.url(), "");
    let keys = manifests.secrets().join("../keys");
    std::fs::write(&keys, "k1 qmZ1xqvQb5bJ0g3yZ7fYb0d3yq4w0m0eXo1uYkq3T1A=\n").expect("the keys are written");
    let options = || Options { session_keys: Some(keys.clone()), ..manifests.options() };
    let (one, other) = (TestGateway::start(options()).await, TestGateway::start(options()).await);
    one.connected(1).await;
    other.connected(1).await;
    (server, manifests, [one, other])
}

#[tokio::test]
async fn a_task_goes_on_at_another_replica_after_the_one_that_began_it_is_gone() {
    let (_server, _manifests, [one, other]) = replicas().await;
    let (slow, asking) =
        (begin(&one, "slow_compute", json!({"seconds": 60})).await, begin(&one, "confirm_delete", json!({})).await);
    one.stop().await.expect("it stops");

    let state = reached(&other, &asking, "input_required").await;
    assert_eq!(state["inputRequests"]["confirm"]["method"], "elicitation/create");
    let given = json!({"inputResponses": {"confirm": {"action": "accept", "content": {"confirm": true}}}});
    let done = about(&other, "alice", "tasks/update", &asking, given).await;
    assert_eq!(done["result"], json!({"resultType": "complete"}));
    let state = reached(&other, &asking, "completed").await;
    let text = state["result"]["content"][0]["text"].as_str().expect("a text");
    assert!(text.starts_with("answered: ") && text.contains(r#""confirm":true"#), "{text}");

    assert_eq!(reached(&other, &slow, "working").await["resultType"], "complete");
    let done = about(&other, "alice", "tasks/cancel", &slow, json!({})).await;
    assert_eq!(done["result"], json!({"resultType": "complete"}));
    reached(&other, &slow, "cancelled").await;
}

#[tokio::test]
async fn a_task_belongs_to_its_caller_as_long_as_it_may_use_the_tool() {
    let (_server, manifests, [gateway, _]) = replicas().await;
    let task = begin(&gateway, "slow_compute", json!({"seconds": 60})).await;
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        for (subject, id) in [("bob", task.as_str()), ("alice", "none"), ("alice", "")] {
            let answer = about(&gateway, subject, method, id, json!({"inputResponses": {}})).await;
            let expected = "no task of this caller has this taskId, or its server is gone: call the tool again";
            assert_eq!((&answer["error"]["code"], &answer["error"]["message"]), (&json!(-32602), &json!(expected)));
        }
    }
    let without = request(&gateway, "alice", ("tasks/get", "other"), json!({"taskId": task})).send().await;
    assert_eq!(without.expect("an answer").json()["error"]["code"], -32020);

    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p}\nspec: {servers: {names: [extended]}, rules: [{name: r, from: [{subject: alice}], allow: [{tools: [greet]}]}]}\n";
    manifests.write("policy.yaml", policy);
    let denied = wait_for("the policy", LIMIT, async || {
        let answer = about(&gateway, "alice", "tasks/get", &task, json!({})).await;
        if answer["error"].is_null() { Err(answer) } else { Ok(answer) }
    })
    .await;
    assert_eq!(denied["error"]["code"], -32003, "{denied}");
    manifests.write("policy.yaml", &policy.replace("greet", "'slow_*'"));
    reached(&gateway, &task, "working").await;
    manifests.remove("extended");
    wait_for("the end of the server", LIMIT, async || {
        let answer = about(&gateway, "alice", "tasks/get", &task, json!({})).await;
        // No server that has tasks is left.
        if answer["error"]["code"] == -32601 { Ok(()) } else { Err(answer) }
    })
    .await;
}

#[tokio::test]
async fn clients_that_take_no_task_get_its_result_or_the_reason_why_not() {
    let (server, manifests) = (Extended::start("add").await, Manifests::new());
    manifests.add("extended", &server.url(), "timeouts: {requestSeconds: 2}");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;

    let answer = gateway.call("slow_compute", r#"{"seconds":0.3}"#).await;
    assert_eq!((answer.status, &answer.json()["content"][0]["text"]), (200, &json!("computed")));
    let answer = gateway.call("failing_job", "{}").await;
    assert_eq!((answer.status, &answer.json()["isError"]), (200, &json!(true)));
    let answer = gateway.call("protocol_error_job", "{}").await;
    assert!(answer.text().contains("it broke"), "{}", answer.text());
    for (tool, arguments, expected) in [
        (
            "slow_compute",
            r#"{"seconds":60}"#,
            "its task was not done in time: raise timeouts.requestSeconds of the server",
        ),
        ("confirm_delete", "{}", "its task needs input: call it with a client of 2026-07-28"),
    ] {
        let answer = gateway.call(tool, arguments).await;
        assert!(answer.status >= 500 && answer.text().contains(expected), "{} {}", answer.status, answer.text());
    }

    let session = initialize(&gateway, "2025-11-25").await;
    let call = json!({"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "slow_compute", "arguments": {"seconds": 0.3}}});
    let answer =
        message(&gateway, call.to_string()).header("mcp-session-id", &session).send().await.expect("an answer");
    assert_eq!(answer.json()["result"]["content"][0]["text"], "computed", "{}", answer.text());
    // They have no such requests.
    let get = json!({"jsonrpc": "2.0", "id": 3, "method": "tasks/get", "params": {"taskId": "t"}});
    let answer = message(&gateway, get.to_string()).header("mcp-session-id", &session).send().await.expect("an answer");
    assert_eq!(answer.json()["error"]["code"], -32601);
}

#[tokio::test]
async fn streams_are_told_of_the_tasks_that_their_caller_began() {
    let begun = json!({
        "resultType": "task", "taskId": "own-1", "status": "working", "createdAt": "2026-12-01T00:00:00Z",
        "lastUpdatedAt": "2026-12-01T00:00:00Z", "ttlMs": null,
    });
    let server = Faulty::with_tools(FaultyMode::Modern, vec![Tool::result("job", begun.to_string())]).await;
    let state = |status: &str| begun.to_string().replace("working", status).replace(r#""task""#, r#""complete""#);
    let working = state("working");
    server.behave(|it| {
        it.extensions = Some(json!({TASKS: {}}).to_string());
        it.others.insert("tasks/get".into(), working);
    });
    let manifests = Manifests::new();
    manifests.add("job", &server.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let task = begin(&gateway, "job", json!({})).await;
    let wanted = json!({"notifications": {"taskIds": [task, "none"]}});

    // Not of a client that takes no tasks, and to another caller nothing.
    let able =
        crate::kit::modern(&gateway, "/mcp", "subscriptions/listen", None, r#""notifications":{"taskIds":["x"]}"#);
    let refused = able.send().await.expect("an answer");
    let needed = json!({"requiredCapabilities": {"extensions": {TASKS: {}}}});
    assert_eq!((refused.status, refused.json()["error"]["data"].clone()), (400, needed));
    let accepts = "application/json, text/event-stream";
    let listen = |subject: &str| {
        request(&gateway, subject, ("subscriptions/listen", ""), wanted.clone()).header("accept", accepts)
    };
    let mut others = MessageStream::of(listen("bob")).await;
    assert_eq!(others.next().await.expect("an acknowledgement")["params"]["notifications"], json!({}));

    let mut stream = MessageStream::of(listen("alice")).await;
    let acknowledged = stream.next().await.expect("an acknowledgement");
    assert_eq!(acknowledged["params"]["notifications"], json!({"taskIds": [task]}));
    // What it is at first: it may have changed before anybody listened.
    let first = stream.next().await.expect("a state");
    let mut expected = begun.clone();
    let members = expected.as_object_mut().expect("an object");
    members.remove("resultType");
    members.insert("taskId".into(), task.clone().into());
    members.insert("_meta".into(), json!({"io.modelcontextprotocol/subscriptionId": 1}));
    assert_eq!(first, json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": expected}));
    let asked = server.seen();
    let asked = asked.of("subscriptions/listen").last().expect("a stream").param("notifications").expect("what for");
    assert_eq!(serde_json::from_str::<Value>(&asked).expect("JSON")["taskIds"], json!(["own-1"]));

    let mut params: Value = serde_json::from_str(&state("completed")).expect("JSON");
    params["result"] = json!({"content": []});
    server.push(&json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params}).to_string()).await;
    let told = stream.next().await.expect("a change");
    assert_eq!((&told["params"]["status"], &told["params"]["taskId"]), (&json!("completed"), &json!(task)));
    assert_eq!(told["params"]["result"], json!({"content": []}));
    for (id, quiet) in [("another", true), ("own-1", false)] {
        params["taskId"] = id.into();
        server.push(&json!({"jsonrpc": "2.0", "method": "notifications/tasks", "params": params}).to_string()).await;
        assert_eq!(stream.is_quiet(Duration::from_millis(300)).await, quiet, "{id}");
    }
    assert!(others.is_quiet(Duration::from_millis(100)).await);
    // When nobody listens any more, the server is not asked any more.
    drop(stream);
    wait_for("the end of the subscription", LIMIT, async || {
        let seen = server.seen();
        let last = seen.of("subscriptions/listen").last().expect("a stream").param("notifications").expect("what for");
        if last.contains("taskIds") { Err(last) } else { Ok(()) }
    })
    .await;
}

#[tokio::test]
async fn a_task_that_the_gateway_waits_for_is_cancelled_when_its_caller_goes_away_or_its_time_ends() {
    for (limit, seconds, status) in [(Duration::from_millis(700), 60, None), (LIMIT, 2, Some(502))] {
        let task = |status: &str| {
            json!({"resultType": "task", "taskId": "own-1", "status": status, "createdAt": "2026-12-01T00:00:00Z",
                "lastUpdatedAt": "2026-12-01T00:00:00Z", "ttlMs": null, "pollIntervalMs": 100})
        };
        let server =
            Faulty::with_tools(FaultyMode::Modern, vec![Tool::result("job", task("working").to_string())]).await;
        server.behave(|it| {
            it.extensions = Some(json!({TASKS: {}}).to_string());
            it.others.insert("tasks/get".into(), task("working").to_string().replace(r#""task""#, r#""complete""#));
            it.others.insert("tasks/cancel".into(), r#"{"resultType":"complete"}"#.into());
        });
        let manifests = Manifests::new();
        manifests.add("job", &server.url(), &format!("timeouts: {{requestSeconds: {seconds}}}"));
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(1).await;
        let answer = gateway.post(r#"{"method":"job","args":{}}"#).limit(limit).send().await;
        assert_eq!(answer.ok().map(|answer| answer.status), status);
        wait_for("a cancellation", LIMIT, async || {
            let seen = server.seen();
            if seen.of("tasks/cancel").is_empty() { Err(seen.ids("tasks/get")) } else { Ok(()) }
        })
        .await;
        let seen = server.seen();
        let cancelled: Vec<_> = seen.of("tasks/cancel").iter().map(|request| request.param("taskId")).collect();
        assert_eq!(cancelled, [Some(r#""own-1""#.to_owned())]);
        assert!(!seen.of("tasks/get").is_empty());
    }
}

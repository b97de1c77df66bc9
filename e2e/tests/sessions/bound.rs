//! Several replicas, and servers that send requests to one client or keep state for it: every replica forwards to the
//! one that has the session, the question or the waiting call.

use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::sse;
use serde_json::{Value, json};

use crate::kit::next;
use crate::owner::{KEYS, replica};

const SESSIONS: &str = r#"portcullis_client_upstream_sessions{server="asks"}"#;
const OWN: &str = "protocolVersion: 2025-11-25\nsession: PerClient";
const MODERN: &str = "2026-07-28";

struct BoundPair {
    owner: TestGateway,
    other: TestGateway,
    _server: Conforming,
    _manifests: Manifests,
}

async fn start(more: &str) -> BoundPair {
    let (server, manifests) = (Conforming::start().await, Manifests::new());
    manifests.add("asks", &server.url(TestTransport::StreamableHttp), more);
    std::fs::write(manifests.secrets().join("../keys"), KEYS).expect("a file");
    let owner = TestGateway::start(replica(&manifests, 0)).await;
    let other = TestGateway::start(replica(&manifests, 0)).await;
    owner.connected(1).await;
    other.connected(1).await;
    BoundPair { owner, other, _server: server, _manifests: manifests }
}

/// A session of a client that can be asked everything: its id.
async fn begin(gateway: &TestGateway) -> String {
    let able = json!({"roots": {}, "sampling": {}, "elicitation": {}});
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": able, "clientInfo": {"name": "t", "version": "1"}});
    let text = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
    let answer = client::post(&gateway.url("/mcp"), text.to_string()).bearer(&gateway.token).send().await;
    answer.expect("an answer").header("mcp-session-id").to_owned()
}

fn message(gateway: &TestGateway, session: &str, message: &Value) -> client::HttpRequest {
    let request = client::post(&gateway.url("/mcp"), message.to_string()).bearer(&gateway.token).limit(LIMIT);
    request.header("mcp-session-id", session)
}

fn call(tool: &str) -> Value {
    let params = json!({"name": tool, "arguments": {"message": "m"}});
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params})
}

async fn asked_and_answered(calls: &TestGateway, answers: &TestGateway, session: &str) {
    let mut events = sse::open(message(calls, session, &call("test_elicitation"))).await.expect("a stream");
    let question = next(&mut events).await;
    assert_eq!(question["method"], "elicitation/create");
    let answer = json!({"jsonrpc": "2.0", "id": question["id"], "result": {"action": "decline"}});
    assert_eq!(message(answers, session, &answer).send().await.expect("an answer").status, 202);
    let result = next(&mut events).await;
    let text = "User response: action=decline, content=null";
    assert_eq!((&result["id"], &result["result"]["content"][0]["text"]), (&json!(1), &json!(text)), "{result}");
}

#[tokio::test]
async fn the_session_with_a_server_is_at_the_replica_that_began_the_clients() {
    let BoundPair { owner, other, _server, _manifests } = start(OWN).await;
    let session = begin(&owner).await;
    for (calls, answers) in [(&other, &other), (&owner, &other), (&other, &owner)] {
        asked_and_answered(calls, answers, &session).await;
    }
    owner.counts(SESSIONS, 1.0).await;
    other.counts(SESSIONS, 0.0).await;
}

#[tokio::test]
async fn without_the_owner_a_client_begins_anew() {
    let BoundPair { owner, other, _server, _manifests } = start(OWN).await;
    let session = begin(&owner).await;
    assert_eq!(message(&other, &session, &call("test_simple_text")).send().await.expect("an answer").status, 200);
    owner.stop().await.expect("a good end");
    let answer = message(&other, &session, &call("test_simple_text")).send().await.expect("an answer");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (404, &json!(-32001)));
    let session = begin(&other).await;
    assert_eq!(message(&other, &session, &call("test_simple_text")).send().await.expect("an answer").status, 200);
}

/// The servers need no session: the question is where the call is.
#[tokio::test]
async fn an_answer_finds_the_replica_that_has_asked() {
    let BoundPair { owner, other, _server, _manifests } = start("").await;
    let session = begin(&owner).await;
    for (calls, answers) in [(&other, &owner), (&other, &other), (&owner, &other)] {
        asked_and_answered(calls, answers, &session).await;
    }
}

async fn modern(gateway: &TestGateway, more: Value) -> HttpAnswer {
    let mut params = json!({"name": "test_elicitation", "arguments": {"message": "m"}, "_meta": {
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {}},
    }});
    params.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    let text = json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params});
    let request = client::post(&gateway.url("/mcp"), text.to_string()).bearer(&gateway.token).limit(LIMIT);
    let request = request.header("mcp-protocol-version", MODERN).header("mcp-method", "tools/call");
    request.header("mcp-name", "test_elicitation").send().await.expect("an answer")
}

#[tokio::test]
async fn a_waiting_call_goes_on_through_any_replica() {
    let BoundPair { owner, other, _server, _manifests } = start(OWN).await;
    let asked = modern(&owner, json!({})).await.json();
    let key = asked["result"]["inputRequests"].as_object().and_then(|it| it.keys().next()).expect("a question");
    let back = json!({"requestState": asked["result"]["requestState"], "inputResponses": {key: {"action": "decline"}}});
    let answer = modern(&other, back).await.json();
    let text = "User response: action=decline, content=null";
    assert_eq!((&answer["id"], &answer["result"]["content"][0]["text"]), (&json!(7), &json!(text)), "{answer}");
}

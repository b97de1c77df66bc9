//! Servers that send requests to the client, or keep state for it.

use std::time::Duration;

use http::Method;
use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, RealServer, RealServerKind, TestTransport};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};

use crate::kit::{MessageStream, error_of, initialize_as, initialize_text, message};

const ALL: &str = r#"{"roots":{"listChanged":true},"sampling":{},"elicitation":{}}"#;

/// The transport and settings of a server with a session for each client.
pub(crate) const OWN: [(TestTransport, &str); 2] = [
    (TestTransport::StreamableHttp, "protocolVersion: 2025-11-25\nsession: PerClient"),
    (TestTransport::Sse, "transport: sse\nsession: PerClient"),
];

/// The transport and settings of a server without sessions.
const MODERN: (TestTransport, &str) = (TestTransport::StreamableHttp, "protocolVersion: 2026-07-28");

pub(crate) struct AskStage {
    pub(crate) gateway: TestGateway,
    pub(crate) manifests: Manifests,
    pub(crate) server: Conforming,
}

pub(crate) async fn stage((transport, more): (TestTransport, &str)) -> AskStage {
    let server = Conforming::start().await;
    let manifests = Manifests::new();
    manifests.add("asks", &server.url(transport), more);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    AskStage { gateway, manifests, server }
}

fn call_text(id: u32, tool: &str, arguments: &str) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{arguments}}}}}"#
    )
}

async fn call(gateway: &TestGateway, session: &str, tool: &str, arguments: &str) -> MessageStream {
    MessageStream::of(message(gateway, call_text(1, tool, arguments)).header("mcp-session-id", session)).await
}

/// Answers a question: 202, whether anybody waits for it or not.
async fn answer(gateway: &TestGateway, session: &str, question: &Value, result: Value) {
    let text = json!({"jsonrpc": "2.0", "id": question["id"], "result": result}).to_string();
    let answer = message(gateway, text).header("mcp-session-id", session).send().await.expect("an answer");
    assert_eq!((answer.status, answer.body.len()), (202, 0));
}

/// The next request of a server: its method.
async fn question(events: &mut MessageStream, method: &str) -> Value {
    let question = events.next().await.expect("a question");
    assert_eq!(question["method"], method, "{question}");
    assert!(question["id"].as_str().is_some_and(|id| id.len() == 32), "{question}");
    question
}

async fn said(events: &mut MessageStream) -> String {
    let result = events.next().await.expect("the result comes before the end");
    assert_eq!((&result["id"], events.next().await), (&json!(1), None), "{result}");
    result["result"]["content"][0]["text"].as_str().unwrap_or_else(|| panic!("{result}")).to_owned()
}

#[tokio::test]
async fn a_client_is_asked_on_the_answer_to_its_call_by_servers_of_every_kind() {
    for kind in OWN.into_iter().chain([MODERN]) {
        let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
        let session = initialize_as(&gateway, "2025-06-18", ALL).await;

        let mut events = call(&gateway, &session, "test_elicitation", r#"{"message":"Who are you?"}"#).await;
        let asked = question(&mut events, "elicitation/create").await;
        assert_eq!(asked["params"]["message"], "Who are you?");
        gateway.counts("portcullis_client_questions_open", 1.0).await;
        let given = json!({"action": "accept", "content": {"username": "ada", "email": "a@b"}});
        answer(&gateway, &session, &asked, given).await;
        let expected = r#"User response: action=accept, content={"email":"a@b","username":"ada"}"#;
        assert_eq!(said(&mut events).await, expected, "{kind:?}");
        gateway.counts("portcullis_client_questions_open", 0.0).await;

        let mut events = call(&gateway, &session, "test_sampling", r#"{"prompt":"hi"}"#).await;
        let asked = question(&mut events, "sampling/createMessage").await;
        let message = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "hello"}});
        answer(&gateway, &session, &asked, message).await;
        assert_eq!(said(&mut events).await, "LLM response: hello", "{kind:?}");

        // Two rounds, one after the other.
        let mut events = call(&gateway, &session, "test_input_required_result_multi_round", "{}").await;
        for field in ["name", "color"] {
            let asked = question(&mut events, "elicitation/create").await;
            answer(&gateway, &session, &asked, json!({"action": "accept", "content": {field: "x"}})).await;
        }
        assert!(said(&mut events).await.contains(r#"{"color":"x"}"#), "{kind:?}");
    }
}

#[tokio::test]
async fn several_questions_of_a_round_are_asked_together() {
    let AskStage { gateway, manifests: _manifests, server: _server } = stage(MODERN).await;
    let session = initialize_as(&gateway, "2025-11-25", ALL).await;
    let mut events = call(&gateway, &session, "test_input_required_result_multiple_inputs", "{}").await;
    let mut methods = Vec::new();
    for _ in 0..3 {
        let asked = events.next().await.expect("a question");
        methods.push(asked["method"].as_str().unwrap().to_owned());
        let given = match methods.last().unwrap().as_str() {
            "roots/list" => json!({"roots": [{"uri": "file:///x"}]}),
            "sampling/createMessage" => {
                json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "t"}})
            }
            _ => json!({"action": "accept", "content": {"name": "n"}}),
        };
        answer(&gateway, &session, &asked, given).await;
    }
    methods.sort();
    assert_eq!(methods, ["elicitation/create", "roots/list", "sampling/createMessage"]);
    assert!(said(&mut events).await.contains("file:///x"));
}

#[tokio::test]
async fn a_client_that_declares_nothing_is_asked_nothing() {
    for kind in OWN {
        let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
        let session = initialize_as(&gateway, "2025-06-18", "{}").await;
        let text = call_text(1, "test_elicitation", r#"{"message":"m"}"#);
        let answer = message(&gateway, text).header("mcp-session-id", &session).send().await.unwrap();
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.json()["result"]["isError"], true, "{}", answer.text());
        // Nor is a caller of REST.
        let rest = gateway.call("test_elicitation", r#"{"message":"m"}"#).await;
        assert_eq!((rest.status, &rest.json()["isError"]), (200, &json!(true)));
    }
}

#[tokio::test]
async fn an_answer_counts_for_the_session_that_was_asked_alone() {
    let AskStage { gateway, manifests: _manifests, server: _server } = stage(OWN[0]).await;
    let session = initialize_as(&gateway, "2025-06-18", ALL).await;
    let stranger = initialize_as(&gateway, "2025-06-18", ALL).await;
    let mut events = call(&gateway, &session, "test_elicitation", r#"{"message":"m"}"#).await;
    let asked = question(&mut events, "elicitation/create").await;
    answer(&gateway, &stranger, &asked, json!({"action": "cancel"})).await;
    answer(&gateway, &session, &json!({"id": 0}), json!({"action": "cancel"})).await;
    assert!(events.is_quiet(Duration::from_millis(300)).await);
    // An error of the client reaches the server as one.
    let text = json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": -1, "message": "the user is away"}});
    let sent = message(&gateway, text.to_string()).header("mcp-session-id", &session).send().await.unwrap();
    assert_eq!(sent.status, 202);
    let result = events.next().await.expect("a result");
    assert!(result.to_string().contains("the user is away"), "{result}");
}

#[tokio::test]
async fn a_call_does_not_run_out_of_time_while_its_client_thinks() {
    let kind = (
        TestTransport::StreamableHttp,
        "protocolVersion: 2025-11-25\nsession: PerClient\ntimeouts: {requestSeconds: 1}",
    );
    let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
    let session = initialize_as(&gateway, "2025-06-18", ALL).await;
    let mut events = call(&gateway, &session, "test_elicitation", r#"{"message":"m"}"#).await;
    let asked = question(&mut events, "elicitation/create").await;
    assert!(events.is_quiet(Duration::from_millis(2500)).await);
    answer(&gateway, &session, &asked, json!({"action": "decline"})).await;
    assert_eq!(said(&mut events).await, "User response: action=decline, content=null");
}

#[tokio::test]
async fn each_client_has_its_own_session_until_it_ends_it() {
    for kind in OWN {
        let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
        let gauge = r#"portcullis_client_upstream_sessions{server="asks"}"#;
        gateway.counts(gauge, 0.0).await;
        let mut sessions = Vec::new();
        for count in 1..=3 {
            let session = initialize_as(&gateway, "2025-11-25", "{}").await;
            for _ in 0..2 {
                let text = call_text(1, "test_simple_text", "{}");
                let answer = message(&gateway, text).header("mcp-session-id", &session).send().await.unwrap();
                assert_eq!(answer.status, 200, "{}", answer.text());
            }
            gateway.counts(gauge, f64::from(count)).await;
            sessions.push(session);
        }
        // Callers of REST are told apart by their subject.
        gateway.call("test_simple_text", "{}").await;
        gateway.counts(gauge, 4.0).await;
        let request = client::request(Method::DELETE, &gateway.url("/mcp")).bearer(&gateway.token);
        let answer = request.header("mcp-session-id", &sessions[0]).send().await.unwrap();
        assert_eq!(answer.status, 204);
        gateway.counts(gauge, 3.0).await;
    }
}

#[tokio::test]
async fn a_client_is_told_when_what_was_kept_for_it_is_lost() {
    for (transport, more) in OWN {
        let AskStage { gateway, manifests, server } = stage((transport, more)).await;
        let session = initialize_as(&gateway, "2025-11-25", "{}").await;
        let text = || message(&gateway, call_text(1, "test_simple_text", "{}")).header("mcp-session-id", &session);
        assert_eq!(text().send().await.unwrap().status, 200);
        // Another address is another server.
        manifests.add("asks", &format!("{}?again", server.url(transport)), more);
        gateway.counts(r#"portcullis_client_upstream_sessions{server="asks"}"#, 0.0).await;
        gateway.connected(1).await;
        let answer = text().send().await.unwrap();
        assert_eq!(error_of(&answer), (404, -32001, json!(1)), "{transport:?}");
        // It was told.
        assert_eq!(text().send().await.unwrap().status, 200);
    }
}

/// A client without state at the server gets a new session within the call; another gets an error.
#[tokio::test]
async fn a_session_that_the_server_forgets_is_healed_where_nothing_can_be_lost() {
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("t", "done")]).await;
    let manifests = Manifests::new();
    manifests.add("forgets", &server.url(), "protocolVersion: 2025-11-25\nsession: PerClient");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let session = initialize_as(&gateway, "2025-11-25", "{}").await;
    let text = || message(&gateway, call_text(1, "t", "{}")).header("mcp-session-id", &session);
    for _ in 0..2 {
        assert_eq!(text().send().await.unwrap().status, 200);
        assert_eq!(gateway.call("t", "{}").await.status, 200);
        server.forget_sessions();
        assert_eq!(gateway.call("t", "{}").await.header("x-portcullis-attempts"), "1");
        assert_eq!(error_of(&text().send().await.unwrap()), (404, -32001, json!(1)));
    }
}

#[tokio::test]
async fn there_are_no_more_sessions_than_there_may_be() {
    let kind = (OWN[0].0, "protocolVersion: 2025-11-25\nsession: PerClient\nclientSessions: {max: 1}");
    let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
    let (first, second) =
        (initialize_as(&gateway, "2025-11-25", "{}").await, initialize_as(&gateway, "2025-11-25", "{}").await);
    let call =
        |session: String| message(&gateway, call_text(1, "test_simple_text", "{}")).header("mcp-session-id", &session);
    assert_eq!(call(first.clone()).send().await.unwrap().status, 200);
    assert_eq!(error_of(&call(second).send().await.unwrap()), (429, -32603, json!(1)));
    assert_eq!(call(first).send().await.unwrap().status, 200);
    assert_eq!(gateway.call("test_simple_text", "{}").await.status, 429);
}

#[tokio::test]
async fn what_a_server_says_in_a_call_reaches_its_client_in_order_and_at_its_level() {
    for kind in OWN {
        let AskStage { gateway, manifests: _manifests, server: _server } = stage(kind).await;
        let session = initialize_as(&gateway, "2025-11-25", "{}").await;
        let mut events = call(&gateway, &session, "test_tool_with_logging", "{}").await;
        let mut heard = Vec::new();
        while let Some(event) = events.next().await {
            heard.push(event["method"].as_str().unwrap_or("the result").to_owned());
        }
        assert_eq!(heard.pop().as_deref(), Some("the result"));
        // With streamable HTTP they come on another stream than the result, and so in no order with it.
        if kind.0 == TestTransport::Sse {
            assert_eq!(heard, ["notifications/message"; 3]);
        }
        // What is less urgent than it wants does not come.
        let level = r#"{"jsonrpc":"2.0","id":2,"method":"logging/setLevel","params":{"level":"error"}}"#;
        let set = message(&gateway, level).header("mcp-session-id", &session).send().await.unwrap();
        assert_eq!(set.json()["result"], json!({}));
        let text = call_text(3, "test_tool_with_logging", "{}");
        let answer = message(&gateway, text).header("mcp-session-id", &session).send().await.unwrap();
        assert_eq!(answer.header("content-type"), "application/json", "{kind:?}");
    }
}

#[tokio::test]
async fn a_session_that_is_not_used_is_closed_and_its_client_is_told() {
    let more = "protocolVersion: 2025-11-25\nsession: PerClient\nclientSessions: {idleSeconds: 10}";
    let AskStage { gateway, manifests: _manifests, server: _server } = stage((OWN[0].0, more)).await;
    let gauge = r#"portcullis_client_upstream_sessions{server="asks"}"#;
    let session = initialize_as(&gateway, "2025-11-25", "{}").await;
    let text = || message(&gateway, call_text(1, "test_simple_text", "{}")).header("mcp-session-id", &session);
    assert_eq!(text().send().await.unwrap().status, 200);
    assert_eq!(gateway.call("test_simple_text", "{}").await.status, 200);
    gateway.counts(gauge, 2.0).await;
    gateway.counts(gauge, 0.0).await;
    assert_eq!(error_of(&text().send().await.unwrap()), (404, -32001, json!(1)));
    // Who has no session expects none to be kept.
    assert_eq!(gateway.call("test_simple_text", "{}").await.status, 200);
}

#[tokio::test]
async fn a_server_asks_outside_calls_on_the_sessions_own_stream_and_hears_of_changed_roots() {
    require!(real::available(RealServerKind::EverythingSse));
    let server = RealServer::start(RealServerKind::EverythingSse).await;
    let manifests = Manifests::new();
    manifests.add("everything", &server.url, "session: PerClient");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let session = initialize_as(&gateway, "2025-06-18", ALL).await;
    let mut stream = MessageStream::of_session(&gateway, "/mcp", Some(&session)).await;
    // It asks for the roots when it has begun, and may do so while the call runs that began it.
    let first = message(&gateway, call_text(1, "echo", r#"{"message":"m"}"#)).header("mcp-session-id", &session);
    assert_eq!(first.send().await.unwrap().status, 200);
    let changed = r#"{"jsonrpc":"2.0","method":"notifications/roots/list_changed"}"#;
    let sent = message(&gateway, changed).header("mcp-session-id", &session).send().await.unwrap();
    assert_eq!(sent.status, 202);
    let asked = loop {
        let asked = stream.next().await.expect("a question");
        if asked["method"] == "roots/list" {
            break asked;
        }
    };
    answer(&gateway, &session, &asked, json!({"roots": [{"uri": "file:///mine", "name": "mine"}]})).await;
}

#[tokio::test]
async fn a_client_of_2024_11_05_is_asked_on_its_stream() {
    let AskStage { gateway, manifests: _manifests, server: _server } = stage(OWN[1]).await;
    let mut events = MessageStream::of_sse(&gateway).await;
    let endpoint = gateway.url(&events.endpoint().await);
    let send = async |text: String| {
        let answer = client::post(&endpoint, text).bearer(&gateway.token).send().await.expect("an answer");
        assert_eq!(answer.status, 202);
    };
    send(initialize_text("2024-11-05").replace(r#""capabilities":{}"#, &format!(r#""capabilities":{ALL}"#))).await;
    assert_eq!(events.next().await.expect("an answer")["result"]["protocolVersion"], "2024-11-05");
    send(call_text(1, "test_elicitation", r#"{"message":"m"}"#)).await;
    let asked = question(&mut events, "elicitation/create").await;
    send(json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"action": "decline"}}).to_string()).await;
    let result = events.next().await.expect("the result");
    assert_eq!(result["result"]["content"][0]["text"], "User response: action=decline, content=null");
    let gauge = r#"portcullis_client_upstream_sessions{server="asks"}"#;
    gateway.counts(gauge, 1.0).await;
    drop(events);
    gateway.counts(gauge, 0.0).await;
}

/// A server with tools that are there only for clients that can be asked.
async fn a_real_server_asks(kind: RealServerKind) {
    require!(real::available(kind));
    let server = RealServer::start(kind).await;
    let manifests = Manifests::new();
    manifests.add("everything", &server.url, "session: PerClient");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    wait_for("its tools", LIMIT, async || {
        let tools = gateway.tools().await;
        if tools.iter().any(|tool| tool == "trigger-elicitation-request") { Ok(()) } else { Err(tools) }
    })
    .await;
    let session = initialize_as(&gateway, "2025-06-18", ALL).await;
    let mut events = call(&gateway, &session, "trigger-sampling-request", r#"{"prompt":"hi","maxTokens":5}"#).await;
    let asked = loop {
        // It asks for the roots by itself.
        let asked = events.next().await.expect("a question");
        match asked["method"].as_str() {
            Some("roots/list") => answer(&gateway, &session, &asked, json!({"roots": []})).await,
            Some("sampling/createMessage") => break asked,
            _ => {}
        }
    };
    let message = json!({"role": "assistant", "model": "m", "content": {"type": "text", "text": "made up"}});
    answer(&gateway, &session, &asked, message).await;
    let result = loop {
        let event = events.next().await.expect("the result");
        if event["id"] == 1 {
            break event;
        }
    };
    assert!(result.to_string().contains("made up"), "{result}");
}

#[tokio::test]
async fn a_real_server_over_sse_asks_its_client() {
    a_real_server_asks(RealServerKind::EverythingSse).await;
}

#[tokio::test]
async fn a_real_server_over_streamable_http_asks_its_client() {
    a_real_server_asks(RealServerKind::EverythingStreamable).await;
}

//! Clients of 2024-11-05: one stream, and messages in other requests.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http::{self, HttpAnswer, HttpRequest};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::sse::{self, SseEvents};
use portcullis_e2e::token;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

const SLOW_CALL_DURATION: Duration = Duration::from_millis(400);

/// A client with an open stream.
struct LegacySseClient {
    events: SseEvents,
    messages: String,
    token: String,
}

impl LegacySseClient {
    async fn open(gateway: &TestGateway) -> Self {
        let token = gateway.token.clone();
        let mut events = sse::open(http::get(&gateway.url("/sse")).bearer(&token)).await.expect("a stream");
        let messages = gateway.url(&endpoint(&mut events).await);
        Self { events, messages, token }
    }

    async fn initialized(gateway: &TestGateway) -> Self {
        let mut client = Self::open(gateway).await;
        client.send(&initialize("2024-11-05")).await;
        client.next().await;
        client
    }

    fn request(&self, message: &Value) -> HttpRequest {
        http::post(&self.messages, message.to_string()).bearer(&self.token)
    }

    /// Sends a message that is taken.
    async fn send(&self, message: &Value) {
        let answer = send(self.request(message)).await;
        assert_eq!((answer.status, answer.text()), (202, "Accepted"), "{message}");
    }

    /// The next message on the stream.
    async fn next(&mut self) -> Value {
        let event = self.events.next(LIMIT).await.expect("in time").expect("not the end");
        assert_eq!(event.event, "message");
        serde_json::from_str(&event.data).expect("JSON")
    }
}

async fn endpoint(events: &mut SseEvents) -> String {
    let event = events.next(LIMIT).await.expect("in time").expect("not the end");
    assert_eq!(event.event, "endpoint");
    event.data
}

async fn send(request: HttpRequest) -> HttpAnswer {
    request.send().await.expect("an answer")
}

fn initialize(revision: &str) -> Value {
    let params =
        json!({"protocolVersion": revision, "capabilities": {}, "clientInfo": {"name": "old", "version": "1"}});
    json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params})
}

fn call(id: impl Into<Value>, tool: &str, message: &str, meta: &Value) -> Value {
    let params = json!({"name": tool, "arguments": {"message": message}, "_meta": meta});
    json!({"jsonrpc": "2.0", "id": id.into(), "method": "tools/call", "params": params})
}

fn echoed(id: impl Into<Value>, message: &str) -> Value {
    let text = json!({"message": message}).to_string();
    json!({"jsonrpc": "2.0", "id": id.into(), "result": {"content": [{"type": "text", "text": text}]}})
}

async fn start() -> (TestGateway, Faulty) {
    start_with(options()).await
}

async fn start_with(options: Options) -> (TestGateway, Faulty) {
    let slow = Tool::echo("slow").takes(SLOW_CALL_DURATION).reports(SLOW_CALL_DURATION / 4);
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("echo"), slow]).await;
    let gateway = TestGateway::start(Options { mcp_urls: Some(server.url()), ..options }).await;
    gateway.connected(1).await;
    (gateway, server)
}

#[tokio::test]
async fn initialize_lists_and_calls_are_answered_on_the_stream() {
    let (gateway, _server) = start().await;
    let mut client = LegacySseClient::open(&gateway).await;
    client.send(&initialize("2025-03-26")).await;
    let begun = client.next().await;
    assert_eq!((&begun["id"], &begun["result"]["protocolVersion"]), (&json!(0), &json!("2025-03-26")));
    client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    client.send(&json!({"jsonrpc": "2.0", "id": "a", "method": "tools/list"})).await;
    let listed = client.next().await;
    assert_eq!((&listed["id"], &listed["result"]["tools"][0]["name"]), (&json!("a"), &json!("echo")));
    client.send(&call(7, "echo", "hello", &json!({}))).await;
    assert_eq!(client.next().await, echoed(7, "hello"));
    client.send(&json!({"jsonrpc": "2.0", "id": 8, "method": "no/such"})).await;
    assert_eq!(client.next().await["error"]["code"], -32601);
}

#[tokio::test]
async fn requests_of_a_stream_run_side_by_side_and_progress_comes_before_the_answer() {
    let (gateway, server) = start().await;
    let mut client = LegacySseClient::initialized(&gateway).await;
    client.send(&call(1, "slow", "one", &json!({"progressToken": "p"}))).await;
    wait_for("a running call", LIMIT, async || server.running() == 1).await;
    client.send(&call(2, "echo", "two", &json!({}))).await;
    let (mut progress, mut answers) = (Vec::new(), Vec::new());
    while answers.len() < 2 {
        let message = client.next().await;
        if message["method"] == "notifications/progress" {
            assert_eq!(message["params"]["progressToken"], "p");
            progress.push(message["params"]["progress"].as_u64().expect("a number"));
        } else {
            answers.push(message);
        }
    }
    assert_eq!(answers, [echoed(2, "two"), echoed(1, "one")]);
    assert_eq!(progress, [1, 2, 3]);
}

#[tokio::test]
async fn a_request_is_cancelled_by_its_client_and_by_the_end_of_the_stream() {
    let never = Tool::echo("never").answers(portcullis_e2e::faulty::CallFault::Never);
    let server = Faulty::with_tools(FaultyMode::Sse, vec![never]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    let mut client = LegacySseClient::initialized(&gateway).await;
    client.send(&call("x", "never", "one", &json!({}))).await;
    client.send(&call("y", "never", "two", &json!({}))).await;
    wait_for("two running calls", LIMIT, async || server.running() == 2).await;
    let cancel = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": "x"}});
    client.send(&cancel).await;
    wait_for("one to be cancelled", LIMIT, async || server.running() == 1).await;
    assert_eq!(client.next().await["id"], "x");
    let again = client.request(&call("z", "never", "three", &json!({})));
    drop(client);
    wait_for("the other to be cancelled", LIMIT, async || server.running() == 0).await;
    assert_eq!(send(again).await.status, 404);
    gateway.counts("portcullis_client_streams_open", 0.0).await;
}

#[tokio::test]
async fn what_a_server_keeps_for_a_client_ends_with_its_stream() {
    let (server, manifests) = (Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.add("own", &server.url(), "session: PerClient");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let mut client = LegacySseClient::initialized(&gateway).await;
    client.send(&call(1, "echo", "one", &json!({}))).await;
    assert_eq!(client.next().await, echoed(1, "one"));
    let sessions = r#"portcullis_client_upstream_sessions{server="own"}"#;
    gateway.counts(sessions, 1.0).await;
    drop(client);
    gateway.counts(sessions, 0.0).await;
}

#[tokio::test]
async fn a_client_hears_of_changed_tools_once_it_is_initialized() {
    let (gateway, server) = start().await;
    let mut client = LegacySseClient::initialized(&gateway).await;
    server.change_tools(vec![Tool::echo("fresh")]).await;
    let heard = client.next().await;
    assert_eq!(heard, json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}));
    gateway.offers(&["fresh"]).await;
}

#[tokio::test]
async fn streams_and_messages_need_a_token_and_a_session_is_its_owners_alone() {
    let (gateway, _server) = start().await;
    let client = LegacySseClient::initialized(&gateway).await;
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"});
    for (request, status) in [
        (http::get(&gateway.url("/sse")), 401),
        (http::get(&gateway.url(&format!("/sse?token={}", gateway.token))), 401),
        (http::post(&client.messages, ping.to_string()), 401),
        (http::post(&client.messages, ping.to_string()).bearer(&token::mint("somebody else")), 404),
        (http::post(&gateway.url("/message"), ping.to_string()).bearer(&gateway.token), 404),
        (http::post(&gateway.url("/message?sessionId=x"), ping.to_string()).bearer(&gateway.token), 404),
        (http::post(&client.messages, "{").bearer(&gateway.token), 400),
        (http::post(&client.messages, format!("[{ping}]")).bearer(&gateway.token), 400),
        (http::get(&gateway.url("/sse")).bearer(&gateway.token).header("origin", "https://evil.example"), 403),
    ] {
        let answer = send(request.clone()).await;
        assert_eq!(answer.status, status, "{request:?}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_token_in_the_address_counts_only_where_it_may_and_is_then_told_back() {
    let (gateway, _server) = start_with(Options { allow_query_token_mcp: Some("true".into()), ..options() }).await;
    let mut by_query = sse::open(http::get(&gateway.url(&format!("/sse?token={}", gateway.token)))).await.expect("in");
    let messages = gateway.url(&endpoint(&mut by_query).await);
    assert!(messages.ends_with(&format!("&token={}", gateway.token)), "{messages}");
    let answer = send(http::post(&messages, initialize("2024-11-05").to_string())).await;
    assert_eq!(answer.status, 202);
    let event = by_query.next(LIMIT).await.expect("in time").expect("not the end");
    assert!(event.data.contains("2024-11-05"), "{event:?}");
    let client = LegacySseClient::open(&gateway).await;
    assert!(!client.messages.contains("token="), "{}", client.messages);
}

#[tokio::test]
async fn the_log_line_of_a_call_says_what_became_of_it() {
    let (gateway, _server) = start().await;
    let mut client = LegacySseClient::initialized(&gateway).await;
    send(client.request(&call(1, "slow", "one", &json!({}))).header("x-request-id", "of-the-call")).await;
    assert_eq!(client.next().await, echoed(1, "one"));
    let line = gateway.line("of-the-call").await;
    assert_eq!(
        (
            &line["request"]["path"],
            &line["request"]["rpc_method"],
            &line["request"]["tool"],
            &line["response"]["outcome"]
        ),
        (&json!("/message"), &json!("tools/call"), &json!("slow"), &json!("ok")),
    );
    assert!(line["execution_time_ms"].as_f64().expect("a number") >= SLOW_CALL_DURATION.as_secs_f64() * 1e3, "{line}");
    assert!(!line.to_string().contains("sessionId"), "{line}");
}

#[tokio::test]
async fn a_gateway_that_stops_answers_what_it_has_taken_and_ends_the_stream() {
    let (mut gateway, server) = start().await;
    let mut client = LegacySseClient::initialized(&gateway).await;
    client.send(&call(1, "slow", "one", &json!({}))).await;
    wait_for("a running call", LIMIT, async || server.running() == 1).await;
    gateway.tell_to_stop();
    assert_eq!(client.next().await, echoed(1, "one"));
    assert_eq!(client.events.next(LIMIT).await.expect("in time"), None);
    gateway.stop().await.expect("a good end");
}

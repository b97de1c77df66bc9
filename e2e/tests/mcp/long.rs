//! Long calls: a client that accepts a stream sees that they run; quick calls get a plain answer.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpRequest};
use portcullis_e2e::manifests::Manifests;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::kit::{MessageStream, initialize, modern_as};

const BOTH: &str = "application/json, text/event-stream";
const CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"slow"}}"#;

/// Duration of `slow`; after a second its answer becomes a stream.
const SLOW_CALL_DURATION: Duration = Duration::from_millis(2_500);

async fn start(mode: FaultyMode, more: &str) -> (TestGateway, Faulty, Manifests) {
    let server = Faulty::with_tools(
        mode,
        vec![Tool::text("slow", "done").takes(SLOW_CALL_DURATION), Tool::text("quick", "done")],
    )
    .await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), more);
    let options = Options { stream_after_seconds: Some("1".into()), ..manifests.options() };
    let gateway = TestGateway::start(options).await;
    gateway.connected(1).await;
    (gateway, server, manifests)
}

fn post(gateway: &TestGateway, text: &str, accept: &str) -> HttpRequest {
    let request = client::request(Method::POST, &gateway.url("/mcp")).body(text.to_owned()).bearer(&gateway.token);
    request.limit(LIMIT).header("accept", accept)
}

/// The answer, which begins as a stream long before it is there.
async fn streamed(request: HttpRequest) -> Value {
    let began = Instant::now();
    let mut events = MessageStream::of(request).await;
    let head = began.elapsed();
    assert!(head < SLOW_CALL_DURATION && head > Duration::from_millis(900), "the stream began after {head:?}");
    let answer = events.next().await.expect("an answer");
    assert!(began.elapsed() >= SLOW_CALL_DURATION);
    assert_eq!(events.next().await, None);
    answer
}

#[tokio::test]
async fn an_answer_that_takes_long_goes_on_as_a_stream_whatever_the_client_and_the_server_speak() {
    let one = async |(mode, more): (FaultyMode, &str)| {
        let (gateway, _server, _manifests) = start(mode, more).await;
        let session = initialize(&gateway, "2025-11-25").await;
        let in_session = post(&gateway, CALL, BOTH).header("mcp-session-id", &session);
        let alone = post(&gateway, CALL, BOTH);
        let modern = modern_as(&gateway, "/mcp", ("tools/call", Some("slow")), r#""name":"slow""#, (1, "{}"));
        let asked =
            modern_as(&gateway, "/mcp", ("tools/call", Some("slow")), r#""name":"slow""#, (1, r#"{"roots":{}}"#));
        let batch = post(&gateway, &format!("[{CALL}]"), BOTH);
        let all = [in_session, alone, modern.header("accept", BOTH), asked.header("accept", BOTH), batch].map(streamed);
        for answer in join_all(all).await {
            let answer = answer.as_array().map_or(&answer, |batch| &batch[0]);
            assert_eq!(answer["result"]["content"][0]["text"], "done", "{mode:?} {more}: {answer}");
        }
    };
    let own = "session: PerClient\nprotocolVersion: 2025-11-25";
    join_all(
        [(FaultyMode::Sse, ""), (FaultyMode::Streamable, ""), (FaultyMode::Modern, ""), (FaultyMode::Streamable, own)]
            .map(one),
    )
    .await;
}

#[tokio::test]
async fn quick_answers_and_those_of_clients_that_take_no_stream_are_json() {
    let (gateway, _server, _manifests) = start(FaultyMode::Streamable, "").await;
    let quick = CALL.replace("slow", "quick");
    for (text, accept) in [(&*quick, BOTH), (CALL, "application/json"), (CALL, "*/*")] {
        let answer = post(&gateway, text, accept).send().await.expect("an answer");
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{accept}");
        assert_eq!(answer.json()["result"]["content"][0]["text"], "done");
    }
}

#[tokio::test]
async fn a_call_that_waits_for_its_place_goes_on_as_a_stream_too_and_its_end_is_told() {
    let (gateway, server, _manifests) =
        start(FaultyMode::Streamable, "limits: {maxConcurrentRequests: 1}\ntimeouts: {requestSeconds: 3}").await;
    let first = streamed(post(&gateway, CALL, BOTH));
    let second = async {
        let began = Instant::now();
        portcullis_e2e::wait::wait_for("the first call", LIMIT, async || server.running() == 1).await;
        let mut events = MessageStream::of(post(&gateway, CALL, BOTH)).await;
        (events.next().await.expect("an answer"), began.elapsed())
    };
    let (first, (second, took)) = tokio::join!(first, second);
    assert_eq!(first["result"]["content"][0]["text"], "done");
    // It waits for half of the time that a call may take, and the call before it takes longer.
    assert_eq!((&second["error"]["code"], &second["error"]["data"]["reason"]), (&json!(-32603), &json!("busy")));
    assert_eq!(second["error"]["data"]["retryAfterMs"], 5000);
    assert!(took < SLOW_CALL_DURATION, "{took:?}");
}

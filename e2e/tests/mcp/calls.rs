//! Calls: messages before their answer, and their ends.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::kit::{MessageStream, error_of, initialize, message, modern};

const MODES: [FaultyMode; 3] = [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern];

async fn with_tool(mode: FaultyMode, tool: Tool) -> (TestGateway, Faulty) {
    let server = Faulty::with_tools(mode, vec![tool]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    (gateway, server)
}

#[tokio::test]
async fn progress_comes_in_order_under_the_callers_own_token_and_never_after_the_result() {
    for mode in MODES {
        let tool = Tool::text("slow", "done").takes(Duration::from_millis(400)).reports(Duration::from_millis(50));
        let (gateway, _server) = with_tool(mode, tool).await;
        let text = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"slow","_meta":{"progressToken":"mine"}}}"#;
        let mut events = MessageStream::of(message(&gateway, text)).await;
        let mut last = -1.0;
        let result = loop {
            let event = events.next().await.expect("the result comes before the end");
            if event["method"].is_null() {
                break event;
            }
            assert_eq!(
                (&event["method"], &event["params"]["progressToken"]),
                (&json!("notifications/progress"), &json!("mine"))
            );
            let progress = event["params"]["progress"].as_f64().expect("a number");
            assert!(progress > last, "{progress} after {last}");
            last = progress;
        };
        assert!(last >= 0.0, "{mode:?}: no progress came");
        assert_eq!((&result["id"], &result["result"]["content"][0]["text"]), (&json!("c"), &json!("done")));
        assert_eq!(events.next().await, None);

        // Who does not ask for progress is answered with JSON.
        let text = r#"{"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"slow"}}"#;
        assert_eq!(message(&gateway, text).send().await.unwrap().header("content-type"), "application/json");
    }
}

#[tokio::test]
async fn a_cancelled_call_is_cancelled_at_its_server() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let (gateway, server) = with_tool(mode, Tool::text("slow", "late").takes(Duration::from_secs(60))).await;
        let session = initialize(&gateway, "2025-06-18").await;
        let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"slow"}}"#;
        let call = message(&gateway, call).header("mcp-session-id", &session).send();
        let cancel = async {
            wait_for("the call", LIMIT, async || server.running() == 1).await;
            let again = message(&gateway, r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"slow"}}"#);
            let again = again.header("mcp-session-id", &session).send().await.unwrap();
            assert_eq!(error_of(&again), (400, -32600, json!(7)), "an id that is in use is refused");
            let text = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"r"}}"#;
            let answer = message(&gateway, text).header("mcp-session-id", &session).send().await.unwrap();
            assert_eq!(answer.status, 202);
        };
        let (answer, ()) = tokio::join!(call, cancel);
        assert_eq!(error_of(&answer.unwrap()).1, -32600, "{mode:?}");
        wait_for("the server to be told", LIMIT, async || server.running() == 0).await;
    }
}

#[tokio::test]
async fn a_modern_client_cancels_by_going_away() {
    for mode in MODES {
        let (gateway, server) = with_tool(mode, Tool::text("slow", "late").takes(Duration::from_secs(60))).await;
        let request =
            modern(&gateway, "/mcp", "tools/call", Some("slow"), r#""name":"slow""#).limit(Duration::from_secs(60));
        let call = request.send();
        tokio::select! {
            answer = call => panic!("{answer:?}"),
            () = wait_for("the call", LIMIT, async || server.running() == 1) => {}
        }
        wait_for("the server to be told", LIMIT, async || server.running() == 0).await;
    }
}

#[tokio::test]
async fn a_call_without_arguments_reaches_the_server_without_arguments() {
    let (gateway, server) = with_tool(FaultyMode::Streamable, Tool::echo("echo")).await;
    for (params, sent) in [
        (r#"{"name":"echo"}"#, r#""params":{"name":"echo","_meta""#),
        (
            r#"{"name":"echo","arguments":{ "a" : 1.10 },"x":[1]}"#,
            r#""params":{"name":"echo","arguments":{ "a" : 1.10 },"x":[1],"_meta""#,
        ),
        (
            r#"{"_meta":{"a/b":{"c":1.0}},"arguments":{},"name":"echo"}"#,
            r#""params":{"name":"echo","arguments":{},"_meta":{"a/b":{"c":1.0},"#,
        ),
    ] {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{params}}}"#);
        assert_eq!(message(&gateway, text).send().await.unwrap().status, 200);
        let seen = server.seen();
        let bodies = seen.requests.iter().map(|request| String::from_utf8_lossy(&request.body).into_owned());
        let last = bodies.filter(|body| body.contains("tools/call")).last().expect("the call");
        assert!(last.contains(sent), "{last}");
    }
}

#[tokio::test]
async fn an_error_of_a_server_passes_with_its_code_and_its_data() {
    let (gateway, _server) = with_tool(FaultyMode::Streamable, Tool::error("bad", -32005, "it is bad")).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bad"}}"#;
    let answer = message(&gateway, call).send().await.unwrap();
    assert_eq!(error_of(&answer), (200, -32005, json!(1)));
    assert_eq!(answer.json()["error"]["message"], "it is bad");
}

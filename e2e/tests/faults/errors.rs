//! JSON-RPC errors in HTTP failures: the server's answer, whatever the status.

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{CallFault, Faulty, FaultyMode, FixedAnswer, RequestFault, Tool};
use serde_json::json;

use crate::stack::{Stack, brief, server};

const ERROR: &str = r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32050,"message":"order 17 is locked"}}"#;
const TOLD: &str =
    r#"{"error":{"message":"the server answered with error -32050: order 17 is locked","code":502,"rpc_code":-32050}}"#;

fn locked(status: u16) -> Tool {
    Tool::echo("tool").answers(CallFault::Http(status, ERROR.into()))
}

#[tokio::test]
async fn an_error_for_the_request_is_the_answer_whatever_the_http_status() {
    let statuses = [400, 401, 403, 404, 405, 409, 410, 422, 500, 501, 502, 503, 504];
    let all = [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern]
        .into_iter()
        .flat_map(|mode| statuses.map(|it| (mode, it)));
    join_all(all.map(async |(mode, status)| {
        let faulty = Faulty::with_tools(mode, vec![locked(status)]).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        let answer = stack.call("tool").await;
        assert_eq!((answer.status, answer.text()), (502, TOLD), "{mode:?} {status}");
        assert_eq!(faulty.seen().begun.len(), 1, "{mode:?} {status}");
    }))
    .await;
}

#[tokio::test]
async fn such_an_error_leaves_a_call_that_may_be_repeated_to_another_server() {
    for (status, hints, server_of_answer) in [
        (500, "{}", "first"),
        (500, r#"{"readOnlyHint":true}"#, "second"),
        (503, r#"{"idempotentHint":true}"#, "second"),
        (401, "{}", "second"),
        (422, r#"{"readOnlyHint":true}"#, "first"),
    ] {
        let first = Faulty::with_tools(FaultyMode::Streamable, vec![locked(status).annotated(hints)]).await;
        let second = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("tool").annotated(hints)]).await;
        let entries = [server("first", &first), server("second", &second).with("priority", json!(1))];
        let stack = Stack::ready(entries).await;
        let answer = stack.call("tool").await;
        let expected = if server_of_answer == "first" { (502, "1") } else { (200, "2") };
        let expected = (expected.0, server_of_answer.to_owned(), expected.1.to_owned());
        assert_eq!(brief(&answer), expected, "{status} {hints}");
        // If the other has nothing better, the error is the answer.
        second.behave(|it| it.call = RequestFault::Slams);
        let answer = stack.call("tool").await;
        assert_eq!((answer.status, answer.text()), (502, TOLD), "{status} {hints}");
    }
}

#[tokio::test]
async fn an_error_in_http_429_is_an_answer_and_one_without_the_requests_id_in_401_is_none() {
    let faulty = Faulty::with_tools(FaultyMode::Streamable, vec![locked(429)]).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    let answer = stack.call("tool").await;
    assert_eq!((answer.status, answer.text()), (502, TOLD));
    let headers = vec![("content-type".into(), "application/json".into())];
    let body = Bytes::from_static(br#"{"jsonrpc":"2.0","id":null,"error":{"code":-1,"message":"INSIDE"}}"#);
    faulty.behave(|it| it.call = RequestFault::Answers(FixedAnswer { status: 401, headers, body }));
    let answer = stack.call("tool").await;
    assert!(answer.status == 502 && !answer.text().contains("INSIDE"), "{}", answer.text());
}

#[tokio::test]
async fn an_error_in_a_stream_of_events_with_a_status_for_failures_is_the_answer() {
    let faulty = Faulty::with_tools(FaultyMode::Streamable, vec![locked(500)]).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    let error = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32050,"message":"order 17 is locked"}}"#;
    let headers = vec![("content-type".into(), "text/event-stream".into())];
    let body = Bytes::from(format!(": one\r\n\r\nevent: message\r\ndata: {error}\r\n\r\n"));
    faulty.behave(|it| it.call = RequestFault::Answers(FixedAnswer { status: 500, headers, body }));
    let answer = stack.call("tool").await;
    assert!(answer.status == 502 && answer.text().contains("order 17 is locked"), "{}", answer.text());
}

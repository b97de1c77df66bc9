//! Unsolicited messages of servers: their own requests, answers to nothing, noise.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{AnswerForm, CallFault, Faulty, FaultyMode, StreamEnd, garbage};
use portcullis_e2e::wait::wait_for;

use crate::stack::{STATE_DEADLINE, Stack, assert_quick, server};

const ASKS: [&str; 4] = [
    r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#,
    r#"{"jsonrpc":"2.0","id":"a\"b","method":"roots/list"}"#,
    r#"{"jsonrpc":"2.0","id":3,"method":"sampling/createMessage","params":{"messages":[]}}"#,
    r#"{"jsonrpc":"2.0","id":4,"method":"odd \"method\""}"#,
];

fn answers() -> Vec<String> {
    let no = |id: &str, method: &str| {
        let message = format!("this client does not offer {method}");
        format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":-32601,"message":"{message}"}}}}"#)
    };
    vec![
        r#"{"jsonrpc":"2.0","id":0,"result":{}}"#.into(),
        no(r#""a\"b""#, "roots/list"),
        no("3", "sampling/createMessage"),
        no("4", r#"odd \"method\""#),
    ]
}

async fn answered(faulty: &Faulty, expected: &[String]) {
    wait_for("the answers", STATE_DEADLINE, || async {
        let answers = faulty.seen().answers;
        if answers.len() >= expected.len() { Ok(()) } else { Err(answers) }
    })
    .await;
    assert_eq!(faulty.seen().answers, expected);
}

#[tokio::test]
async fn requests_of_a_server_are_answered_once_from_the_first_moment_on() {
    // Many servers, because the first requests come while the handshake is not over yet.
    let mut servers = Vec::new();
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        for _ in 0..12 {
            let faulty = Faulty::start(mode).await;
            faulty.behave(|it| it.asks = ASKS.map(Into::into).into());
            servers.push(faulty);
        }
    }
    let names: Vec<_> = (0..servers.len()).map(|n| format!("s{n}")).collect();
    let _stack = Stack::ready(servers.iter().zip(&names).map(|(faulty, name)| server(name, faulty))).await;
    let expected = answers();
    join_all(servers.iter().map(|faulty| answered(faulty, &expected))).await;
}

#[tokio::test]
async fn a_request_within_the_answer_of_a_call_is_answered() {
    let faulty = Faulty::start(FaultyMode::Streamable).await;
    faulty.behave(|it| (it.form, it.answer) = (AnswerForm::Sse, CallFault::After(ASKS[0].into())));
    let stack = Stack::ready([server("a", &faulty)]).await;
    assert_eq!(stack.call("echo").await.status, 200);
    answered(&faulty, &answers()[..1]).await;
}

#[tokio::test]
async fn noise_on_the_stream_is_counted_and_hurts_nobody() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        wait_for("the stream", STATE_DEADLINE, || async { faulty.open_streams() == 1 }).await;
        let noise = [
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#.to_owned(),
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#.into(),
            "<html>".into(),
            "{}".into(),
            // An answer to this would be as long.
            format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "x".repeat(100_000)),
        ];
        for message in &noise {
            faulty.push(message).await;
        }
        faulty.push_bytes(garbage::ODD_EVENTS).await;
        faulty.push(ASKS[0]).await;
        answered(&faulty, &answers()[..1]).await;
        assert_quick(&stack, "echo").await;
        faulty.behave(|it| it.ping = portcullis_e2e::faulty::ProtocolFault::Never);
        assert_eq!(faulty.seen().initialized, 1, "{mode:?}");
    }
}

#[tokio::test]
async fn a_flood_of_requests_does_not_hold_up_calls() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        wait_for("the stream", STATE_DEADLINE, || async { faulty.open_streams() == 1 }).await;
        let flood = async {
            for _ in 0..3_000 {
                faulty.push(ASKS[0]).await;
            }
        };
        let calls = async {
            for _ in 0..10 {
                assert_eq!(stack.call("echo").await.status, 200, "{mode:?}");
            }
        };
        tokio::join!(flood, calls);
        assert_quick(&stack, "echo").await;
        assert_eq!(faulty.seen().initialized, 1, "{mode:?}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_takes_its_calls_with_it_at_once() {
    for end in [StreamEnd::Clean, StreamEnd::Cut] {
        let faulty = Faulty::start(FaultyMode::Sse).await;
        let stack = Stack::ready([server("a", &faulty).calls_take(60)]).await;
        faulty.behave(|it| it.answer = CallFault::Never);
        let ((answer, took), ()) = tokio::join!(stack.timed("echo"), async {
            wait_for("the call", STATE_DEADLINE, || async { faulty.running() == 1 }).await;
            faulty.end_streams(end).await;
        });
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(took < Duration::from_secs(5), "{end:?}: {took:?}");
        faulty.reform();
        stack.works("echo").await;
    }
}

//! Answers above the limit: their own calls fail with an error that names it, and nobody else's.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{AnswerForm, CallFault, EventFraming, Faulty, FaultyMode, Tool, garbage};
use serde_json::json;

use crate::stack::{Stack, server};

const LIMIT: usize = 1024 * 1024;

/// A server with an answer that is too large, and a slow one.
async fn large_and_slow(mode: FaultyMode, form: AnswerForm, framing: EventFraming, large: CallFault) {
    let what = format!("{mode:?} {form:?} {framing:?} {large:?}");
    let tools = vec![
        Tool::echo("large").answers(large).takes(Duration::from_millis(100)),
        Tool::echo("slow").takes(Duration::from_millis(800)),
    ];
    let faulty = Faulty::with_tools(mode, tools).await;
    faulty.behave(|it| (it.form, it.framing) = (form, framing));
    let stack = Stack::ready([server("a", &faulty).calls_take(20)]).await;
    let before = faulty.seen();
    for _ in 0..2 {
        let (large, slow) = tokio::join!(stack.call("large"), stack.call("slow"));
        assert_eq!((large.status, slow.status), (502, 200), "{what}: {} {}", large.text(), slow.text());
        assert!(large.text().contains(&format!("longer than {LIMIT} bytes")), "{what}: {}", large.text());
        assert!(large.text().contains("MAX_RESULT_BYTES"), "{what}: {}", large.text());
    }
    let (seen, before) = (faulty.seen(), (before.initializes, before.streams));
    assert_eq!((seen.initializes, seen.streams), before, "{what}: the session was opened anew");
}

#[tokio::test]
async fn an_answer_that_is_too_large_fails_its_own_call_alone() {
    let size = 3 * LIMIT as u64;
    let mut all = Vec::new();
    for (mode, form) in [
        (FaultyMode::Sse, AnswerForm::Auto),
        (FaultyMode::Streamable, AnswerForm::Sse),
        (FaultyMode::Streamable, AnswerForm::Json),
    ] {
        for large in [CallFault::Huge(size), CallFault::HugeIdLast(size)] {
            all.push(large_and_slow(mode, form, EventFraming::default(), large));
        }
    }
    let framings = [
        EventFraming { line_end: "\r\n", ..EventFraming::default() },
        EventFraming { no_event: true, no_space: true, ..EventFraming::default() },
        EventFraming { piece: Some(1000), ..EventFraming::default() },
    ];
    for framing in framings {
        all.push(large_and_slow(FaultyMode::Sse, AnswerForm::Auto, framing, CallFault::HugeIdLast(size)));
    }
    join_all(all).await;
}

#[tokio::test]
async fn an_event_that_is_no_message_is_passed_over_whatever_its_size() {
    let junk = ["data: ", &"x".repeat(3 * LIMIT), "\n\n"].concat();
    let lines =
        "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\n".repeat(LIMIT / 20) + "\n";
    let asks = r#"{"jsonrpc":"2.0","id":1,"method":"sampling/createMessage","params":{"x":""#;
    let question = ["event: message\ndata: ", asks, &"x".repeat(2 * LIMIT), "\"}}\n\n"].concat();
    let comment = [":", &"x".repeat(2 * LIMIT), "\n\n"].concat();
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let faulty = Faulty::with_tools(mode, vec![Tool::echo("echo")]).await;
        let stack = Stack::ready([server("a", &faulty).calls_take(20)]).await;
        portcullis_e2e::wait::wait_for("its stream", crate::stack::STATE_DEADLINE, || async {
            faulty.open_streams() == 1
        })
        .await;
        let before = faulty.seen();
        for odd in [&junk, &lines, &question, &comment] {
            faulty.push_bytes(odd.clone()).await;
            faulty.push_bytes([&b"data: "[..], &garbage::HTML, b"\n\n"].concat()).await;
            assert_eq!(stack.call("echo").await.status, 200, "{mode:?}");
        }
        // What comes after them is heard.
        faulty.change_tools(vec![Tool::echo("echo"), Tool::text("new", "new")]).await;
        stack.works("new").await;
        let (seen, before) = (faulty.seen(), (before.initializes, before.streams));
        assert_eq!((seen.initializes, seen.streams), before, "{mode:?}: its session or stream was opened anew");
    }
}

#[tokio::test]
async fn an_odd_event_within_the_answer_of_a_call_is_passed_over() {
    let junk = ["data: ", &"x".repeat(3 * LIMIT), "\n\n"].concat();
    let faulty = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("echo")]).await;
    faulty.behave(|it| (it.form, it.answer) = (AnswerForm::Sse, CallFault::AfterRaw(junk.into())));
    let stack = Stack::ready([server("a", &faulty).calls_take(20).with("session", json!("Shared"))]).await;
    assert_eq!(stack.call("echo").await.status, 200);
}

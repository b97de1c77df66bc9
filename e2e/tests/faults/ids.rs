//! Many calls over one shared session: each gets its own answer.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{AnswerForm, CallFault, EventFraming, Faulty, FaultyMode, Tool};
use serde_json::json;

use crate::stack::{Stack, server, text};

async fn mixed(mode: FaultyMode, framing: EventFraming) {
    // The later a tool is called, the earlier it answers.
    let tools = (0..10).map(|n| Tool::echo(&format!("t{n}")).takes(Duration::from_millis(90 - 10 * n))).collect();
    let faulty = Faulty::with_tools(mode, tools).await;
    let limits = json!({"maxConcurrentRequests": 1000});
    // Where few connections may wait to be accepted, one that comes too many is tried again after a second.
    let timeouts = json!({"connectSeconds": 10, "requestSeconds": 30});
    let stack = Stack::ready([server("a", &faulty).with("timeouts", timeouts).with("limits", limits)]).await;
    faulty.behave(|it| it.framing = framing);
    let streams = faulty.seen().streams;
    join_all((0..200).map(async |n| {
        let arguments = format!(r#"{{"number":{n},"same":"{}"}}"#, "x".repeat(n * 7 % 50));
        let answer = stack.request(&format!("t{}", n % 10), &arguments).send().await.expect("an answer");
        assert_eq!(text(&answer), arguments, "{mode:?}");
    }))
    .await;
    let seen = faulty.seen();
    assert_eq!((seen.calls, seen.streams - streams), (200, 0), "{mode:?}");
    let mut ids = seen.ids("tools/call");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 200, "{mode:?}: an id was used twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_calls_at_once_get_their_own_answers() {
    mixed(FaultyMode::Sse, EventFraming::default()).await;
    mixed(FaultyMode::Sse, EventFraming { piece: Some(13), line_end: "\r\n", ..EventFraming::default() }).await;
    mixed(FaultyMode::Streamable, EventFraming::default()).await;
    mixed(FaultyMode::Modern, EventFraming::default()).await;
}

#[tokio::test]
async fn an_answer_that_comes_twice_does_not_become_that_of_another_call() {
    let faulty = Faulty::with_tools(
        FaultyMode::Sse,
        vec![Tool::echo("twice").answers(CallFault::Twice), Tool::echo("slow").takes(Duration::from_millis(300))],
    )
    .await;
    let stack = Stack::ready([server("a", &faulty).calls_take(30)]).await;
    join_all((0..40).map(async |n| {
        let tool = if n % 2 == 0 { "twice" } else { "slow" };
        let arguments = format!(r#"{{"number":{n}}}"#);
        let answer = stack.request(tool, &arguments).send().await.expect("an answer");
        assert_eq!(text(&answer), arguments);
    }))
    .await;
}

#[tokio::test]
async fn ids_cannot_be_guessed_from_those_of_another_session() {
    let (a, b) =
        (Faulty::start(FaultyMode::Sse).await, Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("b")]).await);
    let stack = Stack::ready([server("a", &a), server("b", &b)]).await;
    stack.call("echo").await;
    stack.call("b").await;
    let id = |faulty: &Faulty| faulty.seen().ids("tools/call")[0].parse::<u64>().expect("a number");
    let (first, second) = (id(&a), id(&b));
    assert!(first.abs_diff(second) > 10_000, "{first} and {second} are close");
}

#[tokio::test]
async fn ids_fit_into_32_bits_and_none_is_zero() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        stack.call("echo").await;
        for request in faulty.seen().requests.iter().filter(|request| request.id.is_some()) {
            let id = request.id.as_deref().and_then(|id| id.parse::<i32>().ok());
            assert!(id.is_some_and(|id| id > 0), "{mode:?}: {request:?}");
        }
    }
}

#[tokio::test]
async fn a_server_that_writes_ids_as_strings_is_used_like_any_other() {
    for (mode, form) in [
        (FaultyMode::Sse, AnswerForm::Auto),
        (FaultyMode::Streamable, AnswerForm::Json),
        (FaultyMode::Streamable, AnswerForm::Sse),
    ] {
        let faulty = Faulty::with_tools(mode, vec![Tool::echo("echo"), Tool::error("fails", -5, "no")]).await;
        faulty.behave(|it| (it.form, it.text_ids, it.answer) = (form, true, CallFault::StringId));
        let stack = Stack::ready([server("a", &faulty)]).await;
        for n in 0..3 {
            let arguments = format!(r#"{{"number":{n}}}"#);
            let answer = stack.request("echo", &arguments).send().await.expect("an answer");
            assert_eq!(text(&answer), arguments, "{mode:?} {form:?}");
        }
        let answer = stack.call("fails").await;
        assert!(answer.text().contains("error -5: no"), "{mode:?} {form:?}: {}", answer.text());
    }
}

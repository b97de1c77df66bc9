//! Callers that leave, deadlines that pass, and tools that report progress.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{AnswerForm, CallFault, Faulty, FaultyMode, Tool};
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::stack::{STATE_DEADLINE, Stack, server};

const WAYS: [(FaultyMode, AnswerForm); 5] = [
    (FaultyMode::Sse, AnswerForm::Auto),
    (FaultyMode::Streamable, AnswerForm::Json),
    (FaultyMode::Streamable, AnswerForm::Sse),
    (FaultyMode::Modern, AnswerForm::Json),
    (FaultyMode::Modern, AnswerForm::Sse),
];

/// A server that never answers and takes one call at a time.
async fn silent((mode, form): (FaultyMode, AnswerForm), seconds: u32) -> (Faulty, Stack) {
    let faulty = Faulty::start(mode).await;
    faulty.behave(|it| it.form = form);
    let limits = json!({"maxConcurrentRequests": 1});
    let stack = Stack::ready([server("a", &faulty).calls_take(seconds).with("limits", limits)]).await;
    faulty.behave(|it| it.answer = CallFault::Never);
    (faulty, stack)
}

/// Waits until the server was told that nobody waits for the call, in the way of its revision.
async fn told(faulty: &Faulty, mode: FaultyMode) {
    wait_for("the server to be told", STATE_DEADLINE, || async {
        let seen = faulty.seen();
        let cancelled = seen.cancelled == seen.ids("tools/call");
        let (wanted, other) =
            if mode == FaultyMode::Modern { (seen.abandoned == 1, cancelled) } else { (cancelled, false) };
        if wanted && !other && faulty.running() == 0 { Ok(()) } else { Err((seen.cancelled, seen.abandoned)) }
    })
    .await;
}

#[tokio::test]
async fn a_caller_who_goes_away_cancels_the_call_and_frees_its_place() {
    let one = async |way: (FaultyMode, AnswerForm)| {
        let (faulty, stack) = silent(way, 30).await;
        let call = stack.request("echo", "{}").send();
        tokio::select! {
            answer = call => panic!("{way:?}: {}", answer.expect("an answer").text()),
            () = wait_for("the call to arrive", STATE_DEADLINE, || async { faulty.running() == 1 }) => {}
        }
        told(&faulty, way.0).await;
        let state = stack.until("a", "idle", |it| it["calls_in_flight"] == 0).await;
        assert_eq!((&state["connected"], &state["ejected"]), (&json!(true), &json!(false)), "{way:?}");
        faulty.behave(|it| it.answer = CallFault::Honest);
        assert_eq!(stack.call("echo").await.status, 200, "{way:?}");
        assert_eq!(
            faulty.seen().initialized,
            u64::from(way.0 != FaultyMode::Modern),
            "{way:?}: its session is another one"
        );
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn callers_who_come_and_go_leave_nothing_behind() {
    let one = async |way: (FaultyMode, AnswerForm)| {
        let faulty = Faulty::with_tools(way.0, vec![Tool::echo("echo").takes(Duration::from_millis(20))]).await;
        faulty.behave(|it| it.form = way.1);
        let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
        for round in 0..60 {
            let patience = Duration::from_millis(round % 30);
            join_all((0..3).map(|_| timeout(patience, stack.request("echo", "{}").send()))).await;
        }
        stack.until("a", "idle", |it| it["calls_in_flight"] == 0).await;
        wait_for("an idle server", STATE_DEADLINE, || async { faulty.running() == 0 }).await;
        assert_eq!(stack.call("echo").await.status, 200, "{way:?}");
        assert_eq!(stack.server("a").await["connected"], true);
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_deadline_that_passes_cancels_the_call() {
    let one = async |way: (FaultyMode, AnswerForm)| {
        let (faulty, stack) = silent(way, 1).await;
        let (answer, took) = stack.timed("echo").await;
        assert_eq!(answer.status, 504, "{way:?}: {}", answer.text());
        assert!((900..3_000).contains(&took.as_millis()), "{way:?}: {took:?}");
        told(&faulty, way.0).await;
        stack.until("a", "idle", |it| it["calls_in_flight"] == 0).await;
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn progress_keeps_a_call_alive_up_to_ten_times_its_limit() {
    let ways = [
        (FaultyMode::Sse, AnswerForm::Auto),
        (FaultyMode::Streamable, AnswerForm::Auto),
        (FaultyMode::Modern, AnswerForm::Auto),
    ];
    let one = async |(mode, form): (FaultyMode, AnswerForm)| {
        let every = Duration::from_millis(300);
        let working = |name, seconds| Tool::text(name, "done").takes(Duration::from_secs(seconds)).reports(every);
        let tools = vec![working("long", 3), working("endless", 60)];
        let faulty = Faulty::with_tools(mode, tools).await;
        faulty.behave(|it| it.form = form);
        let stack = Stack::ready([server("a", &faulty)]).await;
        let began = Instant::now();
        let (long, endless) = tokio::join!(stack.timed("long"), stack.timed("endless"));
        assert_eq!(long.0.status, 200, "{mode:?}: {}", long.0.text());
        assert_eq!(endless.0.status, 504, "{mode:?}: {}", endless.0.text());
        assert!((9_500..13_000).contains(&began.elapsed().as_millis()), "{mode:?}: {:?}", endless.1);
    };
    join_all(ways.map(one)).await;
}

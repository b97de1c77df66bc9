//! Callers who go away, deadlines that pass, and tools that say they work on.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Answer, Faulty, Form, Mode, Tool};
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::stack::{SOON, Stack, server};

const WAYS: [(Mode, Form); 5] = [
    (Mode::Sse, Form::Auto),
    (Mode::Streamable, Form::Json),
    (Mode::Streamable, Form::Sse),
    (Mode::Modern, Form::Json),
    (Mode::Modern, Form::Sse),
];

/// A server that never answers and takes one call at a time.
async fn silent((mode, form): (Mode, Form), seconds: u32) -> (Faulty, Stack) {
    let faulty = Faulty::start(mode).await;
    faulty.behave(|it| it.form = form);
    let limits = json!({"maxConcurrentRequests": 1});
    let stack = Stack::ready([server("a", &faulty).calls_take(seconds).with("limits", limits)]).await;
    faulty.behave(|it| it.answer = Answer::Never);
    (faulty, stack)
}

/// Waits until the server was told that nobody waits for the call, in the way of its revision.
async fn told(faulty: &Faulty, mode: Mode) {
    wait_for("the server to be told", SOON, || async {
        let seen = faulty.seen();
        let cancelled = seen.cancelled == seen.ids("tools/call");
        let (wanted, other) = if mode == Mode::Modern { (seen.abandoned == 1, cancelled) } else { (cancelled, false) };
        if wanted && !other && faulty.running() == 0 { Ok(()) } else { Err((seen.cancelled, seen.abandoned)) }
    })
    .await;
}

#[tokio::test]
async fn a_caller_who_goes_away_cancels_the_call_and_frees_its_place() {
    let one = async |way: (Mode, Form)| {
        let (faulty, stack) = silent(way, 30).await;
        let call = stack.request("echo", "{}").send();
        tokio::select! {
            answer = call => panic!("{way:?}: {}", answer.expect("an answer").text()),
            () = wait_for("the call to arrive", SOON, || async { faulty.running() == 1 }) => {}
        }
        told(&faulty, way.0).await;
        let state = stack.until("a", "idle", |it| it["calls_in_flight"] == 0).await;
        assert_eq!((&state["connected"], &state["ejected"]), (&json!(true), &json!(false)), "{way:?}");
        faulty.behave(|it| it.answer = Answer::Honest);
        assert_eq!(stack.call("echo").await.status, 200, "{way:?}");
        assert_eq!(faulty.seen().initialized, u64::from(way.0 != Mode::Modern), "{way:?}: its session is another one");
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn callers_who_come_and_go_leave_nothing_behind() {
    let one = async |way: (Mode, Form)| {
        let faulty = Faulty::with_tools(way.0, vec![Tool::echo("echo").takes(Duration::from_millis(20))]).await;
        faulty.behave(|it| it.form = way.1);
        let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
        for round in 0..60 {
            let patience = Duration::from_millis(round % 30);
            join_all((0..3).map(|_| timeout(patience, stack.request("echo", "{}").send()))).await;
        }
        stack.until("a", "idle", |it| it["calls_in_flight"] == 0).await;
        wait_for("an idle server", SOON, || async { faulty.running() == 0 }).await;
        assert_eq!(stack.call("echo").await.status, 200, "{way:?}");
        assert_eq!(stack.server("a").await["connected"], true);
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_deadline_that_passes_cancels_the_call() {
    let one = async |way: (Mode, Form)| {
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
    let ways = [(Mode::Sse, Form::Auto), (Mode::Streamable, Form::Auto), (Mode::Modern, Form::Auto)];
    let one = async |(mode, form): (Mode, Form)| {
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

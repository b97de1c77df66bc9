//! Errors that look like a lost session: the gateway checks before it repeats a call, and returns a tool's own error.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_e2e::faulty::{
    AnswerForm, CallFault, Faulty, FaultyMode, FixedAnswer, LostSessionAnswer, ProtocolFault, RequestFault, Tool,
    Uninitialized,
};
use serde_json::json;
use tokio::time::sleep;

use crate::stack::{STATE_DEADLINE, Stack, brief, server};

/// Sessions, and ways of answering.
const WAYS: [(FaultyMode, AnswerForm); 3] = [
    (FaultyMode::Sse, AnswerForm::Auto),
    (FaultyMode::Streamable, AnswerForm::Json),
    (FaultyMode::Streamable, AnswerForm::Sse),
];

fn http(status: u16, body: &str) -> Tool {
    Tool::echo("odd").answers(CallFault::Http(status, body.into()))
}

fn rpc(code: i64, message: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":ID,"error":{{"code":{code},"message":"{message}"}}}}"#)
}

/// Tools whose own errors sound as if the session were lost.
fn odd_tools(mode: FaultyMode) -> Vec<Tool> {
    let mut tools = vec![
        http(400, "your session has expired"),
        http(400, &rpc(-32000, "Bad Request: No valid session ID provided")),
        http(404, &rpc(-32001, "Session not found")),
        http(404, &rpc(-32601, "Method not found")),
        http(404, "nothing here"),
        http(410, "gone"),
        http(500, &rpc(-32603, "Server not initialized")),
        Tool::error("odd", -32001, "Session not found"),
        Tool::error("odd", -32000, "Server not initialized"),
        Tool::error("odd", -32602, "Invalid request parameters"),
    ];
    if mode == FaultyMode::Streamable {
        tools.push(http(200, &rpc(-32001, "Session not found")));
    }
    tools
}

/// One caller calls the odd tool, others another one; the session must stay.
async fn others_lose_nothing((mode, form): (FaultyMode, AnswerForm), session: &str, odd: Tool) {
    let what = format!("{mode:?} {form:?} {session} {odd:?}");
    let faulty = Faulty::with_tools(mode, vec![odd, Tool::echo("echo")]).await;
    faulty.behave(|it| it.form = form);
    let entry = server("a", &faulty).calls_take(10).with("session", json!(session));
    let stack = Stack::ready([entry]).await;
    assert_eq!(stack.call("echo").await.status, 200, "{what}");
    let (before, over) = (faulty.seen(), AtomicBool::new(false));
    let odd_caller = async {
        for round in 1..=3 {
            let answer = stack.call("odd").await;
            assert!([400, 502].contains(&answer.status), "{what} {round}: {} {}", answer.status, answer.text());
            let carried_out = faulty.seen().begun.len() - before.begun.len();
            let odd = faulty
                .seen()
                .of("tools/call")
                .iter()
                .filter(|it| it.param("name").is_some_and(|name| name == r#""odd""#))
                .count();
            assert!(carried_out >= round && odd == round, "{what}: {odd} calls of the odd tool after {round}");
            sleep(Duration::from_millis(100)).await;
        }
        over.store(true, Ordering::Relaxed);
    };
    let others = async {
        while !over.load(Ordering::Relaxed) {
            let answer = stack.call("echo").await;
            assert_eq!(brief(&answer), (200, "a".into(), "1".into()), "{what}: {}", answer.text());
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::join!(odd_caller, others);
    let seen = faulty.seen();
    assert_eq!(seen.initializes, before.initializes, "{what}: the session was opened anew");
    assert!(seen.pings + seen.lists <= before.pings + before.lists + 14, "{what}: a storm of checks");
}

#[tokio::test]
async fn a_tools_own_error_that_sounds_like_a_lost_session_costs_nobody_a_call() {
    for way in WAYS {
        let shared = odd_tools(way.0).into_iter().map(|odd| others_lose_nothing(way, "Shared", odd));
        join_all(shared).await;
        let own = odd_tools(way.0).into_iter().map(|odd| others_lose_nothing(way, "PerClient", odd));
        join_all(own).await;
    }
}

#[tokio::test]
async fn however_often_an_error_sounds_like_a_lost_session_the_server_is_asked_now_and_then() {
    join_all([FaultyMode::Sse, FaultyMode::Streamable].map(async |mode| {
        let faulty = Faulty::with_tools(mode, vec![Tool::error("odd", -32001, "Session not found")]).await;
        let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
        let (before, began) = (faulty.seen(), Instant::now());
        join_all((0..8).map(async |_| {
            for _ in 0..6 {
                let answer = stack.call("odd").await;
                assert_eq!(answer.status, 502, "{mode:?}: {}", answer.text());
            }
        }))
        .await;
        let seen = faulty.seen();
        let asked = seen.pings + seen.lists - before.pings - before.lists;
        // Every half a second at most, each time with two requests.
        let most = 2 * (began.elapsed().as_millis() / 500 + 2);
        assert!(u128::from(asked) <= most, "{mode:?}: {asked} checks in {:?}", began.elapsed());
        assert_eq!(seen.initializes, before.initializes, "{mode:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_server_that_says_in_any_way_that_it_was_restarted_is_initialized_anew_within_the_call() {
    let ways = [-32000, -32005, -32600, -32602, -32002].map(LostSessionAnswer::Uninitialized);
    join_all(ways.into_iter().chain([LostSessionAnswer::Gone]).map(async |lost| {
        for session in ["Shared", "PerClient"] {
            let faulty = Faulty::start(FaultyMode::Streamable).await;
            faulty.behave(|it| it.lost = lost);
            let entry = server("a", &faulty).calls_take(10).with("session", json!(session));
            let stack = Stack::ready([entry]).await;
            assert_eq!(stack.call("echo").await.status, 200);
            let before = faulty.seen().begun.len();
            faulty.forget_sessions();
            // What a client keeps in its own session is not known to be lost unless it has one: REST has none.
            let answer = stack.call("echo").await;
            assert_eq!(answer.status, 200, "{lost:?} {session}: {}", answer.text());
            assert_eq!(faulty.seen().begun.len(), before + 1, "{lost:?} {session}");
        }
    }))
    .await;
}

#[tokio::test]
async fn a_server_that_knows_its_client_no_more_is_initialized_anew_also_if_it_answers_pings() {
    let all = WAYS.iter().flat_map(|way| [-32000, -32602].map(|code| (*way, code)));
    join_all(all.flat_map(|(way, code)| [true, false].map(|pings| (way, code, pings))).map(
        async |(way, code, pings)| {
            let faulty = Faulty::start(way.0).await;
            faulty.behave(|it| it.form = way.1);
            let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
            let before = faulty.seen().initializes;
            let uninitialized = Uninitialized { code, message: "Server not initialized", pings };
            faulty.behave(|it| it.uninitialized = Some(uninitialized));
            let answers = join_all((0..10).map(|_| stack.call("echo"))).await;
            for answer in answers {
                assert_eq!(answer.status, 200, "{way:?} {code} {pings}: {}", answer.text());
            }
            let seen = faulty.seen();
            assert_eq!((seen.initializes - before, seen.begun.len()), (1, 10), "{way:?} {code} {pings}");
        },
    ))
    .await;
}

#[tokio::test]
async fn a_call_that_ends_its_own_session_is_not_carried_out_twice() {
    // It says so in other words than the server says it to everybody: it may well have been carried out.
    let faulty = Faulty::with_tools(
        FaultyMode::Streamable,
        vec![Tool::error("quit", -32001, "this was the last call of the session"), Tool::echo("echo")],
    )
    .await;
    let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
    faulty.behave(|it| it.lost = LostSessionAnswer::Uninitialized(-32000));
    let quit = async {
        let answer = stack.call("quit").await;
        assert_eq!(answer.status, 502, "{}", answer.text());
        assert!(answer.text().contains("last call of the session"), "{}", answer.text());
    };
    let forget = async {
        portcullis_e2e::wait::wait_for("the call", STATE_DEADLINE, || async { !faulty.seen().begun.is_empty() }).await;
        faulty.forget_sessions();
    };
    tokio::join!(quit, forget);
    assert_eq!(faulty.seen().begun.len(), 1);
    stack.works("echo").await;
}

/// A server that refuses every ping in this way.
async fn pings_are_unknown(mode: FaultyMode, name: &str, fault: impl Fn(&mut portcullis_e2e::faulty::Behaviour)) {
    let faulty = Faulty::start(mode).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    faulty.behave(&fault);
    let before = faulty.seen();
    // Each failed call is a reason to look whether the server lives.
    for _ in 0..4 {
        faulty.behave(|it| it.call = RequestFault::status(500));
        assert_eq!(stack.call("echo").await.status, 502, "{mode:?} {name}");
        sleep(Duration::from_millis(600)).await;
    }
    faulty.behave(|it| it.call = RequestFault::Open);
    assert_eq!(stack.call("echo").await.status, 200, "{mode:?} {name}");
    let state = stack.server("a").await;
    assert_eq!(state["state"], "ready", "{mode:?} {name}: {state}");
    let seen = faulty.seen();
    assert_eq!(seen.initializes, before.initializes, "{mode:?} {name}: the session was opened anew");
    let checks = seen.pings + seen.lists - before.pings - before.lists;
    // No more often than every half a second, and each with two requests at most.
    assert!((1..=24).contains(&checks), "{mode:?} {name}: {checks} checks");
}

#[tokio::test]
async fn a_server_that_knows_no_ping_keeps_its_session_however_it_says_so() {
    let mut all: Vec<std::pin::Pin<Box<dyn Future<Output = ()>>>> = Vec::new();
    for status in [400, 404, 405, 410, 500, 501] {
        all.push(Box::pin(async move {
            pings_are_unknown(FaultyMode::Streamable, &format!("plain {status}"), |it| {
                it.ping_door = RequestFault::status(status)
            })
            .await;
        }));
        all.push(Box::pin(async move {
            pings_are_unknown(FaultyMode::Sse, &format!("plain {status}"), |it| {
                it.ping_door = RequestFault::status(status)
            })
            .await;
        }));
    }
    for code in [-32601, -32600, -32602, -32603, -32001, -32000] {
        for status in [None, Some(400), Some(404), Some(405), Some(500)] {
            all.push(Box::pin(async move {
                pings_are_unknown(FaultyMode::Streamable, &format!("{code} in {status:?}"), |it| {
                    it.ping =
                        ProtocolFault::Error(format!(r#"{{"code":{code},"message":"no such session method: ping"}}"#));
                    it.error_status = status;
                })
                .await;
            }));
        }
        all.push(Box::pin(async move {
            pings_are_unknown(FaultyMode::Sse, &format!("{code}"), |it| {
                it.ping = ProtocolFault::Error(format!(r#"{{"code":{code},"message":"no such method"}}"#));
            })
            .await;
        }));
    }
    all.push(Box::pin(async {
        let headers = vec![("content-type".into(), "text/html".into())];
        let page = FixedAnswer { status: 200, headers, body: portcullis_e2e::faulty::garbage::HTML };
        pings_are_unknown(FaultyMode::Streamable, "a page", |it| it.ping_door = RequestFault::Answers(page.clone()))
            .await;
    }));
    join_all(all).await;
}

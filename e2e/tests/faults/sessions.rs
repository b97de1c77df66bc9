//! A server forgets its session: healed inside the call, once.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{Door, Faulty, Lost, Mode, Refusal, Tool};
use portcullis_e2e::wait::wait_for;

use crate::stack::{SOON, Stack, brief, server};

/// What real servers answer with HTTP 400 when they do not know the session.
const FORGOTTEN: [&str; 2] = ["Bad Request: No valid session ID provided", "Bad Request: Server not initialized"];

async fn heals(mode: Mode, lost: Lost) {
    let faulty = Faulty::start(mode).await;
    let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
    faulty.behave(|it| it.lost = lost);
    let before = faulty.seen();
    for round in 1..=2 {
        faulty.forget_sessions();
        let answers = join_all((0..50).map(|_| stack.call("echo"))).await;
        for answer in answers {
            let expected = (200, "a".to_owned(), "1".to_owned());
            assert_eq!(brief(&answer), expected, "{mode:?} {lost:?} {round}: {}", answer.text());
        }
        let seen = faulty.seen();
        let more = (seen.initializes - before.initializes, seen.initialized - before.initialized);
        assert_eq!(more, (round, round), "{mode:?} {lost:?}");
    }
}

#[tokio::test]
async fn a_forgotten_session_is_opened_anew_once_for_all_calls() {
    tokio::join!(
        heals(Mode::Streamable, Lost::NotFound),
        heals(Mode::Streamable, Lost::NotFoundError),
        heals(Mode::Streamable, Lost::Error),
        heals(Mode::Streamable, Lost::BadRequest),
        heals(Mode::Sse, Lost::NotFound),
        heals(Mode::Sse, Lost::NotFoundError),
    );
}

#[tokio::test]
async fn a_session_refused_with_400_and_an_error_is_opened_anew() {
    let one = async |message: &str| {
        let mut faulty = Faulty::start(Mode::Streamable).await;
        let stack = Stack::ready([server("a", &faulty).calls_take(10)]).await;
        let body = format!(r#"{{"jsonrpc":"2.0","error":{{"code":-32000,"message":"{message}"}},"id":null}}"#);
        let headers = vec![("content-type".into(), "application/json".into())];
        let refusal = Refusal { status: 400, headers, body: body.into() };
        faulty.restart().await;
        faulty.behave(|it| it.call = Door::Answers(refusal));
        let (answer, ()) = tokio::join!(stack.call("echo"), async {
            wait_for("a second session", SOON, || async { faulty.seen().initializes == 2 }).await;
            faulty.reform();
        });
        assert_eq!(brief(&answer), (200, "a".into(), "1".into()), "{message}: {}", answer.text());
    };
    join_all(FORGOTTEN.iter().map(|message| one(message))).await;
}

#[tokio::test]
async fn a_server_that_never_knows_its_sessions_is_not_asked_in_a_loop() {
    for (mode, status) in [(Mode::Streamable, 503), (Mode::Sse, 503)] {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty).calls_take(4)]).await;
        let headers = Vec::new();
        faulty.behave(|it| it.call = Door::Answers(Refusal { status: 404, headers, body: Bytes::new() }));
        let (answer, took) = stack.timed("echo").await;
        assert_eq!(answer.status, status, "{mode:?}: {}", answer.text());
        assert!(took < Duration::from_secs(5), "{mode:?}: {took:?}");
        let seen = faulty.seen();
        assert!(seen.calls <= 2 && seen.initializes <= 3, "{mode:?}: {} {}", seen.calls, seen.initializes);
    }
}

#[tokio::test]
async fn the_sessions_of_others_survive_one_that_is_forgotten() {
    let (a, b) = (Faulty::start(Mode::Streamable).await, Faulty::start(Mode::Sse).await);
    b.set_tools(vec![Tool::text("other", "other")]);
    let stack = Stack::ready([server("a", &a), server("b", &b)]).await;
    a.forget_sessions();
    assert_eq!(stack.call("echo").await.status, 200);
    assert_eq!((a.seen().initialized, b.seen().initialized), (2, 1));
}

#[tokio::test]
async fn a_server_whose_posts_hang_for_a_forgotten_session_is_found_by_the_health_check() {
    let faulty = Faulty::start(Mode::Sse).await;
    let health = serde_json::json!({"intervalSeconds": 5, "unhealthyThreshold": 1});
    let stack = Stack::ready([server("a", &faulty).with("healthCheck", health)]).await;
    faulty.behave(|it| it.lost = Lost::Hangs);
    faulty.forget_sessions();
    assert_eq!(stack.call("echo").await.status, 504);
    stack.works("echo").await;
    assert_eq!(faulty.seen().initialized, 2);
}

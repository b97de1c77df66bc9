//! A server forgets its session: healed inside the call, once.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{Door, Faulty, Lost, Mode, Refusal, Tool};
use serde_json::json;

use crate::stack::{Stack, brief, server};

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
        heals(Mode::Streamable, Lost::BadRequestError),
        heals(Mode::Sse, Lost::NotFound),
        heals(Mode::Sse, Lost::NotFoundError),
    );
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
async fn a_restarted_server_is_used_again_also_when_nobody_calls() {
    for lost in [Lost::NotFound, Lost::BadRequest, Lost::BadRequestError] {
        let mut faulty = Faulty::start(Mode::Streamable).await;
        faulty.behave(|it| it.lost = lost);
        let stack = Stack::ready([server("a", &faulty)]).await;
        faulty.set_tools(vec![Tool::text("new", "new")]);
        faulty.restart().await;
        // The stream of announcements breaks and is not taken back: that tells.
        stack.works("new").await;
        assert_eq!(faulty.seen().initialized, 2, "{lost:?}");
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
    let health = json!({"intervalSeconds": 5, "unhealthyThreshold": 1});
    let stack = Stack::ready([server("a", &faulty).with("healthCheck", health)]).await;
    faulty.behave(|it| it.lost = Lost::Hangs);
    faulty.forget_sessions();
    assert_eq!(stack.call("echo").await.status, 504);
    stack.works("echo").await;
    assert_eq!(faulty.seen().initialized, 2);
}

#[tokio::test]
async fn a_server_that_another_revision_takes_the_place_of_is_used_again() {
    let one = async |before, after| {
        let mut faulty = Faulty::start(before).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        assert_eq!(stack.call("echo").await.status, 200);
        faulty.replace(after).await;
        stack.works("echo").await;
    };
    tokio::join!(one(Mode::Modern, Mode::Streamable), one(Mode::Streamable, Mode::Modern));
}

//! A server forgets its session: healed inside the call, once.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{EventFraming, Faulty, FaultyMode, FixedAnswer, LostSessionAnswer, RequestFault, Tool};
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::stack::{STATE_DEADLINE, Stack, brief, server};

async fn heals(mode: FaultyMode, lost: LostSessionAnswer) {
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
        heals(FaultyMode::Streamable, LostSessionAnswer::NotFound),
        heals(FaultyMode::Streamable, LostSessionAnswer::NotFoundError),
        heals(FaultyMode::Streamable, LostSessionAnswer::Error),
        heals(FaultyMode::Streamable, LostSessionAnswer::BadRequest),
        heals(FaultyMode::Streamable, LostSessionAnswer::BadRequestError),
        heals(FaultyMode::Streamable, LostSessionAnswer::Gone),
        heals(FaultyMode::Streamable, LostSessionAnswer::Uninitialized(-32000)),
        heals(FaultyMode::Sse, LostSessionAnswer::Gone),
        heals(FaultyMode::Sse, LostSessionAnswer::NotFound),
        heals(FaultyMode::Sse, LostSessionAnswer::NotFoundError),
    );
}

#[tokio::test]
async fn a_server_that_does_not_know_a_session_that_it_has_just_opened_is_not_asked_in_a_loop() {
    for mode in [FaultyMode::Streamable, FaultyMode::Sse] {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty).calls_take(4)]).await;
        let (headers, before) = (Vec::new(), faulty.seen());
        faulty.behave(|it| it.call = RequestFault::Answers(FixedAnswer { status: 404, headers, body: Bytes::new() }));
        let (answer, took) = stack.timed("echo").await;
        // It answers everything else in this session, so this is no word on the session.
        assert_eq!(answer.status, 502, "{mode:?}: {}", answer.text());
        assert!(took < Duration::from_secs(5), "{mode:?}: {took:?}");
        let seen = faulty.seen();
        assert_eq!((seen.calls, seen.initializes), (1, before.initializes), "{mode:?}");
    }
}

#[tokio::test]
async fn a_restarted_server_is_used_again_also_when_nobody_calls() {
    for lost in [LostSessionAnswer::NotFound, LostSessionAnswer::BadRequest, LostSessionAnswer::BadRequestError] {
        let mut faulty = Faulty::start(FaultyMode::Streamable).await;
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
    let (a, b) = (Faulty::start(FaultyMode::Streamable).await, Faulty::start(FaultyMode::Sse).await);
    b.set_tools(vec![Tool::text("other", "other")]);
    let stack = Stack::ready([server("a", &a), server("b", &b)]).await;
    a.forget_sessions();
    assert_eq!(stack.call("echo").await.status, 200);
    assert_eq!((a.seen().initialized, b.seen().initialized), (2, 1));
}

#[tokio::test]
async fn a_server_whose_posts_hang_for_a_forgotten_session_is_found_by_the_health_check() {
    let faulty = Faulty::start(FaultyMode::Sse).await;
    let health = json!({"intervalSeconds": 5, "unhealthyThreshold": 1});
    let stack = Stack::ready([server("a", &faulty).with("healthCheck", health)]).await;
    faulty.behave(|it| it.lost = LostSessionAnswer::Hangs);
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
    tokio::join!(one(FaultyMode::Modern, FaultyMode::Streamable), one(FaultyMode::Streamable, FaultyMode::Modern));
}

#[tokio::test]
async fn headers_that_change_while_a_clients_session_is_opened_are_sent_in_it() {
    let faulty = Faulty::start(FaultyMode::Streamable).await;
    let entry = |key: &str| {
        let headers = json!([{"name": "x-key", "value": key}]);
        server("a", &faulty).with("session", json!("PerClient")).with("headers", headers).calls_take(10)
    };
    let stack = Stack::ready([entry("old")]).await;
    // Slow enough for the change to come while the session is opened.
    faulty.behave(|it| {
        it.framing = EventFraming { piece: Some(16), pause: Duration::from_millis(30), ..it.framing.clone() }
    });
    let before = faulty.seen().initializes;
    let change = async {
        wait_for("a session that is being opened", STATE_DEADLINE, || async { faulty.seen().initializes > before })
            .await;
        stack.set(&entry("new"));
    };
    assert_eq!(tokio::join!(stack.call("echo"), change).0.status, 200);
    faulty.reform();
    wait_for("a call with the new header", STATE_DEADLINE, || async {
        assert_eq!(stack.call("echo").await.status, 200);
        let key = faulty.seen().of("tools/call").last().map(|call| call.header("x-key").to_owned());
        if key.as_deref() == Some("new") { Ok(()) } else { Err(key) }
    })
    .await;
    // The handshake that began with the old header restarts: the gateway sends only configured headers.
    assert_eq!(faulty.seen().initializes, before + 2);
}

//! The handle of a faulty server: tools that change, streams that end or freeze, sessions forgotten, kills.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, StreamEnd, Tool};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, sse};

use crate::client::{INITIALIZE, INITIALIZED, LIMIT, LIST, SILENCE, SseClient, call, echoed, names, session, within};

#[tokio::test]
async fn changed_tools_are_announced_and_listed() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let mut client = SseClient::open(&server).await;
    server.change_tools(vec![Tool::echo("other")]).await;
    assert!(client.next().await.data.contains("notifications/tools/list_changed"));
    assert_eq!(names(&client.ask(LIST).await), ["other"]);
}

#[tokio::test]
async fn churn_announces_again_and_again() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let mut client = SseClient::open(&server).await;
    server.churn(Duration::from_millis(10));
    for _ in 0..4 {
        assert!(client.next().await.data.contains("notifications/tools/list_changed"));
    }
}

#[tokio::test]
async fn the_server_asks_after_initialized_and_hears_the_answers() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let ask = r#"{"jsonrpc":"2.0","id":0,"method":"roots/list"}"#;
    server.behave(|it| it.asks = vec![ask.into()]);
    let mut client = SseClient::open(&server).await;
    client.ask(INITIALIZE).await;
    client.send(INITIALIZED).await;
    assert_eq!(client.next().await.data, ask);
    let answer = r#"{"jsonrpc":"2.0","id":0,"error":{"code":-32601,"message":"no"}}"#;
    client.send(answer).await;
    assert_eq!(server.seen().answers, [answer]);
    server.push(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).await;
    assert!(client.next().await.data.contains("ping"));
    server.push_bytes(": raw\n\nevent: odd\ndata: x\n\n").await;
    assert_eq!(client.next().await.event, "odd");
}

#[tokio::test]
async fn the_get_stream_of_streamable_http_carries_requests_and_changes() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    server.behave(|it| it.asks = vec![r#"{"jsonrpc":"2.0","id":0,"method":"ping"}"#.into()]);
    let get = http::get(&server.url()).header("mcp-session-id", &session(&server).await);
    let mut events = sse::open(get).await.expect("an event stream");
    assert!(events.next(LIMIT).await.expect("an event").expect("not the end").data.contains("ping"));
    server.announce().await;
    assert!(events.next(LIMIT).await.expect("an event").expect("not the end").data.contains("list_changed"));
    drop(events);
    wait_for("the stream's end", LIMIT, async || server.open_streams() == 0).await;
}

#[tokio::test]
async fn streams_end_properly_or_are_cut() {
    let server = Faulty::start(FaultyMode::Sse).await;
    for end in [StreamEnd::Clean, StreamEnd::Cut] {
        let mut client = SseClient::open(&server).await;
        server.end_streams(end).await;
        let rest = client.events.next(LIMIT).await;
        assert_eq!(matches!(rest, Ok(None)), end == StreamEnd::Clean, "{end:?}: {rest:?}");
        assert_eq!(rest.is_err(), end == StreamEnd::Cut);
        let lost = client.post(LIST).send().await.expect("an answer");
        assert_eq!(lost.status, 404);
    }
}

#[tokio::test]
async fn frozen_streams_accept_everything_and_say_nothing() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let mut frozen = SseClient::open(&server).await;
    server.freeze_streams();
    frozen.send(LIST).await;
    assert!(frozen.events.next(SILENCE).await.is_err());
    let mut fresh = SseClient::open(&server).await;
    assert_eq!(names(&fresh.ask(LIST).await), ["echo"]);
}

#[tokio::test]
async fn forgotten_sessions_are_lost_with_their_streams_left_open() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let mut client = SseClient::open(&server).await;
    server.forget_sessions();
    assert_eq!(client.post(LIST).send().await.expect("an answer").status, 404);
    server.push(r#"{"still":"open"}"#).await;
    assert_eq!(client.next().await.data, r#"{"still":"open"}"#);
    assert_eq!(server.seen().lost, 1);
}

#[tokio::test]
async fn a_killed_server_refuses_and_comes_back_without_its_sessions() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let mut server = Faulty::start(mode).await;
        let old = if mode == FaultyMode::Streamable { session(&server).await } else { String::new() };
        let stream = if mode == FaultyMode::Sse { Some(SseClient::open(&server).await) } else { None };
        let url = server.url();
        server.kill().await;
        assert!(http::get(&url).send().await.is_err(), "{mode:?}");
        if let Some(mut client) = stream {
            assert!(client.events.next(LIMIT).await.is_err());
        }
        server.restart().await;
        assert_eq!(server.url(), url);
        match mode {
            FaultyMode::Sse => {
                let mut client = SseClient::open(&server).await;
                assert_eq!(client.ask(&call("1", "echo", "{}")).await, echoed("1", "{}"));
            }
            FaultyMode::Streamable => {
                assert_eq!(within(&server, &old, LIST).send().await.expect("an answer").status, 404)
            }
            FaultyMode::Modern => assert_eq!(http::get(&url).send().await.expect("an answer").status, 405),
        }
    }
}

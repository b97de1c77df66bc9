//! Every fault does what it says.

use std::time::Duration;

use bytes::Bytes;
use portcullis_e2e::faulty::{
    AnswerForm, Behaviour, CallFault, ConnectionFault, EndpointFault, EventFraming, Faulty, FaultyMode, ListFault,
    Listen, LostSessionAnswer, ProtocolFault, RequestFault, Tool, garbage,
};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, sse};

use crate::client::{INITIALIZE, LIMIT, LIST, SILENCE, SseClient, call, echoed, names, session, within};

/// The events that a reader receives until the stream is silent.
#[derive(Debug, Default, PartialEq, Eq)]
struct Sight {
    data: Vec<String>,
    end: ExpectedEnd,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum ExpectedEnd {
    #[default]
    Open,
    Ended,
    Cut,
}

async fn behaving(mode: FaultyMode, change: impl FnOnce(&mut Behaviour)) -> Faulty {
    let server = Faulty::start(mode).await;
    server.behave(change);
    server
}

/// Waits long for what is wanted, and shortly for more than that.
async fn watch(events: &mut sse::SseEvents, wanted: usize, end: &ExpectedEnd) -> Sight {
    let mut sight = Sight::default();
    loop {
        let more = sight.data.len() < wanted || *end != ExpectedEnd::Open;
        match events.next(if more { LIMIT } else { SILENCE }).await {
            Ok(Some(event)) => sight.data.push(event.data),
            Ok(None) => return Sight { end: ExpectedEnd::Ended, ..sight },
            Err(error) if error.is::<hyper::Error>() => return Sight { end: ExpectedEnd::Cut, ..sight },
            Err(_) => return sight,
        }
    }
}

async fn assert_silence(events: &mut sse::SseEvents) {
    assert_eq!(watch(events, 0, &ExpectedEnd::Open).await, Sight::default());
}

#[tokio::test]
async fn connections_are_silent_closed_or_not_http() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let try_it = |connection: ConnectionFault| {
        let limit = if matches!(connection, ConnectionFault::Silent) { SILENCE } else { LIMIT };
        server.behave(|it| it.connection = connection);
        http::get(&server.url()).limit(limit).send()
    };
    let text = |result: anyhow::Result<http::HttpAnswer>| format!("{:#}", result.expect_err("no answer"));
    assert!(text(try_it(ConnectionFault::Silent).await).contains("150ms"));
    assert!(text(try_it(ConnectionFault::Closed).await).contains("connection"));
    assert!(
        text(try_it(ConnectionFault::Raw(Bytes::from_static(b"SSH-2.0-OpenSSH\r\n"))).await).contains("invalid HTTP")
    );
    let answer =
        try_it(ConnectionFault::Raw(Bytes::from_static(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"))).await;
    assert_eq!(answer.expect("an answer").text(), "hi");
    assert!(text(try_it(ConnectionFault::EndlessHeaders).await).contains("too large"));
    assert_eq!(server.seen().connections, 5);
}

#[tokio::test]
async fn doors_hang_slam_or_answer_what_they_are_told() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let try_it = |door: RequestFault| {
        let limit = if matches!(door, RequestFault::Hangs) { SILENCE } else { LIMIT };
        server.behave(|it| it.post = door);
        http::post(&server.url(), INITIALIZE).limit(limit).send()
    };
    for status in [401, 403, 404, 500, 503] {
        assert_eq!(try_it(RequestFault::status(status)).await.expect("an answer").status, status);
    }
    for status in [301, 307, 308] {
        let answer = try_it(RequestFault::redirect(status, "http://127.0.0.2:1/x")).await.expect("an answer");
        assert_eq!((answer.status, answer.header("location")), (status, "http://127.0.0.2:1/x"));
    }
    let html = try_it(RequestFault::html()).await.expect("an answer");
    assert_eq!((html.status, html.header("content-type")), (200, "text/html"));
    assert!(format!("{:#}", try_it(RequestFault::Hangs).await.expect_err("none")).contains("150ms"));
    assert!(format!("{:#}", try_it(RequestFault::Slams).await.expect_err("none")).contains("connection"));
    assert_eq!(try_it(RequestFault::Open).await.expect("an answer").status, 200);
    server.behave(|it| (it.get, it.call) = (RequestFault::status(418), RequestFault::status(419)));
    assert_eq!(http::get(&server.url()).send().await.expect("an answer").status, 418);
    assert_eq!(http::post(&server.url(), call("1", "echo", "{}")).send().await.expect("an answer").status, 419);
}

#[tokio::test]
async fn endpoints_lie_in_every_way() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let host = server.address();
    let table = [
        (EndpointFault::Honest, vec!["/message?".to_owned()]),
        (EndpointFault::Absolute, vec![format!("http://{host}/message?")]),
        (EndpointFault::Relative, vec!["message?".into()]),
        (EndpointFault::Authority("evil".into()), vec!["//evil/message?".into()]),
        (EndpointFault::Origin("http://127.0.0.2:80".into()), vec!["http://127.0.0.2:80/message?".into()]),
        (EndpointFault::UserInfo, vec![format!("http://user:secret@{host}/message?")]),
        (EndpointFault::Twice("http://evil".into()), vec!["/message?".into(), "http://evil/message?".into()]),
        (EndpointFault::MessageFirst, vec![r#"{"jsonrpc""#.into(), "/message?".into()]),
        (EndpointFault::Text("\u{1}".into()), vec!["\u{1}".into()]),
        (EndpointFault::Never, vec![]),
    ];
    for (endpoint, wanted) in table {
        server.behave(|it| it.endpoint = endpoint.clone());
        let mut events = sse::open(http::get(&server.url())).await.expect("events");
        let sight = watch(&mut events, wanted.len(), &ExpectedEnd::Open).await;
        let same = sight.data.len() == wanted.len() && sight.data.iter().zip(&wanted).all(|(a, b)| a.starts_with(b));
        assert!(same && sight.end == ExpectedEnd::Open, "{endpoint:?}: {sight:?}");
    }
}

#[tokio::test]
async fn every_framing_carries_a_whole_conversation() {
    let honest = EventFraming::default;
    let table = [
        honest(),
        EventFraming { line_end: "\r\n", bom: true, ..honest() },
        EventFraming { line_end: "\r", no_space: true, ..honest() },
        EventFraming { comments: true, no_event: true, ..honest() },
        EventFraming { multi_line: true, piece: Some(1), ..honest() },
        EventFraming { line_end: "\r\n", piece: Some(7), pause: Duration::from_millis(1), ..honest() },
    ];
    for framing in table {
        let server = behaving(FaultyMode::Sse, |it| it.framing = framing.clone()).await;
        let mut client = SseClient::open(&server).await;
        assert_eq!(names(&client.ask(LIST).await), ["echo"], "{framing:?}");
        let answer = client.ask(&call("1", "echo", r#"{"a":"ü"}"#)).await;
        assert_eq!(answer.replace('\n', ""), echoed("1", r#"{"a":"ü"}"#), "{framing:?}");
    }
}

#[tokio::test]
async fn pieces_are_pieces_on_the_wire() {
    let framing =
        EventFraming { piece: Some(1), pause: Duration::from_millis(1), bom: true, ..EventFraming::default() };
    let server = behaving(FaultyMode::Sse, |it| it.framing = framing).await;
    let mut stream = http::get(&server.url()).open().await.expect("an answer");
    for wanted in *b"\xef\xbb\xbfevent: endpoint\n" {
        assert_eq!(&stream.chunk().await.expect("a piece").expect("not the end")[..], [wanted]);
    }
}

#[tokio::test]
async fn answers_go_wrong_in_every_way_on_an_event_stream() {
    let honest = echoed("1", "{}");
    let with_id = |id: &str| echoed(id, "{}");
    let text = |bytes: Bytes| String::from_utf8_lossy(&bytes).into_owned();
    let table = [
        (CallFault::Honest, vec![honest.clone()], ExpectedEnd::Open),
        (CallFault::Never, vec![], ExpectedEnd::Open),
        (CallFault::CutAfterAccepting, vec![], ExpectedEnd::Cut),
        (CallFault::CutMidAnswer, vec![], ExpectedEnd::Cut),
        (CallFault::EndWithout, vec![], ExpectedEnd::Ended),
        (CallFault::Twice, vec![honest.clone(), honest.clone()], ExpectedEnd::Open),
        (CallFault::Id("null".into()), vec![with_id("null")], ExpectedEnd::Open),
        (CallFault::StringId, vec![with_id(r#""1""#)], ExpectedEnd::Open),
        (CallFault::OthersId, vec![with_id("999999999")], ExpectedEnd::Open),
        (CallFault::NoId, vec![honest.replace(r#""id":1,"#, "")], ExpectedEnd::Open),
        (CallFault::Instead(garbage::BAD_JSON), vec![text(garbage::BAD_JSON)], ExpectedEnd::Open),
        (CallFault::After(garbage::HTML), vec![text(garbage::HTML), honest.clone()], ExpectedEnd::Open),
        (CallFault::After(garbage::BAD_UTF8), vec![text(garbage::BAD_UTF8), honest.clone()], ExpectedEnd::Open),
        (CallFault::After(garbage::NOT_RPC), vec![text(garbage::NOT_RPC), honest.clone()], ExpectedEnd::Open),
        (
            CallFault::AfterRaw(garbage::HALF_EVENT),
            vec![r#"{"jsonrpc":"2.0","#.into(), honest.clone()],
            ExpectedEnd::Open,
        ),
        (CallFault::AfterRaw(garbage::ODD_EVENTS), vec!["{}".into(), honest.clone()], ExpectedEnd::Open),
    ];
    for (answer, wanted, end) in table {
        let server = behaving(FaultyMode::Sse, |it| it.answer = answer.clone()).await;
        let mut client = SseClient::open(&server).await;
        client.send(&call("1", "echo", "{}")).await;
        assert_eq!(watch(&mut client.events, wanted.len(), &end).await, Sight { data: wanted, end }, "{answer:?}");
    }
}

#[tokio::test]
async fn a_call_may_be_cut_before_it_is_accepted() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let server = behaving(mode, |it| it.answer = CallFault::CutBeforeAccepting).await;
        let message = call("1", "echo", "{}");
        let client = if mode == FaultyMode::Sse { Some(SseClient::open(&server).await) } else { None };
        let request = match &client {
            Some(client) => client.post(&message),
            None => within(&server, &session(&server).await, &message),
        };
        assert!(request.send().await.is_err());
        assert_eq!(server.seen().calls, 1);
    }
}

#[tokio::test]
async fn answers_go_wrong_in_every_way_over_streamable_http() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let session = session(&server).await;
    let honest = echoed("1", "{}");
    let table = [
        (CallFault::Honest, Some(honest.clone())),
        (CallFault::Never, None),
        (CallFault::CutAfterAccepting, None),
        (CallFault::CutMidAnswer, None),
        (CallFault::EndWithout, Some(String::new())),
        (CallFault::Twice, Some(format!("{honest}{honest}"))),
        (CallFault::StringId, Some(echoed(r#""1""#, "{}"))),
        (CallFault::Instead(garbage::HTML), Some(String::from_utf8_lossy(&garbage::HTML).into_owned())),
    ];
    for (answer, wanted) in table {
        server.behave(|it| it.answer = answer.clone());
        let limit = if matches!(answer, CallFault::Never) { SILENCE } else { LIMIT };
        let answered = within(&server, &session, &call("1", "echo", "{}")).limit(limit).send().await;
        assert_eq!(answered.ok().map(|it| it.text().to_owned()), wanted, "{answer:?}");
    }
    server.behave(|it| it.answer = CallFault::CutMidAnswer);
    let mut half = within(&server, &session, &call("1", "echo", "{}")).open().await.expect("the head comes");
    let bytes = half.chunk().await.expect("some bytes").expect("not the end");
    assert_eq!(&bytes[..], &honest.as_bytes()[..honest.len() / 2]);
    assert!(half.chunk().await.is_err());
    server.behave(|it| (it.answer, it.form) = (CallFault::CutAfterAccepting, AnswerForm::Sse));
    let mut events = sse::open(within(&server, &session, &call("1", "echo", "{}"))).await.expect("the head comes");
    assert_eq!(watch(&mut events, 0, &ExpectedEnd::Cut).await.end, ExpectedEnd::Cut);
}

#[tokio::test]
async fn another_calls_id_is_taken_when_there_is_one() {
    let slow = Tool::text("slow", "slow").takes(LIMIT);
    let thief = Tool::text("thief", "mine").answers(CallFault::OthersId);
    let server = Faulty::with_tools(FaultyMode::Sse, vec![slow, thief]).await;
    let mut client = SseClient::open(&server).await;
    client.send(&call("41", "slow", "{}")).await;
    wait_for("the slow call", LIMIT, async || server.running() == 1).await;
    assert!(client.ask(&call("42", "thief", "{}")).await.contains(r#""id":41,"#));
}

#[tokio::test]
async fn huge_answers_are_whole_and_endless_ones_are_endless() {
    const HUGE: u64 = 10_000_000;
    let server = Faulty::start(FaultyMode::Streamable).await;
    let session = session(&server).await;
    for form in [AnswerForm::Sse, AnswerForm::Json] {
        let overhead = if form == AnswerForm::Sse { echoed("1", "").len() + 23 } else { echoed("1", "").len() };
        server.behave(|it| (it.answer, it.form) = (CallFault::Huge(HUGE), form));
        assert_eq!(read_up_to(&server, &session, u64::MAX).await, HUGE + overhead as u64);
        for endless in [CallFault::EndlessLine, CallFault::EndlessLines] {
            server.behave(|it| it.answer = endless);
            assert!(read_up_to(&server, &session, 16_000_000).await > 16_000_000);
        }
    }
    wait_for("the endless calls' end", LIMIT, async || server.running() == 0).await;
}

async fn read_up_to(server: &Faulty, session: &str, limit: u64) -> u64 {
    let mut stream = within(server, session, &call("1", "echo", "{}")).open().await.expect("an answer");
    let mut read = 0;
    while read <= limit {
        let Some(bytes) = stream.chunk().await.expect("no cut") else { break };
        read += bytes.len() as u64;
    }
    read
}

#[tokio::test]
async fn an_endless_line_may_come_instead_of_the_endpoint() {
    let server = behaving(FaultyMode::Sse, |it| it.endpoint = EndpointFault::EndlessLine).await;
    let mut stream = http::get(&server.url()).open().await.expect("an answer");
    let mut read = 0;
    while read < 16_000_000 {
        read += stream.chunk().await.expect("no cut").expect("no end").len();
    }
}

#[tokio::test]
async fn initialize_ping_and_discover_may_fail_or_never_be_answered() {
    let ping = r#"{"jsonrpc":"2.0","id":9,"method":"ping"}"#;
    let server =
        behaving(FaultyMode::Sse, |it| (it.init, it.ping) = (ProtocolFault::Never, ProtocolFault::Never)).await;
    let mut client = SseClient::open(&server).await;
    client.send(INITIALIZE).await;
    client.send(ping).await;
    assert_silence(&mut client.events).await;
    server.behave(|it| it.init = ProtocolFault::Error(r#"{"code":-32603,"message":"no"}"#.into()));
    assert!(client.ask(INITIALIZE).await.contains(r#""error":{"code":-32603"#));
    server.behave(|it| it.init = ProtocolFault::Result(r#"{"protocolVersion":"1999-01-01"}"#.into()));
    assert!(client.ask(INITIALIZE).await.ends_with(r#""result":{"protocolVersion":"1999-01-01"}}"#));
    server.reform();
    assert_eq!(client.ask(ping).await, r#"{"jsonrpc":"2.0","id":9,"result":{}}"#);
}

#[tokio::test]
async fn lists_have_pages_without_end_and_tools_without_number() {
    let tools: Vec<_> = ["a", "b", "c"].map(Tool::echo).into();
    let server = Faulty::with_tools(FaultyMode::Sse, tools).await;
    let mut client = SseClient::open(&server).await;
    let page =
        |cursor: &str| format!(r#"{{"jsonrpc":"2.0","id":2,"method":"tools/list","params":{{"cursor":"{cursor}"}}}}"#);
    let error = r#"{"code":-32603,"message":"no"}"#;
    let table = [
        (ListFault::Honest, LIST.to_owned(), vec!["a", "b", "c"], None),
        (ListFault::Pages(2), LIST.to_owned(), vec!["a", "b"], Some("2")),
        (ListFault::Pages(2), page("2"), vec!["c"], None),
        (ListFault::EndlessPages, page("123456"), vec!["tool-123456"], Some("123457")),
        (ListFault::SameCursor, page("again"), vec!["a", "b", "c"], Some("again")),
        (ListFault::Many(2), LIST.to_owned(), vec!["tool-0", "tool-1"], None),
    ];
    for (list, request, wanted, cursor) in table {
        server.behave(|it| it.list = list.clone());
        let answer = client.ask(&request).await;
        let next = serde_json::from_str::<serde_json::Value>(&answer).expect("JSON")["result"]["nextCursor"].clone();
        assert_eq!(
            (names(&answer), next.as_str()),
            (wanted.into_iter().map(String::from).collect(), cursor),
            "{list:?}"
        );
    }
    server.behave(|it| it.list = ListFault::Many(100_000));
    assert_eq!(names(&client.ask(LIST).await).len(), 100_000);
    server.behave(|it| it.list = ListFault::Reply(ProtocolFault::Error(error.into())));
    assert!(client.ask(LIST).await.contains(error));
    server.behave(|it| it.list = ListFault::Reply(ProtocolFault::Never));
    client.send(LIST).await;
    assert_silence(&mut client.events).await;
}

#[tokio::test]
async fn lost_sessions_are_told_so_in_every_way() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let server = Faulty::start(mode).await;
        let client = if mode == FaultyMode::Sse { Some(SseClient::open(&server).await) } else { None };
        let request = match &client {
            Some(client) => client.post(LIST),
            None => within(&server, &session(&server).await, LIST),
        };
        server.forget_sessions();
        for (lost, status, error) in [
            (LostSessionAnswer::NotFound, 404, false),
            (LostSessionAnswer::NotFoundError, 404, true),
            (LostSessionAnswer::Error, 200, true),
            (LostSessionAnswer::BadRequest, 400, false),
        ] {
            server.behave(|it| it.lost = lost);
            let answer = request.clone().send().await.expect("an answer");
            assert_eq!((answer.status, answer.text().contains("-32001")), (status, error), "{mode:?} {lost:?}");
        }
        server.behave(|it| it.lost = LostSessionAnswer::Hangs);
        assert!(request.limit(SILENCE).send().await.is_err());
    }
}

#[tokio::test]
async fn the_get_of_streamable_http_may_be_refused_or_end_at_once() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let get = http::get(&server.url()).header("mcp-session-id", &session(&server).await);
    server.behave(|it| it.listen = Listen::NotAllowed);
    assert_eq!(get.clone().send().await.expect("an answer").status, 405);
    server.behave(|it| it.listen = Listen::NotFound);
    assert_eq!(get.clone().send().await.expect("an answer").status, 404);
    server.behave(|it| it.listen = Listen::Closes);
    let closed = get.clone().send().await.expect("an answer");
    assert_eq!((closed.status, closed.header("content-type"), closed.text()), (200, "text/event-stream", ""));
    server.behave(|it| it.listen = Listen::Open);
    assert_silence(&mut sse::open(get).await.expect("events")).await;
}

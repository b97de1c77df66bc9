//! Every fault while a session is opened: the server is not used, says why, hurts nobody, and is used once it is honest.

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{
    Behaviour, ConnectionFault, EndpointFault, Faulty, FaultyMode, FixedAnswer, InName, ListFault, ProtocolFault,
    RequestFault, Tool,
};
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::stack::{STATE_DEADLINE, Stack, assert_quick, at, server};

type BoxedFault = Box<dyn Fn(&mut Behaviour)>;

const INSIDE: Bytes = Bytes::from_static(b"INSIDE-OF-THE-SERVER");

fn answers(status: u16) -> RequestFault {
    RequestFault::Answers(FixedAnswer {
        status,
        headers: vec![("location".into(), "http://127.0.0.2:1/".into())],
        body: INSIDE,
    })
}

/// The mode, the fault, and what `/servers` says about it.
fn table(evil: &str) -> Vec<(FaultyMode, BoxedFault, &'static str)> {
    let authority = evil.trim_start_matches("http://").to_owned();
    let (origin, redirect) = (evil.to_owned(), format!("{evil}/mcp"));
    let endpoint = |endpoint: EndpointFault| -> BoxedFault { Box::new(move |it| it.endpoint = endpoint.clone()) };
    let init = |reply: ProtocolFault| -> BoxedFault { Box::new(move |it| it.init = reply.clone()) };
    let doors =
        |door: RequestFault| -> BoxedFault { Box::new(move |it| (it.get, it.post) = (door.clone(), door.clone())) };
    let connection = |odd: ConnectionFault| -> BoxedFault { Box::new(move |it| it.connection = odd.clone()) };
    let list = |list: ListFault| -> BoxedFault { Box::new(move |it| it.list = list.clone()) };
    let elsewhere = "names an unusable endpoint for messages: its origin differs from that of the stream";
    let mut table = vec![
        (FaultyMode::Sse, endpoint(EndpointFault::Authority(authority)), elsewhere),
        (FaultyMode::Sse, endpoint(EndpointFault::Origin(origin)), elsewhere),
        (FaultyMode::Sse, endpoint(EndpointFault::UserInfo), "it contains a user name"),
        (FaultyMode::Sse, endpoint(EndpointFault::Text("http://[".into())), "it is not a URL"),
        (FaultyMode::Sse, endpoint(EndpointFault::Text(format!("/{}", "x".repeat(4096)))), "it is too long"),
        (FaultyMode::Sse, endpoint(EndpointFault::Text("/elsewhere".into())), "answers with HTTP status 404"),
        (FaultyMode::Sse, endpoint(EndpointFault::Never), "does not answer: no endpoint event in time"),
        (FaultyMode::Sse, endpoint(EndpointFault::EndlessLine), "its endpoint event is too large"),
        (FaultyMode::Sse, Box::new(|it| it.get = RequestFault::html()), "GET returns no event stream"),
        (
            FaultyMode::Sse,
            Box::new(|it| it.post = RequestFault::Hangs),
            "does not answer: no answer to initialize on the event stream in time",
        ),
    ];
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        table.extend([
            (mode, init(ProtocolFault::Never), "does not answer: no answer to initialize"),
            (
                mode,
                init(ProtocolFault::Error(r#"{"code":-1,"message":"INSIDE"}"#.into())),
                "refuses the handshake (JSON-RPC error -1)",
            ),
            (mode, init(ProtocolFault::Result(r#""INSIDE""#.into())), "the answer to the handshake is malformed"),
            (
                mode,
                init(ProtocolFault::Result(r#"{"protocolVersion":"INSIDE","capabilities":{}}"#.into())),
                "does not speak protocol version 2025-11-25: set spec.protocolVersion",
            ),
        ]);
    }
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        table.extend([
            (mode, doors(RequestFault::redirect(302, &redirect)), "redirects"),
            (mode, doors(RequestFault::redirect(308, &redirect)), "redirects"),
            (mode, doors(answers(401)), "refuses the gateway's credentials (HTTP status 401)"),
            (mode, doors(answers(403)), "refuses the gateway's credentials (HTTP status 403)"),
            (mode, doors(answers(500)), "HTTP status"),
            (mode, doors(answers(503)), "answers with HTTP status 503"),
            (mode, doors(RequestFault::Hangs), "does not answer"),
            (mode, doors(RequestFault::Slams), "ends the connection without an"),
            (mode, connection(ConnectionFault::Silent), "does not answer"),
            (mode, connection(ConnectionFault::Raw(Bytes::from_static(b"INSIDE"))), "ends the connection without an"),
            (mode, connection(ConnectionFault::EndlessHeaders), "ends the connection without an"),
            (
                mode,
                list(ListFault::Reply(ProtocolFault::Error(r#"{"code":-5,"message":"INSIDE"}"#.into()))),
                "JSON-RPC error -5",
            ),
            (mode, list(ListFault::Reply(ProtocolFault::Result("{}".into()))), "the answer is not a list of tools"),
            (mode, list(ListFault::Many(100_000)), "is too large"),
        ]);
    }
    table
}

#[tokio::test]
async fn a_server_that_misbehaves_at_the_door_is_kept_out_and_let_in_once_it_is_honest() {
    let evil = Faulty::start(FaultyMode::Streamable).await;
    let table = table(&format!("http://{}", evil.address()));
    let honest = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("fine", "fine")]).await;
    let mut servers = Vec::new();
    let mut entries = vec![server("honest", &honest)];
    for (number, (mode, fault, _)) in table.iter().enumerate() {
        let name = format!("s{number}");
        let faulty = Faulty::with_tools(*mode, vec![Tool::echo(&name)]).await;
        faulty.behave(fault);
        let transport = if *mode == FaultyMode::Sse { "sse" } else { "streamable-http" };
        entries.push(server(&name, &faulty).with("transport", json!(transport)));
        servers.push((name, faulty));
    }
    let stack = Stack::start(entries).await;
    stack.connected("honest").await;
    assert_quick(&stack, "fine").await;
    let streams = honest.seen().streams;
    join_all(servers.iter().zip(&table).map(async |((name, faulty), (mode, _, problem))| {
        let state = stack.until(name, problem, |it| it["last_error"].as_str().unwrap_or_default().contains(problem));
        let state = state.await;
        assert_eq!((&state["connected"], &state["tools_count"]), (&json!(false), &json!(0)), "{mode:?} {problem}");
        assert!(!state["last_error"].as_str().unwrap_or_default().contains("INSIDE"), "{state}");
        let status = stack.call(name).await.status;
        assert!([404, 503].contains(&status), "{mode:?} {problem}: {status}");
        faulty.reform();
        stack.connected(name).await;
        assert_eq!(stack.call(name).await.status, 200, "{mode:?} {problem}");
    }))
    .await;
    assert_quick(&stack, "fine").await;
    assert_eq!(evil.seen().connections, 0, "somebody was led elsewhere");
    assert_eq!(honest.seen().streams, streams, "the honest server's session was touched");
}

#[tokio::test]
async fn a_second_endpoint_does_not_lead_the_calls_elsewhere() {
    let (evil, faulty) = (Faulty::start(FaultyMode::Streamable).await, Faulty::start(FaultyMode::Sse).await);
    faulty.behave(|it| it.endpoint = EndpointFault::Twice(format!("http://{}", evil.address())));
    let stack = Stack::ready([server("a", &faulty)]).await;
    assert_eq!(stack.call("echo").await.status, 200);
    assert_eq!(evil.seen().connections, 0);
}

#[tokio::test]
async fn harmless_endpoints_are_used() {
    for endpoint in
        [EndpointFault::Absolute, EndpointFault::Relative, EndpointFault::MessageFirst, EndpointFault::PingFirst]
    {
        let faulty = Faulty::start(FaultyMode::Sse).await;
        faulty.behave(|it| it.endpoint = endpoint.clone());
        let stack = Stack::ready([server("a", &faulty)]).await;
        assert_eq!(stack.call("echo").await.status, 200, "{endpoint:?}");
    }
}

#[tokio::test]
async fn a_call_that_is_redirected_does_not_follow() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let (evil, faulty) = (Faulty::start(FaultyMode::Streamable).await, Faulty::start(mode).await);
        let stack = Stack::ready([server("a", &faulty)]).await;
        for status in [301, 302, 303, 307, 308] {
            faulty.behave(|it| it.call = RequestFault::redirect(status, &evil.url()));
            assert_eq!(stack.call("echo").await.status, 503, "{mode:?} {status}");
        }
        assert_eq!(evil.seen().connections, 0);
    }
}

#[tokio::test]
async fn the_transport_is_found_out_and_found_out_anew_when_it_changes() {
    let (sse, streamable) = (Faulty::start(FaultyMode::Sse).await, Faulty::start(FaultyMode::Streamable).await);
    let modern = Faulty::start(FaultyMode::Modern).await;
    let entries = [server("sse", &sse), server("streamable", &streamable), server("modern", &modern)];
    let stack = Stack::ready(entries).await;
    for (name, transport, version) in [
        ("sse", "sse", "2025-11-25"),
        ("streamable", "streamable-http", "2025-11-25"),
        ("modern", "streamable-http", "2026-07-28"),
    ] {
        let state = stack.server(name).await;
        assert_eq!((&state["transport"], &state["protocol_version"]), (&json!(transport), &json!(version)));
    }
    // Over HTTP+SSE the newest question would change the era of a Python server's connection.
    assert!(sse.seen().of("server/discover").iter().all(|request| request.target == "/sse"));
    stack.set(&at("sse", &modern.url()));
    stack.until("sse", "another one", |it| it["protocol_version"] == "2026-07-28").await;
}

#[tokio::test]
async fn a_server_that_fails_on_discover_in_any_way_is_spoken_to_with_initialize() {
    let doors = [
        RequestFault::Slams,
        RequestFault::Hangs,
        RequestFault::html(),
        answers(404),
        answers(500),
        RequestFault::redirect(302, "/login"),
    ];
    let servers = join_all(doors.iter().enumerate().map(async |(number, door)| {
        let faulty = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo(&format!("t{number}"))]).await;
        faulty.behave(|it| it.discover = door.clone());
        faulty
    }))
    .await;
    let stack = Stack::ready(servers.iter().enumerate().map(|(number, it)| server(&format!("s{number}"), it))).await;
    for (number, door) in doors.iter().enumerate() {
        assert_eq!(stack.call(&format!("t{number}")).await.status, 200, "{door:?}");
        assert_eq!(stack.server(&format!("s{number}")).await["protocol_version"], "2025-11-25");
    }
}

#[tokio::test]
async fn a_server_that_is_modern_only_in_name_is_spoken_to_with_initialize_and_remembered() {
    for in_name in [InName::Yes, InName::Lists] {
        let mut faulty = Faulty::start(FaultyMode::Streamable).await;
        faulty.behave(|it| it.in_name = in_name);
        let stack = Stack::ready([server("a", &faulty)]).await;
        assert_eq!(stack.call("echo").await.status, 200, "{in_name:?}");
        assert_eq!(stack.server("a").await["protocol_version"], "2025-11-25", "{in_name:?}");
        let before = faulty.seen();
        // The second, if there is one, checks what the list of tools said of a session.
        assert!((1..=2).contains(&before.discovers) && before.calls == 1, "{in_name:?} {}", before.discovers);
        // Not even an attempt that fails makes the detour again.
        faulty.behave(|it| (it.in_name, it.post) = (in_name, answers(503)));
        faulty.kill().await;
        faulty.restart().await;
        stack.until("a", "refused", |it| it["last_error"].as_str().unwrap_or_default().contains("503")).await;
        faulty.behave(|it| it.post = RequestFault::Open);
        stack.connected("a").await;
        stack.works("echo").await;
        assert_eq!(faulty.seen().discovers, before.discovers, "{in_name:?}");
        // One that becomes what it says is spoken to as such.
        faulty.replace(FaultyMode::Modern).await;
        wait_for("the newer revision", STATE_DEADLINE, || async {
            // Calls find out that another server has taken its place.
            stack.call("echo").await;
            let state = stack.server("a").await;
            let is_there = state["protocol_version"] == "2026-07-28" && state["connected"] == true;
            if is_there { Ok(()) } else { Err(state) }
        })
        .await;
        stack.works("echo").await;
    }
}

#[tokio::test]
async fn a_redirect_within_the_origin_is_followed_once_for_each_session() {
    for status in [307, 308] {
        let faulty = Faulty::start(FaultyMode::Streamable).await;
        faulty.behave(|it| it.moved = Some(status));
        let stack = Stack::ready([server("a", &faulty)]).await;
        for _ in 0..5 {
            assert_eq!(stack.call("echo").await.status, 200, "{status}");
        }
        let seen = faulty.seen();
        let old: Vec<_> = seen.requests.iter().filter(|request| request.target == "/mcp").collect();
        assert_eq!(old.len(), 2, "of server/discover and of initialize: {old:?}");
        assert!(seen.of("tools/call").iter().all(|request| request.target == "/mcp/"));
    }
}

#[tokio::test]
async fn a_session_whose_handshake_fails_is_not_left_behind() {
    let one = async |init: ProtocolFault| {
        let faulty = Faulty::start(FaultyMode::Streamable).await;
        faulty.behave(|it| it.init = init.clone());
        let _stack = Stack::start([server("a", &faulty).with("transport", json!("streamable-http"))]).await;
        wait_for("the end of each session", STATE_DEADLINE, || async {
            let seen = faulty.seen();
            if seen.initializes > 1 && seen.deleted == seen.initializes {
                Ok(())
            } else {
                Err((init.clone(), seen.deleted))
            }
        })
        .await;
    };
    tokio::join!(
        one(ProtocolFault::Result(r#"{"protocolVersion":"another","capabilities":{}}"#.into())),
        one(ProtocolFault::Result(r#""nothing""#.into())),
        one(ProtocolFault::Error(r#"{"code":-1,"message":"no"}"#.into())),
    );
}

//! Faulty servers are honest by default, in all three modes.

use std::time::Duration;

use portcullis_e2e::faulty::{AnswerForm, Faulty, FaultyMode, Tool, invalid_tools};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, sse};

use crate::client::{
    INITIALIZE, INITIALIZED, LIMIT, LIST, SseClient, call, code, echoed, modern, names, session, within,
};

/// Spaces, member order, a big integer and duplicate keys: all must survive.
const ODD: &str = r#"{ "z":1.10,"a": 12345678901234567890123, "z":"\u00fc" }"#;

#[tokio::test]
async fn an_sse_server_initializes_lists_and_echoes_bytes() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let mut client = SseClient::open(&server).await;
    assert!(client.ask(INITIALIZE).await.contains(r#""protocolVersion":"2025-06-18""#));
    client.send(INITIALIZED).await;
    assert_eq!(names(&client.ask(LIST).await), ["echo"]);
    assert_eq!(client.ask(&call("3", "echo", ODD)).await, echoed("3", ODD));
    assert_eq!(client.ask(&call(r#""x""#, "echo", "{}")).await, echoed(r#""x""#, "{}"));
    assert!(client.ask(&call("4", "nobody", "{}")).await.contains("-32602"));
    assert!(client.ask(r#"{"jsonrpc":"2.0","id":5,"method":"server/discover"}"#).await.contains("-32601"));
    let seen = server.seen();
    let counts = [seen.initializes, seen.initialized, seen.lists, seen.calls, seen.streams];
    assert_eq!((counts, seen.ids("tools/call")), ([1, 1, 1, 3, 1], vec!["3".into(), r#""x""#.into(), "4".into()]));
}

#[tokio::test]
async fn a_streamable_server_keeps_sessions_and_echoes_bytes() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let probe = r#"{"jsonrpc":"2.0","id":0,"method":"server/discover"}"#;
    let refused = http::post(&server.url(), probe).send().await.expect("an answer");
    assert_eq!((refused.status, code(&refused)), (400, -32000));
    let session = session(&server).await;
    let accepted = within(&server, &session, INITIALIZED).send().await.expect("an answer");
    assert_eq!((accepted.status, accepted.text()), (202, ""));
    let listed = within(&server, &session, LIST).send().await.expect("an answer");
    assert_eq!(names(listed.text()), ["echo"]);
    let called = within(&server, &session, &call("3", "echo", ODD)).send().await.expect("an answer");
    assert_eq!((called.header("content-type"), called.text()), ("application/json", echoed("3", ODD).as_str()));
    assert_eq!(server.seen().last_arguments().as_deref(), Some(ODD));
    let deleted = http::request(http_method("DELETE"), &server.url()).header("mcp-session-id", &session).send().await;
    assert_eq!(deleted.expect("an answer").status, 200);
    assert_eq!(within(&server, &session, LIST).send().await.expect("an answer").status, 404);
}

#[tokio::test]
async fn a_streamable_server_answers_as_json_or_as_events() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let session = session(&server).await;
    server.behave(|it| it.form = AnswerForm::Sse);
    let mut events = sse::open(within(&server, &session, &call("3", "echo", "{}"))).await.expect("events");
    assert_eq!(events.next(LIMIT).await.expect("an event").expect("not the end").data, echoed("3", "{}"));
    assert_eq!(events.next(LIMIT).await.expect("the end"), None);
}

#[tokio::test]
async fn a_modern_server_discovers_lists_calls_and_listens() {
    let server = Faulty::start(FaultyMode::Modern).await;
    let found = modern(&server, "server/discover", "", "").send().await.expect("an answer").json();
    assert_eq!(found["result"]["supportedVersions"], serde_json::json!(["2026-07-28"]));
    let listed = modern(&server, "tools/list", "", "").send().await.expect("an answer");
    assert_eq!(
        (names(listed.text()), &listed.json()["result"]["resultType"]),
        (vec!["echo".into()], &"complete".into())
    );
    for name in ["echo", "=?base64?ZWNobw==?="] {
        let called = modern(&server, "tools/call", name, r#","name":"echo","arguments":{"a":1}"#).send().await;
        let text = called.expect("an answer").json()["result"]["content"][0]["text"].clone();
        assert_eq!(text, r#"{"a":1}"#);
    }
    let mut events =
        sse::open(modern(&server, "subscriptions/listen", "", r#","notifications":{"toolsListChanged":true}"#))
            .await
            .expect("events");
    let first = events.next(LIMIT).await.expect("an event").expect("not the end").data;
    assert!(first.contains("notifications/subscriptions/acknowledged"), "{first}");
    wait_for("the subscription", LIMIT, async || server.open_streams() == 1).await;
    server.announce().await;
    let second = events.next(LIMIT).await.expect("an event").expect("not the end").data;
    assert!(second.contains(r#""io.modelcontextprotocol/subscriptionId":5"#), "{second}");
}

#[tokio::test]
async fn a_modern_server_refuses_what_the_specification_says() {
    let server = Faulty::start(FaultyMode::Modern).await;
    let post = |body: &str| http::post(&server.url(), body.to_owned()).header("mcp-protocol-version", "2026-07-28");
    let old = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"1999-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let ok = old.replace("1999-01-01", "2026-07-28");
    let table = [
        ("no _meta", post(LIST), 400, -32602),
        ("initialize", modern(&server, "initialize", "", ""), 404, -32601),
        ("unknown", modern(&server, "tools/dance", "", ""), 404, -32601),
        ("no Mcp-Name", modern(&server, "tools/call", "", r#","name":"echo""#), 400, -32020),
        ("wrong Mcp-Name", modern(&server, "tools/call", "ohce", r#","name":"echo""#), 400, -32020),
        ("wrong Mcp-Method", post(&ok).header("mcp-method", "tools/call"), 400, -32020),
        ("other version in header", post(old).header("mcp-method", "tools/list"), 400, -32020),
        (
            "old version",
            http::post(&server.url(), old)
                .header("mcp-protocol-version", "1999-01-01")
                .header("mcp-method", "tools/list"),
            400,
            -32022,
        ),
        ("no JSON", post("{"), 400, -32700),
    ];
    let refusals = table.len() as u64 - 1;
    for (what, request, status, wanted) in table {
        let answer = request.send().await.expect("an answer");
        assert_eq!((answer.status, code(&answer)), (status, wanted), "{what}");
    }
    assert_eq!(server.seen().refused, refusals);
    assert_eq!(http::get(&server.url()).send().await.expect("an answer").status, 405);
}

#[tokio::test]
async fn tools_are_listed_and_answered_byte_for_byte() {
    let odd = r#"{ "content": [], "x-vendor": 1.10, "big": 12345678901234567890123 }"#;
    let tools = vec![
        Tool::result("odd", odd)
            .schema(r#"{ "type":"object" }"#)
            .annotated(r#"{"readOnlyHint":true}"#)
            .with(r#""x":1.0"#),
        Tool::failing("failing", "no"),
        Tool::error("error", -32050, "\"no\""),
        Tool::big("big", 1000),
    ];
    let server = Faulty::with_tools(FaultyMode::Sse, tools).await;
    let mut client = SseClient::open(&server).await;
    let listed = client.ask(LIST).await;
    assert!(
        listed.contains(
            r#"{"name":"odd","inputSchema":{ "type":"object" },"annotations":{"readOnlyHint":true},"x":1.0}"#
        )
    );
    assert_eq!(client.ask(&call("1", "odd", "{}")).await, format!(r#"{{"jsonrpc":"2.0","id":1,"result":{odd}}}"#));
    assert!(client.ask(&call("2", "failing", "{}")).await.contains(r#""isError":true"#));
    assert!(client.ask(&call("3", "error", "{}")).await.contains(r#""error":{"code":-32050,"message":"\"no\""}"#));
    assert!(client.ask(&call("4", "big", "{}")).await.contains(&"x".repeat(1000)));
    server.set_tools(invalid_tools());
    assert!(names(&client.ask(LIST).await).ends_with(&["fine".to_owned()]));
}

#[tokio::test]
async fn progress_comes_in_order_before_the_answer() {
    let slow = || Tool::text("slow", "done").takes(Duration::from_millis(100)).reports(Duration::from_millis(15));
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let server = Faulty::with_tools(mode, vec![slow()]).await;
        let mut events = match mode {
            FaultyMode::Sse => {
                let client = SseClient::open(&server).await;
                client.send(&call("1", "slow", "{}")).await;
                client.events
            }
            _ => sse::open(within(&server, &session(&server).await, &call("1", "slow", "{}"))).await.expect("events"),
        };
        let mut progress = 0;
        loop {
            let data = events.next(LIMIT).await.expect("an event").expect("not the end").data;
            if data.contains(r#""result""#) {
                break;
            }
            progress += 1;
            assert!(data.contains(&format!(r#""progressToken":"t1","progress":{progress}}}"#)), "{data}");
        }
        assert!(progress >= 1, "{mode:?}");
    }
}

#[tokio::test]
async fn a_cancelled_call_is_never_answered() {
    let tools = || vec![Tool::text("slow", "done").takes(LIMIT), Tool::echo("echo")];
    let server = Faulty::with_tools(FaultyMode::Sse, tools()).await;
    let mut client = SseClient::open(&server).await;
    client.send(&call("7", "slow", "{}")).await;
    wait_for("the call", LIMIT, async || server.running() == 1).await;
    client.send(r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#).await;
    wait_for("its end", LIMIT, async || server.running() == 0).await;
    assert_eq!(client.ask(&call("8", "echo", "{}")).await, echoed("8", "{}"));
    assert_eq!((server.seen().cancelled, server.seen().abandoned), (vec!["7".into()], 0));
}

#[tokio::test]
async fn a_caller_who_leaves_is_seen_in_every_mode() {
    for (mode, form) in [
        (FaultyMode::Sse, AnswerForm::Auto),
        (FaultyMode::Streamable, AnswerForm::Json),
        (FaultyMode::Streamable, AnswerForm::Sse),
    ] {
        let server = Faulty::with_tools(mode, vec![Tool::text("slow", "done").takes(LIMIT)]).await;
        server.behave(|it| it.form = form);
        let message = call("7", "slow", "{}");
        if mode == FaultyMode::Sse {
            let client = SseClient::open(&server).await;
            client.send(&message).await;
            wait_for("the call", LIMIT, async || server.running() == 1).await;
        } else {
            let request = within(&server, &session(&server).await, &message).open();
            let request = tokio::time::timeout(Duration::from_millis(100), request).await;
            assert_eq!(request.is_ok(), form == AnswerForm::Sse);
        }
        wait_for("the caller's end", LIMIT, async || server.seen().abandoned == 1).await;
        assert_eq!(server.running(), 0);
    }
}

fn http_method(name: &str) -> ::http::Method {
    name.parse().expect("a method")
}

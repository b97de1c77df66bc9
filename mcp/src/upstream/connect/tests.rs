//! Handshakes with scripted servers.

mod kit;

use std::sync::Mutex;

use tokio::net::TcpListener;
use tokio::time::Instant;

use self::kit::*;
use super::handshake::LegacyTasks;
use super::*;

#[tokio::test]
async fn whatever_a_server_does_on_discover_it_is_asked_to_initialize_next() {
    let discovers = [
        Does::Closes,
        Does::Resets,
        Does::Hangs,
        Does::Writes("no HTTP at all"),
        Does::Writes("HTTP/1.1 200 OK\r\ncontent-type: appl"),
        Does::Writes("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{"),
        Does::Answers(200, "content-type: text/html\r\n", "<html>".into()),
        Does::Answers(200, "content-type: application/json\r\ncontent-encoding: gzip\r\n", "x".into()),
        Does::Answers(200, "", String::new()),
        Does::Answers(202, "", String::new()),
        Does::Answers(204, "", String::new()),
        answers(200, "[]"),
        answers(200, r#"{"jsonrpc":"2.0","id":ID,"result":7}"#),
        answers(200, r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#),
        answers(200, r#"{"jsonrpc":"2.0","id":ID,"error":{}}"#),
        offers(r#""2025-11-25""#),
        offers(""),
        error(200, -32601, r#""message":"Method not found""#),
        error(400, -32022, r#""message":"Unsupported protocol version","data":{"supported":["2025-11-25"]}"#),
        redirects(302, "/login"),
        redirects(307, "https://elsewhere.example/"),
        Does::Streams(": nothing\n\n"),
    ];
    let statuses = [400, 401, 403, 404, 405, 415, 429, 500, 501, 502, 503, 504].map(|status| answers(status, ""));
    for does in discovers.into_iter().chain(statuses) {
        let on_discover = does.clone();
        let server = scripted(move |method, _, _| match method {
            "server/discover" => on_discover.clone(),
            "initialize" => welcome("2025-11-25"),
            _ => answers(202, ""),
        });
        let server = server.await;
        let began = Instant::now();
        let connected = server.connect().await.map_err(|error| error.to_string());
        let found = connected.map(|it| (it.spoken, it.version));
        assert_eq!(found, Ok((Spoken::Streamable, "2025-11-25".to_owned())), "{does:?}");
        assert!(began.elapsed() < 3 * STEP, "{does:?}");
    }
}

#[tokio::test]
async fn where_nothing_listens_nothing_else_is_tried() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let failed = connect(&target(port), None, &Arc::default()).await.err();
    assert_eq!(failed, Some(ConnectError::Unreachable("connection refused")));
}

#[tokio::test]
async fn a_server_that_hangs_up_on_everything_is_told_apart_from_one_that_is_not_there() {
    for does in [Does::Closes, Does::Resets, Does::Writes("no HTTP at all")] {
        let server = scripted(move |_, _, _| does.clone()).await;
        assert_eq!(server.fails().await, "ends the connection without an answer to initialize");
        assert_eq!(
            server.asked(),
            ["server/discover", "initialize", "GET"].map(|it| format!("{it} /mcp?key=query-secret"))
        );
    }
}

#[tokio::test]
async fn the_reason_is_that_of_the_attempt_that_came_furthest() {
    let refused = || error(400, -32602, r#""message":"the tenant is unknown""#);
    let unauthorized = "refuses the gateway's credentials (HTTP status 401): check spec.headers";
    let page = || Does::Answers(200, "content-type: text/html\r\n", String::new());
    for (discover, initialize, get, expected) in [
        (answers(404, ""), answers(404, ""), Does::Streams(""), "does not answer: no endpoint event in time"),
        (answers(404, ""), answers(404, ""), answers(401, ""), unauthorized),
        (
            answers(404, ""),
            answers(500, ""),
            answers(405, ""),
            "answers with HTTP status 500: check the URL and the transport",
        ),
        (
            answers(404, ""),
            page(),
            answers(405, ""),
            "does not speak MCP at this URL: it is neither JSON nor an event stream",
        ),
        (Does::Closes, Does::Closes, answers(405, ""), "answers with HTTP status 405: check the URL and the transport"),
        (Does::Hangs, Does::Hangs, Does::Hangs, "does not answer: no answer to initialize in time"),
        (answers(401, ""), answers(404, ""), answers(404, ""), unauthorized),
        (
            answers(404, ""),
            refused(),
            answers(405, ""),
            "refuses the handshake (JSON-RPC error -32602, with HTTP status 400)",
        ),
        (
            offers(r#""2030-01-01""#),
            answers(404, ""),
            answers(404, ""),
            "does not speak protocol version 2026-07-28, it offers 2030-01-01: spec.protocolVersion can be 2024-11-05, \
             2025-03-26, 2025-06-18, 2025-11-25, 2026-07-28",
        ),
        (offers(r#""2025-11-25""#), answers(404, ""), answers(401, ""), unauthorized),
        (
            Does::Closes,
            Does::Closes,
            Does::Streams("event: endpoint\ndata: http://elsewhere.example/\n\n"),
            "names an unusable endpoint for messages: its origin differs from that of the stream",
        ),
    ] {
        let what = format!("{discover:?} {initialize:?} {get:?}");
        let server = scripted(move |method, _, _| match method {
            "server/discover" => discover.clone(),
            "initialize" => initialize.clone(),
            _ => get.clone(),
        });
        assert_eq!(server.await.fails().await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_server_that_refuses_the_newest_revision_is_asked_for_one_that_it_names() {
    for (status, refusal) in [
        (
            200,
            r#""message":"Unsupported protocol version","data":{"supported":["2024-11-05","2025-03-26"],"requested":"2025-11-25"}"#,
        ),
        (
            400,
            r#""message":"Bad Request: Unsupported protocol version 2025-11-25 (supported: 2025-03-26, 2024-11-05)""#,
        ),
        (500, r#""message":"protocolVersion must be one of ['2025-03-26']","data":null"#),
    ] {
        let server = scripted(move |method, _, body| match method {
            "server/discover" => answers(404, ""),
            "initialize" if body["params"]["protocolVersion"] == "2025-03-26" => welcome("2025-03-26"),
            "initialize" => error(status, -32602, refusal),
            _ => answers(202, ""),
        });
        let server = server.await;
        let version = server.connect().await.map(|it| it.version).map_err(|error| error.to_string());
        assert_eq!(version, Ok("2025-03-26".to_owned()), "{refusal}");
        let seen = server.seen.lock().unwrap();
        assert_eq!(seen.iter().filter(|(method, ..)| method == "initialize").count(), 2);
        assert_eq!(seen.last().unwrap().2["mcp-protocol-version"], "2025-03-26");
    }
}

#[tokio::test]
async fn a_version_that_is_refused_names_the_setting_and_what_the_server_offers() {
    let unsupported = r#""message":"Unsupported protocol version""#;
    for (pinned, does, expected) in [
        (
            Some("2025-06-18"),
            welcome("2025-03-26"),
            "does not speak protocol version 2025-06-18, it offers 2025-03-26: set spec.protocolVersion to 2025-03-26, or \
             leave it out",
        ),
        (
            Some("2025-06-18"),
            error(200, -32602, r#""message":"Unsupported protocol version","data":{"supported":["2024-11-05"]}"#),
            "refuses protocol version 2025-06-18 (JSON-RPC error -32602), it offers 2024-11-05: set spec.protocolVersion to 2024-11-05, or leave it out",
        ),
        (
            None,
            error(400, -32602, unsupported),
            "refuses protocol version 2025-11-25 (JSON-RPC error -32602, with HTTP status 400): set spec.protocolVersion to a version that it speaks",
        ),
        (
            None,
            welcome("2024-10-07"),
            "does not speak protocol version 2025-11-25, it offers 2024-10-07: spec.protocolVersion can be 2024-11-05, \
             2025-03-26, 2025-06-18, 2025-11-25, 2026-07-28",
        ),
        (
            Some(MODERN),
            error(404, -32601, r#""message":"Method not found""#),
            "refuses protocol version 2026-07-28 (JSON-RPC error -32601): set spec.protocolVersion to a \
             version that it speaks, or leave it out",
        ),
        (
            Some(MODERN),
            offers(r#""2025-11-25""#),
            "does not speak protocol version 2026-07-28, it offers 2025-11-25: set spec.protocolVersion to 2025-11-25, or \
             leave it out",
        ),
    ] {
        let server = scripted(move |method, _, _| match method {
            "server/discover" if pinned != Some(MODERN) => answers(404, ""),
            "server/discover" | "initialize" => does.clone(),
            _ => answers(405, ""),
        });
        let mut server = server.await;
        server.target.pinned = pinned.map(str::to_owned);
        assert_eq!(server.fails().await, expected);
    }
}

#[tokio::test]
async fn a_refusal_tells_code_and_status_and_never_the_servers_words() {
    for (status, expected) in [
        (401, "refuses the gateway's credentials (HTTP status 401, JSON-RPC error -32001): check spec.headers"),
        (500, "refuses the handshake (JSON-RPC error -32001, with HTTP status 500)"),
        (200, "refuses the handshake (JSON-RPC error -32001)"),
    ] {
        let does = error(status, -32001, r#""message":"no tenant for key query-secret""#);
        let server = scripted(move |method, _, _| if method == "initialize" { does.clone() } else { answers(405, "") });
        assert_eq!(server.await.fails().await, expected);
    }
}

#[tokio::test]
async fn a_refusal_is_read_from_an_event_stream_too_whether_it_ends_or_not() {
    let refusal = r#"data: {"jsonrpc":"2.0","id":ID,"error":{"code":-32001,"message":"no tenant"}}"#;
    let notification = r#"data: {"jsonrpc":"2.0","method":"notifications/message","params":{}}"#;
    let credentials =
        |said: &str| format!("refuses the gateway's credentials (HTTP status 401{said}): check spec.headers");
    let handshake = "refuses the handshake (JSON-RPC error -32001, with HTTP status 400)".to_owned();
    let status = "answers with HTTP status 400: check the URL and the transport".to_owned();
    // No event ends in time, so the next transport is tried.
    let tried_next = "answers with HTTP status 405: check the URL and the transport".to_owned();
    let ends = |status, text: String| Does::Answers(status, "content-type: text/event-stream\r\n", text);
    let too_long = format!("{}{refusal}\n\n", ": x\n".repeat(17 * 1024));
    for (does, expected) in [
        (ends(400, format!("{refusal}\n\n")), handshake.clone()),
        (ends(400, format!(": hello\r\n\r\nevent: message\r\n{refusal}")), handshake.clone()),
        (Does::Refuses(400, format!("{refusal}\n\n")), handshake.clone()),
        (Does::Refuses(400, format!("{notification}\n\n{refusal}\n\n")), handshake),
        (ends(401, format!("{refusal}\n\n")), credentials(", JSON-RPC error -32001")),
        (ends(401, String::new()), credentials("")),
        (ends(400, format!("{notification}\n\n")), status.clone()),
        (ends(400, too_long.clone()), status.clone()),
        (Does::Refuses(400, too_long), status),
        (Does::Refuses(400, format!("{refusal}\n")), tried_next),
    ] {
        let shown = format!("{does:?}");
        let server = scripted(move |method, _, _| if method == "initialize" { does.clone() } else { answers(405, "") });
        assert_eq!(server.await.fails().await, expected, "{}", &shown[..shown.len().min(200)]);
    }
}

#[tokio::test]
async fn refused_credentials_are_told_with_their_status_once() {
    const HEADERS: [&str; 2] = [
        "content-type: application/json\r\n",
        "content-type: application/json\r\nwww-authenticate: Bearer error=\"invalid_token\", scope=\"query-secret\"\r\n",
    ];
    let with_code = r#"{"jsonrpc":"2.0","id":ID,"error":{"code":-32001,"message":"no"}}"#;
    for status in [401, 403] {
        for headers in HEADERS {
            for (body, said) in [("", ""), ("no key", ""), (with_code, ", JSON-RPC error -32001")] {
                let does = Does::Answers(status, headers, body.to_owned());
                let server = scripted(move |_, _, _| does.clone());
                let expected =
                    format!("refuses the gateway's credentials (HTTP status {status}{said}): check spec.headers");
                assert_eq!(server.await.fails().await, expected, "{headers}{body}");
            }
        }
    }
}

#[tokio::test]
async fn a_307_or_308_within_the_origin_is_followed_once_and_remembered() {
    for status in [307, 308] {
        let server = scripted(move |method, path, _| match (method, path) {
            (_, "/mcp?key=query-secret") => redirects(status, "/mcp/?key=query-secret"),
            ("initialize", _) => welcome("2025-11-25"),
            ("ping", _) => answers(200, r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#),
            ("server/discover", _) => answers(404, ""),
            _ => answers(202, ""),
        });
        let server = server.await;
        let connected = server.connect().await.map_err(|error| error.to_string()).unwrap();
        let none = HeaderMap::new();
        let ping = Call::of_our_own("ping", &[], &none);
        assert!(connected.session.call(&ping, &Arc::new(Timing::new(STEP))).await.is_ok());
        connected.session.close().await;
        let (before, after) = ("/mcp?key=query-secret", "/mcp/?key=query-secret");
        let expected = [
            ("server/discover", before),
            ("server/discover", after),
            ("initialize", before),
            ("initialize", after),
            ("notifications/initialized", after),
            ("ping", after),
            ("DELETE", after),
        ];
        assert_eq!(server.asked(), expected.map(|(method, path)| format!("{method} {path}")));
        let seen = server.seen.lock().unwrap();
        assert_eq!(seen[2].3, seen[3].3, "the body is kept");
        assert!(seen.iter().all(|(_, _, headers, _)| headers["authorization"] == "Bearer s3cret-token"));
    }
}

#[tokio::test]
async fn what_may_be_repeated_goes_on_a_new_connection_where_the_one_in_use_closes_unanswered() {
    for (repeatable, failures, expected, calls) in
        [(true, 1, Ok(()), 3), (true, 2, Err(CallError::Lost), 3), (false, 1, Err(CallError::Lost), 2)]
    {
        for does in [Does::Closes, Does::Resets] {
            let left = Arc::new(Mutex::new(0));
            let fails = left.clone();
            let failing = does.clone();
            let server = scripted(move |method, _, _| match method {
                "initialize" => welcome("2025-11-25"),
                "server/discover" => answers(404, ""),
                "notifications/initialized" => answers(202, ""),
                _ if is_left(&fails) => failing.clone(),
                _ => answers(200, r#"{"jsonrpc":"2.0","id":ID,"result":{}}"#),
            });
            let server = server.await;
            let session = server.connect().await.map_err(|error| error.to_string()).unwrap().session;
            let none = HeaderMap::new();
            let call = Call { repeatable, ..Call::of_our_own("tools/call", &[], &none) };
            let called = async || session.call(&call, &Arc::new(Timing::new(STEP))).await.map(drop);
            assert_eq!(called().await, Ok(()));
            *left.lock().unwrap() = failures;
            assert_eq!(called().await, expected, "{does:?}");
            let made = server.asked().iter().filter(|asked| asked.starts_with("tools/call")).count();
            assert_eq!(made, calls, "{does:?}");
        }
    }
}

#[tokio::test]
async fn a_redirected_event_stream_is_followed_and_its_endpoint_is_relative_to_where_it_is() {
    let server = scripted(|method, path, _| match (method, path) {
        ("GET", "/mcp?key=query-secret") => redirects(307, "/mcp/"),
        ("GET", "/mcp/") => Does::Streams("event: endpoint\ndata: messages\n\n"),
        ("initialize", "/mcp/messages") => redirects(308, "/mcp/messages/"),
        _ => answers(405, ""),
    });
    let mut server = server.await;
    server.target.transport = Transport::Sse;
    // The script sends no answer on a stream.
    assert_eq!(server.fails().await, "answers with HTTP status 405: check the URL and the transport");
    let expected = ["GET /mcp?key=query-secret", "GET /mcp/", "initialize /mcp/messages", "initialize /mcp/messages/"];
    assert_eq!(server.asked(), expected);
}

#[tokio::test]
async fn all_other_redirects_are_refused_and_say_where_to_and_what_to_write() {
    let elsewhere = scripted(|_, _, _| welcome("2025-11-25")).await;
    let other = format!("http://127.0.0.1:{}/mcp?key=1", elsewhere.target.url.port().unwrap());
    let other: &'static str = other.leak();
    for (status, location, shown) in [
        (301, "/mcp/", "http://HERE/mcp/"),
        (302, "/login?next=x", "http://HERE/login"),
        (303, "/mcp/", "http://HERE/mcp/"),
        (307, other, other.split('?').next().unwrap()),
        (308, other, other.split('?').next().unwrap()),
        (308, "https://127.0.0.1/mcp", "https://127.0.0.1/mcp"),
        (307, "/mcp?key=query-secret", "http://HERE/mcp"),
        (308, "/again", "http://HERE/again"),
    ] {
        for transport in [Transport::Auto, Transport::StreamableHttp, Transport::Sse] {
            let mut server = scripted(move |_, _, _| redirects(status, location)).await;
            server.target.transport = transport;
            let shown = shown.replace("HERE", server.target.pool.authority().to_str().unwrap());
            let expected = format!(
                "redirects to {shown} (HTTP status {status}), where the gateway does not follow: if that is the server, write \
                 it as spec.url, or its path as spec.service.path"
            );
            assert_eq!(server.fails().await, expected, "{status} {location} {transport:?}");
        }
    }
    assert_eq!(elsewhere.asked(), [""; 0]);
}

#[test]
fn an_endpoint_must_have_the_origin_of_the_stream() {
    let stream = Url::parse("http://server:8080/a/sse").unwrap();
    let cases: [(&str, Option<&str>); 12] = [
        ("/message?sessionId=1", Some("/message?sessionId=1")),
        ("message?s=1", Some("/a/message?s=1")),
        ("?s=1", Some("/a/sse?s=1")),
        ("http://server:8080/m", Some("/m")),
        ("HTTP://SERVER:8080/m", Some("/m")),
        ("http://server:8081/m", None),
        ("https://server:8080/m", None),
        ("//evil.example/m", None),
        ("http://169.254.169.254/latest", None),
        ("http://user@server:8080/m", None),
        ("http://server:8080@evil/m", None),
        ("http://[", None),
    ];
    for (text, expected) in cases {
        let found = endpoint_in(&stream, text.as_bytes()).ok().map(|uri| uri.to_string());
        assert_eq!(found.as_deref(), expected, "{text}");
    }
    assert!(endpoint_in(&stream, &[b'a'; 3000]).is_err());
    assert!(endpoint_in(&stream, b"/\xff").is_err());
}

#[test]
fn capabilities_are_what_the_handshake_says_whatever_else_it_holds() {
    let read = |text: &str| serde_json::from_str::<Handshake>(text).unwrap().capabilities.read();
    let all = r#"{"capabilities":{"tools":{"listChanged":true},"prompts":{"listChanged":true},"logging":{},
        "resources":{"listChanged":true,"subscribe":true},"completions":{},"experimental":{"x":{}}}}"#;
    let expected = ServerCapabilities {
        tools: true,
        prompts: true,
        resources: true,
        resources_subscribe: true,
        completions: true,
        logging: true,
        announces_tools: true,
        announces_prompts: true,
        announces_resources: true,
        legacy_tasks: None,
    };
    assert_eq!(read(all), expected);
    let odd = r#"{"capabilities":{"tools":{"listChanged":"yes"},"prompts":null,"resources":7,"logging":{}}}"#;
    let expected = ServerCapabilities { tools: true, resources: true, logging: true, ..Default::default() };
    assert_eq!(read(odd), expected);
    assert_eq!(read("{}"), ServerCapabilities::default());
    for (tasks, expected) in [
        (r#"{"list":{},"cancel":{},"requests":{"tools":{"call":{}}}}"#, Some(LegacyTasks { list: true, cancel: true })),
        (r#"{"cancel":{},"requests":{"tools":{"call":{}}}}"#, Some(LegacyTasks { list: false, cancel: true })),
        (r#"{"list":{},"requests":{}}"#, None),
        ("true", None),
    ] {
        let found = read(&format!(r#"{{"capabilities":{{"tasks":{tasks}}}}}"#)).legacy_tasks;
        assert_eq!(found, expected, "{tasks}");
        assert!(found.is_none_or(|found| found.to_json() == tasks), "{tasks}");
    }
}

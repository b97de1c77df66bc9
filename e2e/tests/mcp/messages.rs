//! Good and bad messages, and their permitted senders.

use http::Method;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{TestGateway, options};
use portcullis_e2e::{http as client, token};
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::kit::{error_of, initialize, initialize_text, message, modern, send};

pub(crate) async fn start() -> (TestGateway, Faulty) {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    (gateway, server)
}

#[tokio::test]
async fn every_error_has_its_code_and_its_status_and_the_id_of_its_request() {
    let (gateway, server) = start().await;
    let request = |members: &str| format!(r#"{{"jsonrpc":"2.0","id":"x",{members}}}"#);
    for (text, status, code, id) in [
        ("nonsense".to_owned(), 400, -32700, Value::Null),
        ("[".into(), 400, -32700, Value::Null),
        ("7".into(), 400, -32600, Value::Null),
        ("[]".into(), 400, -32600, Value::Null),
        (r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#.into(), 400, -32600, json!(1)),
        (r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#.into(), 400, -32600, Value::Null),
        (r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#.into(), 400, -32600, Value::Null),
        (request(r#""method":7"#), 400, -32600, json!("x")),
        (request(r#""method":"ping","params":[]"#), 400, -32600, json!("x")),
        (request(r#""method":"nope""#), 200, -32601, json!("x")),
        (request(r#""method":"server/discover""#), 200, -32601, json!("x")),
        (request(r#""method":"initialize","params":{}"#), 200, -32602, json!("x")),
        (
            request(r#""method":"initialize","params":{"protocolVersion":"1","capabilities":[]}"#),
            200,
            -32602,
            json!("x"),
        ),
        (request(r#""method":"tools/list","params":{"cursor":"?"}"#), 200, -32602, json!("x")),
        (request(r#""method":"tools/list","params":{"cursor":7}"#), 200, -32602, json!("x")),
        (request(r#""method":"tools/call""#), 200, -32602, json!("x")),
        (request(r#""method":"tools/call","params":{"name":7}"#), 200, -32602, json!("x")),
        (request(r#""method":"tools/call","params":{"name":"nobody"}"#), 200, -32602, json!("x")),
        (request(r#""method":"prompts/get","params":{"name":"nobody"}"#), 200, -32602, json!("x")),
        (request(r#""method":"resources/read","params":{"uri":"no:where"}"#), 200, -32002, json!("x")),
        (request(r#""method":"completion/complete","params":{}"#), 200, -32602, json!("x")),
        (request(r#""method":"logging/setLevel","params":{"level":"loud"}"#), 200, -32602, json!("x")),
        (
            request(r#""method":"tools/call","params":{"name":"echo","_meta":{"progressToken":{}}}"#),
            200,
            -32602,
            json!("x"),
        ),
    ] {
        assert_eq!(error_of(&send(&gateway, text.clone()).await), (status, code, id), "{text}");
    }
    assert_eq!(server.seen().calls, 0, "no refused call reached the server");
}

#[tokio::test]
async fn a_modern_client_is_told_what_differs_between_headers_and_body() {
    let (gateway, server) = start().await;
    let call = |name: Option<&str>| {
        modern(&gateway, "/mcp", "tools/call", name, r#""name":"echo","arguments":{"message":"m"}"#)
    };
    assert_eq!(call(Some("echo")).send().await.unwrap().json()["result"]["content"][0]["text"], r#"{"message":"m"}"#);
    for (name, code) in [(None, -32020), (Some("other"), -32020), (Some("=?base64?b3RoZXI=?="), -32020)] {
        assert_eq!(error_of(&call(name).send().await.unwrap()), (400, code, json!(1)), "{name:?}");
    }
    assert_eq!(call(Some("=?base64?ZWNobw==?=")).send().await.unwrap().status, 200);
    let unknown = modern(&gateway, "/mcp", "tasks/list", None, "").send().await.unwrap();
    assert_eq!(error_of(&unknown), (404, -32601, json!(1)));
    let ping = modern(&gateway, "/mcp", "ping", None, "").send().await.unwrap();
    assert_eq!(error_of(&ping), (404, -32601, json!(1)), "there is no ping since 2026-07-28");
    let without = message(&gateway, r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#);
    let without = without.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "tools/list");
    assert_eq!(error_of(&without.send().await.unwrap()), (400, -32602, json!(1)));
    let newer = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":"2030-01-01","io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    let newer =
        message(&gateway, newer).header("mcp-protocol-version", "2030-01-01").header("mcp-method", "tools/list");
    let newer = newer.send().await.unwrap();
    assert_eq!(error_of(&newer), (400, -32022, json!(1)));
    assert_eq!(newer.json()["error"]["data"], json!({"supported": ["2026-07-28"], "requested": "2030-01-01"}));
    assert_eq!(server.seen().calls, 2);
}

#[tokio::test]
async fn ids_come_back_as_they_came_whatever_they_are_and_whoever_else_uses_them() {
    let (gateway, _server) = start().await;
    for id in ["0", "-7", "12345678901234567890123", "1.50", r#""a\u0062""#, r#""é""#, r#""""#] {
        let text = format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"m"}}}}}}"#
        );
        let answer = send(&gateway, text).await;
        assert!(answer.text().starts_with(&format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#)), "{}", answer.text());
    }
    let calls = (0..50).map(|n| {
        let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"echo","arguments":{{"message":"{n}"}}}}}}"#);
        let gateway = &gateway;
        async move { send(gateway, text).await.json()["result"]["content"][0]["text"] == format!(r#"{{"message":"{n}"}}"#) }
    });
    assert!(futures_util::future::join_all(calls).await.into_iter().all(|own| own));
}

#[tokio::test]
async fn only_2025_03_26_has_batches() {
    let (gateway, _server) = start().await;
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"ping"},{"jsonrpc":"2.0","method":"notifications/initialized"},
        {"jsonrpc":"2.0","id":"c","method":"tools/call","params":{"name":"echo","arguments":{"message":"m"}}},{"id":3}]"#;
    for version in [None, Some("2025-03-26")] {
        let request = version.into_iter().fold(message(&gateway, batch), |r, v| r.header("mcp-protocol-version", v));
        let answer = request.send().await.unwrap();
        let all = answer.json();
        let ids: Vec<_> = all.as_array().unwrap().iter().map(|one| one["id"].clone()).collect();
        assert_eq!(ids, [json!(1), json!("c"), json!(3)]);
        assert_eq!(
            (&all[1]["result"]["content"][0]["text"], &all[2]["error"]["code"]),
            (&json!(r#"{"message":"m"}"#), &json!(-32600))
        );
    }
    let only_notifications = r#"[{"jsonrpc":"2.0","method":"notifications/initialized"}]"#;
    let answer = send(&gateway, only_notifications).await;
    assert_eq!((answer.status, answer.text()), (202, ""));
    for version in ["2025-06-18", "2025-11-25"] {
        let answer = message(&gateway, batch).header("mcp-protocol-version", version).send().await.unwrap();
        assert_eq!(error_of(&answer), (400, -32600, Value::Null), "{version}");
    }
}

#[tokio::test]
async fn who_has_no_token_learns_where_to_get_one_and_tokens_do_not_count_in_the_address() {
    let (gateway, _server) = start().await;
    let url = gateway.url("/mcp");
    let bare = client::post(&url, initialize_text("2025-06-18")).send().await.unwrap();
    assert_eq!(bare.status, 401);
    let metadata = gateway.url("/.well-known/oauth-protected-resource/mcp");
    assert_eq!(bare.header("www-authenticate"), format!("Bearer resource_metadata=\"{metadata}\""));
    let document = client::get(&metadata).send().await.unwrap();
    assert_eq!((document.status, &document.json()["resource"]), (200, &json!(url)));
    let in_address = format!("{url}?token={}", gateway.token);
    assert_eq!(client::post(&in_address, initialize_text("2025-06-18")).send().await.unwrap().status, 401);
    let page = message(&gateway, initialize_text("2025-06-18")).header("origin", "http://evil.example");
    assert_eq!(page.send().await.unwrap().status, 403);

    let server = Faulty::start(FaultyMode::Streamable).await;
    let open = Options { mcp_url: Some(server.url()), allow_query_token_mcp: Some("true".into()), ..options() };
    let open = TestGateway::start(open).await;
    let in_address = format!("{}?token={}", open.url("/mcp"), open.token);
    assert_eq!(client::post(&in_address, initialize_text("2025-06-18")).send().await.unwrap().status, 200);
}

#[tokio::test]
async fn a_session_is_its_owners_alone_and_only_as_it_was_given_out() {
    let (gateway, _server) = start().await;
    let session = initialize(&gateway, "2025-06-18").await;
    let ping = r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
    let with = |session: &str| message(&gateway, ping).header("mcp-session-id", session);
    assert_eq!(with(&session).send().await.unwrap().status, 200);
    let mut forged = session.clone();
    let last = if forged.pop() == Some('A') { 'B' } else { 'A' };
    forged.push(last);
    for bad in [forged.as_str(), "1234", "\"", &"x".repeat(10_000)] {
        assert_eq!(error_of(&with(bad).send().await.unwrap()), (404, -32001, json!(1)), "{bad:.20}");
    }
    let other = client::post(&gateway.url("/mcp"), ping).bearer(&token::mint("somebody else"));
    let other = other.header("mcp-session-id", &session).send().await.unwrap();
    assert_eq!(error_of(&other), (404, -32001, json!(1)));
    let delete = client::request(Method::DELETE, &gateway.url("/mcp")).bearer(&gateway.token);
    assert_eq!(delete.header("mcp-session-id", &session).send().await.unwrap().status, 204);
    assert_eq!(error_of(&with(&session).send().await.unwrap()), (404, -32001, json!(1)), "it has ended");
}

#[tokio::test]
async fn what_a_client_does_not_take_is_not_sent_to_it() {
    let (gateway, _server) = start().await;
    let url = gateway.url("/mcp");
    let request = |accept: Option<&str>| {
        let request = client::request(Method::POST, &url).bearer(&gateway.token).body(initialize_text("2025-06-18"));
        accept.into_iter().fold(request, |request, accept| request.header("accept", accept))
    };
    for (accept, status) in [
        (None, 200),
        (Some("*/*"), 200),
        (Some("application/json"), 200),
        (Some("text/event-stream, application/json;q=0.5"), 200),
        (Some("text/html"), 406),
    ] {
        assert_eq!(request(accept).send().await.unwrap().status, status, "{accept:?}");
    }
    let get = client::request(Method::GET, &url).bearer(&gateway.token);
    assert_eq!(get.clone().header("accept", "application/json").send().await.unwrap().status, 406);
    assert_eq!(request(None).header("content-type", "text/plain").send().await.unwrap().status, 415);
}

#[tokio::test]
async fn one_server_is_reached_alone_under_the_names_that_it_has_itself() {
    let first = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("same", "one")]).await;
    let second = Faulty::with_tools(
        FaultyMode::Streamable,
        vec![Tool::text("same", "two").schema(r#"{"type":"object","title":"x"}"#)],
    )
    .await;
    let manifests = portcullis_e2e::manifests::Manifests::new();
    manifests.add("first", &first.url(), "");
    manifests.add("second", &second.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["same", "second__same"]).await;
    let at = |path: &str, text: &'static str| client::post(&gateway.url(path), text).bearer(&gateway.token);
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"same"}}"#;
    for (path, text) in [("/mcp", "one"), ("/mcp/first", "one"), ("/mcp/second", "two"), ("/mcp/default/second", "two")]
    {
        let answer = at(path, call).send().await.unwrap();
        assert_eq!(answer.json()["result"]["content"][0]["text"], text, "{path}: {}", answer.text());
    }
    let list = at("/mcp/second", r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#).send().await.unwrap().json();
    assert_eq!(list["result"]["tools"].as_array().map(Vec::len), Some(1));
    assert_eq!(list["result"]["tools"][0]["name"], "same");
    let nobody = at("/mcp/nobody", call).send().await.unwrap();
    assert_eq!(nobody.status, 404);
}

#[tokio::test]
async fn members_that_are_null_count_as_absent_whatever_a_client_speaks() {
    let (gateway, server) = start().await;
    let request = |method: &str, params: &str| {
        format!(r#"{{"jsonrpc":"2.0","id":"x","method":"{method}","params":{params},"result":null,"error":null}}"#)
    };
    let session = initialize(&gateway, "2025-11-25").await;
    let post = async |path: &str, text: String| {
        let request = client::post(&gateway.url(path), text).bearer(&gateway.token);
        request.header("mcp-session-id", &session).send().await.unwrap()
    };
    let meta = r#"{"progressToken":null,"a/b":null}"#;
    let call = |meta: &str| format!(r#"{{"name":"echo","arguments":null,"task":null,"_meta":{meta}}}"#);
    for (method, params) in [
        ("ping", "null".to_owned()),
        ("tools/list", "null".into()),
        ("tools/list", r#"{"cursor":null,"_meta":null}"#.into()),
        ("prompts/list", r#"{"cursor":null}"#.into()),
        ("resources/templates/list", "null".into()),
        ("tools/call", call("null")),
        ("tools/call", call(meta)),
        ("initialize", r#"{"protocolVersion":"2025-11-25","capabilities":null,"clientInfo":null,"_meta":null}"#.into()),
    ] {
        for path in ["/mcp", "/mcp/"] {
            let answer = post(path, request(method, &params)).await;
            assert!(
                answer.status == 200 && answer.json().get("result").is_some(),
                "{method} {params}: {}",
                answer.text()
            );
        }
    }
    for text in [
        r#"{"jsonrpc":"2.0","method":"notifications/initialized","params":null}"#,
        r#"{"jsonrpc":"2.0","id":null,"method":"notifications/cancelled","params":{"requestId":7,"reason":null}}"#,
        r#"{"jsonrpc":"2.0","id":"q","method":null,"params":null,"result":{},"error":null}"#,
    ] {
        assert_eq!(post("/mcp", text.into()).await.status, 202, "{text}");
    }
    let batch = format!("[{},{}]", request("ping", "null"), request("tools/call", &call(meta)));
    let batch = message(&gateway, batch).send().await.unwrap();
    assert!(
        batch.json().as_array().is_some_and(|all| all.iter().all(|one| one.get("result").is_some())),
        "{}",
        batch.text()
    );
    for (method, name, params) in
        [("tools/list", None, r#""cursor":null"#), ("tools/call", Some("echo"), r#""name":"echo","arguments":null"#)]
    {
        let answer = modern(&gateway, "/mcp/", method, name, params).send().await.unwrap();
        assert!(answer.status == 200 && answer.json().get("result").is_some(), "{method}: {}", answer.text());
    }
    // A list is not an object, and what must be there must not be null.
    for (method, params, code) in [("ping", "[]", -32600), ("tools/call", r#"{"name":null}"#, -32602)] {
        assert_eq!(post("/mcp", request(method, params)).await.json()["error"]["code"], code, "{method} {params}");
    }
    let seen = server.seen();
    let calls = seen.of("tools/call");
    assert!(calls.len() == 6 && calls.iter().all(|call| call.param("arguments").is_none_or(|text| text == "{}")));
}

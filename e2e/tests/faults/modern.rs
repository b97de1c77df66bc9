//! Servers of 2026-07-28: every request carries everything, in `_meta` and in headers.

use portcullis_e2e::faulty::{AnswerForm, Faulty, FaultyMode, Tool};
use serde_json::{Value, json};

use crate::stack::{Stack, server, text};

const SCHEMA: &str = r#"{"type":"object","properties":{
    "region":{"type":"string","x-mcp-header":"Region"},
    "count":{"type":"integer","x-mcp-header":"Count"},
    "dry":{"type":"boolean","x-mcp-header":"Dry-Run"},
    "nested":{"type":"object","properties":{"deep":{"type":"string","x-mcp-header":"Deep"}}},
    "plain":{"type":"string"}}}"#;

#[tokio::test]
async fn every_request_says_its_version_and_what_it_is_about() {
    for form in [AnswerForm::Json, AnswerForm::Sse] {
        let faulty = Faulty::start(FaultyMode::Modern).await;
        faulty.behave(|it| it.form = form);
        let stack = Stack::ready([server("a", &faulty)]).await;
        let answer = stack.request("echo", r#"{"message":"x"}"#).send().await.expect("an answer");
        assert_eq!(text(&answer), r#"{"message":"x"}"#);
        let seen = faulty.seen();
        assert_eq!((seen.refused, seen.initializes, seen.initialized), (0, 0, 0), "{form:?}");
        for request in &seen.requests {
            let method = request.method.as_deref().expect("a method");
            let name = if method == "tools/call" { "echo" } else { "" };
            let headers = ["mcp-protocol-version", "mcp-method", "mcp-name", "mcp-session-id"];
            assert_eq!(headers.map(|header| request.header(header)), ["2026-07-28", method, name, ""]);
            assert_eq!(request.header("accept"), "application/json, text/event-stream");
            let meta: Value = serde_json::from_str(&request.param("_meta").expect("_meta")).expect("JSON");
            assert_eq!(meta["io.modelcontextprotocol/protocolVersion"], "2026-07-28");
            // Servers of Apps show their tools to clients that say they can show pages; a call says what its caller can.
            let pages =
                json!({"extensions": {"io.modelcontextprotocol/ui": {"mimeTypes": ["text/html;profile=mcp-app"]}}});
            let able = if method == "tools/call" { json!({}) } else { pages };
            assert_eq!(meta["io.modelcontextprotocol/clientCapabilities"], able, "{method}");
            assert_eq!(meta["io.modelcontextprotocol/clientInfo"]["name"], "portcullis");
            assert_eq!(meta["progressToken"].is_number(), method == "tools/call");
        }
    }
}

#[tokio::test]
async fn marked_arguments_travel_as_headers_and_stay_in_the_body() {
    let faulty = Faulty::with_tools(FaultyMode::Modern, vec![Tool::echo("echo").schema(SCHEMA)]).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    let table = [
        (r#"{"region":"eu","count":42,"dry":true,"nested":{"deep":"x"},"plain":"p"}"#, ["eu", "42", "true", "x"]),
        (r#"{"region":"Hello, 世界","nested":{}}"#, ["=?base64?SGVsbG8sIOS4lueVjA==?=", "", "", ""]),
        (r#"{"region":null,"count":-1,"dry":false,"nested":null}"#, ["", "-1", "false", ""]),
        (r#"{"region":"a\r\nx-evil: 1"}"#, ["=?base64?YQ0KeC1ldmlsOiAx?=", "", "", ""]),
        ("{}", ["", "", "", ""]),
    ];
    for (arguments, expected) in table {
        let answer = stack.request("echo", arguments).send().await.expect("an answer");
        assert_eq!(text(&answer), arguments);
        let seen = faulty.seen();
        let request = seen.of("tools/call").pop().expect("a call").clone();
        let names = ["mcp-param-region", "mcp-param-count", "mcp-param-dry-run", "mcp-param-deep"];
        assert_eq!(names.map(|name| request.header(name)), expected, "{arguments}");
        assert_eq!((request.header("mcp-param-plain"), request.header("x-evil")), ("", ""));
    }
}

#[tokio::test]
async fn a_session_of_the_older_kind_gets_none_of_it() {
    let faulty = Faulty::start(FaultyMode::Streamable).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    assert_eq!(stack.call("echo").await.status, 200);
    let seen = faulty.seen();
    let request = seen.of("tools/call").pop().expect("a call").clone();
    assert_eq!(request.header("mcp-protocol-version"), "2025-11-25");
    assert_eq!((request.header("mcp-method"), request.header("mcp-name")), ("", ""));
    assert!(!request.header("mcp-session-id").is_empty());
    assert_eq!(seen.initialized, 1);
}

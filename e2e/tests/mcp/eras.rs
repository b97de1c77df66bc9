//! The answers to a client depend only on its revision.

use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::TestGateway;
use serde_json::{Value, json};

use crate::kit::{MODERN, initialize_text, message, modern, send};
use crate::messages::start;

#[tokio::test]
async fn initialize_agrees_on_the_revision_that_is_asked_for_or_on_the_newest_that_has_it() {
    let (gateway, _server) = start().await;
    for (asked, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        (MODERN, "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let answer = send(&gateway, initialize_text(asked)).await;
        let result = answer.json()["result"].take();
        assert_eq!(result["protocolVersion"], agreed, "{asked}");
        assert_eq!(result["serverInfo"]["name"], "portcullis");
        assert_eq!(result["capabilities"]["tools"], json!({"listChanged": true}));
        let id = answer.header("mcp-session-id");
        assert!(id.len() > 20 && id.bytes().all(|byte| byte.is_ascii_graphic()), "{id}");
    }
    let initialized = send(&gateway, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).await;
    assert_eq!((initialized.status, initialized.text()), (202, ""));
}

#[tokio::test]
async fn a_modern_client_gets_what_its_revision_has_and_an_older_one_gets_none_of_it() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let server = Faulty::start(mode).await;
        let gateway = TestGateway::before(&[&server.url()]).await;
        gateway.connected(1).await;
        let discovered =
            modern(&gateway, "/mcp", "server/discover", None, "").send().await.unwrap().json()["result"].take();
        assert_eq!(discovered["supportedVersions"], json!([MODERN]));
        assert_eq!((&discovered["resultType"], &discovered["cacheScope"]), (&json!("complete"), &json!("public")));
        assert_eq!(discovered["_meta"]["io.modelcontextprotocol/serverInfo"]["name"], "portcullis");

        let listed = modern(&gateway, "/mcp", "tools/list", None, "").send().await.unwrap().json()["result"].take();
        let hints = (&listed["resultType"], &listed["ttlMs"], &listed["cacheScope"]);
        assert_eq!(hints, (&json!("complete"), &json!(30_000), &json!("private")));
        let params = r#""name":"echo","arguments":{"message":"m"}"#;
        let called = modern(&gateway, "/mcp", "tools/call", Some("echo"), params).send().await.unwrap().json();
        assert_eq!(called["result"]["resultType"], "complete", "{mode:?}");

        for version in ["2025-03-26", "2025-06-18", "2025-11-25"] {
            let ask = |method: &str, params: &str| {
                let text = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#);
                message(&gateway, text).header("mcp-protocol-version", version)
            };
            let list = ask("tools/list", "").send().await.unwrap().json()["result"].take();
            let keys: Vec<_> = list.as_object().unwrap().keys().collect();
            assert_eq!(keys, ["tools"]);
            assert_eq!(list["tools"], listed["tools"]);
            let call = ask("tools/call", params).send().await.unwrap().json()["result"].take();
            assert_eq!(call["resultType"], Value::Null, "{mode:?} {version}");
            assert_eq!(call["content"], called["result"]["content"]);
        }
    }
}

#[tokio::test]
async fn a_session_that_a_modern_client_sends_is_of_no_matter() {
    let (gateway, _server) = start().await;
    let request = modern(&gateway, "/mcp", "tools/list", None, "").header("mcp-session-id", "nonsense");
    let answer = request.header("last-event-id", "7").send().await.unwrap();
    assert_eq!((answer.status, answer.header("mcp-session-id")), (200, ""));
}

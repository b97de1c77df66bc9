//! Admission to `/mcp`: sessions of other replicas with the same keys, tokens with the scopes, permitted origins.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http as client;
use portcullis_e2e::token::{SECRET, after, mint_with};
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use portcullis_gateway::seal::{Keys, Purpose, Sealer};
use serde_json::json;

use crate::kit::{initialize, initialize_text, message};

const FIRST: &str = "k1 qmZ1xqvQb5bJ0g3yZ7fYb0d3yq4w0m0eXo1uYkq3T1A=";
const SECOND: &str = "k2 pX6n0d4hG2vJ8c1sT5yR9wQ3eU7iO0aL6kF4zB2mN8E=";

async fn replica(keys: &Path) -> TestGateway {
    let mcp_url = Some("http://127.0.0.1:9/".into());
    TestGateway::start(Options { mcp_url, session_keys: Some(keys.into()), ..options() }).await
}

/// The status of a ping in a session.
async fn ping(gateway: &TestGateway, session: &str) -> u16 {
    let ping = message(gateway, r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#).header("mcp-session-id", session);
    ping.send().await.expect("an answer").status
}

/// Waits until new sessions are sealed with the only key in these lines.
async fn seals_with(gateway: &TestGateway, line: &str) -> String {
    let sealer = Sealer::new(Keys::parse(line).expect("a key"));
    wait_for("the key is in use", LIMIT, async || {
        let session = initialize(gateway, "2025-06-18").await;
        sealer.open(Purpose::Session, &session).is_ok().then_some(session)
    })
    .await
}

#[tokio::test]
async fn replicas_with_the_same_keys_serve_one_anothers_sessions_also_while_keys_are_rotated() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    let write = |lines: &[&str]| std::fs::write(&file, lines.join("\n")).expect("written");
    write(&[FIRST]);
    let (one, other) = (replica(&file).await, replica(&file).await);
    let stranger = TestGateway::start(Options { mcp_url: Some("http://127.0.0.1:9/".into()), ..options() }).await;
    let old = initialize(&one, "2025-06-18").await;
    assert_eq!([ping(&one, &old).await, ping(&other, &old).await, ping(&stranger, &old).await], [200, 200, 404]);

    write(&[SECOND, FIRST]);
    let new = seals_with(&one, SECOND).await;
    seals_with(&other, SECOND).await;
    for gateway in [&one, &other] {
        assert_eq!([ping(gateway, &old).await, ping(gateway, &new).await], [200, 200]);
    }

    write(&["nonsense"]);
    let refused = async || {
        let metrics = client::get(&one.url("/metrics")).send().await.expect("an answer");
        metrics.text().contains("\nportcullis_session_keys_ok 0\n")
    };
    wait_for("the content is refused", LIMIT, refused).await;
    assert_eq!([ping(&one, &old).await, ping(&one, &new).await], [200, 200]);

    write(&[SECOND]);
    let gone = async || ping(&one, &old).await == 404;
    wait_for("the old key is gone", LIMIT, gone).await;
    assert_eq!(ping(&one, &new).await, 200);
}

#[tokio::test]
async fn session_keys_are_rotated_under_load_without_a_session_that_a_replica_refuses() {
    let folder = tempfile::tempdir().expect("a folder");
    let (file, other_file) = (folder.path().join("keys"), folder.path().join("other"));
    let write = |lines: &[&str]| {
        std::fs::write(folder.path().join("new"), lines.join("\n")).expect("written");
        std::fs::rename(folder.path().join("new"), &file).expect("renamed");
    };
    write(&[FIRST]);
    std::fs::write(&other_file, SECOND).expect("written");
    let (one, other) = (replica(&file).await, replica(&file).await);
    let of_second = initialize(&replica(&other_file).await, "2025-06-18").await;
    let (is_over, pings) = (AtomicBool::new(false), AtomicUsize::new(0));
    let client = async |begins: &TestGateway, goes_on: &TestGateway| {
        while !is_over.load(Ordering::Relaxed) {
            let session = initialize(begins, "2025-06-18").await;
            assert_eq!([ping(goes_on, &session).await, ping(begins, &session).await], [200, 200]);
            pings.fetch_add(1, Ordering::Relaxed);
        }
    };
    let more = async || {
        let before = pings.load(Ordering::Relaxed);
        wait_for("more sessions", LIMIT, async || pings.load(Ordering::Relaxed) >= before + 20).await;
    };
    let rotating = async {
        more().await;
        write(&[FIRST, SECOND]);
        let known = async || [ping(&one, &of_second).await, ping(&other, &of_second).await] == [200, 200];
        wait_for("both know the new key", LIMIT, known).await;
        write(&[SECOND, FIRST]);
        tokio::join!(seals_with(&one, SECOND), seals_with(&other, SECOND));
        more().await;
        write(&[SECOND]);
        more().await;
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(rotating, client(&one, &other), client(&other, &one), client(&one, &other));
}

#[tokio::test]
async fn a_token_without_the_scopes_learns_all_of_them_and_where_to_get_another() {
    let required_scopes = Some("tools prompts".into());
    let mcp_url = Some("http://127.0.0.1:9/".into());
    let gateway = TestGateway::start(Options { mcp_url, required_scopes, ..options() }).await;
    let claims = |scope: &str| json!({"sub": "a", "exp": after(Duration::from_secs(60)), "scope": scope});
    let ask = async |scope: &str| {
        let request = client::post(&gateway.url("/mcp"), initialize_text("2025-06-18"));
        request.bearer(&mint_with(SECRET.as_bytes(), &claims(scope))).send().await.expect("an answer")
    };
    let refused = ask("prompts").await;
    let expected = format!(
        "Bearer resource_metadata=\"{}\", scope=\"tools prompts\", error=\"insufficient_scope\", \
         error_description=\"the token lacks a required scope: get one with all required scopes\"",
        gateway.url("/.well-known/oauth-protected-resource/mcp")
    );
    assert_eq!((refused.status, refused.header("www-authenticate")), (403, expected.as_str()));
    assert_eq!(ask("prompts tools").await.status, 200);
}

#[tokio::test]
async fn a_page_of_an_allowed_origin_may_ask_and_read_its_session() {
    let allowed_origins = Some("https://app.example.com".into());
    let mcp_url = Some("http://127.0.0.1:9/".into());
    let gateway = TestGateway::start(Options { mcp_url, allowed_origins, ..options() }).await;
    for path in ["/mcp", "/mcp/search", "/mcp/default/search"] {
        let before = client::request(Method::OPTIONS, &gateway.url(path))
            .header("origin", "https://app.example.com")
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "authorization,mcp-session-id");
        let allowed = before.send().await.expect("an answer");
        assert_eq!(
            (allowed.status, allowed.header("access-control-allow-headers")),
            (204, "authorization,mcp-session-id"),
            "{path}"
        );
    }
    let asked = message(&gateway, initialize_text("2025-06-18")).header("origin", "https://app.example.com");
    let answer = asked.send().await.expect("an answer");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, "https://app.example.com"));
    assert!(answer.header("access-control-expose-headers").contains("Mcp-Session-Id"), "{:?}", answer.headers);
}

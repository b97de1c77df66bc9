//! Several replicas: each forwards requests of a session to its owner.

use std::time::{Duration, Instant};

use http::Method;
use portcullis_e2e::certificates::TlsFolder;
use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpConnection};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::port::{self, HeldPort};
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::sse;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::kit::{TestSession, done, is_quiet, next};

pub(crate) const KEYS: &str = "k AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n";

/// Two replicas that know of each other only by sealed sessions. The port of the first stays ours when it is gone.
struct SealedPair {
    server: Conforming,
    manifests: Manifests,
    port: HeldPort,
    owner: TestGateway,
    other: TestGateway,
}

async fn start() -> SealedPair {
    let (server, manifests, port) = (Conforming::start().await, Manifests::new(), port::hold());
    manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "protocolVersion: \"2025-11-25\"");
    std::fs::write(manifests.secrets().join("../keys"), KEYS).expect("a file");
    let owner = TestGateway::start(replica(&manifests, port.port())).await;
    let other = TestGateway::start(replica(&manifests, 0)).await;
    owner.connected(1).await;
    other.connected(1).await;
    SealedPair { server, manifests, port, owner, other }
}

pub(crate) fn replica(manifests: &Manifests, port: u16) -> Options {
    Options {
        port: Some(port.to_string()),
        session_keys: Some(manifests.secrets().join("../keys")),
        replica_address: Some("127.0.0.1".into()),
        ..manifests.options()
    }
}

const OK: &str = r#"portcullis_requests_handed_on_total{outcome="ok"}"#;
const UNREACHABLE: &str = r#"portcullis_requests_handed_on_total{outcome="unreachable"}"#;

#[tokio::test]
async fn streams_levels_subscriptions_and_ends_are_the_owners() {
    let pair = start().await;
    let session = TestSession::begin(&pair.owner, "/mcp").await;
    let initialized = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(session.send(&pair.other, &initialized).await.status, 202);
    let mut stream = session.listen(&pair.other).await;
    let watched = json!({"uri": "test://watched-resource"});
    assert_eq!(session.ask(&pair.other, "resources/subscribe", watched.clone()).await, done());
    assert_eq!(session.ask(&pair.other, "logging/setLevel", json!({"level": "error"})).await, done());
    pair.other.counts(OK, 4.0).await;
    for replica in [&pair.owner, &pair.other] {
        replica.counts("portcullis_client_streams_open", 1.0).await;
    }
    wait_for("a subscription at the server", LIMIT, async || pair.server.watching() == 1).await;
    assert_eq!(pair.other.call("test_trigger_resource_change", "{}").await.status, 200);
    assert_eq!(next(&mut stream).await["params"], watched);
    pair.manifests.add("more", &pair.server.url(TestTransport::Sse), "tools:\n  prefix: more");
    let heard = next(&mut stream).await;
    assert!(heard["method"].as_str().is_some_and(|method| method.ends_with("list_changed")), "{heard}");
    session.end(&pair.other).await;
    wait_for("the subscription to end", LIMIT, async || pair.server.watching() == 0).await;
    drop(stream);
    for replica in [&pair.owner, &pair.other] {
        replica.counts("portcullis_client_streams_open", 0.0).await;
    }
}

#[tokio::test]
async fn replicas_with_tls_forward_within_tls_also_when_certificates_change_and_clients_need_theirs() {
    let (server, manifests, tls) = (Conforming::start().await, Manifests::new(), TlsFolder::new());
    manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "protocolVersion: \"2025-11-25\"");
    std::fs::write(manifests.secrets().join("../keys"), KEYS).expect("a file");
    let optional = Options {
        tls_client_ca_file: Some(tls.path("ca.crt")),
        tls_client_certificates: Some("Optional".into()),
        ..replica(&manifests, 0)
    };
    for options in [replica(&manifests, 0), optional] {
        let options = tls.options(options);
        let (owner, other) = (TestGateway::start(options.clone()).await, TestGateway::start(options).await);
        owner.connected(1).await;
        other.connected(1).await;
        let session = TestSession::begin(&owner, "/mcp").await;
        for forwarded in 1..4 {
            assert_eq!(
                session.ask(&other, "resources/subscribe", json!({"uri": "test://watched-resource"})).await,
                done()
            );
            other.counts(OK, f64::from(forwarded)).await;
            let shown = async || HttpConnection::to(&owner.url("")).await.expect("a connection").certificate();
            let before = shown().await;
            tls.renew();
            wait_for("the new certificate", LIMIT, async || shown().await != before).await;
            // As long as a proof of the old one counts.
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        assert_eq!(other.metric(UNREACHABLE).await, None);
    }
}

#[tokio::test]
async fn a_replica_with_tls_forwards_nothing_in_clear() {
    let pair = start().await;
    let session = TestSession::begin(&pair.owner, "/mcp").await;
    let tls = TlsFolder::new();
    let secure = TestGateway::start(tls.options(replica(&pair.manifests, 0))).await;
    secure.connected(1).await;
    let watched = json!({"uri": "test://watched-resource"});
    assert_eq!(session.ask(&secure, "resources/subscribe", watched).await, done());
    secure.counts(UNREACHABLE, 1.0).await;
}

#[tokio::test]
async fn what_all_replicas_have_is_answered_by_the_one_that_is_asked() {
    let pair = start().await;
    let session = TestSession::begin(&pair.owner, "/mcp").await;
    let listed = session.ask(&pair.other, "tools/list", json!({})).await;
    assert!(listed["result"]["tools"].as_array().is_some_and(|tools| !tools.is_empty()), "{listed}");
    let called = session.ask(&pair.other, "tools/call", json!({"name": "test_simple_text", "arguments": {}})).await;
    assert_eq!(called["result"]["content"][0]["text"], "This is a simple text response for testing.");
    let marked = session.request(&pair.other, Method::GET, "").header("x-portcullis-handed-on", "1");
    let stream = sse::open(marked).await.expect("a stream");
    assert_eq!(pair.other.metric(OK).await, None);
    drop(stream);
}

#[tokio::test]
async fn a_message_of_http_sse_reaches_its_stream_through_any_replica() {
    let pair = start().await;
    let mut stream = sse::open(client::get(&pair.owner.url("/sse")).bearer(&pair.owner.token)).await.expect("a stream");
    let endpoint = stream.next(LIMIT).await.expect("in time").expect("not the end").data;
    for id in 0..3 {
        let ping = json!({"jsonrpc": "2.0", "id": id, "method": "ping"}).to_string();
        let answer = client::post(&pair.other.url(&endpoint), ping).bearer(&pair.other.token).send().await;
        assert_eq!(answer.expect("an answer").status, 202);
        assert_eq!(next(&mut stream).await, json!({"jsonrpc": "2.0", "id": id, "result": {}}));
    }
    let without = client::post(&pair.other.url(&endpoint), "{}").send().await.expect("an answer");
    assert_eq!(without.status, 401);
}

#[tokio::test]
async fn without_its_owner_a_session_has_what_all_replicas_have() {
    let pair = start().await;
    let session = TestSession::begin(&pair.owner, "/mcp").await;
    let mut stream = sse::open(client::get(&pair.owner.url("/sse")).bearer(&pair.owner.token)).await.expect("a stream");
    let endpoint = stream.next(LIMIT).await.expect("in time").expect("not the end").data;
    drop(stream);
    let SealedPair { server, manifests, owner, other, port } = pair;
    owner.stop().await.expect("a good end");
    let began = Instant::now();
    let mut listening = session.listen(&other).await;
    for _ in 0..20 {
        assert_eq!(session.ask(&other, "resources/subscribe", json!({"uri": "test://watched-resource"})).await, done());
    }
    assert!(began.elapsed() < Duration::from_secs(5), "a dead owner is remembered: {:?}", began.elapsed());
    other.counts(UNREACHABLE, 21.0).await;
    wait_for("a subscription at the server", LIMIT, async || server.watching() == 1).await;
    assert_eq!(other.call("test_trigger_resource_change", "{}").await.status, 200);
    assert_eq!(next(&mut listening).await["params"]["uri"], "test://watched-resource");
    assert!(is_quiet(&mut listening).await);
    let ping = json!({"jsonrpc": "2.0", "id": 1, "method": "ping"}).to_string();
    let gone = client::post(&other.url(&endpoint), ping).bearer(&other.token).send().await.expect("an answer");
    assert_eq!((gone.status, gone.json()["error"]["code"].clone()), (404, json!(-32001)));
    drop((manifests, port));
}

#[tokio::test]
async fn a_stranger_at_the_address_of_the_owner_never_sees_a_token() {
    let pair = start().await;
    let session = TestSession::begin(&pair.owner, "/mcp").await;
    let SealedPair { owner, other, port, .. } = pair;
    owner.stop().await.expect("a good end");
    let stranger = port.listen().await;
    let listening = async {
        let (mut stream, _) = stranger.accept().await.expect("a connection");
        let mut buffer = [0; 4096];
        let length = stream.read(&mut buffer).await.expect("a request");
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.expect("it listens");
        // Whatever else it would be told.
        let rest = tokio::time::timeout(Duration::from_millis(300), stream.read(&mut buffer[length..])).await;
        let length = length + rest.map_or(0, |read| read.expect("its end"));
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    };
    let asking = session.listen(&other);
    let (seen, _stream) =
        tokio::time::timeout(LIMIT, async { tokio::join!(listening, asking) }).await.expect("in time");
    assert!(seen.starts_with("GET /.well-known/portcullis-replica?"), "{seen}");
    assert!(!seen.to_lowercase().contains("authorization") && !seen.contains(&other.token), "{seen}");
}

#[tokio::test]
async fn a_long_call_that_the_owner_answers_is_a_stream_at_every_replica() {
    let tool = Tool::text("slow", "done").takes(Duration::from_millis(2_500));
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![tool]).await;
    let manifests = Manifests::new();
    manifests.add("own", &server.url(), "session: PerClient\nprotocolVersion: 2025-11-25");
    std::fs::write(manifests.secrets().join("../keys"), KEYS).expect("a file");
    let options = || Options { stream_after_seconds: Some("1".into()), ..replica(&manifests, 0) };
    let (owner, other) = (TestGateway::start(options()).await, TestGateway::start(options()).await);
    owner.connected(1).await;
    other.connected(1).await;
    let session = TestSession::begin(&owner, "/mcp").await;
    let call = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "slow"}});
    let began = Instant::now();
    let mut events = sse::open(session.request(&other, Method::POST, &call.to_string())).await.expect("a stream");
    assert!(began.elapsed() < Duration::from_millis(2_400), "the stream began after {:?}", began.elapsed());
    assert_eq!(next(&mut events).await["result"]["content"][0]["text"], "done");
    other.counts(OK, 1.0).await;
}

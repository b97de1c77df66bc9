//! Subscriptions to single resources: one at the server, and notifications to exactly its subscribers.

use std::time::Duration;

use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::sse::SseEvents;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::kit::{TestSession, done, is_quiet, next};

const WATCHED: &str = "test://watched-resource";

const LEGACY: &str = "protocolVersion: \"2025-11-25\"";

struct SubscriptionStage {
    server: Conforming,
    manifests: Manifests,
    gateway: TestGateway,
}

async fn start(transport: TestTransport, more: &str) -> SubscriptionStage {
    let (server, manifests) = (Conforming::start().await, Manifests::new());
    manifests.add("fixture", &server.url(transport), more);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    SubscriptionStage { server, manifests, gateway }
}

impl SubscriptionStage {
    async fn change(&self) {
        let answer = self.gateway.call("test_trigger_resource_change", "{}").await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }

    async fn is_watched_by(&self, count: usize) {
        let what = format!("{count} subscriptions at the server");
        wait_for(&what, LIMIT, async || {
            let watching = self.server.watching();
            if watching == count { Ok(()) } else { Err(watching) }
        })
        .await;
    }

    /// A stream of 2026-07-28 that asks for these resources, and what was granted.
    async fn listen(&self, uris: &[&str]) -> (SseEvents, Value) {
        let meta = json!({
            "io.modelcontextprotocol/protocolVersion": "2026-07-28", "io.modelcontextprotocol/clientCapabilities": {},
        });
        let params = json!({"notifications": {"resourceSubscriptions": uris}, "_meta": meta});
        let message = json!({"jsonrpc": "2.0", "id": "l", "method": "subscriptions/listen", "params": params});
        let request = http::post(&self.gateway.url("/mcp"), message.to_string()).bearer(&self.gateway.token);
        let request = request.header("mcp-protocol-version", "2026-07-28").header("mcp-method", "subscriptions/listen");
        let mut events: SseEvents = request.open().await.expect("a stream").into();
        let granted = next(&mut events).await["params"]["notifications"].take();
        (events, granted)
    }
}

fn watched() -> Value {
    json!({"uri": WATCHED})
}

fn updated() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": watched()})
}

/// `seen`: whether the server can say who watches.
async fn news_reach_exactly_those_who_asked(transport: TestTransport, more: &str, seen: bool) {
    let stage = start(transport, more).await;
    let gateway = &stage.gateway;
    let (first, alone, other) = (
        TestSession::begin(gateway, "/mcp").await,
        TestSession::begin(gateway, "/mcp/fixture").await,
        TestSession::begin(gateway, "/mcp").await,
    );
    let mut streams = [first.listen(gateway).await, alone.listen(gateway).await, other.listen(gateway).await];
    for session in [&first, &first, &alone] {
        assert_eq!(session.ask(gateway, "resources/subscribe", watched()).await, done());
    }
    let (mut listening, granted) = stage.listen(&[WATCHED, "test://no/such", "other:thing"]).await;
    assert_eq!(granted, json!({"resourceSubscriptions": [WATCHED, "test://no/such", "other:thing"]}));
    if seen {
        stage.is_watched_by(1).await;
    } else {
        let first = async {
            stage.change().await;
            while listening.next(Duration::from_millis(200)).await.is_err() {
                stage.change().await;
            }
        };
        timeout(LIMIT, first).await.expect("news in time");
        for stream in streams.iter_mut().chain([&mut listening]) {
            while !is_quiet(stream).await {}
        }
    }
    stage.change().await;
    assert_eq!(next(&mut streams[0]).await, updated());
    assert_eq!(next(&mut streams[1]).await, updated());
    let meta = json!({"io.modelcontextprotocol/subscriptionId": "l"});
    assert_eq!(next(&mut listening).await["params"], json!({"uri": WATCHED, "_meta": meta}));
    for stream in streams.iter_mut().chain([&mut listening]) {
        assert!(is_quiet(stream).await);
    }
    assert_eq!(first.ask(gateway, "resources/unsubscribe", watched()).await, done());
    alone.end(gateway).await;
    stage.change().await;
    next(&mut listening).await;
    let [first, alone, other] = &mut streams;
    assert!(is_quiet(first).await && is_quiet(other).await);
    assert_eq!(alone.next(LIMIT).await.expect("its proper end"), None, "its session has ended");
    drop(listening);
    if seen {
        stage.is_watched_by(0).await;
    }
}

#[tokio::test]
async fn news_of_a_server_of_http_sse_reach_exactly_those_who_asked() {
    news_reach_exactly_those_who_asked(TestTransport::Sse, "transport: sse", true).await;
}

#[tokio::test]
async fn news_of_a_server_with_sessions_reach_exactly_those_who_asked() {
    news_reach_exactly_those_who_asked(TestTransport::StreamableHttp, LEGACY, true).await;
}

#[tokio::test]
async fn news_of_a_server_of_2026_reach_exactly_those_who_asked() {
    news_reach_exactly_those_who_asked(TestTransport::StreamableHttp, "", false).await;
}

#[tokio::test]
async fn a_subscription_outlives_its_server() {
    let stage = start(TestTransport::StreamableHttp, LEGACY).await;
    let gateway = &stage.gateway;
    let session = TestSession::begin(gateway, "/mcp").await;
    let mut stream = session.listen(gateway).await;
    session.ask(gateway, "resources/subscribe", watched()).await;
    stage.is_watched_by(1).await;
    stage.manifests.remove("fixture");
    stage.is_watched_by(0).await;
    stage.manifests.add("again", &stage.server.url(TestTransport::StreamableHttp), LEGACY);
    gateway.connected(1).await;
    stage.is_watched_by(1).await;
    stage.change().await;
    let news = async { while next(&mut stream).await != updated() {} };
    timeout(LIMIT, news).await.expect("news in time");
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused() {
    let stage = start(TestTransport::StreamableHttp, "").await;
    let gateway = &stage.gateway;
    let session = TestSession::begin(gateway, "/mcp").await;
    for (params, code) in [(json!({}), -32602), (json!({"uri": ""}), -32602), (json!({"uri": 7}), -32602)] {
        let answer = session.ask(gateway, "resources/subscribe", params.clone()).await;
        assert_eq!(answer["error"]["code"], code, "{params}");
    }
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "resources/subscribe", "params": watched()});
    let without = http::post(&gateway.url("/mcp"), message.to_string()).bearer(&gateway.token);
    assert_eq!(without.send().await.expect("an answer").json()["error"]["code"], -32600);
    assert_eq!(session.ask(gateway, "resources/unsubscribe", watched()).await, done());
}

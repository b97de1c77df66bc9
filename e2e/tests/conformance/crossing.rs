//! What crosses the gateway between revisions and is no scenario of the suite: watched resources, arguments in headers.
#![expect(deprecated, reason = "resources/subscribe of 2025-11-25 is one way to watch")]

use std::sync::Arc;

use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{Gateway, LIMIT};
use rmcp::model::{
    CallToolRequestParams, ProtocolVersion, ReadResourceRequestParams, ResourceContents,
    ResourceUpdatedNotificationParam, ServerNotification, SubscribeRequestParams, SubscriptionFilter,
    UnsubscribeRequestParams,
};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, NotificationContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, RoleClient};
use serde_json::json;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::through::{Behind, MODERN_BEHIND, SESSIONS_BEHIND, SSE_BEHIND, gateway};

const WATCHED: &str = "test://watched-resource";

#[derive(Clone, Debug, Default)]
struct Ears(Arc<Notify>);

impl ClientHandler for Ears {
    async fn on_resource_updated(&self, of: ResourceUpdatedNotificationParam, _: NotificationContext<RoleClient>) {
        assert_eq!(of.uri, WATCHED);
        self.0.notify_one();
    }
}

type Client = RunningService<RoleClient, Ears>;

async fn connect(gateway: &Gateway, lifecycle: ClientLifecycleMode) -> Client {
    let config = StreamableHttpClientTransportConfig::with_uri(gateway.url("/mcp")).auth_header(gateway.token.as_str());
    let transport = StreamableHttpClientTransport::from_config(config);
    let client = Ears::default().serve_with_lifecycle(transport, lifecycle);
    timeout(LIMIT, client).await.expect("in time").expect("it connects")
}

fn modern() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

async fn change(client: &Client) {
    let call = client.call_tool(CallToolRequestParams::new("test_trigger_resource_change"));
    timeout(LIMIT, call).await.expect("in time").expect("a result");
}

async fn says(client: &Client) -> String {
    let read = client.read_resource(ReadResourceRequestParams::new(WATCHED));
    let result = timeout(LIMIT, read).await.expect("in time").expect("a result");
    match &result.contents[0] {
        ResourceContents::TextResourceContents { text, .. } => text.clone(),
        other => panic!("no text but {other:?}"),
    }
}

/// A client of 2025-11-25 subscribes, hears of a change, and unsubscribes.
async fn a_session_watches(behind: Behind) {
    let server = Conforming::start().await;
    let (_manifests, gateway) = gateway(&server, behind).await;
    let client = connect(&gateway, ClientLifecycleMode::Initialize).await;
    client.subscribe(SubscribeRequestParams::new(WATCHED)).await.expect("subscribed");
    for changes in 1..3 {
        change(&client).await;
        timeout(LIMIT, client.service().0.notified()).await.expect("it hears of the change");
        assert_eq!(says(&client).await, format!("It has changed {changes} times."));
    }
    client.unsubscribe(UnsubscribeRequestParams::new(WATCHED)).await.expect("unsubscribed");
    client.cancel().await.expect("it closes");
}

/// A client of 2026-07-28 listens and hears of a change.
async fn a_stream_watches(behind: Behind) {
    let server = Conforming::start().await;
    let (_manifests, gateway) = gateway(&server, behind).await;
    let client = connect(&gateway, modern()).await;
    let filter = SubscriptionFilter::builder().resource_subscriptions(vec![WATCHED.to_owned()]).build();
    let mut stream = timeout(LIMIT, client.listen(filter)).await.expect("in time").expect("it may listen");
    for changes in 1..3 {
        change(&client).await;
        let news = timeout(LIMIT, stream.next()).await.expect("it hears of the change").expect("news");
        let Some(ServerNotification::ResourceUpdatedNotification(news)) = news else {
            panic!("no update but {news:?}")
        };
        assert_eq!(news.params.uri, WATCHED);
        assert_eq!(says(&client).await, format!("It has changed {changes} times."));
    }
    client.cancel().await.expect("it closes");
}

#[tokio::test]
async fn a_session_watches_a_resource_of_a_modern_server() {
    a_session_watches(MODERN_BEHIND).await;
}

#[tokio::test]
async fn a_session_watches_a_resource_of_a_server_with_sessions() {
    a_session_watches(SESSIONS_BEHIND).await;
}

#[tokio::test]
async fn a_session_watches_a_resource_over_sse() {
    a_session_watches(SSE_BEHIND).await;
}

#[tokio::test]
async fn a_stream_watches_a_resource_of_a_modern_server() {
    a_stream_watches(MODERN_BEHIND).await;
}

#[tokio::test]
async fn a_stream_watches_a_resource_of_a_server_with_sessions() {
    a_stream_watches(SESSIONS_BEHIND).await;
}

#[tokio::test]
async fn a_stream_watches_a_resource_over_sse() {
    a_stream_watches(SSE_BEHIND).await;
}

/// The arguments that clients of 2026-07-28 repeat in headers arrive, whoever calls in whatever way.
#[tokio::test]
async fn arguments_in_headers_reach_a_modern_server() {
    let server = Conforming::start().await;
    let (_manifests, gateway) = gateway(&server, MODERN_BEHIND).await;
    for value in ["plain", "Grüße 😀", " spaces ", "=?base64?eA==?="] {
        let arguments = json!({ "value": value });
        let rest = gateway.call("test_custom_header", &arguments.to_string()).await;
        assert_eq!(rest.json()["content"][0]["text"], value, "{}", rest.text());
        for lifecycle in [ClientLifecycleMode::Initialize, modern()] {
            let client = connect(&gateway, lifecycle).await;
            // The client learns from the list what goes into headers.
            client.list_all_tools().await.expect("tools");
            let mut call = CallToolRequestParams::new("test_custom_header");
            call.arguments = arguments.as_object().cloned();
            let result = timeout(LIMIT, client.call_tool(call)).await.expect("in time").expect("a result");
            assert_eq!(result.content[0].as_text().map(|text| text.text.as_str()), Some(value));
            client.cancel().await.expect("it closes");
        }
    }
}

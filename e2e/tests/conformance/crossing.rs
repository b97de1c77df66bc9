//! Traffic between revisions that no scenario of the suite covers.

use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use rmcp::RoleClient;
use rmcp::model::{CallToolRequestParams, ProtocolVersion};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use serde_json::json;
use tokio::time::timeout;

use crate::through::{MODERN_BEHIND, gateway};

async fn connect(gateway: &TestGateway, lifecycle: ClientLifecycleMode) -> RunningService<RoleClient, ()> {
    let config = StreamableHttpClientTransportConfig::with_uri(gateway.url("/mcp")).auth_header(gateway.token.as_str());
    let transport = StreamableHttpClientTransport::from_config(config);
    timeout(LIMIT, ().serve_with_lifecycle(transport, lifecycle)).await.expect("in time").expect("it connects")
}

fn modern() -> ClientLifecycleMode {
    ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] }
}

/// The arguments that clients of 2026-07-28 repeat in headers arrive from every client over every transport.
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

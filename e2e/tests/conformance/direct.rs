//! The server of the other tests conforms by itself, so their findings concern the gateway.

use portcullis_e2e::conformance::{Conforming, Extended};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, Source, TestTransport};
use portcullis_e2e::require;

use crate::suite::{EXTENSIONS_EXCUSED, LEGACY, MODERN, passes, passes_with_extensions};

#[tokio::test]
async fn the_server_behind_conforms_to_2025_11_25() {
    require!(real::installed(Source::Clients));
    let server = Conforming::start().await;
    passes(&server.url(TestTransport::StreamableHttp), LEGACY, &[]).await;
}

#[tokio::test]
async fn the_server_behind_conforms_to_2026_07_28() {
    require!(real::installed(Source::Clients));
    let server = Conforming::start().await;
    passes(&server.url(TestTransport::StreamableHttp), MODERN, &[]).await;
}

#[tokio::test]
async fn the_server_with_extensions_conforms_to_them() {
    require!(real::installed(Source::Clients));
    let server = Extended::start("conformance").await;
    passes_with_extensions(&server.url(), EXTENSIONS_EXCUSED).await;
}

#[tokio::test]
async fn the_server_behind_says_the_same_over_both_transports() {
    let server = Conforming::start().await;
    let manifests = Manifests::new();
    manifests.add("sse", &server.url(TestTransport::Sse), "transport: sse");
    manifests.add("streamable", &server.url(TestTransport::StreamableHttp), "transport: streamable-http");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(2).await;
    let listed = async |name: &str| {
        let list = gateway.get(&format!("/tools/list?server={name}")).send().await.expect("a list").json();
        let tools = list["tools"].as_array().expect("tools").clone();
        tools.into_iter().map(|tool| tool["inputSchema"].clone()).collect::<Vec<_>>()
    };
    assert_eq!(listed("sse").await.len(), 28);
    assert_eq!(listed("sse").await, listed("streamable").await);
    for tool in ["test_multiple_content_types", "test_error_handling", "test_tool_with_progress"] {
        let [one, other] = ["sse", "streamable"].map(|name| gateway.call_at(name, tool, "{}"));
        assert_eq!(one.await.json()["content"], other.await.json()["content"], "{tool}");
    }
}

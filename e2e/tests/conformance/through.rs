//! The gateway conforms, with the server that conforms behind it, in every way that the two can speak.

use portcullis_e2e::conformance::{self, Conforming};
use portcullis_e2e::gateway::{Gateway, LIMIT};
use portcullis_e2e::http;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, Source, Transport};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::json;

use crate::suite::{Excused, LEGACY, MODERN, Required, passes};

/// How the server stands behind the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    transport: Transport,
    /// What the gateway speaks with it.
    revision: &'static str,
    /// Further lines of its manifest.
    more: &'static str,
}

/// Over streamable HTTP, as it comes.
pub(crate) const MODERN_BEHIND: Behind =
    Behind { transport: Transport::StreamableHttp, revision: "2026-07-28", more: "" };

/// Over streamable HTTP as a server of before 2026-07-28, with a session for each client of the gateway.
pub(crate) const SESSIONS_BEHIND: Behind = Behind {
    transport: Transport::StreamableHttp,
    revision: "2025-11-25",
    more: "protocolVersion: 2025-11-25\nsession: PerClient",
};

/// Over HTTP+SSE, with a session for each client of the gateway.
pub(crate) const SSE_BEHIND: Behind =
    Behind { transport: Transport::Sse, revision: "2025-11-25", more: "transport: sse\nsession: PerClient" };

/// A gateway with nothing else behind it, once it knows all that the server has; and the folder that it watches.
pub(crate) async fn gateway(server: &Conforming, behind: Behind) -> (Manifests, Gateway) {
    let manifests = Manifests::new();
    manifests.add("conforming", &server.url(behind.transport), behind.more);
    // The suite cannot send headers.
    let options = Options { allow_query_token_mcp: Some("true".into()), ..manifests.options() };
    let gateway = Gateway::start(options).await;
    gateway.connected(1).await;
    assert_eq!(gateway.server("conforming").await["protocol_version"], behind.revision);
    if false {
        everything_is_listed(&gateway).await;
    }
    (manifests, gateway)
}

/// The suite at the gateway.
async fn gateway_passes(behind: Behind, required: Required, excused: &Excused) {
    require!(real::installed(Source::Clients));
    let server = Conforming::start().await;
    let (_manifests, gateway) = gateway(&server, behind).await;
    passes(&gateway.url(&format!("/mcp?token={}", gateway.token)), required, excused).await;
}

/// Waits until the gateway has asked the server for all its lists.
async fn everything_is_listed(gateway: &Gateway) {
    let lists = [("prompts/list", "prompts", conformance::prompts().len()), ("resources/list", "resources", 3)];
    for (method, kind, count) in lists {
        wait_for(kind, LIMIT, async || {
            let list = json!({"jsonrpc": "2.0", "id": 1, "method": method}).to_string();
            let answer = http::post(&gateway.url("/mcp"), list).bearer(&gateway.token).send().await;
            let list = answer.expect("an answer").json();
            if list["result"][kind].as_array().map(Vec::len) == Some(count) { Ok(()) } else { Err(list) }
        })
        .await;
    }
}

#[tokio::test]
async fn the_gateway_conforms_to_2025_11_25_before_a_modern_server() {
    gateway_passes(MODERN_BEHIND, LEGACY, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_modern_server() {
    gateway_passes(MODERN_BEHIND, MODERN, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2025_11_25_before_a_server_with_sessions() {
    gateway_passes(SESSIONS_BEHIND, LEGACY, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_server_with_sessions() {
    gateway_passes(SESSIONS_BEHIND, MODERN, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2025_11_25_before_a_server_over_sse() {
    gateway_passes(SSE_BEHIND, LEGACY, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_server_over_sse() {
    gateway_passes(SSE_BEHIND, MODERN, &[]).await;
}

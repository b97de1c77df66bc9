//! The gateway conforms with the conforming server behind it, over every combination of revisions and transports.

use portcullis_e2e::conformance::{self, Conforming, Extended};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, Source, TestTransport};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::json;

use crate::suite::{EXTENSIONS_EXCUSED, Excused, LEGACY, MODERN, Required, passes, passes_with_extensions};

/// The connection of the server to the gateway.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Behind {
    transport: TestTransport,
    /// The transport between the gateway and the server.
    revision: &'static str,
    /// Further lines of its manifest.
    more: &'static str,
}

/// Over streamable HTTP, as it comes.
pub(crate) const MODERN_BEHIND: Behind =
    Behind { transport: TestTransport::StreamableHttp, revision: "2026-07-28", more: "" };

/// Over streamable HTTP as a server of before 2026-07-28, with one session for all clients of the gateway.
pub(crate) const SHARED_BEHIND: Behind =
    Behind { transport: TestTransport::StreamableHttp, revision: "2025-11-25", more: "protocolVersion: 2025-11-25" };

/// Over HTTP+SSE, with one session for all clients of the gateway.
pub(crate) const SHARED_SSE_BEHIND: Behind =
    Behind { transport: TestTransport::Sse, revision: "2025-11-25", more: "transport: sse" };

/// Over streamable HTTP as a server of before 2026-07-28, with a session for each client of the gateway.
pub(crate) const OWN_BEHIND: Behind = Behind {
    transport: TestTransport::StreamableHttp,
    revision: "2025-11-25",
    more: "protocolVersion: 2025-11-25\nsession: PerClient",
};

/// Over HTTP+SSE, with a session for each client of the gateway.
pub(crate) const OWN_SSE_BEHIND: Behind =
    Behind { transport: TestTransport::Sse, revision: "2025-11-25", more: "transport: sse\nsession: PerClient" };

const SHARED: &str = "whom a session that all share would ask is not known, so it may not ask";

/// 2025-11-25 before a session that all share.
const LEGACY_BEFORE_SHARED: &Excused = &[
    ("elicitation-sep1034-defaults", "elicitation-sep1034-general", SHARED),
    ("elicitation-sep1330-enums", "elicitation-sep1330-general", SHARED),
    ("tools-call-elicitation", "tools-call-elicitation", SHARED),
    ("tools-call-sampling", "tools-call-sampling", SHARED),
    (
        "tools-call-with-logging",
        "tools-call-with-logging",
        "whose call a log message of a shared session is about is not known",
    ),
];

/// 2026-07-28 before a session that all share.
const MODERN_BEFORE_SHARED: &Excused = &[
    ("input-required-result-basic-elicitation", "sep-2322-elicitation-incomplete", SHARED),
    ("input-required-result-basic-list-roots", "sep-2322-list-roots-incomplete", SHARED),
    ("input-required-result-basic-sampling", "sep-2322-sampling-incomplete", SHARED),
    ("input-required-result-capability-check", "sep-2322-respect-client-capabilities", SHARED),
    ("input-required-result-missing-input-response", "sep-2322-missing-response-rerequests", SHARED),
    ("input-required-result-multi-round", "sep-2322-multi-round-r1", SHARED),
    ("input-required-result-multiple-input-requests", "sep-2322-multiple-inputs-incomplete", SHARED),
    ("input-required-result-non-tool-request", "sep-2322-non-tool-incomplete", SHARED),
    ("input-required-result-request-state", "sep-2322-request-state-incomplete", SHARED),
    ("input-required-result-result-type", "sep-2322-result-type-included", SHARED),
    ("input-required-result-tampered-state", "sep-2322-reject-tampered-state", SHARED),
    ("input-required-result-validate-input", "sep-2322-error-on-protocol-error", SHARED),
    ("input-required-result-validate-input", "sep-2322-validate-input-responses", SHARED),
];

/// 2026-07-28 before a session of the client's own: what the server asks is asked of the client in a result.
const MODERN_BEFORE_OWN: &Excused = &[
    (
        "input-required-result-basic-elicitation",
        "sep-2322-elicitation-incomplete",
        "questions of before 2026-07-28 have no names, so the gateway cannot know that this one is \"user_name\"",
    ),
    (
        "input-required-result-ignore-extra-params",
        "sep-2322-ignore-unexpected-params",
        "the client answers before it is asked: by a name, which the question does not have",
    ),
    (
        "input-required-result-multiple-input-requests",
        "sep-2322-multiple-inputs-incomplete",
        "the server asks one question after the other, so they come one by one",
    ),
];

/// A gateway with nothing else behind it, once it knows all that the server has; and the folder that it watches.
pub(crate) async fn gateway(server: &Conforming, behind: Behind) -> (Manifests, TestGateway) {
    let manifests = Manifests::new();
    manifests.add("conforming", &server.url(behind.transport), behind.more);
    // The suite cannot send headers.
    let options = Options { allow_query_token_mcp: Some("true".into()), ..manifests.options() };
    let gateway = TestGateway::start(options).await;
    gateway.connected(1).await;
    assert_eq!(gateway.server("conforming").await["protocol_version"], behind.revision);
    everything_is_listed(&gateway).await;
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
async fn everything_is_listed(gateway: &TestGateway) {
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
async fn the_gateway_conforms_to_2025_11_25_before_a_shared_session() {
    gateway_passes(SHARED_BEHIND, LEGACY, LEGACY_BEFORE_SHARED).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2025_11_25_before_a_shared_session_over_sse() {
    gateway_passes(SHARED_SSE_BEHIND, LEGACY, LEGACY_BEFORE_SHARED).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_modern_server() {
    gateway_passes(MODERN_BEHIND, MODERN, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_shared_session() {
    gateway_passes(SHARED_BEHIND, MODERN, MODERN_BEFORE_SHARED).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_shared_session_over_sse() {
    gateway_passes(SHARED_SSE_BEHIND, MODERN, MODERN_BEFORE_SHARED).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2025_11_25_before_a_session_of_its_own() {
    gateway_passes(OWN_BEHIND, LEGACY, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2025_11_25_before_a_session_of_its_own_over_sse() {
    gateway_passes(OWN_SSE_BEHIND, LEGACY, &[]).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_session_of_its_own() {
    gateway_passes(OWN_BEHIND, MODERN, MODERN_BEFORE_OWN).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_2026_07_28_before_a_session_of_its_own_over_sse() {
    gateway_passes(OWN_SSE_BEHIND, MODERN, MODERN_BEFORE_OWN).await;
}

#[tokio::test]
async fn the_gateway_conforms_to_tasks_and_skills() {
    require!(real::installed(Source::Clients));
    let (server, manifests) = (Extended::start("conformance").await, Manifests::new());
    manifests.add("extended", &server.url(), "");
    // The suite cannot send headers.
    let options = Options { allow_query_token_mcp: Some("true".into()), ..manifests.options() };
    let gateway = TestGateway::start(options).await;
    gateway.connected(1).await;
    wait_for("the skills", LIMIT, async || {
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "skills/list"}).to_string();
        let answer = http::post(&gateway.url("/mcp"), list).bearer(&gateway.token).send().await;
        let list = answer.expect("an answer").json();
        if list["result"]["skills"].as_array().map(Vec::len) == Some(1) { Ok(()) } else { Err(list) }
    })
    .await;
    passes_with_extensions(&gateway.url(&format!("/mcp?token={}", gateway.token)), EXTENSIONS_EXCUSED).await;
}

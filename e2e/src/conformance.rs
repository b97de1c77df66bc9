//! An honest MCP server on the official Rust SDK that shows everything the conformance suite looks for, whatever way and
//! revision it is asked in.

mod ask;
mod extended;
mod handler;
mod legacy;
mod plan;
mod prompts;
mod resources;
mod tools;
mod watchers;

use std::sync::Arc;

use axum::Router;
use axum::serve::ListenerExt as _;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::task::JoinSet;

use crate::port::{self, HeldPort};
use crate::real::TestTransport;
pub use extended::Extended;
use handler::{ConformanceHandler, ConformanceState};
use legacy::LegacySessions;

/// A running server; both transports at once. It lives on the runtime of the test and ends with this value.
#[derive(Debug)]
pub struct Conforming {
    port: HeldPort,
    shared: Arc<ConformanceState>,
    _listener: JoinSet<()>,
}

impl Conforming {
    /// Starts it on a free port. Streamable HTTP answers in the caller's revision: with sessions up to 2025-11-25,
    /// without from 2026-07-28 on.
    pub async fn start() -> Self {
        let port = port::hold();
        let listener = port.listen().await.tap_io(|stream| drop(stream.set_nodelay(true)));
        let shared = Arc::default();
        let router = router(&shared);
        let mut server = JoinSet::new();
        server.spawn(async move { drop(axum::serve(listener, router).await) });
        Self { port, shared, _listener: server }
    }

    /// Number of legacy sessions that are subscribed to `test://watched-resource`.
    pub fn watching(&self) -> usize {
        self.shared.watchers.watching(resources::WATCHED)
    }

    /// The URL of the server.
    pub fn url(&self, transport: TestTransport) -> String {
        let path = match transport {
            TestTransport::Sse => "/sse",
            TestTransport::StreamableHttp => "/mcp",
        };
        format!("{}{path}", self.port.origin())
    }
}

/// The definitions of the tools that are there at first.
pub fn tools() -> Vec<Value> {
    tools::all(false)
}

/// The definitions of the prompts that are there at first.
pub fn prompts() -> Vec<Value> {
    prompts::all(false)
}

fn router(shared: &Arc<ConformanceState>) -> Router {
    let fresh = {
        let shared = Arc::clone(shared);
        move || Ok(ConformanceHandler::new(&shared))
    };
    let config = StreamableHttpServerConfig::default();
    let streamable = StreamableHttpService::new(fresh, Arc::new(LocalSessionManager::default()), config);
    LegacySessions::new(shared).router().nest_service("/mcp", streamable)
}

/// A value of the SDK's from JSON of ours.
fn typed<T: DeserializeOwned>(json: Value) -> T {
    serde_json::from_value(json).expect("our own JSON is what the type wants")
}

/// A result of the SDK's, which takes `resultType` away again for clients that do not know it.
fn result<T: DeserializeOwned>(mut json: Value) -> T {
    json["resultType"] = "complete".into();
    typed(json)
}

//! What the routes share.

use std::sync::Arc;
use std::time::Duration;

use portcullis_runtime::Readiness;
use tokio::sync::watch;

use super::access_log::AccessLog;
use super::mcp::Mcp;
use super::mcp::gate::Gate;
use super::mcp::metadata::Metadata;
use crate::auth::Authenticator;
use crate::loops::Loops;
use crate::metrics::Metrics;
use crate::pool::Published;
use crate::seal::Sealer;
use crate::source::Soundness;

/// For a request's body to arrive.
pub const BODY_LIMIT: Duration = Duration::from_secs(30);

/// What the routes share.
pub struct App {
    /// Checks tokens.
    pub auth: Authenticator,
    /// The newest catalog.
    pub published: Published,
    /// What the routes of `/mcp` share.
    pub mcp: Mcp,
    /// All metrics.
    pub metrics: Metrics,
    /// Whether the configuration is sound.
    pub soundness: watch::Receiver<Soundness>,
    /// Writes a line for each request.
    pub log: AccessLog,
    /// Whether the process may get traffic.
    pub readiness: Readiness,
    /// Seals and opens sessions.
    pub sealer: Sealer,
    /// Tells requests that have come through here before.
    pub loops: Arc<Loops>,
    /// Who may come in from where.
    pub gate: Gate,
    /// Where tokens come from.
    pub metadata: Metadata,
    /// Where other replicas find this one, as `http://HOST:PORT`.
    pub replica: Option<Arc<str>>,
    /// Settings.
    pub options: FrontOptions,
}

/// Settings of the routes.
#[derive(Clone, Copy, Debug)]
pub struct FrontOptions {
    /// Whether `?token=` counts.
    pub allow_query_token: bool,
    /// Whether it counts on `/mcp` and `/sse` too.
    pub allow_query_token_mcp: bool,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// How long a session lasts.
    pub session_life: Duration,
    /// A call that is not answered by then goes on as a stream, for callers of `/mcp` that take one.
    pub stream_after: Duration,
    /// Open streams of clients in all.
    pub max_sessions: usize,
    /// Open streams of one caller.
    pub max_sessions_per_subject: usize,
}

//! What the routes share.

use std::time::Duration;

use portcullis_runtime::Readiness;
use tokio::sync::watch;

use super::access_log::AccessLog;
use super::mcp::Mcp;
use crate::auth::Authenticator;
use crate::metrics::Metrics;
use crate::pool::Published;
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
    /// Settings.
    pub options: FrontOptions,
}

/// Settings of the routes.
#[derive(Clone, Copy, Debug)]
pub struct FrontOptions {
    /// Whether `?token=` counts.
    pub allow_query_token: bool,
    /// Bytes of a request's body.
    pub max_body: usize,
}

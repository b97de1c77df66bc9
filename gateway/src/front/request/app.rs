//! The state that all routes share.

use std::sync::Arc;
use std::time::Duration;

use portcullis_access::Quotas;
use portcullis_runtime::Readiness;
use tokio::sync::watch;

use crate::auth::Authenticator;
use crate::call::caller_lists::CallerLists;
use crate::catalog::PublishedCatalog;
use crate::explain::explainer::Explainer;
use crate::front::http::access_log::AccessLog;
use crate::front::http::audit_log::AuditLog;
use crate::front::http::origin_policy::OriginPolicy;
use crate::front::http::resource_metadata::Metadata;
use crate::front::mcp::state::Mcp;
use crate::outbound::Outbound;
use crate::seal::Sealer;
use crate::server::loops::Loops;
use crate::source::Soundness;
use crate::telemetry::metrics::Metrics;
use crate::tls::Certificate;

/// The state that all routes share.
pub(crate) struct App {
    /// Checks tokens.
    pub(crate) auth: Authenticator,
    /// The newest catalog.
    pub(crate) published: PublishedCatalog,
    /// The stores of `/mcp`.
    pub(crate) mcp: Mcp,
    /// All metrics.
    pub(crate) metrics: Metrics,
    /// Whether the configuration is sound.
    pub(crate) soundness: watch::Receiver<Soundness>,
    /// The certificate of the listener, if it speaks TLS.
    pub(crate) certificate: Option<Certificate>,
    /// Writes a line for each request.
    pub(crate) log: AccessLog,
    /// Writes a line for each decision on a call, if there is an audit log.
    pub(crate) audit: Option<AuditLog>,
    /// Whether the process may get traffic.
    pub(crate) readiness: Readiness,
    /// Seals and opens sessions.
    pub(crate) sealer: Sealer,
    /// Recognizes requests that have come through here before.
    pub(crate) loops: Arc<Loops>,
    /// Makes the credentials of calls to servers that learn who calls.
    pub(crate) outbound: Arc<Outbound>,
    /// What servers list for single callers.
    pub(crate) caller_lists: CallerLists,
    /// Counts calls against the limits of policies.
    pub(crate) quotas: Arc<Quotas>,
    /// Explains decisions about access.
    pub(crate) explainer: Explainer,
    /// The origins and hosts that are admitted.
    pub(crate) origin_policy: OriginPolicy,
    /// The authorization servers that clients are told.
    pub(crate) metadata: Metadata,
    /// The address of this replica for others, as `http://HOST:PORT`.
    pub(crate) replica: Option<Arc<str>>,
    /// Settings.
    pub(crate) options: FrontOptions,
}

/// Settings of the routes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrontOptions {
    /// Whether `?token=` counts.
    pub(crate) allow_query_token: bool,
    /// Whether it counts on `/mcp` and `/sse` too.
    pub(crate) allow_query_token_mcp: bool,
    /// Bytes of a request's body.
    pub(crate) max_body: usize,
    /// Bytes of the instructions of several servers together.
    pub(crate) instructions: usize,
    /// The life of a session.
    pub(crate) session_life: Duration,
    /// A call that is not answered by then goes on as a stream, for callers of `/mcp` that take one.
    pub(crate) stream_after: Duration,
}

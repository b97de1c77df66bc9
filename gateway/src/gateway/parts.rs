//! The parts of the gateway before they run: what the settings name is opened, stores begin empty.

use std::fmt::Display;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, LazyLock};

use kube::Client;
use portcullis_mcp::guard::Guard;
use portcullis_mcp::http1::stream::system_roots;
use portcullis_runtime::{LogGuard, LogSink};
use tokio::sync::{Notify, Semaphore, mpsc};

use super::StartError;
use crate::auth::Authenticator;
use crate::client_sessions::ClientInbox;
use crate::config::{Config, Problem, SecretsConfig};
use crate::credentials::Credentials;
use crate::front::http::audit_file::AuditFile;
use crate::front::mcp::state::Mcp;
use crate::front::mcp::state::catalog_changes::CatalogChanges;
use crate::front::mcp::state::replicas::Replicas;
use crate::front::mcp::state::resource_subscriptions::ResourceSubscriptions;
use crate::front::mcp::state::server_requests::ServerRequests;
use crate::front::mcp::state::sessions::SessionStore;
use crate::front::mcp::state::streams::{StreamLimits, Streams};
use crate::front::mcp::state::suspended_calls::SuspendedCalls;
use crate::front::mcp::state::task_subscriptions::TaskSubscriptions;
use crate::identity::{AudienceRules, Tokens, mounted};
use crate::key_file::KeyFile;
use crate::outbound::{Endpoints, Outbound, SigningKeys, TokenClient};
use crate::seal::{Keys, Sealer};
use crate::secrets::Secrets;
use crate::secrets::cluster::Store;
use crate::server::loops::Loops;
use crate::server::{HANDSHAKES, ServerContext, Update};
use crate::source::Source;
use crate::telemetry::metrics::Metrics;
use crate::tls::{Certificate, CertificateFiles};

/// The parts that are opened first.
pub(super) struct OpenedParts {
    pub(super) auth: Authenticator,
    pub(super) source: Source,
    pub(super) session_keys: Option<(KeyFile<Keys>, Keys)>,
    pub(super) assertion_keys: Option<(KeyFile<SigningKeys>, SigningKeys)>,
    pub(super) certificate_files: Option<CertificateFiles>,
}

/// The files of keys that are watched.
pub(super) struct KeyFiles {
    pub(super) sessions: Option<KeyFile<Keys>>,
    pub(super) assertions: Option<KeyFile<SigningKeys>>,
}

/// Opens the resources that the settings name, or reports all problems at once.
pub(super) fn opened(config: &Config, client: Option<&Client>, metrics: &Metrics) -> Result<OpenedParts, StartError> {
    let auth = Authenticator::with_cluster(&config.auth, client, metrics.clone());
    let source = Source::open(&config.source, client, metrics.clone());
    let sessions = config.mcp.session_keys.as_deref().map(KeyFile::open).transpose();
    let assertions = config.outbound.assertion_keys.as_deref().map(KeyFile::open).transpose();
    let certificate = config.tls.as_ref().map(CertificateFiles::open).transpose();
    match (auth, source, sessions, assertions, certificate) {
        (Ok(auth), Ok(source), Ok(session_keys), Ok(assertion_keys), Ok(certificate_files)) => {
            Ok(OpenedParts { auth, source, session_keys, assertion_keys, certificate_files })
        }
        (auth, source, sessions, assertions, certificate) => {
            let mut problems: Vec<Problem> =
                auth.err().into_iter().flatten().map(|problem| problem.to_string()).collect();
            problems.extend([source.err(), sessions.err(), assertions.err(), certificate.err()].into_iter().flatten());
            Err(StartError::Settings(problems))
        }
    }
}

/// Opens the audit log, if there is one.
pub(super) fn audit_log(config: &Config) -> Result<Option<(LogSink, LogGuard)>, StartError> {
    let Some(audit) = &config.audit else { return Ok(None) };
    let problem = |reason: &dyn Display| {
        let path = audit.path.as_deref().map_or("stdout".into(), |path| path.display().to_string());
        StartError::Settings(vec![format!("AUDIT_LOG is {path}: it cannot be written: {reason}")])
    };
    let opened = match &audit.path {
        None => LogSink::keeping(std::io::stdout()),
        Some(path) => LogSink::keeping(AuditFile::open(path).map_err(|error| problem(&error))?),
    };
    opened.map(Some).map_err(|error| problem(&error))
}

/// The initially empty state of MCP clients.
pub(super) fn mcp_state(config: &Config, metrics: &Metrics, certificate: Option<&Certificate>) -> Mcp {
    let limits = StreamLimits { all: config.mcp.max_sessions, of_subject: config.mcp.max_sessions_per_subject };
    let (streams, sessions) =
        (Arc::new(Streams::new(limits, metrics.client_streams.clone())), Arc::<SessionStore>::default());
    Mcp {
        catalog_changes: CatalogChanges::default(),
        legacy_streams: Arc::default(),
        resource_subscriptions: ResourceSubscriptions::default(),
        task_subscriptions: TaskSubscriptions::default(),
        replicas: Replicas::new(certificate.map(|certificate| certificate.own.clone())),
        server_requests: Arc::new(ServerRequests::new(
            streams.clone(),
            sessions.clone(),
            metrics.client_questions.clone(),
        )),
        suspended_calls: SuspendedCalls::new(metrics.waiting_calls.clone()),
        streams,
        sessions,
    }
}

/// The gateway's own tokens, of which there are none yet.
fn tokens(config: &Config, auth: &Authenticator) -> Tokens {
    let account = config.identity.account.as_ref();
    let rules = AudienceRules {
        allowed: config.identity.allowed.clone(),
        of_api_server: account.map(|_| mounted().api_audiences).unwrap_or_default(),
        of_gateway: auth.audiences(),
        own_namespace: account.map(|account| account.namespace.clone()),
    };
    Tokens::new(account.is_some(), rules)
}

/// The context for the task of every server.
pub(super) fn server_context(
    config: &Config,
    auth: &Authenticator,
    metrics: &Metrics,
    (sealer, assertion_keys): (&Sealer, Option<SigningKeys>),
    inbox: Arc<dyn ClientInbox>,
    updates: mpsc::Sender<Update>,
) -> ServerContext {
    let secrets = match &config.secrets {
        SecretsConfig::None => Secrets::Folder(None),
        SecretsConfig::Folder(folder) => Secrets::Folder(Some(folder.clone())),
        SecretsConfig::Cluster(namespaces) => Secrets::Cluster(Arc::new(Store::new(namespaces.clone()))),
    };
    let (tokens, guard) = (Arc::new(tokens(config, auth)), Arc::new(Guard::new(config.guard.clone())));
    let endpoints = Endpoints {
        client: TokenClient::new(guard.clone()),
        secrets: secrets.clone(),
        own_tokens: tokens.clone(),
        token_urls: config.outbound.token_urls.clone(),
        metrics: metrics.clone(),
    };
    let outbound = Arc::new(Outbound::new(config.outbound.issuer.clone(), assertion_keys, endpoints));
    ServerContext {
        roots: LazyLock::new(system_roots),
        credentials: Credentials { secrets, tokens, outbound },
        guard,
        max_message: config.max_message,
        metrics: metrics.clone(),
        dirty: Notify::new(),
        published: Notify::new(),
        updates,
        handshakes: Semaphore::new(HANDSHAKES),
        touched: Arc::default(),
        inbox,
        away: AtomicU32::new(0),
        loops: Loops::new(sealer.clone()),
        quotas: Arc::default(),
    }
}

//! Assembles, starts and stops the whole gateway.

mod parts;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use futures_util::FutureExt as _;
use kube::Client;
use portcullis_crds::report;
use portcullis_runtime::admin::{self, AdminState};
use portcullis_runtime::serve::{self, ServeError, Tls};
use portcullis_runtime::{
    Connections, Drain, Failure, Latch, Limits, LogGuard, LogSink, Readiness, Supervisor, WorkerThreads, Workers,
    memory, process, signal,
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::call::caller_lists::CallerLists;
use crate::catalog::PublishedCatalog;
use crate::catalog::figures::CatalogFigures;
use crate::catalog::metrics::OfServers;
use crate::config::{Config, Problem, SecretsConfig};
use crate::explain::explainer::Explainer;
use crate::front::http::access_log::AccessLog;
use crate::front::http::audit_log::AuditLog;
use crate::front::http::origin_policy::OriginPolicy;
use crate::front::http::resource_metadata::Metadata;
use crate::front::mcp::notify;
use crate::front::rest::explain;
use crate::front::{App, Front, FrontOptions};
use crate::identity::{self, Account, Issuer};
use crate::kubernetes as cluster;
use crate::learn_addresses::{self, API_HOST};
use crate::outbound::Outbound;
use crate::pool::{CredentialChanges, Latches, Pool};
use crate::seal::Sealer;
use crate::secrets::{self, Secrets};
use crate::server::ServerContext;
use crate::server::Update;
use crate::source::SourceConfig;
use crate::source::{Configuration, Feed, Soundness, Source};
use crate::status::feed::Board;
use crate::status::route as status;
use crate::telemetry::metrics::{Kept, Metrics, Sinks};
use crate::tls::CertificateFiles;
use parts::{KeyFiles, OpenedParts, audit_log, mcp_state, opened, server_context};
use portcullis_mcp::guard::Guard;

/// Additional connections that are reserved for probes.
const KEPT: usize = 16;

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    config: Config,
    listener: TcpListener,
    admin: Option<TcpListener>,
    source: Source,
    client: Option<Client>,
    /// A client of the API server without credentials, if the gateway requests tokens.
    stranger: Option<Client>,
    shared: Arc<ServerContext>,
    updated: mpsc::Receiver<Update>,
    pool: Pool,
    board: Arc<Board>,
    app: Arc<App>,
    latches: Latches,
    /// The keys of tokens, and the other files of keys.
    keys: (Latch, KeyFiles),
    certificate_files: Option<CertificateFiles>,
    log: Option<LogSink>,
    /// The audit log ends after everything else.
    audit: Option<(LogSink, LogGuard)>,
    workers: Workers,
}

/// The reason the gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Settings are invalid; one line each.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<Problem>),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ServeError),
}

impl Gateway {
    /// Reads keys and servers and opens the listeners. `log` receives the lines about requests.
    ///
    /// # Errors
    /// See [`StartError`]; all invalid settings are reported at once.
    pub async fn bind(config: Config, log: Option<LogSink>) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let (client, stranger) = clients(&config).await.map_err(|problem| StartError::Settings(vec![problem]))?;
        let OpenedParts { auth, source, session_keys, assertion_keys, certificate_files } =
            opened(&config, client.as_ref(), &metrics)?;
        let audit = audit_log(&config)?;
        let (sessions, sealer) = match session_keys {
            Some((file, keys)) => (Some(file), Sealer::new(keys)),
            None => (None, Sealer::random()),
        };
        let (assertions, assertion_keys) = assertion_keys.unzip();
        let (updates, updated) = mpsc::channel(notify::MAX_WAITING_UPDATES);
        let certificate = certificate_files.as_ref().map(CertificateFiles::certificate);
        let mcp = mcp_state(&config, &metrics, certificate.as_ref());
        let keys = (&sealer, assertion_keys);
        let shared = Arc::new(server_context(&config, &auth, &metrics, keys, mcp.server_requests.clone(), updates));
        let outbound = shared.credentials.outbound.clone();
        let published = PublishedCatalog::default();
        let board = Arc::new(Board::new(published.clone(), shared.touched.clone()));
        let readiness = Readiness::default();
        let latches =
            Latches { configuration: readiness.latch("configuration"), sessions: readiness.latch("first sessions") };
        let latch = readiness.latch("keys");
        let (listener, admin) = listeners(&config).await?;
        let port = local(&listener, config.listen).port();
        let is_secure = certificate.is_some();
        let servers = config.mcp.authorization_servers.clone();
        let metadata = Metadata::new(config.mcp.public_url.clone(), is_secure, servers, &auth);
        let replica = config.mcp.replica.as_ref().map(|replica| replica.url(port, is_secure));
        if let Some(replica) = &replica {
            mcp.server_requests.is_at(sealer.clone(), replica.clone());
        }
        let app = Arc::new(App {
            auth,
            published: published.clone(),
            mcp,
            metrics,
            soundness: source.feed().soundness,
            certificate,
            log: AccessLog::new(log.clone(), config.log.payloads),
            audit: audit
                .as_ref()
                .zip(config.audit.as_ref())
                .map(|((sink, _), config)| AuditLog::new(sink.clone(), config.required)),
            readiness,
            sealer,
            loops: shared.loops.clone(),
            caller_lists: CallerLists::new(outbound.clone(), shared.metrics.clone()),
            outbound,
            explainer: Explainer::new(published.clone(), shared.quotas.clone()),
            quotas: shared.quotas.clone(),
            origin_policy: OriginPolicy::new(config.mcp.origin_policy.clone()),
            metadata,
            replica: replica.map(Into::into),
            options: options(&config),
        });
        let pool = Pool::new(shared.clone(), published, board.clone())
            .with_tenancy(config.tenancy)
            .with_policy_default(config.policy_default);
        let keys = (latch, KeyFiles { sessions, assertions });
        Ok(Self {
            config,
            listener,
            admin,
            source,
            client,
            stranger,
            shared,
            updated,
            pool,
            board,
            app,
            latches,
            keys,
            certificate_files,
            log,
            audit,
            workers: Workers::default(),
        })
    }

    /// The same, serving callers and servers on these threads.
    #[must_use]
    pub fn with_workers(self, threads: &WorkerThreads) -> Self {
        Self { pool: self.pool.with_workers(threads.workers()), workers: threads.workers(), ..self }
    }

    /// The address for callers.
    pub fn address(&self) -> SocketAddr {
        local(&self.listener, self.config.listen)
    }

    /// The address of metrics and probes: that for callers unless a separate one is set.
    pub fn admin_address(&self) -> SocketAddr {
        match (&self.admin, self.config.admin) {
            (Some(listener), Some(address)) => local(listener, address),
            _ => self.address(),
        }
    }

    /// Serves until `signal`, then drains.
    ///
    /// # Errors
    /// A task ended unexpectedly: the process should exit with a code other than 0.
    pub async fn run(self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let (address, admin_address) = (self.address(), self.admin_address());
        let Self { config, listener, admin, source, client, stranger, shared, updated, .. } = self;
        let Self { pool, board, app, latches, keys, certificate_files, log, audit, workers, .. } = self;
        let mut tasks = Supervisor::new();
        let connections = Arc::new(Connections::default());
        let sinks = Sinks { log, audit: audit.as_ref().map(|(sink, _)| sink.clone()) };
        export(&app.metrics, app.published.clone(), &connections, sinks);
        let Feed { configurations, soundness, secrets: files } = source.feed();
        let (folder, changes) =
            start_credentials(&mut tasks, shared.credentials.secrets.clone(), client.clone(), files);
        let tokens = shared.credentials.tokens.changes();
        start_own_tokens(&mut tasks, app.outbound.clone());
        start_tokens(&mut tasks, &config, app.clone(), &shared, client.clone().zip(stranger));
        if !config.guard.is_empty() {
            start_guard(&mut tasks, shared.guard.clone(), client);
        }
        let answered = start_pool(&mut tasks, pool, (configurations, changes, tokens), latches);
        start_numbering(&mut tasks, board.clone());
        start_notifying(&mut tasks, app.clone(), shared, updated);
        start_source(&mut tasks, source, folder, (soundness, app.metrics.clone()));
        start_keys(&mut tasks, app.clone(), keys);
        let tls = start_tls(&mut tasks, &app, certificate_files);
        start_account(&mut tasks, config.memory_limit);
        let front = start_admin(&mut tasks, &app, admin, board, config.grace);
        let limits = limits(config.max_connections, config.grace);
        let answers = move |peer| front.connection(peer);
        let serving = serve::serve_on(workers, (listener, tls), answers, limits, connections, tasks.shutdown());
        tasks.spawn("listener", async move {
            let ended = serving.await;
            drop(answered);
            ended
        });
        info!(%address, %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
        let readiness = app.readiness.clone();
        // Slightly longer than the listener's own grace period, so that it ends in order.
        let grace = config.grace + Duration::from_secs(4);
        let ended = tasks.run(signal, Drain { readiness, delay: config.drain, grace }).await;
        drop(audit);
        ended
    }
}

// === the tasks ===

fn start_guard(tasks: &mut Supervisor, guard: Arc<Guard>, client: Option<Client>) {
    let (api_host, stop) = (std::env::var(API_HOST).ok(), tasks.shutdown());
    let learning = async move { learn_addresses::run(&guard, api_host, client, stop_of(stop)).await };
    tasks.spawn("guard", ended(learning));
}

/// Running calls need their sessions: the pool stops only after the returned value is dropped.
fn start_pool(
    tasks: &mut Supervisor,
    pool: Pool,
    (configurations, secrets, tokens): (
        watch::Receiver<Arc<Configuration>>,
        watch::Receiver<u64>,
        watch::Receiver<u64>,
    ),
    latches: Latches,
) -> oneshot::Sender<()> {
    let (answered, all_answered) = oneshot::channel::<()>();
    let stop = tasks.shutdown();
    let last = async move {
        stop.requested().await;
        let _ = all_answered.await;
    };
    let credentials = CredentialChanges { secrets, tokens };
    tasks.spawn("pool", ended(async move { pool.run(configurations, credentials, latches, last).await }));
    answered
}

/// Requests the tokens that servers need, if the gateway has a service account.
fn start_tokens(
    tasks: &mut Supervisor,
    config: &Config,
    app: Arc<App>,
    shared: &ServerContext,
    clients: Option<(Client, Client)>,
) {
    let (Some(account), Some((client, stranger))) = (config.identity.account.clone(), clients) else { return };
    let (tokens, metrics, stop) = (shared.credentials.tokens.clone(), app.metrics.clone(), tasks.shutdown());
    let accepts = move |token: String| {
        let app = app.clone();
        async move { app.auth.accepts(&token).await }.boxed()
    };
    let account = Account::new(account, &identity::mounted());
    let issuer = Issuer { client, stranger, account, accepts: Arc::new(accepts) };
    let requesting = async move { identity::run(&tokens, &issuer, &metrics, stop_of(stop)).await };
    tasks.spawn("tokens", ended(requesting));
}

/// Keeps the tokens by which servers know the gateway itself.
fn start_own_tokens(tasks: &mut Supervisor, outbound: Arc<Outbound>) {
    let stop = tasks.shutdown();
    tasks.spawn("own tokens", ended(async move { until(stop, outbound.keep_own_tokens()).await }));
}

fn start_numbering(tasks: &mut Supervisor, board: Arc<Board>) {
    let stop = tasks.shutdown();
    tasks.spawn("board", ended(async move { until(stop, board.follow()).await }));
}

fn start_notifying(tasks: &mut Supervisor, app: Arc<App>, shared: Arc<ServerContext>, updated: mpsc::Receiver<Update>) {
    let stop = tasks.shutdown();
    let notifying = async move { notify::run(app, &shared.published, updated, stop_of(stop)).await };
    tasks.spawn("changes", ended(notifying));
}

fn start_source(
    tasks: &mut Supervisor,
    source: Source,
    secrets: Option<PathBuf>,
    (soundness, metrics): (watch::Receiver<Soundness>, Metrics),
) {
    let stop = tasks.shutdown();
    tasks.spawn("soundness", ended(tell_soundness(soundness, metrics, stop_of(stop))));
    let stop = tasks.shutdown();
    tasks.spawn("source", ended(follow(source, secrets, stop_of(stop))));
}

/// Watches the keys of tokens, and the other files of keys.
fn start_keys(tasks: &mut Supervisor, app: Arc<App>, (latch, files): (Latch, KeyFiles)) {
    let (sealer, outbound, metrics) = (app.sealer.clone(), app.outbound.clone(), app.metrics.clone());
    let stop = tasks.shutdown();
    tasks.spawn("keys", ended(async move { until(stop, app.auth.keep_keys(latch)).await }));
    if let Some(file) = files.sessions {
        let (stop, is_ok) = (tasks.shutdown(), metrics.session_keys_ok);
        let following = async move { until(stop, file.follow(|keys| sealer.replace(keys), is_ok)).await };
        tasks.spawn("session keys", ended(following));
    }
    if let Some(file) = files.assertions {
        let (stop, is_ok) = (tasks.shutdown(), metrics.assertion_keys_ok);
        let following = async move { until(stop, file.follow(|keys| outbound.replace_keys(keys), is_ok)).await };
        tasks.spawn("assertion keys", ended(following));
    }
}

/// Watches the files of TLS, if there are any. Returns the TLS of the listener.
fn start_tls(tasks: &mut Supervisor, app: &App, files: Option<CertificateFiles>) -> Option<Tls> {
    let (files, metrics, stop) = (files?, app.metrics.clone(), tasks.shutdown());
    let listener = files.certificate().listener;
    tasks.spawn("certificate", ended(async move { until(stop, files.follow(metrics)).await }));
    Some(listener)
}

fn start_account(tasks: &mut Supervisor, limit: Option<u64>) {
    let (limit, stop) = (memory::available(limit), tasks.shutdown());
    tasks.spawn("memory", ended(memory::follow(memory::account(), limit, stop)));
}

/// Serves probes and metrics on a separate listener, if there is one. Returns the handler for callers.
fn start_admin(
    tasks: &mut Supervisor,
    app: &Arc<App>,
    listener: Option<TcpListener>,
    board: Arc<Board>,
    grace: Duration,
) -> Arc<Front> {
    let probes = AdminState::new(app.readiness.clone(), app.metrics.registry.clone());
    let Some(listener) = listener else { return Front::new(app.clone(), admin::routes(probes)) };
    let limits = Limits { drain_grace: grace, ..Limits::of_probes() };
    let status = status::route(board, probes.turns.clone(), tasks.shutdown());
    let explain = explain::admin_route(app.clone(), probes.turns.clone());
    let router = admin::router_with(probes, vec![(report::PATH, status), (explain::PATH, explain)]);
    let probes = serve::router_with_probes(router, &admin::PROBES);
    tasks.spawn("admin listener", serve::serve(listener, probes, limits, Arc::default(), tasks.shutdown()));
    Front::new(app.clone(), Router::new())
}

fn options(config: &Config) -> FrontOptions {
    FrontOptions {
        allow_query_token: config.allow_query_token,
        allow_query_token_mcp: config.mcp.allow_query_token,
        max_body: config.max_body,
        stream_after: config.mcp.stream_after,
        session_life: config.mcp.session_life,
        instructions: config.mcp.max_instructions,
    }
}

/// Watches the Secrets of a cluster, if they are there. Returns the folder to watch, if they are in one, and the
/// counter of their changes: `files` watches a folder.
fn start_credentials(
    tasks: &mut Supervisor,
    secrets: Secrets,
    client: Option<Client>,
    files: watch::Receiver<u64>,
) -> (Option<PathBuf>, watch::Receiver<u64>) {
    let store = match secrets {
        Secrets::Folder(folder) => return (folder, files),
        Secrets::Cluster(store) => store,
    };
    let changes = store.changes();
    if let Some(client) = client {
        let stop = tasks.shutdown();
        let following = async move { secrets::follow(&store, client, stop_of(stop)).await };
        tasks.spawn("credentials", ended(following));
    }
    (None, changes)
}

/// The listener for callers, and that for metrics and probes, if there is a separate one.
async fn listeners(config: &Config) -> Result<(TcpListener, Option<TcpListener>), ServeError> {
    let listener = serve::listen(config.listen).await?;
    let admin = match config.admin {
        Some(address) => Some(serve::listen(address).await?),
        None => None,
    };
    Ok((listener, admin))
}

fn local(listener: &TcpListener, asked: SocketAddr) -> SocketAddr {
    listener.local_addr().unwrap_or(asked)
}

fn limits(connections: usize, grace: Duration) -> Limits {
    Limits { connections, kept: KEPT, has_strangers: true, drain_grace: grace, ..Limits::default() }
}

async fn ended(work: impl Future<Output = ()>) -> Result<(), std::convert::Infallible> {
    work.await;
    Ok(())
}

async fn until(stop: portcullis_runtime::Shutdown, work: impl Future<Output = ()>) {
    tokio::select! {
        () = work => {}
        () = stop.requested() => {}
    }
}

/// A client of the Kubernetes API, if any part needs one, and one without credentials, if the gateway requests tokens.
async fn clients(config: &Config) -> Result<(Option<Client>, Option<Client>), Problem> {
    let of_source = matches!(config.source, SourceConfig::ConfigMaps(_));
    let of_secrets = matches!(config.secrets, SecretsConfig::Cluster(_));
    let kubeconfig = config.kubeconfig.as_deref();
    let stranger = match config.identity.account {
        Some(_) => Some(cluster::stranger(kubeconfig).await?),
        None => None,
    };
    if !of_source && !of_secrets && config.auth.kubernetes.is_none() && stranger.is_none() {
        return Ok((None, None));
    }
    Ok((Some(cluster::client(kubeconfig).await?), stranger))
}

async fn stop_of(stop: portcullis_runtime::Shutdown) {
    stop.requested().await;
}

async fn follow(source: Source, secrets: Option<std::path::PathBuf>, stop: impl Future<Output = ()>) {
    let reload = signal::reload()
        .inspect_err(|error| warn!(%error, "cannot listen for SIGHUP; only changes reload the configuration"))
        .ok();
    tokio::select! {
        () = source.follow(secrets, reload) => {}
        () = stop => {}
    }
}

/// Reports each change of the configuration's soundness once, in the log and in metrics.
async fn tell_soundness(mut soundness: watch::Receiver<Soundness>, metrics: Metrics, stop: impl Future<Output = ()>) {
    let telling = async {
        let mut known = Soundness::default();
        loop {
            let now = soundness.borrow_and_update().clone();
            if now != known {
                for problem in now.problems.iter().filter(|problem| !known.problems.contains(problem)) {
                    error!(problem, "configuration refused; the last good one stays in use");
                }
                if now.problems.is_empty() {
                    info!("the configuration is valid again");
                }
                metrics.configuration_ok.set(i64::from(now.problems.is_empty()));
                known = now;
            }
            if soundness.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        () = telling => {}
        () = stop => {}
    }
}

/// Exports numbers that other parts keep, collected on each scrape.
fn export(metrics: &Metrics, published: PublishedCatalog, connections: &Arc<Connections>, sinks: Sinks) {
    // Fails only on a second registration, a bug that the metrics test would show.
    let _ = process::register(&metrics.registry);
    let _ = metrics.registry.register(Box::new(Kept::new(connections.clone(), sinks)));
    let _ = metrics.registry.register(Box::new(CatalogFigures::new(published.clone())));
    let _ = metrics.registry.register(Box::new(OfServers::new(published)));
}

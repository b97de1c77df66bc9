//! The whole gateway: everything is made here, started here, and stopped here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::Router;
use kube::Client;
use portcullis_crds::report;
use portcullis_runtime::admin::{self, AdminState};
use portcullis_runtime::serve::{self, ServeError};
use portcullis_runtime::{
    Connections, Drain, Failure, Latch, Limits, LogSink, Readiness, Supervisor, WorkerThreads, Workers, memory,
    process, signal,
};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tracing::{error, info, warn};

use crate::auth::Authenticator;
use crate::board::Board;
use crate::cluster;
use crate::config::{Config, Problem, SecretsConfig, SourceConfig};
use crate::front::access_log::AccessLog;
use crate::front::mcp::Mcp;
use crate::front::mcp::asking::Asking;
use crate::front::mcp::changes::{self, Changes, Update};
use crate::front::mcp::gate::Gate;
use crate::front::mcp::live::Live;
use crate::front::mcp::metadata::Metadata;
use crate::front::mcp::owner::Owners;
use crate::front::mcp::parking::Parking;
use crate::front::mcp::streams::{StreamLimits, Streams};
use crate::front::mcp::topics::Topics;
use crate::front::{App, Front, FrontOptions, status};
use crate::guard::Guard;
use crate::guard::learn::{self, API_HOST};
use crate::loops::Loops;
use crate::metrics::{Kept, Metrics, OfServers};
use crate::pool::{Latches, Pool, Published};
use crate::seal::Sealer;
use crate::seal::file::KeyFile;
use crate::secrets::cluster::Store;
use crate::secrets::{self, Secrets};
use crate::server::{HANDSHAKES, Shared};
use crate::source::{Feed, Soundness, Source};
use crate::upstream::stream::system_roots;

/// Connections of callers besides the setting, for probes alone.
const KEPT: usize = 16;

/// A gateway that listens but does not serve yet.
pub struct Gateway {
    config: Config,
    listener: TcpListener,
    admin: Option<TcpListener>,
    source: Source,
    secrets: Secrets,
    guard: Arc<Guard>,
    client: Option<Client>,
    shared: Arc<Shared>,
    updated: mpsc::Receiver<Update>,
    pool: Pool,
    board: Arc<Board>,
    app: Arc<App>,
    latches: Latches,
    /// Of tokens and of sessions.
    keys: (Latch, Option<KeyFile>),
    log: Option<LogSink>,
    workers: Workers,
}

/// Why the gateway does not start.
#[derive(Debug, Error)]
pub enum StartError {
    /// Settings are wrong; one line each.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<Problem>),
    /// An address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ServeError),
}

impl Gateway {
    /// Reads keys and servers and opens the listeners. `log` takes the lines about requests.
    ///
    /// # Errors
    /// See [`StartError`]; all wrong settings are told at once.
    pub async fn bind(config: Config, log: Option<LogSink>) -> Result<Self, StartError> {
        let metrics = Metrics::new();
        let client = client(&config).await.map_err(|problem| StartError::Settings(vec![problem]))?;
        let auth = Authenticator::with_cluster(&config.auth, client.as_ref(), metrics.clone());
        let source = Source::open(&config.source, client.as_ref(), metrics.clone());
        let keys = config.mcp.session_keys.as_deref().map(KeyFile::open).transpose();
        let (auth, source, keys) = match (auth, source, keys) {
            (Ok(auth), Ok(source), Ok(keys)) => (auth, source, keys),
            (auth, source, keys) => {
                let mut problems: Vec<Problem> =
                    auth.err().into_iter().flatten().map(|problem| problem.to_string()).collect();
                problems.extend(source.err());
                problems.extend(keys.err());
                return Err(StartError::Settings(problems));
            }
        };
        let secrets = match &config.secrets {
            SecretsConfig::None => Secrets::Folder(None),
            SecretsConfig::Folder(folder) => Secrets::Folder(Some(folder.clone())),
            SecretsConfig::Cluster(namespaces) => Secrets::Cluster(Arc::new(Store::new(namespaces.clone()))),
        };
        let guard = Arc::new(Guard::new(config.guard.clone()));
        let (updates, updated) = mpsc::channel(changes::UPDATES);
        let limits = StreamLimits { all: config.mcp.max_sessions, of_subject: config.mcp.max_sessions_per_subject };
        let (streams, live) = (Arc::new(Streams::new(limits, metrics.client_streams.clone())), Arc::<Live>::default());
        let asking = Arc::new(Asking::new(streams.clone(), live.clone(), metrics.client_questions.clone()));
        let (key_file, sealer) = match keys {
            Some((file, keys)) => (Some(file), Sealer::new(keys)),
            None => (None, Sealer::random()),
        };
        let loops = Loops::new(sealer.clone());
        let shared = Arc::new(Shared {
            roots: LazyLock::new(system_roots),
            secrets: secrets.clone(),
            guard: guard.clone(),
            max_message: config.max_message,
            metrics: metrics.clone(),
            dirty: Notify::new(),
            published: Notify::new(),
            updates,
            handshakes: Semaphore::new(HANDSHAKES),
            touched: Arc::default(),
            asking: asking.clone(),
            away: AtomicU32::new(0),
            loops: loops.clone(),
        });
        let published = Published::default();
        let board = Arc::new(Board::new(published.clone(), shared.touched.clone()));
        let readiness = Readiness::default();
        let latches =
            Latches { configuration: readiness.latch("configuration"), sessions: readiness.latch("first sessions") };
        let latch = readiness.latch("keys");
        let listener = serve::listen(config.listen).await?;
        let admin = match config.admin {
            Some(address) => Some(serve::listen(address).await?),
            None => None,
        };
        let port = local(&listener, config.listen).port();
        let metadata = Metadata::new(config.mcp.public_url.clone(), config.mcp.authorization_servers.clone(), &auth);
        let mcp = Mcp {
            streams,
            changes: Changes::default(),
            channels: Arc::default(),
            topics: Topics::default(),
            owners: Owners::default(),
            live,
            asking: asking.clone(),
            parking: Parking::new(metrics.waiting_calls.clone()),
        };
        let replica = config.mcp.replica.as_ref().map(|replica| replica.url(port));
        if let Some(replica) = &replica {
            asking.is_at(sealer.clone(), replica.clone());
        }
        let app = Arc::new(App {
            auth,
            published: published.clone(),
            mcp,
            metrics,
            soundness: source.feed().soundness,
            log: AccessLog::new(log.clone(), config.log.payloads),
            readiness,
            sealer,
            loops,
            gate: Gate::new(config.mcp.gate.clone()),
            metadata,
            replica: replica.map(Into::into),
            options: options(&config),
        });
        let pool = Pool::new(shared.clone(), published, board.clone()).with_tenancy(config.tenancy);
        let keys = (latch, key_file);
        Ok(Self {
            config,
            listener,
            admin,
            source,
            secrets,
            guard,
            client,
            shared,
            updated,
            pool,
            board,
            app,
            latches,
            keys,
            log,
            workers: Workers::default(),
        })
    }

    /// The same, serving callers and servers with these threads.
    #[must_use]
    pub fn with_workers(self, threads: &WorkerThreads) -> Self {
        Self { pool: self.pool.with_workers(threads.workers()), workers: threads.workers(), ..self }
    }

    /// The address callers come to.
    pub fn address(&self) -> SocketAddr {
        local(&self.listener, self.config.listen)
    }

    /// The address of metrics and probes: the same unless another was given.
    pub fn admin_address(&self) -> SocketAddr {
        match (&self.admin, self.config.admin) {
            (Some(listener), Some(address)) => local(listener, address),
            _ => self.address(),
        }
    }

    /// Serves until `signal`, then drains.
    ///
    /// # Errors
    /// A task ended that should not: the process should exit with a code other than 0.
    pub async fn run(self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let (address, admin_address) = (self.address(), self.admin_address());
        let Self { config, listener, admin, source, secrets, guard, client, shared, updated, .. } = self;
        let Self { pool, board, app, latches, keys, log, workers, .. } = self;
        let mut tasks = Supervisor::new();
        let connections = Arc::new(Connections::default());
        export(&app.metrics, app.published.clone(), &connections, log);

        let Feed { configurations, soundness, secrets: files } = source.feed();
        let (folder, changes) = follow_credentials(&mut tasks, secrets, client.clone(), files);
        if !config.guard.is_empty() {
            let (api_host, stop) = (std::env::var(API_HOST).ok(), tasks.shutdown());
            let learning = async move { learn::keep(&guard, api_host, client, stop_of(stop)).await };
            tasks.spawn("guard", ended(learning));
        }
        // Running calls need their sessions: the pool stops after the listener has answered them.
        let (answered, all_answered) = oneshot::channel::<()>();
        let stop = tasks.shutdown();
        let last = async move {
            stop.requested().await;
            let _ = all_answered.await;
        };
        tasks.spawn("pool", ended(async move { pool.run(configurations, changes, latches, last).await }));
        let (numbering, stop) = (board.clone(), tasks.shutdown());
        tasks.spawn(
            "board",
            ended(async move {
                tokio::select! {
                    () = numbering.follow() => {}
                    () = stop.requested() => {}
                }
            }),
        );
        let (telling, stop) = (app.clone(), tasks.shutdown());
        tasks.spawn(
            "changes",
            ended(async move { changes::keep(telling, &shared.published, updated, stop_of(stop)).await }),
        );
        let (metrics, stop) = (app.metrics.clone(), tasks.shutdown());
        tasks.spawn("soundness", ended(tell_soundness(soundness, metrics, stop_of(stop))));
        let stop = tasks.shutdown();
        tasks.spawn("source", ended(follow(source, folder, stop_of(stop))));

        let (latch, key_file) = keys;
        let (checks, stop) = (app.clone(), tasks.shutdown());
        tasks.spawn("keys", ended(async move { until(stop, checks.auth.keep_keys(latch)).await }));
        if let Some(file) = key_file {
            let (sealer, metrics, stop) = (app.sealer.clone(), app.metrics.clone(), tasks.shutdown());
            tasks.spawn("session keys", ended(async move { until(stop, file.follow(sealer, metrics)).await }));
        }

        let probes = AdminState::new(app.readiness.clone(), app.metrics.registry.clone());
        let front = match admin {
            Some(listener) => {
                let limits = Limits { drain_grace: config.grace, ..Limits::of_probes() };
                let status = status::route(board, probes.turns.clone(), tasks.shutdown());
                let router = admin::router_with(probes, vec![(report::PATH, status)]);
                let probes = serve::router_with_probes(router, &admin::PROBES);
                tasks.spawn("admin listener", serve::serve(listener, probes, limits, Arc::default(), tasks.shutdown()));
                Front::new(app.clone(), Router::new())
            }
            None => Front::new(app.clone(), admin::routes(probes)),
        };
        let limits = limits(config.max_connections, config.grace);
        let (limit, stop) = (memory::available(config.memory_limit), tasks.shutdown());
        tasks.spawn("memory", ended(memory::follow(memory::account(), limit, stop)));
        let serving = serve::serve_on(
            workers,
            listener,
            move |peer| front.connection(peer),
            limits,
            connections,
            tasks.shutdown(),
        );
        tasks.spawn("listener", async move {
            let ended = serving.await;
            drop(answered);
            ended
        });
        info!(%address, %admin_address, version = env!("CARGO_PKG_VERSION"), "listening");
        let readiness = app.readiness.clone();
        // A little over the listener's own grace, so that its end is orderly.
        let grace = config.grace + Duration::from_secs(4);
        tasks.run(signal, Drain { readiness, delay: config.drain, grace }).await
    }
}

fn options(config: &Config) -> FrontOptions {
    FrontOptions {
        allow_query_token: config.allow_query_token,
        allow_query_token_mcp: config.mcp.allow_query_token,
        max_body: config.max_body,
        stream_after: config.mcp.stream_after,
        session_life: config.mcp.session_life,
        max_sessions: config.mcp.max_sessions,
        max_sessions_per_subject: config.mcp.max_sessions_per_subject,
    }
}

/// Follows the Secrets of a cluster, if they lie there. Tells the folder to follow, if they lie in one, and who counts
/// their changes: `files` does for a folder.
fn follow_credentials(
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

/// A client of the Kubernetes API, if anything needs one.
async fn client(config: &Config) -> Result<Option<Client>, Problem> {
    let of_source = matches!(config.source, SourceConfig::ConfigMaps(_));
    let of_secrets = matches!(config.secrets, SecretsConfig::Cluster(_));
    if !of_source && !of_secrets && config.auth.kubernetes.is_none() {
        return Ok(None);
    }
    cluster::client(config.kubeconfig.as_deref()).await.map(Some)
}

async fn stop_of(stop: portcullis_runtime::Shutdown) {
    stop.requested().await;
}

async fn follow(source: Source, secrets: Option<std::path::PathBuf>, stop: impl Future<Output = ()>) {
    let reload = signal::reload().inspect_err(|error| warn!(%error, "SIGHUP does not reload")).ok();
    tokio::select! {
        () = source.follow(secrets, reload) => {}
        () = stop => {}
    }
}

/// Says once, in the log and in metrics, when the configuration becomes unsound or sound again.
async fn tell_soundness(mut soundness: watch::Receiver<Soundness>, metrics: Metrics, stop: impl Future<Output = ()>) {
    let telling = async {
        let mut known = Soundness::default();
        loop {
            let now = soundness.borrow_and_update().clone();
            if now != known {
                for problem in now.problems.iter().filter(|problem| !known.problems.contains(problem)) {
                    error!(problem, "configuration refused, the last good one stays in use");
                }
                if now.problems.is_empty() {
                    info!("the configuration is sound again");
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

/// Numbers that others keep, gathered when somebody asks.
fn export(metrics: &Metrics, published: Published, connections: &Arc<Connections>, log: Option<LogSink>) {
    // Fails only when registered twice, which would be a bug that the metrics test shows.
    let _ = process::register(&metrics.registry);
    let _ = metrics.registry.register(Box::new(Kept::new(connections.clone(), log)));
    let _ = metrics.registry.register(Box::new(OfServers::new(published)));
}

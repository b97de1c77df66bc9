//! Wires the operator: builds, starts and stops its parts.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use portcullis_runtime::admin::{self, AdminState};
use portcullis_runtime::serve::{self, ServeError};
use portcullis_runtime::{Drain, Failure, Latch, Limits, Readiness, Supervisor, process};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::info;

use crate::config::OperatorConfig;
use crate::controller::Controller;
use crate::metrics::OperatorMetrics;
use crate::{events, keys, leader, report};

/// Bound for finishing writes and releasing the Lease.
pub(crate) const STOP_GRACE: Duration = Duration::from_secs(15);

/// Bound for connecting to the API server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Bound for the silence of the API server; longer than a quiet watch, which ends after a minute.
const READ_LIMIT: Duration = Duration::from_secs(70);

/// The same for the Lease: a dead connection must not cost a whole term.
const LEASE_READ_LIMIT: Duration = Duration::from_secs(5);

/// An operator that listens but does nothing yet.
pub(crate) struct Operator {
    config: OperatorConfig,
    client: Client,
    /// The client of the Lease.
    elector: Client,
    namespace: String,
    listener: TcpListener,
    readiness: Readiness,
    complete: Latch,
}

/// Why the operator does not start.
#[derive(Debug, Error)]
pub(crate) enum OperatorStartError {
    /// Neither a service account nor a kubeconfig.
    #[error("no API server is configured: run in a cluster, or set KUBECONFIG")]
    Unknown(#[source] Box<kube::config::InferConfigError>),
    /// The client cannot be made.
    #[error("cannot use the settings of the API server")]
    Client(#[source] Box<kube::Error>),
    /// The admin address cannot be listened on.
    #[error(transparent)]
    Listen(#[from] ServeError),
}

impl Operator {
    /// Finds the API server and opens the admin listener.
    ///
    /// # Errors
    /// See [`OperatorStartError`].
    pub(crate) async fn bind(config: OperatorConfig) -> Result<Self, OperatorStartError> {
        let mut kube = kube::Config::infer().await.map_err(|error| OperatorStartError::Unknown(Box::new(error)))?;
        let namespace = config.namespace.clone().unwrap_or_else(|| kube.default_namespace.clone());
        kube.connect_timeout = Some(CONNECT_LIMIT);
        kube.reset_reader_on_write = true;
        let client = |read_limit: Duration| {
            let mut kube = kube.clone();
            kube.read_timeout = Some(read_limit);
            Client::try_from(kube).map_err(|error| OperatorStartError::Client(Box::new(error)))
        };
        let (client, elector) = (client(READ_LIMIT)?, client(LEASE_READ_LIMIT)?);
        let listener = serve::listen(config.admin).await?;
        let readiness = Readiness::default();
        let complete = readiness.latch("watches");
        Ok(Self { config, client, elector, namespace, listener, readiness, complete })
    }

    /// The address of metrics and probes.
    pub(crate) fn admin_address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.admin)
    }

    /// Reconciles until `signal`, then finishes what is under way.
    ///
    /// # Errors
    /// A task ended that should not: the process should exit with a code other than 0.
    pub(crate) async fn run(self, signal: impl Future<Output = ()>) -> Result<(), Failure> {
        let address = self.admin_address();
        let Self { config, client, elector, namespace, listener, readiness, complete } = self;
        let metrics = OperatorMetrics::new();
        // Fails only when registered twice, which would be a bug that the metrics test shows.
        let _ = process::register(&metrics.registry);
        let mut tasks = Supervisor::new();

        let (sink, notes) = events::channel(metrics.clone());
        let recording = events::run(client.clone(), config.identity.clone(), notes, metrics.clone(), tasks.shutdown());
        tasks.spawn("events", ended(recording));

        // The Lease is given back only after the last write.
        let (leads, leading) = watch::channel(false);
        let keeping =
            keys::run(client.clone(), namespace.clone(), config.keys.clone(), leading.clone(), tasks.shutdown());
        tasks.spawn("keys", ended(keeping));
        let controller = Controller::new(&client, &config, &namespace, sink, metrics.clone(), complete);
        let status = report::route(controller.reports());
        let (stop, election) = (tasks.shutdown(), config.election.clone());
        let electing = leader::run(elector, namespace.clone(), election, leads, tasks.shutdown());
        tasks.spawn("election", ended(electing));
        info!(%address, namespace, version = env!("CARGO_PKG_VERSION"), slots = config.slots.len(), "reconciling");
        let reconciling = async move { controller.run(client, &config, &namespace, leading, stop).await };
        tasks.spawn("controller", ended(reconciling));

        let probes = AdminState::new(readiness.clone(), metrics.registry.clone());
        let limits = Limits::of_probes();
        let probes = serve::router_with_probes(admin::router_with(probes, vec![status]), &admin::PROBES);
        tasks.spawn("admin listener", serve::serve(listener, probes, limits, Arc::default(), tasks.shutdown()));
        tasks.run(signal, Drain { readiness, delay: Duration::ZERO, grace: STOP_GRACE }).await
    }
}

async fn ended(work: impl Future<Output = ()>) -> Result<(), Infallible> {
    work.await;
    Ok(())
}

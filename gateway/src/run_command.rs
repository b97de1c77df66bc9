//! `portcullis-gateway run`: the gateway until a signal to stop.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use portcullis_runtime::{LogSink, WorkerThreads, log, signal, workers};
use tokio::runtime::{Builder, Runtime};

use crate::auth::Authenticator;
use crate::cluster;
use crate::config::{Config, Options, Problem, SourceConfig};
use crate::gateway::{Gateway, StartError};
use crate::seal::file::KeyFile;
use crate::source::folder::Folder;

/// For the last log lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// After the grace: calls that are cut take a moment, and Kubernetes kills five seconds after the grace.
const OVERTIME: Duration = Duration::from_millis(4_500);

/// Runs the gateway.
///
/// # Errors
/// What is wrong with the settings, one line each, or what made it stop.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let config = options.check().map_err(|problems| told(with_files(options, problems)))?;
    let (sink, _guard) = LogSink::stdout()?;
    log::init(&config.log.level, config.log.json, sink.clone())?;
    // On one processor everything in one thread is faster.
    let threads = WorkerThreads::start(if workers::count() == 1 { 0 } else { workers::count() });
    let threads = threads.context("cannot start the threads that serve callers")?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(serve(config, sink.clone(), &threads));
    // Without waiting for what still blocks a thread, such as the reading of a file.
    runtime.shutdown_background();
    drop(threads);
    sink.flush(FLUSH);
    outcome
}

async fn serve(config: Config, sink: LogSink, threads: &WorkerThreads) -> anyhow::Result<()> {
    let stop = signal::termination(config.drain + config.grace + OVERTIME)?;
    let requests = tracing::enabled!(tracing::Level::INFO).then_some(sink);
    let gateway = Gateway::bind(config, requests).await.map_err(|error| match error {
        StartError::Settings(problems) => told(problems),
        other => other.into(),
    })?;
    Ok(gateway.with_workers(threads).run(stop).await?)
}

/// Adds what is wrong with keys and paths, so that all is told at once also when plain values are wrong.
fn with_files(options: &Options, mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.extend(key_problems(options));
    problems.extend(options.session_keys.as_deref().and_then(session_key_problem));
    if let SourceConfig::Path(path) = options.source(&mut Vec::new()) {
        problems.extend(Folder::open(&path).err());
    }
    problems
}

/// What is wrong with the keys of the tokens, and with the way to the cluster if its tokens are accepted.
pub(crate) fn key_problems(options: &Options) -> Vec<Problem> {
    let settings = options.auth(&mut Vec::new());
    let found = Authenticator::new(&settings).err().unwrap_or_default();
    let mut problems: Vec<Problem> = found.iter().map(ToString::to_string).collect();
    if settings.kubernetes.is_some() {
        let client = runtime()
            .map_err(|error| error.to_string())
            .and_then(|it| it.block_on(cluster::client(options.kubeconfig.as_deref())));
        problems.extend(client.err().map(|problem| format!("KUBERNETES_TOKENS: {problem}")));
    }
    problems
}

/// What is wrong with the file of session keys. An empty path is none.
pub(crate) fn session_key_problem(path: &Path) -> Option<Problem> {
    if path.as_os_str().is_empty() { None } else { KeyFile::open(path).err() }
}

/// For what is done once or seldom, and on one processor for everything.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Problems as one error, a line each.
pub(crate) fn told(problems: Vec<String>) -> anyhow::Error {
    anyhow!("{} setting(s) cannot be used:\n{}", problems.len(), problems.join("\n"))
}

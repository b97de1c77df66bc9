//! `portcullis-gateway run`: runs the gateway until a stop signal.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use portcullis_runtime::{LogSink, WorkerThreads, log, signal, workers};
use tokio::runtime::{Builder, Runtime};

use crate::auth::Authenticator;
use crate::config::{Config, Options, Problem};
use crate::gateway::{Gateway, StartError};
use crate::key_file::{FileKeys, KeyFile};
use crate::kubernetes as cluster;
use crate::outbound::SigningKeys;
use crate::seal::Keys;
use crate::source::SourceConfig;
use crate::source::folder::Folder;
use crate::tls::CertificateFiles;

/// The time for writing the last log lines.
const FLUSH: Duration = Duration::from_secs(1);

/// After the grace period: aborted calls take a moment, and Kubernetes kills five seconds after it.
const OVERTIME: Duration = Duration::from_millis(4_500);

/// Runs the gateway.
///
/// # Errors
/// The problems of the settings, one line each, or the reason it stopped.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let config = options.check().map_err(|problems| told(with_files(options, problems)))?;
    let (sink, _guard) = LogSink::stdout()?;
    log::init(&config.log.level, config.log.json, sink.clone())?;
    // On one processor, a single thread is faster.
    let threads = WorkerThreads::start(if workers::count() == 1 { 0 } else { workers::count() });
    let threads = threads.context("cannot start the threads that serve callers")?;
    let runtime = runtime()?;
    let outcome = runtime.block_on(serve(config, sink.clone(), &threads));
    // Without waiting for operations that still block a thread, such as reading a file.
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

/// Adds the problems of keys and paths, so that all are reported at once even if plain values are invalid.
fn with_files(options: &Options, mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.extend(key_problems(options));
    problems.extend(key_file_problems(options));
    problems.extend(certificate_problem(options));
    if let SourceConfig::Path(path) = options.source(&mut Vec::new()) {
        problems.extend(Folder::open(&path).err());
    }
    problems
}

/// The problems of the keys of tokens, and of the access to the cluster if its tokens are accepted.
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

/// The problems of the files of keys for sessions and assertions. An empty path counts as absent.
pub(crate) fn key_file_problems(options: &Options) -> impl Iterator<Item = Problem> {
    fn problem<K: FileKeys>(path: Option<&Path>) -> Option<Problem> {
        path.filter(|path| !path.as_os_str().is_empty()).and_then(|path| KeyFile::<K>::open(path).err())
    }
    let sessions = problem::<Keys>(options.session_keys.as_deref());
    sessions.into_iter().chain(problem::<SigningKeys>(options.assertion_keys.as_deref()))
}

/// The problem of the files of TLS.
pub(crate) fn certificate_problem(options: &Options) -> Option<Problem> {
    options.tls(&mut Vec::new()).and_then(|files| CertificateFiles::open(&files).err())
}

/// The runtime for rare work and, on one processor, for everything.
pub(crate) fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// Combines problems into one error, a line each.
pub(crate) fn told(problems: Vec<String>) -> anyhow::Error {
    anyhow!("{} setting(s) cannot be used:\n{}", problems.len(), problems.join("\n"))
}

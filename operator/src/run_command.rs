//! `portcullis-operator run`: the operator until a signal to stop.

use std::time::Duration;

use anyhow::anyhow;
use portcullis_runtime::{LogSink, log, signal};

use crate::config::{Config, Options};
use crate::operator::{GRACE, Operator};

/// For the last log lines to be written.
const FLUSH: Duration = Duration::from_secs(1);

/// After the grace, for what comes after it.
const OVERTIME: Duration = Duration::from_secs(2);

/// Runs the operator.
///
/// # Errors
/// What is wrong with the settings, one line each, or what made it stop.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let config = options
        .check(&host_name())
        .map_err(|problems| anyhow!("{} setting(s) cannot be used:\n{}", problems.len(), problems.join("\n")))?;
    let (sink, _guard) = LogSink::stdout()?;
    log::init(&config.log_level, config.log_json, sink.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(serve(config));
    // Without waiting for what still blocks a thread.
    runtime.shutdown_background();
    sink.flush(FLUSH);
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = signal::termination(GRACE + OVERTIME)?;
    Ok(Operator::bind(config).await?.run(stop).await?)
}

/// The name of this host: in a pod, that of the pod.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "portcullis-operator".to_owned() } else { name.to_owned() }
}

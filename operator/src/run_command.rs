//! `portcullis-operator run`: runs the operator until a signal to stop.

use std::time::Duration;

use anyhow::anyhow;
use portcullis_runtime::{LogSink, log, signal};

use crate::config::{OperatorConfig, OperatorOptions};
use crate::operator::{Operator, STOP_GRACE};

/// Bound for writing the last log lines.
const FLUSH_LIMIT: Duration = Duration::from_secs(1);

/// Time after the grace for the end of the process.
const STOP_OVERTIME: Duration = Duration::from_secs(2);

/// Runs the operator.
///
/// # Errors
/// The problems of the settings, one line each, or the failure that stopped the operator.
pub fn run(options: &OperatorOptions) -> anyhow::Result<()> {
    let config = options
        .check(&host_name())
        .map_err(|problems| anyhow!("{} setting(s) cannot be used:\n{}", problems.len(), problems.join("\n")))?;
    let (sink, _guard) = LogSink::stdout()?;
    log::init(&config.log_level, config.log_json, sink.clone())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(serve(config));
    // Blocked threads are not waited for.
    runtime.shutdown_background();
    sink.flush(FLUSH_LIMIT);
    outcome
}

async fn serve(config: OperatorConfig) -> anyhow::Result<()> {
    let stop = signal::termination(STOP_GRACE + STOP_OVERTIME)?;
    Ok(Operator::bind(config).await?.run(stop).await?)
}

/// The name of this host; in a pod, the pod's name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "portcullis-operator".to_owned() } else { name.to_owned() }
}

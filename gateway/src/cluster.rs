//! The client of the Kubernetes API server: where it is, who we are there, and a deadline on all that it does.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};

/// For a connection to the API server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Without a byte from the API server. Longer than a watch may be quiet, see [`WATCH_SECONDS`].
const READ_LIMIT: Duration = Duration::from_secs(70);

/// For the API server to take a request.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// After this many seconds the API server ends a watch, and it is begun again. A connection that is open on our side
/// alone is given up 5 s later; the usual 290 s would leave a gateway blind for five minutes.
pub const WATCH_SECONDS: u32 = 60;

/// Makes a client: from these kubeconfig files, separated by colons as in `KUBECONFIG`; else from `~/.kube/config`; else
/// as a pod of the cluster. Nothing is sent yet.
///
/// # Errors
/// One sentence, if there is no such configuration or it cannot be used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let mut config = match kubeconfig {
        Some(paths) => from_files(paths).await.map_err(|error| format!("KUBECONFIG {}: {error}", paths.display()))?,
        None => Config::infer().await.map_err(|_| {
            "there is no way to the Kubernetes API: run in a pod with a service account, or set KUBECONFIG".to_owned()
        })?,
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(READ_LIMIT);
    config.write_timeout = Some(WRITE_LIMIT);
    config.reset_reader_on_write = true;
    // Whoever asks has pauses of his own, and tells that he waits.
    config.default_retry = false;
    Client::try_from(config).map_err(|error| format!("the Kubernetes API cannot be used: {error}"))
}

async fn from_files(paths: &Path) -> Result<Config, KubeconfigError> {
    let mut all = Kubeconfig::default();
    for path in std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty()) {
        all = all.merge(Kubeconfig::read_from(path)?)?;
    }
    Config::from_custom_kubeconfig(all, &KubeConfigOptions::default()).await
}

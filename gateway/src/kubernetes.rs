//! The client of the Kubernetes API server: its address, its credentials, and a deadline for every operation.

use std::fmt::Display;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{AuthInfo, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use portcullis_crds::yaml;

/// The limit for connecting to the API server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// The limit for silence of the API server. Longer than a watch may be quiet, see [`WATCH_SECONDS`].
const READ_LIMIT: Duration = Duration::from_secs(70);

/// The limit for sending a request to the API server.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// The limit for the size of a kubeconfig.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The API server ends a watch after this many seconds, and the gateway restarts it. A half-open connection is closed 5
/// s later; the usual 290 s would leave a gateway blind for five minutes.
pub(crate) const WATCH_SECONDS: u32 = 60;

/// Creates a client: from these kubeconfig files, separated by colons as in `KUBECONFIG`; else from `~/.kube/config`;
/// else as a pod of the cluster. Sends nothing yet.
///
/// # Errors
/// One sentence, if there is no such configuration or it is unusable.
pub(crate) async fn client(kubeconfig: Option<&Path>) -> Result<Client, String> {
    of(config(kubeconfig).await?)
}

/// Creates a client of the same API server that has no credentials.
///
/// # Errors
/// See [`client`].
pub(crate) async fn stranger(kubeconfig: Option<&Path>) -> Result<Client, String> {
    let mut config = config(kubeconfig).await?;
    config.auth_info = AuthInfo::default();
    of(config)
}

fn of(config: Config) -> Result<Client, String> {
    Client::try_from(config).map_err(|error| format!("cannot use the Kubernetes API: {error}"))
}

async fn config(kubeconfig: Option<&Path>) -> Result<Config, String> {
    let mut config = match kubeconfig {
        Some(paths) => {
            let named = |problem: &dyn Display| format!("KUBECONFIG {}: {problem}", paths.display());
            files(paths).try_for_each(|path| check_file(&path)).map_err(|problem| named(&problem))?;
            from_files(paths).await.map_err(|error| named(&error))?
        }
        None => Config::infer().await.map_err(|_| {
            "no Kubernetes API is configured: run in a pod with a service account, or set KUBECONFIG".to_owned()
        })?,
    };
    config.connect_timeout = Some(CONNECT_LIMIT);
    config.read_timeout = Some(READ_LIMIT);
    config.write_timeout = Some(WRITE_LIMIT);
    config.reset_reader_on_write = true;
    // Callers have retry delays of their own, and report that they wait.
    config.default_retry = false;
    Ok(config)
}

async fn from_files(paths: &Path) -> Result<Config, KubeconfigError> {
    let mut all = Kubeconfig::default();
    for path in files(paths) {
        all = all.merge(Kubeconfig::read_from(path)?)?;
    }
    Config::from_custom_kubeconfig(all, &KubeConfigOptions::default()).await
}

/// The files of a list in `KUBECONFIG` notation.
fn files(paths: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty())
}

/// Checks whether a file may be read, because the client itself has no limits. The client reports files that it cannot
/// read.
fn check_file(path: &Path) -> Result<(), String> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    let mut text = String::new();
    if file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).is_err() {
        return Ok(());
    }
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{} is longer than {MAX_FILE_BYTES} bytes: it is not a kubeconfig", path.display()));
    }
    yaml::check(&text).map_err(|problem| format!("{}: {problem}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_kubeconfig_beyond_the_bounds_is_refused_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("config");
        for (text, expected) in [("{".repeat(160_000), "line 1"), ("#".repeat(2_000_000), "longer than 1048576 bytes")]
        {
            std::fs::write(&path, text).unwrap();
            let problem = client(Some(&path)).await.map(|_| ()).unwrap_err();
            assert!(problem.starts_with("KUBECONFIG ") && problem.contains(expected), "{problem}");
        }
    }
}

//! The client of the Kubernetes API server: where it is, who we are there, and a deadline on all that it does.

use std::fmt::Display;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use portcullis_crds::yaml;

/// For a connection to the API server.
const CONNECT_LIMIT: Duration = Duration::from_secs(5);

/// Without a byte from the API server. Longer than a watch may be quiet, see [`WATCH_SECONDS`].
const READ_LIMIT: Duration = Duration::from_secs(70);

/// For the API server to take a request.
const WRITE_LIMIT: Duration = Duration::from_secs(10);

/// A kubeconfig may be so long.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

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
        Some(paths) => {
            let named = |problem: &dyn Display| format!("KUBECONFIG {}: {problem}", paths.display());
            files(paths).try_for_each(|path| check_file(&path)).map_err(|problem| named(&problem))?;
            from_files(paths).await.map_err(|error| named(&error))?
        }
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
    for path in files(paths) {
        all = all.merge(Kubeconfig::read_from(path)?)?;
    }
    Config::from_custom_kubeconfig(all, &KubeConfigOptions::default()).await
}

/// The files of a list as in `KUBECONFIG`.
fn files(paths: &Path) -> impl Iterator<Item = PathBuf> + '_ {
    std::env::split_paths(paths).filter(|path| !path.as_os_str().is_empty())
}

/// Whether a file may be read: the client itself has no bounds. What it cannot read it tells itself.
fn check_file(path: &Path) -> Result<(), String> {
    let Ok(file) = std::fs::File::open(path) else { return Ok(()) };
    let mut text = String::new();
    if file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text).is_err() {
        return Ok(());
    }
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("{} is longer than {MAX_FILE_BYTES} bytes: it is no kubeconfig", path.display()));
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

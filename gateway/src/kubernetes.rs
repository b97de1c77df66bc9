//! The one way to the API server of the cluster that this process runs in (or that a kubeconfig names).

use std::time::Duration;

use kube::{Client, Config};

/// For the TCP and the TLS handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// A client with this process's own identity. Nothing is asked yet: the API server may be away.
///
/// # Errors
/// One sentence: there is neither a service account's folder nor a usable kubeconfig.
pub async fn client() -> Result<Client, String> {
    let mut config = Config::infer().await.map_err(|error| {
        format!("there is neither a service account of a cluster nor a usable kubeconfig here: {error}")
    })?;
    config.connect_timeout = Some(CONNECT);
    Client::try_from(config).map_err(|error| format!("the cluster's client settings cannot be used: {error}"))
}

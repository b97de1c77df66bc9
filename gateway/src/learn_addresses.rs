//! Finds the addresses of the API server and of the gateway itself, and refreshes them periodically.
//!
//! Best effort: an address that cannot be found now keeps its last known value.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use kube::Client;
use tokio::net::lookup_host;
use tokio::time::{sleep, timeout};
use tracing::debug;

use portcullis_mcp::guard::{Guard, KnownAddresses};

/// Between two refreshes: Services keep their addresses, pods of an API server rarely change theirs.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// The first lookup delays the first connections, so it is short.
const LIMIT: Duration = Duration::from_secs(2);

/// The variable in the environment of a pod that names the API server.
pub(crate) const API_HOST: &str = "KUBERNETES_SERVICE_HOST";

/// Passes the found addresses to a guard, until `stop`. `api_host` is the API server as the environment names it.
pub(crate) async fn run(
    guard: &Guard,
    api_host: Option<String>,
    cluster: Option<Client>,
    stop: impl Future<Output = ()>,
) {
    let looking = async {
        loop {
            look(guard, api_host.as_deref(), cluster.as_ref()).await;
            sleep(LOOK_EVERY).await;
        }
    };
    tokio::select! {
        () = looking => {}
        () = stop => {}
    }
}

async fn look(guard: &Guard, api_host: Option<&str>, cluster: Option<&Client>) {
    let before = guard.known();
    let (own, api) = tokio::join!(addresses(&guard.rules().own), api_addresses(guard, api_host, cluster));
    let known = KnownAddresses { api: api.or_more(&before.api), own: own.or_more(&before.own) };
    if known != *before {
        debug!(api = known.api.len(), own = known.own.len(), "servers must not have these addresses");
    }
    guard.learned(known);
}

async fn api_addresses(guard: &Guard, api_host: Option<&str>, cluster: Option<&Client>) -> AddressList {
    if !guard.rules().special {
        return AddressList { addresses: HashSet::new(), complete: true };
    }
    let told = match cluster {
        Some(client) => told(client).await,
        None => Some(Vec::new()),
    };
    let complete = told.is_some();
    let mut hosts = told.unwrap_or_default();
    hosts.extend(api_host.map(str::to_owned));
    let found = addresses(&hosts).await;
    AddressList { complete: complete && found.complete, ..found }
}

/// The API server's own addresses: hosts, some with a port.
async fn told(client: &Client) -> Option<Vec<String>> {
    let versions = timeout(LIMIT, client.list_core_api_versions()).await.ok()?.ok()?;
    Some(versions.server_address_by_client_cidrs.into_iter().map(|entry| without_port(&entry.server_address)).collect())
}

fn without_port(text: &str) -> String {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return address.ip().to_string();
    }
    if text.parse::<IpAddr>().is_ok() {
        return text.to_owned();
    }
    text.rsplit_once(':').map_or(text, |(host, _)| host).to_owned()
}

/// Addresses, and whether the list is complete.
struct AddressList {
    addresses: HashSet<IpAddr>,
    complete: bool,
}

impl AddressList {
    /// Keeps the previous addresses while the list is incomplete.
    fn or_more(mut self, before: &HashSet<IpAddr>) -> HashSet<IpAddr> {
        if !self.complete {
            self.addresses.extend(before);
        }
        self.addresses
    }
}

async fn addresses(hosts: &[String]) -> AddressList {
    let lookups = hosts.iter().map(|host| timeout(LIMIT, lookup_host((host.as_str(), 0))));
    let mut found = AddressList { addresses: HashSet::new(), complete: true };
    for outcome in join_all(lookups).await {
        match outcome {
            Ok(Ok(all)) => found.addresses.extend(all.map(|address| address.ip().to_canonical())),
            Ok(Err(_)) | Err(_) => found.complete = false,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_mcp::guard::{AddressRefusal, Rules};

    #[test]
    fn the_port_of_an_announced_address_is_left_out() {
        let cases = [
            ("10.0.0.1:6443", "10.0.0.1"),
            ("[fd00::1]:6443", "fd00::1"),
            ("fd00::1", "fd00::1"),
            ("10.0.0.1", "10.0.0.1"),
            ("api.example.com:6443", "api.example.com"),
            ("api.example.com", "api.example.com"),
        ];
        for (text, expected) in cases {
            assert_eq!(without_port(text), expected, "{text}");
        }
    }

    #[tokio::test]
    async fn names_of_the_gateway_and_the_host_of_the_api_server_are_refused_once_looked_up() {
        let guard = Guard::new(Rules { special: true, own: vec!["localhost".into()], ..Rules::default() });
        look(&guard, Some("10.96.0.1"), None).await;
        guard.ready().await;
        let loopback = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(guard.check(loopback), Err(AddressRefusal::Own));
        assert_eq!(guard.check(IpAddr::from([10, 96, 0, 1])), Err(AddressRefusal::ApiServer));
        assert_eq!(guard.check(IpAddr::from([10, 96, 0, 2])), Ok(()));
    }
}

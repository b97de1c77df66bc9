//! Lets one of several replicas write, by a Lease.
//!
//! Two that write at the same time would write the same; the Lease only spares the API server the second one.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use portcullis_runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::Election;

/// A Lease holds so long without being renewed: the longest that nobody writes after a replica has died.
const LEASE_SECONDS: u64 = 12;

/// It is renewed so long before.
const GRACE_SECONDS: u64 = 4;

/// Before another attempt after the API server has refused one.
const AGAIN: Duration = Duration::from_secs(2);

/// For giving the Lease back at the end.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);

/// Takes part in the election until the process stops, then gives the Lease back. `leads` says who writes.
pub async fn run(
    client: Client,
    namespace: String,
    election: Option<Election>,
    leads: watch::Sender<bool>,
    stop: Shutdown,
) {
    let Some(election) = election else {
        leads.send_replace(true);
        stop.requested().await;
        return;
    };
    let manager = tokio::select! {
        manager = manager(&client, &namespace, &election) => manager,
        () = stop.requested() => return,
    };
    loop {
        tokio::select! {
            changed = manager.changed() => match changed {
                Ok(is_leader) => {
                    info!(is_leader, lease = election.lease, identity = election.identity, "the Lease changed hands");
                    leads.send_replace(is_leader);
                }
                Err(error) => {
                    // Whoever cannot renew it must not believe that he still has it.
                    warn!(%error, lease = election.lease, "the Lease cannot be read or renewed");
                    leads.send_replace(false);
                    sleep(AGAIN).await;
                }
            },
            () = stop.requested() => break,
        }
    }
    leads.send_replace(false);
    if !matches!(timeout(RELEASE_LIMIT, manager.release()).await, Ok(Ok(()))) {
        warn!(lease = election.lease, "the Lease was not given back; it runs out by itself");
    }
}

/// Makes the Lease if it is not there; the API server may be away for a while.
async fn manager(client: &Client, namespace: &str, election: &Election) -> LeaseManager {
    loop {
        let builder = LeaseManagerBuilder::new(client.clone(), election.lease.clone())
            .with_namespace(namespace)
            .with_identity(election.identity.clone())
            .with_duration(LEASE_SECONDS)
            .with_grace(GRACE_SECONDS);
        match builder.build().await {
            Ok(manager) => return manager,
            Err(error) => warn!(%error, lease = election.lease, "the Lease cannot be made or read"),
        }
        sleep(AGAIN).await;
    }
}

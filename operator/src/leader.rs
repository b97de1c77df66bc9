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
    let manager = loop {
        let manager = tokio::select! {
            manager = manager(&client, &namespace, &election) => manager,
            () = stop.requested() => return,
        };
        // One that has failed still believes what it knew, and would never say again that it leads: hence a new one.
        let following = async {
            follow(&manager, &election, &leads).await;
            sleep(AGAIN).await;
        };
        tokio::select! {
            () = following => {}
            () = stop.requested() => break manager,
        }
    };
    leads.send_replace(false);
    if !matches!(timeout(RELEASE_LIMIT, manager.release()).await, Ok(Ok(()))) {
        warn!(lease = election.lease, "the Lease was not given back; it runs out by itself");
    }
}

/// Tells who leads until the Lease cannot be read or renewed.
async fn follow(manager: &LeaseManager, election: &Election, leads: &watch::Sender<bool>) {
    loop {
        match manager.changed().await {
            Ok(is_leader) => {
                info!(is_leader, lease = election.lease, identity = election.identity, "the Lease changed hands");
                leads.send_replace(is_leader);
            }
            Err(error) => {
                // Whoever cannot renew it must not believe that he still has it.
                warn!(%error, lease = election.lease, "the Lease cannot be read or renewed");
                leads.send_replace(false);
                return;
            }
        }
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::http::{Method, StatusCode};
    use axum::response::{IntoResponse as _, Response};
    use portcullis_runtime::Supervisor;
    use serde_json::{Value, json};

    use super::*;

    /// An API server with one Lease, that fails on demand.
    fn api(fails: Arc<AtomicBool>) -> Client {
        let lease =
            json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "l"}, "spec": {}});
        let lease = Arc::new(Mutex::new(lease));
        let answer =
            move |method: Method, body: axum::body::Bytes| async move { answer(&lease, &fails, &method, &body) };
        Client::new(Router::new().fallback(answer), "n")
    }

    fn answer(lease: &Mutex<Value>, fails: &AtomicBool, method: &Method, body: &[u8]) -> Response {
        if fails.load(Ordering::Relaxed) {
            return (StatusCode::INTERNAL_SERVER_ERROR, "no").into_response();
        }
        let mut lease = lease.lock().expect("nobody panicked");
        if method == Method::PATCH {
            let patch: Value = serde_json::from_slice(body).expect("a patch");
            for (name, value) in patch["spec"].as_object().into_iter().flatten() {
                lease["spec"][name] = value.clone();
            }
        }
        lease.to_string().into_response()
    }

    #[tokio::test(start_paused = true)]
    async fn who_could_not_renew_the_lease_leads_again_when_he_can() {
        let fails = Arc::new(AtomicBool::new(false));
        let (leads, mut leading) = watch::channel(false);
        let election = Some(Election { lease: "l".into(), identity: "me".into() });
        let tasks = Supervisor::new();
        let running = run(api(Arc::clone(&fails)), "n".into(), election, leads, tasks.shutdown());
        let watching = async {
            for (failing, wanted) in [(false, true), (true, false), (false, true)] {
                fails.store(failing, Ordering::Relaxed);
                let told = timeout(Duration::from_secs(60), leading.wait_for(|leads| *leads == wanted)).await;
                assert!(matches!(told, Ok(Ok(_))), "leads was never {wanted}");
            }
        };
        tokio::select! {
            () = running => panic!("the election ended"),
            () = watching => {}
        }
    }
}

//! Elects the one replica that writes, with a Lease.
//!
//! Two writers at once would write the same; the Lease only spares the API server the second one.

use std::time::Duration;

use kube::Client;
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder};
use portcullis_runtime::Shutdown;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::config::Election;

/// The duration of the Lease: the longest time without a writer after a replica has died.
const LEASE_SECONDS: u64 = 12;

/// The holder renews the Lease this long before it expires.
const GRACE_SECONDS: u64 = 4;

/// Delay after the API server has refused a request.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// Bound for releasing the Lease at the end.
const RELEASE_LIMIT: Duration = Duration::from_secs(3);

/// Takes part in the election until the process stops, then releases the Lease. `leads`: whether this replica writes.
pub(crate) async fn run(
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
        // A failed manager keeps its old belief and never reports leadership again: hence a new one.
        let following = async {
            follow(&manager, &election, &leads).await;
            sleep(RETRY_DELAY).await;
        };
        tokio::select! {
            () = following => {}
            () = stop.requested() => break manager,
        }
    };
    leads.send_replace(false);
    if !matches!(timeout(RELEASE_LIMIT, manager.release()).await, Ok(Ok(()))) {
        warn!(lease = election.lease, "cannot release the Lease; it expires by itself");
    }
}

/// Publishes changes of leadership until cannot read or renew the Lease.
async fn follow(manager: &LeaseManager, election: &Election, leads: &watch::Sender<bool>) {
    loop {
        match manager.changed().await {
            Ok(is_leader) => {
                info!(is_leader, lease = election.lease, identity = election.identity, "the Lease changed hands");
                leads.send_replace(is_leader);
            }
            Err(error) => {
                // A replica that cannot renew the Lease must not believe that it still holds it.
                warn!(%error, lease = election.lease, "cannot read or renew the Lease");
                leads.send_replace(false);
                return;
            }
        }
    }
}

/// Creates the Lease if it is missing, and waits while the API server is away.
async fn manager(client: &Client, namespace: &str, election: &Election) -> LeaseManager {
    loop {
        let builder = LeaseManagerBuilder::new(client.clone(), election.lease.clone())
            .with_namespace(namespace)
            .with_identity(election.identity.clone())
            .with_duration(LEASE_SECONDS)
            .with_grace(GRACE_SECONDS);
        match builder.build().await {
            Ok(manager) => return manager,
            Err(error) => warn!(%error, lease = election.lease, "cannot create or read the Lease"),
        }
        sleep(RETRY_DELAY).await;
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

    /// An API server with one Lease; it fails on demand.
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

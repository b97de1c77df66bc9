//! `portcullis-operator retire`: says of McpServers that this installation has ended to serve them.
//!
//! For hooks of the chart, before it is uninstalled and before a namespace leaves its list: afterwards nobody has the right
//! to. Operators that run leave these servers alone from then on, until they are started anew.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::{Api, Client};
use portcullis_crds::mcpserver::{McpServerStatus, ServedBy};
use portcullis_crds::{ConditionType, McpServer, Reason, ServerKey};
use tokio::time::timeout;

use crate::config::Options;
use crate::ownership::owner_of;
use crate::publish::FIELD_MANAGER;
use crate::status;
use crate::watch::key_of;

/// For all of it. What is not done by then is left as it is: no release may be kept from being uninstalled.
const LIMIT: Duration = Duration::from_secs(60);

/// Requests at the same time.
const AT_ONCE: usize = 8;

/// Servers in one answer.
const PAGE: u32 = 500;

/// Retires what the settings name. Prints what cannot be done, which is no failure.
///
/// # Errors
/// The settings do not name the installation, or no API server is known.
pub fn run(options: &Options) -> anyhow::Result<()> {
    let (installation, namespaces) = options.retirement().map_err(|problem| anyhow!(problem))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client = Client::try_default().await.context("no API server is known")?;
        match timeout(LIMIT, all(&client, &installation, &namespaces)).await {
            Ok((done, failed)) => {
                println!("{done} McpServers are told to be served no more, {failed} could not be told")
            }
            Err(_) => println!("not all McpServers could be told within {} s", LIMIT.as_secs()),
        }
        Ok(())
    })
}

/// Retires all servers of an installation in some namespaces; in none: in all. Returns how many were, and were not.
async fn all(client: &Client, installation: &str, namespaces: &[String]) -> (usize, usize) {
    let places: Vec<Api<DeserializeGuard<McpServer>>> = if namespaces.is_empty() {
        vec![Api::all(client.clone())]
    } else {
        namespaces.iter().map(|namespace| Api::namespaced(client.clone(), namespace)).collect()
    };
    let (mut done, mut failed) = (0, 0);
    for place in places {
        let mut params = ListParams::default().limit(PAGE);
        loop {
            let Ok(list) = place.list(&params).await else {
                failed += 1;
                break;
            };
            let statuses = list.items.into_iter().filter_map(|server| retired(server, installation));
            let outcomes: Vec<bool> = stream::iter(statuses)
                .map(|(key, status)| write(client, installation, key, status))
                .buffer_unordered(AT_ONCE)
                .collect()
                .await;
            done += outcomes.iter().filter(|good| **good).count();
            failed += outcomes.iter().filter(|good| !**good).count();
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
    }
    (done, failed)
}

/// The status of a server that this installation serves, as it is from now on.
fn retired(server: DeserializeGuard<McpServer>, installation: &str) -> Option<(ServerKey, McpServerStatus)> {
    let key = key_of(&server);
    let old = server.0.ok()?.status?;
    (owner_of(&old) == Some(installation)).then(|| (key, ended(old, installation, Timestamp::now())))
}

/// A status that says that an installation has ended to serve it.
fn ended(mut status: McpServerStatus, installation: &str, now: Timestamp) -> McpServerStatus {
    let now = Time(Timestamp::from_second(now.as_second()).unwrap_or(now));
    status.served_by = Some(ServedBy { installation: installation.to_owned(), until: Some(now.clone()) });
    (status.contender, status.gateways) = (None, None);
    for (kind, reason) in
        [(ConditionType::Programmed, Reason::NotServed), (ConditionType::Ready, Reason::NotProgrammed)]
    {
        let message = format!("Installation {installation} does not serve it any more.");
        for condition in status.conditions.iter_mut().filter(|condition| condition.type_ == kind.as_str()) {
            let since = if condition.status == "False" { condition.last_transition_time.clone() } else { now.clone() };
            *condition = Condition {
                status: "False".into(),
                reason: reason.as_str().into(),
                message: message.clone(),
                last_transition_time: since,
                ..condition.clone()
            };
        }
    }
    status
}

async fn write(client: &Client, installation: &str, key: ServerKey, status: McpServerStatus) -> bool {
    let api: Api<DeserializeGuard<McpServer>> = Api::namespaced(client.clone(), &key.namespace);
    let manager = Some(status::field_manager(FIELD_MANAGER, installation));
    let parameters = PatchParams { field_manager: manager, ..PatchParams::default() };
    api.patch_status(&key.name, &parameters, &Patch::Merge(status::patch(&status, None))).await.is_ok()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_what_the_installation_serves_is_retired_and_no_longer_says_ready() {
        let server = |owner: &str| -> DeserializeGuard<McpServer> {
            let condition = |kind: &str| {
                json!({"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 3,
                       "lastTransitionTime": "2026-01-01T00:00:00Z"})
            };
            serde_json::from_value(json!({
                "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
                "metadata": {"namespace": "n", "name": "a"}, "spec": {"url": "http://a/"},
                "status": {
                    "servedBy": {"installation": owner}, "gateways": {"applied": 1, "ready": 1, "total": 1},
                    "conditions": [condition("Accepted"), condition("Programmed"), condition("Ready")],
                },
            }))
            .unwrap()
        };
        assert_eq!(retired(server("n/other"), "n/me"), None);
        let (key, status) = retired(server("n/me"), "n/me").unwrap();
        assert_eq!((key, status.gateways, owner_of(&status)), (ServerKey::new("n", "a"), None, None));
        let words: Vec<_> =
            status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect();
        assert_eq!(words, ["Accepted=True/Accepted", "Programmed=False/NotServed", "Ready=False/NotProgrammed"]);
        assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(3)));
    }
}

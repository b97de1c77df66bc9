//! `portcullis-operator retire`: writes into McpServers, their access policies and views, that this installation no longer
//! serves them.
//!
//! Hooks of the chart run it before an uninstall and before a namespace leaves the list, because the rights end with
//! those. Running operators leave these servers alone until they restart.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use futures_util::{StreamExt as _, stream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ManagedFieldsEntry, Time};
use kube::api::{ListParams, Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use portcullis_crds::mcpaccesspolicy::McpAccessPolicyStatus;
use portcullis_crds::mcpserver::{McpServerStatus, ServedBy};
use portcullis_crds::mcpview::McpViewStatus;
use portcullis_crds::{ConditionType, Reason};
use portcullis_runtime::print::print_line;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::timeout;

use crate::config::OperatorOptions;
use crate::object_key::{ObjectKey, ObjectKind};
use crate::ownership::owner_of;
use crate::publish::FIELD_MANAGER;
use crate::status;
use crate::watch::key_of;

/// Bound for the whole command. The rest stays as it is: retiring must not block an uninstall.
const RETIRE_LIMIT: Duration = Duration::from_secs(60);

/// Concurrent requests.
const MAX_CONCURRENT_REQUESTS: usize = 8;

/// Objects per page of a list.
const PAGE_SIZE: u32 = 500;

/// Retires the objects that the settings name. Prints failures, and succeeds all the same.
///
/// # Errors
/// The settings do not name the installation, or no API server is known.
pub fn run(options: &OperatorOptions) -> anyhow::Result<()> {
    let (installation, namespaces) = options.retirement().map_err(|problem| anyhow!(problem))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let client =
            Client::try_default().await.context("no API server is configured: run in a cluster, or set KUBECONFIG")?;
        match timeout(RETIRE_LIMIT, all(&client, &installation, &namespaces)).await {
            Ok((done, failed)) => {
                print_line(format!("objects marked as no longer served: {done}; that could not be marked: {failed}"))
            }
            Err(_) => {
                print_line(format!("could not mark all objects within {} s: run it again", RETIRE_LIMIT.as_secs()))
            }
        }
        .map_err(Into::into)
    })
}

/// Retires all objects of an installation in these namespaces, or in all. Returns the successes and the failures.
async fn all(client: &Client, installation: &str, namespaces: &[String]) -> (usize, usize) {
    let (mut done, mut failed) = (0, 0);
    for kind in [ObjectKind::Server, ObjectKind::Policy, ObjectKind::View] {
        let resource = kind.resource();
        let places: Vec<Api<DynamicObject>> = if namespaces.is_empty() {
            vec![Api::all_with(client.clone(), &resource)]
        } else {
            let of = |namespace: &String| Api::namespaced_with(client.clone(), namespace, &resource);
            namespaces.iter().map(of).collect()
        };
        for place in places {
            let (good, bad) = all_in(&place, kind, client, installation).await;
            (done, failed) = (done + good, failed + bad);
        }
    }
    (done, failed)
}

async fn all_in(place: &Api<DynamicObject>, kind: ObjectKind, client: &Client, installation: &str) -> (usize, usize) {
    let (mut done, mut failed) = (0, 0);
    let mut params = ListParams::default().limit(PAGE_SIZE);
    loop {
        let list = match place.list(&params).await {
            Ok(list) => list,
            // A cluster without the definition has none of them.
            Err(kube::Error::Api(status)) if status.code == 404 => return (done, failed),
            Err(_) => return (done, failed + 1),
        };
        let retired = |object: DynamicObject| match kind {
            ObjectKind::Server => retired_server(&object, installation),
            ObjectKind::Policy => retired_policy(&object, installation),
            ObjectKind::View => retired_view(&object, installation),
        };
        let outcomes: Vec<bool> = stream::iter(list.items.into_iter().filter_map(retired))
            .map(|(of, patch)| write(client, installation, of, patch))
            .buffer_unordered(MAX_CONCURRENT_REQUESTS)
            .collect()
            .await;
        done += outcomes.iter().filter(|good| **good).count();
        failed += outcomes.iter().filter(|good| !**good).count();
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return (done, failed),
        }
    }
}

/// The patch for a server that this installation has served.
fn retired_server(server: &DynamicObject, installation: &str) -> Option<(ObjectKey, Value)> {
    let old: McpServerStatus = serde_json::from_value(server.data["status"].clone()).ok()?;
    let of = ObjectKey::server(&key_of(server));
    let is_ours = owner_of(&old) == Some(installation);
    is_ours.then(|| (of, status::patch(&ended(old, installation, &status::this_second()), None)))
}

/// The patch for a policy whose status this installation has written.
fn retired_policy(policy: &DynamicObject, installation: &str) -> Option<(ObjectKey, Value)> {
    let mut old: McpAccessPolicyStatus = status_written_by(policy, installation)?;
    end(&mut old.conditions, (ConditionType::Programmed, Reason::NotServed), installation, &status::this_second());
    Some((ObjectKey::policy(&key_of(policy)), status::policy::patch(&old, None)))
}

/// The same for a view.
fn retired_view(view: &DynamicObject, installation: &str) -> Option<(ObjectKey, Value)> {
    let mut old: McpViewStatus = status_written_by(view, installation)?;
    end(&mut old.conditions, (ConditionType::Programmed, Reason::NotServed), installation, &status::this_second());
    Some((ObjectKey::view(&key_of(view)), status::view::patch(&old, None)))
}

/// The status of an object, if this installation has written it.
fn status_written_by<S: DeserializeOwned>(object: &DynamicObject, installation: &str) -> Option<S> {
    let manager = status::field_manager(FIELD_MANAGER, installation);
    let is_ours = |entry: &ManagedFieldsEntry| entry.manager.as_deref() == Some(manager.as_str());
    object.metadata.managed_fields.iter().flatten().find(|entry| is_ours(entry))?;
    serde_json::from_value(object.data["status"].clone()).ok()
}

/// A status in which the installation no longer serves the server.
fn ended(mut status: McpServerStatus, installation: &str, now: &Time) -> McpServerStatus {
    status.served_by = Some(ServedBy { installation: installation.to_owned(), until: Some(now.clone()) });
    (status.contender, status.gateways) = (None, None);
    for said in [(ConditionType::Programmed, Reason::NotServed), (ConditionType::Ready, Reason::NotProgrammed)] {
        end(&mut status.conditions, said, installation, now);
    }
    status
}

/// Says in a condition that the installation no longer serves the object.
fn end(conditions: &mut [Condition], (kind, reason): (ConditionType, Reason), installation: &str, now: &Time) {
    for condition in conditions.iter_mut().filter(|condition| condition.type_ == kind.as_str()) {
        let since = if condition.status == "False" { condition.last_transition_time.clone() } else { now.clone() };
        *condition = Condition {
            status: "False".into(),
            reason: reason.as_str().into(),
            message: format!("Installation {installation} no longer serves it."),
            last_transition_time: since,
            ..condition.clone()
        };
    }
}

async fn write(client: &Client, installation: &str, of: ObjectKey, patch: Value) -> bool {
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), &of.key.namespace, &of.kind.resource());
    let manager = Some(status::field_manager(FIELD_MANAGER, installation));
    let parameters = PatchParams { field_manager: manager, ..PatchParams::default() };
    api.patch_status(&of.key.name, &parameters, &Patch::Merge(patch)).await.is_ok()
}

#[cfg(test)]
mod tests {
    use portcullis_crds::ServerKey;
    use serde_json::json;

    use super::*;

    fn object(kind: &str, status: Value, manager: &str) -> DynamicObject {
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": kind,
            "metadata": {"namespace": "n", "name": "a", "managedFields": [{"manager": manager, "subresource": "status"}]},
            "status": status,
        }))
        .unwrap()
    }

    fn condition(kind: &str) -> Value {
        json!({"type": kind, "status": "True", "reason": kind, "message": "", "observedGeneration": 3,
               "lastTransitionTime": "2026-01-01T00:00:00Z"})
    }

    fn words(patch: &Value) -> Vec<String> {
        let conditions = patch["status"]["conditions"].as_array().unwrap();
        let word = |c: &Value| {
            assert_eq!(c["observedGeneration"], 3);
            format!(
                "{}={}/{}",
                c["type"].as_str().unwrap(),
                c["status"].as_str().unwrap(),
                c["reason"].as_str().unwrap()
            )
        };
        conditions.iter().map(word).collect()
    }

    #[test]
    fn only_what_the_installation_serves_is_retired_and_no_longer_says_ready() {
        let server = |owner: &str| {
            let conditions = [condition("Accepted"), condition("Programmed"), condition("Ready")];
            let gateways = json!({"applied": 1, "ready": 1, "total": 1});
            let status = json!({"servedBy": {"installation": owner}, "gateways": gateways, "conditions": conditions});
            object("McpServer", status, "m")
        };
        assert_eq!(retired_server(&server("n/other"), "n/me"), None);
        let (of, patch) = retired_server(&server("n/me"), "n/me").unwrap();
        assert_eq!((of, &patch["status"]["gateways"]), (ObjectKey::server(&ServerKey::new("n", "a")), &Value::Null));
        assert!(patch["status"]["servedBy"]["until"].is_string());
        assert_eq!(
            words(&patch),
            ["Accepted=True/Accepted", "Programmed=False/NotServed", "Ready=False/NotProgrammed"]
        );
    }

    #[test]
    fn only_policies_whose_statuses_are_the_installations_are_retired() {
        let policy = |manager: &str| {
            let conditions = [condition("Accepted"), condition("Programmed")];
            let status = json!({"observedGeneration": 3, "serverCount": 2, "conditions": conditions});
            object("McpAccessPolicy", status, manager)
        };
        let manager = |installation: &str| status::field_manager(FIELD_MANAGER, installation);
        assert_eq!(retired_policy(&policy(&manager("n/other")), "n/me"), None);
        let (of, patch) = retired_policy(&policy(&manager("n/me")), "n/me").unwrap();
        assert_eq!((of, &patch["status"]["serverCount"]), (ObjectKey::policy(&ServerKey::new("n", "a")), &json!(2)));
        assert_eq!(words(&patch), ["Accepted=True/Accepted", "Programmed=False/NotServed"]);
    }

    #[test]
    fn only_views_whose_statuses_are_the_installations_are_retired() {
        let view = |manager: &str| {
            let conditions = [condition("Accepted"), condition("Programmed")];
            object("McpView", json!({"observedGeneration": 3, "toolCount": 2, "conditions": conditions}), manager)
        };
        let manager = |installation: &str| status::field_manager(FIELD_MANAGER, installation);
        assert_eq!(retired_view(&view(&manager("n/other")), "n/me"), None);
        let (of, patch) = retired_view(&view(&manager("n/me")), "n/me").unwrap();
        assert_eq!((of, &patch["status"]["toolCount"]), (ObjectKey::view(&ServerKey::new("n", "a")), &json!(2)));
        assert_eq!(words(&patch), ["Accepted=True/Accepted", "Programmed=False/NotServed"]);
    }
}

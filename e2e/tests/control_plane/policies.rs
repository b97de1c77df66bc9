//! McpAccessPolicies on their way into the slots, and their statuses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource as _;
use kube::api::{PostParams, WatchEvent, WatchParams};
use portcullis_crds::{McpAccessPolicy, McpServer};
use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{fake_gateway, require};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::setting::ControlPlane;

/// Servers and policies that are applied together.
const PAIRS: usize = 20;

/// Bound for all of them to be published.
const LIMIT: Duration = Duration::from_secs(60);

/// A count alone is written once a minute.
const PUBLISH_LIMIT: Duration = Duration::from_secs(100);

/// For each server, whether every content of its slot had the policy that governs it.
type Seen = Arc<Mutex<BTreeMap<String, bool>>>;

/// Notes what the slots hold, from now on, without a gap.
async fn watch(setting: &ControlPlane<'_>, seen: &Seen) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for slot in &setting.slots {
        let api = setting.space.api::<ConfigMap>();
        let version = api.get(slot).await.expect("the slot").metadata.resource_version.expect("a version");
        let params = WatchParams::default().fields(&format!("metadata.name={slot}")).timeout(290);
        let seen = seen.clone();
        tasks.spawn(async move {
            let mut events = std::pin::pin!(api.watch(&params, &version).await.expect("a watch"));
            while let Some(event) = events.next().await {
                let (WatchEvent::Added(slot) | WatchEvent::Modified(slot)) = event.expect("the watch holds") else {
                    continue;
                };
                for server in fake_gateway::content(&slot).map(|slot| slot.servers).unwrap_or_default() {
                    let governed = !server.governed_by.is_empty() && server.governing().is_some();
                    let mut seen = seen.lock().expect("no holder panics");
                    *seen.entry(server.key.name).or_insert(true) &= governed;
                }
            }
        });
    }
    tasks
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value) -> K {
    serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    }))
    .expect("an object")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_and_its_policy_applied_together_are_never_apart_in_a_slot() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.apply("first", "{url: 'http://first.example/'}");
    setting.until("first", "Ready=True/Ready").await;
    let seen = Seen::default();
    let tasks = watch(&setting, &seen).await;
    let (servers, policies) = (setting.space.servers(), setting.space.api::<McpAccessPolicy>());
    for pair in 0..PAIRS {
        let name = format!("s-{pair}");
        let server: McpServer = object("McpServer", &name, json!({"url": format!("http://{name}.example/")}));
        let policy: McpAccessPolicy =
            object("McpAccessPolicy", &format!("p-{pair}"), json!({"servers": {"names": [name]}}));
        let pause = Duration::from_millis(u64::try_from(pair / 2 * 10).expect("a short time"));
        let params = PostParams::default();
        if pair % 2 == 0 {
            servers.create(&params, &server).await.expect("a server");
            tokio::time::sleep(pause).await;
            policies.create(&params, &policy).await.expect("a policy");
        } else {
            policies.create(&params, &policy).await.expect("a policy");
            tokio::time::sleep(pause).await;
            servers.create(&params, &server).await.expect("a server");
        }
    }
    wait_for("all pairs to be published", LIMIT, async || {
        let seen = seen.lock().expect("no holder panics").clone();
        let count = seen.keys().filter(|name| name.starts_with("s-")).count();
        if count == PAIRS { Ok(()) } else { Err(seen) }
    })
    .await;
    let mut seen = seen.lock().expect("no holder panics").clone();
    seen.remove("first");
    assert!(seen.values().all(|governed| *governed), "{seen:?}");
    drop(tasks);
}

/// The conditions of a policy's current generation, with their messages.
fn conditions(policy: &McpAccessPolicy) -> Vec<String> {
    let status = policy.status.clone().unwrap_or_default();
    let current = status.observed_generation == policy.meta().generation;
    let of = status.conditions.iter().filter(|_| current);
    of.map(|it| format!("{}={}/{}: {}", it.type_, it.status, it.reason, it.message)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_says_what_it_governs_and_where_it_is_in_force() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operator = setting.operator();
    for name in ["search-a", "search-b", "pay"] {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
    }
    let apply = |spec: &str| {
        setting.space.apply(&format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {{name: p}}\nspec: {spec}\n"
        ));
    };
    let until = async |wanted: [&str; 2], servers: u32| {
        let what = format!("{wanted:?}");
        let good = |policy: &McpAccessPolicy| {
            conditions(policy) == wanted && policy.status.as_ref().and_then(|it| it.server_count) == Some(servers)
        };
        setting.space.until("p", &what, good).await;
    };
    let in_force = "Programmed=True/Programmed: 2 of 2 gateway replicas have applied this generation";
    apply("{servers: {names: ['search-*']}}");
    until(["Accepted=True/Accepted: ", in_force], 2).await;
    let names = |server: &McpServer| server.status.as_ref().map(|status| status.policies.clone()).unwrap_or_default();
    setting.space.until("search-a", "to name its policy", |server: &McpServer| names(server) == ["p"]).await;
    assert_eq!(names(&setting.space.servers().get("pay").await.expect("it is there")), Vec::<String>::new());

    apply("{servers: {names: [nothing]}}");
    until(["Accepted=True/Accepted: ", "Programmed=True/Programmed: It governs no server."], 0).await;
    setting.space.until("search-a", "to name no policy", |server: &McpServer| names(server).is_empty()).await;

    // What cannot be used is said, and the rest counts.
    apply("{rules: [{name: r, from: [{authenticated: true}], allow: [{tools: ['*']}], when: 'nobody.knows == 1'}]}");
    let policy = setting
        .space
        .until("p", "to be in force and not accepted", |policy: &McpAccessPolicy| {
            let conditions = conditions(policy);
            conditions.len() == 2 && conditions[0].starts_with("Accepted=False/Invalid") && conditions[1] == in_force
        })
        .await;
    assert!(conditions(&policy)[0].contains("its other rules count. rule \"r\": "), "{policy:?}");
    wait_for("an Event", LIMIT, async || {
        let said = setting.space.kubectl(&["events", "--for", "mcpaccesspolicy/p"]).good();
        if said.contains("Invalid") { Ok(()) } else { Err(said) }
    })
    .await;
    setting.space.kubectl(&["wait", "--for=condition=Programmed", "mcpap/p", "--timeout=30s"]).good();
    setting.space.kubectl(&["delete", "mcpap", "p"]).good();
    setting.space.until("pay", "to name no policy", |server: &McpServer| names(server).is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_policy_in_audit_mode_says_how_many_calls_it_would_have_denied() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operator = setting.operator();
    setting.apply("search", "{url: 'http://search.example/'}");
    let apply = |mode: &str| {
        setting.space.apply(&format!(
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {{name: p}}\nspec: {{mode: {mode}}}\n"
        ));
    };
    let until = async |count: Option<i64>| {
        wait_for(&format!("{count:?} calls"), PUBLISH_LIMIT, async || {
            let policy = setting.space.api::<McpAccessPolicy>().get("p").await.expect("it is there");
            let status = policy.status.clone().unwrap_or_default();
            let is_current = status.observed_generation == policy.meta().generation;
            if is_current && status.would_deny == count { Ok(()) } else { Err(status) }
        })
        .await;
    };
    setting.gateways[0].count(3);
    setting.gateways[1].count(4);
    apply("Audit");
    until(Some(7)).await;
    apply("Enforce");
    until(None).await;
}

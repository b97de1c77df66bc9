//! McpViews on their way into the slots, and their statuses.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource as _;
use portcullis_crds::slots::slot_of;
use portcullis_crds::{McpView, ServerKey};
use portcullis_e2e::cluster::{self, TestNamespace, Tier};
use portcullis_e2e::{fake_gateway, require};

use crate::setting::{ControlPlane, manifest};

fn view(name: &str, spec: &str) -> String {
    format!("apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The conditions of a view's current generation, with their messages.
fn conditions(view: &McpView) -> Vec<String> {
    let status = view.status.clone().unwrap_or_default();
    let current = status.observed_generation == view.meta().generation;
    let of = status.conditions.iter().filter(|_| current);
    of.map(|it| format!("{}={}/{}: {}", it.type_, it.status, it.reason, it.message)).collect()
}

/// The selections of the views of each slot, by name.
async fn published(setting: &ControlPlane<'_>) -> BTreeMap<(usize, String), usize> {
    let mut all = BTreeMap::new();
    for (index, slot) in setting.slots.iter().enumerate() {
        let object = setting.space.api::<ConfigMap>().get(slot).await.expect("the slot is there");
        let views = fake_gateway::content(&object).map(|slot| slot.views).unwrap_or_default();
        all.extend(views.iter().map(|view| ((index, view.name.clone()), view.spec.select.len())));
    }
    all
}

/// Waits until a view is in force at all replicas, with so many servers.
async fn until_in_force(setting: &ControlPlane<'_>, name: &str, servers: u32) -> McpView {
    let wanted = [
        "Accepted=True/Accepted: ",
        "Programmed=True/Programmed: 2 of 2 gateway replicas have applied this generation",
    ];
    let good = |view: &McpView| {
        conditions(view) == wanted && view.status.as_ref().and_then(|status| status.server_count) == Some(servers)
    };
    setting.space.until(name, &format!("{servers} servers in force"), good).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_is_in_its_slot_and_says_what_it_holds_and_where_it_is_in_force() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operator = setting.operator_with(&[("HOME_NAMESPACE", &setting.space.name)]);
    for name in ["crm-a", "crm-b", "pay"] {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
        setting.until(name, "Ready=True/Ready").await;
    }
    let slot = slot_of(&setting.key("v"), setting.slots.len());
    setting.space.apply(&view("v", "{select: [{servers: {names: ['crm-*']}}]}"));
    let status = until_in_force(&setting, "v", 2).await.status.expect("a status");
    let numbers = (status.tool_count, status.hidden_by_budget, status.list_bytes, status.list_tokens, status.unmatched);
    assert_eq!(numbers, (Some(4), Some(1), Some(1000), Some(250), vec![]));
    assert_eq!(published(&setting).await, BTreeMap::from([((slot, "v".to_owned()), 1)]));
    let table = setting.space.kubectl(&["get", "mcpviews"]).good();
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[7..13], ["v", "True", "True", "4", "1", "250"], "{table}");

    // A view of nothing is good, and says so.
    setting.space.apply(&view("v", "{select: [{servers: {names: [nothing]}}, {servers: {names: [none]}}]}"));
    let status = until_in_force(&setting, "v", 0).await.status.expect("a status");
    assert_eq!((status.tool_count, status.unmatched), (Some(0), vec!["nothing".to_owned()]));
    assert_eq!(published(&setting).await, BTreeMap::from([((slot, "v".to_owned()), 2)]));

    // A new server is in it at once, by its labels too.
    let by_label = "{select: [{servers: {selector: {matchLabels: {tier: gold}}}}]}";
    setting.space.apply(&view("v", by_label));
    until_in_force(&setting, "v", 0).await;
    setting.space.apply(
        &manifest("gold", "{url: 'http://gold.example/'}")
            .replace("{name: gold}", "{name: gold, labels: {tier: gold}}"),
    );
    until_in_force(&setting, "v", 1).await;

    setting.space.kubectl(&["delete", "mcpv", "v"]).good();
    portcullis_e2e::wait::wait_for("the slot to be without it", std::time::Duration::from_secs(30), async || {
        let published = published(&setting).await;
        if published.is_empty() { Ok(()) } else { Err(published) }
    })
    .await;
    let refusal = setting.space.try_apply(&view("w", "{select: [{servers: {}}]}")).bad();
    assert!(refusal.contains("set names, selector or namespaces, or leave servers out to select all"), "{refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_selects_servers_of_another_namespace_only_where_they_allow_it() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let shared = TestNamespace::new(cluster::control_plane()).await;
    let namespaces = format!("{},{}", setting.space.name, shared.name);
    let _operator = setting.operator_with(&[("NAMESPACES", &namespaces)]);
    let apply = |name: &str, allowed: &str| {
        let spec = format!("{{url: 'http://{name}.example/', allowedViews: {{namespaces: [{allowed}]}}}}");
        let labels = format!("{{name: {name}, labels: {{tier: gold}}}}");
        shared.apply(&manifest(name, &spec).replace(&format!("{{name: {name}}}"), &labels));
    };
    apply("open", &setting.space.name);
    apply("closed", "");
    let selector = format!("{{selector: {{matchLabels: {{tier: gold}}}}, namespaces: [{}]}}", shared.name);
    setting.space.apply(&view("v", &format!("{{select: [{{servers: {selector}}}]}}")));
    until_in_force(&setting, "v", 1).await;
    let labelled = |name: &str| {
        let key = ServerKey::new(shared.name.clone(), name);
        let servers = setting.gateways[0].servers().into_iter();
        servers.filter(|server| server.key == key).any(|server| !server.labels.is_empty())
    };
    assert_eq!((labelled("open"), labelled("closed")), (true, false));
    apply("closed", "'*'");
    until_in_force(&setting, "v", 2).await;
    apply("open", "other");
    until_in_force(&setting, "v", 1).await;
    assert!(!labelled("open"), "no view may look at its labels any more");
}

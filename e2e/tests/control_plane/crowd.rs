//! A thousand servers, and an operator that is killed in the middle of changes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kube::api::{DeleteParams, ListParams, ObjectMeta, Patch, PatchParams, PostParams};
use portcullis_crds::McpServer;
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::cluster::{self, Cluster, LIMIT, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require};
use serde_json::json;

use crate::setting::{ControlPlane, conditions};

const CROWD_SIZE: usize = 1000;

/// Requests of the test at the same time.
const MAX_CONCURRENT_REQUESTS: usize = 16;

/// For a thousand statuses, on a machine that does something else as well.
const CROWD_LIMIT: Duration = Duration::from_secs(120);

fn names(count: usize) -> Vec<String> {
    (0..count).map(|index| format!("server-{index}")).collect()
}

fn url(name: &str, version: u32) -> String {
    format!("http://{name}.example/v{version}")
}

async fn create(setting: &ControlPlane<'_>, names: &[String]) {
    let api = setting.space.servers();
    let each = stream::iter(names).for_each_concurrent(MAX_CONCURRENT_REQUESTS, async |name| {
        let spec = serde_json::from_value(json!({"url": url(name, 1)})).expect("a spec");
        let mut server = McpServer::new(name, spec);
        server.metadata = ObjectMeta { name: Some(name.clone()), ..ObjectMeta::default() };
        api.create(&PostParams::default(), &server).await.expect("created");
    });
    each.await;
}

async fn change(setting: &ControlPlane<'_>, names: &[String], version: u32) {
    let api = setting.space.servers();
    let each = stream::iter(names).for_each_concurrent(MAX_CONCURRENT_REQUESTS, async |name| {
        let patch = json!({"spec": {"url": url(name, version)}});
        api.patch(name, &PatchParams::default(), &Patch::Merge(&patch)).await.expect("changed");
    });
    each.await;
}

/// Waits until these servers, and no others, are programmed, and all statuses say so.
async fn settled(setting: &ControlPlane<'_>, wanted: &BTreeMap<String, String>) {
    wait_for("every server to be programmed and ready", CROWD_LIMIT, async || {
        let programmed = setting.programmed().await;
        if programmed != *wanted {
            return Err(format!("{} are programmed, or not all as they should be", programmed.len()));
        }
        let servers = setting.space.servers().list(&ListParams::default()).await.expect("servers").items;
        let ready = |server: &&McpServer| conditions(server).iter().any(|it| it == "Ready=True/Ready");
        let count = servers.iter().filter(ready).count();
        if (servers.len(), count) == (wanted.len(), wanted.len()) {
            Ok(())
        } else {
            Err(format!("{count} of {} are ready", servers.len()))
        }
    })
    .await;
}

fn wanted(names: &[String], version: u32) -> BTreeMap<String, String> {
    names.iter().map(|name| (name.clone(), url(name, version))).collect()
}

/// The numbers of slots and statuses that an operator has written, from its metrics.
async fn writes(operator: &RunningProgram) -> (u64, u64) {
    let metrics = http::get(&format!("http://{}/metrics", operator.address)).send().await.expect("metrics");
    let sum = |name: &str| -> u64 {
        let lines = metrics.text().lines().filter(|line| line.starts_with(&format!("portcullis_operator_{name}{{")));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    };
    (sum("slot_writes_total"), sum("status_writes_total"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_servers_end_as_they_should_with_few_writes() {
    require!(cluster::startable(Tier::ControlPlane));
    let cluster = Cluster::own_control_plane();
    let setting = ControlPlane::new(&cluster, 2).await;
    let operator = setting.operator();
    let names = names(CROWD_SIZE);
    let (kept, dropped) = names.split_at(CROWD_SIZE / 2);

    create(&setting, &names).await;
    settled(&setting, &wanted(&names, 1)).await;
    let after_create = writes(&operator).await;
    change(&setting, &names, 2).await;
    settled(&setting, &wanted(&names, 2)).await;
    let after_change = writes(&operator).await;
    let api = setting.space.servers();
    let delete = stream::iter(dropped).for_each_concurrent(MAX_CONCURRENT_REQUESTS, async |name| {
        api.delete(name, &DeleteParams::default()).await.expect("deleted");
    });
    delete.await;
    settled(&setting, &wanted(kept, 2)).await;
    let after_delete = writes(&operator).await;
    println!("slots and statuses written: {after_create:?}, then {after_change:?}, then {after_delete:?}");

    let crowd = CROWD_SIZE as u64;
    let (slots, statuses) = after_create;
    assert!(slots <= 200 && statuses <= 3 * crowd, "creation took {slots} slots and {statuses} statuses");
    let (slots, statuses) = (after_change.0 - after_create.0, after_change.1 - after_create.1);
    assert!(slots <= 200 && statuses <= 3 * crowd, "a change took {slots} slots and {statuses} statuses");
    let (slots, statuses) = (after_delete.0 - after_change.0, after_delete.1 - after_change.1);
    assert!(slots <= 200 && statuses <= crowd / 10, "deletion took {slots} slots and {statuses} statuses");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_that_is_killed_during_100_changes_leaves_nothing_wrong() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let names = names(20);
    let mut operator = setting.operator();
    create(&setting, &names).await;
    for version in 2..=6 {
        let (early, late) = names.split_at(names.len() / 2);
        change(&setting, early, version).await;
        // Killed in the middle of its writes, and another starts in the middle of ours.
        drop(operator);
        change(&setting, late, version).await;
        operator = setting.operator();
    }
    settled(&setting, &wanted(&names, 6)).await;
    drop(operator);
    let _ = LIMIT;
}

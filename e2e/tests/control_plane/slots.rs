//! The operator repairs every edit of the slots, and writes only changes.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, WatchEvent, WatchParams};
use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::setting::ControlPlane;

/// The operator repairs an edit within this time.
const REPAIR_LIMIT: Duration = Duration::from_secs(5);

/// So long is watched that nothing is written.
const IDLE_PERIOD: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_edited_or_deleted_is_put_right_within_5_seconds() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    for name in ["a", "b", "c"] {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
    }
    for name in ["a", "b", "c"] {
        setting.until(name, "Ready=True/Ready").await;
    }
    let api = setting.space.api::<ConfigMap>();
    let good = contents(&api, &setting.slots).await;
    let edits = [
        json!({"data": {"servers.json": "{\"version\":1,\"servers\":[]}"}}),
        json!({"data": {"servers.json": "nonsense"}}),
        json!({"data": null}),
        json!({"binaryData": {"servers.json.gz": "AAAA"}}),
        json!({"metadata": {"annotations": {"portcullis.dev/revision": null}}}),
        json!({"metadata": {"annotations": {"portcullis.dev/revision": "0"}}}),
    ];
    for slot in &setting.slots {
        for edit in &edits {
            api.patch(slot, &PatchParams::default(), &Patch::Merge(edit)).await.expect("edited");
            whole_again(&api, &setting.slots, &good, &edit.to_string()).await;
        }
        api.delete(slot, &DeleteParams::default()).await.expect("deleted");
        whole_again(&api, &setting.slots, &good, "deletion").await;
    }
}

async fn whole_again(api: &Api<ConfigMap>, slots: &[String], good: &[Value], after: &str) {
    wait_for(&format!("the slots to be whole after {after}"), REPAIR_LIMIT, async || {
        let now = contents(api, slots).await;
        if now == good { Ok(()) } else { Err(now) }
    })
    .await;
}

/// The content of each slot, and its claimed revision.
async fn contents(api: &Api<ConfigMap>, slots: &[String]) -> Vec<Value> {
    let mut all = Vec::new();
    for slot in slots {
        let object = api.get_opt(slot).await.expect("an answer").map(|it| serde_json::to_value(it).expect("JSON"));
        all.push(object.map_or(Value::Null, |it| {
            json!([it["data"], it["binaryData"], it["metadata"]["annotations"]["portcullis.dev/revision"]])
        }));
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_operator_writes_nothing_and_neither_does_one_that_starts() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let operator = setting.operator();
    let names: Vec<String> = (0..20).map(|index| format!("s-{index}")).collect();
    for name in &names {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
    }
    for name in &names {
        setting.until(name, "Ready=True/Ready").await;
    }
    let before = versions(&setting).await;
    drop(operator);
    let _again = setting.operator();
    assert_eq!(first_write(&setting, IDLE_PERIOD).await, None);
    assert_eq!(versions(&setting).await, before);
}

/// The first event of any slot or server of the namespace within a time, if there is one.
async fn first_write(setting: &ControlPlane<'_>, within: Duration) -> Option<String> {
    let seconds = u32::try_from(within.as_secs()).expect("a short time");
    let list = setting.space.servers().list_metadata(&ListParams::default()).await.expect("servers");
    let version = list.metadata.resource_version.expect("a version");
    let params = WatchParams::default().timeout(seconds);
    let servers = setting.space.servers();
    let servers = servers.watch(&params, &version).await.expect("a watch").map(|it| written(it.map(|it| erased(&it))));
    let slots = setting.space.api::<ConfigMap>();
    let slots = slots.watch(&params, &version).await.expect("a watch").map(|it| written(it.map(|it| erased(&it))));
    let mut writes =
        std::pin::pin!(futures_util::stream::select(Box::pin(servers), Box::pin(slots)).filter_map(async |it| it));
    timeout(within, writes.next()).await.ok().flatten()
}

fn erased<K: serde::Serialize + Clone>(event: &WatchEvent<K>) -> Option<String> {
    match event {
        WatchEvent::Added(it) | WatchEvent::Modified(it) | WatchEvent::Deleted(it) => {
            Some(serde_json::to_string(it).expect("JSON"))
        }
        WatchEvent::Bookmark(_) | WatchEvent::Error(_) => None,
    }
}

fn written(event: kube::Result<Option<String>>) -> Option<String> {
    event.unwrap_or_else(|error| panic!("the watch broke: {error}"))
}

/// The versions of all slots and servers.
async fn versions(setting: &ControlPlane<'_>) -> BTreeMap<String, Option<String>> {
    let everything = ListParams::default();
    let servers = setting.space.servers().list_metadata(&everything).await.expect("servers").items;
    let slots = setting.space.api::<ConfigMap>().list_metadata(&everything).await.expect("slots").items;
    servers
        .into_iter()
        .chain(slots.into_iter().map(|slot| kube::core::PartialObjectMeta {
            types: slot.types,
            metadata: slot.metadata,
            _phantom: std::marker::PhantomData,
        }))
        .map(|it| (it.metadata.name.unwrap_or_default(), it.metadata.resource_version))
        .collect()
}

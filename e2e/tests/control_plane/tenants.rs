//! Namespaces that share an operator do not affect each other.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use kube::api::{DeleteParams, ListParams, PostParams};
use portcullis_crds::{McpServer, McpServerSpec};
use portcullis_e2e::cluster::{self, TestNamespace, Tier};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::setting::{ControlPlane, conditions, manifest};

/// More than two slots hold, each server as large as the definition lets it be.
const SERVER_COUNT: usize = 110;

/// A slot that is over-full takes longer to be made, and is made no more than about once a second.
const APPLY_LIMIT: Duration = Duration::from_secs(20);

/// Letters that no compression makes shorter than three quarters.
fn noise(seed: usize, length: usize) -> String {
    let mut state = (seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(alphabet[(state >> 33) as usize % 64])
    };
    (0..length).map(|_| next()).collect()
}

fn large(number: usize) -> McpServerSpec {
    let overrides: Vec<_> =
        (0..9).map(|n| json!({"name": format!("t{n}"), "description": noise(number * 100 + n, 4000)})).collect();
    serde_json::from_value(json!({"url": "http://mallory.example/", "tools": {"overrides": overrides}}))
        .expect("a spec")
}

/// The servers of the test's own namespace in the slots.
async fn own(setting: &ControlPlane<'_>) -> BTreeMap<String, Vec<String>> {
    let servers = setting.gateways[0].servers().into_iter();
    let own = servers.filter(|server| server.key.namespace == setting.space.name);
    own.map(|server| (server.key.name, server.tools.exclude)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_fills_its_slots_keeps_nobody_elses_change_from_being_applied() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let mallory = TestNamespace::new(cluster::control_plane()).await;
    let namespaces = format!("{},{}", setting.space.name, mallory.name);
    let _operator = setting.operator_with(&[("NAMESPACES", &namespaces)]);
    for name in ["pay", "gone"] {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
        setting.until(name, "Ready=True/Ready").await;
    }

    let servers = mallory.servers();
    let creating = stream::iter(0..SERVER_COUNT).for_each_concurrent(8, async |number| {
        let server = McpServer::new(&format!("m-{number}"), large(number));
        servers.create(&PostParams::default(), &server).await.expect("created");
    });
    creating.await;
    wait_for("some servers of the other namespace to be left out", APPLY_LIMIT, async || {
        let all = mallory.servers().list(&ListParams::default()).await.expect("servers").items;
        let has = |wanted: &str| all.iter().filter(|it| conditions(it).iter().any(|is| is == wanted)).count();
        let (out, ready) = (has("Programmed=False/SnapshotTooLarge"), has("Ready=True/Ready"));
        if out + ready == SERVER_COUNT && out > 0 && ready > SERVER_COUNT / 2 { Ok(()) } else { Err((out, ready)) }
    })
    .await;

    setting.apply("pay", "{url: 'http://pay.example/', tools: {exclude: [transfer]}}");
    setting.space.servers().delete("gone", &DeleteParams::default()).await.expect("deleted");
    setting.space.apply(&manifest("new", "{url: 'http://new.example/'}"));
    let wanted = BTreeMap::from([("pay".to_owned(), vec!["transfer".to_owned()]), ("new".to_owned(), vec![])]);
    wait_for("the change, the deletion and the new server to be applied", APPLY_LIMIT, async || {
        let own = own(&setting).await;
        if own == wanted { Ok(()) } else { Err(own) }
    })
    .await;
    for name in ["pay", "new"] {
        setting.until(name, "Ready=True/Ready").await;
    }

    // Once there is room again, all are served.
    servers.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("deleted");
    servers.create(&PostParams::default(), &McpServer::new("m", large(0))).await.expect("created");
    mallory
        .until("m", "to be ready", |server: &McpServer| conditions(server).iter().any(|it| it == "Ready=True/Ready"))
        .await;
}

//! Two installations watch the same McpServers: the first serves them, and the second waits until it is gone.

use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ListParams, WatchEvent, WatchParams};
use portcullis_crds::{McpServer, Reason};
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require};
use tokio::time::timeout;

use crate::setting::ControlPlane;

/// So long is watched that nothing is written.
const IDLE_PERIOD: Duration = Duration::from_secs(10);

const NAMES: [&str; 3] = ["a", "b", "c"];

/// An operator with one of the gateways as its own.
fn installation(setting: &ControlPlane<'_>, name: &str, gateway: usize, takeover: &str) -> RunningProgram {
    let gateway = setting.gateways[gateway].address.to_string();
    setting.operator_with(&[("INSTALLATION", name), ("GATEWAYS", &gateway), ("TAKEOVER_SECONDS", takeover)])
}

async fn metric(operator: &RunningProgram, name: &str) -> Option<u64> {
    let metrics = http::get(&format!("http://{}/metrics", operator.address)).send().await.expect("metrics");
    metrics.text().lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
}

fn owner(server: &McpServer) -> Option<&str> {
    Some(server.status.as_ref()?.served_by.as_ref()?.installation.as_str())
}

async fn events(setting: &ControlPlane<'_>, reason: &str) -> Vec<Event> {
    let all = setting.space.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
    all.into_iter().filter(|event| event.reason.as_deref() == Some(reason)).collect()
}

/// The first change of any McpServer within a time.
async fn first_change(setting: &ControlPlane<'_>) -> Option<McpServer> {
    let list = setting.space.servers().list_metadata(&ListParams::default()).await.expect("servers");
    let version = list.metadata.resource_version.expect("a version");
    let api = setting.space.servers();
    let mut changes = std::pin::pin!(api.watch(&WatchParams::default(), &version).await.expect("a watch"));
    match timeout(IDLE_PERIOD, changes.next()).await {
        Ok(Some(Ok(WatchEvent::Modified(server) | WatchEvent::Added(server)))) => Some(server),
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_installation_stands_back_and_takes_over_when_the_first_is_gone() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    // What the second one's gateway says is another story, which must not be told over and over.
    for name in NAMES {
        setting.gateways[1].say(&setting.key(name), Reason::BackendUnreachable, "no way from here");
    }
    let first = installation(&setting, "n/first", 0, "120");
    for name in NAMES {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
        assert_eq!(owner(&setting.until(name, "Ready=True/Ready").await), Some("n/first"));
    }
    let second = installation(&setting, "n/second", 1, "20");
    wait_for("the second to stand back", LIMIT, async || {
        let of_others = metric(&second, "portcullis_operator_mcpservers_of_others ").await;
        if of_others == Some(3) { Ok(()) } else { Err(of_others) }
    })
    .await;
    wait_for("the second to be answered, and its Events", LIMIT, async || {
        let asked = metric(&second, "portcullis_operator_status_writes_total{outcome=\"ok\"} ").await;
        let servers = setting.space.servers().list(&ListParams::default()).await.expect("servers").items;
        let open = servers.iter().filter(|it| it.status.as_ref().is_some_and(|it| it.contender.is_some())).count();
        let told = events(&setting, "ServedByAnother").await.len();
        if (asked, open, told) == (Some(1), 0, 3) { Ok(()) } else { Err((asked, open, told)) }
    })
    .await;
    assert_eq!(first_change(&setting).await.map(|it| it.status), None);
    let told = events(&setting, "ServedByAnother").await;
    let notes: Vec<&str> = told.iter().filter_map(|event| event.note.as_deref()).collect();
    assert!(notes.len() == 3 && notes.iter().all(|note| note.contains("n/first")), "{notes:?}");
    assert_eq!(events(&setting, "BackendUnreachable").await, Vec::new());
    let servers = setting.space.servers().list(&ListParams::default()).await.expect("servers").items;
    assert!(servers.iter().all(|server| owner(server) == Some("n/first")));

    // A new process of the second asks at once; the first is not there to answer.
    drop(first);
    drop(second);
    let _second = installation(&setting, "n/second", 1, "3");
    for name in NAMES {
        let server = setting.until(name, "Ready=False/BackendUnreachable").await;
        assert_eq!(owner(&server), Some("n/second"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_installations_that_begin_together_each_server_has_one() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operators = [installation(&setting, "n/first", 0, "120"), installation(&setting, "n/second", 1, "120")];
    for name in NAMES {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
    }
    let mut owners = Vec::new();
    for name in NAMES {
        owners.push(owner(&setting.until(name, "Ready=True/Ready").await).map(str::to_owned));
    }
    wait_for("nothing to be written any more", LIMIT * 2, async || {
        let change = first_change(&setting).await;
        if change.is_none() { Ok(()) } else { Err(change) }
    })
    .await;
    for (name, before) in NAMES.iter().zip(owners) {
        let server = setting.space.servers().get(name).await.expect("it is there");
        assert_eq!(owner(&server).map(str::to_owned), before);
    }
}

//! Two operators: one writes, and the other takes over.

use k8s_openapi::api::coordination::v1::Lease;
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require};
use rustix::process::Signal;

use crate::setting::{ControlPlane, TAKEOVER};

const LEASE: &str = "portcullis-operator";

fn candidate(setting: &ControlPlane<'_>, name: &str) -> RunningProgram {
    setting.operator_with(&[("LEASE", LEASE), ("POD_NAME", name)])
}

async fn holder(setting: &ControlPlane<'_>) -> Option<String> {
    let lease = setting.space.api::<Lease>().get_opt(LEASE).await.expect("an answer")?;
    lease.spec?.holder_identity.filter(|holder| !holder.is_empty())
}

async fn leads(operator: &RunningProgram) -> bool {
    let metrics = http::get(&format!("http://{}/metrics", operator.address)).send().await.expect("metrics");
    metrics.text().lines().any(|line| line == "portcullis_operator_leader 1")
}

async fn two(setting: &ControlPlane<'_>) -> (RunningProgram, RunningProgram) {
    let first = candidate(setting, "first");
    wait_for("the first to lead", LIMIT, async || leads(&first).await).await;
    let second = candidate(setting, "second");
    let ready = format!("http://{}/readyz", second.address);
    wait_for("the second to be ready", LIMIT, async || http::get(&ready).send().await.is_ok_and(|it| it.status == 200))
        .await;
    assert!(!leads(&second).await, "both lead");
    assert_eq!(holder(setting).await.as_deref(), Some("first"));
    (first, second)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_replica_takes_over_within_20_seconds_of_a_kill() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let (first, second) = two(&setting).await;
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Ready=True/Ready").await;
    drop(first);
    setting.apply("b", "{url: 'http://b.example/'}");
    wait_for("b to be programmed by the second", TAKEOVER, async || {
        setting.programmed().await.contains_key("b").then_some(())
    })
    .await;
    setting.until("b", "Ready=True/Ready").await;
    assert!(leads(&second).await);
    assert_eq!(holder(&setting).await.as_deref(), Some("second"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_stops_in_good_order_gives_the_lease_back() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let (first, second) = two(&setting).await;
    first.signal(Signal::TERM);
    let ended = first.ended();
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
    wait_for("the second to lead", TAKEOVER, async || leads(&second).await).await;
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Ready=True/Ready").await;
}

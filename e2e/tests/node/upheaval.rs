//! The release is upgraded, rolled back, killed and removed while others use it.

use std::time::Duration;

use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::time::Instant;

use crate::load::Load;
use crate::release::{NodeRelease, ROLLOUT, chart};
use crate::servers::demo;

/// New calls go to the other replica within this time of a kill: kube-proxy has to learn of it.
const RECOVERY_LIMIT: Duration = Duration::from_secs(10);

fn load(release: &NodeRelease<'_>) -> Load {
    Load::of(&release.request("demo", "add", &json!({"a": 2, "b": 3})), &release.origin)
}

/// Replaces every pod of gateway and operator.
fn upgrade(release: &NodeRelease<'_>, label: &str) {
    let gateway = format!("gateway.podAnnotations.round={label}");
    let operator = format!("operator.podAnnotations.round={label}");
    let set = ["--set", &gateway, "--set", &operator];
    release.helm(&[&["upgrade", "portcullis", &chart(), "--wait", "--timeout=3m"], &set[..]].concat()).good();
}

#[test]
fn an_upgrade_of_gateway_and_operator_fails_no_call() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        demo(&release).await;
        let load = load(&release);
        load.goes_on_for(50).await;
        upgrade(&release, "first");
        release.rolled_out("portcullis-gateway");
        release.rolled_out("portcullis-operator");
        release.two_gateways().await;
        load.goes_on_for(50).await;
        load.without_a_failure().await;
        release.ready("demo").await;
    });
}

#[test]
fn a_killed_gateway_is_gone_around_and_replaced() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        demo(&release).await;
        release.two_gateways().await;
        let load = load(&release);
        load.goes_on_for(50).await;
        let selector = "app.kubernetes.io/component=gateway";
        let pods = release.kubectl(&["get", "pods", "-l", selector, "-o", "name"]).good();
        let killed = Instant::now();
        let pod = pods.lines().next().expect("a pod");
        release.kubectl(&["delete", pod, "--force", "--grace-period=0"]).good();
        load.goes_on_for(200).await;
        release.two_gateways().await;
        let (_, failures) = load.end().await;
        let late: Vec<_> = failures.iter().filter(|it| it.at > killed + RECOVERY_LIMIT).collect();
        assert!(late.is_empty(), "calls failed long after the kill: {late:?}");
        release.ready("demo").await;
    });
}

#[test]
fn operators_that_are_killed_during_100_changes_leave_nothing_wrong() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        demo(&release).await;
        let load = load(&release);
        for round in 0..10 {
            for index in 0..10 {
                release.space.apply(&format!(
                    "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: s-{index}}}\n\
                     spec: {{service: {{name: demo, port: mcp}}, weight: 0, description: round {round}}}\n"
                ));
            }
            if round % 3 == 1 {
                let all = "app.kubernetes.io/component=operator";
                release.kubectl(&["delete", "pods", "-l", all, "--force", "--grace-period=0"]).good();
            }
        }
        release.rolled_out("portcullis-operator");
        for index in 0..10 {
            let name = format!("s-{index}");
            release.ready(&name).await;
            let answer = release.call(&name, "add", &json!({"a": index, "b": 1})).await;
            assert_eq!((answer.status, answer.text()), (200, format!("[{}]", index + 1).as_str()));
        }
        load.without_a_failure().await;
    });
}

#[test]
fn a_release_is_upgraded_rolled_back_and_removed_and_the_servers_stay() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        demo(&release).await;
        let load = load(&release);
        upgrade(&release, "second");
        release.helm(&["rollback", "portcullis", "--wait", "--timeout=3m"]).good();
        release.two_gateways().await;
        load.goes_on_for(50).await;
        load.without_a_failure().await;

        release.helm(&["uninstall", "portcullis", "--wait", "--timeout=3m"]).good();
        release.space.kubectl(&["get", "mcpsrv/demo"]).good();
        wait_for("the pods to be gone", ROLLOUT, async || {
            let pods = release.kubectl(&["get", "pods", "-o", "name"]).good();
            if pods.is_empty() { Ok(()) } else { Err(pods) }
        })
        .await;

        release.helm(&["install", "portcullis", &chart(), "--wait", "--timeout=3m"]).good();
        release.ready("demo").await;
    });
}

//! An operator that listens on IPv6 alone, where this machine has it.

use std::net::TcpListener;

use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require};

use crate::setting::ControlPlane;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn probes_and_metrics_are_answered_over_ipv6() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let ipv6 = TcpListener::bind("[::1]:0").is_ok();
    let operator = setting.operator_with(&[("ADMIN_ADDRESS", if ipv6 { "[::1]:0" } else { "127.0.0.1:0" })]);
    assert_eq!(operator.address.is_ipv6(), ipv6);
    let ready = format!("http://{}/readyz", operator.address);
    wait_for("readiness", LIMIT, async || http::get(&ready).send().await.is_ok_and(|it| it.status == 200)).await;
    let metrics = http::get(&format!("http://{}/metrics", operator.address)).send().await.expect("metrics");
    assert!(metrics.text().contains("portcullis_operator_leader"));
}

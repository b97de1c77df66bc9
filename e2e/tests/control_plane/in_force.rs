//! Real gateways, operator and API server: a condition holds at every replica at the moment it is written.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::Duration;

use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::faulty::{Faulty, FaultyMode, ListFault, ProtocolFault, Tool};
use portcullis_e2e::{http, require, token};
use rustix::process::Signal;

use crate::setting::ControlPlane;

/// Longer than the operator takes to write a status, and shorter than a silent replica takes to be told as such.
const QUIET_PERIOD: Duration = Duration::from_secs(3);

/// A gateway replica of this namespace, as the chart runs it.
pub fn gateway(setting: &ControlPlane<'_>) -> RunningProgram {
    RunningProgram::start(
        &[],
        &[
            ("JWT_SECRET", token::SECRET),
            ("KUBECONFIG", &setting.space.cluster.kubeconfig.display().to_string()),
            ("POD_NAMESPACE", &setting.space.name),
            ("CONFIGMAPS", &setting.slots.join(",")),
            ("ALLOWED_ADDRESSES", "127.0.0.0/8"),
            ("ADMIN_ADDRESS", "127.0.0.1:0"),
        ],
    )
}

/// The address of a gateway's report.
pub fn admin_address(gateway: &RunningProgram) -> String {
    let log = gateway.log();
    let line = log.iter().find(|line| line["message"] == "listening").expect("it listens");
    line["admin_address"].as_str().expect("an address").to_owned()
}

/// The status of a call of a tool at each of these gateways.
async fn call(gateways: &[RunningProgram], tool: &str) -> Vec<u16> {
    let mut all = Vec::new();
    for gateway in gateways {
        let body = format!(r#"{{"method":"{tool}","args":{{"message":"x"}}}}"#);
        let call = http::post(&format!("http://{}/tools", gateway.address), body).bearer(&token::mint("tester"));
        all.push(call.limit(LIMIT).send().await.expect("an answer").status);
    }
    all
}

fn wait(setting: &ControlPlane<'_>, condition: &str) {
    let condition = format!("--for=condition={condition}");
    setting.space.kubectl(&["wait", &condition, "mcpsrv/a", "--timeout=30s"]).good();
}

/// Changes the server while a gateway stands still for a while: it is told as changed no earlier than that one goes on.
fn change_while_stopped(gateway: &RunningProgram, change: impl FnOnce(), wait: impl FnOnce()) {
    let goes_on = AtomicBool::new(false);
    gateway.signal(Signal::STOP);
    change();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            sleep(QUIET_PERIOD);
            goes_on.store(true, Ordering::SeqCst);
            gateway.signal(Signal::CONT);
        });
        wait();
        assert!(goes_on.load(Ordering::SeqCst), "it is told as changed while a gateway has not heard of it");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_kubectl_has_waited_for_can_be_called_at_every_replica_and_the_old_one_at_none() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 0).await;
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("x")]).await;
    let gateways = [gateway(&setting), gateway(&setting)];
    let addresses = gateways.each_ref().map(admin_address).join(",");
    let _operator = setting.operator_with(&[("GATEWAYS", &addresses), ("HOME_NAMESPACE", &setting.space.name)]);
    setting.apply("a", &format!("{{url: '{}'}}", server.url()));
    wait(&setting, "Ready");
    let mut old = "x".to_owned();
    assert_eq!(call(&gateways, &old).await, [200, 200]);
    // A server that cannot list its tools now has the names of those that it has listed before.
    let ways = [
        ("honest", "Ready"),
        ("a gateway stands still", "Ready"),
        ("list hangs", "Programmed"),
        ("a gateway stands still", "Programmed"),
        ("list errs", "Programmed"),
    ];
    for (round, (way, condition)) in ways.iter().cycle().enumerate().take(12) {
        server.reform();
        server.behave(|faults| match *way {
            "list hangs" => faults.list = ListFault::Reply(ProtocolFault::Never),
            "list errs" => {
                faults.list = ListFault::Reply(ProtocolFault::Error(r#"{"code":-32603,"message":"broken"}"#.into()))
            }
            _ => {}
        });
        let patch = format!(r#"{{"spec":{{"tools":{{"prefix":"p{round}"}}}}}}"#);
        let change =
            || drop(setting.space.kubectl(&["patch", "mcpsrv", "a", "--type=merge", "--patch", &patch]).good());
        if *way == "a gateway stands still" {
            change_while_stopped(&gateways[round % 2], change, || wait(&setting, condition));
        } else {
            change();
            wait(&setting, condition);
        }
        let new = format!("p{round}__x");
        let answers = [call(&gateways, &new).await, call(&gateways, &old).await];
        assert_eq!(answers, [[200, 200], [404, 404]], "{round} {way} {condition}: {old} to {new}");
        old = new;
    }
}

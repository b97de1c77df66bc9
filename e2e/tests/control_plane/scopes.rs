//! Namespaces that the operator may not read, or no longer serves.

use std::io::Write as _;
use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use portcullis_crds::McpAccessPolicy;
use portcullis_e2e::binary::{OwnProgram, run_program};
use portcullis_e2e::cluster::{self, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{fake_gateway, http, require};
use serde_json::{Value, json};
use serde_yaml::Value as Yaml;

use crate::setting::{ControlPlane, conditions, message};

/// Time after which a refused namespace counts as empty, with some to spare.
const REFUSAL_LIMIT: Duration = Duration::from_secs(60);

/// Everything in one namespace, and nothing elsewhere.
const RIGHTS: &str = "
apiVersion: v1
kind: ServiceAccount
metadata: {name: operator}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: operator}
rules: [{apiGroups: ['*'], resources: ['*'], verbs: ['*']}]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: operator}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: operator}
subjects: [{kind: ServiceAccount, name: operator}]
";

/// A kubeconfig of the service account of [`RIGHTS`].
fn kubeconfig(setting: &ControlPlane<'_>) -> tempfile::NamedTempFile {
    setting
        .space
        .apply(&RIGHTS.replace("name: operator}]", &format!("name: operator, namespace: {}}}]", setting.space.name)));
    let token = setting.space.kubectl(&["create", "token", "operator"]).good();
    let text = std::fs::read_to_string(&setting.space.cluster.kubeconfig).expect("a kubeconfig");
    let mut config: Yaml = serde_yaml::from_str(&text).expect("YAML");
    config["users"][0]["user"] = serde_yaml::to_value(json!({"token": token.trim()})).expect("YAML");
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(serde_yaml::to_string(&config).expect("YAML").as_bytes()).expect("written");
    file
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_may_not_be_read_counts_as_empty_and_keeps_no_other_waiting() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let file = kubeconfig(&setting);
    let path = file.path().display().to_string();
    let namespaces = format!("{},gone-for-good", setting.space.name);
    setting.apply("a", "{url: 'http://a.example/'}");
    let operator = setting.operator_with(&[("KUBECONFIG", &path), ("NAMESPACES", &namespaces)]);
    wait_for("the other namespace to be served", REFUSAL_LIMIT, async || {
        let server = setting.space.servers().get("a").await.expect("it is there");
        let conditions = conditions(&server);
        if conditions.iter().any(|it| it == "Ready=True/Ready") { Ok(()) } else { Err(conditions) }
    })
    .await;
    let at = |path: &str| format!("http://{}{path}", operator.address);
    assert_eq!(http::get(&at("/readyz")).send().await.expect("an answer").status, 200);
    let status = http::get(&at("/status")).send().await.expect("an answer");
    let status: Value = serde_json::from_str(status.text()).expect("JSON");
    assert_eq!(status["unreadableNamespaces"], json!(["gone-for-good"]));
    let metrics = http::get(&at("/metrics")).send().await.expect("metrics").text().to_string();
    assert!(metrics.contains("portcullis_operator_namespace_unreadable{watched=\"gone-for-good\"} 1\n"), "{metrics}");
    let told = |line: &Value| line["namespace"] == "gone-for-good" && line["level"] == "WARN";
    assert!(operator.log().iter().any(told), "{:?}", operator.log());
}

/// The names of the policies that govern a server of a slot.
async fn governed_by(setting: &ControlPlane<'_>, name: &str) -> Option<Vec<String>> {
    for slot in &setting.slots {
        let slot = setting.space.api::<ConfigMap>().get(slot).await.expect("the slot is there");
        let servers = fake_gateway::content(&slot).map(|slot| slot.servers).unwrap_or_default();
        if let Some(server) = servers.into_iter().find(|server| server.key.name == name) {
            return Some(server.governed_by.into_iter().map(|of| of.name).collect());
        }
    }
    None
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_whose_policies_may_not_be_read_are_closed_until_they_can_be() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let file = kubeconfig(&setting);
    let resources = "[configmaps, services, events, mcpservers, mcpservers/status]";
    let narrow = RIGHTS.replace("resources: ['*']", &format!("resources: {resources}"));
    setting
        .space
        .apply(&narrow.replace("name: operator}]", &format!("name: operator, namespace: {}}}]", setting.space.name)));
    setting.apply("a", "{url: 'http://a.example/'}");
    let path = file.path().display().to_string();
    let operator = setting.operator_with(&[("KUBECONFIG", &path)]);
    let until = async |wanted: &[&str]| {
        wait_for(&format!("the server to be governed by {wanted:?}"), REFUSAL_LIMIT, async || {
            let names = governed_by(&setting, "a").await;
            if names.as_ref().is_some_and(|names| names == wanted) { Ok(()) } else { Err(names) }
        })
        .await;
    };
    until(&["(unreadable)"]).await;
    let told = |line: &Value| line["resource"] == "mcpaccesspolicies" && line["level"] == "WARN";
    assert!(operator.log().iter().any(told), "{:?}", operator.log());
    setting
        .space
        .apply(&RIGHTS.replace("name: operator}]", &format!("name: operator, namespace: {}}}]", setting.space.name)));
    until(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_retired_is_not_ready_any_more_until_another_process_takes_it() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let name = [("INSTALLATION", "n/mine")];
    let operator = setting.operator_with(&name);
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Ready=True/Ready").await;
    setting.space.apply("apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p}\nspec: {}\n");
    setting
        .space
        .apply("apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {name: v}\nspec: {select: [{}]}\n");
    setting.space.kubectl(&["wait", "--for=condition=Programmed", "mcpv/v", "--timeout=30s"]).good();
    let policy_says = async |wanted: &'static str| {
        let says = |policy: &McpAccessPolicy| {
            let conditions = policy.status.clone().unwrap_or_default().conditions;
            conditions.iter().any(|it| format!("{}={}/{}", it.type_, it.status, it.reason) == wanted)
        };
        setting.space.until("p", wanted, says).await
    };
    policy_says("Programmed=True/Programmed").await;
    // The time of its end is told in whole seconds.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let kubeconfig = setting.space.cluster.kubeconfig.display().to_string();
    let retire = |installation: &str| {
        let environment = [
            ("KUBECONFIG", kubeconfig.as_str()),
            ("INSTALLATION", installation),
            ("NAMESPACES", setting.space.name.as_str()),
        ];
        let ended = run_program(OwnProgram::Operator, &["retire"], &environment);
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        ended.stdout
    };
    assert_eq!(retire("n/other"), "objects marked as no longer served: 0; that could not be marked: 0\n");
    assert_eq!(retire("n/mine"), "objects marked as no longer served: 3; that could not be marked: 0\n");
    let retired = setting.until("a", "Programmed=False/NotServed").await;
    policy_says("Programmed=False/NotServed").await;
    setting.space.kubectl(&["wait", "--for=condition=Programmed=False", "mcpv/v", "--timeout=30s"]).good();
    assert!(conditions(&retired).contains(&"Ready=False/NotProgrammed".to_owned()), "{retired:?}");
    let said = "Installation n/mine no longer serves it.";
    assert_eq!(message(&retired, portcullis_crds::ConditionType::Ready), said);
    // The operator that runs leaves it alone, whatever it hears of it.
    setting.gateways[0].say(&setting.key("a"), portcullis_crds::Reason::Unhealthy, "no ping");
    tokio::time::sleep(Duration::from_secs(3)).await;
    setting.until("a", "Programmed=False/NotServed").await;
    drop(operator);
    let _operator = setting.operator_with(&name);
    setting.until("a", "Ready=False/Unhealthy").await;
    policy_says("Programmed=True/Programmed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_to_list_views_servers_and_policies_go_on() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let file = kubeconfig(&setting);
    let resources =
        "[configmaps, services, events, mcpservers, mcpservers/status, mcpaccesspolicies, mcpaccesspolicies/status]";
    let narrow = RIGHTS.replace("resources: ['*']", &format!("resources: {resources}"));
    let bound = |rights: &str| {
        rights.replace("name: operator}]", &format!("name: operator, namespace: {}}}]", setting.space.name))
    };
    setting.space.apply(&bound(&narrow));
    setting.apply("a", "{url: 'http://a.example/'}");
    let view = "apiVersion: portcullis.dev/v1alpha1\nkind: McpView\nmetadata: {name: v}\nspec: {select: [{}]}\n";
    setting.space.apply(view);
    let path = file.path().display().to_string();
    let operator = setting.operator_with(&[("KUBECONFIG", &path)]);
    wait_for("the server to be ready", REFUSAL_LIMIT, async || {
        let server = setting.space.servers().get("a").await.expect("it is there");
        let conditions = conditions(&server);
        if conditions.contains(&"Ready=True/Ready".to_owned()) { Ok(()) } else { Err(conditions) }
    })
    .await;
    let told = |line: &Value| line["resource"] == "mcpviews" && line["level"] == "WARN";
    assert!(operator.log().iter().any(told), "{:?}", operator.log());
    setting.space.apply(&bound(RIGHTS));
    setting.space.kubectl(&["wait", "--for=condition=Programmed", "mcpv/v", "--timeout=60s"]).good();
}

//! A real API server accepts every object, and Helm keeps what upgrades and uninstalls must keep.

use std::io::Write as _;
use std::process::Stdio;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use portcullis_e2e::binary::{OwnProgram, RunningProgram};
use portcullis_e2e::cluster::{LIMIT, ScriptOutput, TestNamespace, Tier, available, control_plane};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::seal::Keys;
use serde_json::{Value, json};

use crate::chart::{combinations, folder, objects, repository};

/// The kinds that only clusters with Prometheus' operator and the Gateway API know. Their real definitions have some
/// 20,000 lines; these stand in for them and take everything.
const OTHERS: [(&str, &str, &str); 4] = [
    ("gateway.networking.k8s.io", "httproutes", "HTTPRoute"),
    ("monitoring.coreos.com", "podmonitors", "PodMonitor"),
    ("monitoring.coreos.com", "servicemonitors", "ServiceMonitor"),
    ("monitoring.coreos.com", "prometheusrules", "PrometheusRule"),
];

const EMPTY_SLOT: &str = r#"{"version":1,"servers":[]}"#;

/// The chart, installed under its own name into a namespace. Dropping it uninstalls it.
pub struct ChartRelease<'a> {
    space: &'a TestNamespace<'a>,
}

impl<'a> ChartRelease<'a> {
    /// Installs it, with arguments of Helm.
    pub fn install(space: &'a TestNamespace<'a>, arguments: &[&str]) -> Self {
        let release = Self { space };
        release.helm("install", arguments).good();
        release
    }

    fn upgrade(&self, arguments: &[&str]) {
        self.helm("upgrade", arguments).good();
    }

    fn helm(&self, verb: &str, arguments: &[&str]) -> ScriptOutput {
        self.space.helm(&[&[verb, "portcullis", &folder()], arguments].concat())
    }

    /// Deletes an object.
    pub fn delete(&self, kind: &str, name: &str) {
        self.space.kubectl(&["delete", kind, name]).good();
    }

    /// Writes a slot without servers, as the operator does; `who` is the flag `--as`.
    pub fn write_slot(&self, name: &str, who: &str) -> ScriptOutput {
        let slot = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "annotations": {"portcullis.dev/revision": "0"}}, "data": {"servers.json": EMPTY_SLOT},
        });
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(slot.to_string().as_bytes()).expect("written");
        let path = file.path().display().to_string();
        // Without a look at the API's description, which costs a second and is not what is asked here.
        let flags = ["--server-side", "--force-conflicts", "--field-manager=portcullis-operator", "--validate=false"];
        self.space.kubectl(&[&["apply", "-f", &path, who], &flags[..]].concat())
    }

    async fn slot(&self, name: &str) -> Option<ConfigMap> {
        self.space.api().get_opt(name).await.expect("an answer")
    }

    async fn slot_text(&self, name: &str) -> Option<String> {
        self.slot(name).await?.data?.remove("servers.json")
    }
}

impl Drop for ChartRelease<'_> {
    fn drop(&mut self) {
        self.space.helm(&["uninstall", "portcullis", "--ignore-not-found"]);
    }
}

#[tokio::test]
async fn the_api_server_takes_every_object_of_every_combination_in_a_restricted_namespace() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    for level in ["enforce", "warn"] {
        let label = format!("pod-security.kubernetes.io/{level}=restricted");
        space.cluster.kubectl(&["label", "namespace", &space.name, &label]).good();
    }
    for name in ["team-a", "team-b"] {
        space.cluster.kubectl(&["create", "namespace", name]).good();
    }
    define_others(&space);
    let ranges = space.kubectl(&["get", "servicecidr", "kubernetes", "-o", "jsonpath={.spec.cidrs}"]).good();
    // A cluster of your own may have one family only.
    let takes = |name: &str| name != "dual-stack" || ranges.contains("::");
    for (name, file) in combinations().into_iter().filter(|(name, _)| takes(name)) {
        let text = space.helm(&["template", "portcullis", &folder(), "--values", &file]).good();
        let objects = objects(&text);
        let count = objects.len();
        let accepted = dry_run(&space, objects.into_values());
        assert_eq!(accepted.stdout.lines().count(), count, "{name}: {accepted:?}");
        assert_eq!(accepted.stderr, "", "{name}: a warning");
    }
}

/// Pod Security refuses pods that violate it, and warns about objects that create such pods.
fn dry_run(space: &TestNamespace<'_>, objects: impl Iterator<Item = Value>) -> ScriptOutput {
    let items: Vec<Value> = objects
        .map(|mut object| {
            // kubectl wants one namespace for all, or each object to say its own.
            if object.pointer("/metadata/namespace").is_none() {
                object["metadata"]["namespace"] = json!(space.name);
            }
            object
        })
        .collect();
    let mut file = tempfile::Builder::new().suffix(".json").tempfile().expect("a file");
    let list = json!({"apiVersion": "v1", "kind": "List", "items": items});
    file.write_all(list.to_string().as_bytes()).expect("written");
    let path = file.path().display().to_string();
    space.cluster.kubectl(&["apply", "--server-side", "--dry-run=server", "-f", &path])
}

fn define_others(space: &TestNamespace<'_>) {
    for (group, plural, kind) in OTHERS {
        let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
        let version = json!({"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}});
        let names = json!({"plural": plural, "singular": kind.to_lowercase(), "kind": kind});
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            // The Gateway API's group is one of those that Kubernetes protects.
            "metadata": {"name": format!("{plural}.{group}"), "annotations": {"api-approved.kubernetes.io": "unapproved, a stand-in"}},
            "spec": {"group": group, "scope": "Namespaced", "names": names, "versions": [version]},
        });
        space.apply(&definition.to_string());
        let name = format!("crd/{plural}.{group}");
        space.kubectl(&["wait", "--for=condition=Established", &name, "--timeout=30s"]).good();
    }
}

#[tokio::test]
async fn the_api_server_takes_every_example() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    // Next to manifests there are tests of policies, which are no objects.
    let folders = ["docs/examples", "docs/examples/cluster", "docs/examples/access/manifests"];
    let folders = folders.map(|folder| repository(folder).display().to_string());
    let arguments: Vec<&str> = ["apply"].into_iter().chain(folders.iter().flat_map(|it| ["-f", it])).collect();
    let applied = space.kubectl(&arguments);
    assert_eq!(applied.stderr, "");
    let names = applied.good();
    assert!(names.contains("mcpserver.portcullis.dev/docs created"), "{names}");
    assert!(names.contains("mcpserver.portcullis.dev/search"), "{names}");
}

#[tokio::test]
async fn upgrades_and_rollbacks_leave_what_the_operator_wrote() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(&space, &[]);
    let slot = "portcullis-servers-4-0";
    assert_eq!(release.slot_text(slot).await, None);
    let operator = format!("--as=system:serviceaccount:{}:portcullis-operator", space.name);
    release.write_slot(slot, &operator).good();
    let written = Some(EMPTY_SLOT.to_owned());

    release.upgrade(&["--set", "commonLabels.team=platform"]);
    let labels = release.slot(slot).await.expect("it is there").metadata.labels.expect("labels");
    assert_eq!(labels["team"], "platform");
    assert_eq!(release.slot_text(slot).await, written);
    space.helm(&["rollback", "portcullis", "1"]).good();
    assert_eq!(release.slot_text(slot).await, written);
    release.upgrade(&["--set", "commonLabels.team=other", "--server-side=false"]);
    assert_eq!(release.slot_text(slot).await, written);

    // Another number of slots is another set: nothing old is read by mistake.
    release.upgrade(&["--set", "snapshot.slots=2"]);
    assert!(release.slot(slot).await.is_none());
    assert!(release.slot("portcullis-servers-2-1").await.is_some());
    space.helm(&["rollback", "portcullis", "1"]).good();
    assert_eq!(release.slot_text(slot).await, None);
    assert!(release.slot(slot).await.is_some());
}

#[tokio::test]
async fn uninstalling_leaves_mcpservers_and_nothing_else() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(&space, &[]);
    space.apply(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: kept}\nspec: {url: http://a.example}\n",
    );
    drop(release);
    assert!(space.servers().get_opt("kept").await.expect("an answer").is_some());
    let ours = "app.kubernetes.io/instance=portcullis";
    let kinds =
        "deployments,services,configmaps,secrets,leases,serviceaccounts,roles,rolebindings,poddisruptionbudgets";
    assert_eq!(space.kubectl(&["get", kinds, "-l", ours, "-o", "name"]).good(), "");
    let cluster_wide = space.cluster.kubectl(&["get", "clusterroles,clusterrolebindings", "-o", "name"]).good();
    assert!(!cluster_wide.contains(&format!("{}:", space.name)), "{cluster_wide}");
    ChartRelease::install(&space, &[]);
}

/// Roles and the definition are somebody else's then.
#[tokio::test]
async fn an_installer_that_sees_one_namespace_alone_can_install_the_chart() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let kinds = "secrets,configmaps,services,serviceaccounts,pods,deployments.apps,leases.coordination.k8s.io,\
                 poddisruptionbudgets.policy";
    let account = format!("--serviceaccount={}:installer", space.name);
    space.kubectl(&["create", "serviceaccount", "installer"]).good();
    space.kubectl(&["create", "role", "installer", "--verb=*", &format!("--resource={kinds}")]).good();
    space.kubectl(&["create", "rolebinding", "installer", "--role=installer", &account]).good();
    let user = format!("--kube-as-user=system:serviceaccount:{}:installer", space.name);
    let arguments = ["--set", "crds.install=false,rbac.create=false", &user];
    let release = ChartRelease::install(&space, &arguments);
    release.upgrade(&arguments);
}

#[tokio::test]
async fn a_random_secret_is_made_once() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let create = ["--set", "auth.sharedSecret.create=true"];
    let release = ChartRelease::install(&space, &create);
    let secret = async || {
        let secret: Secret = space.api().get("portcullis-jwt").await.expect("it is there");
        secret.data.expect("data")["jwt-secret"].0.clone()
    };
    let first = secret().await;
    assert_eq!(first.len(), 64);
    let checksum = checksum(&space).await;
    release.upgrade(&create);
    assert_eq!(secret().await, first);
    assert_eq!(self::checksum(&space).await, checksum);
}

#[tokio::test]
async fn an_upgrade_replaces_the_pods_when_an_existing_shared_secret_has_changed() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let arguments = ["--set", "auth.sharedSecret.existingSecret=mine"];
    let key = |letter: &str| format!("--from-literal=jwt-secret={}", letter.repeat(40));
    space.kubectl(&["create", "secret", "generic", "mine", &key("a")]).good();
    let release = ChartRelease::install(&space, &arguments);
    let first = checksum(&space).await.expect("a checksum");
    release.upgrade(&arguments);
    assert_eq!(checksum(&space).await.as_ref(), Some(&first));
    let changed = json!({"stringData": {"jwt-secret": "b".repeat(40)}}).to_string();
    space.kubectl(&["patch", "secret", "mine", "--patch", &changed]).good();
    release.upgrade(&arguments);
    assert_ne!(checksum(&space).await, Some(first));
}

/// The annotation for the shared secret in the template of the gateway's pods.
async fn checksum(space: &TestNamespace<'_>) -> Option<String> {
    let deployment: Deployment = space.api().get("portcullis-gateway").await.expect("it is there");
    let annotations = deployment.spec?.template.metadata?.annotations?;
    annotations.get("checksum/shared-secret").cloned()
}

#[tokio::test]
async fn session_keys_are_made_once_and_rotated_ones_stay() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(&space, &[]);
    let keys = async || {
        let secret: Secret = space.api().get("portcullis-sessions").await.expect("it is there");
        String::from_utf8(secret.data.expect("data")["keys"].0.clone()).expect("text")
    };
    let first = keys().await;
    assert_eq!(Keys::parse(&first).expect("keys").ids().collect::<Vec<_>>(), ["k1"]);
    let rotated = format!("k2 pX6n0d4hG2vJ8c1sT5yR9wQ3eU7iO0aL6kF4zB2mN8E=\n{first}");
    let patch = json!({"stringData": {"keys": rotated}}).to_string();
    space.kubectl(&["patch", "secret", "portcullis-sessions", "--patch", &patch]).good();
    release.upgrade(&["--set", "gateway.replicaCount=3"]);
    assert_eq!(keys().await, rotated);
    assert_eq!(Keys::parse(&rotated).expect("keys").ids().collect::<Vec<_>>(), ["k2", "k1"]);
}

#[tokio::test]
async fn a_listed_namespace_that_is_not_there_is_told_and_keeps_no_release_from_passing() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let other = TestNamespace::new(control_plane()).await;
    let (watch, credentials) = (
        format!("watch.namespaces={{{},gone-for-good}}", other.name),
        format!("credentials.namespaces={{gone-for-good,{}}}", other.name),
    );
    let values = ["--set", &watch, "--set", &credentials];
    let release = ChartRelease { space: &space };
    let said = release.helm("install", &values).good();
    assert!(said.contains("WARNING: the namespace gone-for-good does not exist."), "{said}");
    release.upgrade(&values);
    let roles = other.kubectl(&["get", "roles", "-o", "name"]).good();
    let expected = "role.rbac.authorization.k8s.io/portcullis-gateway-credentials\n\
                    role.rbac.authorization.k8s.io/portcullis-operator-servers\n";
    assert_eq!(roles, expected);
    // The operator is told of all of them, so that it can tell of the one that is not there.
    let operator = space.kubectl(&["get", "deployment", "portcullis-operator", "-o", "json"]).good();
    assert!(operator.contains(&format!("\"{},gone-for-good\"", other.name)), "{operator}");
    // A namespace of the list that goes later keeps no upgrade from passing either.
    space.cluster.kubectl(&["delete", "namespace", &other.name, "--wait"]).good();
    release.upgrade(&values);
}

#[tokio::test]
async fn a_second_release_that_watches_everything_is_told_of_the_first() {
    require!(available(Tier::ControlPlane));
    let (first, second) = (TestNamespace::new(control_plane()).await, TestNamespace::new(control_plane()).await);
    let _first = ChartRelease::install(&first, &[]);
    let release = ChartRelease { space: &second };
    let said = release.helm("install", &[]).good();
    assert!(said.contains(&format!("{}/portcullis", first.name)) && said.contains("WARNING"), "{said}");
    let narrow = release.helm("upgrade", &["--set", &format!("watch.namespaces={{{}}}", second.name)]).good();
    assert!(!narrow.contains("WARNING"), "{narrow}");
}

/// The operator's repair of a missing slot: it creates the slot in Helm's name, then writes in its own.
#[tokio::test]
async fn a_slot_made_anew_belongs_to_its_release() {
    require!(available(Tier::ControlPlane));
    let space = TestNamespace::new(control_plane()).await;
    let release = ChartRelease::install(&space, &[]);
    let slot = "portcullis-servers-4-0";
    let before = release.slot(slot).await.expect("it is there").metadata;
    release.delete("configmap", slot);
    let deployment = space.kubectl(&["get", "deployment", "portcullis-operator", "-o", "json"]).good();
    let deployment: Value = serde_json::from_str(&deployment).expect("JSON");
    let variables =
        deployment.pointer("/spec/template/spec/containers/0/env").and_then(Value::as_array).expect("variables");
    let variable = |name: &str| {
        let found = variables.iter().find(|it| it["name"] == name).and_then(|it| it["value"].as_str());
        found.expect("it is set").to_owned()
    };
    let kubeconfig = space.cluster.kubeconfig.display().to_string();
    let (slots, metadata) = (variable("CONFIGMAPS"), variable("SLOT_METADATA"));
    let operator = RunningProgram::program(
        OwnProgram::Operator,
        &[],
        &[
            ("KUBECONFIG", &kubeconfig),
            ("ADMIN_ADDRESS", "127.0.0.1:0"),
            ("POD_NAMESPACE", &space.name),
            ("NAMESPACES", &space.name),
            ("GATEWAYS", "127.0.0.1:9"),
            ("CONFIGMAPS", &slots),
            ("SLOT_METADATA", &metadata),
        ],
    );
    let wanted = Some(EMPTY_SLOT.to_owned());
    wait_for("the slot to be made anew", LIMIT, async || {
        let text = release.slot_text(slot).await;
        if text == wanted { Ok(()) } else { Err(text) }
    })
    .await;
    drop(operator);
    let after = release.slot(slot).await.expect("it is there").metadata;
    assert_eq!(after.labels, before.labels);
    for name in ["meta.helm.sh/release-name", "meta.helm.sh/release-namespace"] {
        assert_eq!(
            after.annotations.as_ref().and_then(|all| all.get(name)),
            before.annotations.as_ref().and_then(|all| all.get(name))
        );
    }
    release.upgrade(&["--set", "commonLabels.team=platform"]);
    let upgraded = release.slot(slot).await.expect("it is there");
    assert_eq!(upgraded.metadata.labels.expect("labels")["team"], "platform");
    assert_eq!(release.slot_text(slot).await, wanted);
}

/// The pod of `helm test`, as far as that goes without a node: its script is a good one for a plain shell.
#[test]
fn the_script_of_the_test_pod_is_valid() {
    require!(available(Tier::ControlPlane));
    let everything = combinations().remove("everything").expect("it is there");
    let text = control_plane().helm(&["template", "portcullis", &folder(), "--values", &everything]).good();
    let pod = objects(&text).remove("Pod /portcullis-test").expect("it is there");
    let script = pod.pointer("/spec/containers/0/args/0").and_then(Value::as_str).expect("a script");
    let mut shell = std::process::Command::new("sh").arg("-n").stdin(Stdio::piped()).spawn().expect("it starts");
    shell.stdin.take().expect("it is piped").write_all(script.as_bytes()).expect("it reads");
    assert!(shell.wait().expect("it ends").success(), "{script}");
}

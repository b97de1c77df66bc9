//! The definitions: one release owns and upgrades them, others ignore them, and no McpServer is ever lost.

use std::process::Command;
use std::time::Duration;

use portcullis_e2e::cluster::{Cluster, ScriptOutput, Tier, run, startable};
use portcullis_e2e::require;
use serde_json::Value;
use tempfile::TempDir;

use crate::chart::{folder, objects, repository, template};

const NAME: &str = "mcpservers.portcullis.dev";
const FILE: &str = "files/mcpservers.portcullis.dev.yaml";
/// A word of the definition that the older one lacks.
const NEW: &str = "mcpsrv";

/// The chart as it was with an older definition.
fn older() -> TempDir {
    let copy = tempfile::tempdir().expect("a folder");
    let copied = Command::new("cp").args(["-r", &folder(), &copy.path().display().to_string()]).status();
    assert!(copied.expect("it starts").success());
    let file = copy.path().join("portcullis").join(FILE);
    let text = std::fs::read_to_string(&file).expect("a definition");
    std::fs::write(&file, text.replace(NEW, "mcpold")).expect("written");
    copy
}

fn chart(folder: &TempDir) -> String {
    folder.path().join("portcullis").display().to_string()
}

/// The release of this name, in a namespace of this name.
fn helm(cluster: &Cluster, verb: &str, name: &str, more: &[&str]) -> ScriptOutput {
    cluster.helm(&[&[verb, name, "--namespace", name], more].concat())
}

fn install(cluster: &Cluster, name: &str, chart: &str) -> String {
    helm(cluster, "install", name, &[chart, "--create-namespace"]).good()
}

/// The definition that the cluster has.
fn definition(cluster: &Cluster) -> Value {
    let text = cluster.kubectl(&["get", "customresourcedefinition", NAME, "-o", "json"]).good();
    serde_json::from_str(&text).expect("JSON")
}

fn is_new(cluster: &Cluster) -> bool {
    definition(cluster)["spec"]["names"]["shortNames"][0] == NEW
}

fn owner(cluster: &Cluster) -> Option<String> {
    definition(cluster)["metadata"]["annotations"]["meta.helm.sh/release-name"].as_str().map(str::to_owned)
}

/// Runs what docs/upgrading.md says, for the release of this name. Nothing waits for pods, which no node would run.
fn hand_over(cluster: &Cluster, name: &str) {
    let page = std::fs::read_to_string(repository("docs/upgrading.md")).expect("the page");
    let block = page.split("```sh\n").find(|block| block.starts_with("kubectl label")).expect("the commands");
    let commands = block.split("```").next().expect("an end");
    let commands = commands
        .replace("upgrade portcullis helm/portcullis", &format!("upgrade {name} {}", folder()))
        .replace("=portcullis", &format!("={name}"))
        .replace("--namespace portcullis", &format!("--namespace {name}"))
        .replace(" --wait", "");
    run(cluster.program("sh").args(["-euc", &commands]), Duration::from_secs(60)).good();
}

fn make_server(cluster: &Cluster) {
    let manifest = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
    let text = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: kept, namespace: default}\n\
                spec: {url: http://a.example}\n";
    std::fs::write(manifest.path(), text).expect("written");
    let path = manifest.path().display().to_string();
    cluster.kubectl(&["wait", "--for=condition=Established", &format!("crd/{NAME}"), "--timeout=30s"]).good();
    cluster.kubectl(&["apply", "-f", &path]).good();
}

fn uid_of_server(cluster: &Cluster) -> String {
    cluster.kubectl(&["get", NAME, "kept", "--namespace", "default", "-o", "jsonpath={.metadata.uid}"]).good()
}

#[test]
fn the_release_that_installed_the_definition_upgrades_it_and_others_leave_it_alone() {
    require!(startable(Tier::ControlPlane));
    let cluster = &Cluster::own_control_plane();
    let older = older();
    install(cluster, "one", &chart(&older));
    assert_eq!((owner(cluster).as_deref(), is_new(cluster)), (Some("one"), false));
    make_server(cluster);
    let server = uid_of_server(cluster);

    let notes = install(cluster, "two", &folder());
    assert!(notes.contains("The definition of McpServer belongs to the release one/one"), "{notes}");
    assert_eq!((owner(cluster).as_deref(), is_new(cluster)), (Some("one"), false));
    let notes = helm(cluster, "upgrade", "one", &[&folder()]).good();
    assert!(!notes.contains("The definition of McpServer belongs"), "{notes}");
    assert!(is_new(cluster));

    helm(cluster, "rollback", "one", &["1"]).good();
    assert!(!is_new(cluster));
    helm(cluster, "uninstall", "one", &[]).good();
    assert_eq!(uid_of_server(cluster), server);
    hand_over(cluster, "two");
    assert_eq!((owner(cluster).as_deref(), is_new(cluster)), (Some("two"), true));
    helm(cluster, "upgrade", "two", &[&folder(), "--set", "crds.install=false"]).good();
    helm(cluster, "uninstall", "two", &[]).good();
    assert_eq!(uid_of_server(cluster), server);
}

/// As earlier versions of the chart installed it, and as their documents said how to upgrade it.
#[test]
fn a_definition_that_no_release_owns_is_left_alone_until_it_is_handed_over() {
    require!(startable(Tier::ControlPlane));
    let cluster = &Cluster::own_control_plane();
    let older = older();
    let file = format!("{}/{FILE}", chart(&older));
    cluster.kubectl(&["create", "-f", &file]).good();
    cluster.kubectl(&["apply", "--server-side", "--force-conflicts", "-f", &file]).good();
    make_server(cluster);
    let server = uid_of_server(cluster);

    let notes = install(cluster, "one", &folder());
    assert!(notes.contains("The definition of McpServer belongs to no release"), "{notes}");
    assert_eq!((owner(cluster), is_new(cluster)), (None, false));
    hand_over(cluster, "one");
    assert_eq!((owner(cluster).as_deref(), is_new(cluster)), (Some("one"), true));
    assert_eq!(uid_of_server(cluster), server);

    helm(cluster, "upgrade", "one", &[&folder(), "--set", "crds.keep=false"]).good();
    helm(cluster, "uninstall", "one", &[]).good();
    cluster.kubectl(&["wait", "--for=delete", &format!("crd/{NAME}"), "--timeout=30s"]).good();
}

#[test]
fn the_definitions_are_rendered_as_the_files_have_them() {
    require!(portcullis_e2e::cluster::available(Tier::ControlPlane));
    let cluster = portcullis_e2e::cluster::control_plane();
    for name in [NAME, "mcpaccesspolicies.portcullis.dev", "mcpviews.portcullis.dev"] {
        let key = format!("CustomResourceDefinition /{name}");
        let mut rendered = objects(&template(cluster, &[])).remove(&key).expect("it is there");
        assert_eq!(rendered["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
        let file = repository("helm/portcullis").join(format!("files/{name}.yaml"));
        let file: Value = serde_yaml::from_str(&std::fs::read_to_string(file).expect("a definition")).expect("YAML");
        rendered["metadata"] = file["metadata"].clone();
        assert_eq!(rendered, file);
        assert!(!objects(&template(cluster, &["--set", "crds.install=false"])).contains_key(&key));
    }
}

//! A namespace for one test: its objects, waits for them, and what to show when a wait fails.

use std::fmt::Debug;
use std::io::Write as _;
use std::time::Duration;

use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client, Resource, ResourceExt as _};
use portcullis_crds::McpServer;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{Cluster, ScriptOutput};
use crate::skip;
use crate::wait::wait_for;

/// Longer than anything may take here that is not slow on purpose, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(30);

/// A namespace of one test. It goes with the cluster; in a cluster of your own it is deleted when dropped.
pub struct TestNamespace<'a> {
    /// Its name.
    pub name: String,
    /// A client with an administrator's rights.
    pub client: Client,
    /// The cluster that it is in.
    pub cluster: &'a Cluster,
}

impl<'a> TestNamespace<'a> {
    /// Makes a namespace that is named after the test, and applies the McpServer definition.
    pub async fn new(cluster: &'a Cluster) -> Self {
        let client = cluster.client().await;
        define(&client).await;
        let test = skip::current_test();
        let test = test.rsplit("::").next().unwrap_or(&test).replace('_', "-");
        let prefix: String = test.chars().take(40).collect();
        let namespace = Namespace {
            metadata: ObjectMeta { generate_name: Some(format!("{prefix}-")), ..ObjectMeta::default() },
            ..Namespace::default()
        };
        let api: Api<Namespace> = Api::all(client.clone());
        let created = api.create(&PostParams::default(), &namespace).await.expect("a namespace");
        let space = Self { name: created.name_any(), client, cluster };
        // Before it is there, no pod could be made.
        let accounts = space.api::<ServiceAccount>();
        wait_for("the default service account", LIMIT, async || accounts.get("default").await).await;
        space
    }

    /// The objects of one kind in this namespace.
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope>,
        K::DynamicType: Default,
    {
        Api::namespaced(self.client.clone(), &self.name)
    }

    /// The McpServers of this namespace.
    pub fn servers(&self) -> Api<McpServer> {
        self.api()
    }

    /// Applies objects of this namespace as `kubectl apply` does; panics with its answer.
    pub fn apply(&self, yaml: &str) {
        self.try_apply(yaml).good();
    }

    /// Does the same, whatever the answer.
    pub fn try_apply(&self, yaml: &str) -> ScriptOutput {
        let mut file = tempfile::Builder::new().suffix(".yaml").tempfile().expect("a file");
        file.write_all(yaml.as_bytes()).expect("written");
        self.kubectl(&["apply", "-f", &file.path().display().to_string()])
    }

    /// Runs `kubectl` in this namespace.
    pub fn kubectl(&self, arguments: &[&str]) -> ScriptOutput {
        self.cluster.kubectl(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Runs `helm` in this namespace.
    pub fn helm(&self, arguments: &[&str]) -> ScriptOutput {
        self.cluster.helm(&[&["--namespace", &self.name], arguments].concat())
    }

    /// Waits until an object is as wanted, and gives it; panics with what it was.
    pub async fn until<K>(&self, name: &str, what: &str, good: impl Fn(&K) -> bool) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Serialize,
        K::DynamicType: Default,
    {
        let api = self.api::<K>();
        wait_for(&format!("{name}: {what}"), LIMIT, async || {
            let object = api.get(name).await.map_err(|error| error.to_string())?;
            if good(&object) { Ok(object) } else { Err(serde_json::to_string(&object).expect("JSON")) }
        })
        .await
    }

    /// The state of the namespace, to explain a failure.
    fn show(&self) {
        for arguments in [
            &["get", "mcpservers,mcpaccesspolicies,mcpviews,pods,services,configmaps,leases", "-o", "wide"][..],
            &["get", "mcpservers", "-o", "jsonpath={range .items[*]}{.metadata.name}{\"\\t\"}{.status}{\"\\n\"}{end}"],
            &["get", "events", "--sort-by=.lastTimestamp"],
            &["describe", "pods"],
        ] {
            let said = self.kubectl(arguments);
            eprintln!("--- kubectl {arguments:?}\n{}{}", shorten(&said.stdout), said.stderr);
        }
        for pod in self.kubectl(&["get", "pods", "-o", "name"]).stdout.lines() {
            let said = self.kubectl(&["logs", pod, "--all-containers", "--tail=60"]);
            eprintln!("--- logs of {pod}\n{}{}", shorten(&said.stdout), said.stderr);
        }
    }
}

impl Drop for TestNamespace<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.show();
        }
        if self.cluster.is_given() {
            self.cluster.kubectl(&["delete", "namespace", &self.name, "--wait=false"]);
        }
    }
}

impl Debug for TestNamespace<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Space").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Applies the definitions and waits until objects of them can be made.
async fn define(client: &Client) {
    for yaml in [portcullis_crds::crd::yaml(), portcullis_crds::crd::policy_yaml(), portcullis_crds::crd::view_yaml()] {
        let crd: Value = serde_yaml::from_str(&yaml).expect("the definition is YAML");
        let api: Api<CustomResourceDefinition> = Api::all(client.clone());
        let name = crd["metadata"]["name"].as_str().expect("a name").to_owned();
        let manager = PatchParams::apply("portcullis-e2e").force();
        api.patch(&name, &manager, &Patch::Apply(&crd)).await.expect("the API server takes the definition");
        wait_for("the definition to be established", LIMIT, async || {
            let conditions = api.get(&name).await.ok()?.status?.conditions?;
            conditions.iter().any(|it| it.type_ == "Established" && it.status == "True").then_some(())
        })
        .await;
    }
}

fn shorten(text: &str) -> String {
    const MOST: usize = 6000;
    let cut = text.len().saturating_sub(MOST);
    String::from_utf8_lossy(&text.as_bytes()[cut..]).into_owned()
}

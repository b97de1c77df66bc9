//! An operator before a real API server: one namespace, two slots, fake gateway replicas, as many operators as wanted.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Resource as _;
use kube::api::PostParams;
use portcullis_crds::{ConditionType, McpServer, ServerKey, Snapshot};
use portcullis_e2e::binary::{OwnProgram, RunningProgram};
use portcullis_e2e::cluster::{Cluster, TestNamespace};
use portcullis_e2e::fake_gateway::{self, FakeGateway};
use serde_json::json;

/// Bound of a takeover: the duration of a Lease, with some to spare.
pub const TAKEOVER: std::time::Duration = std::time::Duration::from_secs(20);

/// A namespace with its slots and gateway replicas. Tests run on several threads, because a call of kubectl blocks one.
pub struct ControlPlane<'a> {
    pub space: TestNamespace<'a>,
    pub slots: Vec<String>,
    pub gateways: Vec<FakeGateway>,
}

impl<'a> ControlPlane<'a> {
    /// A namespace with the chart's empty slots, and this many gateway replicas.
    pub async fn new(cluster: &'a Cluster, replicas: usize) -> Self {
        let space = TestNamespace::new(cluster).await;
        let slots: Vec<String> = (0..2).map(|index| format!("portcullis-servers-2-{index}")).collect();
        for slot in &slots {
            let empty = serde_json::from_value(json!({"metadata": {"name": slot}})).expect("an object");
            space.api::<ConfigMap>().create(&PostParams::default(), &empty).await.expect("a slot");
        }
        let mut gateways = Vec::new();
        for _ in 0..replicas {
            gateways.push(FakeGateway::start(&space, &slots).await);
        }
        Self { space, slots, gateways }
    }

    /// Starts an operator for this namespace alone, without an election.
    pub fn operator(&self) -> RunningProgram {
        self.operator_with(&[])
    }

    /// The same with further settings.
    pub fn operator_with(&self, more: &[(&str, &str)]) -> RunningProgram {
        let gateways: Vec<String> = self.gateways.iter().map(|gateway| gateway.address.to_string()).collect();
        let (slots, gateways) = (self.slots.join(","), gateways.join(","));
        let kubeconfig = self.space.cluster.kubeconfig.display().to_string();
        let mut environment = BTreeMap::from([
            ("KUBECONFIG", kubeconfig.as_str()),
            ("ADMIN_ADDRESS", "127.0.0.1:0"),
            ("POD_NAMESPACE", &self.space.name),
            ("NAMESPACES", &self.space.name),
            ("CONFIGMAPS", &slots),
            ("GATEWAYS", &gateways),
        ]);
        environment.extend(more.iter().copied());
        environment.retain(|_, value| !value.is_empty());
        let environment: Vec<(&str, &str)> = environment.into_iter().collect();
        RunningProgram::program(OwnProgram::Operator, &[], &environment)
    }

    /// The key of a server of this namespace.
    pub fn key(&self, name: &str) -> ServerKey {
        ServerKey::new(self.space.name.clone(), name)
    }

    /// Applies a server whose spec is in YAML.
    pub fn apply(&self, name: &str, spec: &str) {
        self.space.apply(&manifest(name, spec));
    }

    /// Waits until a condition of a server's current generation is as wanted, in the form `Ready=True/Ready`.
    pub async fn until(&self, name: &str, wanted: &str) -> McpServer {
        self.space.until(name, wanted, |server: &McpServer| is(server, wanted)).await
    }

    /// The public names and URLs of the servers in all slots, sorted.
    pub async fn programmed(&self) -> BTreeMap<String, String> {
        let mut all = BTreeMap::new();
        for slot in &self.slots {
            let object = self.space.api::<ConfigMap>().get(slot).await.expect("the slot is there");
            let servers = fake_gateway::content(&object).map(|it: Snapshot| it.servers).unwrap_or_default();
            all.extend(servers.into_iter().map(|server| (server.key.name, server.url)));
        }
        all
    }
}

/// A manifest whose spec is in YAML.
pub fn manifest(name: &str, spec: &str) -> String {
    format!("---\napiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: {name}}}\nspec: {spec}\n")
}

/// The conditions of the current generation, in the form `Ready=True/Ready`; none while the status is of an older one.
pub fn conditions(server: &McpServer) -> Vec<String> {
    let Some(status) = &server.status else { return Vec::new() };
    let current = |generation: Option<i64>| generation == server.meta().generation;
    if !current(status.observed_generation) {
        return Vec::new();
    }
    let of = status.conditions.iter().filter(|it| current(it.observed_generation));
    of.map(|it| format!("{}={}/{}", it.type_, it.status, it.reason)).collect()
}

fn is(server: &McpServer, wanted: &str) -> bool {
    conditions(server).iter().any(|condition| condition == wanted)
}

/// The message of a condition.
pub fn message(server: &McpServer, kind: ConditionType) -> String {
    let conditions = server.status.iter().flat_map(|status| &status.conditions);
    let mut one = conditions.filter(|condition| condition.type_ == kind.as_str()).map(|it| it.message.clone());
    one.next_back().unwrap_or_default()
}

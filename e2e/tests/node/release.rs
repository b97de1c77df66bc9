//! The release that all tests of the node share, and the calls to it.

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use k8s_openapi::api::core::v1::Service;
use kube::Api;
use portcullis_crds::McpServer;
use portcullis_e2e::cluster::{Cluster, ScriptOutput, TestNamespace};
use portcullis_e2e::http::{self, HttpAnswer, HttpRequest};
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::sync::{Mutex, MutexGuard};

/// For pods to be started, or to be replaced one after the other with their grace.
pub const ROLLOUT: Duration = Duration::from_secs(120);

/// The namespace of the chart.
pub const NAMESPACE: &str = "portcullis";

/// One test at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// The output of the quick start's commands.
static INSTALLED: OnceLock<ScriptOutput> = OnceLock::new();

/// The release, for as long as the test has its turn.
pub struct NodeRelease<'a> {
    pub cluster: &'a Cluster,
    /// The namespace of the test.
    pub space: TestNamespace<'a>,
    /// `http://` and the address of the gateway's Service.
    pub origin: String,
    /// A token of the namespace's default service account, for the gateway.
    pub token: String,
    _turn: MutexGuard<'static, ()>,
}

impl<'a> NodeRelease<'a> {
    /// Waits for its turn, and for the first one to have installed the chart.
    pub async fn of(cluster: &'a Cluster) -> Self {
        let turn = TURN.lock().await;
        let space = TestNamespace::new(cluster).await;
        quick_start(cluster).clone().good();
        let services: Api<Service> = Api::namespaced(space.client.clone(), NAMESPACE);
        let service = services.get("portcullis").await.expect("the gateway's Service");
        let address = service.spec.and_then(|spec| spec.cluster_ip).expect("an address");
        let token = token(&space, "portcullis");
        Self { cluster, space, origin: format!("http://{address}"), token, _turn: turn }
    }

    /// A call of a tool of a server of this namespace.
    pub fn request(&self, server: &str, tool: &str, arguments: &Value) -> HttpRequest {
        let body = json!({"method": tool, "args": arguments, "server": self.public(server)});
        http::post(&format!("{}/tools?shape=value", self.origin), body.to_string())
            .header("content-type", "application/json")
            .bearer(&self.token)
    }

    /// Calls a tool, and gives what it answers.
    pub async fn call(&self, server: &str, tool: &str, arguments: &Value) -> HttpAnswer {
        self.request(server, tool, arguments).limit(Duration::from_secs(30)).send().await.expect("an answer")
    }

    /// The name by which callers know a server of this namespace.
    pub fn public(&self, server: &str) -> String {
        format!("{}/{server}", self.space.name)
    }

    /// Waits until every gateway replica can call a server.
    pub async fn ready(&self, server: &str) {
        self.space
            .until(server, "Ready", |it: &McpServer| {
                let status = it.status.clone().unwrap_or_default();
                status.observed_generation == it.metadata.generation
                    && status.conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
            })
            .await;
    }

    /// Runs kubectl in the namespace of the release.
    pub fn kubectl(&self, arguments: &[&str]) -> ScriptOutput {
        self.cluster.kubectl(&[&["--namespace", NAMESPACE], arguments].concat())
    }

    /// Runs helm in the namespace of the release, in the folder of the repository.
    pub fn helm(&self, arguments: &[&str]) -> ScriptOutput {
        self.cluster.helm(&[&["--namespace", NAMESPACE], arguments].concat())
    }

    /// Waits until a Deployment of the release has all its pods, and none too many.
    pub fn rolled_out(&self, deployment: &str) {
        self.kubectl(&["rollout", "status", &format!("deployment/{deployment}"), "--timeout=180s"]).good();
    }

    /// Waits until two gateway replicas and no more are known to be ready.
    pub async fn two_gateways(&self) {
        wait_for("two ready gateways", ROLLOUT, async || {
            let path = "jsonpath={range .items[*].endpoints[*]}{.conditions.ready} {end}";
            let selector = "kubernetes.io/service-name=portcullis-gateway-admin";
            let said = self.kubectl(&["get", "endpointslices", "-l", selector, "-o", path]).good();
            if said.trim() == "true true" { Ok(()) } else { Err(said) }
        })
        .await;
    }
}

impl Drop for NodeRelease<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for arguments in [
                &["get", "pods,endpointslices,configmaps,leases", "-o", "wide"][..],
                &["describe", "pods"],
                &["logs", "-l", "app.kubernetes.io/component=gateway", "--tail=50", "--prefix"],
                &["logs", "-l", "app.kubernetes.io/component=operator", "--tail=50", "--prefix"],
                &["get", "events", "--sort-by=.lastTimestamp"],
            ] {
                let said = self.kubectl(arguments);
                eprintln!("--- kubectl {arguments:?}\n{}{}", said.stdout, said.stderr);
            }
        }
    }
}

/// Runs the commands of the README's quick start, as they stand there, the first time; gives what they said.
pub fn quick_start(cluster: &Cluster) -> &'static ScriptOutput {
    INSTALLED.get_or_init(|| {
        let commands = commands();
        let mut shell = cluster.program("bash");
        shell.args(["-euc", &commands]).current_dir(root());
        portcullis_e2e::cluster::run(&mut shell, Duration::from_secs(420))
    })
}

/// The first block of shell commands below "In a cluster".
fn commands() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let chapter = readme.split("\n## In a cluster\n").nth(1).expect("the chapter");
    let block = chapter.split("```sh\n").nth(1).and_then(|it| it.split("```").next()).expect("a block");
    block.to_owned()
}

/// The folder of the repository.
pub fn root() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of the chart.
pub fn chart() -> String {
    root().join("helm/portcullis").display().to_string()
}

/// A token of the namespace's default service account.
pub fn token(space: &TestNamespace<'_>, audience: &str) -> String {
    let arguments = ["create", "token", "default", "--audience", audience, "--duration", "1h"];
    space.kubectl(&arguments).good().trim().to_owned()
}

//! Measures the way from `kubectl apply` to a tool that can be called, and what 10,000 McpServers cost.
//!
//!     cargo build --profile dist -p portcullis-gateway -p portcullis-operator
//!     cargo run -p portcullis-e2e --example cluster_figures -- target/dist [LATENCIES] [SERVERS]
//!
//! A real control plane (e2e/cluster) on loopback, one operator and one gateway as processes, all servers at one small
//! MCP server. Prints lines for docs/performance.md.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot go on has failed")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use kube::api::{ListParams, PostParams};
use kube::{Api, Client};
use portcullis_crds::McpServer;
use portcullis_e2e::cluster::Cluster;
use portcullis_e2e::{http, port, token};
use serde_json::{Value, json};
use tokio::time::sleep;

const NAMESPACE: &str = "default";
const SLOTS: &str = "figures-4-0,figures-4-1,figures-4-2,figures-4-3";
const START_LIMIT: Duration = Duration::from_secs(180);

/// A process that ends with this value.
struct ClusterProcess(Child);

impl Drop for ClusterProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct ClusterStage {
    folder: PathBuf,
    kubeconfig: PathBuf,
    main: u16,
    admin: u16,
    operator: u16,
}

impl ClusterStage {
    fn start(&self, name: &str, arguments: &[&str], environment: &[(&str, String)]) -> ClusterProcess {
        let log = std::fs::File::create(std::env::temp_dir().join(format!("figures-{name}.log"))).unwrap();
        let child = Command::new(self.folder.join(name))
            .args(arguments)
            .env("KUBECONFIG", &self.kubeconfig)
            .envs(environment.iter().map(|(name, value)| (*name, value.as_str())))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn();
        ClusterProcess(child.expect("the program starts"))
    }

    fn gateway(&self) -> ClusterProcess {
        let environment = [
            ("CONFIGMAPS", SLOTS.to_owned()),
            ("POD_NAMESPACE", NAMESPACE.to_owned()),
            ("GUARD_ADDRESSES", "false".to_owned()),
            ("JWT_SECRET", token::SECRET.to_owned()),
            ("HOST", "127.0.0.1".to_owned()),
            ("PORT", self.main.to_string()),
            ("ADMIN_ADDRESS", format!("127.0.0.1:{}", self.admin)),
        ];
        self.start("portcullis-gateway", &[], &environment)
    }

    fn operator(&self) -> ClusterProcess {
        let environment = [
            ("CONFIGMAPS", SLOTS.to_owned()),
            ("POD_NAMESPACE", NAMESPACE.to_owned()),
            ("LEASE", "figures".to_owned()),
            ("GATEWAYS", format!("127.0.0.1:{}", self.admin)),
            ("ADMIN_ADDRESS", format!("127.0.0.1:{}", self.operator)),
        ];
        self.start("portcullis-operator", &[], &environment)
    }

    async fn connected(&self) -> u64 {
        let answer = http::get(&format!("http://127.0.0.1:{}/health", self.main)).limit(START_LIMIT).send().await;
        let health = answer.ok().and_then(|answer| serde_json::from_slice::<Value>(&answer.body).ok());
        health.and_then(|health| health["servers"]["connected"].as_u64()).unwrap_or(0)
    }

    async fn ready_statuses(&self) -> u64 {
        let answer = http::get(&format!("http://127.0.0.1:{}/metrics", self.operator)).send().await;
        let text = answer.map(|answer| String::from_utf8_lossy(&answer.body).into_owned()).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("portcullis_operator_mcpservers{ready=\"true\"} "));
        line.and_then(|count| count.trim().parse::<f64>().ok()).map_or(0, |count| count as u64)
    }

    async fn can_call(&self, tool: &str, bearer: &str) -> bool {
        let body = json!({"method": tool, "args": {"a": 2, "b": 3}}).to_string();
        let call = http::post(&format!("http://127.0.0.1:{}/tools", self.main), body).bearer(bearer);
        call.send().await.is_ok_and(|answer| answer.status == 200)
    }
}

fn server(name: &str, url: &str) -> McpServer {
    let object = json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": name},
        "spec": {"url": url, "tools": {"prefix": name}, "description": "A server of the measurement, with a usual text."},
    });
    serde_json::from_value(object).unwrap()
}

fn resident(process: &ClusterProcess) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.0.id())).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

async fn until(what: &str, began: Instant, mut look: impl AsyncFnMut() -> bool) -> Duration {
    while !look().await {
        assert!(began.elapsed() < START_LIMIT, "{what} takes longer than {START_LIMIT:?}");
        sleep(Duration::from_millis(2)).await;
    }
    began.elapsed()
}

fn quantiles(what: &str, mut all: Vec<Duration>) {
    all.sort();
    let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize].as_secs_f64() * 1000.0;
    println!(
        "{what}: p50 {:.0} ms, p90 {:.0} ms, p99 {:.0} ms, most {:.0} ms ({} times)",
        at(0.5),
        at(0.9),
        at(0.99),
        at(1.0),
        all.len()
    );
}

async fn create(client: &Client, names: impl Iterator<Item = String>, url: &str) {
    let api: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let creating = names.map(|name| {
        let (api, object) = (api.clone(), server(&name, url));
        async move { api.create(&PostParams::default(), &object).await.expect("created") }
    });
    stream::iter(creating).buffer_unordered(16).for_each(|_| async {}).await;
}

async fn latencies(stage: &ClusterStage, cluster: &Cluster, client: &Client, url: &str, count: usize) {
    let bearer = token::mint("figures");
    let api: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let (mut by_api, mut by_status, mut by_kubectl) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..count {
        let name = format!("api-{n}");
        let began = Instant::now();
        api.create(&PostParams::default(), &server(&name, url)).await.expect("created");
        by_api.push(until("a call", began, async || stage.can_call(&format!("{name}__add"), &bearer).await).await);
        let ready = async || {
            let status = api.get(&name).await.ok().and_then(|object| object.status).unwrap_or_default();
            status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True")
        };
        by_status.push(until("a status", began, ready).await);
        let name = format!("kubectl-{n}");
        let file = tempfile::Builder::new().suffix(".json").tempfile().unwrap();
        serde_json::to_writer(&file, &server(&name, url)).unwrap();
        let began = Instant::now();
        let path = file.path().to_owned();
        let mut kubectl = cluster.program("kubectl");
        kubectl.args(["apply", "--namespace", NAMESPACE, "-f"]).arg(path).stdout(Stdio::null());
        let mut applying = ClusterProcess(kubectl.spawn().unwrap());
        by_kubectl.push(until("a call", began, async || stage.can_call(&format!("{name}__add"), &bearer).await).await);
        applying.0.wait().unwrap();
    }
    quantiles("created through the API -> callable", by_api);
    quantiles("created through the API -> condition Ready", by_status);
    quantiles("kubectl apply started -> callable", by_kubectl);
}

async fn everything(stage: &ClusterStage, what: &str, total: u64, began: Instant) {
    let routable = until("routable", began, async || stage.connected().await >= total).await;
    let statuses = until("statuses", began, async || stage.ready_statuses().await >= total).await;
    println!(
        "{what}: all routable after {:.1} s, all statuses written after {:.1} s",
        routable.as_secs_f64(),
        statuses.as_secs_f64()
    );
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| arguments.get(index).map_or(default, |text| text.parse().unwrap());
    let folder = std::fs::canonicalize(arguments.first().map_or("target/dist", String::as_str)).unwrap();
    let (samples, many) = (number(1, 100), number(2, 10_000));
    let cluster = Cluster::own_control_plane();
    let client = cluster.client().await;
    let crd = Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/portcullis/files/mcpservers.portcullis.dev.yaml");
    cluster.kubectl(&["apply", "--server-side", "-f", &crd.display().to_string()]).good();
    cluster.kubectl(&["wait", "--for=condition=Established", "crd/mcpservers.portcullis.dev"]).good();
    let free = || port::hold().port();
    let (backend, kubeconfig) = (free(), cluster.kubeconfig.clone());
    let stage = ClusterStage { folder, kubeconfig, main: free(), admin: free(), operator: free() };
    let url = format!("http://127.0.0.1:{backend}/mcp");
    let _backend = stage.start("portcullis-gateway", &["demo", "--serve", &format!("127.0.0.1:{backend}")], &[]);

    let (gateway, operator) = (stage.gateway(), stage.operator());
    create(&client, std::iter::once("first".into()), &url).await;
    until("the first server", Instant::now(), async || stage.connected().await == 1).await;
    println!("idle, one server: gateway {} MiB, operator {} MiB", resident(&gateway), resident(&operator));
    latencies(&stage, &cluster, &client, &url, samples).await;

    let began = Instant::now();
    create(&client, (0..1000).map(|n| format!("live-{n}")), &url).await;
    println!("1,000 created in {:.1} s", began.elapsed().as_secs_f64());
    let total = stage_total(&client).await;
    everything(&stage, "1,000 more while running", total, began).await;
    println!("with {total}: gateway {} MiB, operator {} MiB", resident(&gateway), resident(&operator));
    drop((gateway, operator));

    let began = Instant::now();
    create(&client, (0..many).map(|n| format!("many-{n}")), &url).await;
    println!("{many} created in {:.1} s", began.elapsed().as_secs_f64());
    let total = stage_total(&client).await;
    sleep(Duration::from_secs(15)).await; // the Lease of the operator that was killed runs out
    let began = Instant::now();
    let (gateway, operator) = (stage.gateway(), stage.operator());
    everything(&stage, &format!("cold start with {total}"), total, began).await;
    println!("with {total}: gateway {} MiB, operator {} MiB", resident(&gateway), resident(&operator));
    let _ = (gateway, operator);
}

async fn stage_total(client: &Client) -> u64 {
    let api: Api<McpServer> = Api::namespaced(client.clone(), NAMESPACE);
    let mut count = 0;
    let mut parameters = ListParams::default().limit(500);
    loop {
        let page = api.list_metadata(&parameters).await.expect("a list");
        count += page.items.len() as u64;
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => parameters.continue_token = Some(token),
            None => return count,
        }
    }
}

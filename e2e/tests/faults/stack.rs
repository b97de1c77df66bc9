//! An in-process gateway with faulty servers behind it, and helpers to call it.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Behaviour, Faulty};
use portcullis_e2e::gateway::WORKERS;
use portcullis_e2e::http::{self, HttpAnswer, HttpRequest};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{token, wait};
use portcullis_gateway::config::Options;
use portcullis_gateway::gateway::Gateway;
use portcullis_runtime::WorkerThreads;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

/// For what should come soon, on a machine that is busy with other things.
pub(crate) const STATE_DEADLINE: Duration = Duration::from_secs(20);

/// For a server that was away for long: the gateway pauses for 30 s at most before it tries again.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(40);

/// A fault of a server, with its name for messages.
pub(crate) type NamedFault = (&'static str, fn(&mut Behaviour));

/// A server as the gateway is told about it.
pub(crate) struct ServerManifest {
    name: String,
    spec: Value,
}

/// A gateway that lives as long as this value.
pub(crate) struct Stack {
    address: SocketAddr,
    token: String,
    folder: TempDir,
    _stop: oneshot::Sender<()>,
    _task: JoinSet<()>,
    _threads: WorkerThreads,
}

/// A server under this name, with short deadlines: one second for a call and for each step of connecting.
pub(crate) fn server(name: &str, server: &Faulty) -> ServerManifest {
    at(name, &server.url())
}

/// The same for any URL.
pub(crate) fn at(name: &str, url: &str) -> ServerManifest {
    let timeouts = json!({"connectSeconds": 1, "requestSeconds": 1});
    ServerManifest { name: name.into(), spec: json!({"url": url, "timeouts": timeouts}) }
}

impl ServerManifest {
    /// Sets a member of its spec.
    pub(crate) fn with(mut self, member: &str, value: Value) -> Self {
        self.spec[member] = value;
        self
    }

    /// Sets the seconds that a call may take.
    pub(crate) fn calls_take(mut self, seconds: u32) -> Self {
        self.spec["timeouts"]["requestSeconds"] = seconds.into();
        self
    }

    fn write(&self, folder: &Path) {
        let manifest = json!({
            "apiVersion": "portcullis.dev/v1alpha1",
            "kind": "McpServer",
            "metadata": {"name": self.name},
            "spec": self.spec,
        });
        let (path, next) = (folder.join(format!("{}.json", self.name)), folder.join(".next"));
        std::fs::write(&next, manifest.to_string()).expect("the folder takes files");
        std::fs::rename(next, path).expect("the folder takes files");
    }
}

impl Stack {
    /// Starts a gateway in front of these servers; messages may have 1 MiB.
    pub(crate) async fn start(servers: impl IntoIterator<Item = ServerManifest>) -> Self {
        Self::with_messages(1024 * 1024, servers).await
    }

    /// The same, with messages of this many bytes.
    pub(crate) async fn with_messages(limit: usize, servers: impl IntoIterator<Item = ServerManifest>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        servers.into_iter().for_each(|entry| entry.write(folder.path()));
        let options = Options {
            servers: Some(folder.path().to_owned()),
            host: Some("127.0.0.1".into()),
            port: Some("0".into()),
            jwt_secret: Some(token::SECRET.into()),
            max_result_bytes: Some(limit.to_string()),
            grace_seconds: Some("1".into()),
            ..Options::default()
        };
        let gateway = Gateway::bind(options.check().expect("sound settings"), None).await.expect("it starts");
        let threads = WorkerThreads::start(WORKERS).expect("threads");
        let (address, gateway) = (gateway.address(), gateway.with_workers(&threads));
        let (stop, stopped) = oneshot::channel::<()>();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let signal = async { drop(stopped.await) };
            gateway.run(signal).await.expect("no task of the gateway ends or panics");
        });
        Self { address, token: token::mint("tests"), folder, _stop: stop, _task: task, _threads: threads }
    }

    /// The same, and waits until all servers are connected.
    pub(crate) async fn ready(servers: impl IntoIterator<Item = ServerManifest>) -> Self {
        let servers: Vec<_> = servers.into_iter().collect();
        let names: Vec<_> = servers.iter().map(|entry| entry.name.clone()).collect();
        let stack = Self::start(servers).await;
        join_all(names.iter().map(|name| stack.connected(name))).await;
        stack
    }

    /// Writes a changed or new server into the folder.
    pub(crate) fn set(&self, entry: &ServerManifest) {
        entry.write(self.folder.path());
    }

    /// A token that it takes.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request to call a tool with these raw arguments.
    pub(crate) fn request(&self, tool: &str, args: &str) -> HttpRequest {
        self.post(&format!(r#"{{"method":"{tool}","args":{args}}}"#))
    }

    /// A request to call a tool at a preferred server.
    pub(crate) fn preferring(&self, server: &str, tool: &str) -> HttpRequest {
        self.post(&format!(r#"{{"method":"{tool}","args":{{}},"server":"{server}"}}"#))
    }

    fn post(&self, body: &str) -> HttpRequest {
        http::post(&self.url("/tools"), body.to_owned()).bearer(&self.token).limit(Duration::from_secs(40))
    }

    /// Calls a tool without arguments.
    pub(crate) async fn call(&self, tool: &str) -> HttpAnswer {
        self.request(tool, "{}").send().await.expect("the gateway answers")
    }

    /// Sends a message to `/mcp`, without a session.
    pub(crate) async fn mcp(&self, message: &str) -> HttpAnswer {
        let request = http::post(&self.url("/mcp"), message.to_owned()).bearer(&self.token);
        request.header("accept", "application/json, text/event-stream").send().await.expect("the gateway answers")
    }

    /// Calls a tool, and how long that took.
    pub(crate) async fn timed(&self, tool: &str) -> (HttpAnswer, Duration) {
        let began = Instant::now();
        let answer = self.call(tool).await;
        (answer, began.elapsed())
    }

    /// Calls a tool until it works.
    pub(crate) async fn works(&self, tool: &str) {
        wait_for("a call that works", STATE_DEADLINE, || async {
            let answer = self.call(tool).await;
            if answer.status == 200 { Ok(()) } else { Err(answer.text().to_owned()) }
        })
        .await;
    }

    /// The entry of one server in `/servers`.
    pub(crate) async fn server(&self, name: &str) -> Value {
        self.get("/servers").await["servers"][name].clone()
    }

    /// Waits until a server is connected and its tools are listed.
    pub(crate) async fn connected(&self, name: &str) {
        self.within(ATTEMPT_LIMIT, name, "connected", |it| it["connected"] == true && it["tools_count"] != 0).await;
    }

    /// Waits until `/servers` says this of a server.
    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        self.within(STATE_DEADLINE, name, what, wanted).await
    }

    async fn within(&self, limit: Duration, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        wait::wait_for(&format!("{name} to be {what}"), limit, || async {
            let state = self.server(name).await;
            if wanted(&state) { Ok(state) } else { Err(state) }
        })
        .await
    }

    /// The tools of one server as they are listed, by their names.
    pub(crate) async fn listing(&self, server: &str) -> Value {
        let list = self.get(&format!("/tools/list?server={server}")).await;
        let tools = list["tools"].as_array().expect("a list").iter();
        tools.map(|tool| (tool["name"].as_str().expect("a name").to_owned(), tool.clone())).collect()
    }

    /// Names of all listed tools.
    pub(crate) async fn tools(&self) -> Vec<String> {
        let list = self.get("/tools/list").await;
        let tools = list["tools"].as_array().expect("a list");
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// The sum of all series of a metric whose labels hold all of these texts.
    pub(crate) async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let answer = http::get(&self.url("/metrics")).send().await.expect("metrics");
        let series = answer.text().lines().filter(|line| line.strip_prefix(name).is_some_and(|r| r.starts_with('{')));
        let wanted = series.filter(|line| labels.iter().all(|label| line.contains(label)));
        wanted.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    async fn get(&self, path: &str) -> Value {
        http::get(&self.url(path)).bearer(&self.token).send().await.expect("the gateway answers").json()
    }
}

/// The text of the first content block.
pub(crate) fn text(answer: &HttpAnswer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["content"][0]["text"].as_str().expect("a text block").to_owned()
}

/// Status, server and attempts of an answer.
pub(crate) fn brief(answer: &HttpAnswer) -> (u16, String, String) {
    let header = |name| answer.header(name).to_owned();
    (answer.status, header("x-portcullis-server"), header("x-portcullis-attempts"))
}

/// Asserts that calls of a plain tool all work, and that the machine alone makes them slow.
pub(crate) async fn assert_quick(stack: &Stack, tool: &str) {
    let mut best = Duration::MAX;
    for _ in 0..3 {
        let (answer, took) = stack.timed(tool).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        best = best.min(took);
    }
    assert!(best < Duration::from_millis(500), "a healthy server's call took {best:?}");
}

//! A gateway for tests, in process and on a free port: started, asked as callers ask it, stopped when dropped.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http::Method;
use portcullis_gateway::{Config, Options};
use portcullis_runtime::{Failure, LogGuard, LogSink, WorkerThreads};
use serde_json::Value;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::http::{self as client, HttpAnswer, HttpRequest};
use crate::token;
use crate::wait::wait_for;

/// Longer than anything may take that is not slow on purpose, on a busy machine too.
pub const LIMIT: Duration = Duration::from_secs(20);

/// A running gateway. It lives on the runtime of the test and ends with this value.
#[derive(Debug)]
pub struct TestGateway {
    /// The address for callers.
    pub address: SocketAddr,
    /// The address of metrics and probes.
    pub admin: SocketAddr,
    /// A good token, of the subject `tester`.
    pub token: String,
    /// Callers speak TLS.
    is_secure: bool,
    lines: KeptLog,
    sink: LogSink,
    stop: Option<oneshot::Sender<()>>,
    running: JoinSet<Result<(), Failure>>,
    /// After what runs in them.
    _threads: WorkerThreads,
    _log: LogGuard,
}

/// Worker threads, independent of this machine's processors.
pub const WORKERS: usize = 2;

/// Options of a gateway that accepts the kit's tokens, listens on a free port of 127.0.0.1, and ends within 5 s.
pub fn options() -> Options {
    Options {
        host: Some("127.0.0.1".into()),
        port: Some("0".into()),
        jwt_secret: Some(token::SECRET.into()),
        grace_seconds: Some("5".into()),
        ..Options::default()
    }
}

impl TestGateway {
    /// Starts a gateway; panics with what is wrong with the options.
    pub async fn start(options: Options) -> Self {
        let is_secure = options.tls_cert_file.is_some();
        Self { is_secure, ..Self::with(options.check().expect("good options")).await }
    }

    /// Starts a gateway in front of these URLs.
    pub async fn before(urls: &[&str]) -> Self {
        Self::start(Options { mcp_urls: Some(urls.join(",")), ..options() }).await
    }

    /// Starts a gateway with this configuration.
    pub async fn with(config: Config) -> Self {
        let lines = KeptLog::default();
        let (sink, guard) = LogSink::to(lines.clone()).expect("a thread for the log");
        let threads = WorkerThreads::start(WORKERS).expect("threads");
        let gateway = portcullis_gateway::Gateway::bind(config, Some(sink.clone())).await.expect("a gateway");
        let gateway = gateway.with_workers(&threads);
        let (address, admin) = (gateway.address(), gateway.admin_address());
        let (stop, stopped) = oneshot::channel::<()>();
        let mut running = JoinSet::new();
        running.spawn(gateway.run(async move { drop(stopped.await) }));
        let token = token::mint("tester");
        Self {
            address,
            admin,
            token,
            is_secure: false,
            lines,
            sink,
            stop: Some(stop),
            running,
            _threads: threads,
            _log: guard,
        }
    }

    /// Tells it to stop, as SIGTERM would.
    pub fn tell_to_stop(&mut self) {
        self.stop = None;
    }

    /// Tells it to stop and waits until it has.
    pub async fn stop(mut self) -> Result<(), Failure> {
        self.tell_to_stop();
        let ended = tokio::time::timeout(LIMIT, self.running.join_next()).await;
        ended.expect("it ends in time").expect("it runs").expect("it does not panic")
    }

    // --- asking ---

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.is_secure { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address)
    }

    /// The URL of a path of metrics and probes.
    fn admin_url(&self, path: &str) -> String {
        if self.admin == self.address { self.url(path) } else { format!("http://{}{path}", self.admin) }
    }

    /// A GET with a token.
    pub fn get(&self, path: &str) -> HttpRequest {
        client::get(&self.url(path)).bearer(&self.token)
    }

    /// A POST to `/tools` with a token and this raw body.
    pub fn post(&self, body: impl Into<bytes::Bytes>) -> HttpRequest {
        client::request(Method::POST, &self.url("/tools")).bearer(&self.token).body(body)
    }

    /// Calls a tool with these raw arguments.
    pub async fn call(&self, tool: &str, arguments: &str) -> HttpAnswer {
        send(self.post(format!(r#"{{"method":"{tool}","args":{arguments}}}"#)).limit(LIMIT)).await
    }

    /// Calls a tool, preferring a server.
    pub async fn call_at(&self, server: &str, tool: &str, arguments: &str) -> HttpAnswer {
        let body = format!(r#"{{"method":"{tool}","args":{arguments},"server":"{server}"}}"#);
        send(self.post(body).limit(LIMIT)).await
    }

    /// The names of the listed tools, in their order.
    pub async fn tools(&self) -> Vec<String> {
        let list = send(self.get("/tools/list")).await.json();
        let tools = list["tools"].as_array().expect("tools");
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// The body of `/servers`.
    pub async fn servers(&self) -> Value {
        send(self.get("/servers")).await.json()
    }

    /// One server of `/servers`; null when it is not there.
    pub async fn server(&self, key: &str) -> Value {
        self.servers().await["servers"][key].take()
    }

    /// The body of `/health` with a token.
    pub async fn health(&self) -> Value {
        send(self.get("/health")).await.json()
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        send(client::get(&self.admin_url("/metrics"))).await.text().to_owned()
    }

    /// The value of one series, named as in the text: `portcullis_server_up{server="a"}`.
    pub async fn metric(&self, series: &str) -> Option<f64> {
        let text = self.metrics().await;
        let value = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '))?.to_owned();
        Some(value.parse().expect("a number"))
    }

    // --- waiting ---

    /// Waits until it takes traffic.
    pub async fn ready(&self) {
        let url = self.admin_url("/readyz");
        wait_for("readiness", LIMIT, async || {
            let answer = client::get(&url).send().await.expect("an answer");
            if answer.status == 200 { Ok(()) } else { Err(answer.text().to_owned()) }
        })
        .await;
    }

    /// Waits until `count` servers are connected.
    pub async fn connected(&self, count: u64) {
        let what = format!("{count} connected servers");
        wait_for(&what, LIMIT, async || {
            let servers = self.servers().await;
            if servers["summary"]["connected_servers"] == count { Ok(()) } else { Err(servers) }
        })
        .await;
    }

    /// Waits until this server is connected. What a server names may be looked for every ten seconds only.
    pub async fn is_connected(&self, server: &str) {
        wait_for(&format!("a connection with {server}"), 2 * LIMIT, async || {
            let view = self.server(server).await;
            if view["connected"] == true { Ok(()) } else { Err(view) }
        })
        .await;
    }

    /// Waits until a server has this reason, and gives the message with it.
    pub async fn has_reason(&self, server: &str, wanted: &str) -> String {
        wait_for(&format!("the reason {wanted} of {server}"), 2 * LIMIT, async || {
            let view = self.server(server).await;
            if view["reason"] == wanted {
                Ok(view["last_error"].as_str().expect("a text").to_owned())
            } else {
                Err(view)
            }
        })
        .await
    }

    /// Waits until exactly these tools are listed.
    pub async fn offers(&self, wanted: &[&str]) {
        wait_for(&format!("the tools {wanted:?}"), LIMIT, async || {
            let tools = self.tools().await;
            if tools == wanted { Ok(()) } else { Err(tools) }
        })
        .await;
    }

    /// Waits until a server's `last_error` is this.
    pub async fn fails(&self, server: &str, wanted: &str) {
        wait_for(&format!("the error {wanted:?}"), LIMIT, async || {
            let view = self.server(server).await;
            if view["last_error"] == wanted { Ok(()) } else { Err(view) }
        })
        .await;
    }

    /// Waits until a series has this value.
    pub async fn counts(&self, series: &str, wanted: f64) {
        wait_for(&format!("{series} to be {wanted}"), LIMIT, async || match self.metric(series).await {
            Some(value) if (value - wanted).abs() < f64::EPSILON => Ok(()),
            other => Err(other),
        })
        .await;
    }

    // --- its log ---

    /// The log lines about requests until now, as text.
    pub fn log(&self) -> String {
        assert!(self.sink.flush(LIMIT), "the log is written in time");
        self.lines.text()
    }

    /// The line about the request with this id, once it is there.
    pub async fn line(&self, request_id: &str) -> Value {
        wait_for(&format!("a log line about {request_id}"), LIMIT, async || {
            let log = self.log();
            let mut lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is JSON"));
            lines.find(|line| line["request_id"] == request_id)
        })
        .await
    }
}

async fn send(request: HttpRequest) -> HttpAnswer {
    request.send().await.expect("an answer")
}

/// Keeps what is written.
#[derive(Clone, Debug, Default)]
struct KeptLog(Arc<Mutex<Vec<u8>>>);

impl KeptLog {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

impl Write for KeptLog {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

//! Measures what 10,000 sessions cost that only listen, and how long it takes until all of them have heard of a change.
//!
//!     cargo build --profile dist -p portcullis-gateway
//!     cargo run -p portcullis-e2e --example session_figures -- target/dist [SESSIONS] [ROUNDS]
//!
//! One gateway as a process, sessions of 2025-11-25 with one connection each, a server that comes and goes. Prints lines
//! for docs/performance.md.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a measurement that cannot go on has failed")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::stream::{self, StreamExt as _};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::{http, port, token};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

const START_LIMIT: Duration = Duration::from_secs(60);

/// Sessions that are opened at the same time.
const AT_ONCE: usize = 64;

/// A process that ends with this value.
struct SessionProcess(Child);

impl SessionProcess {
    fn start(program: &Path, arguments: &[&str], environment: &[(&str, String)]) -> Self {
        let log = std::fs::File::create(std::env::temp_dir().join("session-figures.log")).unwrap();
        let mut command = Command::new(program);
        command.args(arguments).envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
        Self(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().expect("it starts"))
    }

    fn status(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix(field));
        line.and_then(|line| line.trim().strip_suffix(" kB")?.trim().parse().ok()).unwrap_or(0)
    }

    fn resident(&self) -> f64 {
        self.status("VmRSS:") as f64 / 1024.0
    }
}

impl Drop for SessionProcess {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Opens a session and its stream, on one connection.
async fn open(gateway: SocketAddr, bearer: &str) -> TcpStream {
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "f", "version": "1"}});
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params}).to_string();
    let mut stream = TcpStream::connect(gateway).await.expect("a connection");
    let common =
        format!("host: {gateway}\r\nauthorization: Bearer {bearer}\r\naccept: application/json, text/event-stream");
    let post = format!(
        "POST /mcp HTTP/1.1\r\n{common}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(post.as_bytes()).await.unwrap();
    let answer = read_until(&mut stream, "}}").await;
    let session = answer.lines().find_map(|line| line.strip_prefix("mcp-session-id: ")).expect("a session");
    let get = format!("GET /mcp HTTP/1.1\r\n{common}\r\nmcp-session-id: {session}\r\n\r\n");
    stream.write_all(get.as_bytes()).await.unwrap();
    read_until(&mut stream, ": \n\n").await;
    stream
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let (mut text, mut buffer) = (String::new(), [0; 2048]);
    while !text.contains(end) {
        let length = timeout(START_LIMIT, stream.read(&mut buffer)).await.expect("in time").unwrap();
        assert!(length > 0, "it closed after {text:?}");
        text.push_str(std::str::from_utf8(&buffer[..length]).unwrap());
    }
    text
}

/// Says when it has heard of a change, each time.
async fn listen(mut stream: TcpStream, heard: mpsc::UnboundedSender<Instant>, comments: Arc<AtomicUsize>) {
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = stream.read(&mut buffer).await {
        let text = String::from_utf8_lossy(&buffer[..length]);
        match text.contains("tools/list_changed") {
            true => drop(heard.send(Instant::now())),
            false => drop(comments.fetch_add(1, Ordering::Relaxed)),
        }
    }
}

struct SessionStage {
    manifests: Manifests,
    backend: String,
    gateway: SessionProcess,
    listening: JoinSet<()>,
}

impl SessionStage {
    /// A change, and how long after it was heard: by the first and by the last.
    async fn round(&self, adds: bool, count: usize, heard: &mut mpsc::UnboundedReceiver<Instant>) -> [f64; 2] {
        let began = Instant::now();
        match adds {
            true => self.manifests.add("visitor", &self.backend, "tools:\n  prefix: visitor"),
            false => self.manifests.remove("visitor"),
        }
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            times.push(timeout(START_LIMIT, heard.recv()).await.expect("in time").expect("they listen"));
        }
        times.sort();
        [times[0], times[count - 1]].map(|time| (time - began).as_secs_f64() * 1e3)
    }
}

async fn until_connected(address: SocketAddr, bearer: &str) {
    let began = Instant::now();
    loop {
        let tools = http::get(&format!("http://{address}/tools/list")).bearer(bearer).send().await;
        if tools.is_ok_and(|answer| answer.status == 200 && answer.text().contains("\"name\"")) {
            return;
        }
        assert!(began.elapsed() < START_LIMIT, "the gateway does not start");
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |index: usize, default: usize| arguments.get(index).map_or(default, |text| text.parse().unwrap());
    let folder = std::fs::canonicalize(arguments.first().map_or("target/dist", String::as_str)).unwrap();
    let (count, rounds) = (number(1, 10_000), number(2, 6));
    let program: PathBuf = folder.join("portcullis-gateway");
    let (front, back) = (port::hold(), port::hold());
    let (address, bearer) = (front.address(), token::mint("figures"));
    let _backend = SessionProcess::start(&program, &["demo", "--serve", &back.address().to_string()], &[]);
    let (manifests, backend) = (Manifests::new(), format!("{}/mcp", back.origin()));
    manifests.add("first", &backend, "");
    let environment = [
        ("HOST", "127.0.0.1".to_owned()),
        ("PORT", address.port().to_string()),
        ("JWT_SECRET", token::SECRET.to_owned()),
        ("SERVERS", manifests.servers().display().to_string()),
        ("MAX_CONNECTIONS", (count + 100).to_string()),
        ("MAX_SESSIONS", count.to_string()),
        ("MAX_SESSIONS_PER_SUBJECT", count.to_string()),
    ];
    let gateway = SessionProcess::start(&program, &[], &environment);
    let mut stage = SessionStage { manifests, backend, gateway, listening: JoinSet::new() };
    until_connected(address, &bearer).await;

    let before = stage.gateway.resident();
    let began = Instant::now();
    let opening = (0..count).map(|_| open(address, &bearer));
    let streams: Vec<TcpStream> = stream::iter(opening).buffer_unordered(AT_ONCE).collect().await;
    println!("{count} sessions opened in {:.1} s", began.elapsed().as_secs_f64());
    let (sender, mut heard) = mpsc::unbounded_channel();
    let comments = Arc::new(AtomicUsize::new(0));
    for stream in streams {
        stage.listening.spawn(listen(stream, sender.clone(), comments.clone()));
    }
    sleep(Duration::from_secs(20)).await;
    let idle = stage.gateway.resident();
    println!(
        "resident: {before:.1} MiB before, {idle:.1} MiB with all of them idle: {:.1} KiB each; {} comments came",
        (idle - before) * 1024.0 / count as f64,
        comments.load(Ordering::Relaxed)
    );
    for round in 0..rounds {
        let [first, last] = stage.round(round % 2 == 0, count, &mut heard).await;
        println!(
            "change {round}: heard by the first after {first:.0} ms, by the last {:.0} ms later; resident {:.1} MiB",
            last - first,
            stage.gateway.resident()
        );
        sleep(Duration::from_secs(1)).await;
        assert!(heard.try_recv().is_err(), "each heard of it once");
    }
    println!("most ever resident: {:.1} MiB", stage.gateway.status("VmHWM:") as f64 / 1024.0);
}

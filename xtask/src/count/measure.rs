//! One measurement: a gateway under callgrind, a server behind it, and calls one after the other on one connection.
//!
//! What is counted lies between two requests for the metrics, which make callgrind write down what it has counted so far:
//! the start of the process does not count, and one that makes no call in between tells what they cost themselves.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ChildStdout;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::backend::Backend;
use super::http::{Connection, PATIENCE, written};
use super::kinds::{ASSERTION_KEY, Kind, MESSAGE, SECRET};
use super::process::{Counted, Pid};

/// Calls that are counted. More would change nothing: each costs the same.
const CALLS: u64 = 100;

/// Calls before them, after which caches are filled and buffers have grown.
const WARM_UP: u64 = 20;

/// Between two looks at a gateway that is not ready.
const LOOK: Duration = Duration::from_millis(20);

/// What the gateway calls only when its metrics are asked for, to count open files.
const MARK: &str = "opendir";

/// The instructions of one call, all threads together.
///
/// # Errors
/// When a call fails, or valgrind does.
pub fn per_call(binary: &Path, folder: &Path, kind: Kind) -> anyhow::Result<u64> {
    let backend = Backend::start(kind.spoken)?;
    let (servers, source) = match kind.manifests(&backend.url) {
        None => ("MCP_URL", backend.url.clone()),
        Some(manifests) => ("SERVERS", file_of(&folder.join(kind.name), &manifests)?),
    };
    // As in a deployment, but for the addresses.
    let keys = folder.join("assertion-keys.pem");
    fs::write(&keys, ASSERTION_KEY).with_context(|| keys.display().to_string())?;
    let variables = [
        ("HOST", "127.0.0.1"),
        ("PORT", "0"),
        ("ADMIN_ADDRESS", "127.0.0.1:0"),
        (servers, &source),
        ("JWT_SECRET", SECRET),
        ("ASSERTION_KEYS_FILE", keys.to_str().context("a path")?),
        ("ASSERTION_ISSUER", "https://gateway.example"),
    ];
    let report = folder.join(format!("{}.callgrind", kind.name));
    let (process, output) = Counted::start(binary, &variables, MARK, &report)?;
    let mut caller = Caller::of(kind, &backend, process.pid(), output)?;
    caller.call(WARM_UP)?;
    caller.scrape()?;
    caller.call(CALLS)?;
    caller.scrape()?;
    caller.scrape()?;
    drop(caller);
    let parts = process.stop()?;
    let [_start, calls, nothing] = parts[..] else {
        anyhow::bail!("the gateway ran through `{MARK}` {} times instead of once for each scrape", parts.len());
    };
    Ok(calls.saturating_sub(nothing) / CALLS)
}

/// Writes manifests into a file in a folder of its own, and gives its path: not that of the folder, because a gateway that
/// looks for files runs through the mark.
fn file_of(folder: &Path, manifests: &str) -> anyhow::Result<String> {
    let file = folder.join("manifests.yaml");
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    fs::write(&file, manifests).with_context(|| file.display().to_string())?;
    Ok(file.display().to_string())
}

/// The client.
struct Caller {
    gateway: Pid,
    connection: Connection,
    request: Vec<u8>,
    scraper: Connection,
    /// The log.
    lines: mpsc::Receiver<String>,
}

impl Caller {
    /// Waits until the gateway can be called.
    fn of(kind: Kind, backend: &Backend, gateway: Pid, output: ChildStdout) -> anyhow::Result<Self> {
        let lines = lines(output);
        let line = await_line(&lines, r#""message":"listening""#).context("the gateway does not listen")?;
        let (address, admin) = (address(&line, "address")?, address(&line, "admin_address")?);
        backend.listed.recv_timeout(PATIENCE).context("the gateway does not list the server's tools")?;
        backend.answer_sleepers(gateway);
        gateway.settle()?;
        let mut scraper = Connection::open(admin)?;
        await_ready(&mut scraper)?;
        gateway.settle()?;
        let mut connection = Connection::open(address)?;
        let request = kind.prepare(&mut connection)?;
        Ok(Self { gateway, connection, request, scraper, lines })
    }

    /// Calls the tool so many times. The next call comes when the line of the last one is written and all is quiet.
    fn call(&mut self, count: u64) -> anyhow::Result<()> {
        for _ in 0..count {
            self.gateway.settle()?;
            let answer = self.connection.ask(&self.request)?;
            let right = answer.first == "HTTP/1.1 200 OK" && answer.body.contains(MESSAGE);
            ensure!(right, "a call was answered with {} {}", answer.first, answer.body);
            await_line(&self.lines, r#""tool":"echo""#).context("a call leaves no line in the log")?;
        }
        self.gateway.settle()
    }

    fn scrape(&mut self) -> anyhow::Result<()> {
        let answer = self.scraper.ask(&written("GET /metrics HTTP/1.1", "host: gateway.example\r\n", ""))?;
        ensure!(answer.first == "HTTP/1.1 200 OK", "the metrics were answered with {}", answer.first);
        self.gateway.settle()
    }
}

/// Waits until the gateway has tried its server: on a busy machine that takes longer than the list of its tools.
fn await_ready(admin: &mut Connection) -> anyhow::Result<()> {
    let began = Instant::now();
    loop {
        let answer = admin.ask(&written("GET /readyz HTTP/1.1", "host: gateway.example\r\n", ""))?;
        if answer.first == "HTTP/1.1 200 OK" {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "the gateway is not ready: {} {}", answer.first, answer.body);
        thread::sleep(LOOK);
    }
}

/// Reads the log, always: a full pipe would change what is counted.
fn lines(output: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    lines
}

fn await_line(lines: &mpsc::Receiver<String>, part: &str) -> anyhow::Result<String> {
    loop {
        let line = lines.recv_timeout(PATIENCE)?;
        if line.contains(part) {
            return Ok(line);
        }
    }
}

/// An address in a line of the log.
fn address(line: &str, name: &str) -> anyhow::Result<SocketAddr> {
    let value = line.split_once(&format!(r#""{name}":""#)).and_then(|(_, rest)| rest.split('"').next());
    value.with_context(|| format!("no {name} in {line}"))?.parse().with_context(|| line.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_in_the_line_of_the_start() {
        let line = r#"{"message":"listening","admin_address":"127.0.0.1:2","address":"127.0.0.1:1","version":"0"}"#;

        let found = ["address", "admin_address", "version", "other"].map(|name| address(line, name).ok());

        assert_eq!(found, ["127.0.0.1:1".parse().ok(), "127.0.0.1:2".parse().ok(), None, None]);
    }
}

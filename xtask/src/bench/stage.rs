//! What a run needs: programs that are built, a folder, ports, a token; and the servers that are started of them.

use std::cell::{Cell, RefCell};
use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::http;
use super::process::{Process, Start};
use crate::generate::repository;

/// Where the gateway and nginx run when they have one processor for themselves.
pub const ONE: Option<&str> = Some("0");

/// Where the load generator and the mock server run meanwhile.
pub const OTHER: Option<&str> = Some("1");

/// All have all processors.
pub const ANY: Option<&str> = None;

/// With which tokens are signed.
pub const SECRET: &str = "benchsecretbenchsecretbenchsecret";

/// For a server to be there.
const PATIENCE: Duration = Duration::from_secs(30);

/// What plain HTTP gets where TLS is spoken.
const PLAIN: u16 = 400;

/// Below the ports that the system gives to connections.
const FIRST_PORT: u16 = 20_000;

/// The programs.
#[derive(Debug)]
pub struct Programs {
    /// The gateway to be measured.
    pub gateway: PathBuf,
    /// The folder of `mcp-load`, `mcp-mock`, `mcp-changes` and `mcp-policies`.
    pub kit: PathBuf,
    /// Debian's.
    pub nginx: PathBuf,
}

/// A server that listens.
#[derive(Debug)]
pub struct Server {
    /// Ends with this value.
    pub process: Process,
    /// Its first port.
    pub port: u16,
}

/// Where a run takes place. What was started must end before it.
#[derive(Debug)]
pub struct Stage {
    /// The programs.
    pub programs: Programs,
    /// Of a caller.
    pub token: String,
    /// Ends with the run.
    pub folder: TempDir,
    /// The lines of the load generator.
    pub lines: RefCell<File>,
    /// The share of the machine that others used, in each measurement.
    pub foreign: RefCell<Vec<f64>>,
    began: Instant,
    port: Cell<u16>,
}

impl Stage {
    /// Makes a token and a folder.
    pub fn new(programs: Programs) -> anyhow::Result<Self> {
        allow_open_files()?;
        let results = repository().join("bench/results");
        fs::create_dir_all(&results).context("bench/results")?;
        let made = Command::new(programs.kit.join("mcp-load")).args(["token", "--secret", SECRET]).output();
        let token = String::from_utf8(made.context("starting mcp-load")?.stdout)?.trim().to_owned();
        Ok(Self {
            programs,
            token,
            folder: tempfile::Builder::new().prefix("portcullis-bench-").tempdir()?,
            lines: RefCell::new(File::create(results.join("runs.jsonl"))?),
            foreign: RefCell::default(),
            began: Instant::now(),
            port: Cell::new(FIRST_PORT),
        })
    }

    /// Since it began.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// The first of so many ports in a row that nobody uses.
    pub fn ports(&self, count: u16) -> anyhow::Result<u16> {
        let free = |port: u16| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok();
        let mut first = self.port.get();
        while let Some(taken) = (first..first.saturating_add(count)).rev().find(|port| !free(*port)) {
            first = taken + 1;
            ensure!(first < 32_000, "no {count} ports in a row are free between {FIRST_PORT} and 32,000");
        }
        self.port.set(first + count);
        Ok(first)
    }

    /// Starts a mock MCP server that listens on so many ports.
    pub fn mock(&self, cpus: Option<&str>, ports: u16, arguments: &[&str]) -> anyhow::Result<Server> {
        let port = self.ports(ports)?;
        let mut all = vec!["--port".to_owned(), port.to_string(), "--ports".to_owned(), ports.to_string()];
        all.extend(arguments.iter().map(|&argument| argument.to_owned()));
        let program = self.programs.kit.join("mcp-mock");
        let start = Start { name: "mock", cpus, program: &program, arguments: all, environment: vec![] };
        self.listening(start, port, ("/health", 200))
    }

    /// Starts nginx as a reverse proxy before a server, and for the files in [`Stage::files`]. It has a worker for each
    /// processor.
    pub fn nginx(&self, cpus: Option<&str>, before: &Server) -> anyhow::Result<Server> {
        self.nginx_with(cpus, before, "", 200)
    }

    /// The same with TLS, by this certificate and its key.
    pub fn secured_nginx(
        &self,
        cpus: Option<&str>,
        before: &Server,
        [certificate, key]: &[PathBuf; 2],
    ) -> anyhow::Result<Server> {
        let (certificate, key) = (certificate.display(), key.display());
        let tls = format!("ssl; ssl_certificate {certificate}; ssl_certificate_key {key}");
        self.nginx_with(cpus, before, &tls, PLAIN)
    }

    fn nginx_with(&self, cpus: Option<&str>, before: &Server, tls: &str, status: u16) -> anyhow::Result<Server> {
        let port = self.ports(1)?;
        let folder = self.folder.path().join(format!("nginx-{port}"));
        fs::create_dir_all(folder.join("files"))?;
        let template = fs::read_to_string(repository().join("bench/conf/nginx.conf"))?;
        let workers = if cpus.is_some() { 1 } else { 2 };
        let values = [("@LISTEN@", port), ("@BEHIND@", before.port), ("@WORKERS@", workers)];
        let template = template.replace("@TLS@", tls);
        let configuration = values.iter().fold(template, |text, (name, value)| text.replace(name, &value.to_string()));
        fs::write(folder.join("nginx.conf"), configuration)?;
        let arguments = ["-p", &folder.display().to_string(), "-c", "nginx.conf"].map(str::to_owned).to_vec();
        let program = self.programs.nginx.clone();
        let start = Start { name: "nginx", cpus, program: &program, arguments, environment: vec![] };
        self.listening(start, port, ("/health", status))
    }

    /// The folder of the files that this nginx sends as `/files/NAME`.
    pub fn files(&self, nginx: &Server) -> PathBuf {
        self.folder.path().join(format!("nginx-{}/files", nginx.port))
    }

    /// Starts the gateway and waits until it is ready, that is has tried all its servers.
    pub fn gateway(&self, cpus: Option<&str>, settings: &[(&'static str, String)]) -> anyhow::Result<Server> {
        self.gateway_at(self.ports(1)?, cpus, settings)
    }

    /// Starts the gateway with settings for HTTPS, and waits until it listens.
    pub fn secured_gateway(&self, cpus: Option<&str>, settings: &[(&'static str, String)]) -> anyhow::Result<Server> {
        self.gateway_with(self.ports(1)?, cpus, settings, PLAIN)
    }

    /// The same at a port that somebody knows already.
    pub fn gateway_at(
        &self,
        port: u16,
        cpus: Option<&str>,
        settings: &[(&'static str, String)],
    ) -> anyhow::Result<Server> {
        self.gateway_with(port, cpus, settings, 200)
    }

    fn gateway_with(
        &self,
        port: u16,
        cpus: Option<&str>,
        settings: &[(&'static str, String)],
        status: u16,
    ) -> anyhow::Result<Server> {
        let name = format!("gateway-{port}");
        let mut environment: Vec<(&str, String)> =
            vec![("HOST", "127.0.0.1".into()), ("PORT", port.to_string()), ("JWT_SECRET", SECRET.into())];
        environment.extend_from_slice(settings);
        let program = &self.programs.gateway;
        self.listening(Start { name: &name, cpus, program, arguments: vec![], environment }, port, ("/readyz", status))
    }

    fn listening(&self, start: Start<'_>, port: u16, (path, wanted): (&str, u16)) -> anyhow::Result<Server> {
        let mut process = Process::start(start, self.folder.path())?;
        process.until("ready", PATIENCE, || {
            http::get(port, path, &self.token).is_ok_and(|(status, _)| status == wanted)
        })?;
        Ok(Server { process, port })
    }
}

impl Server {
    /// A path of it as a URL.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }
}

/// Thousands of connections need more than the usual 1,024; the processes that are started inherit it.
fn allow_open_files() -> anyhow::Result<()> {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).context("allowing more open files")
}

/// Builds what is missing; `binary` instead of the gateway of this work tree.
pub fn programs(binary: Option<&Path>) -> anyhow::Result<Programs> {
    let nginx = PathBuf::from("/usr/sbin/nginx");
    ensure!(
        nginx.exists(),
        "nginx is not installed, and every ratio is quoted against it: apt-get install nginx-light"
    );
    let root = repository();
    let gateway = match binary {
        Some(binary) => fs::canonicalize(binary).with_context(|| binary.display().to_string())?,
        None => {
            cargo(&root, &["build", "--profile", "dist", "--package", "portcullis-gateway"])?;
            target(&root).join("dist/portcullis-gateway")
        }
    };
    let kit = root.join("bench");
    cargo(&kit, &["build", "--release"])?;
    Ok(Programs { gateway, kit: target(&kit).join("release"), nginx })
}

fn target(workspace: &Path) -> PathBuf {
    // A relative one is relative to where cargo was started for us: to the repository.
    let named = std::env::var_os("CARGO_TARGET_DIR").map(|folder| std::path::absolute(folder).unwrap_or_default());
    named.unwrap_or_else(|| workspace.join("target"))
}

fn cargo(workspace: &Path, arguments: &[&str]) -> anyhow::Result<()> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    let status = cargo.args(arguments).current_dir(workspace).env("CARGO_TARGET_DIR", target(workspace)).status();
    ensure!(status.context("starting cargo")?.success(), "cargo {} failed", arguments.join(" "));
    Ok(())
}

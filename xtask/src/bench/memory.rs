//! The resident set: idle, with many servers, with many sessions. Each time of a process that has just started.

use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::figures::{Figures, Goal, Unit};
use super::load::{ROUNDS, Shape, Target};
use super::servers::{Servers, connected, manifests};
use super::stage::{ONE, OTHER, Server, Stage};
use super::statistics::Spread;

/// Servers, where there are many.
pub const SERVERS: u16 = 1_000;

/// Sessions of clients.
const SESSIONS: usize = 10_000;

/// What a process needed only to start is given back by then.
const SETTLE: Duration = Duration::from_secs(3);

type Measure = fn(&Stage, &Server) -> anyhow::Result<f64>;

const CASES: [(&str, f64, f64, Measure); 4] = [
    ("Resident set, idle with one server", 20.0, 12.0, idle),
    ("Resident set with 1,000 servers that do not answer", 40.0, 25.0, registered),
    ("Resident set with 1,000 servers, all connected", 80.0, 50.0, all_connected),
    ("Resident set with 10,000 idle sessions, each listening on a connection", 300.0, 220.0, sessions),
];

/// All of it, in MiB.
pub fn memory(stage: &Stage) -> anyhow::Result<Figures> {
    let mock = stage.mock(OTHER, SERVERS, &[])?;
    let mut measured = [const { Vec::new() }; CASES.len()];
    for _ in 0..ROUNDS {
        for ((what, _, _, measure), values) in CASES.iter().zip(&mut measured) {
            let resident = measure(stage, &mock)?;
            eprintln!("  {what}: {resident:.1} MiB");
            values.push(resident);
        }
    }
    let mut figures = Figures::default();
    for ((what, must, aim, _), values) in CASES.into_iter().zip(measured) {
        let measured = Spread::of(values).context("no round")?;
        figures.goals.push(Goal { what: what.to_owned(), unit: Unit::Mebibytes, must, aim, measured });
    }
    Ok(figures)
}

fn idle(stage: &Stage, mock: &Server) -> anyhow::Result<f64> {
    let gateway = stage.gateway(ONE, &[("MCP_URLS", mock.url("/mcp"))])?;
    sleep(SETTLE);
    gateway.process.resident()
}

fn registered(stage: &Stage, _: &Server) -> anyhow::Result<f64> {
    let nobody = stage.ports(SERVERS)?;
    let file = manifests(stage, Servers { first_port: nobody, count: SERVERS })?;
    let gateway = stage.gateway(ONE, &[("SERVERS", file)])?;
    sleep(SETTLE);
    gateway.process.resident()
}

fn all_connected(stage: &Stage, mock: &Server) -> anyhow::Result<f64> {
    let file = manifests(stage, Servers { first_port: mock.port, count: SERVERS })?;
    let mut gateway = stage.gateway(ONE, &[("SERVERS", file)])?;
    connected(stage, &mut gateway, SERVERS)?;
    sleep(SETTLE);
    gateway.process.resident()
}

fn sessions(stage: &Stage, mock: &Server) -> anyhow::Result<f64> {
    let most = SESSIONS.to_string();
    let settings = [
        ("MCP_URLS", mock.url("/mcp")),
        ("MAX_CONNECTIONS", (SESSIONS + 100).to_string()),
        ("MAX_SESSIONS", most.clone()),
        ("MAX_SESSIONS_PER_SUBJECT", most),
    ];
    let gateway = stage.gateway(ONE, &settings)?;
    let target = Target::gateway(stage, "sessions", "listen", "/mcp", [&gateway, mock]);
    // It waits for all of them to be open.
    let settle = SETTLE.as_secs_f64();
    let line = target.line(stage, Shape { connections: SESSIONS, seconds: settle, cpus: OTHER })?;
    ensure!(line["sessions_open"] == SESSIONS, "only {} sessions are open", line["sessions_open"]);
    let kib = line["server_rss_kb"].as_f64().context("mcp-load told no resident set")?;
    Ok(kib / 1024.0)
}

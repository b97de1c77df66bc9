//! Calls of 100 bytes at 16, 64 and 256 connections: the gateway and nginx have one processor, the rest has the other.

use super::figures::{Figures, Goal, Table, Unit};
use super::load::{Run, Runs, Shape, Target, rounds, so_many_rounds};
use super::stage::{ONE, OTHER, Server, Stage};

/// The ways to call: name in tables, mode of `mcp-load`, path.
pub const WAYS: [(&str, &str, &str); 3] = [
    ("`POST /tools`", "rest", "/tools"),
    ("`POST /mcp` in a session", "mcp", "/mcp"),
    ("`POST /mcp`, 2026-07-28", "stateless", "/mcp"),
];

/// The way to a server of legacy HTTP+SSE.
pub const LEGACY: &str = "`POST /tools`, backend over legacy HTTP+SSE";

/// The proxy that all is compared with.
pub const NGINX: &str = "nginx";

/// The mock server without anything before it.
pub const DIRECT: &str = "directly to the backend";

/// Rounds in which the ways to call are compared with each other: many short ones. They differ by a twentieth, less than
/// the speed of the machine does within the ten seconds of a long round.
const SHORT_ROUNDS: usize = 25;

struct Servers {
    mock: Server,
    nginx: Server,
    gateway: Server,
    legacy: Server,
}

impl Servers {
    fn start(stage: &Stage) -> anyhow::Result<Self> {
        let mock = stage.mock(OTHER, 1, &[])?;
        let nginx = stage.nginx(ONE, &mock)?;
        let gateway = stage.gateway(ONE, &[("MCP_URLS", mock.url("/mcp"))])?;
        let legacy = stage.gateway(ONE, &[("MCP_URLS", mock.url("/sse"))])?;
        Ok(Self { mock, nginx, gateway, legacy })
    }

    fn targets<'a>(&'a self, stage: &Stage) -> Vec<Target<'a>> {
        let mut all = vec![Target::plain(NGINX, "mcp", "/mcp", [&self.nginx, &self.mock])];
        all.extend(
            WAYS.map(|(name, mode, path)| Target::gateway(stage, name, mode, path, [&self.gateway, &self.mock])),
        );
        all
    }
}

/// Throughput and CPU time at 16 connections.
pub fn throughput(stage: &Stage) -> anyhow::Result<Figures> {
    let servers = Servers::start(stage)?;
    let mut targets = servers.targets(stage);
    targets.push(Target::gateway(stage, LEGACY, "rest", "/tools", [&servers.legacy, &servers.mock]));
    targets.insert(0, Target::plain(DIRECT, "mcp", "/mcp", [&servers.mock, &servers.mock]));
    let shape = Shape { connections: 16, seconds: 1.5, cpus: OTHER };
    let runs = rounds(stage, shape, &targets)?;
    let mut goals = Vec::new();
    let mut goal =
        |what: String, must, aim, measured| goals.push(Goal { what, unit: Unit::Ratio, must, aim, measured });
    for (name, _, _) in WAYS {
        goal(format!("{name}, throughput vs nginx"), 0.55, 0.75, runs.ratio([name, NGINX], |run| run.rps)?);
    }
    for (name, _, _) in WAYS {
        let measured = runs.ratio([name, NGINX], |run| run.server_cpu_us_per_call)?;
        goal(format!("{name}, CPU per call vs nginx"), 2.0, 1.5, measured);
    }
    goal(format!("{LEGACY}, vs nginx"), 0.38, 0.55, runs.ratio([LEGACY, NGINX], |run| run.rps)?);
    let ways = &servers.targets(stage)[1..];
    let short = so_many_rounds(SHORT_ROUNDS, stage, Shape { seconds: 0.4, ..shape }, ways)?;
    for (name, _, _) in &WAYS[1..] {
        let measured = short.ratio([name, WAYS[0].0], |run| run.rps)?;
        goal(format!("{name}, throughput vs `POST /tools`"), 0.95, 1.0, measured);
    }
    let about = "Calls of 100 bytes at 16 connections. nginx or the gateway has one processor, the backend and the load \
        generator share the other; where that one is busy all the time, the target could do more.";
    Ok(Figures { goals, tables: vec![table(about, &targets, &runs)?] })
}

/// The slowest hundredth of the calls at 64 and 256 connections.
pub fn tail(stage: &Stage) -> anyhow::Result<Figures> {
    let servers = Servers::start(stage)?;
    let targets = servers.targets(stage);
    let mut figures = Figures::default();
    for connections in [64, 256] {
        let runs = rounds(stage, Shape { connections, seconds: 1.2, cpus: OTHER }, &targets)?;
        for (name, _, _) in WAYS {
            let measured = runs.ratio([name, NGINX], |run| run.p99_ms)?;
            let what = format!("{name}, p99 at {connections} connections vs nginx");
            figures.goals.push(Goal { what, unit: Unit::Ratio, must: 2.0, aim: 1.3, measured });
        }
        let about = format!("The same at {connections} connections.");
        figures.tables.push(table(&about, &targets, &runs)?);
    }
    Ok(figures)
}

/// The medians of each target.
pub fn table(about: &str, targets: &[Target<'_>], runs: &Runs) -> anyhow::Result<Table> {
    let head = ["", "calls/s", "p50 ms", "p99 ms", "CPU µs/call", "backend and load generator busy"];
    let mut table = Table::new(about, &head);
    for target in targets {
        let median = |number: fn(&Run) -> f64| runs.of(target.name, number).map(|spread| spread.median);
        table.rows.push(vec![
            target.name.to_owned(),
            format!("{:.0}", median(|run| run.rps)?),
            format!("{:.2}", median(|run| run.p50_ms)?),
            format!("{:.2}", median(|run| run.p99_ms)?),
            format!("{:.1}", median(|run| run.server_cpu_us_per_call)?),
            match target.name {
                // It shares the processor with the load generator.
                DIRECT => "100 %".to_owned(),
                _ => format!("{:.0} %", 100.0 * median(busy)?),
            },
        ]);
    }
    Ok(table)
}

/// The part of one processor that the load generator and what is behind the target have used.
fn busy(run: &Run) -> f64 {
    (run.backend_cpu_us_per_call + run.load_cpu_us_per_call) * run.rps / 1e6
}

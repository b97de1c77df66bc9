//! What a call takes longer than without a gateway: one connection, nothing pinned to a processor.

use super::figures::{Figures, Goal, Unit};
use super::load::{Run, Shape, Target, rounds};
use super::stage::{ANY, Stage};
use super::throughput::{DIRECT, NGINX, WAYS, table};

type Number = (&'static str, fn(&Run) -> f64, f64, f64);

/// Added by the gateway, in each round.
pub fn added(stage: &Stage) -> anyhow::Result<Figures> {
    let mock = stage.mock(ANY, 1, &[])?;
    let nginx = stage.nginx(ANY, &mock)?;
    let gateway = stage.gateway(ANY, &[("MCP_URLS", mock.url("/mcp"))])?;
    let mut targets = vec![
        Target::plain(DIRECT, "mcp", "/mcp", [&mock, &mock]),
        Target::plain(NGINX, "mcp", "/mcp", [&nginx, &mock]),
    ];
    targets.extend(WAYS.map(|(name, mode, path)| Target::gateway(stage, name, mode, path, [&gateway, &mock])));
    let runs = rounds(stage, Shape { connections: 1, seconds: 1.5, cpus: ANY }, &targets)?;
    let numbers: [Number; 2] = [("p50", |run| run.p50_ms, 50.0, 30.0), ("p99", |run| run.p99_ms, 120.0, 80.0)];
    let mut figures = Figures::default();
    for (quantile, number, must, aim) in numbers {
        for (name, _, _) in WAYS {
            let measured = runs.both([name, DIRECT], number, |with, without| (with - without) * 1000.0)?;
            let what = format!("{name}, {quantile} at one connection above that without a gateway");
            figures.goals.push(Goal { what, unit: Unit::Microseconds, must, aim, measured });
        }
    }
    let about = "At one connection, all processes on all processors.";
    figures.tables.push(table(about, &targets, &runs)?);
    Ok(figures)
}

//! Long results: 10 KiB and 1 MiB of text in the answer to each call.

use super::figures::{Figures, Goal, Unit};
use super::load::{Shape, Target, rounds};
use super::stage::{ONE, OTHER, Stage};
use super::throughput::{NGINX, WAYS, table};

/// How an answer of the mock server begins, after what differs between REST and MCP.
const BEGINS: &str = r#""content":[{"type":"text","text":"xxxx"#;

/// Throughput compared with nginx.
pub fn long_results(stage: &Stage) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    for (size, bytes, connections) in [("10 KiB", 10 * 1024, 16), ("1 MiB", 1024 * 1024, 4)] {
        let bytes = bytes.to_string();
        let mock = stage.mock(OTHER, 1, &["--reply-bytes", &bytes])?;
        let nginx = stage.nginx(ONE, &mock)?;
        let gateway = stage.gateway(ONE, &[("MCP_URLS", mock.url("/mcp"))])?;
        let mut targets = vec![Target::plain(NGINX, "mcp", "/long/mcp", [&nginx, &mock])];
        targets.extend(WAYS.map(|(name, mode, path)| Target::gateway(stage, name, mode, path, [&gateway, &mock])));
        let whole = ["--expect", BEGINS, "--least-bytes", bytes.as_str()];
        let targets: Vec<Target<'_>> = targets.into_iter().map(|target| target.with(&whole)).collect();
        let runs = rounds(stage, Shape { connections, seconds: 1.2, cpus: OTHER }, &targets)?;
        for (name, _, _) in WAYS {
            let what = format!("{name}, throughput with results of {size} vs nginx");
            let measured = runs.ratio([name, NGINX], |run| run.rps)?;
            figures.goals.push(Goal { what, unit: Unit::Ratio, must: 0.7, aim: 0.9, measured });
        }
        let about = format!("Results of {size}, {connections} connections.");
        figures.tables.push(table(&about, &targets, &runs)?);
    }
    Ok(figures)
}

//! Two processors instead of one.
//!
//! On a machine of two, the load generator and the backend need theirs as well. So in one case all three share one
//! processor, in the other all three share two: then twice the calls is the most that can be, whatever the parts take.

use anyhow::Context as _;

use super::distance::round_trip;
use super::figures::{Figures, Goal, Unit};
use super::load::{ROUNDS, Runs, Shape, Target};
use super::stage::{ANY, ONE, Server, Stage};
use super::statistics::Spread;
use super::throughput::{LEGACY, WAYS, table};

const NAMES: [[&str; 2]; 4] = [
    ["nginx, one processor for all", "nginx, two"],
    ["`POST /tools`, one processor for all", "`POST /tools`, two"],
    ["`POST /mcp` in a session, one processor for all", "`POST /mcp` in a session, two"],
    [
        "`POST /tools`, backend over legacy HTTP+SSE, one processor for all",
        "`POST /tools`, backend over legacy HTTP+SSE, two",
    ],
];

struct Half {
    cpus: Option<&'static str>,
    mock: Server,
    nginx: Server,
    gateway: Server,
    legacy: Server,
}

impl Half {
    fn start(stage: &Stage, cpus: Option<&'static str>) -> anyhow::Result<Self> {
        let mock = stage.mock(cpus, 1, &[])?;
        let nginx = stage.nginx(cpus, &mock)?;
        let gateway = stage.gateway(cpus, &[("MCP_URLS", mock.url("/mcp"))])?;
        let legacy = stage.gateway(cpus, &[("MCP_URLS", mock.url("/sse"))])?;
        Ok(Self { cpus, mock, nginx, gateway, legacy })
    }

    fn targets<'a>(&'a self, stage: &Stage, which: usize) -> Vec<Target<'a>> {
        let way = |index: usize, (_, mode, path): (&str, &'static str, &'static str), gateway| {
            Target::gateway(stage, NAMES[index][which], mode, path, [gateway, &self.mock])
        };
        vec![
            Target::plain(NAMES[0][which], "mcp", "/mcp", [&self.nginx, &self.mock]),
            way(1, WAYS[0], &self.gateway),
            way(2, WAYS[1], &self.gateway),
            way(3, WAYS[0], &self.legacy),
        ]
    }
}

/// Throughput with two compared with one.
pub fn cores(stage: &Stage) -> anyhow::Result<Figures> {
    let halves = [Half::start(stage, ONE)?, Half::start(stage, ANY)?];
    let [one, two] = [0, 1].map(|which: usize| halves[which].targets(stage, which));
    let (mut runs, mut distances) = (Runs::default(), Vec::new());
    for _ in 0..ROUNDS {
        distances.push(round_trip()?.as_secs_f64() * 1e9);
        for (half, target) in one.iter().zip(&two).flat_map(|(one, two)| [(&halves[0], one), (&halves[1], two)]) {
            let shape = Shape { connections: 64, seconds: 1.5, cpus: half.cpus };
            runs.push(target.name, target.measure(stage, shape)?);
        }
    }
    let mut figures = Figures::default();
    for ([one, two], name) in NAMES[1..].iter().zip([WAYS[0].0, WAYS[1].0, LEGACY]) {
        let what = format!("{name}, two processors vs one");
        let measured = runs.ratio([two, one], |run| run.rps)?;
        figures.goals.push(Goal { what, unit: Unit::Ratio, must: 1.6, aim: 1.85, measured });
    }
    let nginx = runs.ratio([NAMES[0][1], NAMES[0][0]], |run| run.rps)?;
    let distance = Spread::of(distances).context("no round")?;
    let about = format!(
        "64 connections; the load generator, the backend and the target share one processor, or they share two: 2 is the \
         most that can be. nginx with a worker for each processor gains {:.2} ({:.2} – {:.2}) in the same way. \
         Between the processors a value went forth and back in {:.0} ns ({:.0} – {:.0}).",
        nginx.median, nginx.least, nginx.most, distance.median, distance.least, distance.most
    );
    let targets: Vec<Target<'_>> = one.into_iter().zip(two).flat_map(|(one, two)| [one, two]).collect();
    figures.tables.push(table(&about, &targets, &runs)?);
    Ok(figures)
}

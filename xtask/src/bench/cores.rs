//! Two processors instead of one.
//!
//! On a machine of two, the load generator and the backend need theirs as well. So in one case all three share one
//! processor, in the other all three share two: then twice the calls is the most that can be, whatever the parts take.

use super::figures::{Figures, Goal, Unit};
use super::load::{ROUNDS, Runs, Shape, Target};
use super::stage::{ANY, ONE, Server, Stage};
use super::throughput::{WAYS, table};

const NAMES: [[&str; 2]; 3] = [
    ["nginx, one processor for all", "nginx, two"],
    ["`POST /tools`, one processor for all", "`POST /tools`, two"],
    ["`POST /mcp` in a session, one processor for all", "`POST /mcp` in a session, two"],
];

struct Half {
    cpus: Option<&'static str>,
    mock: Server,
    nginx: Server,
    gateway: Server,
}

impl Half {
    fn start(stage: &Stage, cpus: Option<&'static str>) -> anyhow::Result<Self> {
        let mock = stage.mock(cpus, 1, &[])?;
        let nginx = stage.nginx(cpus, &mock)?;
        let gateway = stage.gateway(cpus, &[("MCP_URLS", mock.url("/mcp"))])?;
        Ok(Self { cpus, mock, nginx, gateway })
    }

    fn targets<'a>(&'a self, stage: &Stage, which: usize) -> Vec<Target<'a>> {
        let way = |index: usize| {
            let (_, mode, path) = WAYS[index];
            Target::gateway(stage, NAMES[index + 1][which], mode, path, [&self.gateway, &self.mock])
        };
        vec![Target::plain(NAMES[0][which], "mcp", "/mcp", [&self.nginx, &self.mock]), way(0), way(1)]
    }
}

/// Throughput with two compared with one.
pub fn cores(stage: &Stage) -> anyhow::Result<Figures> {
    let halves = [Half::start(stage, ONE)?, Half::start(stage, ANY)?];
    let [one, two] = [0, 1].map(|which: usize| halves[which].targets(stage, which));
    let mut runs = Runs::default();
    for _ in 0..ROUNDS {
        for (half, target) in one.iter().zip(&two).flat_map(|(one, two)| [(&halves[0], one), (&halves[1], two)]) {
            let shape = Shape { connections: 64, seconds: 1.5, cpus: half.cpus };
            runs.push(target.name, target.measure(stage, shape)?);
        }
    }
    let mut figures = Figures::default();
    for ([one, two], (name, _, _)) in NAMES[1..].iter().zip(WAYS) {
        let what = format!("{name}, two processors vs one");
        let measured = runs.ratio([two, one], |run| run.rps)?;
        figures.goals.push(Goal { what, unit: Unit::Ratio, must: 1.6, aim: 1.85, measured });
    }
    let nginx = runs.ratio([NAMES[0][1], NAMES[0][0]], |run| run.rps)?;
    let about = format!(
        "64 connections; the load generator, the backend and the target share one processor, or they share two: 2 is the \
         most that can be. nginx with a worker for each processor gains {:.2} ({:.2} – {:.2}) in the same way.",
        nginx.median, nginx.least, nginx.most
    );
    let targets: Vec<Target<'_>> = one.into_iter().zip(two).flat_map(|(one, two)| [one, two]).collect();
    figures.tables.push(table(&about, &targets, &runs)?);
    Ok(figures)
}

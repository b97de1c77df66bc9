//! The load generator: one measurement of one target, and rounds in which targets take turns.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;
use serde_json::Value;

use super::process::{Process, Start};
use super::stage::{Server, Stage};
use super::statistics::Spread;

/// How often each target is measured.
pub const ROUNDS: usize = 5;

/// Seconds of calls before it is measured.
const WARMUP: f64 = 0.2;

/// For the load generator to open its connections, besides the time in which it measures.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is called, and whose CPU time counts.
#[derive(Debug)]
pub struct Target<'a> {
    /// In tables, too.
    pub name: &'static str,
    /// What is measured.
    pub server: &'a Server,
    /// What it sends the calls on to.
    pub backend: &'a Server,
    /// For `mcp-load`: mode, URL, and so on.
    pub flags: Vec<String>,
}

/// How it is called.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Each with one call at a time.
    pub connections: usize,
    /// Measured.
    pub seconds: f64,
    /// Processors of the load generator.
    pub cpus: Option<&'static str>,
}

/// What `mcp-load` has measured.
#[derive(Clone, Debug, Deserialize)]
pub struct Run {
    /// Calls answered as they should, each second.
    pub rps: f64,
    /// Half of the answers came faster.
    pub p50_ms: f64,
    /// All but a hundredth of the answers came faster.
    pub p99_ms: f64,
    /// Of the target.
    pub server_cpu_us_per_call: f64,
    /// Of what is behind it.
    pub backend_cpu_us_per_call: f64,
    /// Of the load generator itself.
    pub load_cpu_us_per_call: f64,
    /// What else used the machine meanwhile.
    pub foreign_cpu_fraction: f64,
}

/// All runs of some rounds, by the target's name.
#[derive(Debug, Default)]
pub struct Runs(BTreeMap<&'static str, Vec<Run>>);

impl<'a> Target<'a> {
    /// Calls with a token, as a gateway wants it.
    pub fn gateway(stage: &Stage, name: &'static str, mode: &str, path: &str, to: [&'a Server; 2]) -> Self {
        let mut target = Self::plain(name, mode, path, to);
        target.flags.extend(["--token".to_owned(), stage.token.clone()]);
        target
    }

    /// Calls without one.
    pub fn plain(name: &'static str, mode: &str, path: &str, [server, backend]: [&'a Server; 2]) -> Self {
        let flags = ["--mode", mode, "--url", &server.url(path)].map(str::to_owned).to_vec();
        Self { name, server, backend, flags }
    }

    /// With more flags.
    pub fn with(mut self, flags: &[&str]) -> Self {
        self.flags.extend(flags.iter().map(|&flag| flag.to_owned()));
        self
    }

    /// Measures once.
    ///
    /// # Errors
    /// If a single call fails.
    pub fn measure(&self, stage: &Stage, shape: Shape) -> anyhow::Result<Run> {
        let run: Run = serde_json::from_value(self.line(stage, shape)?)?;
        stage.foreign.borrow_mut().push(run.foreign_cpu_fraction);
        self.server.process.forget_log()?;
        eprintln!(
            "  {:3} connections, {}: {:.0} calls/s, p99 {:.2} ms, {:.1} µs CPU",
            shape.connections, self.name, run.rps, run.p99_ms, run.server_cpu_us_per_call
        );
        Ok(run)
    }

    /// What `mcp-load` tells.
    ///
    /// # Errors
    /// If a single call fails.
    pub fn line(&self, stage: &Stage, shape: Shape) -> anyhow::Result<Value> {
        let program = stage.programs.kit.join("mcp-load");
        let arguments = self.arguments(shape);
        let start = Start { name: "mcp-load", cpus: shape.cpus, program: &program, arguments, environment: vec![] };
        let limit = Duration::from_secs_f64(shape.seconds) + PATIENCE;
        let text = Process::start(start, stage.folder.path())?.finish(limit).context(self.name)?;
        let line: Value = serde_json::from_str(&text).with_context(|| format!("{}: {text}", self.name))?;
        writeln!(stage.lines.borrow_mut(), "{line}")?;
        Ok(line)
    }

    fn arguments(&self, shape: Shape) -> Vec<String> {
        let own = [
            ("--label", self.name.to_owned()),
            ("--warmup", WARMUP.to_string()),
            ("--concurrency", shape.connections.to_string()),
            ("--duration", shape.seconds.to_string()),
            ("--pid", self.server.process.pid().to_string()),
        ];
        let mut all: Vec<String> = own.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
        if self.backend.port != self.server.port {
            all.extend(["--backend-pid".to_owned(), self.backend.process.pid().to_string()]);
        }
        all.extend(self.flags.iter().cloned());
        all
    }
}

/// Measures all targets, one after the other, and that several times: what disturbs the machine for a while then
/// disturbs all of them.
pub fn rounds(stage: &Stage, shape: Shape, targets: &[Target<'_>]) -> anyhow::Result<Runs> {
    so_many_rounds(ROUNDS, stage, shape, targets)
}

/// The same so many times.
pub fn so_many_rounds(count: usize, stage: &Stage, shape: Shape, targets: &[Target<'_>]) -> anyhow::Result<Runs> {
    let mut runs = Runs::default();
    for _ in 0..count {
        for target in targets {
            runs.0.entry(target.name).or_default().push(target.measure(stage, shape)?);
        }
    }
    Ok(runs)
}

impl Runs {
    /// Adds one.
    pub fn push(&mut self, name: &'static str, run: Run) {
        self.0.entry(name).or_default().push(run);
    }

    /// A number of all runs of a target.
    pub fn of(&self, name: &str, number: impl Fn(&Run) -> f64) -> anyhow::Result<Spread> {
        Spread::of(self.all(name).iter().map(number)).with_context(|| format!("{name} was not measured"))
    }

    /// A number of a target and the same of another in the same round, as `combine` wants them.
    pub fn both(
        &self,
        [name, other]: [&str; 2],
        number: impl Fn(&Run) -> f64,
        combine: impl Fn(f64, f64) -> f64,
    ) -> anyhow::Result<Spread> {
        let pairs = self.all(name).iter().zip(self.all(other));
        let combined = pairs.map(|(one, another)| combine(number(one), number(another)));
        Spread::of(combined).with_context(|| format!("{name} and {other} were not measured"))
    }

    /// The ratio of both, in each round.
    pub fn ratio(&self, names: [&str; 2], number: impl Fn(&Run) -> f64) -> anyhow::Result<Spread> {
        self.both(names, number, |one, other| one / other)
    }

    fn all(&self, name: &str) -> &[Run] {
        self.0.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(rps: f64) -> Run {
        let line = serde_json::json!({"rps": rps, "p50_ms": 1, "p99_ms": 2, "server_cpu_us_per_call": 3.5,
            "backend_cpu_us_per_call": 0, "load_cpu_us_per_call": 0, "foreign_cpu_fraction": 0,
            "more": "is passed over"});
        serde_json::from_value(line).unwrap()
    }

    #[test]
    fn ratios_are_made_within_each_round() {
        let mut runs = Runs::default();
        for (one, other) in [(50.0, 100.0), (30.0, 100.0), (20.0, 20.0)] {
            runs.push("one", run(one));
            runs.push("other", run(other));
        }
        let wanted = Spread { median: 0.5, least: 0.3, most: 1.0 };
        assert_eq!(runs.ratio(["one", "other"], |run| run.rps).unwrap(), wanted);
        assert_eq!(runs.of("one", |run| run.rps).unwrap(), Spread { median: 30.0, least: 20.0, most: 50.0 });
        assert_eq!(runs.of("none", |run| run.rps).unwrap_err().to_string(), "none was not measured");
    }
}

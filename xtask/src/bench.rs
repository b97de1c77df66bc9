//! `cargo xtask bench`: measures the gateway against nginx, and writes docs/performance.md.
//!
//! A part of it (`--only`) or another build (`--binary`) is measured and printed, the page stays as it is.

mod changes;
mod cores;
mod distance;
mod figures;
mod http;
mod latency;
mod load;
mod machine;
mod many;
mod memory;
mod page;
mod policies;
mod process;
mod results;
mod servers;
mod stage;
mod statistics;
mod throughput;
mod tls;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use self::figures::Figures;
use self::stage::Stage;
use crate::command::Bench;
use crate::generate::repository;

/// Nothing is begun later than this.
const LONGEST: Duration = Duration::from_secs(15 * 60);

type Measure = fn(&Stage) -> anyhow::Result<Figures>;

/// All parts, by the name that `--only` takes.
const PARTS: [(&str, Measure); 12] = [
    ("throughput", throughput::throughput),
    ("tail", throughput::tail),
    ("latency", latency::added),
    ("results", results::long_results),
    ("cores", cores::cores),
    ("memory", memory::memory),
    ("many", many::call_among_many),
    ("lists", many::lists),
    ("changes", changes::changes),
    ("tls", tls::https),
    ("policies", policies::calls),
    ("many-policies", policies::many),
];

/// The names of all parts.
pub(crate) fn part_names() -> Vec<&'static str> {
    PARTS.iter().map(|(name, _)| *name).collect()
}

/// Builds what is needed, measures, and writes or prints the figures.
///
/// # Errors
/// When something is missing, or a part fails twice.
pub fn run(options: &Bench) -> anyhow::Result<ExitCode> {
    let programs = stage::programs(options.binary.as_deref())?;
    let about = machine::about(&programs)?;
    let stage = Stage::new(programs)?;
    let mut all = Vec::new();
    for (name, measure) in PARTS.iter().filter(|(name, _)| wants(options, name)) {
        ensure!(stage.age() < LONGEST, "it takes longer than {LONGEST:?}");
        eprintln!("{name}, after {} s", stage.age().as_secs());
        let figures = measure(&stage).or_else(|error| {
            eprintln!("{name} failed, once more: {error:#}");
            measure(&stage)
        });
        all.push(figures.with_context(|| (*name).to_owned())?);
    }
    let text = format!("{about}\n{}\n\n{}", quiet(&stage), figures::markdown(&all));
    if *options != Bench::default() {
        println!("{text}");
        return Ok(ExitCode::SUCCESS);
    }
    let path = repository().join("docs/performance.md");
    let page = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    std::fs::write(&path, page::with_figures(&page, &text)?).with_context(|| path.display().to_string())?;
    eprintln!("docs/performance.md is written, after {} s", stage.age().as_secs());
    Ok(ExitCode::SUCCESS)
}

/// How much the machine had to do besides.
fn quiet(stage: &Stage) -> String {
    let foreign = stage.foreign.borrow();
    let percent = |share: f64| share * 100.0;
    match statistics::Spread::of(foreign.iter().copied().map(percent)) {
        None => String::new(),
        Some(spread) => format!(
            "Others used {:.0} % of the machine meanwhile (median of {} measurements; most: {:.0} %).",
            spread.median,
            foreign.len(),
            spread.most
        ),
    }
}

fn wants(options: &Bench, part: &str) -> bool {
    options.only.is_empty() || options.only.iter().any(|name| name == part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_are_measured_unless_some_are_named() {
        let some = Bench { only: vec!["tail".into()], binary: None };
        assert!(wants(&some, "tail") && !wants(&some, "lists"));
        assert!(wants(&Bench::default(), "lists"));
    }
}

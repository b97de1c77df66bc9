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
mod process;
mod results;
mod servers;
mod stage;
mod statistics;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use self::figures::Figures;
use self::stage::Stage;
use crate::generate::repository;

/// Nothing is begun later than this.
const LONGEST: Duration = Duration::from_secs(15 * 60);

type Measure = fn(&Stage) -> anyhow::Result<Figures>;

/// All parts, by the name that `--only` takes.
const PARTS: [(&str, Measure); 9] = [
    ("throughput", throughput::throughput),
    ("tail", throughput::tail),
    ("latency", latency::added),
    ("results", results::long_results),
    ("cores", cores::cores),
    ("memory", memory::memory),
    ("many", many::call_among_many),
    ("lists", many::lists),
    ("changes", changes::changes),
];

#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    only: Vec<String>,
    binary: Option<PathBuf>,
}

/// Builds what is needed, measures, and writes or prints the figures.
///
/// # Errors
/// When something is missing, or a part fails twice.
pub fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let options = Options::read(arguments)?;
    let programs = stage::programs(options.binary.as_deref())?;
    let about = machine::about(&programs)?;
    let stage = Stage::new(programs)?;
    let mut all = Vec::new();
    for (name, measure) in PARTS.iter().filter(|(name, _)| options.wants(name)) {
        ensure!(stage.age() < LONGEST, "it takes longer than {LONGEST:?}");
        eprintln!("{name}, after {} s", stage.age().as_secs());
        let figures = measure(&stage).or_else(|error| {
            eprintln!("{name} failed, once more: {error:#}");
            measure(&stage)
        });
        all.push(figures.with_context(|| (*name).to_owned())?);
    }
    let text = format!("{about}\n{}\n\n{}", quiet(&stage), figures::markdown(&all));
    if options != Options::default() {
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

impl Options {
    fn read(arguments: &[String]) -> anyhow::Result<Self> {
        let mut options = Self::default();
        let mut arguments = arguments.iter();
        while let Some(flag) = arguments.next() {
            let value = arguments.next().with_context(|| format!("{flag} needs a value"))?;
            match flag.as_str() {
                "--only" => options.only.extend(value.split(',').map(str::to_owned)),
                "--binary" => options.binary = Some(value.into()),
                _ => bail!("{flag} is unknown: there are --only PART,PART and --binary PATH"),
            }
        }
        let unknown = options.only.iter().find(|name| !PARTS.iter().any(|(part, _)| part == name));
        if let Some(unknown) = unknown {
            let names: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
            bail!("there is no part {unknown}, but {}", names.join(", "));
        }
        Ok(options)
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|name| name == part)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(arguments: &[&str]) -> Result<Options, String> {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        Options::read(&arguments).map_err(|error| error.to_string())
    }

    #[test]
    fn parts_and_another_build_can_be_named() {
        let options = read(&["--only", "tail,throughput", "--binary", "/tmp/x"]).unwrap();
        let only = vec!["tail".to_owned(), "throughput".to_owned()];
        assert_eq!(options, Options { only, binary: Some("/tmp/x".into()) });
        assert!(options.wants("tail"));
        assert_eq!(read(&[]), Ok(Options::default()));
    }

    #[test]
    fn what_is_not_there_is_told_with_what_is() {
        assert!(read(&["--only", "speed"]).unwrap_err().starts_with("there is no part speed, but throughput, tail"));
        assert_eq!(read(&["--binary"]).unwrap_err(), "--binary needs a value");
        assert_eq!(read(&["-x", "y"]).unwrap_err(), "-x is unknown: there are --only PART,PART and --binary PATH");
    }
}

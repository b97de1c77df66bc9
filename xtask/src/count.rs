//! `cargo xtask count`: how many instructions the gateway takes for a call, and whether they are more than committed.
//!
//! Times cannot be tested on machines that do other things too. Instructions can: they are the same every time.

mod backend;
mod figures;
mod http;
mod kinds;
mod measure;
mod process;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, ensure};

use self::figures::Figures;
use crate::command::Count;
use crate::generate::{repository, target};
use crate::process::cargo;

/// The profile of what is counted.
const PROFILE: &str = "dist";

/// Where the figures are kept.
const FILE: &str = "xtask/instructions.txt";

/// Counts and compares, or counts and keeps the figures with `--write`. `--binary PATH` takes a gateway that is built.
///
/// # Errors
/// When something cannot be built, run, or read; more instructions than allowed are the exit code 1.
pub fn run(options: Count) -> anyhow::Result<ExitCode> {
    let path = repository().join(FILE);
    // First, because building takes minutes.
    let committed = if options.write { None } else { Some(committed(&path)?) };
    let folder = target().join("count");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let counted = count(&options.binary.map_or_else(build, Ok)?, &folder)?;
    let Some(committed) = committed else {
        std::fs::write(&path, counted.to_string()).with_context(|| path.display().to_string())?;
        print!("{counted}");
        return Ok(ExitCode::SUCCESS);
    };
    print!("{}", figures::table(&counted, &committed, &kinds::SURCHARGES));
    println!("where they are spent: callgrind_annotate {}/KIND.callgrind.2", folder.display());
    let problems = figures::problems(&counted, &committed, &kinds::SURCHARGES, FILE);
    problems.iter().for_each(|problem| eprintln!("count: {problem}"));
    Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn committed(path: &Path) -> anyhow::Result<Figures> {
    let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
    Figures::read(&text).context(FILE)
}

fn count(binary: &Path, folder: &Path) -> anyhow::Result<Figures> {
    let mut counted = Figures::new(PROFILE, std::env::consts::ARCH);
    for kind in kinds::ALL {
        let instructions = measure::per_call(binary, folder, kind).with_context(|| format!("counting {}", kind.name));
        counted.add(kind.name, instructions?);
    }
    Ok(counted)
}

/// Builds the gateway alone: the features of its dependencies are those of the image then.
fn build() -> anyhow::Result<PathBuf> {
    let mut cargo = cargo();
    cargo.args(["build", "--quiet", "--locked", "--profile", PROFILE, "--package", "portcullis-gateway"]);
    ensure!(cargo.status().context("starting cargo")?.success(), "the gateway cannot be built");
    Ok(target().join(Path::new(PROFILE)).join("portcullis-gateway"))
}

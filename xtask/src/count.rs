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
use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use self::figures::Figures;
use crate::generate::{repository, target};

/// The profile of what is counted.
const PROFILE: &str = "dist";

/// Where the figures are kept.
const FILE: &str = "xtask/instructions.txt";

/// What is asked for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Wish {
    /// Keep what is counted, instead of comparing with it.
    write: bool,
    /// Count this program, instead of building one.
    binary: Option<PathBuf>,
}

/// Counts and compares, or counts and keeps the figures with `--write`. `--binary PATH` takes a gateway that is built.
///
/// # Errors
/// When something cannot be built, run, or read; more instructions than allowed are the exit code 1.
pub fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let wish = Wish::of(arguments)?;
    let path = repository().join(FILE);
    // First, because building takes minutes.
    let committed = if wish.write { None } else { Some(committed(&path)?) };
    let folder = target().join("count");
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    let counted = count(&wish.binary.map_or_else(build, Ok)?, &folder)?;
    let Some(committed) = committed else {
        std::fs::write(&path, counted.to_string()).with_context(|| path.display().to_string())?;
        print!("{counted}");
        return Ok(ExitCode::SUCCESS);
    };
    print!("{}", figures::table(&counted, &committed));
    println!("where they are spent: callgrind_annotate {}/KIND.callgrind.2", folder.display());
    let problems = figures::problems(&counted, &committed, FILE);
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
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--profile", PROFILE, "--package", "portcullis-gateway"]);
    ensure!(
        cargo.current_dir(repository()).status().context("starting cargo")?.success(),
        "the gateway cannot be built"
    );
    Ok(target().join(Path::new(PROFILE)).join("portcullis-gateway"))
}

// === impl Wish ===

impl Wish {
    fn of(arguments: &[String]) -> anyhow::Result<Self> {
        let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match words[..] {
            [] => Ok(Self::default()),
            ["--write"] => Ok(Self { write: true, binary: None }),
            ["--binary", path] => Ok(Self { write: false, binary: Some(path.into()) }),
            // The figures kept must be those of the profile that they are said to be of.
            _ => bail!("usage: cargo xtask count [--write | --binary GATEWAY]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_of_a_foreign_binary_are_never_kept() {
        let wish = |words: &[&str]| Wish::of(&words.iter().map(ToString::to_string).collect::<Vec<_>>()).ok();

        assert_eq!(wish(&[]), Some(Wish::default()));
        assert_eq!(wish(&["--write"]), Some(Wish { write: true, binary: None }));
        assert_eq!(wish(&["--binary", "a"]), Some(Wish { write: false, binary: Some("a".into()) }));
        assert_eq!((wish(&["--write", "--binary", "a"]), wish(&["--binary"]), wish(&["x"])), (None, None, None));
    }
}

//! The command line of `cargo xtask`.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::{bench, fuzz};

/// The project's chores: check, test, generate, measure.
#[derive(Debug, PartialEq, Eq, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
pub struct Cli {
    /// The chore.
    #[command(subcommand)]
    pub chore: Chore,
}

/// The chores.
#[derive(Debug, PartialEq, Eq, Subcommand)]
pub enum Chore {
    /// Check the code in two minutes: format, clippy, documentation, generated files, unit tests, dependencies, scripts
    ///
    /// Stops at the first check that fails. The end names the checks whose tools this machine lacks. `.ci/run check` runs
    /// the same checks.
    Check {
        /// Install the tools first: shellcheck (as root on Debian), cargo-deny, and actionlint where Go is installed
        #[arg(long)]
        everything: bool,
    },
    /// Run the tests that this machine can run, and name the others before and after
    ///
    /// Installs the real MCP servers first if node, npm and python3 exist. Uses a cluster if there is one
    /// (`cargo xtask cluster`).
    Test(Test),
    /// Write the generated files
    Generate {
        /// Write nothing; fail if a file is not up to date
        #[arg(long)]
        check: bool,
    },
    /// Count the instructions that the gateway executes for a call, and compare them with xtask/instructions.txt
    ///
    /// Needs valgrind. docs/performance.md says how the instructions are counted.
    Count(Count),
    /// Install the real MCP servers and clients that the tests use, in 2 minutes
    ///
    /// Needs node and npm, python3 with venv, and access to npm and PyPI. They go to ~/.cache/portcullis/real-servers, or
    /// to the folder that PORTCULLIS_REAL_SERVERS names. Skips everything that is up to date.
    RealServers,
    /// Build the Kubernetes that the tests use: 15 minutes, once
    ///
    /// Needs Go 1.26 or later and python3 with pip; as root on Debian, it installs the packages that it needs.
    Cluster,
    /// Build the images that run in the cluster, and print their archives
    ///
    /// Needs root, buildah, and the real servers. Skips everything that is up to date.
    Images,
    /// Measure speed and memory in comparison with nginx, and write docs/performance.md
    ///
    /// With --only or --binary, prints the figures and leaves the page as it is.
    Bench(Bench),
    /// Give conditions, claims, policies and texts to search to libFuzzer for a while, which looks for input that breaks a rule
    ///
    /// Needs a C++ compiler, and no other toolchain. What it has learnt stays in the target folder for the next time.
    Fuzz(Fuzz),
}

/// The options of `test`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Test {
    /// Set up all that the tests need, then run all of them; as root on Debian
    ///
    /// Installs Debian packages, Go and Node.js where they are missing or too old, real servers, a Kubernetes, and images.
    /// The first time takes half an hour before the tests begin. Nothing is skipped: what is missing fails.
    #[arg(long)]
    pub everything: bool,
    /// Fail if a test is skipped
    #[arg(long)]
    pub no_skips: bool,
    /// Arguments of `cargo test`, such as `--test faults`; the options above come before them
    #[arg(value_name = "ARGUMENT OF CARGO TEST", num_args = 0.., allow_hyphen_values = true)]
    cargo: Vec<String>,
    /// Arguments of the test programs, such as `--nocapture`
    #[arg(value_name = "ARGUMENT OF THE TESTS", last = true)]
    programs: Vec<String>,
}

impl Test {
    /// The arguments for `cargo test`.
    pub fn cargo(&self) -> Vec<&str> {
        let mut all: Vec<&str> = self.cargo.iter().map(String::as_str).collect();
        if !self.programs.is_empty() {
            all.push("--");
            all.extend(self.programs.iter().map(String::as_str));
        }
        all
    }
}

/// The options of `count`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Count {
    /// Write the counts to xtask/instructions.txt instead of comparing them
    #[arg(long)]
    pub write: bool,
    /// Count this gateway instead of building one
    // The figures kept must be those of the profile that they are said to be of.
    #[arg(long, value_name = "GATEWAY", conflicts_with = "write")]
    pub binary: Option<PathBuf>,
}

/// The options of `bench`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Bench {
    /// Measure only these parts
    #[arg(long, value_name = "PART", value_delimiter = ',', value_parser = bench::part_names())]
    pub only: Vec<String>,
    /// Measure this gateway instead of building one
    #[arg(long, value_name = "GATEWAY")]
    pub binary: Option<PathBuf>,
}

/// The options of `fuzz`.
#[derive(Debug, Default, PartialEq, Eq, Args)]
pub struct Fuzz {
    /// Only these targets
    #[arg(value_name = "TARGET", value_parser = fuzz::target_names())]
    pub targets: Vec<String>,
    /// For each target
    #[arg(long, default_value_t = 60)]
    pub seconds: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;
    use clap::error::ErrorKind;

    use super::*;

    fn read(line: &str) -> Result<Chore, ErrorKind> {
        let words = line.split_whitespace();
        Cli::try_parse_from(["cargo xtask"].into_iter().chain(words)).map(|it| it.chore).map_err(|error| error.kind())
    }

    #[test]
    fn arguments_of_cargo_test_are_passed_on_as_they_are() {
        for (line, everything, no_skips, cargo) in [
            ("", false, false, ""),
            ("--test faults", false, false, "--test faults"),
            ("--lib a_name -- --nocapture", false, false, "--lib a_name -- --nocapture"),
            ("-p x --features y", false, false, "-p x --features y"),
            ("--no-skips --release", false, true, "--release"),
            ("--everything --no-skips", true, true, ""),
            ("--test node --everything", false, false, "--test node --everything"),
            ("--test node -- --no-skips --help", false, false, "--test node -- --no-skips --help"),
            ("-- --nocapture", false, false, "-- --nocapture"),
        ] {
            let Ok(Chore::Test(test)) = read(&format!("test {line}")) else { panic!("{line}") };
            let read = (test.everything, test.no_skips, test.cargo().join(" "));
            assert_eq!(read, (everything, no_skips, cargo.to_owned()), "{line}");
        }
    }

    #[test]
    fn figures_of_a_foreign_binary_are_never_kept() {
        let count = |write, binary: Option<&str>| Ok(Chore::Count(Count { write, binary: binary.map(Into::into) }));
        assert_eq!(read("count"), count(false, None));
        assert_eq!(read("count --write"), count(true, None));
        assert_eq!(read("count --binary a"), count(false, Some("a")));
        assert_eq!(read("count --write --binary a"), Err(ErrorKind::ArgumentConflict));
    }

    #[test]
    fn parts_of_the_benchmark_are_named_and_others_refused() {
        let only = vec!["tail".to_owned(), "throughput".to_owned()];
        let bench = Bench { only, binary: Some("/tmp/x".into()) };
        assert_eq!(read("bench --only tail,throughput --binary /tmp/x"), Ok(Chore::Bench(bench)));
        assert_eq!(read("bench"), Ok(Chore::Bench(Bench::default())));
        assert_eq!(read("bench --only speed"), Err(ErrorKind::InvalidValue));
    }

    #[test]
    fn targets_of_the_fuzzer_are_named_and_others_refused() {
        let fuzz = |targets: &[&str], seconds| {
            Ok(Chore::Fuzz(Fuzz { targets: targets.iter().map(|&name| name.to_owned()).collect(), seconds }))
        };
        assert_eq!(read("fuzz"), fuzz(&[], 60));
        assert_eq!(read("fuzz policy --seconds 5"), fuzz(&["policy"], 5));
        assert_eq!(read("fuzz everything"), Err(ErrorKind::InvalidValue));
    }

    #[test]
    fn chores_without_arguments_take_none() {
        assert_eq!(read("generate --check"), Ok(Chore::Generate { check: true }));
        assert_eq!(read("check --everything"), Ok(Chore::Check { everything: true }));
        for chore in ["check", "generate", "real-servers", "cluster", "images"] {
            assert!(read(chore).is_ok(), "{chore}");
            assert_eq!(read(&format!("{chore} --wrong")), Err(ErrorKind::UnknownArgument), "{chore}");
        }
        assert_eq!(read("speed"), Err(ErrorKind::InvalidSubcommand));
        assert_eq!(read(""), Err(ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand));
    }

    #[test]
    fn every_chore_explains_itself() {
        Cli::command().debug_assert();
        assert_eq!(read("--help"), Err(ErrorKind::DisplayHelp));
        for chore in Cli::command().get_subcommands() {
            assert!(chore.get_about().is_some(), "{}", chore.get_name());
            assert_eq!(read(&format!("{} --help", chore.get_name())), Err(ErrorKind::DisplayHelp));
        }
    }
}

//! `cargo xtask check`: all that can be checked without servers, a cluster or minutes of tests.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Instant;

use anyhow::ensure;

use crate::generate::{self, repository};
use crate::packages;
use crate::process::{cargo, command, run as run_command};
use crate::skip::Skip;
use crate::steps::{self, Outcome, Step};
use crate::tools;

/// The scripts that shellcheck reads, by folder: the cluster's name each other from theirs.
const SCRIPTS: [(&str, &[&str]); 2] = [
    ("", &[".ci/run", "e2e/image-build", "e2e/image-check", "e2e/real/pack"]),
    ("e2e/cluster", &["cluster", "self-test", "lib/*.sh", "lib/node-init"]),
];

const INSTALL: [Step; 3] = [
    Step { name: "install: shellcheck", usually: "1 s", run: || packages::install(&[packages::SHELLCHECK]) },
    Step { name: "install: cargo-deny", usually: "1 s, the first time 5 minutes", run: tools::install_deny },
    Step { name: "install: actionlint", usually: "1 s, the first time 1 minute", run: tools::install_actionlint },
];

const CHECKS: [Step; 9] = [
    Step { name: "format", usually: "2 s", run: format },
    Step { name: "clippy", usually: "30 s", run: clippy },
    Step { name: "documentation", usually: "20 s", run: documentation },
    Step { name: "generated files", usually: "20 s", run: generated },
    Step { name: "unit tests", usually: "30 s", run: unit_tests },
    Step { name: "dependencies", usually: "2 s", run: dependencies },
    Step { name: "advisories", usually: "2 s", run: advisories },
    Step { name: "scripts", usually: "5 s", run: scripts },
    Step { name: "workflows", usually: "1 s", run: workflows },
];

/// Runs all checks up to the first that fails, and says which could not be run. `everything` installs their tools first.
///
/// # Errors
/// Names the check that failed.
pub fn run(everything: bool) -> anyhow::Result<ExitCode> {
    let began = Instant::now();
    if everything {
        steps::run(&INSTALL)?;
    }
    let skips = steps::run(&CHECKS)?;
    println!("{}", verdict(&skips, everything, began.elapsed().as_secs()));
    Ok(ExitCode::SUCCESS)
}

fn verdict(skips: &[Skip], everything: bool, seconds: u64) -> String {
    let mut text: String = skips.iter().map(|skip| format!("not run: {skip}\n")).collect();
    if !skips.is_empty() && !everything {
        text += "cargo xtask check --everything installs the tools first\n";
    }
    text + &format!("all that was checked is well, after {seconds} s; cargo xtask test runs the other tests")
}

fn done(command: &mut Command) -> anyhow::Result<Outcome> {
    run_command(command)?;
    Ok(Outcome::Done)
}

fn format() -> anyhow::Result<Outcome> {
    done(cargo().args(["fmt", "--all", "--check"]))
}

fn clippy() -> anyhow::Result<Outcome> {
    done(cargo().args(["clippy", "--quiet", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn documentation() -> anyhow::Result<Outcome> {
    let mut doc = cargo();
    doc.args(["doc", "--quiet", "--locked", "--no-deps", "--workspace"]);
    done(doc.env("RUSTDOCFLAGS", "-D warnings"))
}

fn generated() -> anyhow::Result<Outcome> {
    ensure!(generate::run(false)? == ExitCode::SUCCESS, "run cargo xtask generate and commit what it changes");
    Ok(Outcome::Done)
}

fn unit_tests() -> anyhow::Result<Outcome> {
    done(cargo().args(["test", "--quiet", "--locked", "--workspace", "--lib", "--bins"]))
}

fn deny() -> Command {
    let mut deny = command("cargo-deny");
    deny.args(["--log-level", "error", "check"]).current_dir(repository());
    deny
}

fn dependencies() -> anyhow::Result<Outcome> {
    if !tools::present("cargo-deny") {
        return Ok(Outcome::NotRun("cargo-deny is not installed".into()));
    }
    done(deny().args(["bans", "licenses", "sources"]))
}

fn advisories() -> anyhow::Result<Outcome> {
    let home = std::env::var_os("HOME").map_or_else(PathBuf::new, PathBuf::from);
    let cargo_home = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    if !tools::present("cargo-deny") || !cargo_home.join("advisory-dbs").is_dir() {
        return Ok(Outcome::NotRun("their database is not on this machine: run `cargo deny fetch db`".into()));
    }
    done(deny().args(["--disable-fetch", "advisories"]))
}

fn scripts() -> anyhow::Result<Outcome> {
    if !tools::present("shellcheck") {
        return Ok(Outcome::NotRun("shellcheck is not installed".into()));
    }
    for (folder, files) in SCRIPTS {
        // The shell finds what `*` stands for.
        let line = format!("shellcheck --external-sources {}", files.join(" "));
        run_command(command("sh").args(["-c", &line]).current_dir(repository().join(folder)))?;
    }
    Ok(Outcome::Done)
}

fn workflows() -> anyhow::Result<Outcome> {
    if !tools::present("actionlint") {
        return Ok(Outcome::NotRun("actionlint is not installed".into()));
    }
    done(command("actionlint").arg("-no-color").current_dir(repository()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_says_what_was_not_run_and_how_to_run_it() {
        let skips = [Skip { what: "scripts", reason: "shellcheck is not installed".into() }];
        let end = "all that was checked is well, after 7 s; cargo xtask test runs the other tests";
        let hint = "cargo xtask check --everything installs the tools first";

        assert_eq!(verdict(&[], false, 7), end);
        assert_eq!(verdict(&skips, false, 7), format!("not run: scripts: shellcheck is not installed\n{hint}\n{end}"));
        assert_eq!(verdict(&skips, true, 7), format!("not run: scripts: shellcheck is not installed\n{end}"));
    }

    #[test]
    fn every_script_that_is_checked_exists() {
        for (folder, files) in SCRIPTS {
            for file in files.iter().filter(|file| !file.contains('*')) {
                assert!(repository().join(folder).join(file).is_file(), "{folder}/{file}");
            }
        }
    }
}

//! `cargo xtask test`: every Rust test, with the real servers in place, and a list of what was skipped.
//!
//! The cluster is used if it is built; building it takes too long to happen by the way.

use std::process::{Command, ExitCode};

use anyhow::Context;

use crate::cluster;
use crate::real_servers::{self, Skip};

/// Runs `cargo test --workspace` with these arguments. `--no-skips` as the first turns every skip into a failure.
pub fn run(arguments: &[String]) -> anyhow::Result<ExitCode> {
    let no_skips = arguments.first().is_some_and(|it| it == "--no-skips");
    let mut skips = real_servers::set_up()?;
    skips.extend(cluster::skips());
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--workspace"]).args(&arguments[usize::from(no_skips)..]);
    cargo.env("PORTCULLIS_SKIP", skips.iter().map(|skip| format!("{skip}\n")).collect::<String>());
    if no_skips {
        cargo.env("PORTCULLIS_NO_SKIPS", "1");
    }
    let passed = cargo.status().context("starting cargo")?.success();
    let verdict = report(&skips, no_skips);
    Ok(if passed { verdict } else { ExitCode::FAILURE })
}

/// Prints the skips; fails if there are any and none is allowed.
pub fn report(skips: &[Skip], no_skips: bool) -> ExitCode {
    for skip in skips {
        println!("skipped: {skip}");
    }
    if no_skips && !skips.is_empty() { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

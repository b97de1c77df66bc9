//! `cargo xtask generate`: writes the files that are made from the code, or finds those that are not up to date.
//!
//! The crates' own tests know how; so this crate needs none of them and stays quick to build.

use std::process::{Command, ExitCode};

use anyhow::Context;

/// Tells those tests to write rather than to compare.
const GENERATE: &str = "PORTCULLIS_GENERATE";

/// Writes the files, or compares them and fails on a difference.
pub fn run(write: bool) -> anyhow::Result<ExitCode> {
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--quiet", "--package", "portcullis-gateway", "--test", "docs", "generated::"]);
    if write {
        cargo.env(GENERATE, "1");
    } else {
        cargo.env_remove(GENERATE);
    }
    let passed = cargo.status().context("starting cargo")?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

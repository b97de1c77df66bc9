//! `cargo xtask generate`: writes the files that are made from the code, or finds those that are not up to date.
//!
//! The crates' own tests know how; so this crate needs none of them and stays quick to build.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;

use crate::chart;
use crate::process::cargo;

/// Tells those tests to write rather than to compare.
const GENERATE: &str = "PORTCULLIS_GENERATE";

/// Writes the files, or compares them and fails on a difference.
pub fn run(write: bool) -> anyhow::Result<ExitCode> {
    chart::readme(write)?;
    let mut cargo = cargo();
    // The whole workspace, so that no dependency is compiled with other features than for the tests.
    cargo.args(["test", "--quiet", "--workspace", "--test", "docs", "generated::"]);
    if write {
        cargo.env(GENERATE, "1");
    } else {
        cargo.env_remove(GENERATE);
    }
    let passed = cargo.status().context("starting cargo")?.success();
    Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder of the whole project.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The folder of what cargo builds.
pub fn target() -> PathBuf {
    let root = repository();
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), |folder| root.join(folder))
}

/// Writes a file that is made from the code, or, in an ordinary test, compares it.
///
/// # Panics
/// If it is not what the code says, or cannot be written.
pub fn check(path: &str, text: &str) {
    let file = repository().join(path);
    if std::env::var_os(GENERATE).is_some() {
        let written =
            std::fs::create_dir_all(file.parent().unwrap_or(&file)).and_then(|()| std::fs::write(&file, text));
        return written.unwrap_or_else(|error| panic!("{path} cannot be written: {error}"));
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| there.lines().count().min(text.lines().count())) + 1;
    assert!(there == text, "{path}, line {line}, is not what the code says: run `cargo xtask generate`");
}

//! `cargo xtask fuzz`: gives what hostile input reaches to libFuzzer, for a while.
//!
//! It takes no other toolchain: the compiler's own instrumentation is enough without a sanitizer, which finds nothing in code
//! without `unsafe`.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};

use crate::command::Fuzz;
use crate::generate::{repository, target};
use crate::process::command;

/// All targets, each a program in fuzz/targets.
const TARGETS: [&str; 3] = ["condition", "policy", "search"];

/// What libFuzzer needs of the compiler.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Seconds for one input. The checks have a shorter limit of their own.
const INPUT_LIMIT: u32 = 10;

/// Bytes of an input, which is more than an expression may have.
const MAX_BYTES: u32 = 8192;

/// MiB of memory for all of it.
const MAX_MEMORY: u32 = 2048;

/// The names of all targets.
pub(crate) fn target_names() -> Vec<&'static str> {
    TARGETS.to_vec()
}

/// Runs each target for a while.
///
/// # Errors
/// When one cannot be built, or an input breaks a rule: libFuzzer says which, and keeps it.
pub fn run(options: &Fuzz) -> anyhow::Result<ExitCode> {
    let fuzz = repository().join("fuzz");
    let built = target().join("fuzz");
    let mut cargo = command("cargo");
    // Not locked: what the crates of the project need changes without a word to this workspace.
    // With a platform named, what runs while compiling is not instrumented.
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    cargo.args(["build", "--release", "--target", &platform]).current_dir(&fuzz);
    cargo.env("CARGO_TARGET_DIR", &built).env("RUSTFLAGS", FLAGS);
    ensure!(cargo.status().context("starting cargo")?.success(), "the targets in fuzz cannot be built");
    let programs = built.join(platform).join("release");
    for name in TARGETS.iter().filter(|name| options.targets.is_empty() || options.targets.iter().any(|it| it == *name))
    {
        one(&programs.join(name), &fuzz, &built, (name, options.seconds))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn one(program: &Path, fuzz: &Path, built: &Path, (name, seconds): (&str, u32)) -> anyhow::Result<()> {
    let folder = |kind: &str| -> anyhow::Result<PathBuf> {
        let folder = built.join(kind).join(name);
        std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        Ok(folder)
    };
    let (corpus, found) = (folder("corpus")?, folder("found")?);
    println!("{name}: {seconds} s");
    let mut fuzzer = Command::new(program);
    fuzzer.arg(format!("-max_total_time={seconds}")).arg(format!("-timeout={INPUT_LIMIT}"));
    fuzzer.arg(format!("-max_len={MAX_BYTES}")).arg(format!("-rss_limit_mb={MAX_MEMORY}"));
    fuzzer.arg(format!("-dict={}", fuzz.join(format!("{name}.dict")).display()));
    fuzzer.arg(format!("-artifact_prefix={}/", found.display())).args(["-print_final_stats=1", "-verbosity=0"]);
    fuzzer.arg(&corpus).arg(fuzz.join("seeds").join(name));
    let status = fuzzer.status().with_context(|| program.display().to_string())?;
    ensure!(status.success(), "{name}: an input breaks a rule; it is in {}", found.display());
    Ok(())
}

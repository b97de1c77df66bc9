//! Child processes of the chores.

use std::process::Command;

use anyhow::{Context as _, ensure};

use crate::tools;

/// A command that finds the pinned tools, too.
pub fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env("PATH", tools::path());
    command
}

/// The cargo that runs this chore.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.env("PATH", tools::path()).current_dir(crate::generate::repository());
    command
}

/// Runs a command to its end, with our output.
///
/// # Errors
/// When the command cannot be started or fails.
pub fn run(command: &mut Command) -> anyhow::Result<()> {
    let program = command.get_program().display().to_string();
    let status = command.status().with_context(|| format!("{program} cannot be started"))?;
    ensure!(status.success(), "{program} failed: {status}");
    Ok(())
}

/// The standard output of a command; `None` if the command cannot be started or fails.
pub fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

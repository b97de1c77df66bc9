//! The command line.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use clap_complete::Shell;
use portcullis_runtime::flags;

use crate::config::Options;

/// Reconciles McpServers into the ConfigMaps that the gateway watches
#[derive(Parser)]
#[command(name = "portcullis-operator", version)]
pub struct Cli {
    /// What to do; run if absent
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings
    #[command(flatten)]
    pub options: Options,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Reconcile until a signal to stop
    Run,
    /// Say in the status of McpServers that this installation serves them no more, and end
    Retire,
    /// Print the CustomResourceDefinition of McpServer
    Crd,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

impl Cli {
    /// The command line, in which each subcommand has the flags that it uses.
    pub fn scoped() -> clap::Command {
        flags::scoped(Self::command(), uses)
    }

    /// Reads the arguments of the process.
    ///
    /// # Errors
    /// They cannot be understood, or hold a flag that the subcommand does not use.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        Self::from_arg_matches(&flags::matches(&mut Self::scoped(), uses, arguments)?)
    }
}

fn uses(subcommand: &str, setting: &str) -> bool {
    match subcommand {
        "run" => true,
        "retire" => matches!(setting, "installation" | "namespaces"),
        _ => false,
    }
}

//! The command line.

use clap::{Parser, Subcommand};
use clap_complete::Shell;

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

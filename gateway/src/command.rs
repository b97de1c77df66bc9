//! The command line.

use clap::{Parser, Subcommand};

use crate::config::Options;
use crate::demo::DemoArgs;
use crate::token_command::TokenArgs;

/// One door for many MCP servers: every tool through one address, with one token
#[derive(Parser, Debug)]
#[command(name = "portcullis-gateway", version, subcommand_negates_reqs = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// What to do; without a command, the gateway runs
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings
    #[command(flatten)]
    pub options: Options,
}

/// What to do.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the gateway
    Run,
    /// Try it out: two small MCP servers, the gateway before them, a token, and curl lines to paste
    Demo(DemoArgs),
    /// Write a token to the standard output, signed with the configured secret
    Token(TokenArgs),
    /// Check settings, keys and manifests without starting; exit code 1 and a line for each problem
    Check,
    /// Write a completion script for a shell to the standard output
    Completions {
        /// Which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual page to the standard output
    Man,
}

const AFTER_HELP: &str = "The shared secret of the tokens is read from the variable JWT_SECRET (at least 32 bytes), \
or from a file with --jwt-secret-file; there is no flag for it, because everybody can read flags.";

//! The command line.

use std::ffi::OsString;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use portcullis_runtime::flags;

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
        "run" | "check" => true,
        "token" => OF_TOKENS.contains(&setting),
        _ => false,
    }
}

/// What a token is made with.
const OF_TOKENS: [&str; 5] = ["jwt_secret_file", "jwt_algorithm", "jwt_issuer", "jwt_audience", "jwt_max_lifetime"];

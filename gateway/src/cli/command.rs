//! The command line.

use clap::{Parser, Subcommand};
use portcullis_runtime::flags::Scoped;

use crate::cli::demo::DemoArgs;
use crate::cli::explain::ExplainArgs;
use crate::cli::token::TokenArgs;
use crate::config::Options;

/// One door for many MCP servers: every tool through one address, with one token
#[derive(Parser, Debug)]
#[command(name = "portcullis-gateway", version, subcommand_negates_reqs = true, after_help = AFTER_HELP)]
pub struct Cli {
    /// Command; absent: run
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Settings
    #[command(flatten)]
    pub options: Options,
}

/// The commands of the gateway.
#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the gateway
    Run,
    /// Run a demo: two small MCP servers, the gateway in front of them, a token, and curl commands to paste
    Demo(DemoArgs),
    /// Print a token, signed with the configured secret
    Token(TokenArgs),
    /// Check settings, keys and manifests without starting; print each problem in one line and exit with code 1
    Check,
    /// Explain whether access policies in a folder let somebody use something: exit code 0 yes, 1 no, 2 cannot say
    Explain(ExplainArgs),
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    /// Print the manual page
    Man,
}

const AFTER_HELP: &str = "The gateway reads the shared secret of tokens from the variable JWT_SECRET (at least 32 bytes), \
or from the file of --jwt-secret-file. The secret itself has no flag, because everybody can read flags.";

impl Scoped for Cli {
    fn uses(subcommand: &str, setting: &str) -> bool {
        match subcommand {
            "run" | "check" => true,
            "explain" => OF_POLICIES.contains(&setting),
            "token" => OF_TOKENS.contains(&setting),
            _ => false,
        }
    }
}

/// The settings that an explanation depends on.
const OF_POLICIES: [&str; 2] = ["servers", "policy_default"];

/// The settings that a token depends on.
const OF_TOKENS: [&str; 5] = ["jwt_secret_file", "jwt_algorithm", "jwt_issuer", "jwt_audience", "jwt_max_lifetime"];

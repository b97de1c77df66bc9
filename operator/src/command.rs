//! The command line.

use clap::{Parser, Subcommand};
use clap_complete::Shell;
use portcullis_runtime::flags::Scoped;

use crate::config::OperatorOptions;

/// Reconciles McpServers, McpAccessPolicies and McpViews into the ConfigMaps that the gateway watches
#[derive(Parser)]
#[command(name = "portcullis-operator", version)]
pub struct OperatorCli {
    /// Command; absent: run
    #[command(subcommand)]
    pub command: Option<OperatorCommand>,
    /// Settings
    #[command(flatten)]
    pub options: OperatorOptions,
}

/// The commands of the operator.
#[derive(Subcommand)]
pub enum OperatorCommand {
    /// Reconcile until a signal to stop
    Run,
    /// Mark McpServers as no longer served by this installation, and exit
    Retire,
    /// Print the CustomResourceDefinitions of McpServer, McpAccessPolicy and McpView
    Crd,
    /// Print completions for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Print the manual page
    Man,
}

impl Scoped for OperatorCli {
    fn uses(subcommand: &str, setting: &str) -> bool {
        match subcommand {
            "run" => true,
            "retire" => matches!(setting, "installation" | "namespaces"),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(arguments: &[&str]) -> Option<String> {
        let all = ["portcullis-operator"].iter().chain(arguments).map(Into::into);
        OperatorCli::read(all).err().map(|error| error.to_string().lines().next().unwrap_or_default().to_owned())
    }

    #[test]
    fn a_command_takes_the_flags_that_it_uses_alone() {
        let told = |flag: &str, command: &str| {
            Some(format!("error: unexpected argument '--{flag}' found: {command} does not use it"))
        };
        assert_eq!(refused(&["run", "--home-namespace", "a"]), None);
        assert_eq!(refused(&["retire", "--installation", "a", "--namespaces", "b"]), None);
        assert_eq!(refused(&["retire", "--home-namespace", "a"]), told("home-namespace", "retire"));
        assert_eq!(refused(&["--home-namespace", "a", "crd"]), told("home-namespace", "crd"));
        assert_eq!(refused(&["man", "--installation", "a"]), told("installation", "man"));
    }
}

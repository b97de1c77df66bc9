//! Reads the command line and runs the command.

// A command's reader may be gone: `runtime::print` knows.
#![cfg_attr(not(test), warn(clippy::print_stdout))]

use std::process::ExitCode;

use portcullis_operator::command::{OperatorCli, OperatorCommand};
use portcullis_operator::{retire, run_command};
use portcullis_runtime::flags::Scoped as _;
use portcullis_runtime::print::print;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis_runtime::process::use_small_pages();
    let OperatorCli { command, options } = OperatorCli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let outcome = match command {
        None | Some(OperatorCommand::Run) => run_command::run(&options),
        Some(OperatorCommand::Retire) => retire::run(&options),
        Some(OperatorCommand::Crd) => {
            use portcullis_crds::crd::{policy_yaml, view_yaml, yaml};
            let crds = [yaml(), policy_yaml(), view_yaml()].join("---\n");
            print(crds).map_err(Into::into)
        }
        Some(OperatorCommand::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut OperatorCli::scoped(), "portcullis-operator", &mut script);
            print(script).map_err(Into::into)
        }
        Some(OperatorCommand::Man) => {
            let mut page = Vec::new();
            clap_mangen::Man::new(OperatorCli::scoped())
                .render(&mut page)
                .and_then(|()| print(page))
                .map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

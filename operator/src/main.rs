//! Reads the command line and runs the command.

use std::process::ExitCode;

use portcullis_operator::command::{OperatorCli, OperatorCommand};
use portcullis_operator::{retire, run_command};
use portcullis_runtime::flags::Scoped as _;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis_runtime::process::use_small_pages();
    let OperatorCli { command, options } = OperatorCli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let outcome = match command {
        None | Some(OperatorCommand::Run) => run_command::run(&options),
        Some(OperatorCommand::Retire) => retire::run(&options),
        Some(OperatorCommand::Crd) => {
            print!("{}---\n{}", portcullis_crds::crd::yaml(), portcullis_crds::crd::policy_yaml());
            Ok(())
        }
        Some(OperatorCommand::Completions { shell }) => {
            clap_complete::generate(shell, &mut OperatorCli::scoped(), "portcullis-operator", &mut std::io::stdout());
            Ok(())
        }
        Some(OperatorCommand::Man) => {
            clap_mangen::Man::new(OperatorCli::scoped()).render(&mut std::io::stdout()).map_err(Into::into)
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

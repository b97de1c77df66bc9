//! Reads the command line and hands over.

use std::process::ExitCode;

use portcullis_operator::command::{Cli, Command};
use portcullis_operator::{retire, run_command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis_runtime::process::use_small_pages();
    let Cli { command, options } = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let outcome = match command {
        None | Some(Command::Run) => run_command::run(&options),
        Some(Command::Retire) => retire::run(&options),
        Some(Command::Crd) => {
            print!("{}", portcullis_crds::crd::yaml());
            Ok(())
        }
        Some(Command::Completions { shell }) => {
            clap_complete::generate(shell, &mut Cli::scoped(), "portcullis-operator", &mut std::io::stdout());
            Ok(())
        }
        Some(Command::Man) => clap_mangen::Man::new(Cli::scoped()).render(&mut std::io::stdout()).map_err(Into::into),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

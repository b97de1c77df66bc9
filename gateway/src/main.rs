//! Parses the command line and runs the command.

// A command's reader may be gone: `runtime::print` knows.
#![cfg_attr(not(test), warn(clippy::print_stdout))]

use std::process::ExitCode;

use portcullis_gateway::cli::command::{Cli, Command};
use portcullis_gateway::cli::{check as check_command, demo, explain, run as run_command, token as token_command};
use portcullis_runtime::flags::Scoped as _;
use portcullis_runtime::print::print;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    portcullis_runtime::process::use_small_pages();
    let Cli { command, options } = Cli::read(std::env::args_os()).unwrap_or_else(|error| error.exit());
    let options = options.with_secret(std::env::var("JWT_SECRET").ok());
    let outcome = match command {
        None | Some(Command::Run) => run_command::run(&options),
        Some(Command::Demo(args)) => demo::run(&args),
        Some(Command::Token(args)) => token_command::main(args, &options),
        Some(Command::Explain(args)) => return explain::main(&args, &options),
        Some(Command::Check) => check_command::run(&options),
        Some(Command::Completions { shell }) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::scoped(), "portcullis-gateway", &mut script);
            print(script).map_err(Into::into)
        }
        Some(Command::Man) => {
            let mut page = Vec::new();
            clap_mangen::Man::new(Cli::scoped()).render(&mut page).and_then(|()| print(page)).map_err(Into::into)
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portcullis-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

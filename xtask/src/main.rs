//! `cargo xtask <chore>`: the one entrance to the project's chores.

use std::process::ExitCode;

use clap::Parser as _;
use xtask::command::{Chore, Cli};
use xtask::{bench, check, cluster, count, fuzz, generate, real_servers, skip, test};

fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().chore {
        Chore::Check { everything } => check::run(everything),
        Chore::Test(options) => test::run(&options),
        Chore::Generate { check } => generate::run(!check),
        Chore::Count(options) => count::run(options),
        Chore::RealServers => Ok(skip::report(&real_servers::set_up()?, true)),
        Chore::Cluster => cluster::build().map(|()| ExitCode::SUCCESS),
        Chore::Images => {
            for archive in cluster::images()? {
                println!("{}", archive.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        Chore::Bench(options) => bench::run(&options),
        Chore::Fuzz(options) => fuzz::run(&options),
    }
}

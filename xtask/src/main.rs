//! `cargo xtask <chore>`: the one entrance to the project's chores.

use std::process::ExitCode;

use xtask::{bench, cluster, count, generate, real_servers, tests};

const USAGE: &str = "\
usage: cargo xtask test [--no-skips] [ARGUMENTS OF cargo test...]
       cargo xtask generate [--check]
       cargo xtask count [--write | --binary GATEWAY]
       cargo xtask real-servers
       cargo xtask cluster
       cargo xtask images
       cargo xtask bench [--only PART,PART] [--binary GATEWAY]";

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (chore, rest) = arguments.split_first().map_or(("", &[][..]), |(chore, rest)| (chore.as_str(), rest));
    match chore {
        "test" => tests::run(rest),
        "generate" if rest.is_empty() => generate::run(true),
        "generate" if rest == ["--check"] => generate::run(false),
        "real-servers" if rest.is_empty() => Ok(tests::report(&real_servers::set_up()?, true)),
        "images" if rest.is_empty() => {
            for archive in cluster::images()? {
                println!("{}", archive.display());
            }
            Ok(ExitCode::SUCCESS)
        }
        "count" => count::run(rest),
        "bench" => bench::run(rest),
        "cluster" if rest.is_empty() => cluster::build(),
        _ => {
            eprintln!("{USAGE}");
            Ok(ExitCode::from(2))
        }
    }
}

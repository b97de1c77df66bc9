//! `cargo xtask test`: every Rust test, with the real servers in place, and a list of what is skipped, before and after.
//!
//! The cluster is used if it is built; only `--everything` builds one, because that takes too long to happen by the way.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, bail, ensure};

use crate::command::Test;
use crate::process::cargo;
use crate::real_servers::{self, Source};
use crate::second_look;
use crate::skip::{self, Skip};
use crate::steps::{self, Outcome, Step};
use crate::{cluster, packages, tools};

const SET_UP: [Step; 7] = [
    Step { name: "Debian packages", usually: "1 minute, once", run: || packages::install(&packages::FOR_TESTS) },
    Step { name: "promtool", usually: "10 s, once", run: tools::install_promtool },
    Step { name: "Node.js", usually: "20 s, once where it is missing", run: tools::install_node },
    Step { name: "Go", usually: "20 s, once where it is missing", run: tools::install_go },
    Step { name: "real servers and clients", usually: "2 minutes, once", run: install_servers },
    Step { name: "a Kubernetes", usually: "15 minutes, once", run: build_cluster },
    Step { name: "images", usually: "3 s, the first time 6 minutes", run: build_images },
];

/// Runs `cargo test --workspace` with the arguments that are asked for.
///
/// # Errors
/// When something cannot be set up; failed tests are the exit code 1.
pub fn run(options: &Test) -> anyhow::Result<ExitCode> {
    if options.everything {
        set_up_everything()?;
    }
    let no_skips = options.no_skips || options.everything;
    let skips = skips_told_at_once()?;
    if no_skips && !skips.is_empty() {
        bail!("nothing may be skipped here");
    }
    let skipped: String = skips.iter().map(|skip| format!("{skip}\n")).collect();
    let prepare = |cargo: &mut Command| {
        cargo.env("PORTCULLIS_SKIP", &skipped);
        if no_skips {
            cargo.env("PORTCULLIS_NO_SKIPS", "1");
        }
    };
    let passed = if options.everything {
        let looked = second_look::run(&options.cargo(), &prepare);
        looked.inspect_err(|error| println!("*** {error:#}")).is_ok()
    } else {
        let mut cargo = cargo();
        cargo.args(["test", "--workspace"]).args(options.cargo());
        prepare(&mut cargo);
        cargo.status().context("starting cargo")?.success()
    };
    let verdict = skip::report(&skips, no_skips);
    Ok(if passed { verdict } else { ExitCode::FAILURE })
}

/// Prints what will be skipped before anything is compiled; installs the real servers if that is possible.
fn skips_told_at_once() -> anyhow::Result<Vec<Skip>> {
    let mut skips = machine_skips();
    print!("{}", announcement(&skips));
    if !Source::ALL.iter().all(|source| source.ready().is_ok()) {
        println!("installing the real MCP servers and clients that the tests use (2 minutes, once)");
    }
    let servers = real_servers::set_up()?;
    print!("{}", announcement(&servers));
    skips.extend(servers);
    // A node runs the real servers; it may have become possible.
    skips.retain(|skip| skip.what != cluster::Tier::Node.name());
    skips.extend(cluster::skips().into_iter().filter(|skip| skip.what == cluster::Tier::Node.name()));
    Ok(skips)
}

/// What this machine lacks, apart from the real servers.
fn machine_skips() -> Vec<Skip> {
    let mut skips = cluster::skips();
    if !tools::present("promtool") {
        skips.push(Skip { what: "alerts", reason: "promtool is not installed (Debian package prometheus)".into() });
    }
    if !rustix::process::geteuid().is_root() {
        skips.push(Skip { what: "memory", reason: "a control group with a bound on memory needs root".into() });
    }
    skips
}

fn announcement(skips: &[Skip]) -> String {
    if skips.is_empty() {
        return String::new();
    }
    let lines: String = skips.iter().map(|skip| format!("    {skip}\n")).collect();
    format!(
        "these tests will be skipped:\n{lines}cargo xtask test --everything sets up what they need, and runs all tests\n"
    )
}

fn set_up_everything() -> anyhow::Result<()> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "tests with pods need root: run this as root, or run cargo xtask test without --everything"
    );
    let missing = steps::run(&SET_UP)?;
    ensure!(missing.is_empty(), "the tests cannot be set up: {missing:?}");
    println!("=== all is set up; the tests follow (usually 10 minutes, the first time 20)");
    Ok(())
}

fn install_servers() -> anyhow::Result<Outcome> {
    let skips = real_servers::set_up()?;
    let reasons: Vec<String> = skips.iter().map(ToString::to_string).collect();
    ensure!(reasons.is_empty(), "{}", reasons.join("; "));
    Ok(Outcome::Done)
}

fn build_cluster() -> anyhow::Result<Outcome> {
    cluster::build()?;
    Ok(Outcome::Done)
}

fn build_images() -> anyhow::Result<Outcome> {
    cluster::images()?;
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_will_be_skipped_is_told_with_its_reason_and_the_way_out() {
        let skips = [
            Skip { what: "node", reason: "npm is not installed".into() },
            Skip { what: "alerts", reason: "promtool is not installed".into() },
        ];
        let text = "\
these tests will be skipped:
    node: npm is not installed
    alerts: promtool is not installed
cargo xtask test --everything sets up what they need, and runs all tests
";
        assert_eq!(announcement(&skips), text);
        assert_eq!(announcement(&[]), "");
    }
}

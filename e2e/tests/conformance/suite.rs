//! Runs the suite's command against a URL, and reads its findings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use portcullis_e2e::real::ProcessGroup;
use portcullis_e2e::wait::wait_for;
use serde::Deserialize;
use xtask::real_servers;

/// Bound for one run.
const LIMIT: Duration = Duration::from_secs(180);

/// The length of `-2026-11-24T18-21-17-144Z`, with which the suite ends the names of folders.
const TIME_WIDTH: usize = 25;

/// Largest shown part of an error, in characters; some quote whole lists.
const MAX_SHOWN_CHARS: usize = 600;

/// A revision of MCP, and how many scenarios the suite requires of servers that speak it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Required(pub(crate) &'static str, pub(crate) usize);

pub(crate) const LEGACY: Required = Required("2025-11-25", 30);
pub(crate) const MODERN: Required = Required("2026-07-28", 37);

/// Checks that may not succeed: scenario and check, and why.
pub(crate) type Excused = [(&'static str, &'static str, &'static str)];

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Check {
    id: String,
    status: String,
    error_message: Option<String>,
}

/// Runs all required scenarios; panics unless exactly the excused checks do not succeed. Warnings and skipped checks are
/// no successes.
pub(crate) async fn passes(url: &str, required: Required, excused: &Excused) {
    let folder = tempfile::tempdir().expect("a folder");
    let suite = ProcessGroup::start(command(url, required, folder.path()));
    wait_for("the suite to end", LIMIT, async || if suite.ended() { Ok(()) } else { Err(suite.output()) }).await;
    let names = required.scenarios();
    // The suite runs others too, which it does not require.
    let run: BTreeMap<_, _> = scenarios(folder.path()).into_iter().filter(|(name, _)| names.contains(name)).collect();
    assert!(run.keys().eq(&names), "of {names:?}, it ran {:?}: {}", run.keys(), suite.output());

    let short: Vec<(&str, &Check)> = run
        .iter()
        .flat_map(|(name, checks)| checks.iter().map(move |check| (name.as_str(), check)))
        .filter(|(_, check)| !matches!(check.status.as_str(), "SUCCESS" | "INFO"))
        .collect();
    let found: BTreeSet<_> = short.iter().map(|(name, check)| (*name, check.id.as_str())).collect();
    let expected: BTreeSet<_> = excused.iter().map(|(name, check, _)| (*name, *check)).collect();
    let show = |(name, check): &(&str, &Check)| {
        let why: String = check.error_message.iter().flat_map(|why| why.chars().take(MAX_SHOWN_CHARS)).collect();
        format!("{} {name}: {}: {why}\n", check.status, check.id)
    };
    let shown: String = short.iter().map(show).collect();
    assert_eq!(found, expected, "found and expected:\n{shown}");
}

impl Required {
    /// The names of the required scenarios, as the suite's own file lists them.
    fn scenarios(self) -> BTreeSet<String> {
        #[derive(Deserialize)]
        struct Requirements {
            server: BTreeSet<String>,
        }
        let file = suite().join(format!("requirements/{}.yaml", self.0));
        let text = std::fs::read_to_string(file).expect("the suite's requirements");
        let requirements: Requirements = serde_yaml::from_str(&text).expect("a list of scenarios");
        assert_eq!(requirements.server.len(), self.1, "{:?}", requirements.server);
        requirements.server
    }
}

fn suite() -> PathBuf {
    real_servers::folder().join("clients/node_modules/@modelcontextprotocol/conformance")
}

fn command(url: &str, required: Required, results: &Path) -> Command {
    let mut command = Command::new(real_servers::folder().join("clients/node_modules/.bin/node"));
    command.arg(suite().join("dist/index.js"));
    command.args(["server", "--url", url, "--requirements", required.0, "--output-dir"]).arg(results);
    command
}

/// The findings in the folder `server-<scenario>-<time>` of each scenario.
fn scenarios(results: &Path) -> Vec<(String, Vec<Check>)> {
    let folders = std::fs::read_dir(results).expect("the suite wrote its results");
    folders.map(|folder| scenario(folder.expect("a folder").path())).collect()
}

fn scenario(folder: PathBuf) -> (String, Vec<Check>) {
    let name = folder.file_name().and_then(|name| name.to_str()).expect("a name").to_owned();
    let name = name.strip_prefix("server-").expect("a scenario for servers");
    let name = name[..name.len() - TIME_WIDTH].to_owned();
    let checks = std::fs::read(folder.join("checks.json")).expect("the checks of a scenario");
    (name, serde_json::from_slice(&checks).expect("a list of checks"))
}

//! Runs the suite's command against a URL, and reads its findings.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream;
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

/// The scenarios for servers with extensions: tasks and skills.
pub(crate) const EXTENSIONS: [&str; 13] = [
    "sep-2640-skills-directory",
    "sep-2640-skills-enumeration",
    "sep-2640-skills-manifest",
    "tasks-capability-negotiation",
    "tasks-dispatch-and-envelope",
    "tasks-lifecycle",
    "tasks-mrtr-composition",
    "tasks-mrtr-input",
    "tasks-request-headers",
    "tasks-request-state-removal",
    "tasks-required-task-error",
    "tasks-status-notifications",
    "tasks-wire-fields",
];

/// What no server can pass.
pub(crate) const EXTENSIONS_EXCUSED: &Excused =
    &[("tasks-status-notifications", "tasks-status-notifications", "the suite skips it until it listens for them")];

/// Suites that run at the same time: each is a process that mostly waits.
const AT_ONCE: usize = 4;

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
    let output = run(url, &["--requirements", required.0], folder.path()).await;
    let names = required.scenarios();
    // The suite runs others too, which it does not require.
    let run: BTreeMap<_, _> = scenarios(folder.path()).into_iter().filter(|(name, _)| names.contains(name)).collect();
    assert!(run.keys().eq(&names), "of {names:?}, it ran {:?}: {output}", run.keys());
    all_succeed(&run, excused);
}

/// The same with the scenarios for extensions, which the suite runs one by one.
pub(crate) async fn passes_with_extensions(url: &str, excused: &Excused) {
    let folder = tempfile::tempdir().expect("a folder");
    // They are on no revision's list.
    let options = ["--spec-version", MODERN.0, "--force", "--scenario"];
    let one = async |name: &str| run(url, &[&options[..], &[name]].concat(), folder.path()).await;
    let outputs: Vec<String> = stream::iter(EXTENSIONS).map(one).buffer_unordered(AT_ONCE).collect().await;
    let run: BTreeMap<_, _> = scenarios(folder.path()).into_iter().collect();
    assert!(run.keys().eq(&EXTENSIONS), "it ran {:?}: {outputs:?}", run.keys());
    all_succeed(&run, excused);
}

/// Runs the suite to its end; what it says.
async fn run(url: &str, options: &[&str], results: &Path) -> String {
    let suite = ProcessGroup::start(command(url, options, results));
    wait_for("the suite to end", LIMIT, async || if suite.ended() { Ok(()) } else { Err(suite.output()) }).await;
    suite.output()
}

fn all_succeed(run: &BTreeMap<String, Vec<Check>>, excused: &Excused) {
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

fn command(url: &str, options: &[&str], results: &Path) -> Command {
    let mut command = Command::new(real_servers::folder().join("clients/node_modules/.bin/node"));
    command.arg(suite().join("dist/index.js"));
    command.args(["server", "--url", url]).args(options).arg("--output-dir").arg(results);
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

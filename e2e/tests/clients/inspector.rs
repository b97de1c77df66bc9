//! The MCP Inspector on the command line: one process for each request.

use std::process::Command;
use std::time::Duration;

use portcullis_e2e::real::ProcessGroup;
use portcullis_e2e::wait::wait_for;
use serde_json::Value;
use tempfile::TempDir;
use xtask::real_servers;

use crate::story::{ClientReport, ClientTask};

/// Starting node takes seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

/// Does what of a task fits into single requests: no progress, and no change.
pub(crate) async fn run(task: &ClientTask) -> ClientReport {
    let home = tempfile::tempdir().expect("a folder");
    let ask = async |method| inspect(task, &home, &["--method", method]).await;
    let names = |list: &Value, kind: &str, key: &str| {
        let items = list[kind].as_array().unwrap_or_else(|| panic!("no {kind} in {list}"));
        items.iter().map(|item| item[key].as_str().expect("a name").to_owned()).collect()
    };
    let server = ask("initialize").await;
    ClientReport {
        revision: server["protocolVersion"].as_str().unwrap_or_else(|| panic!("no revision in {server}")).into(),
        tools: names(&ask("tools/list").await, "tools", "name"),
        prompts: names(&ask("prompts/list").await, "prompts", "name"),
        resources: names(&ask("resources/list").await, "resources", "uri"),
        quick: call(task, &home, &task.quick).await,
        slow: call(task, &home, &task.slow).await,
        progress: Vec::new(),
        fresh: [].into(),
    }
}

async fn call(task: &ClientTask, home: &TempDir, (name, arguments): &(&'static str, Value)) -> String {
    let arguments = arguments.as_object().expect("arguments are an object");
    let pairs: Vec<String> = arguments.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let mut words = vec!["--method", "tools/call", "--tool-name", name];
    words.extend(pairs.iter().flat_map(|pair| ["--tool-arg", pair]));
    let result = inspect(task, home, &words).await;
    result["content"][0]["text"].as_str().unwrap_or_else(|| panic!("no text in {result}")).into()
}

/// One run; panics with its output unless it ends well.
async fn inspect(task: &ClientTask, home: &TempDir, words: &[&str]) -> Value {
    let modules = real_servers::folder().join("clients/node_modules");
    let result = home.path().join("result.json");
    let mut command = Command::new(modules.join(".bin/node"));
    command.arg(modules.join("@modelcontextprotocol/inspector/clients/launcher/build/index.js"));
    command.args(["--cli", &task.url, "--transport", "http", "--stored-auth-only"]);
    command.args(["--protocol-era", if task.legacy { "legacy" } else { "modern" }]);
    command.args(["--header", &format!("Authorization: Bearer {}", task.token)]);
    command.args(words).arg("--output").arg(&result).env("HOME", home.path());
    let process = ProcessGroup::start(command);
    let what = format!("the inspector to end with {words:?}");
    let status = wait_for(&what, LIMIT, async || process.status().ok_or_else(|| process.output())).await;
    assert!(status.success(), "{words:?}: {}", process.output());
    let json = std::fs::read(&result).unwrap_or_else(|error| panic!("{words:?}: {error}: {}", process.output()));
    serde_json::from_slice(&json).expect("JSON")
}

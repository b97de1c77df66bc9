//! The snippets of docs/clients.md: files parse as their programs require, and programs run.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::real::ProcessGroup;
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use xtask::real_servers;

use crate::program::ClientProgram;

/// Starting node or Python takes seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(60);

const URL: &str = "http://127.0.0.1:5000/mcp";

/// The blocks of one language, each with the heading that it stands under.
fn blocks(language: &str) -> Vec<(String, String)> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/clients.md");
    let text = std::fs::read_to_string(file).expect("the page");
    let (mut heading, mut found, mut block) = (String::new(), Vec::new(), None::<String>);
    for line in text.lines() {
        match &mut block {
            Some(text) if line == "```" => {
                found.push((heading.clone(), std::mem::take(text)));
                block = None;
            }
            Some(text) => *text += &format!("{line}\n"),
            None if line.starts_with("## ") => heading = line[3..].to_owned(),
            None if line == format!("```{language}") => block = Some(String::new()),
            None => {}
        }
    }
    found
}

#[test]
fn files_are_json_and_name_the_gateway_where_their_program_looks_for_it() {
    let found: Vec<(String, Value)> = blocks("json")
        .into_iter()
        .map(|(heading, text)| (heading, serde_json::from_str(&text).expect("the block is JSON")))
        .collect();
    let headings: Vec<&str> = found.iter().map(|(heading, _)| heading.as_str()).collect();
    assert_eq!(headings, ["Claude Code", "Claude Desktop", "Cursor", "VS Code"]);
    let server = |index: usize, member: &str| found[index].1[member]["portcullis"].clone();
    assert_eq!((&server(0, "mcpServers")["type"], &server(0, "mcpServers")["url"]), (&json!("http"), &json!(URL)));
    assert_eq!(server(1, "mcpServers")["command"], "npx");
    assert!(server(1, "mcpServers")["args"].as_array().expect("arguments").contains(&json!(URL)));
    assert_eq!(server(2, "mcpServers")["url"], URL);
    assert_eq!((&server(3, "servers")["type"], &server(3, "servers")["url"]), (&json!("http"), &json!(URL)));
    let input = found[3].1["inputs"][0]["id"].as_str().expect("an id");
    assert_eq!(server(3, "servers")["headers"]["Authorization"], format!("Bearer ${{input:{input}}}"));
}

/// A gateway with the tool of the page's examples.
async fn start() -> (TestGateway, Faulty) {
    let server = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("greet", "Hello, you!")]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.offers(&["greet"]).await;
    (gateway, server)
}

/// Runs a block against a gateway and gives back what it prints.
async fn run(gateway: &TestGateway, interpreter: &str, file: &str, block: &str) -> String {
    let folder = tempfile::tempdir_in(real_servers::folder().join("clients")).expect("a folder");
    let script = folder.path().join(file);
    std::fs::write(&script, block.replace(URL, &gateway.url("/mcp"))).expect("the script is written");
    let mut command = Command::new(real_servers::folder().join(interpreter));
    command.arg(&script).env("PORTCULLIS_TOKEN", &gateway.token);
    let process = ProcessGroup::start(command);
    let status = wait_for(&format!("{file} to end"), LIMIT, async || process.status().ok_or(process.output())).await;
    assert!(status.success(), "{}", process.output());
    process.output()
}

#[tokio::test]
async fn programs_run_as_they_stand_there() {
    require!(ClientProgram::available());
    let (gateway, _server) = start().await;
    let (python, javascript) = (blocks("python"), blocks("js"));
    assert_eq!((python.len(), javascript.len()), (2, 1));
    for (_, block) in &python {
        assert_eq!(run(&gateway, "venv/bin/python", "example.py", block).await, "greet\nHello, you!\n");
    }
    for (_, block) in &javascript {
        let printed = run(&gateway, "clients/node_modules/.bin/node", "example.mjs", block).await;
        assert_eq!(printed, "greet\nHello, you!\n");
    }
}

#[tokio::test]
async fn command_lines_are_what_a_shell_understands_and_curl_is_answered() {
    let (gateway, _server) = start().await;
    let blocks = blocks("sh");
    assert_eq!(blocks.len(), 3);
    for (heading, block) in &blocks {
        let status = Command::new("bash").args(["-n", "-c", block]).status().expect("bash");
        assert!(status.success(), "{heading}");
    }
    let (_, curl) = blocks.last().expect("a line for curl");
    let mut command = Command::new("bash");
    command.args(["-c", &curl.replace(URL, &gateway.url("/mcp")).replace("curl ", "curl --silent ")]);
    command.env("PORTCULLIS_TOKEN", &gateway.token);
    let process = ProcessGroup::start(command);
    let status = wait_for("curl to end", LIMIT, async || process.status().ok_or(process.output())).await;
    assert!(status.success(), "{}", process.output());
    let answer: Value = serde_json::from_str(&process.output()).expect("JSON");
    assert_eq!(answer["result"]["content"][0]["text"], "Hello, you!");
}

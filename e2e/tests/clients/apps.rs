//! The host of MCP Apps, in a browser: it renders the pages of two servers through one endpoint, and they call tools back.

use std::process::Command;
use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, ProcessGroup, Source};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};
use xtask::real_servers;

/// Starting a browser takes seconds on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

/// The address of the pages of both servers.
const PAGE: &str = "ui://view/page.html";

fn available() -> Result<(), String> {
    real::installed(Source::Clients)?;
    let works = Command::new("chromium").arg("--version").output().is_ok_and(|it| it.status.success());
    if works { Ok(()) } else { Err("chromium is not installed: apt-get install chromium".into()) }
}

/// Runs `clients/apps/run.mjs`; what it writes.
async fn run(words: &[&str]) -> String {
    let folder = real_servers::folder().join("clients");
    let mut command = Command::new(folder.join("node_modules/.bin/node"));
    let written = tempfile::NamedTempFile::new().expect("a file");
    command.arg(real_servers::sources().join("clients/apps/run.mjs")).arg(written.path());
    command.args(words).current_dir(&folder);
    let process = ProcessGroup::start(command);
    let status = wait_for("the Apps", LIMIT, async || process.status().ok_or_else(|| process.output())).await;
    assert!(status.success(), "{}", process.output());
    std::fs::read_to_string(written.path()).expect("text")
}

fn policy(name: &str) -> Value {
    json!({"ui": {"csp": {"connectDomains": [format!("https://{name}.example.com")]}, "permissions": {"camera": {}}, "prefersBorder": true}})
}

/// A server with a tool that has a page, which calls another tool back. Both servers have the page at one address.
async fn server(name: &str) -> Faulty {
    let (show, back) = (format!("show_{name}"), format!("back_{name}"));
    let html = run(&["page", name, &back]).await;
    let show =
        Tool::text(&show, &format!("shown by {name}")).with(&format!(r#""_meta":{{"ui":{{"resourceUri":"{PAGE}"}}}}"#));
    let server =
        Faulty::with_tools(FaultyMode::Streamable, vec![show, Tool::text(&back, &format!("told by {name}"))]).await;
    let content =
        json!({"uri": PAGE, "mimeType": "text/html;profile=mcp-app", "text": html.trim_end(), "_meta": policy(name)});
    let own = name.to_owned();
    server.behave(|it| {
        it.name = Some(own);
        it.extensions = Some(r#"{"io.modelcontextprotocol/ui":{}}"#.into());
        it.others.insert("resources/read".into(), json!({"contents": [content]}).to_string());
    });
    server
}

#[tokio::test]
async fn a_host_renders_the_apps_of_two_servers_and_they_call_tools_back() {
    require!(available());
    let (a, b) = (server("a").await, server("b").await);
    let manifests = Manifests::new();
    manifests.add("a", &a.url(), "");
    manifests.add("b", &b.url(), "");
    let gateway = TestGateway::start(Options { allowed_origins: Some("*".into()), ..manifests.options() }).await;
    gateway.connected(2).await;
    let outcome = run(&["host", &gateway.url("/mcp"), &gateway.token]).await;
    let outcome: Value = serde_json::from_str(&outcome).unwrap_or_else(|_| panic!("{outcome}"));
    let seen = |name: &str, uri: &str| {
        json!({
            "tool": format!("show_{name}"), "uri": uri, "mimeType": "text/html;profile=mcp-app", "meta": policy(name),
            "said": format!("{name}: shown by {name}, then told by {name}"),
        })
    };
    let apps = json!([seen("a", PAGE), seen("b", &PAGE.replace("view", "~default.b/view"))]);
    assert_eq!(outcome, json!({"announced": {"io.modelcontextprotocol/ui": {}}, "apps": apps}));
}

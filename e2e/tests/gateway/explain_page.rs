//! The section of docs/policies.md about explanations: its commands print what stands there.

use std::path::{Path, PathBuf};
use std::process::Command;

use portcullis_e2e::binary::built;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use serde_json::Value;

const MANIFESTS: &str = "docs/examples/access/manifests/search.yaml";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).expect("a file")
}

/// The blocks of the section, each with its language.
fn blocks() -> Vec<(String, String)> {
    let page = read("docs/policies.md");
    let (_, section) = page.split_once("\n## Who may do that? Ask\n").expect("the section");
    let section = section.split("\n## ").next().expect("its text");
    let blocks = section.split("```").skip(1).step_by(2);
    blocks
        .map(|block| block.split_once('\n').expect("a language and a text"))
        .map(|(a, b)| (a.into(), b.into()))
        .collect()
}

/// What a shell prints for a block, in the repository's folder.
fn printed(block: &str, token: &str) -> String {
    let program = built("portcullis-gateway");
    let path = format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().expect("a folder").display());
    let mut command = Command::new("bash");
    command.args(["-c", block]).current_dir(repository()).env_clear().env("PATH", path).env("TOKEN", token);
    let output = command.output().expect("bash");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(err, "", "{block}");
    out.into_owned()
}

#[tokio::test]
async fn the_commands_of_the_page_print_what_stands_there() {
    let tools = ["get_page", "query"].map(|tool| Tool::text(tool, "done")).to_vec();
    let server = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let manifests = Manifests::new();
    manifests.write("search.yaml", &read(MANIFESTS).replace("http://localhost:9000/mcp", &server.url()));
    let mut options = manifests.options();
    options.admin_address = Some("127.0.0.1:0".into());
    let gateway = TestGateway::start(options).await;
    wait_for("a connected server", LIMIT, async || {
        // Without a token, whose caller may not see it.
        let health = client::get(&gateway.url("/health")).send().await.expect("an answer").json();
        if health["servers"]["connected"] == 1 { Ok(()) } else { Err(health) }
    })
    .await;
    let blocks = blocks();
    let mut count = 0;
    for pair in blocks.windows(2).filter(|pair| pair[0].0 == "sh") {
        let [(_, command), (language, expected)] = pair else { unreachable!("pairs") };
        let command = command
            .replace("http://127.0.0.1:5000", &gateway.url(""))
            .replace("http://127.0.0.1:9090", &format!("http://{}", gateway.admin))
            .replace("curl ", "curl --silent --show-error ");
        let printed = tokio::task::spawn_blocking(move || printed(&command, &mint("alice"))).await.expect("it ends");
        if language == "json" {
            let parsed = |text: &str| serde_json::from_str::<Value>(text).unwrap_or_else(|_| panic!("{text}"));
            assert_eq!(parsed(&printed), parsed(expected));
        } else {
            assert_eq!(&printed, expected);
        }
        count += 1;
    }
    assert_eq!(count, 6);
}

#[test]
fn the_tests_of_the_page_are_those_of_the_example() {
    let of_page: Vec<String> = blocks().into_iter().filter(|(language, _)| language == "yaml").map(|it| it.1).collect();
    assert_eq!(of_page, [read("docs/examples/access/policy-tests.yaml")]);
}

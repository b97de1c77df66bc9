//! Skills (SEP-2640): listed and read as resources are, each from its server.

use portcullis_e2e::conformance::Extended;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};

use crate::kit::MODERN;

async fn ask(gateway: &TestGateway, subject: &str, (path, method): (&str, &str), mut params: Value) -> Value {
    let meta =
        json!({"io.modelcontextprotocol/protocolVersion": MODERN, "io.modelcontextprotocol/clientCapabilities": {}});
    params["_meta"] = meta;
    let name = params["uri"].as_str().unwrap_or_default().to_owned();
    let text = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string();
    let request = client::post(&gateway.url(path), text).bearer(&mint(subject)).limit(LIMIT);
    let request = request.header("mcp-protocol-version", MODERN).header("mcp-method", method);
    request.header("mcp-name", &name).send().await.expect("an answer").json()
}

/// The URIs of all skills, once there are so many.
async fn listed(gateway: &TestGateway, subject: &str, path: &str, count: usize) -> Vec<String> {
    wait_for("the skills", LIMIT, async || {
        let list = ask(gateway, subject, (path, "skills/list"), json!({})).await;
        let skills = list["result"]["skills"].as_array().cloned().unwrap_or_default();
        if skills.len() != count {
            return Err(list);
        }
        for skill in &skills {
            let uri = skill["uri"].as_str().expect("a URI");
            let root = uri.strip_suffix("/SKILL.md").expect("the file");
            let files = skill["resources"].as_array().expect("files");
            assert!(
                files.iter().all(|file| file["uri"].as_str().is_some_and(|file| file.starts_with(root))),
                "{skill}"
            );
        }
        Ok(skills.iter().map(|skill| skill["uri"].as_str().expect("a URI").to_owned()).collect())
    })
    .await
}

#[tokio::test]
async fn skills_of_several_servers_are_listed_and_read_from_their_own() {
    let [first, second, team] =
        [Extended::start("git").await, Extended::start("git").await, Extended::start("pdf").await];
    let manifests = Manifests::new();
    manifests.add("first", &first.url(), "");
    manifests.add("second", &second.url(), "");
    manifests.add_in("team-a", "team", &team.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(3).await;

    let all = listed(&gateway, "alice", "/mcp", 3).await;
    let [one, other] = ["first", "second"].map(|server| format!("skill://~default.{server}/git/SKILL.md"));
    assert_eq!(all, [one, other, "skill://~team-a/pdf/SKILL.md".to_owned()]);
    assert_eq!(listed(&gateway, "alice", "/mcp/~team-a", 1).await, ["skill://pdf/SKILL.md"]);
    assert_eq!(listed(&gateway, "alice", "/mcp/second", 1).await, ["skill://git/SKILL.md"]);
    for uri in &all {
        let got = ask(&gateway, "alice", ("/mcp", "skills/get"), json!({"uri": uri})).await;
        assert_eq!(got["result"]["skill"]["uri"], **uri, "{got}");
        let name = got["result"]["skill"]["frontmatter"]["name"].as_str().expect("a name").to_owned();
        for file in got["result"]["skill"]["resources"].as_array().expect("files") {
            let read = ask(&gateway, "alice", ("/mcp", "resources/read"), json!({"uri": file["uri"]})).await;
            let text = read["result"]["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("{file}: {read}"));
            assert!(text.contains(&name), "{text}");
        }
        let root = uri.strip_suffix("/SKILL.md").expect("the file");
        let folder = ask(&gateway, "alice", ("/mcp", "resources/directory/read"), json!({"uri": root})).await;
        let children = folder["result"]["resources"].as_array().unwrap_or_else(|| panic!("{root}: {folder}"));
        let children: Vec<&str> = children.iter().filter_map(|child| child["uri"].as_str()).collect();
        assert_eq!(children, [uri.clone(), format!("{root}/references")]);
    }
    let unknown = ask(&gateway, "alice", ("/mcp", "skills/get"), json!({"uri": "skill://none/SKILL.md"})).await;
    assert_eq!(unknown["error"]["code"], -32602, "{unknown}");
    let bad = ask(&gateway, "alice", ("/mcp", "skills/list"), json!({"cursor": "?"})).await;
    assert_eq!(bad["error"]["code"], -32602, "{bad}");

    // A caller is told of what it may read.
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: p, namespace: team-a}\nspec: {servers: {names: [team]}, rules: [{name: r, from: [{subject: alice}], allow: [{resources: ['skill://*']}]}]}\n";
    manifests.write("policy.yaml", policy);
    let seen = listed(&gateway, "bob", "/mcp", 2).await;
    assert!(seen.iter().all(|uri| !uri.contains("team-a")), "{seen:?}");
    let denied = ask(&gateway, "bob", ("/mcp", "skills/get"), json!({"uri": "skill://~team-a/pdf/SKILL.md"})).await;
    assert_eq!(denied["error"]["code"], -32003, "{denied}");
    assert_eq!(listed(&gateway, "alice", "/mcp", 3).await, all);
}

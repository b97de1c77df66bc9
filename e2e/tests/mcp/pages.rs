//! Resources that tools name: each is read from its server, even if another one has the same URI.

use portcullis_e2e::faulty::{Faulty, FaultyMode, ProtocolFault, Tool};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use serde_json::{Value, json};

use super::kit::send;

/// A server whose tool has a page, and names that page and a report in its result.
async fn showing(name: &str, page: &str, listed: bool) -> Faulty {
    let result = json!({
        "_meta": {"ui": {"resourceUri": page}},
        "content": [
            {"type": "text", "text": "ok"},
            {"type": "resource_link", "uri": format!("report://{name}/1"), "name": "report"},
            {"type": "resource", "resource": {"uri": "data:1", "text": "t"}},
        ],
    });
    let tool = Tool::result(&format!("show_{name}"), result.to_string())
        .with(&format!(r#""_meta":{{"ui":{{"resourceUri":"{page}"}}}}"#));
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![tool]).await;
    let resources = if listed { json!([{"uri": page, "name": "view"}]) } else { json!([]) };
    server.behave(|it| {
        it.name = Some(name.into());
        it.resources = Some(ProtocolFault::Result(json!({"resources": resources}).to_string()));
        it.templates = Some(ProtocolFault::Result(r#"{"resourceTemplates":[]}"#.into()));
        it.read = Some(format!("page of {name}"));
    });
    server
}

async fn ask(gateway: &TestGateway, method: &str, params: Value) -> Value {
    send(gateway, json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}).to_string()).await.json()
}

/// The texts of a resource, read several times.
async fn read(gateway: &TestGateway, uri: &str) -> Vec<String> {
    let mut texts = Vec::new();
    for _ in 0..4 {
        let answer = ask(gateway, "resources/read", json!({"uri": uri})).await;
        let text = answer["result"]["contents"][0]["text"].as_str();
        texts.push(text.map_or_else(|| answer.to_string(), str::to_owned));
    }
    texts.dedup();
    texts
}

async fn each_tool_has_its_own_page(pages: [&str; 2], listed: bool, second_in: &str) {
    let (a, b) = (showing("a", pages[0], listed).await, showing("b", pages[1], listed).await);
    let manifests = Manifests::new();
    manifests.add("a", &a.url(), "");
    manifests.add_in(second_in, "b", &b.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(2).await;
    let tools = ask(&gateway, "tools/list", json!({})).await["result"]["tools"].take();
    let tools = tools.as_array().expect("tools");
    assert_eq!(tools.len(), 2);
    for tool in tools {
        let name = tool["name"].as_str().expect("a name");
        let own = [format!("page of {}", &name[name.len() - 1..])];
        let page = tool["_meta"]["ui"]["resourceUri"].as_str().expect("a page");
        assert!(page.starts_with("ui://"), "{page}");
        assert_eq!(read(&gateway, page).await, own, "{page}");
        let result = ask(&gateway, "tools/call", json!({"name": name, "arguments": {}})).await["result"].take();
        assert_eq!(result["_meta"]["ui"]["resourceUri"], page, "the result names the page by the same URI");
        let link = result["content"][1]["uri"].as_str().expect("a link");
        assert_eq!(read(&gateway, link).await, own, "{link}");
    }
}

#[tokio::test]
async fn two_pages_of_one_uri_are_shown_with_their_own_tools() {
    each_tool_has_its_own_page(["ui://widget/main.html"; 2], true, "default").await;
    each_tool_has_its_own_page(["ui://widget/main.html"; 2], false, "default").await;
}

#[tokio::test]
async fn a_page_that_is_not_listed_is_read_from_the_server_whose_tool_names_it() {
    each_tool_has_its_own_page(["ui://kit/a.html", "ui://kit/b.html"], false, "default").await;
}

#[tokio::test]
async fn pages_of_another_namespace_are_shown_with_their_own_tools_too() {
    each_tool_has_its_own_page(["ui://widget/main.html"; 2], true, "team-a").await;
    each_tool_has_its_own_page(["ui://widget/main.html"; 2], false, "team-a").await;
}

#[tokio::test]
async fn a_resource_that_replicas_have_is_read_from_the_first_and_never_from_another_in_turn() {
    let page = "ui://widget/main.html";
    let (first, second) = (showing("a", page, true).await, showing("a", page, true).await);
    let manifests = Manifests::new();
    for (name, server) in [("first", &first), ("second", &second)] {
        server.behave(|it| it.read = Some(name.into()));
        manifests.add(name, &server.url(), "");
    }
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(2).await;
    gateway.offers(&["show_a"]).await;
    assert_eq!(read(&gateway, page).await, ["first"]);
}

#[tokio::test]
async fn a_result_that_names_nothing_that_leads_elsewhere_passes_byte_for_byte() {
    let a = showing("a", "ui://widget/main.html", true).await;
    let result = r#"{ "content":[{"type":"resource_link", "uri":"report://a/1","name":"\u0072"}],"n":1e400}"#;
    a.set_tools(vec![Tool::result("show", result)]);
    let gateway = TestGateway::before(&[&a.url()]).await;
    gateway.connected(1).await;
    let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"show"}}"#;
    let answer = send(&gateway, call).await;
    assert_eq!(answer.text(), format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#));
}

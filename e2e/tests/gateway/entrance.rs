//! The entrance: discovery of authorization servers, admitted origins and host names, and required scopes.

use std::time::Duration;

use http::Method;
use portcullis_e2e::gateway::{TestGateway, options};
use portcullis_e2e::http::{self as client, HttpAnswer, HttpRequest};
use portcullis_e2e::token::{SECRET, after, mint_with};
use portcullis_gateway::Options;
use serde_json::json;

use crate::rest::{is_error, send};

const METADATA: &str = "/.well-known/oauth-protected-resource";

fn given(text: &str) -> Option<String> {
    Some(text.to_owned())
}

async fn start(options: Options) -> TestGateway {
    TestGateway::start(Options { mcp_url: given("http://127.0.0.1:9/"), ..options }).await
}

/// Without a token.
fn get(gateway: &TestGateway, path: &str) -> HttpRequest {
    client::get(&gateway.url(path))
}

#[tokio::test]
async fn metadata_is_told_to_everybody_as_the_request_found_the_gateway() {
    let gateway = start(Options {
        jwt_issuer: given("https://login.example.com/"),
        required_scopes: given("tools prompts"),
        ..options()
    })
    .await;
    for (path, resource) in [("", ""), ("/mcp", "/mcp"), ("/mcp/search", "/mcp/search")] {
        let asked = get(&gateway, &format!("{METADATA}{path}")).header("host", "mcp.example.com");
        let answer = send(asked.header("x-forwarded-proto", "https")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"));
        let expected = json!({
            "resource": format!("https://mcp.example.com{resource}"),
            "authorization_servers": ["https://login.example.com/"],
            "bearer_methods_supported": ["header"],
            "scopes_supported": ["tools", "prompts"],
            "resource_name": "Portcullis",
        });
        assert_eq!(answer.json(), expected);
    }
    let nothing = "there is nothing at this path: see GET /openapi.json";
    is_error(&send(get(&gateway, &format!("{METADATA}/tools"))).await, 404, nothing);
    let nameless = send(get(&gateway, METADATA).header("host", "a\"b")).await;
    // Refused before it is a request, so it has no id.
    let message = "the Host header is not a host name: send one host, with its port if need be";
    assert_eq!((nameless.status, nameless.json()), (400, json!({"error": {"message": message, "code": 400}})));
}

#[tokio::test]
async fn metadata_names_the_public_url_and_the_configured_servers() {
    let gateway = start(Options {
        public_url: given("https://mcp.example.com/gateway/"),
        authorization_servers: given("https://a.example, https://b.example/x"),
        ..options()
    })
    .await;
    for path in ["/mcp", "/gateway/mcp"] {
        let expected = json!({
            "resource": "https://mcp.example.com/gateway/mcp",
            "authorization_servers": ["https://a.example", "https://b.example/x"],
            "bearer_methods_supported": ["header"],
            "resource_name": "Portcullis",
        });
        assert_eq!(send(get(&gateway, &format!("{METADATA}{path}"))).await.json(), expected);
    }
}

#[tokio::test]
async fn pages_of_strange_origins_are_refused_and_listed_ones_may_read_the_answer() {
    let gateway = start(Options { allowed_origins: given("https://app.example.com"), ..options() }).await;
    let from = |origin: &str| get(&gateway, METADATA).header("origin", origin);
    let refused = "pages of this origin may not use the gateway: add the origin to ALLOWED_ORIGINS";
    for origin in ["https://evil.example", "null", ""] {
        is_error(&send(from(origin)).await, 403, refused);
    }
    let own = format!("http://{}", gateway.address);
    for origin in ["https://app.example.com", &own] {
        let answer = send(from(origin)).await;
        assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, origin));
        assert_eq!(answer.header("vary"), "Origin");
    }
    let metrics = send(client::get(&format!("http://{}/metrics", gateway.admin))).await;
    assert!(metrics.text().contains("portcullis_gate_refusals_total{reason=\"origin\"} 3\n"), "{}", metrics.text());

    let asked = client::request(Method::OPTIONS, &gateway.url(METADATA))
        .header("origin", "https://app.example.com")
        .header("access-control-request-method", "GET")
        .header("access-control-request-headers", "authorization,mcp-param-region");
    let answer = send(asked).await;
    let allowed = |name: &str| answer.header(&format!("access-control-allow-{name}")).to_owned();
    assert_eq!(
        (answer.status, allowed("origin").as_str(), allowed("methods").as_str(), allowed("headers").as_str()),
        (204, "https://app.example.com", "GET, POST, DELETE", "authorization,mcp-param-region")
    );
}

#[tokio::test]
async fn other_names_of_the_gateway_are_refused_once_some_are_listed() {
    let gateway = start(Options { allowed_hosts: given("mcp.example.com"), ..options() }).await;
    for (host, status) in
        [("mcp.example.com", 200), ("portcullis.mcp.svc:80", 200), ("127.0.0.1", 200), ("evil.example", 403)]
    {
        assert_eq!(send(get(&gateway, METADATA).header("host", host)).await.status, status, "{host}");
    }
}

#[tokio::test]
async fn a_token_without_the_required_scopes_is_refused_with_all_of_them() {
    let gateway = start(Options { required_scopes: given("tools, prompts"), ..options() }).await;
    let ask = async |claims: serde_json::Value| -> HttpAnswer {
        let token = mint_with(SECRET.as_bytes(), &claims);
        send(get(&gateway, "/tools/list").bearer(&token)).await
    };
    let exp = after(Duration::from_secs(60));
    let message = "the token lacks a required scope: get one with all required scopes";
    for claims in [json!({"sub": "a", "exp": exp}), json!({"sub": "a", "exp": exp, "scope": "tools"})] {
        let answer = ask(claims).await;
        is_error(&answer, 403, message);
        let challenge =
            format!("Bearer scope=\"tools prompts\", error=\"insufficient_scope\", error_description=\"{message}\"");
        assert_eq!(answer.header("www-authenticate"), challenge);
    }
    assert_eq!(ask(json!({"sub": "a", "exp": exp, "scope": "prompts tools"})).await.status, 200);
    assert_eq!(ask(json!({"sub": "a", "exp": exp, "scp": ["prompts", "tools"]})).await.status, 200);
    let missing = send(get(&gateway, "/tools/list")).await;
    assert_eq!((missing.status, missing.header("www-authenticate")), (401, "Bearer scope=\"tools prompts\""));
}

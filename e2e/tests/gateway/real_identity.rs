//! Who calls, among real parties: a server on FastMCP verifies tokens with the published keys, of the gateway or of an
//! issuer on oidc-provider.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::Duration;

use ::http::Method;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::port::{self, HeldPort};
use portcullis_e2e::real::{ProcessGroup, Source, installed};
use portcullis_e2e::token::{SECRET, after, mint_with};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require};
use portcullis_gateway::Options;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256};
use serde_json::{Value, json};
use xtask::real_servers::{folder, sources};

/// node and Python need seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

const CLIENT_SECRET: &str = "the-secret-of-the-client";

/// A server that verifies tokens of this issuer, whose keys are at `keys`.
fn verifier(port: &HeldPort, keys: &str, issuer: &str, audience: &str) -> ProcessGroup {
    let mut command = Command::new(folder().join("venv/bin/python"));
    command.arg(sources().join("python_verifier.py")).arg(port.port().to_string()).args([keys, issuer, audience]);
    ProcessGroup::start(command)
}

/// An issuer whose tokens live 60 s, and the folder that it runs in.
async fn issuer(port: &HeldPort) -> (ProcessGroup, tempfile::TempDir) {
    let place = tempfile::tempdir().expect("a folder");
    fs::copy(sources().join("issuer.mjs"), place.path().join("issuer.mjs")).expect("a copy");
    symlink(folder().join("node_modules"), place.path().join("node_modules")).expect("a link");
    let mut command = Command::new("node");
    command.arg(place.path().join("issuer.mjs")).arg(port.port().to_string()).args([SECRET, "60"]);
    let process = ProcessGroup::start(command);
    let url = format!("{}/counts", port.origin());
    wait_for("the issuer", START_LIMIT, async || {
        assert!(!process.ended(), "{}", process.output());
        http::get(&url).send().await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    (process, place)
}

fn token(sub: &str) -> String {
    mint_with(SECRET.as_bytes(), &json!({"sub": sub, "groups": ["sre"], "exp": after(Duration::from_secs(3600))}))
}

/// The claims that the server has verified for a call.
async fn who(gateway: &TestGateway, token: &str) -> Result<Value, Value> {
    let request = http::request(Method::POST, &gateway.url("/tools")).bearer(token);
    let answer = request.body(r#"{"method":"whoami","args":{}}"#).limit(LIMIT).send().await.expect("an answer").json();
    let text = answer["content"][0]["text"].as_str().and_then(|text| serde_json::from_str(text).ok());
    text.ok_or(answer)
}

async fn connected(gateway: &TestGateway, server: &ProcessGroup) {
    wait_for("the server", START_LIMIT, async || {
        let view = gateway.server("who").await;
        if view["connected"] == true { Ok(()) } else { Err(format!("{view} {}", server.output())) }
    })
    .await;
}

#[tokio::test]
async fn a_server_on_fastmcp_verifies_assertions_about_callers_and_about_the_gateway() {
    require!(installed(Source::Python));
    let (place, manifests) = (port::hold(), Manifests::new());
    let keys = manifests.secrets().join("keys.pem");
    let first = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
    fs::write(&keys, &first).expect("a file");
    manifests.add(
        "who",
        &format!("{}/mcp", place.origin()),
        "identity: {assertion: {claims: [groups], includeTool: true}}",
    );
    let issuer = "https://gateway.example.com";
    let options =
        Options { assertion_keys: Some(keys.clone()), assertion_issuer: Some(issuer.into()), ..manifests.options() };
    let gateway = TestGateway::start(options).await;
    let server = verifier(&place, &gateway.url("/.well-known/jwks.json"), issuer, &place.origin());
    // It refuses lists without a token of the gateway itself.
    connected(&gateway, &server).await;
    let claims = who(&gateway, &token("alice")).await.expect("verified claims");
    let told = ["iss", "sub", "aud", "act", "groups", "tool"].map(|name| claims[name].clone());
    let expected =
        [json!(issuer), json!("alice"), json!(place.origin()), json!({"sub": issuer}), json!(["sre"]), json!("whoami")];
    assert_eq!(told, expected);
    let second = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem();
    let jwks = gateway.url("/.well-known/jwks.json");
    let published = async || http::get(&jwks).send().await.expect("an answer").json()["keys"].take();
    let mut before = published().await;
    for content in [[first.as_str(), &second], [second.as_str(), &first], [second.as_str(), ""]] {
        fs::write(&keys, content.concat()).expect("a file");
        wait_for("the new keys", LIMIT, async || published().await != before).await;
        before = published().await;
        for number in 0..20 {
            let caller = token(&format!("caller-{number}"));
            let claims = who(&gateway, &caller).await;
            assert!(claims.is_ok(), "{claims:?} {}", server.output());
        }
    }
}

#[tokio::test]
async fn a_server_on_fastmcp_verifies_tokens_of_an_issuer_on_oidc_provider() {
    require!(installed(Source::Python));
    require!(installed(Source::Node));
    let ports = [port::hold(), port::hold(), port::hold()];
    let (_issuer, _place) = issuer(&ports[0]).await;
    let (name, token_url) = (ports[0].origin(), format!("{}/token", ports[0].origin()));
    let auth = "clientAuth: {clientId: gateway, secretRef: {name: client, key: secret}}";
    for (port, kind, subject) in [(&ports[1], "exchange", "alice"), (&ports[2], "clientCredentials", "gateway")] {
        let manifests = Manifests::new();
        manifests.secret("client", "secret", CLIENT_SECRET);
        let (url, audience) = (format!("{}/mcp", port.origin()), format!("{}/mcp", port.origin()));
        let more = format!("identity: {{{kind}: {{tokenUrl: '{token_url}', scopes: [tools], {auth}}}}}");
        // An exchange is for callers, so the server is listed by credentials of another kind.
        let listing =
            "listing: {headers: [{name: Authorization, prefix: 'Bearer ', secretRef: {name: listing, key: token}}]}";
        if kind == "exchange" {
            let form = format!("grant_type=client_credentials&resource={audience}");
            let basic =
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, format!("gateway:{CLIENT_SECRET}"));
            let request = http::request(Method::POST, &token_url).header("authorization", &format!("Basic {basic}"));
            let request = request.header("content-type", "application/x-www-form-urlencoded").body(form);
            let issued = request.send().await.expect("an answer").json();
            manifests.secret("listing", "token", issued["access_token"].as_str().expect("a token"));
        }
        let listing = if kind == "exchange" { listing } else { "" };
        manifests.add("who", &url, &format!("{more}\n{listing}"));
        let token_urls = Some(json!({"default": [token_url]}).to_string());
        let gateway = TestGateway::start(Options { token_urls, ..manifests.options() }).await;
        let server = verifier(port, &format!("{name}/jwks"), &name, &audience);
        connected(&gateway, &server).await;
        let claims = who(&gateway, &token("alice")).await.expect("verified claims");
        let told = ["iss", "sub", "aud"].map(|name| claims[name].clone());
        assert_eq!(told, [json!(name), json!(subject), json!(audience)], "{kind}");
        for _ in 0..5 {
            assert!(who(&gateway, &token("alice")).await.is_ok());
        }
    }
    let counts = http::get(&format!("{name}/counts")).send().await.expect("an answer").json();
    assert!(counts["exchanged"].as_u64().is_some_and(|count| (1..=6).contains(&count)), "{counts}");
}

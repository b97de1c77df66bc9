//! Tokens of other issuers: the caller in the log, and the refusals that callers see.

use std::fs;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::Method;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use portcullis_crds::kept_keys::KeptKeys;
use portcullis_crds::{Server, Snapshot};
use portcullis_e2e::fake_api::FakeApi;
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http::{self as client, HttpRequest};
use portcullis_e2e::token::after;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::rest::{is_error, send};

const SUBJECT: &str = "system:serviceaccount:team-a:agent";

/// A key, and a file of issuers with one that signs with it.
struct TestIssuer {
    key: KeyPair,
    folder: TempDir,
}

impl TestIssuer {
    /// `keys` is the field that says where its keys are; KEYS stands for a file with them.
    fn new(keys: &str) -> Self {
        let (key, folder) = (KeyPair::generate().expect("a key"), tempfile::tempdir().expect("a folder"));
        let point = key.der_bytes();
        let part = |range| URL_SAFE_NO_PAD.encode(&point[range]);
        let jwk = json!({"kty": "EC", "crv": "P-256", "kid": "1", "x": part(1..33), "y": part(33..65)});
        let path = folder.path().join("keys.json");
        fs::write(&path, json!({"keys": [jwk]}).to_string()).expect("written");
        let keys = keys.replace("KEYS", &path.display().to_string());
        let yaml = format!("- {{issuer: 'https://issuer.invalid', audience: [portcullis, other], {keys}}}");
        fs::write(folder.path().join("issuers.yaml"), yaml).expect("written");
        Self { key, folder }
    }

    fn options(&self) -> Options {
        Options { issuers: Some(self.folder.path().join("issuers.yaml")), ..options() }
    }

    fn token(&self, audience: &str) -> String {
        let claims = json!({
            "sub": SUBJECT, "exp": after(LIMIT), "iss": "https://issuer.invalid", "aud": [audience],
            "kubernetes.io": {"namespace": "team-a"},
        });
        let header = Header { kid: Some("1".into()), ..Header::new(Algorithm::ES256) };
        encode(&header, &claims, &EncodingKey::from_ec_der(&self.key.serialize_der())).expect("signed")
    }
}

fn call(gateway: &TestGateway, token: &str) -> HttpRequest {
    client::request(Method::POST, &gateway.url("/tools")).bearer(token).body(r#"{"method":"echo","args":{}}"#)
}

#[tokio::test]
async fn a_service_account_is_named_in_the_log_by_its_sub() {
    let issuer = TestIssuer::new("jwksFile: KEYS");
    let server = Faulty::start(FaultyMode::Streamable).await;
    let gateway = TestGateway::start(Options { mcp_url: Some(server.url()), ..issuer.options() }).await;
    gateway.connected(1).await;
    let answer = send(call(&gateway, &issuer.token("other"))).await;
    assert_eq!(answer.status, 200);
    assert_eq!(gateway.line(answer.header("x-request-id")).await["subject"], SUBJECT);
    let refused = send(call(&gateway, &issuer.token("elsewhere"))).await;
    is_error(&refused, 401, "the token is not meant for this service (aud)");
    assert_eq!(gateway.line(refused.header("x-request-id")).await["subject"], Value::Null);
    assert!(!gateway.log().contains(&issuer.token("x")[..40]), "no token in the log");
}

#[tokio::test]
async fn tokens_of_an_issuer_that_is_away_get_a_503_and_others_pass() {
    // Port 9 of this machine: nobody listens there.
    let issuer = TestIssuer::new("jwksUri: 'http://127.0.0.1:9/keys'");
    let server = Faulty::start(FaultyMode::Streamable).await;
    let gateway = TestGateway::start(Options { mcp_url: Some(server.url()), ..issuer.options() }).await;
    gateway.connected(1).await;
    let answer = send(call(&gateway, &issuer.token("portcullis"))).await;
    is_error(&answer, 503, "the keys of the token's issuer are not known yet: try again");
    assert_eq!((answer.header("retry-after"), answer.header("www-authenticate")), ("1", ""));
    assert_eq!(send(gateway.get("/tools/list")).await.status, 200);
    assert_eq!(gateway.metric(r#"portcullis_auth_rejections_total{reason="no_keys"}"#).await, Some(1.0));
}

#[tokio::test]
async fn a_gateway_is_not_ready_before_it_has_keys() {
    let issuer = TestIssuer::new("jwksUri: 'http://127.0.0.1:9/keys'");
    let options = Options { jwt_secret: None, mcp_url: Some("http://127.0.0.1:9/".into()), ..issuer.options() };
    let gateway = TestGateway::start(options).await;
    let url = format!("http://{}/readyz", gateway.admin);
    wait_for("only keys to be missing", LIMIT, async || {
        let answer = send(client::get(&url)).await;
        if answer.status == 503 && answer.text() == "keys\n" { Ok(()) } else { Err(answer.text().to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn a_gateway_that_starts_while_the_api_server_is_away_knows_service_accounts_by_the_kept_keys() {
    let issuer = TestIssuer::new("jwksFile: KEYS");
    let server = Faulty::start(FaultyMode::Streamable).await;
    let mut api = FakeApi::start().await;
    api.go_away().await;
    let mounted = tempfile::tempdir().expect("a folder");
    let slot = Snapshot::new(vec![Server::from_url("one", &server.url())]);
    fs::create_dir(mounted.path().join("s")).expect("a folder");
    fs::write(mounted.path().join("s/servers.json"), slot.to_text()).expect("written");
    let keys = fs::read_to_string(issuer.folder.path().join("keys.json")).expect("keys");
    let kept = |age: u64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time").as_secs();
        let fetched = i64::try_from(now - age).expect("a time");
        let keys = RawValue::from_string(keys.clone()).expect("JSON");
        KeptKeys { version: 1, fetched, issuer: "https://issuer.invalid".into(), algorithms: None, keys }.to_text()
    };
    let file = mounted.path().join("keys.json");
    let options = || Options {
        configmaps: Some("s".into()),
        configmaps_mounted: Some(mounted.path().into()),
        allowed_addresses: Some("127.0.0.0/8".into()),
        kubeconfig: Some(api.kubeconfig()),
        kubernetes_tokens: Some("true".into()),
        kubernetes_keys_file: Some(file.clone()),
        ..options()
    };
    fs::write(&file, kept(3600)).expect("written");
    let gateway = TestGateway::start(options()).await;
    gateway.connected(1).await;
    assert_eq!(send(call(&gateway, &issuer.token("portcullis"))).await.status, 200);
    is_error(
        &send(call(&gateway, &issuer.token("elsewhere"))).await,
        401,
        "the token is not meant for this service (aud)",
    );

    fs::write(&file, kept(25 * 3600)).expect("written");
    let late = TestGateway::start(options()).await;
    late.connected(1).await;
    assert_ne!(send(call(&late, &issuer.token("portcullis"))).await.status, 200, "they are too old");
}

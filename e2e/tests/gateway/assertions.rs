//! Servers learn by assertions who calls: each verifies them with the keys that the gateway publishes.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use ::http::Method;
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{DecodingKey, Validation, decode, decode_header};
use portcullis_e2e::faulty::{Faulty, FaultyMode, RequestFault, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::{SECRET, after, mint_with};
use portcullis_gateway::Options;
use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519};
use serde_json::{Value, json};

const ISSUER: &str = "https://gateway.example.com/tools";

const STATE_DEADLINE: Duration = Duration::from_secs(20);

const HOUR: Duration = Duration::from_secs(3600);

/// A folder with manifests, and a file with keys beside them.
struct Setting {
    manifests: Manifests,
    keys: tempfile::TempDir,
}

impl Setting {
    fn new() -> Self {
        let setting = Self { manifests: Manifests::new(), keys: tempfile::tempdir().expect("a folder") };
        setting.write_keys(&[&new_key()]);
        setting
    }

    fn key_file(&self) -> PathBuf {
        self.keys.path().join("keys.pem")
    }

    /// Replaces the file as a mounted Secret changes: by a rename.
    fn write_keys(&self, keys: &[&str]) {
        let fresh = self.keys.path().join("new");
        fs::write(&fresh, keys.concat()).expect("a file");
        fs::rename(fresh, self.key_file()).expect("a rename");
    }

    fn options(&self) -> Options {
        Options {
            assertion_keys: Some(self.key_file()),
            assertion_issuer: Some(ISSUER.into()),
            ..self.manifests.options()
        }
    }
}

fn new_key() -> String {
    KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).expect("a key").serialize_pem()
}

async fn document(gateway: &TestGateway, path: &str) -> Value {
    // Without a token: servers have none.
    let answer = http::get(&gateway.url(path)).send().await.expect("an answer");
    assert_eq!((answer.status, answer.headers["cache-control"].to_str().ok()), (200, Some("public, max-age=60")));
    answer.json()
}

/// The claims of an assertion, as a server verifies it that has this origin.
fn verified(authorization: &str, keys: &Value, audience: &str) -> Result<Value, String> {
    let token = authorization.strip_prefix("Bearer ").ok_or("no bearer token")?;
    let keys: JwkSet = serde_json::from_value(keys.clone()).expect("a key set");
    let head = decode_header(token).map_err(|error| error.to_string())?;
    let key = keys.find(head.kid.as_deref().unwrap_or_default()).ok_or("an unknown key")?;
    let mut validation = Validation::new(head.alg);
    validation.set_audience(&[audience]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["iss", "sub", "aud", "exp"]);
    validation.leeway = 0;
    let key = DecodingKey::from_jwk(key).expect("a key");
    decode::<Value>(token, &key, &validation).map(|data| data.claims).map_err(|error| error.to_string())
}

fn origin(server: &Faulty) -> String {
    format!("http://{}", server.address())
}

/// The credentials of the calls of a tool that a server has seen.
fn shown(server: &Faulty) -> Vec<String> {
    server.seen().of("tools/call").iter().map(|request| request.header("authorization").to_owned()).collect()
}

/// The claims without those that differ each time.
fn stable(mut claims: Value) -> Value {
    for name in ["iat", "exp", "jti"] {
        assert!(claims.as_object_mut().and_then(|all| all.remove(name)).is_some(), "{name}");
    }
    claims
}

fn token(claims: Value) -> String {
    mint_with(SECRET.as_bytes(), &claims)
}

async fn call_as(gateway: &TestGateway, token: &str, tool: &str) -> (u16, Value) {
    let body = format!(r#"{{"method":"{tool}","args":{{}}}}"#);
    let request = http::request(Method::POST, &gateway.url("/tools")).bearer(token).body(body);
    let answer = request.limit(LIMIT).send().await.expect("an answer");
    (answer.status, answer.json())
}

const ASSERTION: &str = "identity: {assertion: {claims: [groups], includeTool: true}}";

#[tokio::test]
async fn every_kind_of_server_is_shown_who_calls_and_verifies_it_by_what_the_gateway_publishes() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        for session in ["Shared", "PerClient"] {
            let server = Faulty::start(mode).await;
            let setting = Setting::new();
            setting.manifests.add("one", &server.url(), &format!("{ASSERTION}\nsession: {session}"));
            let gateway = TestGateway::start(setting.options()).await;
            gateway.connected(1).await;
            let alice = token(json!({"sub": "alice", "groups": ["sre"], "email": "a@example.com", "exp": after(HOUR)}));
            assert_eq!(call_as(&gateway, &alice, "echo").await.0, 200);
            let discovery = document(&gateway, "/.well-known/openid-configuration").await;
            let expected = json!({
                "issuer": ISSUER,
                "jwks_uri": format!("{ISSUER}/.well-known/jwks.json"),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"],
            });
            assert_eq!(discovery, expected);
            let keys = document(&gateway, "/.well-known/jwks.json").await;
            let [shown] = &shown(&server)[..] else { panic!("one call") };
            let claims = verified(shown, &keys, &origin(&server)).map(stable);
            let expected = json!({
                "iss": ISSUER,
                "sub": "alice",
                "act": {"sub": ISSUER},
                "aud": origin(&server),
                "groups": ["sre"],
                "tool": "echo",
            });
            assert_eq!(claims, Ok(expected), "{mode:?} {session}");
            assert!(verified(shown, &keys, "http://127.0.0.1:1").is_err(), "it is for this server alone");
        }
    }
}

#[tokio::test]
async fn each_caller_and_tool_has_an_assertion_of_its_own_which_calls_share_and_nothing_shows_it() {
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("echo"), Tool::echo("other")]).await;
    let setting = Setting::new();
    setting.manifests.add("one", &server.url(), ASSERTION);
    let gateway = TestGateway::start(Options { log_payloads: Some("true".into()), ..setting.options() }).await;
    gateway.connected(1).await;
    let group = "a-group-that-is-nowhere-else";
    let tokens = ["alice", "bob"].map(|sub| token(json!({"sub": sub, "groups": [group], "exp": after(HOUR)})));
    for (caller, tool) in [(0, "echo"), (0, "echo"), (1, "echo"), (0, "other"), (1, "echo")] {
        assert_eq!(call_as(&gateway, &tokens[caller], tool).await.0, 200);
    }
    let all = shown(&server);
    let keys = document(&gateway, "/.well-known/jwks.json").await;
    let told = all.iter().map(|shown| {
        let claims = verified(shown, &keys, &origin(&server)).expect("a good assertion");
        format!("{} {}", claims["sub"].as_str().unwrap_or_default(), claims["tool"].as_str().unwrap_or_default())
    });
    assert_eq!(told.collect::<Vec<_>>(), ["alice echo", "alice echo", "bob echo", "alice other", "bob echo"]);
    assert_eq!((all[0] == all[1], all[2] == all[4]), (true, true), "it is made once");
    let said = format!("{}{}{}", gateway.servers().await, gateway.log(), gateway.metrics().await);
    for secret in all.iter().map(|shown| shown.rsplit('.').next().unwrap_or_default()).chain([group]) {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn keys_are_rotated_under_load_without_a_call_that_its_server_would_refuse() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let setting = Setting::new();
    let [first, second] = [new_key(), KeyPair::generate_for(&PKCS_ED25519).expect("a key").serialize_pem()];
    setting.write_keys(&[&first]);
    setting.manifests.add("one", &server.url(), "identity: {assertion: {}}");
    let gateway = TestGateway::start(setting.options()).await;
    gateway.connected(1).await;
    // A server that knows the keys of the moment before each call, as one that has just fetched them.
    let mut known = document(&gateway, "/.well-known/jwks.json").await;
    let mut kids = Vec::new();
    let steps: [(&[&str], usize); 4] =
        [(&[&first], 1), (&[&first, &second], 2), (&[&second, &first], 2), (&[&second], 1)];
    for (keys, count) in steps {
        setting.write_keys(keys);
        let (mut calls, until) = (0, Instant::now() + STATE_DEADLINE);
        while calls < 20 {
            assert!(Instant::now() < until, "the new keys are in use in time");
            // A new token each time, so that each call needs a signature.
            let caller = token(json!({"sub": "alice", "exp": after(HOUR), "jti": kids.len()}));
            assert_eq!(call_as(&gateway, &caller, "echo").await.0, 200);
            let shown = shown(&server).pop().expect("a call");
            verified(&shown, &known, &origin(&server)).expect("a good assertion");
            let kid = decode_header(shown.trim_start_matches("Bearer ")).expect("a head").kid.expect("a kid");
            known = document(&gateway, "/.well-known/jwks.json").await;
            let is_new = known["keys"].as_array().map(Vec::len) == Some(count) && known["keys"][0]["kid"] == json!(kid);
            calls += usize::from(is_new);
            kids.push(kid);
        }
    }
    kids.dedup();
    assert_eq!(kids.len(), 2, "one key followed the other");
    assert!(!gateway.log().contains(&second[40..60]));
}

#[tokio::test]
async fn a_caller_that_cannot_be_named_is_told_why_and_nothing_is_sent() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let setting = Setting::new();
    setting.manifests.add("one", &server.url(), ASSERTION);
    let gateway = TestGateway::start(setting.options()).await;
    gateway.connected(1).await;
    let begin = "the call was not sent, because the server cannot be shown who calls: ";
    let nobody = token(json!({"exp": after(HOUR)}));
    let message = format!("{begin}the caller's token has no subject: use a token with the claim sub");
    let expected = (502, json!({"error": {"message": message, "code": 502}}));
    assert_eq!(call_as(&gateway, &nobody, "echo").await, expected);
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{}}}"#;
    let answer = http::request(Method::POST, &gateway.url("/mcp"))
        .bearer(&nobody)
        .header("accept", "application/json, text/event-stream")
        .header("mcp-protocol-version", "2025-11-25")
        .body(body)
        .send()
        .await
        .expect("an answer");
    let error = json!({"code": -32603, "message": message, "data": {"reason": "identity"}});
    assert_eq!((answer.status, answer.json()), (200, json!({"jsonrpc": "2.0", "id": 1, "error": error})));
    let long = token(json!({"sub": "a", "groups": "x".repeat(4096), "exp": after(HOUR)}));
    let message =
        format!("{begin}the caller's claims in assertion.claims take more than 4096 bytes: name fewer claims");
    assert_eq!(call_as(&gateway, &long, "echo").await, (502, json!({"error": {"message": message, "code": 502}})));
    assert_eq!(shown(&server), Vec::<String>::new());
}

#[tokio::test]
async fn a_call_that_goes_to_a_second_server_shows_that_server_an_assertion_of_its_own() {
    let servers = [Faulty::start(FaultyMode::Streamable).await, Faulty::start(FaultyMode::Streamable).await];
    let setting = Setting::new();
    for (index, server) in servers.iter().enumerate() {
        let more = format!("{ASSERTION}\npool: both\npriority: {index}");
        setting.manifests.add(&format!("s{index}"), &server.url(), &more);
    }
    let gateway = TestGateway::start(setting.options()).await;
    gateway.connected(2).await;
    servers[0].behave(|faults| faults.call = RequestFault::status(429));
    let alice = token(json!({"sub": "alice", "exp": after(HOUR)}));
    assert_eq!(call_as(&gateway, &alice, "echo").await.0, 200);
    let keys = document(&gateway, "/.well-known/jwks.json").await;
    for (server, other) in [(&servers[0], &servers[1]), (&servers[1], &servers[0])] {
        let [shown] = &shown(server)[..] else { panic!("one call each") };
        assert!(verified(shown, &keys, &origin(server)).is_ok() && verified(shown, &keys, &origin(other)).is_err());
    }
}

#[tokio::test]
async fn a_gateway_without_keys_publishes_nothing() {
    let gateway = TestGateway::start(Manifests::new().options()).await;
    for path in ["/.well-known/openid-configuration", "/.well-known/jwks.json"] {
        assert_eq!(http::get(&gateway.url(path)).send().await.expect("an answer").status, 404);
    }
    let manifests = Manifests::new();
    let before = || manifests.options();
    let refused = |options: Options| options.check().map(|_| ()).expect_err("refused");
    let keys = Some(Path::new("/nowhere/keys.pem").to_owned());
    let lonely = refused(Options { assertion_keys: keys, ..before() });
    assert_eq!(lonely, ["ASSERTION_KEYS_FILE is set without an issuer: set ASSERTION_ISSUER or PUBLIC_URL too"]);
    let issuer = Some("https://user:secret@host/".into());
    let wrong = refused(Options { assertion_issuer: issuer, ..before() });
    assert_eq!(wrong, ["ASSERTION_ISSUER must be an http or https URL without user name, query and fragment"]);
}

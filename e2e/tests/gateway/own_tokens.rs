//! The gateway's own tokens: requested from the API server for each audience, rotated, ended, refused, and never shown.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_e2e::fake_tokens::{ACCOUNT, FakeTokens, claims};
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::reload::sessions;

const IDENTITY: &str = "identity: {serviceAccountToken: {}}";

/// The parts of a test: a server, its manifest, and the API server that issues tokens.
struct TokenStage {
    api: FakeTokens,
    server: Faulty,
    manifests: Manifests,
}

impl TokenStage {
    async fn new(mode: FaultyMode) -> Self {
        let stage =
            Self { api: FakeTokens::start().await, server: Faulty::start(mode).await, manifests: Manifests::new() };
        stage.manifests.add("one", &stage.server.url(), IDENTITY);
        stage
    }

    fn origin(&self) -> String {
        format!("http://{}", self.server.address())
    }

    fn options(&self) -> Options {
        Options {
            identity_service_account: Some(ACCOUNT.into()),
            kubeconfig: Some(self.api.kubeconfig()),
            ..self.manifests.options()
        }
    }

    async fn gateway(&self) -> TestGateway {
        TestGateway::start(self.options()).await
    }

    /// The tokens that the server has got, by what they say, each once.
    fn tokens(&self) -> BTreeSet<String> {
        let seen = self.server.seen();
        let bearers = seen.requests.iter().map(|request| {
            let bearer = request.header("authorization").strip_prefix("Bearer ");
            claims(bearer.unwrap_or_else(|| panic!("no token: {request:?}"))).expect("a token").to_string()
        });
        bearers.collect()
    }
}

#[tokio::test]
async fn every_request_to_a_server_carries_a_token_for_its_origin_and_nobody_else_sees_it() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let stage = TokenStage::new(mode).await;
        stage.manifests.add_in("team", "two", &stage.server.url(), IDENTITY);
        let gateway = stage.gateway().await;
        gateway.connected(2).await;
        assert_eq!(gateway.call("echo", "{}").await.status, 200);
        let expected = json!({"aud": [stage.origin()], "sub": "system:serviceaccount:portcullis:gateway", "n": 1});
        assert_eq!(stage.tokens(), BTreeSet::from([expected.to_string()]));
        // Servers of one origin share a token.
        assert_eq!(stage.api.issued(), [stage.origin()]);
        let shown = format!(
            "{}{}{}{}",
            gateway.servers().await,
            gateway.health().await,
            gateway.log(),
            gateway.metrics().await
        );
        assert!(!shown.contains("hunter"), "{shown}");
        gateway.counts(r#"portcullis_token_requests_total{outcome="issued"}"#, 1.0).await;
    }
}

#[tokio::test]
async fn a_token_is_renewed_before_its_end_without_a_failed_call_and_without_another_session() {
    join_all([FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern].map(async |mode| {
        let stage = TokenStage::new(mode).await;
        stage.api.live_for(12);
        let gateway = stage.gateway().await;
        gateway.is_connected("one").await;
        let before = sessions(&stage.server);
        let begin = Instant::now();
        // Each token is in use long before the next is due.
        while stage.tokens().len() < 3 {
            assert_eq!(gateway.call("echo", "{}").await.status, 200);
            assert!(begin.elapsed() < 3 * LIMIT, "tokens: {:?}", stage.api.issued());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(sessions(&stage.server), before);
    }))
    .await;
}

#[tokio::test]
async fn a_token_stays_in_use_while_the_api_server_is_away_and_after_its_end_the_server_gets_nothing() {
    let mut stage = TokenStage::new(FaultyMode::Streamable).await;
    stage.api.live_for(20);
    let gateway = stage.gateway().await;
    gateway.is_connected("one").await;
    stage.api.go_away().await;
    let before = stage.tokens();
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    let message = gateway.has_reason("one", "IdentityUnavailable").await;
    let expected = format!(
        "the API server issues no token for the audience {}: it cannot be reached; the gateway tries again",
        stage.origin()
    );
    assert_eq!(message, expected);
    assert_eq!(stage.tokens(), before);
    assert_ne!(gateway.call("echo", "{}").await.status, 200);
    let seen = stage.server.seen().connections;
    stage.api.listen().await;
    gateway.is_connected("one").await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    assert!(stage.server.seen().connections > seen);
    assert_eq!(stage.tokens().len(), before.len() + 1);
}

#[tokio::test]
async fn a_server_is_not_contacted_until_the_api_server_gives_a_token() {
    let stage = TokenStage::new(FaultyMode::Streamable).await;
    stage.api.refuse(Some(403));
    let gateway = stage.gateway().await;
    assert_eq!(
        gateway.has_reason("one", "TokenRequestDenied").await,
        "the API server denies tokens of service account portcullis/gateway to the gateway: give it `create` on \
         serviceaccounts/token for this name, as identity.serviceAccountTokens of the chart does"
    );
    stage.api.refuse(Some(404));
    assert_eq!(
        has_message(&gateway, "does not know").await,
        "the API server does not know service account portcullis/gateway: correct the name that the gateway is given"
    );
    stage.api.refuse(Some(422));
    let refused = format!(
        "the API server refuses a token for the audience {} with status 422: use another audience",
        stage.origin()
    );
    assert_eq!(has_message(&gateway, "422").await, refused);
    stage.api.refuse(Some(500));
    gateway.has_reason("one", "IdentityUnavailable").await;
    assert_eq!((stage.server.seen().connections, stage.api.issued().len()), (0, 0));
    stage.api.refuse(None);
    gateway.is_connected("one").await;
    wait_for("the reason to go", LIMIT, async || gateway.server("one").await["reason"].is_null()).await;
}

/// Waits for a message with this part.
async fn has_message(gateway: &TestGateway, part: &str) -> String {
    wait_for(&format!("a message with {part:?}"), 2 * LIMIT, async || {
        let view = gateway.server("one").await;
        let message = view["last_error"].as_str().unwrap_or_default().to_owned();
        if message.contains(part) { Ok(message) } else { Err(view) }
    })
    .await
}

#[tokio::test]
async fn no_server_gets_a_token_that_is_good_elsewhere() {
    let stage = TokenStage::new(FaultyMode::Streamable).await;
    let url = stage.server.url();
    let add = |name: &str, audience: &str| {
        stage.manifests.add(name, &url, &format!("identity: {{serviceAccountToken: {{audience: '{audience}'}}}}"));
    };
    add("one", "https://elsewhere.example");
    add("api-by-name", "https://kubernetes.default.svc");
    add("api-by-proof", "k3s");
    add("gateway", "tools");
    add("allowed", "search");
    stage.api.accept("k3s");
    let allowed =
        json!({"default": ["k3s", "tools", "search", "https://kubernetes.default.svc"], "team": ["elsewhere"]});
    let options = Options {
        allowed_audiences: Some(allowed.to_string()),
        kubernetes_tokens: Some("true".into()),
        kubernetes_audience: Some("tools".into()),
        ..stage.options()
    };
    let gateway = TestGateway::start(options).await;
    let origin = stage.origin();
    let setting = "ALLOWED_AUDIENCES";
    for (server, message) in [
        (
            "one",
            format!(
                "the audience https://elsewhere.example is not the origin of the server's URL, {origin}: leave the \
                 audience out, or add it for namespace default to {setting}"
            ),
        ),
        (
            "api-by-name",
            "the API server accepts tokens for the audience https://kubernetes.default.svc, so no server may have one: \
             use another audience"
                .to_owned(),
        ),
        (
            "api-by-proof",
            "the API server accepts tokens for the audience k3s, so no server may have one: use another audience"
                .to_owned(),
        ),
        (
            "gateway",
            "this gateway accepts tokens for the audience tools, so no server may have one: use another audience"
                .to_owned(),
        ),
    ] {
        assert_eq!(gateway.has_reason(server, "AudienceNotAllowed").await, message);
    }
    gateway.is_connected("allowed").await;
    let audiences: BTreeSet<String> = stage.api.issued().into_iter().collect();
    assert_eq!(audiences, BTreeSet::from(["k3s".to_owned(), "search".to_owned()]));
    let tokens = stage.tokens();
    assert!(tokens.iter().all(|token| token.contains("search")), "{tokens:?}");
}

#[tokio::test]
async fn lists_and_checks_have_credentials_of_their_own_where_a_server_wants_them() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let stage = TokenStage::new(mode).await;
        let more = format!(
            "{IDENTITY}\nheaders: [{{name: X-Team, value: all}}]\nhealthCheck: {{intervalSeconds: 5}}\nlisting: \
             {{headers: [{{name: authorization, prefix: 'Bearer ', secretRef: {{name: lists, key: token}}}}]}}"
        );
        stage.manifests.secret("lists", "token", "hunter2");
        stage.manifests.add("one", &stage.server.url(), &more);
        let gateway = stage.gateway().await;
        gateway.is_connected("one").await;
        let values = |is_call: bool| -> BTreeSet<String> {
            let seen = stage.server.seen();
            let requests = seen.requests.iter().filter(|it| (it.method.as_deref() == Some("tools/call")) == is_call);
            requests.map(|it| format!("{} {}", it.header("authorization"), it.header("x-team"))).collect()
        };
        assert_eq!(gateway.call("echo", "{}").await.status, 200);
        assert_eq!(values(false), BTreeSet::from(["Bearer hunter2 all".to_owned()]));
        let calls = values(true);
        let call = calls.first().expect("a call").strip_prefix("Bearer ").and_then(|it| it.strip_suffix(" all"));
        assert_eq!(claims(call.expect("a bearer")).expect("a token")["aud"], json!([stage.origin()]));
        assert_eq!(calls.len(), 1);
        // A changed value counts from the next request on, in the same session.
        let before = sessions(&stage.server);
        stage.manifests.secret("lists", "token", "hunter3");
        wait_for("a check with the new value", 2 * LIMIT, async || {
            let values = values(false);
            if values.contains("Bearer hunter3 all") { Ok(()) } else { Err(values) }
        })
        .await;
        assert_eq!(sessions(&stage.server), before);
        stage.manifests.add("one", &stage.server.url(), &more.replace("key: token", "key: none"));
        gateway.has_reason("one", "SecretKeyMissing").await;
    }
}

#[tokio::test]
async fn an_audience_that_is_no_longer_allowed_ends_the_session() {
    let stage = TokenStage::new(FaultyMode::Streamable).await;
    let gateway = stage.gateway().await;
    gateway.is_connected("one").await;
    stage.manifests.add("one", &stage.server.url(), "identity: {serviceAccountToken: {audience: other}}");
    gateway.has_reason("one", "AudienceNotAllowed").await;
    assert_ne!(gateway.call("echo", "{}").await.status, 200);
    // Without identity the server is contacted without a token, as its manifest says.
    let before = stage.server.seen().requests.len();
    stage.manifests.add("one", &stage.server.url(), "");
    gateway.is_connected("one").await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    let seen = stage.server.seen();
    let with_token = seen.requests.iter().skip(before).filter(|request| !request.header("authorization").is_empty());
    assert_eq!(with_token.count(), 0);
}

#[tokio::test]
async fn without_an_api_server_a_server_with_an_identity_is_a_clear_problem() {
    let stage = TokenStage::new(FaultyMode::Streamable).await;
    let gateway = TestGateway::start(stage.manifests.options()).await;
    assert_eq!(
        gateway.has_reason("one", "IdentityUnavailable").await,
        "the gateway has no token for the server, because IDENTITY_SERVICE_ACCOUNT is not set: set it to \
         NAMESPACE/NAME of its service account in a cluster"
    );
    assert_eq!(gateway.server("one").await["connected"], Value::Bool(false));
    assert_eq!(stage.server.seen().connections, 0);
}

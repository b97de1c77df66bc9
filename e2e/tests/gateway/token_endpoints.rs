//! Tokens of authorization servers: exchanged for those of callers, and of the gateway itself. The endpoint is ours, so
//! that it can misbehave; a real one is in `real_identity`.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, Method, StatusCode, header};
use portcullis_e2e::fake_tokens::{ACCOUNT, FakeTokens, claims};
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::token::{SECRET, after, mint_with};
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;

const HOUR: Duration = Duration::from_secs(3600);
const CLIENT_SECRET: &str = "a:secret that is nowhere else";

/// A form, and its `Authorization`.
type SeenForm = (Vec<(String, String)>, String);

/// A token endpoint on a free port. It ends when dropped.
struct Endpoint {
    url: String,
    state: Arc<EndpointState>,
    _tasks: JoinSet<()>,
}

#[derive(Default)]
struct EndpointState {
    /// The forms that came, and their `Authorization`.
    seen: Mutex<Vec<SeenForm>>,
    /// The answer: status, body, `Location`; none: a token.
    answer: Mutex<Option<(u16, String, Option<String>)>>,
    life: Mutex<u64>,
    delay: Mutex<Duration>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/token", listener.local_addr().expect("it is bound"));
        let state = Arc::new(EndpointState { life: Mutex::new(3600), ..EndpointState::default() });
        let router = Router::new().route("/token", post(answer)).with_state(state.clone());
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { drop(axum::serve(listener, router).await) });
        Self { url, state, _tasks: tasks }
    }

    fn answers(&self, answer: Option<(u16, &str, Option<&str>)>) {
        let owned = answer.map(|(status, body, to)| (status, body.to_owned(), to.map(str::to_owned)));
        *self.state.answer.lock().expect("no panic") = owned;
    }

    fn seen(&self) -> Vec<SeenForm> {
        self.state.seen.lock().expect("no panic").clone()
    }
}

async fn answer(State(state): State<Arc<EndpointState>>, headers: HeaderMap, body: String) -> Response {
    let form: Vec<(String, String)> = form_pairs(&body);
    let authorization = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let number = {
        let mut seen = state.seen.lock().expect("no panic");
        seen.push((form, authorization.to_owned()));
        seen.len()
    };
    let delay = *state.delay.lock().expect("no panic");
    sleep(delay).await;
    if let Some((status, body, to)) = state.answer.lock().expect("no panic").clone() {
        let status = StatusCode::from_u16(status).expect("a status");
        let location = to.map(|to| [(header::LOCATION, to)]);
        return (status, location.into_iter().flatten().collect::<Vec<_>>().into_headers(), body).into_response();
    }
    let life = *state.life.lock().expect("no panic");
    let token = format!("issued-token-{number}");
    json!({"access_token": token, "token_type": "Bearer", "expires_in": life}).to_string().into_response()
}

trait IntoHeaders {
    fn into_headers(self) -> HeaderMap;
}

impl IntoHeaders for Vec<(header::HeaderName, String)> {
    fn into_headers(self) -> HeaderMap {
        self.into_iter().map(|(name, value)| (name, value.parse().expect("a value"))).collect()
    }
}

fn form_pairs(body: &str) -> Vec<(String, String)> {
    let decoded = |text: &str| {
        let bytes = text.replace('+', " ");
        let mut out = Vec::new();
        let mut rest = bytes.bytes();
        while let Some(byte) = rest.next() {
            if byte == b'%' {
                let hex: String = rest.by_ref().take(2).map(char::from).collect();
                out.push(u8::from_str_radix(&hex, 16).expect("two digits"));
            } else {
                out.push(byte);
            }
        }
        String::from_utf8(out).expect("text")
    };
    body.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

/// The options of a gateway that may send tokens to this endpoint.
fn options(manifests: &Manifests, endpoint: &Endpoint) -> Options {
    let token_urls = Some(json!({"*": [endpoint.url]}).to_string());
    Options { token_urls, ..manifests.options() }
}

fn exchange(endpoint: &Endpoint, more: &str) -> String {
    let auth = "clientAuth: {clientId: gateway, secretRef: {name: client, key: secret}}";
    format!("identity: {{exchange: {{tokenUrl: '{}', {auth}{more}}}}}", endpoint.url)
}

fn token(sub: &str, life: Duration) -> String {
    mint_with(SECRET.as_bytes(), &json!({"sub": sub, "exp": after(life)}))
}

async fn call_as(gateway: &TestGateway, token: &str) -> (u16, Value) {
    let body = r#"{"method":"echo","args":{}}"#;
    let request = client::request(Method::POST, &gateway.url("/tools")).bearer(token).body(body);
    let answer = request.limit(LIMIT).send().await.expect("an answer");
    (answer.status, answer.json())
}

fn shown(server: &Faulty) -> Vec<String> {
    server.seen().of("tools/call").iter().map(|request| request.header("authorization").to_owned()).collect()
}

fn refused(message: &str, code: u16) -> (u16, Value) {
    let message = format!("the call was not sent, because the server cannot be shown who calls: {message}");
    (code, json!({"error": {"message": message, "code": code}}))
}

#[tokio::test]
async fn a_callers_token_is_exchanged_once_for_all_its_calls_and_nothing_shows_either() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.secret("client", "secret", &format!("{CLIENT_SECRET}\n"));
    manifests.add("one", &format!("{}?key=1", server.url()), &exchange(&endpoint, ", scopes: [tools, more]"));
    let gateway = TestGateway::start(options(&manifests, &endpoint)).await;
    gateway.connected(1).await;
    assert_eq!(endpoint.seen(), [], "lists are not made for a caller");
    *endpoint.state.delay.lock().expect("no panic") = Duration::from_millis(300);
    let (alice, bob) = (token("alice", HOUR), token("bob", HOUR));
    let together = futures_util::future::join_all((0..8).map(|_| call_as(&gateway, &alice))).await;
    assert!(together.iter().all(|(status, _)| *status == 200), "{together:?}");
    assert_eq!((call_as(&gateway, &alice).await.0, call_as(&gateway, &bob).await.0), (200, 200));
    let expected = |subject: &str| {
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        let form = [
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", subject),
            ("subject_token_type", kind),
            ("requested_token_type", kind),
            ("resource", &server.url()),
            ("scope", "tools more"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
        let client = STANDARD.encode("gateway:a%3Asecret+that+is+nowhere+else");
        (form.to_vec(), format!("Basic {client}"))
    };
    assert_eq!(endpoint.seen(), [expected(&alice), expected(&bob)]);
    let mut all = shown(&server);
    assert_eq!(all.pop().as_deref(), Some("Bearer issued-token-2"));
    assert!(all.len() == 9 && all.iter().all(|shown| shown == "Bearer issued-token-1"), "{all:?}");
    let count = r#"portcullis_token_endpoint_requests_total{grant="exchange",outcome="issued"}"#;
    assert_eq!(gateway.metric(count).await, Some(2.0));
    let said = format!("{}{}{}", gateway.servers().await, gateway.log(), gateway.metrics().await);
    for secret in ["issued-token", "nowhere else", &alice[alice.len() - 20..]] {
        assert!(!said.contains(secret), "{said}");
    }
}

#[tokio::test]
async fn an_exchanged_token_is_not_used_beyond_its_own_end_nor_beyond_that_of_the_callers() {
    for (life, own_life) in [(4, HOUR), (3600, Duration::from_secs(4))] {
        let (endpoint, server, manifests) =
            (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
        manifests.secret("client", "secret", CLIENT_SECRET);
        manifests.add("one", &server.url(), &exchange(&endpoint, ""));
        let gateway =
            TestGateway::start(Options { jwt_leeway: Some("0".into()), ..options(&manifests, &endpoint) }).await;
        gateway.connected(1).await;
        *endpoint.state.life.lock().expect("no panic") = life;
        let alice = token("alice", own_life);
        assert_eq!(call_as(&gateway, &alice).await.0, 200);
        wait_for("another exchange, or the end of the caller's token", LIMIT, async || {
            let (status, _) = call_as(&gateway, &alice).await;
            status == 401 || status == 503 || endpoint.seen().len() > 1
        })
        .await;
    }
}

#[tokio::test]
async fn what_the_endpoint_says_instead_of_a_token_is_told_by_its_code_alone_and_nothing_is_sent() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.secret("client", "secret", CLIENT_SECRET);
    manifests.add("one", &server.url(), &exchange(&endpoint, ""));
    let gateway = TestGateway::start(options(&manifests, &endpoint)).await;
    gateway.connected(1).await;
    let elsewhere = Faulty::start(FaultyMode::Streamable).await;
    let begin = "the token endpoint does not exchange the caller's token: ";
    let cases = [
        (
            (400, r#"{"error":"invalid_grant","error_description":"s3cret"}"#, None),
            "it answered with the error invalid_grant: it does not accept the token that was shown",
            502,
        ),
        (
            (401, r#"{"error":"invalid_client"}"#, None),
            "it answered with the error invalid_client: check clientAuth",
            502,
        ),
        ((400, r#"{"error":"s3cret"}"#, None), "its answer has status 400, not 200 (redirects are not followed)", 503),
        (
            (200, r#"{"access_token":"a"}"#, None),
            "its answer is unusable: it is not JSON with access_token and token_type",
            503,
        ),
        ((307, "", Some(elsewhere.url())), "its answer has status 307, not 200 (redirects are not followed)", 503),
        ((500, "s3cret", None), "its answer has status 500, not 200 (redirects are not followed)", 503),
    ];
    for (number, ((status, body, to), problem, code)) in cases.into_iter().enumerate() {
        endpoint.answers(Some((status, body, to.as_deref())));
        let caller = token(&format!("caller-{number}"), HOUR);
        let expected = refused(&format!("{begin}{problem}"), code);
        let before = endpoint.seen().len();
        assert_eq!(call_as(&gateway, &caller).await, expected);
        assert_eq!(
            (call_as(&gateway, &caller).await, endpoint.seen().len()),
            (expected, before + 1),
            "it is remembered"
        );
    }
    assert_eq!((shown(&server), elsewhere.seen().connections), (Vec::new(), 0));
    endpoint.answers(Some((401, r#"{"error":"invalid_client"}"#, None)));
    wait_for("the reason of the server", LIMIT, async || {
        call_as(&gateway, &token("dave", HOUR)).await;
        let view = gateway.server("one").await;
        if view["reason"] == "ExchangeFailed" && view["connected"] == true { Ok(()) } else { Err(view) }
    })
    .await;
    endpoint.answers(None);
    wait_for("the reason to go", LIMIT, async || {
        call_as(&gateway, &token("erin", HOUR)).await;
        let view = gateway.server("one").await;
        if view["reason"].is_null() { Ok(()) } else { Err(view) }
    })
    .await;
    assert!(!format!("{}{}", gateway.servers().await, gateway.log()).contains("s3cret"));
}

#[tokio::test]
async fn no_token_goes_to_an_endpoint_that_is_not_allowed_nor_for_another_server() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.secret("client", "secret", CLIENT_SECRET);
    manifests.add_in("team-a", "other-endpoint", &server.url(), &exchange(&endpoint, ""));
    let token_urls = Some(json!({"team-b": [endpoint.url]}).to_string());
    manifests.add_in("team-b", "other-audience", &server.url(), &exchange(&endpoint, ", audience: 'https://payments'"));
    manifests.add_in(
        "team-b",
        "other-resource",
        &server.url(),
        &exchange(&endpoint, ", resource: 'http://127.0.0.1:1/mcp'"),
    );
    let gateway = TestGateway::start(Options { token_urls, ..manifests.options() }).await;
    for (name, reason) in [
        ("team-a/other-endpoint", "TokenUrlNotAllowed"),
        ("team-b/other-audience", "AudienceNotAllowed"),
        ("team-b/other-resource", "AudienceNotAllowed"),
    ] {
        wait_for(&format!("the reason of {name}"), LIMIT, async || {
            let view = gateway.server(name).await;
            if view["reason"] == reason { Ok(()) } else { Err(view) }
        })
        .await;
    }
    assert_eq!((endpoint.seen(), server.seen().connections), (Vec::new(), 0));
}

#[tokio::test]
async fn the_gateways_own_token_is_sent_with_everything_and_renewed_before_it_ends() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    *endpoint.state.life.lock().expect("no panic") = 5;
    manifests.secret("client", "secret", CLIENT_SECRET);
    let auth = "clientAuth: {clientId: gateway, secretRef: {name: client, key: secret}}";
    let more = format!("identity: {{clientCredentials: {{tokenUrl: '{}', {auth}, scopes: [tools]}}}}", endpoint.url);
    manifests.add("one", &server.url(), &more);
    // The tenant's own client needs no consent of the gateway's operator.
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let (form, _) = endpoint.seen().remove(0);
    let expected = [("grant_type", "client_credentials"), ("resource", &server.url()), ("scope", "tools")];
    assert_eq!(form, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let requests = server.seen().requests.clone();
    assert!(requests.iter().all(|request| request.header("authorization") == "Bearer issued-token-1"));
    wait_for("calls with a renewed token", LIMIT, async || {
        assert_eq!(call_as(&gateway, &token("alice", HOUR)).await.0, 200);
        shown(&server).last().is_some_and(|shown| shown.ends_with("-3"))
    })
    .await;
    endpoint.answers(Some((400, r#"{"error":"invalid_scope"}"#, None)));
    assert_eq!(call_as(&gateway, &token("alice", HOUR)).await.0, 200, "the last token stays in use");
}

#[tokio::test]
async fn a_server_without_its_token_is_not_contacted_and_says_why() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    endpoint.answers(Some((400, r#"{"error":"invalid_scope","error_description":"s3cret"}"#, None)));
    manifests.secret("client", "secret", CLIENT_SECRET);
    let auth = "clientAuth: {clientId: gateway, secretRef: {name: client, key: secret}}";
    manifests.add(
        "one",
        &server.url(),
        &format!("identity: {{clientCredentials: {{tokenUrl: '{}', {auth}}}}}", endpoint.url),
    );
    let gateway = TestGateway::start(manifests.options()).await;
    let problem =
        "the token endpoint gives the gateway no token: it answered with the error invalid_scope: check scopes";
    gateway.fails("one", problem).await;
    assert_eq!(
        (gateway.server("one").await["reason"].clone(), server.seen().connections),
        (json!("ExchangeFailed"), 0)
    );
    endpoint.answers(None);
    gateway.connected(1).await;
}

/// A gateway with a service account whose tokens live so long, and the API server that issues them.
async fn with_account(manifests: &Manifests, endpoint: &Endpoint, seconds: u64) -> (FakeTokens, TestGateway) {
    let api = FakeTokens::start().await;
    api.live_for(seconds);
    let (identity_service_account, kubeconfig) = (Some(ACCOUNT.into()), Some(api.kubeconfig()));
    let options = Options { identity_service_account, kubeconfig, ..options(manifests, endpoint) };
    let gateway = TestGateway::start(options).await;
    (api, gateway)
}

/// A form in which the gateway's tokens are replaced by what they say.
fn with_claims(form: &[(String, String)]) -> Vec<(String, String)> {
    let read = |(name, value): &(String, String)| {
        let is_own = matches!(name.as_str(), "actor_token" | "client_assertion");
        let said = is_own.then(|| claims(value).expect("a token").to_string());
        (name.clone(), said.unwrap_or_else(|| value.clone()))
    };
    form.iter().map(read).collect()
}

fn pairs<const N: usize>(form: [(&str, &str); N]) -> Vec<(String, String)> {
    form.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec()
}

const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// What the gateway's own token says that the API server issued as this number for the origin of an endpoint.
fn own_token(endpoint: &Endpoint, number: u64) -> String {
    let origin = endpoint.url.strip_suffix("/token").expect("a path");
    json!({"aud": [origin], "sub": "system:serviceaccount:portcullis:gateway", "n": number}).to_string()
}

#[tokio::test]
async fn the_gateway_is_client_and_actor_of_an_exchange_by_its_service_account_token_and_needs_no_secret() {
    for id in [Some("gateway"), None] {
        let (endpoint, server, manifests) =
            (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
        let client_id = id.map(|id| format!("clientId: {id}, ")).unwrap_or_default();
        let auth = format!("clientAuth: {{{client_id}serviceAccountToken: {{}}}}");
        manifests.add(
            "one",
            &server.url(),
            &format!("identity: {{exchange: {{tokenUrl: '{}', {auth}}}}}", endpoint.url),
        );
        let (api, gateway) = with_account(&manifests, &endpoint, 3600).await;
        gateway.connected(1).await;
        let alice = token("alice", HOUR);
        wait_for("a call", LIMIT, async || {
            let answer = call_as(&gateway, &alice).await;
            if answer.0 == 200 { Ok(()) } else { Err(answer) }
        })
        .await;
        let kind = "urn:ietf:params:oauth:token-type:access_token";
        let (own, resource) = (own_token(&endpoint, 1), server.url());
        let mut expected = pairs([
            ("grant_type", "urn:ietf:params:oauth:grant-type:token-exchange"),
            ("subject_token", &alice),
            ("subject_token_type", kind),
            ("requested_token_type", kind),
            ("resource", &resource),
            ("actor_token", &own),
            ("actor_token_type", "urn:ietf:params:oauth:token-type:jwt"),
        ]);
        expected.extend(id.map(|id| ("client_id".to_owned(), id.to_owned())));
        expected.extend(pairs([("client_assertion_type", JWT_BEARER), ("client_assertion", &own)]));
        let seen = endpoint.seen();
        let [(form, authorization)] = &seen[..] else { panic!("one exchange: {seen:?}") };
        assert_eq!((with_claims(form), authorization.as_str()), (expected, ""));
        assert_eq!(shown(&server), ["Bearer issued-token-1"]);
        assert_eq!(api.issued().len(), 1, "one token, for the endpoint alone");
        let said = format!("{}{}{}", gateway.servers().await, gateway.log(), gateway.metrics().await);
        assert!(!said.contains("hunter") && !said.contains("issued-token"), "{said}");
    }
}

#[tokio::test]
async fn the_gateway_gets_tokens_for_itself_by_its_service_account_token_also_after_that_is_renewed() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    *endpoint.state.life.lock().expect("no panic") = 4;
    let auth = "clientAuth: {clientId: gateway, serviceAccountToken: {}}";
    let more = format!("identity: {{clientCredentials: {{tokenUrl: '{}', {auth}}}}}", endpoint.url);
    manifests.add("one", &server.url(), &more);
    let (_api, gateway) = with_account(&manifests, &endpoint, 12).await;
    gateway.connected(1).await;
    let resource = server.url();
    let expected = |number| {
        let own = own_token(&endpoint, number);
        let form = pairs([
            ("grant_type", "client_credentials"),
            ("resource", &resource),
            ("client_id", "gateway"),
            ("client_assertion_type", JWT_BEARER),
            ("client_assertion", &own),
        ]);
        (form, String::new())
    };
    let seen = || endpoint.seen().iter().map(|(form, auth)| (with_claims(form), auth.clone())).collect::<Vec<_>>();
    assert_eq!(seen().first(), Some(&expected(1)));
    wait_for("a request with the renewed token", 2 * LIMIT, async || {
        assert_eq!(call_as(&gateway, &token("alice", HOUR)).await.0, 200);
        let seen = seen();
        if seen.last() == Some(&expected(2)) { Ok(()) } else { Err(seen) }
    })
    .await;
}

#[tokio::test]
async fn the_gateways_service_account_token_goes_to_no_endpoint_and_is_for_no_audience_that_is_not_allowed() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    let own = |url: &str, audience: &str| {
        let auth = format!("clientAuth: {{clientId: a, serviceAccountToken: {{{audience}}}}}");
        format!("identity: {{clientCredentials: {{tokenUrl: '{url}', {auth}}}}}")
    };
    manifests.add("elsewhere", &server.url(), &own("http://127.0.0.1:1/token", ""));
    manifests.add("audience", &server.url(), &own(&endpoint.url, "audience: 'https://kubernetes.default.svc'"));
    manifests.add("other", &server.url(), &own(&endpoint.url, "audience: payments"));
    let (api, gateway) = with_account(&manifests, &endpoint, 3600).await;
    for (name, reason) in
        [("elsewhere", "TokenUrlNotAllowed"), ("audience", "AudienceNotAllowed"), ("other", "AudienceNotAllowed")]
    {
        gateway.has_reason(name, reason).await;
    }
    assert_eq!((endpoint.seen(), server.seen().connections, api.issued()), (Vec::new(), 0, Vec::<String>::new()));
}

#[tokio::test]
async fn a_client_secret_is_sent_in_the_form_where_the_manifest_says_so() {
    let (endpoint, server, manifests) =
        (Endpoint::start().await, Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.secret("client", "secret", CLIENT_SECRET);
    let auth = "clientAuth: {clientId: gateway, secretRef: {name: client, key: secret}, secretMethod: Post}";
    let more = format!("identity: {{clientCredentials: {{tokenUrl: '{}', {auth}}}}}", endpoint.url);
    manifests.add("one", &server.url(), &more);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let resource = server.url();
    let form = pairs([
        ("grant_type", "client_credentials"),
        ("resource", &resource),
        ("client_id", "gateway"),
        ("client_secret", CLIENT_SECRET),
    ]);
    assert_eq!(endpoint.seen(), [(form, String::new())]);
    assert!(!format!("{}{}", gateway.servers().await, gateway.log()).contains("nowhere else"));
}

//! Credentials from a cluster: given by label and origin, rotated, taken back, and never shown.

use std::time::Duration;

use http::StatusCode;
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::fake_secrets::{FakeSecrets, TestSecret};
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::Value;

use crate::reload::sessions;

const HEADER: &str = "headers: [{name: Authorization, prefix: 'Bearer ', secretRef: {name: github, key: token}}]";

const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// The parts of a test: a server, its manifest, and the API server that the gateway reads Secrets of.
struct SecretsStage {
    api: FakeSecrets,
    server: Faulty,
    manifests: Manifests,
}

impl SecretsStage {
    async fn new(mode: FaultyMode) -> Self {
        let stage =
            Self { api: FakeSecrets::start().await, server: Faulty::start(mode).await, manifests: Manifests::new() };
        stage.manifests.add("one", &stage.server.url(), HEADER);
        stage
    }

    fn origin(&self) -> String {
        format!("http://{}", self.server.address())
    }

    fn put(&self, labelled: bool, origin: &str, value: &str) {
        self.api.put(&TestSecret { labelled, origin, entry: ("token", value), ..GITHUB });
    }

    async fn gateway(&self, namespaces: &str) -> TestGateway {
        let options = Options {
            secrets: None,
            credential_namespaces: Some(namespaces.into()),
            kubeconfig: Some(self.api.kubeconfig()),
            ..self.manifests.options()
        };
        TestGateway::start(options).await
    }

    /// Waits until a call carries this value.
    async fn calls_carry(&self, gateway: &TestGateway, value: &str) {
        wait_for(&format!("a call with {value}"), STATE_DEADLINE, async || {
            assert_eq!(gateway.call("echo", "{}").await.status, 200);
            let calls = self.server.seen();
            let found = calls.of("tools/call").last().expect("a call").header("authorization").to_owned();
            if found == format!("Bearer {value}") { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

const GITHUB: TestSecret<'static> =
    TestSecret { namespace: "default", name: "github", labelled: true, origin: "", entry: ("token", "") };

#[tokio::test]
async fn a_secret_is_used_only_once_it_is_there_labelled_and_meant_for_the_server() {
    for (mode, namespaces) in
        [(FaultyMode::Sse, "default"), (FaultyMode::Streamable, "*"), (FaultyMode::Modern, "other,default")]
    {
        let stage = SecretsStage::new(mode).await;
        let gateway = stage.gateway(namespaces).await;
        assert_eq!(
            gateway.has_reason("one", "SecretNotFound").await,
            "Secret default/github does not exist: create it with the label portcullis.dev/credentials=true"
        );
        stage.put(false, &stage.origin(), "hunter2");
        gateway.has_reason("one", "SecretNotLabelled").await;
        stage.put(true, "https://elsewhere.example", "hunter2");
        gateway.has_reason("one", "OriginMismatch").await;
        stage.api.put(&TestSecret { origin: &stage.origin(), entry: ("other", "hunter2"), ..GITHUB });
        gateway.has_reason("one", "SecretKeyMissing").await;
        stage.put(true, &stage.origin(), "hunter2\nhunter2");
        gateway.has_reason("one", "SecretInvalid").await;
        assert_eq!(stage.server.seen().connections, 0);
        stage.put(true, &stage.origin(), "hunter2\n");
        gateway.is_connected("one").await;
        stage.calls_carry(&gateway, "hunter2").await;
        assert_eq!(gateway.server("one").await["reason"], Value::Null);
        let reads = stage.api.requests();
        let whole = reads.iter().find(|it| it.contains("/secrets/") && !it.ends_with(" metadata"));
        assert_eq!(whole, None, "the data of a Secret is never read by name");
        let shown = format!(
            "{}{}{}{}",
            gateway.servers().await,
            gateway.health().await,
            gateway.log(),
            gateway.metrics().await
        );
        assert!(!shown.contains("hunter"), "{shown}");
    }
}

#[tokio::test]
async fn a_new_value_is_used_without_a_failed_call_and_a_lost_one_stays_while_the_session_lasts() {
    let mut stage = SecretsStage::new(FaultyMode::Streamable).await;
    stage.put(true, &stage.origin(), "hunter2");
    let gateway = stage.gateway("default").await;
    gateway.is_connected("one").await;
    stage.calls_carry(&gateway, "hunter2").await;
    let before = sessions(&stage.server);
    stage.put(true, &stage.origin(), "hunter3");
    stage.calls_carry(&gateway, "hunter3").await;
    stage.put(true, &stage.origin(), "two\nlines");
    gateway.has_reason("one", "SecretInvalid").await;
    stage.calls_carry(&gateway, "hunter3").await;
    assert_eq!(gateway.server("one").await["state"], "ready");
    stage.api.delete(&GITHUB);
    gateway.has_reason("one", "SecretNotFound").await;
    stage.calls_carry(&gateway, "hunter3").await;
    stage.put(true, &stage.origin(), "hunter4");
    stage.calls_carry(&gateway, "hunter4").await;
    wait_for("the reason to go", STATE_DEADLINE, async || gateway.server("one").await["reason"].is_null()).await;
    stage.api.go_away().await;
    stage.calls_carry(&gateway, "hunter4").await;
    stage.put(true, &stage.origin(), "hunter5");
    stage.api.listen().await;
    wait_for("the value of after the absence", LIMIT, async || {
        assert_eq!(gateway.call("echo", "{}").await.status, 200);
        let calls = stage.server.seen();
        let found = calls.of("tools/call").last().expect("a call").header("authorization").to_owned();
        if found == "Bearer hunter5" { Ok(()) } else { Err(found) }
    })
    .await;
    assert_eq!(sessions(&stage.server), before);
}

#[tokio::test]
async fn what_is_taken_back_is_sent_no_more_and_its_session_ends() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        for (labelled, origin, reason) in
            [(false, None, "SecretNotLabelled"), (true, Some("http://a"), "OriginMismatch")]
        {
            let stage = SecretsStage::new(mode).await;
            stage.put(true, &stage.origin(), "hunter2");
            let gateway = stage.gateway("default").await;
            gateway.is_connected("one").await;
            stage.calls_carry(&gateway, "hunter2").await;
            stage.put(labelled, origin.unwrap_or(&stage.origin()), "hunter2");
            gateway.has_reason("one", reason).await;
            let view = gateway.server("one").await;
            assert_eq!((&view["connected"], &view["state"]), (&Value::Bool(false), &Value::from("backoff")));
            wait_for("the streams to end", STATE_DEADLINE, async || stage.server.open_streams() == 0).await;
            let before = stage.server.seen().requests.len();
            assert_eq!(gateway.call("echo", "{}").await.status, 503);
            assert_eq!(stage.server.seen().requests.len(), before);
            stage.put(true, &stage.origin(), "hunter2");
            gateway.is_connected("one").await;
            gateway.counts(r#"portcullis_server_reconnects_total{reason="revoked",server="one"}"#, 1.0).await;
        }
    }
}

#[tokio::test]
async fn a_namespace_that_was_not_given_is_named_and_an_api_server_that_fails_or_denies_is_waited_for() {
    let stage = SecretsStage::new(FaultyMode::Streamable).await;
    stage.put(true, &stage.origin(), "hunter2");
    let elsewhere = stage.gateway("team").await;
    elsewhere.has_reason("one", "NamespaceNotAllowed").await;
    stage.api.refuse(Some(StatusCode::SERVICE_UNAVAILABLE));
    let gateway = stage.gateway("default").await;
    let text = gateway.has_reason("one", "Probing").await;
    assert_eq!(
        text,
        "Secret default/github is needed, but the API server has not listed its namespace yet: wait; if this stays, \
         see the gateway's log"
    );
    assert_eq!(stage.server.seen().connections, 0);
    stage.api.refuse(Some(StatusCode::FORBIDDEN));
    let text = gateway.has_reason("one", "NamespaceNotAllowed").await;
    assert_eq!(
        text,
        "Secret default/github is needed, but the API server denies the gateway access to its namespace, which lacks the \
         Role: upgrade the release with the namespace in CREDENTIAL_NAMESPACES"
    );
    stage.api.refuse(None);
    // The watch tries again after a pause that grows.
    wait_for("the server", 2 * LIMIT, async || gateway.server("one").await["connected"] == true).await;
    stage.calls_carry(&gateway, "hunter2").await;
}

/// Every crate that sees a value on its way.
const EVERYTHING: &str = "trace,kube=trace,kube_client=trace,kube_runtime=trace,hyper=trace,hyper_util=trace,\
                          rustls=trace,tower=trace,portcullis_gateway=trace";

#[tokio::test]
async fn no_value_is_in_the_log_even_when_everything_is_logged_and_the_api_server_answers_nonsense() {
    let stage = SecretsStage::new(FaultyMode::Streamable).await;
    stage.put(true, "http://elsewhere.example", "hunter2");
    let (kubeconfig, servers) = (stage.api.kubeconfig(), stage.manifests.servers());
    let environment = [
        ("JWT_SECRET", portcullis_e2e::token::SECRET),
        ("SERVERS", servers.to_str().expect("a path")),
        ("CREDENTIAL_NAMESPACES", "default"),
        ("LOG_LEVEL", EVERYTHING),
    ];
    let gateway = RunningProgram::start(&["--kubeconfig", kubeconfig.to_str().expect("a path")], &environment);
    let told = async |text: &str| {
        wait_for(&format!("a log line with {text}"), LIMIT, async || {
            let log = gateway.log().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
            if log.contains(text) { Ok(log) } else { Err(()) }
        })
        .await
    };
    told("may not be sent to").await;
    stage.put(true, &stage.origin(), "hunter2");
    told("server is ready").await;
    stage.api.garble(r#"{"kind": "SecretList", "items": [{"data": {"token": "hunter2"#);
    // The second list after it proves that the first was read.
    let lists =
        || stage.api.requests().iter().filter(|it| it.contains("/secrets?") && !it.contains("watch=true")).count();
    let before = lists();
    wait_for("two lists", LIMIT, async || lists() >= before + 2).await;
    let log = told("cannot watch credentials").await;
    assert!(log.contains(r#""target":"kube_"#), "the client of the API server does log");
    for value in ["hunter2", "aHVudGVyMg"] {
        assert_eq!(log.lines().find(|line| line.contains(value)), None);
    }
}

//! Headers from the folder of Secrets: sent, replaced while calls run, and never shown.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, RequestFault};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;

use crate::reload::sessions;

const HEADER: &str = "headers: [{name: Authorization, prefix: 'Bearer ', secretRef: {name: github, key: token}}]";

const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// Waits until a call carries this header.
async fn calls_carry(gateway: &TestGateway, server: &Faulty, wanted: &str) {
    wait_for(&format!("a call with {wanted}"), STATE_DEADLINE, async || {
        assert_eq!(gateway.call("echo", "{}").await.status, 200);
        let found = server.seen().of("tools/call").last().expect("a call").header("authorization").to_owned();
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

#[tokio::test]
async fn a_secret_is_sent_and_its_new_value_too_without_a_new_session() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let server = Faulty::start(mode).await;
        let manifests = Manifests::new();
        manifests.secret("github", "token", "hunter2\n");
        manifests.add("one", &server.url(), HEADER);
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(1).await;
        calls_carry(&gateway, &server, "Bearer hunter2").await;
        wait_for("all of the handshake", LIMIT, async || server.open_streams() == 1).await;
        let before = sessions(&server);
        manifests.secret("github", "token", "hunter3");
        calls_carry(&gateway, &server, "Bearer hunter3").await;
        assert_eq!(server.seen().requests[0].header("authorization"), "Bearer hunter2", "from the first request on");
        assert_eq!(sessions(&server), before);
        let shown = format!("{}{}{}", gateway.servers().await, gateway.log(), gateway.metrics().await);
        assert!(!shown.contains("hunter"), "{shown}");
    }
}

#[tokio::test]
async fn a_server_whose_secret_is_missing_is_not_contacted_until_it_is_there() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), HEADER);
    let gateway = TestGateway::start(manifests.options()).await;
    let missing = "cannot read github/token in the folder of Secrets: put the value into the file github/token there";
    gateway.fails("one", missing).await;
    assert_eq!(server.seen().connections, 0);
    manifests.secret("github", "token", "two\nlines");
    gateway.fails("one", "github/token is not a valid header value: use one line of visible characters").await;
    assert_eq!(server.seen().connections, 0);
    manifests.secret("github", "token", "hunter2");
    wait_for("the server", STATE_DEADLINE, async || gateway.server("one").await["connected"] == true).await;
    calls_carry(&gateway, &server, "Bearer hunter2").await;
    assert_eq!(gateway.server("one").await["last_error"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_secret_that_goes_away_stays_in_use_and_is_told() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let manifests = Manifests::new();
    manifests.secret("github", "token", "hunter2");
    manifests.add("one", &server.url(), HEADER);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let before = sessions(&server);
    std::fs::remove_dir_all(manifests.secrets().join("github")).expect("removed");
    let missing = "cannot read github/token in the folder of Secrets: put the value into the file github/token there";
    gateway.fails("one", missing).await;
    calls_carry(&gateway, &server, "Bearer hunter2").await;
    manifests.secret("github", "token", "hunter3");
    calls_carry(&gateway, &server, "Bearer hunter3").await;
    wait_for("the error to go", STATE_DEADLINE, async || gateway.server("one").await["last_error"].is_null()).await;
    assert_eq!(sessions(&server), before);
}

#[tokio::test]
async fn without_a_folder_of_secrets_the_missing_setting_is_named() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), HEADER);
    let gateway = TestGateway::start(Options { secrets: None, ..manifests.options() }).await;
    gateway
        .fails("one", "github/token is needed, but no folder of Secrets is configured: give one with --secrets")
        .await;
    assert_eq!(server.seen().connections, 0);
}

#[tokio::test]
async fn a_server_that_refuses_the_credentials_is_told_so() {
    for (mode, status) in [(FaultyMode::Sse, 401), (FaultyMode::Streamable, 403), (FaultyMode::Modern, 401)] {
        let server = Faulty::start(mode).await;
        server
            .behave(|faults| (faults.get, faults.post) = (RequestFault::status(status), RequestFault::status(status)));
        let manifests = Manifests::new();
        manifests.add("one", &server.url(), "");
        let gateway = TestGateway::start(manifests.options()).await;
        gateway
            .fails("one", &format!("refuses the gateway's credentials (HTTP status {status}): check spec.headers"))
            .await;
        server.reform();
        wait_for("the server", LIMIT, async || gateway.server("one").await["connected"] == true).await;
    }
}

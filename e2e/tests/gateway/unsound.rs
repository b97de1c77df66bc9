//! Invalid manifests: the last good configuration stays, and the gateway reports the problem until it is solved.

use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::{Manifests, manifest};
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::reload::{STATE_DEADLINE, sessions, soon, under_load};

/// Waits until exactly this problem is told, and looks at all the places where it is.
async fn is_told(gateway: &TestGateway, problem: &str, count: f64) {
    wait_for("the problem", STATE_DEADLINE, async || {
        let configuration = gateway.health().await["configuration"].take();
        let told = configuration["problems"].as_array().is_some_and(|problems| {
            problems.len() == 1 && problems[0].as_str().is_some_and(|text| text.starts_with(problem))
        });
        if configuration["ok"] == false && told { Ok(()) } else { Err(configuration) }
    })
    .await;
    gateway.counts("portcullis_configuration_ok", 0.0).await;
    gateway.counts(r#"portcullis_snapshot_rejected_total{reason="invalid"}"#, count).await;
    let stranger = client::get(&gateway.url("/health")).send().await.expect("an answer").json();
    assert_eq!(stranger["configuration"], json!({"ok": false}), "strangers learn no more");
    assert_eq!(stranger["status"], "healthy");
}

async fn is_well(gateway: &TestGateway) {
    wait_for("all to be well", STATE_DEADLINE, async || gateway.health().await["configuration"] == json!({"ok": true}))
        .await;
    gateway.counts("portcullis_configuration_ok", 1.0).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_servers_and_is_told() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["echo"]).await;
    is_well(&gateway).await;
    let before = sessions(&server);
    let breaks = [
        "spec: [".to_owned(),
        "just text".to_owned(),
        manifest("one", &server.url(), "wieght: 7"),
        manifest("one", &server.url(), "weight: heavy"),
        manifest("one", &server.url(), "").replace("v1alpha1", "v9"),
    ];
    let file = format!("{}: ", manifests.servers().join("one.yaml").display());
    under_load(&gateway, "echo", async {
        for (text, count) in breaks.iter().zip([1.0, 2.0, 3.0, 4.0, 5.0]) {
            manifests.write("one.yaml", text);
            is_told(&gateway, &file, count).await;
            assert_eq!(gateway.tools().await, ["echo"]);
            manifests.add("one", &server.url(), "");
            is_well(&gateway).await;
        }
    })
    .await;
    assert_eq!(sessions(&server), before);
}

#[tokio::test]
async fn a_refused_server_is_named_and_the_others_are_served() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "");
    manifests.add("other", "ftp://x/", "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["echo"]).await;
    is_told(&gateway, "McpServer default/other: url has scheme \"ftp\": use http or https", 1.0).await;
    manifests.remove("other");
    is_well(&gateway).await;
    manifests.write("again.yaml", &manifest("one", "http://127.0.0.1:9/", ""));
    is_told(&gateway, "McpServer default/one: default/one is declared 2 times: keep one", 2.0).await;
    std::fs::remove_file(manifests.servers().join("again.yaml")).expect("removed");
    is_well(&gateway).await;
    gateway.offers(&["echo"]).await;
}

#[tokio::test]
async fn a_gateway_starts_with_a_broken_file_and_without_servers() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let manifests = Manifests::new();
    manifests.write("broken.yaml", "spec: [");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.ready().await;
    assert_eq!(gateway.health().await["configuration"]["ok"], json!(false));
    assert_eq!(gateway.tools().await, Vec::<String>::new());
    manifests.add("broken", &server.url(), "");
    soon(gateway.offers(&["echo"])).await;
}

#[tokio::test]
async fn a_file_that_would_take_minutes_to_read_is_named_at_once_and_the_rest_is_applied() {
    let (server, other) = (Faulty::start(FaultyMode::Sse).await, Faulty::start(FaultyMode::Streamable).await);
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "");
    manifests.write("bomb.yaml", &"{".repeat(160_000));
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["echo"]).await;
    let file = format!("{}: ", manifests.servers().join("bomb.yaml").display());
    is_told(&gateway, &file, 1.0).await;
    let has = async |count: usize| {
        wait_for("the other server", STATE_DEADLINE, async || {
            let servers = gateway.servers().await["servers"].take();
            if servers.as_object().is_some_and(|all| all.len() == count) { Ok(()) } else { Err(servers) }
        })
        .await;
    };
    for text in ["- ".repeat(80_000), "{\"]\":".repeat(40_000), "a: [".repeat(40_000)] {
        manifests.write("bomb.yaml", &text);
        manifests.add("two", &other.url(), "");
        has(2).await;
        let problems = gateway.health().await["configuration"]["problems"].take();
        assert!(problems[0].as_str().is_some_and(|told| told.starts_with(&file)), "{problems}");
        manifests.remove("two");
        has(1).await;
    }
    gateway.stop().await.expect("it ends");
}

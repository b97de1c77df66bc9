//! From an McpServer to the slots, and from the replicas' reports to its status.

use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::events::v1::Event;
use kube::api::{DeleteParams, ListParams};
use portcullis_crds::mcpserver::Transport;
use portcullis_crds::{ConditionType, McpServer, Reason};
use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::setting::{ControlPlane, conditions, message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_all_replicas_can_call_is_ready_and_says_what_it_speaks() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operator = setting.operator();
    setting.apply("files", "{url: 'http://files.example/mcp'}");
    let waited = setting.space.kubectl(&["wait", "--for=condition=Ready", "mcpsrv/files", "--timeout=30s"]);
    assert_eq!(waited.good(), "mcpserver.portcullis.dev/files condition met\n");
    let server = setting.until("files", "Ready=True/Ready").await;
    let good =
        ["Accepted=True/Accepted", "ResolvedRefs=True/ResolvedRefs", "Programmed=True/Programmed", "Ready=True/Ready"];
    assert_eq!(conditions(&server), good);
    assert_eq!(message(&server, ConditionType::Ready), "2 tools");
    assert_eq!(message(&server, ConditionType::Programmed), "2 of 2 gateway replicas have applied this generation");
    let status = serde_json::to_value(server.status).expect("JSON");
    assert_eq!(status["url"], "http://files.example/mcp");
    assert_eq!(status["transport"], serde_json::to_value(Transport::StreamableHttp).expect("JSON"));
    assert_eq!(status["protocolVersion"], "2025-11-25");
    assert_eq!(status["serverInfo"], json!({"name": "fake", "version": "1"}));
    assert_eq!(status["toolCount"], 2);
    assert_eq!(status["gateways"], json!({"applied": 2, "ready": 2, "total": 2}));
    assert_eq!((&status["observedGeneration"], &status["lastError"]), (&json!(1), &json!(null)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_server_is_programmed_anew_and_a_deleted_one_is_gone() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.apply("b", "{url: 'http://b.example/'}");
    setting.until("a", "Ready=True/Ready").await;
    setting.until("b", "Ready=True/Ready").await;
    setting.apply("a", "{url: 'http://elsewhere.example/'}");
    let changed = setting.until("a", "Ready=True/Ready").await;
    assert_eq!(changed.status.and_then(|it| it.observed_generation), Some(2));
    let programmed = setting.programmed().await;
    assert_eq!(
        programmed.into_iter().collect::<Vec<_>>(),
        pairs(&[("a", "http://elsewhere.example/"), ("b", "http://b.example/")])
    );
    setting.space.servers().delete("a", &DeleteParams::default()).await.expect("deleted");
    wait_for("b alone to be programmed", LIMIT, async || {
        let programmed: Vec<_> = setting.programmed().await.into_iter().collect();
        if programmed == pairs(&[("b", "http://b.example/")]) { Ok(()) } else { Err(programmed) }
    })
    .await;
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(name, url)| ((*name).to_owned(), (*url).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_waits_for_its_service_and_for_its_port() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.apply("early", "{service: {name: backend, port: mcp}}");
    setting.until("early", "ResolvedRefs=False/ServiceNotFound").await;
    setting.until("early", "Ready=False/RefsNotResolved").await;
    let service = |port: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: backend}}\nspec: {{ports: [{{name: {port}, port: 8080}}]}}"
        )
    };
    setting.space.apply(&service("http"));
    setting.until("early", "ResolvedRefs=False/PortNotFound").await;
    setting.space.apply(&service("mcp"));
    let ready = setting.until("early", "Ready=True/Ready").await;
    let url = format!("http://backend.{}.svc:8080/mcp", setting.space.name);
    let said = ready.status.and_then(|status| status.url).expect("a URL");
    assert_eq!(said.replace(".svc.cluster.local:", ".svc:"), url);
    setting.space.api::<Service>().delete("backend", &DeleteParams::default()).await.expect("deleted");
    setting.until("early", "ResolvedRefs=False/ServiceNotFound").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_without_a_cluster_ip_are_resolved_or_told() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.space.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: pods}\nspec: {clusterIP: None, selector: {a: b}, ports: \
         [{name: mcp, port: 80, targetPort: 8000}, {name: web, port: 81, targetPort: http}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: outside}\nspec: {type: ExternalName, externalName: mcp.example.com}",
    );
    setting.apply("number", "{service: {name: pods, port: 80}}");
    let url = setting.until("number", "Ready=True/Ready").await.status.and_then(|status| status.url);
    assert_eq!(url, Some(format!("http://pods.{}.svc:8000/mcp", setting.space.name)));
    setting.apply("name", "{service: {name: pods, port: web}}");
    setting.until("name", "ResolvedRefs=False/PortNotFound").await;
    setting.until("name", "Ready=False/RefsNotResolved").await;
    setting.apply("outside", "{service: {name: outside, port: 443, scheme: https}}");
    setting.until("outside", "ResolvedRefs=False/ServiceExternal").await;
    setting.until("outside", "Ready=False/RefsNotResolved").await;
    assert_eq!(setting.programmed().await.into_keys().collect::<Vec<_>>(), ["number"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_checked_is_told_by_a_condition_and_an_event() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.apply("a", "{url: 'https://a.example/', tls: {insecureSkipVerify: true}}");
    setting.until("a", "Accepted=True/InsecureSkipVerify").await;
    setting.until("a", "Ready=True/Ready").await;
    wait_for("the Event", LIMIT, async || {
        let events = setting.space.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
        let told: Vec<String> = events.iter().map(in_words).collect();
        if told.contains(&"Warning InsecureSkipVerify".to_owned()) { Ok(()) } else { Err(told) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_its_number_a_port_is_known_even_while_the_service_is_away() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.apply("early", "{service: {name: backend, port: 8080}}");
    setting.until("early", "ResolvedRefs=False/ServiceNotFound").await;
    wait_for("the server in its slot", LIMIT, async || {
        let programmed: Vec<_> = setting.programmed().await.into_values().collect();
        let expected = [format!("http://backend.{}.svc:8080/mcp", setting.space.name)];
        if programmed == expected { Ok(()) } else { Err(programmed) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_replica_finds_wrong_is_in_the_status_and_told_by_an_event() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operator = setting.operator_with(&[("NEW_SERVER_DELAY_MS", "0")]);
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Ready=True/Ready").await;
    setting.gateways[1].say(&setting.key("a"), Reason::BackendUnreachable, "connection refused");
    let away = setting.until("a", "Ready=False/BackendUnreachable").await;
    assert_eq!(message(&away, ConditionType::Ready), "1 of 2 gateway replicas: connection refused");
    let status = away.status.expect("a status");
    assert_eq!(status.last_error.as_deref(), Some("connection refused"));
    assert_eq!(status.gateways.map(|it| (it.applied, it.ready, it.total)), Some((2, 1, 2)));
    setting.gateways[1].say(&setting.key("a"), Reason::SecretNotFound, "no Secret api-key");
    let broken = setting.until("a", "ResolvedRefs=False/SecretNotFound").await;
    assert_eq!(message(&broken, ConditionType::ResolvedRefs), "no Secret api-key");
    setting.until("a", "Ready=False/RefsNotResolved").await;
    setting.gateways[1].say(&setting.key("a"), Reason::Ready, "");
    setting.until("a", "Ready=True/Ready").await;
    let expected = ["Normal Ready", "Normal ResolvedRefs", "Warning BackendUnreachable", "Warning SecretNotFound"];
    wait_for("the Events", LIMIT, async || {
        let events = setting.space.api::<Event>().list(&ListParams::default()).await.expect("Events").items;
        let about = |event: &Event| event.regarding.as_ref().is_some_and(|it| it.name.as_deref() == Some("a"));
        let mut told: Vec<String> = events.into_iter().filter(about).map(|it| in_words(&it)).collect();
        told.sort();
        told.dedup();
        if told == expected { Ok(()) } else { Err(told) }
    })
    .await;
    let described = setting.space.kubectl(&["describe", "mcpsrv", "a"]).good();
    assert!(described.contains("BackendUnreachable") && described.contains("connection refused"), "{described}");
}

fn in_words(event: &Event) -> String {
    format!("{} {}", event.type_.as_deref().unwrap_or_default(), event.reason.as_deref().unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_falls_silent_makes_everything_unknown_until_it_is_gone() {
    require!(cluster::available(Tier::ControlPlane));
    let mut setting = ControlPlane::new(cluster::control_plane(), 2).await;
    let _operator = setting.operator();
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Ready=True/Ready").await;
    drop(setting.gateways.pop());
    let silent = setting.until("a", "Programmed=Unknown/GatewayUnreachable").await;
    let said = "1 of 2 gateway replicas have applied this generation; 1 of them cannot be reached";
    assert_eq!(message(&silent, ConditionType::Programmed), said);
    setting.until("a", "Ready=Unknown/NotProgrammed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_ready_gateway_nothing_is_claimed() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 0).await;
    let _operator = setting.operator_with(&[("GATEWAYS", ""), ("GATEWAY_SERVICE", "nobody")]);
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Programmed=Unknown/NoGateway").await;
    setting.until("a", "Ready=Unknown/NotProgrammed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disabled_and_draining_servers_say_so_and_stay_programmed() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let _operator = setting.operator();
    setting.apply("a", "{url: 'http://a.example/', state: Disabled}");
    setting.until("a", "Ready=False/Disabled").await;
    setting.until("a", "Programmed=True/Programmed").await;
    setting.apply("a", "{url: 'http://a.example/', state: Draining}");
    setting.until("a", "Ready=False/Draining").await;
    setting.apply("a", "{url: 'http://a.example/', state: Enabled}");
    let _: McpServer = setting.until("a", "Ready=True/Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_namespace_that_is_not_named_is_left_alone() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 1).await;
    let other = cluster::TestNamespace::new(cluster::control_plane()).await;
    let _operator = setting.operator();
    other.apply(&crate::setting::manifest("stranger", "{url: 'http://stranger.example/'}"));
    setting.apply("own", "{url: 'http://own.example/'}");
    setting.until("own", "Ready=True/Ready").await;
    assert_eq!(setting.programmed().await.into_keys().collect::<Vec<_>>(), ["own"]);
    assert_eq!(other.servers().get("stranger").await.expect("it is there").status, None);
}

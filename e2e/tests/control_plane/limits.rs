//! Limits of policies: real gateways share them, and the operator tells how many share.

use std::time::Duration;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams};
use portcullis_crds::McpAccessPolicy;
use portcullis_crds::names::WRITTEN_ANNOTATION;
use portcullis_crds::slots::slot_of;
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::cluster::{self, LIMIT, Tier};
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::http::{self, HttpAnswer, HttpConnection, HttpRequest};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{fake_gateway, require, token};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::in_force::{admin_address, gateway};
use crate::setting::ControlPlane;

const CALL: &str = r#"{"method":"x","args":{"message":"x"}}"#;

/// A policy for the server `a` whose one rule has this limit.
fn apply_policy(setting: &ControlPlane<'_>, limit: &str) {
    setting.space.apply(&format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {{name: p}}\nspec:\n  servers: {{names: [a]}}\n  rules: [{{name: r, from: [{{authenticated: true}}], allow: [{{tools: ['*']}}], limit: {limit}}}]\n"
    ));
}

/// Waits until the policy is in force at all gateways.
async fn in_force(setting: &ControlPlane<'_>) {
    let is_programmed = |policy: &McpAccessPolicy| {
        let conditions = policy.status.iter().flat_map(|status| &status.conditions);
        let generation = policy.metadata.generation;
        let mut programmed = conditions.filter(|it| it.type_ == "Programmed" && it.observed_generation == generation);
        programmed.any(|it| it.status == "True")
    };
    setting.space.until("p", "in force", is_programmed).await;
    setting.space.kubectl(&["wait", "--for=condition=Ready", "mcpsrv/a", "--timeout=30s"]).good();
}

fn rest(gateway: &RunningProgram, subject: &str) -> HttpRequest {
    http::post(&format!("http://{}/tools", gateway.address), CALL).bearer(&token::mint(subject)).limit(LIMIT)
}

/// A call as clients of 2026-07-28 make it, or those before.
fn mcp(gateway: &RunningProgram, subject: &str, is_modern: bool) -> HttpRequest {
    const REVISION: &str = "2026-07-28";
    let mut params = json!({"name": "x", "arguments": {"message": "x"}});
    if is_modern {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": REVISION, "io.modelcontextprotocol/clientCapabilities": {},
        });
    }
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string();
    let request = http::post(&format!("http://{}/mcp", gateway.address), message);
    let request = request.bearer(&token::mint(subject)).limit(LIMIT);
    let headers = [("mcp-protocol-version", REVISION), ("mcp-method", "tools/call"), ("mcp-name", "x")];
    headers.into_iter().filter(|_| is_modern).fold(request, |request, (name, value)| request.header(name, value))
}

async fn sent(request: HttpRequest) -> HttpAnswer {
    request.send().await.expect("an answer")
}

/// Whether a point in time is as far away as told, to the second.
fn is_in(timestamp: &Value, milliseconds: &Value) -> bool {
    let at: Timestamp = timestamp.as_str().expect("a time").parse().expect("RFC 3339");
    let told = milliseconds.as_i64().expect("milliseconds");
    (at.as_millisecond() - Timestamp::now().as_millisecond() - told).abs() < 10_000
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_share_a_limit_and_tell_when_to_come_again() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 0).await;
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("x")]).await;
    let gateways = [(); 3].map(|()| gateway(&setting));
    let addresses = gateways.each_ref().map(admin_address);
    let all = addresses.join(",");
    let _operator = setting.operator_with(&[("GATEWAYS", &all), ("HOME_NAMESPACE", &setting.space.name)]);
    setting.apply("a", &format!("{{url: '{}'}}", server.url()));
    apply_policy(&setting, "{calls: 30, per: Day}");
    in_force(&setting).await;
    let mut passed = Vec::new();
    for (gateway, tried) in gateways.iter().zip([14, 11, 25]) {
        let mut statuses = Vec::new();
        for _ in 0..tried {
            statuses.push(sent(rest(gateway, "alice")).await.status);
        }
        let good = statuses.iter().take_while(|status| **status == 200).count();
        assert!(statuses[good..].iter().all(|status| *status == 429), "{statuses:?}");
        passed.push(good);
    }
    assert_eq!(passed, [10, 10, 10]);

    let refused = sent(rest(&gateways[0], "alice")).await;
    let after: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    let error = refused.json()["error"].clone();
    let told = error["retry_after_ms"].as_u64().expect("milliseconds");
    assert!(refused.status == 429 && (8_000..=8_640).contains(&after) && told.div_ceil(1000) == after, "{error}");
    assert!(is_in(&error["reset_at"], &error["retry_after_ms"]), "{error}");
    for (is_modern, status) in [(false, 200), (true, 429)] {
        let answer = sent(mcp(&gateways[0], "alice", is_modern)).await;
        let error = answer.json()["error"].clone();
        assert_eq!((answer.status, error["code"].as_i64()), (status, Some(-32004)), "{error}");
        let (data, told) = (&error["data"], error["data"]["retryAfterMs"].as_u64().expect("milliseconds"));
        assert!(data["reason"] == "limited" && (8_000_000..=8_640_000).contains(&told), "{error}");
        assert!(is_in(&data["resetAt"], &data["retryAfterMs"]), "{error}");
    }
    assert_eq!(sent(rest(&gateways[0], "bob")).await.status, 200, "the limit of another caller");

    // Refusals are counted by rule, and nobody is named.
    let metrics = String::from_utf8(sent(http::get(&format!("http://{}/metrics", addresses[0]))).await.body.to_vec());
    let metrics = metrics.expect("text");
    let line = metrics.lines().find(|line| line.starts_with("portcullis_policy_limit_refusals_total{"));
    let line = line.unwrap_or_else(|| panic!("{metrics}"));
    let labels = format!(r#"{{policy="{}/p",rule="r"}}"#, setting.space.name);
    assert_eq!(line, format!("portcullis_policy_limit_refusals_total{labels} 7"));
    assert!(!metrics.contains("alice"));
}

/// Calls again and again until `end`, with a pause. Gives the moments of the calls that passed.
async fn keep_calling(request: HttpRequest, url: String, pause: Duration, end: Instant) -> Vec<Instant> {
    let (mut connection, mut passed) = (HttpConnection::to(&url).await.expect("a connection"), Vec::new());
    while Instant::now() < end {
        let answer = connection.send(request.clone()).await.expect("an answer");
        match answer.status {
            200 => passed.push(Instant::now()),
            status => assert_eq!(status, 429),
        }
        sleep(pause).await;
    }
    passed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_replicas_under_uneven_load_keep_a_limit_in_ten_windows_within_a_tenth() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 0).await;
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("x")]).await;
    let gateways = [(); 3].map(|()| gateway(&setting));
    let all = gateways.each_ref().map(admin_address).join(",");
    let _operator = setting.operator_with(&[("GATEWAYS", &all), ("HOME_NAMESPACE", &setting.space.name)]);
    setting.apply("a", &format!("{{url: '{}'}}", server.url()));
    apply_policy(&setting, "{calls: 60, per: Second}");
    in_force(&setting).await;
    // The buckets are full in the beginning; the ten windows come after.
    let from = Instant::now() + Duration::from_secs(1);
    let until = from + Duration::from_secs(10);
    let mut tasks = JoinSet::new();
    for (gateway, pauses) in gateways.iter().zip([&[1, 1, 2][..], &[5, 25], &[20]]) {
        for pause in pauses {
            let url = format!("http://{}/tools", gateway.address);
            tasks.spawn(keep_calling(rest(gateway, "alice"), url, Duration::from_millis(*pause), until));
        }
    }
    let passed = tasks.join_all().await.concat();
    let count = passed.iter().filter(|at| (from..until).contains(*at)).count();
    assert!((540..=660).contains(&count), "{count} of 600 calls passed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_with_a_limit_tells_how_many_replicas_are_ready_and_the_last_number_stays() {
    require!(cluster::available(Tier::ControlPlane));
    let setting = ControlPlane::new(cluster::control_plane(), 0).await;
    let with = |service: &'static str| [("GATEWAYS", ""), ("GATEWAY_SERVICE", service), ("NEW_SERVER_DELAY_MS", "0")];
    let operator = setting.operator_with(&with("gateways"));
    let other =
        (0..).map(|n| format!("b{n}")).find(|name| slot_of(&setting.key(name), 2) != slot_of(&setting.key("a"), 2));
    let (other, slots) = (other.expect("a name"), setting.space.api::<ConfigMap>());
    let slot = |name: &str| setting.slots[slot_of(&setting.key(name), 2)].clone();
    let [limited, unlimited] = [slot("a"), slot(&other)];
    for name in ["a", &other] {
        setting.apply(name, "{url: 'http://a.example/'}");
    }
    apply_policy(&setting, "{calls: 60, per: Minute}");
    let until = async |replicas: u32| {
        let content = wait_for("the number of replicas", LIMIT, async || {
            let content = fake_gateway::content(&slots.get(&limited).await.expect("the slot"));
            let content = content.filter(|content| content.servers.len() == 1).ok_or("no server")?;
            if content.replicas == Some(replicas) { Ok(content) } else { Err("another number") }
        });
        content.await.servers[0].revision()
    };
    let written = async || {
        let object = slots.get(&unlimited).await.expect("the slot");
        assert_eq!(fake_gateway::content(&object).and_then(|content| content.replicas), None);
        object.metadata.annotations.expect("annotations").get(WRITTEN_ANNOTATION).cloned()
    };
    let revision = until(1).await;
    wait_for("the other slot", LIMIT, async || written().await).await;
    let written_at = written().await;
    let tell_ready = async |ready: usize| {
        let pod = |n: usize| json!({"addresses": [format!("192.0.2.{}", n + 1)], "conditions": {"ready": n < ready}});
        let slice = json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": "gateways-1", "labels": {"kubernetes.io/service-name": "gateways"}},
            "ports": [{"name": "admin", "port": 9090}], "endpoints": (0..4).map(pod).collect::<Vec<_>>(),
        });
        let (api, manager) = (setting.space.api::<EndpointSlice>(), PatchParams::apply("portcullis-e2e").force());
        api.patch("gateways-1", &manager, &Patch::Apply(&slice)).await.expect("a slice");
    };
    tell_ready(3).await;
    assert_eq!(until(3).await, revision);
    tell_ready(4).await;
    assert_eq!(until(4).await, revision);
    // One that leaves still serves the connections that it has.
    let began = Instant::now();
    tell_ready(2).await;
    assert_eq!(until(2).await, revision);
    assert!(began.elapsed() > Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(written().await, written_at, "a slot without a limit is not written again");
    // An operator that cannot know the number leaves it as it is.
    drop(operator);
    let _operator = setting.operator_with(&with("nobody"));
    setting.apply("a", "{url: 'http://other.example/'}");
    wait_for("the changed server", LIMIT, async || {
        let content = fake_gateway::content(&slots.get(&limited).await.expect("the slot"));
        let content = content.ok_or("no content")?;
        if content.servers[0].url == "http://other.example/" { Ok(content.replicas) } else { Err("not yet") }
    })
    .await;
    assert_ne!(until(2).await, revision);
}

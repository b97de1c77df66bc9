//! The API server stops, restarts, and forgets; and objects come along that no API server should have let in.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::{Api, Client};
use portcullis_e2e::cluster::{self, Cluster, LIMIT, Tier};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, require};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setting::ControlPlane;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_api_server_is_waited_for() {
    require!(cluster::startable(Tier::ControlPlane));
    let cluster = Cluster::own_control_plane();
    let setting = ControlPlane::new(&cluster, 1).await;
    let operator = setting.operator();
    setting.apply("a", "{url: 'http://a.example/'}");
    setting.until("a", "Ready=True/Ready").await;
    cluster.signal("kube-apiserver", Signal::STOP);
    // So that a write is under way while nobody answers.
    setting.gateways[0].say(&setting.key("a"), portcullis_crds::Reason::Unhealthy, "no ping");
    wait_for("a failed write", LIMIT, async || {
        let failed = operator.log().into_iter().find(|line| line["level"] == "WARN");
        failed.map(drop)
    })
    .await;
    let alive = http::get(&format!("http://{}/livez", operator.address)).send().await.expect("an answer");
    assert_eq!(alive.status, 200);
    cluster.signal("kube-apiserver", Signal::CONT);
    setting.until("a", "Ready=False/Unhealthy").await;
    setting.apply("b", "{url: 'http://b.example/'}");
    setting.until("b", "Ready=True/Ready").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_the_api_server_has_forgotten_are_found_by_listing_anew() {
    require!(cluster::startable(Tier::ControlPlane));
    let cluster = Cluster::own_control_plane();
    let setting = ControlPlane::new(&cluster, 1).await;
    let operator = setting.operator();
    for name in ["kept", "changed", "deleted"] {
        setting.apply(name, &format!("{{url: 'http://{name}.example/'}}"));
        setting.until(name, "Ready=True/Ready").await;
    }
    operator.signal(Signal::STOP);
    setting.space.servers().delete("deleted", &DeleteParams::default()).await.expect("deleted");
    setting.apply("changed", "{url: 'http://elsewhere.example/'}");
    setting.apply("added", "{url: 'http://added.example/'}");
    compact(&cluster).await;
    cluster.restart("kube-apiserver");
    operator.signal(Signal::CONT);
    setting.until("added", "Ready=True/Ready").await;
    wait_for("what is programmed to be what is there", LIMIT, async || {
        let programmed = serde_json::to_value(setting.programmed().await).expect("JSON");
        let wanted = json!({
            "added": "http://added.example/", "changed": "http://elsewhere.example/", "kept": "http://kept.example/",
        });
        if programmed == wanted { Ok(()) } else { Err(programmed) }
    })
    .await;
    assert!(
        operator.log().iter().any(|line| line.to_string().contains("410") || line.to_string().contains("too old")),
        "no 410 was met: {:?}",
        operator.log()
    );
}

/// Makes etcd forget all but the newest versions.
async fn compact(cluster: &Cluster) {
    let etcd = cluster.etcd();
    let range = http::post(&format!("{etcd}/v3/kv/range"), r#"{"key":"AA=="}"#).send().await.expect("an answer").json();
    let revision = &range["header"]["revision"];
    let order = json!({"revision": revision, "physical": true}).to_string();
    let answer = http::post(&format!("{etcd}/v3/kv/compaction"), order).send().await.expect("an answer");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// A definition without types and rules, as a cluster may have that was upgraded by halves.
async fn let_anything_in(client: Client) {
    let crds: Api<CustomResourceDefinition> = Api::all(client);
    let loose = json!([{
        "op": "replace", "path": "/spec/versions/0/schema/openAPIV3Schema/properties/spec",
        "value": {
            "type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "properties": {"state": {"type": "string"}}
        }
    }]);
    let patch: Patch<Value> = Patch::Json(serde_json::from_value(loose).expect("a patch"));
    crds.patch("mcpservers.portcullis.dev", &PatchParams::default(), &patch).await.expect("loosened");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_server_never_hides_the_good_ones() {
    require!(cluster::startable(Tier::ControlPlane));
    let cluster = Cluster::own_control_plane();
    let setting = ControlPlane::new(&cluster, 1).await;
    let_anything_in(setting.space.client.clone()).await;
    let bad = [
        ("no-url", "{}", "Accepted=False/Invalid"),
        ("wrong-type", "{url: 'http://a/', weight: heavy}", "Accepted=False/Invalid"),
        ("list", "{url: ['http://hunter2/']}", "Accepted=False/Invalid"),
        ("no-service", "{service: {name: nobody, port: mcp}}", "ResolvedRefs=False/ServiceNotFound"),
        ("password", "{url: 'http://u:hunter2@a/'}", "Accepted=False/Invalid"),
    ];
    for (name, spec, _) in bad {
        wait_for("the loose definition", LIMIT, async || {
            let said = setting.space.try_apply(&crate::setting::manifest(name, spec));
            if said.ok { Ok(()) } else { Err(said) }
        })
        .await;
    }
    setting.apply("good", "{url: 'http://good.example/'}");
    let operator = setting.operator();
    setting.until("good", "Ready=True/Ready").await;
    for (name, _, condition) in &bad {
        if *name == "wrong-type" || *name == "list" {
            continue; // These cannot be read back by our own type.
        }
        setting.until(name, condition).await;
    }
    for name in ["wrong-type", "list"] {
        let path = ["wait", "--for=condition=Accepted=false", &format!("mcpsrv/{name}"), "--timeout=30s"];
        setting.space.kubectl(&path).good();
    }
    setting.apply("late", "{url: 'http://late.example/'}");
    setting.until("late", "Ready=True/Ready").await;
    assert_eq!(setting.programmed().await.into_keys().collect::<Vec<_>>(), ["good", "late"]);
    let log = format!("{:?}", operator.log());
    assert!(!log.contains("hunter2") && !log.contains("cannot write"), "{log}");
}

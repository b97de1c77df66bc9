//! The configuration in ConfigMaps, watched through an API server that fails in every way: no call fails.

use std::time::{Duration, Instant};

use portcullis_crds::{Server, Snapshot};
use portcullis_e2e::fake_api::{FakeApi, Mood};
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{self, LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::reload::{STATE_DEADLINE, sessions, soon, under_load};

const SLOTS: [&str; 2] = ["p-servers-2-0", "p-servers-2-1"];

fn options(api: &FakeApi) -> Options {
    Options {
        configmaps: Some(SLOTS.join(",")),
        allowed_addresses: Some("127.0.0.0/8".into()),
        kubeconfig: Some(api.kubeconfig()),
        admin_address: Some("127.0.0.1:0".into()),
        ..gateway::options()
    }
}

async fn tool(name: &str) -> Faulty {
    Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text(name, "ok")]).await
}

fn snapshot(servers: &[(&str, &Faulty)]) -> Snapshot {
    Snapshot::new(servers.iter().map(|(name, server)| Server::from_url(name, &server.url())).collect())
}

/// A gateway whose first slot has a server with the tool `steady`, and whose second has nothing.
async fn steady(api: &FakeApi, server: &Faulty) -> TestGateway {
    api.write(SLOTS[0], &snapshot(&[("steady", server)]));
    api.write(SLOTS[1], &snapshot(&[]));
    let gateway = TestGateway::start(options(api)).await;
    gateway.offers(&["steady"]).await;
    gateway.counts("portcullis_config_source_up", 1.0).await;
    gateway
}

async fn admin(gateway: &TestGateway, path: &str) -> client::HttpAnswer {
    client::get(&format!("http://{}{path}", gateway.admin)).limit(LIMIT).send().await.expect("an answer")
}

async fn status(gateway: &TestGateway, query: &str) -> Value {
    admin(gateway, &format!("/status{query}")).await.json()
}

/// The whole status, once its servers are ready and nothing more is about to change.
async fn settled(gateway: &TestGateway) -> Value {
    wait_for("a status that stays", LIMIT, async || {
        let whole = status(gateway, "").await;
        let instance = whole["instance"].as_str().expect("an instance");
        let later = status(gateway, &format!("?instance={instance}&since={}&wait=1", whole["change"])).await;
        let ready = whole["servers"].as_array().expect("servers").iter().all(|server| server["ready"] == true);
        if ready && later["change"] == whole["change"] { Ok(whole) } else { Err(later) }
    })
    .await
}

async fn slot(gateway: &TestGateway, index: usize) -> Value {
    status(gateway, "").await["slots"][index].take()
}

#[tokio::test]
async fn a_change_is_live_at_once_and_says_how_long_it_took() {
    let (api, server, coming) = (FakeApi::start().await, tool("steady").await, tool("coming").await);
    let gateway = steady(&api, &server).await;
    let before = sessions(&server);
    assert_eq!(gateway.metric("portcullis_snapshot_delay_seconds_count").await, Some(0.0), "old writings do not count");
    under_load(&gateway, "steady", async {
        for count in 1..=3 {
            let began = Instant::now();
            api.write(SLOTS[1], &snapshot(&[("coming", &coming)]));
            soon(gateway.offers(&["coming", "steady"])).await;
            println!("callable after {:?}", began.elapsed());
            api.bookmark();
            api.write(SLOTS[1], &snapshot(&[]));
            soon(gateway.offers(&["steady"])).await;
            gateway.counts("portcullis_snapshot_delay_seconds_count", f64::from(count) * 2.0).await;
        }
    })
    .await;
    assert_eq!(sessions(&server), before, "the other session was not touched");
    let delay = gateway.metric("portcullis_snapshot_delay_seconds_sum").await.expect("a sum");
    assert!(delay < 6.0 * STATE_DEADLINE.as_secs_f64(), "{delay}");
    assert_eq!(api.seen(), (2, 2), "one list and one watch for each");
}

#[tokio::test]
async fn no_bad_content_removes_anything_and_all_of_it_is_told() {
    let (api, server) = (FakeApi::start().await, tool("steady").await);
    let gateway = steady(&api, &server).await;
    let before = slot(&gateway, 0).await;
    under_load(&gateway, "steady", async {
        for reason in ["missing", "empty", "corrupt", "edited", "version"] {
            match reason {
                "missing" => api.delete(SLOTS[0]),
                "empty" => api.create(SLOTS[0]),
                "corrupt" => api.write_text(SLOTS[0], "{"),
                "edited" => {
                    api.write(SLOTS[0], &snapshot(&[("steady", &server)]));
                    api.edit_text(SLOTS[0], &snapshot(&[]));
                }
                _ => api.write_text(SLOTS[0], r#"{"version":4,"servers":[]}"#),
            }
            gateway.counts(&format!(r#"portcullis_snapshot_rejected_total{{reason="{reason}"}}"#), 1.0).await;
            gateway.counts("portcullis_configuration_ok", 0.0).await;
            let problem = gateway.health().await["configuration"]["problems"][0].take();
            assert!(problem.as_str().is_some_and(|text| text.starts_with("ConfigMap p-servers-2-0 ")), "{problem}");
            wait_for("the problem", STATE_DEADLINE, async || slot(&gateway, 0).await["problem"] == problem).await;
            assert_eq!(slot(&gateway, 0).await["revision"], before["revision"]);
            assert_eq!(gateway.tools().await, ["steady"]);

            api.write(SLOTS[0], &snapshot(&[("steady", &server)]));
            gateway.counts("portcullis_configuration_ok", 1.0).await;
            wait_for("no problem", STATE_DEADLINE, async || slot(&gateway, 0).await == before).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_api_server_in_trouble_costs_no_call_and_is_followed_again() {
    let (mut api, server, other) = (FakeApi::start().await, tool("steady").await, tool("other").await);
    let gateway = steady(&api, &server).await;
    let before = sessions(&server);
    under_load(&gateway, "steady", async {
        // What happens while nobody hears it is made good afterwards.
        let mut there = false;
        for trouble in ["ends", "forgets", "fails", "forbids", "away"] {
            match trouble {
                "ends" => api.end_watches(),
                "forgets" => {
                    api.forget();
                    api.end_watches();
                }
                "fails" => {
                    api.set_mood(Mood::Fails(500));
                    api.end_watches();
                }
                "forbids" => {
                    api.set_mood(Mood::Fails(403));
                    api.end_watches();
                }
                _ => api.go_away().await,
            }
            if matches!(trouble, "fails" | "forbids" | "away") {
                gateway.counts("portcullis_config_source_up", 0.0).await;
                assert_eq!(gateway.health().await["configuration"], json!({"ok": true}), "{trouble}");
            }
            there = !there;
            let both = [("other", &other)];
            api.write(SLOTS[1], &snapshot(if there { &both } else { &[] }));
            api.set_mood(Mood::Well);
            if trouble == "away" {
                api.listen().await;
            }
            gateway.offers(if there { &["other", "steady"] } else { &["steady"] }).await;
            gateway.counts("portcullis_config_source_up", 1.0).await;
        }
    })
    .await;
    assert_eq!(sessions(&server), before, "the session was not touched");
}

#[tokio::test]
async fn an_api_server_that_never_answers_is_given_up_and_asked_again() {
    let (api, server) = (FakeApi::start().await, tool("steady").await);
    api.set_mood(Mood::Hangs);
    api.write(SLOTS[0], &snapshot(&[("steady", &server)]));
    api.write(SLOTS[1], &snapshot(&[]));
    let gateway = TestGateway::start(options(&api)).await;
    wait_for("the first attempt", LIMIT, async || admin(&gateway, "/readyz").await.status == 503).await;
    api.set_mood(Mood::Well);
    gateway.offers(&["steady"]).await;
}

#[tokio::test]
async fn nothing_is_applied_and_no_traffic_taken_before_every_slot_is_written() {
    let (api, server) = (FakeApi::start().await, tool("steady").await);
    api.write(SLOTS[0], &snapshot(&[("steady", &server)]));
    api.create(SLOTS[1]);
    let gateway = TestGateway::start(options(&api)).await;
    gateway.counts("portcullis_config_source_up", 1.0).await;
    let ready = admin(&gateway, "/readyz").await;
    assert_eq!((ready.status, ready.text()), (503, "configuration\nfirst sessions\n"));
    assert_eq!(server.seen().initializes, 0);
    assert_eq!(gateway.health().await["configuration"], json!({"ok": true}), "it waits for the operator");
    let told = status(&gateway, "").await;
    let blank = |name: &str, origin: &str| json!({"name": name, "revision": "", "origin": origin});
    assert_eq!(told["slots"], json!([blank(SLOTS[0], "api"), blank(SLOTS[1], "")]));

    api.write(SLOTS[1], &snapshot(&[]));
    wait_for("readiness", STATE_DEADLINE, async || admin(&gateway, "/readyz").await.status == 200).await;
    assert_eq!(gateway.tools().await, ["steady"], "it is ready when its sessions are");
}

#[tokio::test]
async fn the_mounted_copy_starts_a_gateway_while_the_api_server_is_away() {
    let (mut api, server, new) = (FakeApi::start().await, tool("steady").await, tool("new").await);
    api.go_away().await;
    let mounted = tempfile::tempdir().expect("a folder");
    for (name, content) in [(SLOTS[0], snapshot(&[("steady", &server)])), (SLOTS[1], snapshot(&[]))] {
        std::fs::create_dir(mounted.path().join(name)).expect("a folder");
        std::fs::write(mounted.path().join(name).join("servers.json"), content.to_text()).expect("a file");
    }
    let gateway =
        TestGateway::start(Options { configmaps_mounted: Some(mounted.path().into()), ..options(&api) }).await;
    gateway.offers(&["steady"]).await;
    gateway.ready().await;
    assert_eq!(slot(&gateway, 0).await["origin"], "mounted");
    assert_eq!(gateway.metric("portcullis_config_source_up").await, Some(0.0));
    let before = sessions(&server);
    under_load(&gateway, "steady", async {
        api.write(SLOTS[0], &snapshot(&[("steady", &server)]));
        api.write(SLOTS[1], &snapshot(&[("new", &new)]));
        api.listen().await;
        gateway.offers(&["new", "steady"]).await;
    })
    .await;
    wait_for("the origin", STATE_DEADLINE, async || slot(&gateway, 0).await["origin"] == "api").await;
    assert_eq!(sessions(&server), before);
}

#[tokio::test]
async fn the_status_is_told_whole_then_by_what_changed_and_only_on_the_admin_port() {
    let (api, server, other) = (FakeApi::start().await, tool("steady").await, tool("other").await);
    let gateway = steady(&api, &server).await;
    let whole = settled(&gateway).await;
    let (instance, change) = (whole["instance"].as_str().expect("an instance").to_owned(), whole["change"].clone());
    assert_eq!(whole["complete"], true);
    let known = &whole["servers"][0];
    let revision = Server::from_url("steady", &server.url()).revision();
    assert_eq!(
        (&known["key"]["name"], &known["revision"], &known["reason"], &known["tools"]),
        (&json!("steady"), &json!(revision), &json!("Ready"), &json!(1))
    );
    let packed = portcullis_crds::slots::Packed::pack(&snapshot(&[("steady", &server)]));
    assert_eq!(whole["slots"][0], json!({"name": SLOTS[0], "revision": packed.revision(), "origin": "api"}));
    assert!(!whole.to_string().contains(&server.url()), "{whole}");

    let after = |change: &Value, wait: u64| format!("?instance={instance}&since={change}&wait={wait}");
    let nothing = status(&gateway, &after(&change, 0)).await;
    assert_eq!((&nothing["complete"], &nothing["servers"], &nothing["change"]), (&json!(false), &json!([]), &change));

    let waiting = after(&change, 30);
    let asked = status(&gateway, &waiting);
    let work = async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        api.write(SLOTS[1], &snapshot(&[("other", &other)]));
    };
    let (told, ()) = tokio::join!(asked, work);
    let names = |report: &Value| -> Vec<Value> {
        report["servers"].as_array().expect("servers").iter().map(|server| server["key"]["name"].clone()).collect()
    };
    assert_eq!((names(&told), &told["complete"]), (vec![json!("other")], &json!(false)));
    wait_for("the other to be ready", STATE_DEADLINE, async || {
        let told = status(&gateway, &after(&change, 0)).await;
        told["servers"][0]["ready"] == true
    })
    .await;
    assert_eq!(gateway.call("other", "{}").await.status, 200, "what is ready can be called");

    let change = settled(&gateway).await["change"].clone();
    api.write(SLOTS[1], &snapshot(&[]));
    let told = status(&gateway, &after(&change, 30)).await;
    assert_eq!((names(&told), &told["gone"][0]["name"]), (vec![], &json!("other")));

    let stranger = status(&gateway, &format!("?instance=another&since={change}&wait=30")).await;
    assert_eq!((&stranger["complete"], names(&stranger)), (&json!(true), vec![json!("steady")]));
    assert_eq!(admin(&gateway, "/status?since=x").await.status, 400);
    assert_eq!(gateway.get("/status").send().await.expect("an answer").status, 404, "not on the main port");
}

#[tokio::test]
async fn waiting_callers_are_bounded_and_let_go_when_the_gateway_stops() {
    let (api, server) = (FakeApi::start().await, tool("steady").await);
    let mut gateway = steady(&api, &server).await;
    let whole = settled(&gateway).await;
    let instance = whole["instance"].as_str().expect("an instance");
    let url = format!("http://{}/status?instance={instance}&since={}&wait=", gateway.admin, whole["change"]);
    let ask = async |wait: u64| client::get(&format!("{url}{wait}")).limit(LIMIT * 2).send().await.expect("an answer");
    let waiting = futures_util::future::join_all((0..32).map(|_| ask(30)));
    let stopping = async {
        wait_for("a full house", STATE_DEADLINE, async || ask(0).await.status == 503).await;
        gateway.tell_to_stop();
        Instant::now()
    };
    let (told, began) = tokio::join!(waiting, stopping);
    assert!(began.elapsed() < Duration::from_secs(3), "they are answered, not cut");
    for answer in told {
        let report = answer.json();
        assert_eq!((&report["change"], &report["servers"]), (&whole["change"], &json!([])));
    }
}

#[tokio::test]
async fn a_server_that_hangs_holds_back_the_first_traffic_but_not_for_long() {
    use portcullis_e2e::faulty::ConnectionFault;
    let (api, server, silent) = (FakeApi::start().await, tool("steady").await, tool("silent").await);
    silent.behave(|behaviour| behaviour.connection = ConnectionFault::Silent);
    let mut servers = snapshot(&[("silent", &silent), ("steady", &server)]);
    servers.servers[0].timeouts.connect_seconds = 2;
    api.write(SLOTS[0], &servers);
    api.write(SLOTS[1], &snapshot(&[]));
    let gateway = TestGateway::start(options(&api)).await;
    gateway.offers(&["steady"]).await;
    let ready = admin(&gateway, "/readyz").await;
    assert_eq!((ready.status, ready.text()), (503, "first sessions\n"));
    assert_eq!(admin(&gateway, "/livez").await.status, 200);
    wait_for("readiness", LIMIT, async || admin(&gateway, "/readyz").await.status == 200).await;
    let late = tool("late").await;
    late.behave(|behaviour| behaviour.connection = ConnectionFault::Silent);
    api.write(SLOTS[1], &snapshot(&[("late", &late)]));
    wait_for("the server", STATE_DEADLINE, async || gateway.server("late").await["state"] == "connecting").await;
    assert_eq!(admin(&gateway, "/readyz").await.status, 200, "only the first configuration counts");
}

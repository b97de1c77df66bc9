//! Changes of the manifests' folder during calls affect only the changed servers.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::time::sleep;

/// A change must show within this time: far more than it takes, far less than the look every ten seconds.
pub(crate) const STATE_DEADLINE: Duration = Duration::from_secs(5);

/// The request that shows a new connection; `server/discover` does not, because it is also a health check.
pub(crate) fn sessions(server: &Faulty) -> [u64; 4] {
    let seen = server.seen();
    [seen.initializes, seen.initialized, seen.streams, seen.deleted]
}

/// Does something while calls of a tool go on without a pause, none of which may fail.
pub(crate) async fn under_load<T>(gateway: &TestGateway, tool: &str, work: impl Future<Output = T>) -> T {
    let load = async {
        loop {
            let answer = gateway.call(tool, "{}").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            sleep(Duration::from_millis(1)).await;
        }
    };
    let load: &mut (dyn Future<Output = Infallible> + Unpin) = &mut Box::pin(load);
    tokio::select! {
        done = work => done,
        never = load => match never {},
    }
}

pub(crate) async fn soon<F: Future<Output = ()>>(work: F) {
    let began = Instant::now();
    work.await;
    assert!(began.elapsed() < STATE_DEADLINE, "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn an_added_server_brings_its_tools_and_a_removed_one_finishes_its_calls() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let steady = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("steady", "ok")]).await;
        let slow = Tool::text("slow", "done").takes(Duration::from_millis(1500));
        let coming = Faulty::with_tools(mode, vec![slow]).await;
        let manifests = Manifests::new();
        manifests.add("steady", &steady.url(), "");
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.offers(&["steady"]).await;
        let before = sessions(&steady);
        under_load(&gateway, "steady", async {
            manifests.add("coming", &coming.url(), "");
            soon(gateway.offers(&["slow", "steady"])).await;
            let call = gateway.call("slow", "{}");
            let removal = async {
                wait_for("the call", LIMIT, async || coming.running() == 1).await;
                manifests.remove("coming");
                gateway.offers(&["steady"]).await;
                assert_eq!(coming.running(), 1, "{mode:?}: it is gone before its call ends");
                assert_eq!(gateway.call("slow", "{}").await.status, 404);
                assert_eq!(gateway.server("coming").await, json!(null));
            };
            let (answer, ()) = tokio::join!(call, removal);
            assert_eq!((answer.status, &answer.json()["content"][0]["text"]), (200, &json!("done")), "{mode:?}");
            wait_for("the goodbye", LIMIT, async || coming.open_streams() == 0).await;
        })
        .await;
        assert_eq!(sessions(&steady), before, "the other session was not touched");
        assert!(!gateway.metrics().await.contains(r#"server="coming""#), "its series end");
    }
}

#[tokio::test]
async fn changes_that_a_session_can_live_with_keep_it() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let server = Faulty::with_tools(mode, vec![Tool::echo("echo")]).await;
        let manifests = Manifests::new();
        manifests.add("one", &server.url(), "");
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.offers(&["echo"]).await;
        wait_for("all of the handshake", LIMIT, async || server.open_streams() == 1).await;
        let before = sessions(&server);
        let steps = [
            ("headers: [{name: X-Step, value: one}]", "echo"),
            ("headers: [{name: X-Step, value: two}]\nweight: 7\npriority: 3", "echo"),
            ("tools: {prefix: p}\nlimits: {maxConcurrentRequests: 1}", "p__echo"),
            ("tools: {overrides: [{name: echo, rename: repeat}]}\nforwardHeaders: [x-tenant]", "repeat"),
            ("timeouts: {requestSeconds: 1, connectSeconds: 1}\nhealthCheck: {mode: Passive}", "echo"),
        ];
        for (index, (more, tool)) in steps.iter().enumerate() {
            let mark = format!("step {index}");
            manifests.add("one", &server.url(), &format!("displayName: {mark}\n{more}"));
            soon(async {
                gateway.offers(&[tool]).await;
                wait_for("the step", LIMIT, async || gateway.server("one").await["display_name"] == mark).await;
            })
            .await;
            assert_eq!(gateway.call(tool, "{}").await.status, 200);
            let header = ["one", "two", "", "", ""][index];
            wait_for("the header", LIMIT, async || {
                gateway.call(tool, "{}").await;
                server.seen().of("tools/call").last().is_some_and(|call| call.header("x-step") == header)
            })
            .await;
        }
        assert_eq!(sessions(&server), before, "{mode:?}: the session is the first one");
    }
}

#[tokio::test]
async fn a_server_is_drained_disabled_and_enabled_again() {
    let server =
        Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("slow", "done").takes(Duration::from_secs(1))])
            .await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["slow"]).await;
    let call = gateway.call("slow", "{}");
    let draining = async {
        wait_for("the call", LIMIT, async || server.running() == 1).await;
        manifests.add("one", &server.url(), "state: Draining");
        soon(gateway.offers(&[])).await;
        let view = gateway.server("one").await;
        assert_eq!((&view["connected"], &view["state"]), (&json!(true), &json!("draining")));
        assert_eq!(gateway.call("slow", "{}").await.status, 503);
    };
    let (answer, ()) = tokio::join!(call, draining);
    assert_eq!((answer.status, server.seen().deleted), (200, 0));

    manifests.add("one", &server.url(), "");
    soon(gateway.offers(&["slow"])).await;
    assert_eq!(server.seen().initializes, 1, "draining keeps the session");

    manifests.add("one", &server.url(), "state: Disabled");
    wait_for("the goodbye", STATE_DEADLINE, async || server.seen().deleted == 1).await;
    soon(gateway.offers(&[])).await;
    assert_eq!(gateway.server("one").await["state"], "disabled");

    manifests.add("one", &server.url(), "");
    soon(gateway.offers(&["slow"])).await;
    assert_eq!(server.seen().initializes, 2);
}

#[tokio::test]
async fn a_server_that_moves_is_called_at_its_new_place() {
    let old = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("where", "old").takes(Duration::from_secs(1))]).await;
    let new = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("where", "new")]).await;
    let manifests = Manifests::new();
    manifests.add("one", &old.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["where"]).await;
    let call = gateway.call("where", "{}");
    let moving = async {
        wait_for("the call", LIMIT, async || old.running() == 1).await;
        manifests.add("one", &new.url(), "");
        wait_for("an answer from the new place", STATE_DEADLINE, async || {
            gateway.call("where", "{}").await.json()["content"][0]["text"] == "new"
        })
        .await;
    };
    let (answer, ()) = tokio::join!(call, moving);
    assert_eq!((answer.status, &answer.json()["content"][0]["text"]), (200, &json!("old")), "it began there");
    wait_for("the goodbye", LIMIT, async || old.open_streams() == 0).await;
}

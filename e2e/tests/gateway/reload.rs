//! The folder of manifests is changed while calls run: only what changed is touched.

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use portcullis_e2e::faulty::{Faulty, Mode, Tool};
use portcullis_e2e::gateway::{Gateway, LIMIT, options};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::{Manifests, manifest};
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::json;
use tokio::time::sleep;

/// A change must show within this time: far more than it takes, far less than the look every ten seconds.
const SOON: Duration = Duration::from_secs(5);

/// What shows whether a server was connected to anew.
pub(crate) fn sessions(server: &Faulty) -> [u64; 5] {
    let seen = server.seen();
    [seen.initializes, seen.initialized, seen.discovers, seen.streams, seen.deleted]
}

/// Does something while calls of a tool go on without a pause, none of which may fail.
async fn under_load<T>(gateway: &Gateway, tool: &str, work: impl Future<Output = T>) -> T {
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

async fn soon<F: Future<Output = ()>>(work: F) {
    let began = Instant::now();
    work.await;
    assert!(began.elapsed() < SOON, "it took {:?}", began.elapsed());
}

#[tokio::test]
async fn an_added_server_brings_its_tools_and_a_removed_one_finishes_its_calls() {
    for mode in [Mode::Sse, Mode::Streamable, Mode::Modern] {
        let steady = Faulty::with_tools(Mode::Sse, vec![Tool::text("steady", "ok")]).await;
        let slow = Tool::text("slow", "done").takes(Duration::from_millis(1500));
        let coming = Faulty::with_tools(mode, vec![slow]).await;
        let manifests = Manifests::new();
        manifests.add("steady", &steady.url(), "");
        let gateway = Gateway::start(manifests.options()).await;
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
    for mode in [Mode::Sse, Mode::Streamable, Mode::Modern] {
        let server = Faulty::with_tools(mode, vec![Tool::echo("echo")]).await;
        let manifests = Manifests::new();
        manifests.add("one", &server.url(), "");
        let gateway = Gateway::start(manifests.options()).await;
        gateway.offers(&["echo"]).await;
        wait_for("all of the handshake", LIMIT, async || mode == Mode::Modern || server.open_streams() == 1).await;
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
        Faulty::with_tools(Mode::Streamable, vec![Tool::text("slow", "done").takes(Duration::from_secs(1))]).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "");
    let gateway = Gateway::start(manifests.options()).await;
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
    wait_for("the goodbye", SOON, async || server.seen().deleted == 1).await;
    soon(gateway.offers(&[])).await;
    assert_eq!(gateway.server("one").await["state"], "disabled");

    manifests.add("one", &server.url(), "");
    soon(gateway.offers(&["slow"])).await;
    assert_eq!(server.seen().initializes, 2);
}

#[tokio::test]
async fn a_server_that_moves_is_called_at_its_new_place() {
    let old = Faulty::with_tools(Mode::Sse, vec![Tool::text("where", "old").takes(Duration::from_secs(1))]).await;
    let new = Faulty::with_tools(Mode::Streamable, vec![Tool::text("where", "new")]).await;
    let manifests = Manifests::new();
    manifests.add("one", &old.url(), "");
    let gateway = Gateway::start(manifests.options()).await;
    gateway.offers(&["where"]).await;
    let call = gateway.call("where", "{}");
    let moving = async {
        wait_for("the call", LIMIT, async || old.running() == 1).await;
        manifests.add("one", &new.url(), "");
        wait_for("an answer from the new place", SOON, async || {
            gateway.call("where", "{}").await.json()["content"][0]["text"] == "new"
        })
        .await;
    };
    let (answer, ()) = tokio::join!(call, moving);
    assert_eq!((answer.status, &answer.json()["content"][0]["text"]), (200, &json!("old")), "it began there");
    wait_for("the goodbye", LIMIT, async || old.open_streams() == 0).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_last_good_servers_and_is_told() {
    let server = Faulty::start(Mode::Sse).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "");
    let gateway = Gateway::start(manifests.options()).await;
    gateway.offers(&["echo"]).await;
    assert_eq!(gateway.health().await["configuration"], json!({"ok": true}));
    let before = sessions(&server);
    let file = manifests.servers().join("one.yaml").display().to_string();
    let breaks = [
        ("spec: [", "while parsing"),
        (&manifest("one", "ftp://x/", ""), "McpServer default/one: url has scheme \"ftp\": use http or https"),
        (&manifest("one", &server.url(), "wieght: 7"), "unknown field"),
        (&manifest("one", &server.url(), "weight: heavy"), "weight"),
    ];
    under_load(&gateway, "echo", async {
        for (index, (text, problem)) in (0u32..).zip(breaks).skip(0) {
            // The URL of the second is refused as a whole; a refused server is left out, so it has a file of its own.
            let name = if index == 1 { "other.yaml" } else { "one.yaml" };
            manifests
                .write(name, &if index == 1 { text.replace("name: one", "name: other") } else { text.to_string() });
            let problem =
                if index == 1 { problem.replace("default/one", "default/other") } else { problem.to_string() };
            wait_for("the problem", SOON, async || {
                let configuration = gateway.health().await["configuration"].take();
                let problems = configuration["problems"].to_string();
                let found =
                    problems.contains(&serde_json::to_string(&problem).expect("text").trim_matches('"').to_owned());
                if configuration["ok"] == false && found && (index == 1 || problems.contains(&file)) {
                    Ok(())
                } else {
                    Err(configuration)
                }
            })
            .await;
            assert_eq!(gateway.metric("portcullis_configuration_ok").await, Some(0.0));
            assert_eq!(
                gateway.metric(r#"portcullis_snapshot_rejected_total{reason="invalid"}"#).await,
                Some(f64::from(index) + 1.0)
            );
            let stranger = client::get(&gateway.url("/health")).send().await.expect("an answer").json();
            assert_eq!(stranger["configuration"], json!({"ok": false}), "strangers learn no more");
            assert_eq!(gateway.tools().await, ["echo"]);
            if index == 1 {
                manifests.remove("other");
            } else {
                manifests.add("one", &server.url(), "");
            }
            wait_for("all to be well", SOON, async || gateway.health().await["configuration"] == json!({"ok": true}))
                .await;
            assert_eq!(gateway.metric("portcullis_configuration_ok").await, Some(1.0));
        }
    })
    .await;
    assert_eq!(sessions(&server), before);
}

#[tokio::test]
async fn a_gateway_starts_with_a_broken_file_and_without_servers() {
    let server = Faulty::start(Mode::Sse).await;
    let manifests = Manifests::new();
    manifests.write("broken.yaml", "spec: [");
    let gateway = Gateway::start(manifests.options()).await;
    let ready = client::get(&gateway.url("/readyz")).send().await.expect("an answer");
    assert_eq!((ready.status, gateway.health().await["configuration"]["ok"].clone()), (200, json!(false)));
    assert_eq!(gateway.tools().await, Vec::<String>::new());
    manifests.add("broken", &server.url(), "");
    soon(gateway.offers(&["echo"])).await;
}

#[tokio::test]
async fn files_replaced_by_renaming_are_seen() {
    let servers = [
        Faulty::with_tools(Mode::Sse, vec![Tool::echo("a")]).await,
        Faulty::with_tools(Mode::Sse, vec![Tool::echo("b")]).await,
    ];
    let manifests = Manifests::new();
    let gateway = Gateway::start(manifests.options()).await;
    for _ in 0..2 {
        for (server, tool) in servers.iter().zip(["a", "b"]) {
            manifests.replace("one.yaml", &manifest("one", &server.url(), ""));
            soon(gateway.offers(&[tool])).await;
        }
    }
    // Several documents and kinds in one file, as kubectl takes them.
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
    let both = [&manifest("a", &servers[0].url(), ""), secret, &manifest("b", &servers[1].url(), "")];
    manifests.replace("one.yaml", &both.join("---\n"));
    soon(gateway.offers(&["a", "b"])).await;
}

#[tokio::test]
async fn a_single_file_is_watched_as_well() {
    let server = Faulty::start(Mode::Streamable).await;
    let manifests = Manifests::new();
    let file = manifests.servers().join("all.yaml");
    manifests.write("all.yaml", "# nothing yet\n");
    let gateway = Gateway::start(Options { servers: Some(file), ..options() }).await;
    assert_eq!(gateway.tools().await, Vec::<String>::new());
    manifests.write("all.yaml", &manifest("one", &server.url(), ""));
    soon(gateway.offers(&["echo"])).await;
    manifests.replace("all.yaml", &manifest("one", &server.url(), "tools: {prefix: p}"));
    soon(gateway.offers(&["p__echo"])).await;
}

/// Writes a new version as the kubelet does: a folder of its own, to which the link `..data` is swapped.
fn publish(mount: &Path, version: u32, files: &[(&str, String)]) {
    let folder = mount.join(format!("..2026_{version}"));
    fs::create_dir(&folder).expect("a folder");
    for (name, text) in files {
        fs::write(folder.join(name), text).expect("a file");
    }
    let fresh = mount.join("..data_tmp");
    symlink(folder.file_name().expect("a name"), &fresh).expect("a link");
    fs::rename(fresh, mount.join("..data")).expect("renamed");
    for (name, _) in files {
        if !mount.join(name).is_symlink() {
            symlink(Path::new("..data").join(name), mount.join(name)).expect("a link");
        }
    }
    for entry in fs::read_dir(mount).expect("a folder").flatten() {
        let name = entry.file_name().into_string().expect("text");
        let is_old = name.starts_with("..2026_") && entry.path() != folder;
        let is_gone = !name.starts_with("..") && !files.iter().any(|(file, _)| *file == name);
        if is_old {
            fs::remove_dir_all(entry.path()).expect("removed");
        } else if is_gone {
            fs::remove_file(entry.path()).expect("removed");
        }
    }
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_when_its_link_is_swapped() {
    let tool = |name: &str| vec![Tool::text(name, name)];
    let (a, b) = (Faulty::with_tools(Mode::Sse, tool("a")).await, Faulty::with_tools(Mode::Modern, tool("b")).await);
    let manifests = Manifests::new();
    let mount = manifests.servers();
    let (file_a, file_b) = (("a.yaml", manifest("a", &a.url(), "")), ("b.yaml", manifest("b", &b.url(), "")));
    publish(&mount, 1, &[file_a.clone()]);
    let gateway = Gateway::start(manifests.options()).await;
    gateway.offers(&["a"]).await;
    let before = sessions(&a);
    under_load(&gateway, "a", async {
        publish(&mount, 2, &[file_a.clone(), file_b.clone()]);
        soon(gateway.offers(&["a", "b"])).await;
        publish(&mount, 3, &[file_a.clone(), ("b.yaml", manifest("b", &b.url(), "tools: {prefix: p}"))]);
        soon(gateway.offers(&["a", "p__b"])).await;
        publish(&mount, 4, &[file_a.clone()]);
        soon(gateway.offers(&["a"])).await;
    })
    .await;
    assert_eq!((sessions(&a), b.seen().discovers), (before, 1));
}

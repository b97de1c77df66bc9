//! The kill storm: a server dies again and again under load, and no caller notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::http::HttpConnection;
use portcullis_e2e::wait::wait_for;
use tokio::time::sleep;

use crate::stack::{STATE_DEADLINE, Stack, server};

const NAMES: [&str; 3] = ["a", "b", "c"];

#[derive(Default)]
struct StormTally {
    over: AtomicBool,
    good: AtomicU64,
}

async fn three() -> ([Faulty; 3], Stack) {
    let tool = || vec![Tool::echo("echo").annotated(r#"{"readOnlyHint":true}"#).takes(Duration::from_millis(5))];
    let servers = [
        Faulty::with_tools(FaultyMode::Sse, tool()).await,
        Faulty::with_tools(FaultyMode::Streamable, tool()).await,
        Faulty::with_tools(FaultyMode::Sse, tool()).await,
    ];
    let entries = servers.iter().zip(NAMES).map(|(faulty, name)| server(name, faulty).calls_take(20));
    let stack = Stack::ready(entries.collect::<Vec<_>>()).await;
    (servers, stack)
}

/// Calls without a pause until the storm is over; any failure ends the test.
async fn caller(stack: &Stack, tally: &StormTally, number: usize) {
    let mut connection = HttpConnection::to(&stack.url("/tools")).await.expect("a connection");
    let mut count = 0;
    while !tally.over.load(Ordering::Relaxed) {
        count += 1;
        let arguments = format!(r#"{{"caller":{number},"call":{count}}}"#);
        let answer = connection.send(stack.request("echo", &arguments)).await.expect("an answer");
        assert_eq!(answer.status, 200, "call {count} of caller {number}: {}", answer.text());
        assert_eq!(answer.json()["content"][0]["text"], arguments.as_str());
        tally.good.fetch_add(1, Ordering::Relaxed);
    }
}

async fn under_load(stack: &Stack, storm: impl Future<Output = ()>) -> u64 {
    let tally = StormTally::default();
    let storm = async {
        storm.await;
        tally.over.store(true, Ordering::Relaxed);
    };
    tokio::join!(storm, join_all((0..8).map(|number| caller(stack, &tally, number))));
    tally.good.into_inner()
}

async fn one_dies_thirty_times(victim: usize) {
    let (mut servers, stack) = three().await;
    let storm = async {
        for _ in 0..30 {
            sleep(Duration::from_millis(150)).await;
            servers[victim].kill().await;
            sleep(Duration::from_millis(50)).await;
            servers[victim].restart().await;
        }
        sleep(Duration::from_millis(300)).await;
    };
    let good = under_load(&stack, storm).await;
    assert!(good > 500, "{good} calls are no load");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_a_legacy_server_is_killed_thirty_times() {
    one_dies_thirty_times(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_a_streamable_server_is_killed_thirty_times() {
    one_dies_thirty_times(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_fails_while_all_servers_are_restarted_one_after_the_other() {
    let (mut servers, stack) = three().await;
    let storm = async {
        for _ in 0..3 {
            for (server, name) in servers.iter_mut().zip(NAMES) {
                server.kill().await;
                stack.until(name, "away", |it| it["connected"] == false).await;
                server.restart().await;
                let calls = server.seen().calls;
                stack.connected(name).await;
                wait_for("calls to come back", STATE_DEADLINE, || async { server.seen().calls > calls }).await;
            }
        }
    };
    under_load(&stack, storm).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_may_not_be_repeated_is_never_carried_out_twice_in_a_storm() {
    let (mut servers, stack) = three().await;
    servers.iter().for_each(|server| server.set_tools(vec![Tool::echo("once").takes(Duration::from_millis(5))]));
    join_all(servers.iter().map(Faulty::announce)).await;
    wait_for("the new tool at all servers", STATE_DEADLINE, || async {
        let all = join_all(NAMES.map(|name| stack.server(name))).await;
        all.iter().all(|server| server["available_tools"] == serde_json::json!(["once"]))
    })
    .await;
    let tally = StormTally::default();
    let storm = async {
        for _ in 0..15 {
            sleep(Duration::from_millis(150)).await;
            servers[0].kill().await;
            sleep(Duration::from_millis(50)).await;
            servers[0].restart().await;
        }
        tally.over.store(true, Ordering::Relaxed);
    };
    let callers = (0..8).map(async |number| {
        let mut asked = 0;
        while !tally.over.load(Ordering::Relaxed) {
            asked += 1;
            let arguments = format!(r#"{{"caller":{number},"call":{asked}}}"#);
            let answer = stack.request("once", &arguments).send().await.expect("an answer");
            assert!([200, 502].contains(&answer.status), "{}", answer.text());
        }
    });
    tokio::join!(storm, join_all(callers));
    let mut seen: Vec<String> = Vec::new();
    for server in &servers {
        seen.extend(server.seen().begun);
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(all, seen.len(), "a call was carried out twice");
    assert!(all > 200, "{all} calls are no load");
}

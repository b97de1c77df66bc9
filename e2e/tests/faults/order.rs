//! The choice of a server: preference, priority, weight, ejection, draining.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Faulty, FaultyMode, RequestFault, Tool};
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::stack::{STATE_DEADLINE, Stack, server};

async fn several(specs: &[(&str, Value)], tool: &Tool) -> (Vec<Faulty>, Stack) {
    let servers = join_all(specs.iter().map(|_| Faulty::with_tools(FaultyMode::Streamable, vec![tool.clone()]))).await;
    let entries = servers.iter().zip(specs).map(|(faulty, (name, more))| {
        let members = more.as_object().expect("an object");
        members.iter().fold(server(name, faulty), |entry, (key, value)| entry.with(key, value.clone()))
    });
    let stack = Stack::ready(entries.collect::<Vec<_>>()).await;
    (servers, stack)
}

/// Calls from `callers` callers, until `calls` were made. Returns the number for each server.
async fn shares(stack: &Stack, callers: usize, calls: usize) -> BTreeMap<String, usize> {
    let one = async || {
        let mut names = Vec::new();
        for _ in 0..calls / callers {
            let answer = stack.call("echo").await;
            assert_eq!(answer.status, 200, "{}", answer.text());
            names.push(answer.header("x-portcullis-server").to_owned());
        }
        names
    };
    let mut counts = BTreeMap::new();
    for name in join_all((0..callers).map(|_| one())).await.concat() {
        *counts.entry(name).or_insert(0) += 1;
    }
    counts
}

#[tokio::test]
async fn calls_are_shared_by_weight_whatever_the_load() {
    let specs = [("heavy", json!({"weight": 300})), ("light", json!({"weight": 100})), ("never", json!({"weight": 0}))];
    for (callers, tool) in [(1, Tool::echo("echo")), (8, Tool::echo("echo").takes(Duration::from_millis(10)))] {
        let (_servers, stack) = several(&specs, &tool).await;
        let shares = shares(&stack, callers, 400).await;
        let light = shares.get("light").copied().unwrap_or_default();
        assert!((50..=160).contains(&light), "{callers} callers: {shares:?}");
        assert_eq!(shares.get("never"), None);
    }
}

#[tokio::test]
async fn equal_servers_share_equally() {
    let (_servers, stack) = several(&[("a", json!({})), ("b", json!({})), ("c", json!({}))], &Tool::echo("echo")).await;
    for callers in [1, 6] {
        let shares = shares(&stack, callers, 300).await;
        assert!(shares.len() == 3 && shares.values().all(|count| (60..=140).contains(count)), "{callers}: {shares:?}");
    }
}

#[tokio::test]
async fn a_server_that_hangs_gets_few_of_the_calls() {
    let (servers, stack) = several(&[("a", json!({})), ("b", json!({}))], &Tool::echo("echo")).await;
    servers[0].behave(|it| it.call = RequestFault::Hangs);
    let answers = join_all((0..100).map(|_| stack.call("echo"))).await;
    let good = answers.iter().filter(|answer| answer.status == 200).count();
    // All at once both look alike; afterwards the one that hangs is known.
    assert!(good >= 40, "{good}");
    let mut bad = 0;
    for _ in 0..50 {
        bad += usize::from(stack.call("echo").await.status != 200);
    }
    assert!(bad <= 3, "{bad}");
}

#[tokio::test]
async fn priority_comes_first_and_the_next_level_when_nobody_is_left() {
    let specs =
        [("a", json!({"priority": 1})), ("b", json!({"priority": 0, "weight": 1})), ("c", json!({"priority": 2}))];
    let (mut servers, stack) = several(&specs, &Tool::echo("echo")).await;
    let only = async |name: &str| {
        let shares = shares(&stack, 4, 40).await;
        assert_eq!(shares, BTreeMap::from([(name.to_owned(), 40)]));
    };
    only("b").await;
    servers[1].kill().await;
    stack.until("b", "away", |it| it["connected"] == false).await;
    only("a").await;
    servers[0].kill().await;
    stack.until("a", "away", |it| it["connected"] == false).await;
    only("c").await;
    servers[1].restart().await;
    stack.connected("b").await;
    only("b").await;
}

#[tokio::test]
async fn a_preferred_server_is_asked_first_and_another_when_it_cannot() {
    let specs = [("a", json!({})), ("b", json!({"priority": 5})), ("named", json!({"weight": 0}))];
    let (mut servers, stack) = several(&specs, &Tool::echo("echo")).await;
    for name in ["a", "b", "named"] {
        for _ in 0..5 {
            let answer = stack.preferring(name, "echo").send().await.expect("an answer");
            assert_eq!(answer.header("x-portcullis-server"), name);
        }
    }
    servers[1].kill().await;
    let answer = stack.preferring("b", "echo").send().await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-portcullis-server")), (200, "a"));
    let answer = stack.preferring("nobody", "echo").send().await.expect("an answer");
    assert_eq!(answer.status, 404);
}

#[tokio::test]
async fn a_server_with_weight_zero_alone_is_used_only_when_named() {
    let (_servers, stack) = several(&[("named", json!({"weight": 0}))], &Tool::echo("echo")).await;
    assert_eq!(stack.call("echo").await.status, 503);
    assert_eq!(stack.preferring("named", "echo").send().await.expect("an answer").status, 200);
}

#[tokio::test]
async fn a_draining_server_finishes_its_calls_and_takes_no_new_ones() {
    let slow = Tool::text("slow", "done").takes(Duration::from_millis(1500));
    let faulty = Faulty::with_tools(FaultyMode::Sse, vec![slow]).await;
    let entry = || server("a", &faulty).calls_take(5);
    let stack = Stack::ready([entry()]).await;
    let (running, ()) = tokio::join!(stack.call("slow"), async {
        wait_for("the call to arrive", STATE_DEADLINE, || async { faulty.running() == 1 }).await;
        stack.set(&entry().with("state", json!("Draining")));
        stack.until("a", "draining", |it| it["state"] == "draining").await;
        let answer = stack.preferring("a", "slow").send().await.expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(faulty.running(), 1, "the call should still run");
    });
    assert_eq!(running.status, 200, "{}", running.text());
    assert_eq!(faulty.seen().calls, 1);
}

#[tokio::test]
async fn a_server_that_fails_its_calls_is_put_last_with_growing_pauses_and_comes_back() {
    // It answers pings, so its session is never given up.
    let (servers, stack) = several(&[("a", json!({})), ("b", json!({"priority": 1}))], &Tool::echo("echo")).await;
    let [bad, good] = servers.as_slice() else { unreachable!("two servers") };
    bad.behave(|it| it.call = RequestFault::status(401));
    for _ in 0..3 {
        let answer = stack.call("echo").await;
        assert_eq!((answer.status, answer.header("x-portcullis-attempts")), (200, "2"));
    }
    let ejected = Instant::now();
    // First pause: a second.
    let before = bad.seen().calls;
    for _ in 0..10 {
        let answer = stack.call("echo").await;
        let server = answer.header("x-portcullis-server");
        assert_eq!((server, answer.header("x-portcullis-attempts")), ("b", "1"));
    }
    if ejected.elapsed() < Duration::from_millis(900) {
        assert_eq!(bad.seen().calls, before, "an ejected server was called");
    }
    assert_eq!(stack.server("a").await["ejected"], true);
    assert_eq!(stack.server("a").await["connected"], true);
    // One failure is enough for the second pause, of two seconds.
    stack.until("a", "back", |it| it["ejected"] == false).await;
    assert_eq!(stack.call("echo").await.header("x-portcullis-attempts"), "2");
    let again = Instant::now();
    assert_eq!(stack.server("a").await["ejected"], true);
    stack.until("a", "back", |it| it["ejected"] == false).await;
    let pause = again.elapsed();
    assert!((1_700..3_500).contains(&pause.as_millis()), "{pause:?}");
    assert_eq!(stack.metric("portcullis_server_ejections_total", &["\"a\""]).await, 2.0);
    // Back to health: the next good call ends it.
    bad.reform();
    sleep(Duration::from_millis(10)).await;
    let calls = good.seen().calls;
    assert_eq!(stack.call("echo").await.header("x-portcullis-server"), "a");
    assert_eq!(good.seen().calls, calls);
}

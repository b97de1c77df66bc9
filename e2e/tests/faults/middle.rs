//! Firewalls, compressing proxies and balancers with sticky cookies between the gateway and servers.

use portcullis_e2e::faulty::{Behaviour, Coding, Faulty, FaultyMode, SeenTraffic, Tool};
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::stack::{STATE_DEADLINE, Stack, server};

const MODES: [FaultyMode; 3] = [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern];

const AGENT: &str = concat!("portcullis/", env!("CARGO_PKG_VERSION"));

/// A server whose tool has this name.
async fn named(mode: FaultyMode, tool: &str, fault: fn(&mut Behaviour)) -> Faulty {
    let faulty = Faulty::with_tools(mode, vec![Tool::echo(tool)]).await;
    faulty.behave(fault);
    faulty
}

/// Every value of a header that a server has seen; "" where there was none.
fn values<'a>(seen: &'a SeenTraffic, name: &str) -> Vec<&'a str> {
    seen.requests.iter().map(|request| request.header(name)).collect()
}

#[tokio::test]
async fn every_request_says_who_asks_and_that_answers_are_wanted_as_they_are() {
    for mode in MODES {
        let faulty = named(mode, "echo", |it| it.wants_agent = true).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        assert_eq!(stack.call("echo").await.status, 200, "{mode:?}");
        let ended = server("a", &faulty).with("state", json!("Disabled"));
        stack.set(&ended);
        stack.until("a", "disabled", |it| it["connected"] == false).await;
        if mode == FaultyMode::Streamable {
            wait_for("the end of the session", STATE_DEADLINE, || async {
                (faulty.seen().deleted == 1).then_some(()).ok_or(())
            })
            .await;
        }
        let seen = faulty.seen();
        assert!(
            values(&seen, "user-agent").iter().all(|it| *it == AGENT),
            "{mode:?} {:?}",
            values(&seen, "user-agent")
        );
        assert!(values(&seen, "accept-encoding").iter().all(|it| *it == "identity"), "{mode:?}");
        assert!(seen.requests.len() >= 4, "{mode:?}");
    }
}

#[tokio::test]
async fn a_configured_user_agent_counts_and_a_callers_is_passed_on_where_that_is_configured() {
    for mode in MODES {
        let own = named(mode, "own", |_| {}).await;
        let passed = named(mode, "passed", |_| {}).await;
        let headers = json!([{"name": "User-Agent", "value": "mine/1"}]);
        let forwards = json!(["user-agent"]);
        let entries = [
            server("own", &own).with("headers", headers).with("forwardHeaders", forwards.clone()),
            server("passed", &passed).with("forwardHeaders", forwards),
        ];
        let stack = Stack::ready(entries).await;
        for tool in ["own", "passed"] {
            let request = stack.request(tool, "{}").header("user-agent", "a-caller/1");
            assert_eq!(request.send().await.expect("an answer").status, 200, "{mode:?}");
        }
        assert!(values(&own.seen(), "user-agent").iter().all(|it| *it == "mine/1"), "{mode:?}");
        let seen = passed.seen();
        for request in &seen.requests {
            let expected = if request.method.as_deref() == Some("tools/call") { "a-caller/1" } else { AGENT };
            assert_eq!(request.header("user-agent"), expected, "{mode:?} {:?}", request.method);
        }
    }
}

#[tokio::test]
async fn a_server_that_compresses_where_it_may_is_used_and_one_that_always_does_is_told_apart() {
    const COMPRESSED: &str = "it is compressed";
    for mode in MODES {
        let polite = named(mode, "polite", |it| it.coding = Coding::UnlessRuledOut).await;
        let stubborn = named(mode, "stubborn", |it| it.coding = Coding::Always).await;
        let transport = json!(if mode == FaultyMode::Sse { "sse" } else { "streamable-http" });
        let entries = [server("polite", &polite), server("stubborn", &stubborn).with("transport", transport)];
        let stack = Stack::start(entries).await;
        stack.connected("polite").await;
        assert_eq!(stack.call("polite").await.status, 200, "{mode:?}");
        let says = |it: &serde_json::Value| it["last_error"].as_str().unwrap_or_default().contains(COMPRESSED);
        stack.until("stubborn", COMPRESSED, says).await;
        // Only its calls are compressed: as after a change of the proxy before it.
        stubborn.reform();
        stack.connected("stubborn").await;
        stubborn.behave(|it| it.coding = Coding::Always);
        let answer = stack.call("stubborn").await;
        match mode {
            // There the answer comes on the stream that is open already.
            FaultyMode::Sse => assert_eq!(answer.status, 200, "{}", answer.text()),
            FaultyMode::Streamable | FaultyMode::Modern => {
                assert_eq!(answer.status, 502, "{mode:?} {}", answer.text());
                assert!(answer.text().contains(COMPRESSED), "{mode:?} {}", answer.text());
            }
        }
    }
}

#[tokio::test]
async fn cookies_of_a_balancer_keep_a_session_at_its_replica() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable] {
        let faulty = named(mode, "echo", |it| it.balanced = true).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        for _ in 0..20 {
            let request = stack.request("echo", "{}").header("cookie", "replica=7; own=1");
            let answer = request.send().await.expect("an answer");
            assert_eq!((answer.status, answer.header("set-cookie")), (200, ""), "{mode:?} {}", answer.text());
        }
        let seen = faulty.seen();
        assert_eq!((seen.lost, seen.calls), (0, 20), "{mode:?}");
        let cookies = values(&seen, "cookie");
        let of_calls: Vec<_> = seen.of("tools/call").iter().map(|request| request.header("cookie")).collect();
        assert!(of_calls.iter().all(|it| *it == of_calls[0] && it.starts_with("replica=")), "{mode:?} {cookies:?}");
    }
}

#[tokio::test]
async fn cookies_end_with_their_session_and_each_client_has_its_own() {
    let faulty = named(FaultyMode::Streamable, "echo", |it| it.balanced = true).await;
    let stack = Stack::ready([server("a", &faulty).with("session", json!("PerClient"))]).await;
    for _ in 0..3 {
        assert_eq!(stack.call("echo").await.status, 200);
    }
    let before = faulty.seen();
    assert_eq!(before.lost, 0);
    // Each session begins without a cookie, and keeps the one that it is given.
    for request in before.of("initialize") {
        assert_eq!(request.header("cookie"), "");
    }
    assert!(before.initializes >= 2, "the gateway's own and the client's: {}", before.initializes);
    for session in before.of("notifications/initialized") {
        let of_session =
            before.requests.iter().filter(|it| it.header("mcp-session-id") == session.header("mcp-session-id"));
        assert!(of_session.clone().all(|it| it.header("cookie") == session.header("cookie")));
        assert!(session.header("cookie").starts_with("replica="));
    }
    faulty.forget_sessions();
    stack.works("echo").await;
    let after = faulty.seen();
    assert!(after.of("initialize").iter().all(|request| request.header("cookie").is_empty()));
}

//! Failover: the calls that may go to another server, and those that must not.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{AnswerForm, Behaviour, CallFault, Faulty, FaultyMode, FixedAnswer, RequestFault, Tool};
use serde_json::json;

use crate::stack::{NamedFault, Stack, brief, server};

const PLAIN: &str = "{}";
const READ_ONLY: &str = r#"{"readOnlyHint":true}"#;
const IDEMPOTENT: &str = r#"{"idempotentHint":true}"#;

/// The way of speaking of the first server, and how it fails.
const WAYS: [(FaultyMode, AnswerForm); 4] = [
    (FaultyMode::Sse, AnswerForm::Auto),
    (FaultyMode::Streamable, AnswerForm::Json),
    (FaultyMode::Streamable, AnswerForm::Sse),
    (FaultyMode::Modern, AnswerForm::Sse),
];

struct FailoverPair {
    first: Faulty,
    second: Faulty,
    stack: Stack,
}

/// Two servers with one tool; the first comes first.
async fn pair((mode, form): (FaultyMode, AnswerForm), hints: &str) -> FailoverPair {
    let tool = || vec![Tool::echo("echo").annotated(hints)];
    let (first, second) = (Faulty::with_tools(mode, tool()).await, Faulty::with_tools(FaultyMode::Sse, tool()).await);
    first.behave(|it| it.form = form);
    // The gateway first opens a new session if the old one seems forgotten, within the same limit.
    let entries = [server("first", &first).calls_take(4), server("second", &second).with("priority", json!(1))];
    let stack = Stack::ready(entries).await;
    FailoverPair { first, second, stack }
}

impl FailoverPair {
    fn executions(&self) -> u64 {
        self.first.seen().calls + self.second.seen().calls
    }

    /// Calls with the first server misbehaving.
    async fn call(&self, fault: impl FnOnce(&mut Behaviour)) -> (u16, String, String) {
        self.first.behave(fault);
        brief(&self.stack.call("echo").await)
    }
}

fn expect(status: u16, server: &str, attempts: &str) -> (u16, String, String) {
    (status, server.into(), attempts.into())
}

#[tokio::test]
async fn a_call_that_was_never_sent_goes_to_another_server_whatever_the_tool() {
    let one = async |way| {
        for hints in [PLAIN, READ_ONLY] {
            let mut pair = pair(way, hints).await;
            pair.first.kill().await;
            let answer = brief(&pair.stack.call("echo").await);
            assert_eq!((answer.0, answer.1.as_str()), (200, "second"), "{way:?} {hints}");
            assert_eq!(pair.executions(), 1);
        }
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_call_that_was_refused_before_it_was_carried_out_goes_to_another_server() {
    let one = async |way| {
        for status in [307, 401, 403, 404, 429] {
            let pair = pair(way, PLAIN).await;
            let answer = pair.call(|it| it.call = RequestFault::status(status)).await;
            assert_eq!(answer, expect(200, "second", "2"), "{way:?} {status}");
        }
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_refusal_is_one_also_if_a_json_rpc_error_says_why() {
    const WHY: Bytes = Bytes::from_static(br#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"no"}}"#);
    let one = async |way| {
        for status in [401, 403, 429] {
            let pair = pair(way, PLAIN).await;
            let headers = vec![("content-type".into(), "application/json".into())];
            let answer =
                pair.call(|it| it.call = RequestFault::Answers(FixedAnswer { status, headers, body: WHY })).await;
            assert_eq!(answer, expect(200, "second", "2"), "{way:?} {status}");
        }
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_lost_call_is_repeated_only_where_the_tool_allows_it() {
    let faults: [NamedFault; 6] = [
        ("slams", |it| it.call = RequestFault::Slams),
        ("cut before accepting", |it| it.answer = CallFault::CutBeforeAccepting),
        ("cut after accepting", |it| it.answer = CallFault::CutAfterAccepting),
        ("cut in the answer", |it| it.answer = CallFault::CutMidAnswer),
        ("500", |it| it.call = RequestFault::status(500)),
        // Proxies say it too when the connection broke after the call was sent.
        ("503", |it| it.call = RequestFault::status(503)),
    ];
    let one = async |way| {
        for (name, fault) in faults {
            let lost = if name == "503" { 503 } else { 502 };
            for (hints, expected, executions) in [
                (PLAIN, expect(lost, "first", "1"), 1),
                (r#"{"readOnlyHint":false}"#, expect(lost, "first", "1"), 1),
                (READ_ONLY, expect(200, "second", "2"), 2),
                (IDEMPOTENT, expect(200, "second", "2"), 2),
            ] {
                let pair = pair(way, hints).await;
                assert_eq!(pair.call(fault).await, expected, "{way:?} {name} {hints}");
                // A connection that may have been closed as nobody used it is no reason to give a server up.
                let again = executions > 1 && ["slams", "cut before accepting"].contains(&name);
                let most = executions + u64::from(again);
                assert!((executions..=most).contains(&pair.executions()), "{way:?} {name} {hints}");
            }
        }
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_server_that_dies_in_many_calls_at_once_has_each_carried_out_once() {
    let one = async |way| {
        let pair = pair(way, PLAIN).await;
        pair.first.behave(|it| it.answer = CallFault::CutAfterAccepting);
        let answers = join_all((0..20).map(|_| pair.stack.call("echo"))).await;
        for answer in &answers {
            assert!([200, 502].contains(&answer.status), "{way:?}: {}", answer.text());
        }
        // Refusals for a session that is gone are no executions, so what was begun counts.
        let begun = [&pair.first, &pair.second].map(|server| server.seen().begun.len());
        assert_eq!(begun.iter().sum::<usize>(), 20, "{way:?}: {begun:?}");
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn an_answer_is_an_answer_also_when_it_is_an_error() {
    let table = [
        (Tool::failing("tool", "no"), 200, r#"{"content":[{"type":"text","text":"no"}],"isError":true}"#),
        (
            Tool::error("tool", -32602, "bad\nargument"),
            400,
            r#"{"error":{"message":"the server answered with error -32602: bad\nargument","code":400,"rpc_code":-32602}}"#,
        ),
        (
            Tool::error("tool", -32603, "inside"),
            502,
            r#"{"error":{"message":"the server answered with error -32603: inside","code":502,"rpc_code":-32603}}"#,
        ),
        (
            Tool::error("tool", 7, ""),
            502,
            r#"{"error":{"message":"the server answered with error 7: ","code":502,"rpc_code":7}}"#,
        ),
    ];
    for (tool, status, body) in table {
        for (mode, form) in WAYS {
            let tools = vec![tool.clone().annotated(READ_ONLY)];
            let first = Faulty::with_tools(mode, tools.clone()).await;
            first.behave(|it| it.form = form);
            let second = Faulty::with_tools(FaultyMode::Sse, tools).await;
            let entries = [server("first", &first), server("second", &second).with("priority", json!(1))];
            let stack = Stack::ready(entries).await;
            for _ in 0..5 {
                let answer = stack.call("tool").await;
                assert_eq!((brief(&answer), answer.text()), (expect(status, "first", "1"), body), "{mode:?}");
            }
            assert_eq!(second.seen().calls, 0);
        }
    }
}

#[tokio::test]
async fn a_call_that_takes_too_long_is_not_repeated() {
    let one = async |way| {
        let pair = pair(way, READ_ONLY).await;
        assert_eq!(pair.call(|it| it.answer = CallFault::Never).await, expect(504, "first", "1"), "{way:?}");
        assert_eq!(pair.executions(), 1);
    };
    join_all(WAYS.map(one)).await;
}

#[tokio::test]
async fn a_busy_server_is_passed_over_at_once_and_when_all_are_busy_callers_are_told_when_to_come_back() {
    let limits = || json!({"maxConcurrentRequests": 2});
    let tool = || vec![Tool::text("slow", "done").takes(Duration::from_secs(3))];
    let (first, second) =
        (Faulty::with_tools(FaultyMode::Sse, tool()).await, Faulty::with_tools(FaultyMode::Streamable, tool()).await);
    let stack = Stack::ready([
        server("first", &first).calls_take(10).with("limits", limits()),
        server("second", &second).calls_take(10).with("limits", limits()).with("priority", json!(1)),
    ])
    .await;
    let answers = join_all((0..4).map(|_| stack.timed("slow"))).await;
    for (answer, took) in &answers {
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(*took < Duration::from_millis(3_700), "a call waited {took:?} although a server was free");
    }
    assert_eq!((first.seen().calls, second.seen().calls), (2, 2));
    let answers = join_all((0..12).map(|_| stack.timed("slow"))).await;
    let busy: Vec<_> = answers.iter().filter(|(answer, _)| answer.status == 429).collect();
    // Four at once, four when these are done, and the others wait for half of the time that a call may take.
    assert_eq!((busy.len(), answers.len() - busy.len()), (4, 8));
    for (answer, took) in busy {
        assert_eq!(answer.header("retry-after"), "5");
        assert!(*took > Duration::from_millis(4_900) && *took < Duration::from_millis(6_500), "{took:?}");
    }
}

#[tokio::test]
async fn without_any_server_callers_are_told_to_come_back() {
    let mut only = Faulty::start(FaultyMode::Streamable).await;
    let stack = Stack::ready([server("only", &only)]).await;
    only.kill().await;
    let (answer, took) = stack.timed("echo").await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "1"), "{}", answer.text());
    assert!(took < Duration::from_millis(500), "{took:?}");
    assert_eq!(stack.tools().await, ["echo"], "a server that blinks keeps its tools in the list");
    only.restart().await;
    stack.works("echo").await;
}

/// A refusal of calls that says when to come back.
fn limits(status: u16, after: &str) -> RequestFault {
    let headers = vec![("retry-after".into(), after.into())];
    RequestFault::Answers(FixedAnswer { status, headers, body: Bytes::new() })
}

#[tokio::test]
async fn callers_hear_when_a_server_may_be_asked_again() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        for (status, after, expected) in [
            (429, "37", 37..=37),
            (503, "120", 120..=120),
            (429, "Fri, 31 Dec 9999 23:59:59 GMT", 86_400..=86_400),
            (429, "soon", 1..=1),
            (503, "-5", 1..=1),
        ] {
            faulty.behave(|it| it.call = limits(status, after));
            let before = faulty.seen().calls;
            let answer = stack.call("echo").await;
            let told: u64 = answer.header("retry-after").parse().expect("a number");
            assert!(answer.status == status && expected.contains(&told), "{mode:?} {status} {after}: {told}");
            assert_eq!(faulty.seen().calls, before + 1, "{mode:?} {status} {after}");
            let told = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "echo"}});
            let answer = stack.mcp(&told.to_string()).await.json();
            let data = &answer["error"]["data"]["retryAfterMs"];
            if expected.start() > &1 {
                assert_eq!(*data, json!(expected.start() * 1000), "{mode:?} {answer}");
            }
        }
    }
}

#[tokio::test]
async fn a_server_that_wants_to_be_left_alone_comes_last_and_the_earliest_time_is_told() {
    let (first, second) = (Faulty::start(FaultyMode::Streamable).await, Faulty::start(FaultyMode::Streamable).await);
    let stack = Stack::ready([server("a", &first), server("b", &second)]).await;
    first.behave(|it| it.call = limits(429, "30"));
    for _ in 0..20 {
        assert_eq!(stack.call("echo").await.status, 200);
    }
    assert!(first.seen().calls <= 1, "{}", first.seen().calls);
    second.behave(|it| it.call = limits(429, "20"));
    let answer = stack.call("echo").await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "20"));
}

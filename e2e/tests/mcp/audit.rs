//! The audit log: one line for each decision, by every way in, and what happens where it cannot be written.

use std::path::PathBuf;
use std::time::Duration;

use portcullis_e2e::faulty::{CallFault, Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http as client;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::kit::MessageStream;
use crate::policies::{READERS, Stage, start, start_with};

/// A call of the fixture's simplest tool.
const SIMPLE: &str = r#"{"method":"test_simple_text","args":{}}"#;

struct Log {
    _folder: tempfile::TempDir,
    path: PathBuf,
}

impl Log {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("audit.jsonl");
        Self { _folder: folder, path }
    }

    fn set(&self) -> impl FnOnce(Options) -> Options {
        let path = self.path.clone();
        |options| Options { audit_log: Some(path), ..options }
    }

    fn text(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap_or_default()
    }

    /// So many lines, once they are written, without what is different in each run.
    async fn lines(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} lines"), LIMIT, async || {
            let text = self.text();
            if text.lines().count() >= count && text.ends_with('\n') { Ok(()) } else { Err(text) }
        })
        .await;
        let text = self.text();
        let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        let lines = lines.map(|mut line| {
            let members = line.as_object_mut().expect("an object");
            assert_eq!(members.remove("stream"), Some(json!("audit")));
            for varying in ["timestamp", "request_id", "duration_ms"] {
                assert!(members.remove(varying).is_some(), "{varying}");
            }
            line
        });
        let lines: Vec<Value> = lines.collect();
        assert_eq!(lines.len(), count, "{text}");
        lines
    }
}

const SHA_OF_EMPTY: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// A line of alice's call of a tool, with these members instead.
fn line(other: Value) -> Value {
    let mut line = json!({
        "subject": "alice", "issuer": null, "service_account": null, "method": "tools/call", "tool": "test_simple_text",
        "server": "default/fixture", "decision": "allowed", "policy": "default/readers", "rule": "readers",
        "mode": "Enforce", "reason": null, "policies": [], "status": 200, "outcome": "ok", "args_sha256": SHA_OF_EMPTY,
    });
    let Value::Object(other) = other else { panic!("an object") };
    other.into_iter().for_each(|(name, value)| line[name] = value);
    line
}

fn without_tool(mut line: Value) -> Value {
    line.as_object_mut().expect("an object").remove("tool");
    line
}

#[tokio::test]
async fn every_decision_on_a_call_a_prompt_or_a_resource_is_one_line_that_holds_no_arguments() {
    let log = Log::new();
    let stage = start_with(READERS, log.set()).await;
    let secret = r#"{"method":"test_image_content","args":{"word":"xyzzy-of-alice"}}"#;
    assert_eq!(stage.rest("alice", SIMPLE).await.status, 200);
    assert_eq!(stage.rest("alice", secret).await.status, 403);
    assert_eq!(stage.rest("alice", r#"{"method":"nothing","args":{}}"#).await.status, 404);
    let denied = json!({"decision": "denied", "policy": null, "rule": null, "reason": "no_rule", "outcome": "denied", "policies": ["default/readers"]});
    let refused = |other: Value| {
        let Value::Object(mut all) = denied.clone() else { panic!("an object") };
        all.extend(other.as_object().expect("an object").clone());
        line(Value::Object(all))
    };
    let digest = log.lines(2).await[1]["args_sha256"].clone();
    assert_eq!(digest.as_str().map(str::len), Some(64));
    let mut expected =
        vec![line(json!({})), refused(json!({"tool": "test_image_content", "status": 403, "args_sha256": digest}))];
    assert_eq!(log.lines(2).await, expected);

    let simple = json!({"name": "test_simple_text", "arguments": {}});
    let _ = stage.ask("alice", "/mcp", "tools/call", simple.clone()).await;
    let _ = stage.ask("bob", "/mcp/fixture", "tools/call", simple).await;
    let _ = stage.ask("alice", "/mcp", "prompts/get", json!({"name": "test_simple_prompt"})).await;
    let _ = stage.ask("bob", "/mcp", "resources/read", json!({"uri": "test://static-text"})).await;
    let reference =
        json!({"ref": {"type": "ref/prompt", "name": "test_simple_prompt"}, "argument": {"name": "a", "value": "t"}});
    let _ = stage.ask("alice", "/mcp", "completion/complete", reference).await;
    let _ = stage.ask("alice", "/mcp", "tools/list", json!({})).await;
    let prompt = json!({"method": "prompts/get", "prompt": "test_simple_prompt", "args_sha256": null});
    let resource =
        json!({"subject": "bob", "method": "resources/read", "resource": "test://static-text", "args_sha256": null});
    for status in [200, 403] {
        expected.push(line(json!({})));
        expected.push(refused(json!({"subject": "bob", "status": status})));
        expected.push(without_tool(line(prompt.clone())));
        let mut resource = resource.clone();
        resource["status"] = status.into();
        expected.push(without_tool(refused(resource)));
    }
    let by_text = |mut lines: Vec<Value>| {
        lines.sort_by_key(Value::to_string);
        lines
    };
    assert_eq!(by_text(log.lines(10).await), by_text(expected));
    assert!(!log.text().contains("xyzzy"), "arguments are not in it");
    for (series, count) in [
        (r#"portcullis_policy_denials_total{reason="no_rule",server="fixture"}"#, 5.0),
        ("portcullis_audit_lines_dropped_total", 0.0),
        ("portcullis_audit_log_ok", 1.0),
    ] {
        assert_eq!(stage.gateway.metric(series).await, Some(count), "{series}");
    }
}

#[tokio::test]
async fn a_call_whose_caller_goes_away_has_its_line() {
    let log = Log::new();
    let server = Faulty::start(FaultyMode::Streamable).await;
    server.behave(|behaviour| behaviour.answer = CallFault::Never);
    let gateway = TestGateway::start(log.set()(Options { mcp_url: Some(server.url()), ..options() })).await;
    gateway.connected(1).await;
    let call = gateway.post(r#"{"method":"echo","args":{}}"#).limit(Duration::from_millis(300)).send().await;
    assert!(call.is_err(), "the server never answers");
    let lines = log.lines(1).await;
    let expected = json!({
        "subject": "tester", "tool": "echo", "server": lines[0]["server"], "policy": null, "rule": null, "mode": null,
        "status": 499, "outcome": "cancelled",
    });
    assert_eq!(lines, [line(expected)]);
}

#[tokio::test]
async fn the_line_of_a_call_names_the_server_that_answered_it() {
    let log = Log::new();
    let tool = || Tool::text("read", "done").annotated(r#"{"readOnlyHint":true}"#);
    let server = |tool: Tool| Faulty::with_tools(FaultyMode::Streamable, vec![tool]);
    let (cut, well) = tokio::join!(server(tool().answers(CallFault::CutBeforeAccepting)), server(tool()));
    let urls = format!("{},{}", cut.url(), well.url());
    let gateway = TestGateway::start(log.set()(Options { mcp_urls: Some(urls), ..options() })).await;
    gateway.connected(2).await;
    for count in 1..=4 {
        let answer = gateway.post(r#"{"method":"read","args":{}}"#).limit(LIMIT).send().await.expect("an answer");
        let name = answer.header("x-portcullis-server").to_owned();
        assert_eq!(answer.status, 200, "{}", answer.text());
        let line = log.lines(count).await.pop().expect("a line");
        assert_eq!(line["server"], format!("default/{name}"), "{line}");
    }
}

#[tokio::test]
async fn a_policy_in_audit_mode_refuses_nothing_and_tells_what_it_would_deny() {
    let log = Log::new();
    let stage = start_with(&READERS.replacen('{', "{mode: Audit, ", 1), log.set()).await;
    assert_eq!(stage.rest("alice", SIMPLE).await.status, 200);
    assert_eq!(stage.rest("bob", SIMPLE).await.status, 200);
    let would_deny = json!({
        "subject": "bob", "policy": null, "rule": null, "mode": "Audit", "reason": "no_rule", "policies": ["default/readers"],
    });
    let alice = line(json!({"policy": null, "rule": null, "mode": null}));
    assert_eq!(log.lines(2).await, [alice, line(would_deny)]);
    let series = r#"portcullis_policy_would_deny_total{policy="default/readers"}"#;
    assert_eq!(stage.gateway.metric(series).await, Some(1.0));
    // It counts without an audit log, too.
    let stage = start(&READERS.replacen('{', "{mode: Audit, ", 1)).await;
    assert_eq!(stage.rest("bob", SIMPLE).await.status, 200);
    assert_eq!(stage.gateway.metric(series).await, Some(1.0));
}

#[tokio::test]
async fn a_limit_that_is_used_up_refuses_by_every_way_in_and_says_until_when() {
    let log = Log::new();
    let limited = READERS.replace("name: readers,", "name: readers, limit: {calls: 2, per: Hour},");
    let stage = start_with(&limited, log.set()).await;
    assert_eq!(stage.rest("alice", SIMPLE).await.status, 200);
    let simple = json!({"name": "test_simple_text", "arguments": {}});
    let (status, answer) = stage.ask_modern("alice", "/mcp", "tools/call", simple.clone()).await;
    assert_eq!((status, answer["error"].clone()), (200, Value::Null));

    let refused = stage.rest("alice", SIMPLE).await;
    let (wait, error) = (refused.header("retry-after").to_owned(), refused.json()["error"].clone());
    let seconds: u64 = wait.parse().expect("seconds");
    assert!((1..=1800).contains(&seconds), "{wait}");
    let message = format!(r#"the limit for calls of the tool "test_simple_text" is used up: try again in {seconds} s"#);
    assert_eq!((refused.status, error["code"].clone(), error["message"].clone()), (429, 429.into(), message.into()));
    assert!(error["retry_after_ms"].as_u64().is_some_and(|pause| pause <= 1_800_000), "{error}");
    assert!(error["reset_at"].as_str().is_some_and(|time| time.ends_with('Z')), "{error}");

    for (status, answer) in stage.ask("alice", "/mcp", "tools/call", simple.clone()).await {
        let error = &answer["error"];
        assert_eq!((error["code"].clone(), error["data"]["reason"].clone()), ((-32004).into(), "limited".into()));
        assert!(error["data"]["retryAfterMs"].is_u64() && error["data"]["resetAt"].is_string(), "{answer}");
        assert!([200, 429].contains(&status), "{status}");
    }
    // A denied call is not limited, and a list is not a call.
    assert_eq!(stage.rest("bob", SIMPLE).await.status, 403);
    assert_eq!(
        client::get(&stage.gateway.url("/tools/list")).bearer(&mint("alice")).send().await.expect("a list").status,
        200
    );

    let lines = log.lines(6).await;
    let limited =
        |status: u16| line(json!({"decision": "limited", "reason": "limit", "status": status, "outcome": "limited"}));
    assert_eq!(lines[2..5], [limited(429), limited(200), limited(429)]);
    let series = r#"portcullis_policy_limit_refusals_total{policy="default/readers",rule="readers"}"#;
    assert_eq!(stage.gateway.metric(series).await, Some(3.0));
}

#[tokio::test]
async fn of_many_calls_at_once_as_many_pass_as_the_limit_says_and_each_has_its_line() {
    let log = Log::new();
    let limited = READERS.replace("name: readers,", "name: readers, limit: {calls: 5, per: Day},");
    let stage = start_with(&limited, log.set()).await;
    let (simple, batch) = (
        json!({"name": "test_simple_text", "arguments": {}}),
        |id: usize| json!([{"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "test_simple_text", "arguments": {}}}]),
    );
    let one = async |n: usize| match n % 3 {
        0 => u32::from(stage.rest("alice", SIMPLE).await.status == 200),
        1 => u32::from(stage.ask_modern("alice", "/mcp/fixture", "tools/call", simple.clone()).await.0 == 200),
        _ => {
            let request = client::post(&stage.gateway.url("/mcp"), batch(n).to_string()).bearer(&mint("alice"));
            let answer = request.header("mcp-protocol-version", "2025-03-26").limit(LIMIT).send().await;
            u32::from(answer.expect("an answer").json()[0]["error"].is_null())
        }
    };
    let passed: u32 = futures_util::future::join_all((0..60).map(one)).await.into_iter().sum();
    let lines = log.lines(60).await;
    let allowed = lines.iter().filter(|line| line["decision"] == "allowed").count();
    let refused = lines.iter().filter(|line| line["decision"] == "limited").count();
    assert_eq!((passed, allowed, refused), (5, 5, 55));
}

#[tokio::test]
async fn a_call_of_a_client_of_2024_11_05_is_decided_limited_and_told_like_others() {
    let log = Log::new();
    let limited = READERS.replace("name: readers,", "name: readers, limit: {calls: 1, per: Day},");
    let spec = limited.replace("subject: alice", "subject: tester");
    let stage = start_with(&spec, log.set()).await;
    let mut stream = MessageStream::of_sse(&stage.gateway).await;
    let endpoint = stage.gateway.url(&stream.endpoint().await);
    for (tool, code) in
        [("test_simple_text", None), ("test_simple_text", Some(-32004)), ("test_image_content", Some(-32003))]
    {
        let call =
            json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": {}}});
        let sent = client::post(&endpoint, call.to_string()).bearer(&stage.gateway.token).limit(LIMIT).send().await;
        assert_eq!(sent.expect("an answer").status, 202);
        assert_eq!(stream.next().await.expect("an answer")["error"]["code"].as_i64(), code, "{tool}");
    }
    // Decisions are told when they are made, calls when they are over.
    let decisions: Vec<Value> = log.lines(3).await.into_iter().map(|mut line| line["decision"].take()).collect();
    assert_eq!(decisions, ["allowed", "limited", "denied"]);
    let other = client::post(&endpoint, "{}").bearer(&mint("bob")).limit(LIMIT).send().await;
    assert_eq!(other.expect("an answer").status, 404, "the session of another caller");
}

#[tokio::test]
async fn calls_that_a_limit_refuses_keep_no_room_in_the_audit_log() {
    let log = Log::new();
    let limited = READERS.replace("name: readers,", "name: readers, limit: {calls: 1, per: Day},");
    let set = log.set();
    let required = |options| Options { audit_required: Some("true".into()), ..set(options) };
    let stage = start_with(&limited, required).await;
    assert_eq!(stage.rest("alice", SIMPLE).await.status, 200);
    // More than there is room for at a time.
    for _ in 0..35 {
        let all = (0..100).map(async |_| stage.rest("alice", SIMPLE).await.status);
        assert_eq!(futures_util::future::join_all(all).await, [429; 100]);
    }
    assert_eq!(stage.gateway.metric("portcullis_audit_refusals_total").await, Some(0.0));
}

/// A gateway whose audit log is always full.
async fn full(required: bool) -> Stage {
    let set = |options| Options {
        audit_log: Some("/dev/full".into()),
        audit_required: Some(required.to_string()),
        ..options
    };
    let stage = start_with(READERS, set).await;
    assert_eq!(stage.rest("alice", SIMPLE).await.status, 200, "the log has not failed yet");
    stage.gateway.counts("portcullis_audit_log_ok", 0.0).await;
    stage
}

#[tokio::test]
async fn without_room_in_the_audit_log_calls_are_refused_only_where_that_was_asked_for() {
    let stage = full(true).await;
    let refused = stage.rest("alice", SIMPLE).await;
    let message = "the gateway cannot write its audit log, and makes no calls without it: try again";
    assert_eq!((refused.status, refused.json()), (503, json!({"error": {"message": message, "code": 503}})));
    assert_eq!(refused.header("retry-after"), "1");
    for (_, answer) in stage.ask("alice", "/mcp", "tools/call", json!({"name": "test_simple_text"})).await {
        assert_eq!(answer["error"]["message"], message);
    }
    assert_eq!(stage.rest("bob", SIMPLE).await.status, 403);
    assert_eq!(stage.gateway.metric("portcullis_audit_refusals_total").await, Some(3.0));

    let stage = full(false).await;
    assert_eq!(stage.rest("alice", SIMPLE).await.status, 200);
    assert_eq!(stage.gateway.metric("portcullis_audit_refusals_total").await, Some(0.0));
}

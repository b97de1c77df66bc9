//! The line about every request: all of its fields, and nothing that must stay secret.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::{Value, json};

use crate::rest::send;

async fn start(options: Options) -> (TestGateway, Faulty, String) {
    let tools = vec![
        Tool::echo("echo"),
        Tool::text("gives-token", r#"{"access_token":"hunter3","city":"Oslo"}"#),
        Tool::failing("fails", "no"),
        Tool::text("slow", "done").takes(Duration::from_secs(20)),
    ];
    let server = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let gateway = TestGateway::start(Options { mcp_url: Some(server.url()), ..options }).await;
    gateway.connected(1).await;
    let name = gateway.server(&server.url()).await["name"].as_str().expect("a name").to_owned();
    (gateway, server, name)
}

/// The line about an answer, without what is different every time.
async fn line(gateway: &TestGateway, answer: &HttpAnswer) -> Value {
    settled(gateway.line(answer.header("x-request-id")).await)
}

fn settled(mut line: Value) -> Value {
    let members = line.as_object_mut().expect("an object");
    let time = members.remove("timestamp").expect("a time");
    assert!(time.as_str().is_some_and(|time| time.len() == 24 && time.ends_with('Z')), "{time}");
    let took = members.remove("execution_time_ms").expect("a duration");
    assert!(took.as_f64().is_some_and(|took| (0.0..30_000.0).contains(&took)), "{took}");
    assert!(members.remove("request_id").expect("an id").is_string());
    line
}

#[tokio::test]
async fn every_request_has_one_line_with_exactly_these_fields() {
    let (gateway, _server, name) = start(options()).await;
    let body = r#"{"method":"echo","args":{"message":"hunter2"}}"#;
    let answer = send(gateway.post(body).header("user-agent", "test/1")).await;
    let expected = json!({
        "level": "INFO", "message": "request",
        "request": {"method": "POST", "path": "/tools", "tool": "echo", "server": name, "bytes": body.len()},
        "response": {"bytes": answer.body.len(), "outcome": "ok"},
        "status_code": 200, "remote_addr": "127.0.0.1", "user_agent": "test/1", "subject": "tester", "attempts": 1,
    });
    assert_eq!(line(&gateway, &answer).await, expected);

    let refused = send(client::request(http::Method::GET, &gateway.url("/servers"))).await;
    let expected = json!({
        "level": "INFO", "message": "request",
        "request": {"method": "GET", "path": "/servers", "tool": null, "server": null, "bytes": 0},
        "response": {"bytes": refused.body.len(), "outcome": "refused"},
        "status_code": 401, "remote_addr": "127.0.0.1", "user_agent": null, "subject": null, "attempts": 0,
    });
    assert_eq!(line(&gateway, &refused).await, expected);

    for (tool, outcome, status, attempts) in [("fails", "tool_error", 200, 1), ("nothing", "unknown_tool", 404, 0)] {
        let line = line(&gateway, &gateway.call(tool, "{}").await).await;
        let found = (&line["response"]["outcome"], &line["status_code"], &line["attempts"], &line["request"]["tool"]);
        assert_eq!(found, (&json!(outcome), &json!(status), &json!(attempts), &json!(tool)));
    }
    let ids: Vec<Value> = gateway
        .log()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON")["request_id"].clone())
        .filter(|id| id == answer.header("x-request-id"))
        .collect();
    assert_eq!(ids.len(), 1, "one line");
}

#[tokio::test]
async fn no_line_holds_a_token_an_argument_or_a_result() {
    let (gateway, _server, _) = start(options()).await;
    let token = &gateway.token;
    let body = r#"{"method":"echo","args":{"message":"hunter2"}}"#;
    send(gateway.post(body)).await;
    send(gateway.post(r#"{"method":"gives-token"}"#)).await;
    send(client::post(&gateway.url(&format!("/tools?token={token}")), body)).await;
    send(client::get(&gateway.url(&format!("/servers?token={token}")))).await;
    send(client::get(&gateway.url(&format!("/nowhere?token={token}")))).await;
    let last = send(client::get(&gateway.url(&format!("/servers?token={token}x&x=hunter2")))).await;
    gateway.line(last.header("x-request-id")).await;
    let log = gateway.log();
    assert!(log.lines().count() >= 6);
    let (head, signature) = token.rsplit_once('.').expect("a signature");
    for secret in [token, head, signature, "hunter2", "hunter3", "token="] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn payloads_are_logged_when_asked_for_with_secrets_masked() {
    let (gateway, _server, _) = start(Options { log_payloads: Some("true".into()), ..options() }).await;
    let answer =
        gateway.call("gives-token", r#"{"apiKey":"hunter2","city":"Oslo","deep":[{"password":"hunter4"}]}"#).await;
    let line = gateway.line(answer.header("x-request-id")).await;
    let arguments = r#"{"apiKey":"***","city":"Oslo","deep":[{"password":"***"}]}"#;
    let result = r#"{"content":[{"text":"{\"access_token\":\"***\",\"city\":\"Oslo\"}","type":"text"}]}"#;
    assert_eq!((&line["request"]["arguments"], &line["response"]["result"]), (&json!(arguments), &json!(result)));

    let long = gateway.call("echo", &format!(r#"{{"message":"{}"}}"#, "ü".repeat(4000))).await;
    let line = gateway.line(long.header("x-request-id")).await;
    let shown = line["request"]["arguments"].as_str().expect("text");
    assert!(shown.len() <= 2048 + '…'.len_utf8() && shown.ends_with("ü…"), "{}", shown.len());
    let log = gateway.log();
    for secret in [gateway.token.as_str(), "hunter"] {
        assert!(!log.contains(secret), "{secret} in {log}");
    }
}

#[tokio::test]
async fn a_caller_who_goes_away_has_a_line_and_his_call_is_cancelled() {
    let (gateway, server, name) = start(options()).await;
    let body = r#"{"method":"slow"}"#;
    let call = gateway.post(body).header("x-request-id", "gone").open();
    let running = wait_for("the call", LIMIT, async || server.running() == 1);
    tokio::select! {
        answer = call => panic!("an answer came: {:?}", answer.map(|answer| answer.status)),
        () = running => {}
    }
    let expected = json!({
        "level": "INFO", "message": "request",
        "request": {"method": "POST", "path": "/tools", "tool": "slow", "server": null, "bytes": body.len()},
        "response": {"bytes": null, "outcome": "cancelled"},
        "status_code": 499, "remote_addr": "127.0.0.1", "user_agent": null, "subject": "tester", "attempts": 0,
    });
    assert_eq!(settled(gateway.line("gone").await), expected);
    wait_for("the call to end", LIMIT, async || server.running() == 0).await;
    let series = format!(r#"portcullis_tool_calls_total{{outcome="cancelled",server="{name}",tool="slow"}}"#);
    gateway.counts(&series, 1.0).await;
}

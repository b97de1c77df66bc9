//! The REST contract: every route, and every refusal with its whole body and its headers.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use http::Method;
use portcullis_e2e::faulty::{Faulty, FaultyMode, RequestFault, Tool, ToolHandler};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http::{self as client, HttpAnswer, HttpRequest};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::port;
use portcullis_e2e::token::mint;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// A gateway in front of one honest server.
pub(crate) async fn start() -> (TestGateway, Faulty) {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    gateway.ready().await;
    (gateway, server)
}

pub(crate) async fn send(request: HttpRequest) -> HttpAnswer {
    request.send().await.expect("an answer")
}

/// The whole error: status, body, and what every answer has.
#[track_caller]
pub(crate) fn is_error(answer: &HttpAnswer, status: u16, message: &str) {
    let message = serde_json::to_string(message).expect("text");
    let body = format!(r#"{{"error":{{"message":{message},"code":{status}}}}}"#);
    assert_eq!((answer.status, answer.text()), (status, body.as_str()));
    assert_eq!(answer.header("content-type"), "application/json");
    has_common_headers(answer);
}

#[track_caller]
fn has_common_headers(answer: &HttpAnswer) {
    let common = ["cache-control", "referrer-policy", "x-content-type-options"].map(|name| answer.header(name));
    assert_eq!(common, ["no-store", "no-referrer", "nosniff"]);
    assert_eq!(answer.header("x-request-id").len(), 16);
}

#[tokio::test]
async fn a_body_that_is_no_call_is_refused_with_the_reason() {
    let (gateway, server) = start().await;
    let cases = [
        ("", "the body is empty: send {\"method\": TOOL, \"args\": {...}}"),
        (" \n", "the body is empty: send {\"method\": TOOL, \"args\": {...}}"),
        ("nonsense", "the body is not valid JSON (line 1, column 2)"),
        ("{\n\"method\":\"echo\",}", "the body is not valid JSON (line 2, column 17)"),
        (r#"{"method":"echo"} x"#, "the body is not valid JSON (line 1, column 19)"),
        ("[1]", "the body must be a JSON object: {\"method\": TOOL, \"args\": {...}}"),
        ("{}", "\"method\" is missing: set it to the name of a tool"),
        (r#"{"args":{}}"#, "\"method\" is missing: set it to the name of a tool"),
        (r#"{"method":""}"#, "\"method\" must be the name of a tool, as a string"),
        (r#"{"method":7}"#, "\"method\" must be the name of a tool, as a string"),
        (r#"{"method":"echo","args":[]}"#, "\"args\" must be an object"),
        (r#"{"method":"echo","args":"{}"}"#, "\"args\" must be an object"),
        (r#"{"method":null}"#, "\"method\" is missing: set it to the name of a tool"),
        (r#"{"method":"echo","server":1}"#, "\"server\" must be the name or URL of a server, as a string"),
        (r#"{"method":"echo","method":"echo"}"#, "a member of the body appears twice: send each once"),
        (r#"{"method":"echo","args":{},"args":{}}"#, "a member of the body appears twice: send each once"),
    ];
    for (body, message) in cases {
        is_error(&send(gateway.post(body)).await, 400, message);
    }
    is_error(
        &send(gateway.post("{}").header("content-type", "text/plain")).await,
        415,
        "the body must be JSON: send Content-Type: application/json, or leave it out",
    );
    for good in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.x+json"] {
        assert_eq!(send(gateway.post(r#"{"method":"echo"}"#).header("content-type", good)).await.status, 200, "{good}");
    }
    is_error(
        &send(gateway.get("/tools/list?server=nobody")).await,
        404,
        "there is no server \"nobody\": GET /servers lists them",
    );
    let wrong = client::request(Method::POST, &gateway.url("/tools?shape=round")).bearer(&gateway.token);
    is_error(&send(wrong.body(r#"{"method":"echo"}"#)).await, 400, "shape must be result or value");
    assert_eq!(server.seen().calls, 3, "no refused call reached the server");
}

#[tokio::test]
async fn a_wrong_path_or_method_is_told_what_there_is() {
    let (gateway, _server) = start().await;
    let nothing = "there is nothing at this path: see GET /openapi.json";
    for path in ["/", "/tool", "/tools//", "/tools/list/x", "/servers/x"] {
        is_error(&send(gateway.get(path)).await, 404, nothing);
    }
    let cases = [
        (Method::GET, "/tools", "POST"),
        (Method::GET, "/tools/", "POST"),
        (Method::DELETE, "/tools", "POST"),
        (Method::POST, "/tools/list", "GET,HEAD"),
        (Method::PUT, "/servers", "GET,HEAD"),
        (Method::POST, "/health", "GET,HEAD"),
    ];
    for (method, path, allowed) in cases {
        let answer = send(client::request(method.clone(), &gateway.url(path)).bearer(&gateway.token)).await;
        is_error(&answer, 405, &format!("this path does not take {method}"));
        assert_eq!(answer.header("allow"), allowed, "{method} {path}");
    }
}

#[tokio::test]
async fn a_slash_at_the_end_of_a_path_makes_no_difference() {
    let (gateway, _server) = start().await;
    for path in ["/tools/list", "/servers", "/health", "/openapi.json", "/docs", "/livez", "/readyz"] {
        let [without, with] = [path.to_owned(), format!("{path}/")].map(|path| gateway.get(&path));
        let (without, with) = (send(without).await, send(with).await);
        let seen = |answer: &HttpAnswer| (answer.status, answer.header("content-type").to_owned());
        assert_eq!((seen(&with), with.status), (seen(&without), 200), "{path}");
    }
    let body = r#"{"method":"echo","args":{"a":1}}"#;
    for path in ["/tools/", "/tools/?shape=result"] {
        let call = || client::request(Method::POST, &gateway.url(path)).bearer(&gateway.token).body(body);
        let plain = send(call()).await;
        // Neither of these goes the plain way.
        let upgraded = send(call().header("expect", "100-continue")).await;
        let stranger = send(client::request(Method::POST, &gateway.url(path)).body(body)).await;
        assert_eq!([plain.status, upgraded.status, stranger.status], [200, 200, 401], "{path}");
        assert_eq!(plain.json()["content"][0]["text"], r#"{"a":1}"#);
    }
    let listed = send(gateway.get("/tools/list/?server=nobody")).await;
    is_error(&listed, 404, "there is no server \"nobody\": GET /servers lists them");
}

#[tokio::test]
async fn null_counts_as_absent() {
    let (gateway, _server) = start().await;
    let body = r#"{"method":"echo","args":null,"server":null,"more":null}"#;
    let answer = send(gateway.post(body)).await;
    assert_eq!((answer.status, answer.json()["content"][0]["text"].as_str()), (200, Some("{}")));
}

#[tokio::test]
async fn the_data_of_a_servers_error_reaches_callers_of_rest() {
    let data = r#"{"elicitations":[{"mode":"url","url":"https://login.example/consent?x=1&y=2"}],"n":1.10}"#;
    let mut consent = Tool::echo("consent");
    consent.handler = ToolHandler::Error(format!(r#"{{"code":-32042,"message":"Sign in","data":{data}}}"#));
    let mut long = Tool::echo("long");
    long.handler = ToolHandler::Error(format!(r#"{{"code":-32000,"message":"m","data":"{}"}}"#, "x".repeat(70_000)));
    let mut arguments = Tool::echo("arguments");
    arguments.handler = ToolHandler::Error(r#"{"code":-32602,"message":"wrong","data":["a"]}"#.into());
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![consent, long, arguments]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    let begin = r#"{"error":{"message":"the server answered with error "#;
    for (tool, status, rest) in [
        ("consent", 502, format!(r#"-32042: Sign in","code":502,"rpc_code":-32042,"rpc_data":{data}}}}}"#)),
        ("long", 502, r#"-32000: m","code":502,"rpc_code":-32000}}"#.to_owned()),
        ("arguments", 400, r#"-32602: wrong","code":400,"rpc_code":-32602,"rpc_data":["a"]}}"#.to_owned()),
    ] {
        let answer = gateway.call(tool, "{}").await;
        assert_eq!((answer.status, answer.text()), (status, format!("{begin}{rest}").as_str()), "{tool}");
    }
}

#[tokio::test]
async fn what_the_query_of_a_configured_url_holds_is_shown_nowhere_and_still_names_its_server() {
    let (one, other) = (Faulty::start(FaultyMode::Sse).await, Faulty::start(FaultyMode::Streamable).await);
    let urls = [format!("{}?key=hunter2", one.url()), format!("{}?key=hunter2&x=1", other.url())];
    let gateway = TestGateway::before(&[&urls[0], &urls[1], &format!("{}?key=hunter2-b", other.url())]).await;
    gateway.connected(3).await;
    let shown = urls.each_ref().map(|url| url.split('?').next().expect("a part").to_owned());
    for path in ["/servers", "/health", "/tools/list", "/metrics", "/openapi.json"] {
        let answer = send(gateway.get(path)).await;
        assert!(answer.status == 200 && !answer.text().contains("hunter2"), "{path}: {}", answer.text());
    }
    let servers = gateway.servers().await;
    let names: Vec<&String> = servers["servers"].as_object().expect("servers").keys().collect();
    assert!(shown.iter().all(|url| names.contains(&url)) && names.len() == 3, "{names:?}");
    for name in urls.iter().chain(&shown) {
        let answer = gateway.call_at(name, "echo", "{}").await;
        assert_eq!(answer.status, 200, "{name}");
        assert!(answer.headers.iter().all(|(_, value)| !value.to_str().unwrap_or_default().contains("hunter2")));
    }
    let unknown = gateway.call_at(&format!("{}?key=other", one.url()), "echo", "{}").await;
    assert_eq!(unknown.status, 404);
    one.behave(|it| it.call = RequestFault::Slams);
    assert!(!gateway.call_at(&shown[0], "echo", "{}").await.text().contains("hunter2"));
    assert!(!gateway.log().contains("hunter2"), "{}", gateway.log());
}

#[tokio::test]
async fn a_body_that_is_too_long_is_refused_however_it_comes() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let options = Options { mcp_url: Some(server.url()), max_body_bytes: Some("2048".into()), ..options() };
    let gateway = TestGateway::start(options).await;
    gateway.connected(1).await;
    let body = |fill: usize| format!(r#"{{"method":"echo","args":{{"message":"{}"}}}}"#, "x".repeat(fill));
    let frame = body(0).len();
    assert_eq!(send(gateway.post(body(2048 - frame))).await.status, 200);
    is_error(&send(gateway.post(body(2049 - frame))).await, 413, "the body is longer than 2048 bytes");

    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    let head = format!(
        "POST /tools HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n",
        gateway.token
    );
    stream.write_all(head.as_bytes()).await.expect("written");
    stream.write_all(format!("bb8\r\n{}", "x".repeat(3000)).as_bytes()).await.expect("written");
    let mut answer = String::new();
    tokio::time::timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("an answer").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
}

#[tokio::test]
async fn what_a_server_does_wrong_is_told_by_its_status() {
    let tools = vec![
        Tool::echo("echo"),
        Tool::failing("fails", "no such city"),
        Tool::error("rpc", -32000, "out of \"order\""),
        Tool::error("params", -32602, "a is missing"),
        Tool::echo("slow").takes(Duration::from_secs(30)),
        Tool::result("odd", "7"),
    ];
    let server = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let away = port::hold();
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "timeouts: {requestSeconds: 1}");
    manifests.add("away", &format!("{}/mcp", away.origin()), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;

    let unknown = gateway.call("nothing", "{}").await;
    is_error(&unknown, 404, "no server offers the tool \"nothing\": GET /tools/list lists all");
    assert_eq!((unknown.header("x-portcullis-server"), unknown.header("x-portcullis-attempts")), ("", "0"));

    let failed = gateway.call("fails", "{}").await;
    assert_eq!(
        (failed.status, failed.text()),
        (200, r#"{"content":[{"type":"text","text":"no such city"}],"isError":true}"#)
    );

    for (tool, status, code, message) in [
        ("rpc", 502, -32000, r#"the server answered with error -32000: out of \"order\""#),
        ("params", 400, -32602, "the server answered with error -32602: a is missing"),
    ] {
        let answer = gateway.call(tool, "{}").await;
        let body = format!(r#"{{"error":{{"message":"{message}","code":{status},"rpc_code":{code}}}}}"#);
        assert_eq!(
            (answer.status, answer.text(), answer.header("x-portcullis-server")),
            (status, body.as_str(), "one")
        );
    }
    let slow = gateway.call("slow", "{}").await;
    is_error(&slow, 504, "the server did not answer in time");
    assert_eq!((slow.header("x-portcullis-server"), slow.header("x-portcullis-attempts")), ("one", "1"));

    server.behave(|faults| faults.call = RequestFault::html());
    is_error(
        &gateway.call("echo", "{}").await,
        502,
        "the server's answer is unusable: it is neither JSON nor an event stream",
    );
    server.behave(|faults| faults.call = RequestFault::status(500));
    is_error(
        &gateway.call("echo", "{}").await,
        502,
        "the server's answer is unusable: it has an HTTP status for failures",
    );
    for status in [429, 503] {
        server.behave(|faults| faults.call = RequestFault::status(status));
        let answer = gateway.call("echo", "{}").await;
        is_error(&answer, status, &format!("the server refused the request with HTTP status {status}"));
        assert_eq!(answer.header("retry-after"), "1");
    }
}

#[tokio::test]
async fn a_tool_whose_only_server_is_away_is_unavailable_for_now() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let mut server = Faulty::start(mode).await;
        let gateway = TestGateway::before(&[&server.url()]).await;
        gateway.connected(1).await;
        server.kill().await;
        let answer = gateway.call("echo", "{}").await;
        assert_eq!(answer.header("retry-after"), "1", "{mode:?}: {}", answer.text());
        is_error(&answer, 503, "no server that offers the tool \"echo\" can be reached: try again");
        assert_eq!(gateway.tools().await, ["echo"], "its tools stay listed");
    }
}

#[tokio::test]
async fn a_call_waits_for_a_place_for_half_of_its_time_and_is_then_told_when_to_come_back() {
    let server =
        Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("slow", "done").takes(Duration::from_secs(3))]).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "limits: {maxConcurrentRequests: 1}\ntimeouts: {requestSeconds: 4}");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let first = gateway.call("slow", "{}");
    let others = async {
        wait_for("the first call", LIMIT, async || server.running() == 1).await;
        let began = Instant::now();
        (join_all((0..3).map(|_| gateway.call("slow", "{}"))).await, began.elapsed())
    };
    let (first, (others, took)) = tokio::join!(first, others);
    assert_eq!(first.status, 200);
    for answer in others {
        is_error(&answer, 429, "every server that offers the tool \"slow\" is at its concurrency limit: try again");
        assert_eq!(answer.header("retry-after"), "5");
    }
    assert!(took > Duration::from_millis(1_900) && took < Duration::from_millis(2_900), "{took:?}");
    assert_eq!(server.seen().calls, 1);
    assert_eq!(gateway.call("slow", "{}").await.status, 200, "it is free again");
}

#[tokio::test]
async fn a_burst_that_a_server_can_serve_in_time_is_served_and_the_time_of_a_call_begins_with_its_place() {
    let tool = Tool::text("slow", "done").takes(Duration::from_millis(700));
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![tool]).await;
    let manifests = Manifests::new();
    // The last ones wait for two seconds and more, and the call alone has three.
    manifests.add("one", &server.url(), "limits: {maxConcurrentRequests: 25}\ntimeouts: {requestSeconds: 5}");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let answers = join_all((0..100).map(|_| gateway.call("slow", "{}"))).await;
    let statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses, [200; 100]);
}

#[tokio::test]
async fn a_caller_with_a_crowd_in_the_queue_holds_up_no_other() {
    let tool = Tool::text("slow", "done").takes(Duration::from_millis(300));
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![tool]).await;
    let manifests = Manifests::new();
    manifests.add("one", &server.url(), "limits: {maxConcurrentRequests: 1}");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let crowd = join_all((0..12).map(|_| gateway.call("slow", "{}")));
    let other = async {
        wait_for("the crowd", LIMIT, async || server.seen().calls >= 2).await;
        let before = server.seen().calls;
        let call = client::post(&gateway.url("/tools"), r#"{"method":"slow"}"#).bearer(&mint("other")).limit(LIMIT);
        let answer = send(call).await;
        (answer.status, server.seen().calls - before)
    };
    let (crowd, (status, served)) = tokio::join!(crowd, other);
    assert!(crowd.iter().all(|answer| answer.status == 200));
    assert!(status == 200 && served <= 3, "{status}: {served} calls were made before it");
}

#[tokio::test]
async fn the_older_proxys_shape_of_an_answer_is_given_when_asked_for() {
    let tools = vec![
        Tool::text("plain", "hello"),
        Tool::text("json", r#"{"a": 1.10}"#),
        Tool::result(
            "two",
            r#"{"content":[{"type":"text","text":"a"},{"type":"image","data":"eA==","mimeType":"image/png"}]}"#,
        ),
        Tool::failing("fails", "no"),
        Tool::result("none", r#"{"content":[]}"#),
    ];
    let server = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    let cases = [
        ("plain", r#""hello""#),
        ("json", r#"[{"a": 1.10}]"#),
        ("two", r#"["a",{"type":"image","data":"eA==","mimeType":"image/png"}]"#),
        ("fails", r#""no""#),
        ("none", "[]"),
    ];
    for (tool, value) in cases {
        let url = gateway.url("/tools?shape=value");
        let answer = send(client::post(&url, format!(r#"{{"method":"{tool}"}}"#)).bearer(&gateway.token)).await;
        assert_eq!((answer.status, answer.text()), (200, value), "{tool}");
    }
}

#[tokio::test]
async fn a_request_id_is_kept_when_it_is_harmless() {
    let (gateway, _server) = start().await;
    let long = "i".repeat(128);
    for id in ["abc-123", "{weird}", &long] {
        let answer = send(gateway.get("/servers").header("x-request-id", id)).await;
        assert_eq!(answer.header("x-request-id"), id);
    }
    let longer = "i".repeat(129);
    for id in ["", "two words", &longer] {
        let answer = send(gateway.get("/servers").header("x-request-id", id)).await;
        has_common_headers(&answer);
    }
}

#[tokio::test]
async fn head_gives_the_headers_of_get_without_a_body() {
    let (gateway, _server) = start().await;
    for path in ["/health", "/tools/list"] {
        let whole = send(gateway.get(path)).await;
        let head = send(client::request(Method::HEAD, &gateway.url(path)).bearer(&gateway.token)).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        for name in ["content-type", "content-length", "cache-control"] {
            assert_eq!(head.header(name), whole.header(name), "{path} {name}");
        }
    }
}

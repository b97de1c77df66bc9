//! The admin port and its probes under load.

use std::time::Duration;

use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_gateway::Options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

/// Kubernetes gives a probe one second unless it is told otherwise.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

async fn probe(address: std::net::SocketAddr, path: &str) -> HttpAnswer {
    client::get(&format!("http://{address}{path}")).limit(PROBE_LIMIT).send().await.expect("a probe comes through")
}

#[tokio::test]
async fn idle_and_busy_strangers_do_not_fail_the_probes_of_the_admin_port() {
    let options = Options {
        mcp_url: Some("http://127.0.0.1:9/mcp".into()),
        admin_address: Some("127.0.0.1:0".into()),
        ..options()
    };
    let gateway = TestGateway::start(options).await;
    let status = client::get(&format!("http://{}/status", gateway.admin)).send().await.expect("an answer").json();
    let instance = status["instance"].as_str().expect("an instance").to_owned();
    let waiting =
        format!("GET /status?instance={instance}&since={}&wait=30 HTTP/1.1\r\nhost: a\r\n\r\n", status["change"]);
    let texts = ["", "GET /livez HTTP/1.1\r\nhost", "GET /metrics HTTP/1.1\r\nhost: a\r\n\r\n", &waiting];
    let mut crowd = Vec::new();
    for _ in 0..64 {
        for text in texts {
            let mut stream = TcpStream::connect(gateway.admin).await.expect("a connection");
            drop(stream.write_all(text.as_bytes()).await);
            crowd.push(stream);
        }
        assert_eq!(probe(gateway.admin, "/livez").await.status, 200);
        probe(gateway.admin, "/readyz").await;
    }
}

#[tokio::test]
async fn an_idle_connection_to_the_admin_port_is_closed_within_ten_seconds() {
    let options = Options {
        mcp_url: Some("http://127.0.0.1:9/mcp".into()),
        admin_address: Some("127.0.0.1:0".into()),
        ..options()
    };
    let gateway = TestGateway::start(options).await;
    let mut used = TcpStream::connect(gateway.admin).await.expect("a connection");
    used.write_all(b"GET /livez HTTP/1.1\r\nhost: a\r\n\r\n").await.expect("it is sent");
    let mut unused = TcpStream::connect(gateway.admin).await.expect("a connection");
    let began = Instant::now();
    let mut bytes = Vec::new();
    for stream in [&mut used, &mut unused] {
        timeout(LIMIT, stream.read_to_end(&mut bytes)).await.expect("it ends").expect("in order");
    }
    assert!(began.elapsed() < Duration::from_secs(12), "{:?}", began.elapsed());
}

#[tokio::test]
async fn idle_strangers_do_not_lock_callers_out() {
    let options =
        Options { mcp_url: Some("http://127.0.0.1:9/mcp".into()), max_connections: Some("50".into()), ..options() };
    let gateway = TestGateway::start(options).await;
    let mut crowd = Vec::new();
    for _ in 0..100 {
        crowd.push(TcpStream::connect(gateway.address).await.expect("a connection"));
    }
    for _ in 0..5 {
        let answer = gateway.get("/servers").limit(LIMIT).send().await.expect("a caller comes in");
        assert_eq!(answer.status, 200);
    }
    assert!(gateway.metric("portcullis_connections_evicted_total").await.is_some_and(|count| count >= 50.0));
    assert_eq!(gateway.metric("portcullis_connections_refused_total").await, Some(0.0));
}

#[tokio::test]
async fn a_body_is_not_waited_for_before_the_token_was_looked_at() {
    let gateway = TestGateway::before(&["http://127.0.0.1:9/mcp"]).await;
    for path in ["/tools", "/mcp", "/mcp/x", "/message"] {
        for (token, body) in [("", ""), ("", "half"), ("authorization: Bearer x.y.z\r\n", "half")] {
            for framing in ["content-length: 5000", "transfer-encoding: chunked"] {
                let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
                let text = format!("POST {path} HTTP/1.1\r\nhost: a\r\n{token}{framing}\r\n\r\n{body}");
                stream.write_all(text.as_bytes()).await.expect("it is sent");
                let mut first = [0; 12];
                timeout(LIMIT, stream.read_exact(&mut first)).await.expect("in time").expect("an answer");
                assert_eq!(&first, b"HTTP/1.1 401", "{text}");
            }
        }
    }
}

#[tokio::test]
async fn a_malformed_chunk_is_refused_as_such() {
    let gateway = TestGateway::before(&["http://127.0.0.1:9/mcp"]).await;
    for path in ["/tools", "/mcp"] {
        let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
        let head = format!("POST {path} HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {}\r\n", gateway.token);
        let text = format!("{head}transfer-encoding: chunked\r\n\r\nxyz\r\n");
        stream.write_all(text.as_bytes()).await.expect("it is sent");
        let mut answer = String::new();
        timeout(LIMIT, stream.read_to_string(&mut answer)).await.expect("in time").expect("an answer");
        let expected = r#"{"error":{"message":"the body has a malformed chunk: check what sends it","code":400}}"#;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with(expected), "{answer}");
    }
}

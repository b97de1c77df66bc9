//! Real servers are killed and return: callers get an error or another server, and nobody has to intervene.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::real::{self, RealServer, RealServerKind};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

use crate::fleet;

const ECHO: &str = r#"{"message":"hi"}"#;

/// After it answers again, a server that was away for some seconds is used within this time: the longest pause
/// between attempts is then a few seconds.
const RETURN_LIMIT: Duration = Duration::from_secs(10);

/// Kills a server of its own while a call runs, and starts it again on the same port.
async fn goes_and_comes_back(kind: RealServerKind, slow: (&str, &str)) {
    let mut server = RealServer::start(kind).await;
    let url = server.url.clone();
    let gateway = TestGateway::before(&[&url]).await;
    gateway.connected(1).await;
    let tools = gateway.tools().await;
    let call = gateway.call(slow.0, slow.1);
    let stop = async {
        wait_for("the call", LIMIT, async || gateway.server(&url).await["calls_in_flight"] == 1).await;
        // It may need a connection yet, and only the server knows when it has the call.
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.stop();
    };
    let (answer, ()) = tokio::join!(call, stop);
    assert_eq!(
        (answer.status, answer.text()),
        (502, r#"{"error":{"message":"the connection to the server was lost during the call","code":502}}"#)
    );

    wait_for("the loss to be seen", LIMIT, async || gateway.server(&url).await["connected"] == false).await;
    for _ in 0..3 {
        let answer = gateway.call("echo", ECHO).await;
        let body =
            r#"{"error":{"message":"no server that offers the tool \"echo\" can be reached: try again","code":503}}"#;
        assert_eq!((answer.status, answer.text(), answer.header("retry-after")), (503, body, "1"));
    }
    assert_eq!(gateway.tools().await, tools, "its tools stay listed");
    assert_eq!(
        gateway.health().await["servers"]["status"],
        json!({url.as_str(): {"connected": false, "tools_count": tools.len()}})
    );

    server.restart_on_same_port().await;
    let began = Instant::now();
    wait_for("the server to be used again", RETURN_LIMIT, async || gateway.call("echo", ECHO).await.status == 200)
        .await;
    println!("{kind:?} is used again after {:?}", began.elapsed());
    assert_eq!(gateway.tools().await, tools);
}

#[tokio::test]
async fn server_everything_over_sse_is_used_again_when_it_is_back() {
    require!(real::available(RealServerKind::EverythingSse));
    goes_and_comes_back(
        RealServerKind::EverythingSse,
        ("trigger-long-running-operation", r#"{"duration":30,"steps":30}"#),
    )
    .await;
}

#[tokio::test]
async fn server_everything_over_streamable_http_is_used_again_when_it_is_back() {
    require!(real::available(RealServerKind::EverythingStreamable));
    goes_and_comes_back(
        RealServerKind::EverythingStreamable,
        ("trigger-long-running-operation", r#"{"duration":30,"steps":30}"#),
    )
    .await;
}

#[tokio::test]
async fn a_python_server_is_used_again_when_it_is_back() {
    require!(real::available(RealServerKind::PythonStreamable));
    goes_and_comes_back(RealServerKind::PythonStreamable, ("slow", r#"{"seconds":30}"#)).await;
}

#[tokio::test]
async fn calls_go_to_another_server_while_one_is_away() {
    require!(real::available(RealServerKind::PythonSse));
    let (mut going, staying) =
        tokio::join!(RealServer::start(RealServerKind::PythonSse), fleet::server(RealServerKind::PythonStreamable));
    let gateway = TestGateway::before(&[&going.url, &staying.url]).await;
    gateway.connected(2).await;
    let steady = async |until: &mut (dyn Future<Output = ()> + Unpin)| {
        let calls = async {
            loop {
                // Read-only tools may be called again, so not even the calls that run when it dies are lost.
                for answer in join_all((0..4).map(|_| gateway.call("echo", ECHO))).await {
                    assert_eq!(answer.status, 200, "{}", answer.text());
                }
            }
        };
        tokio::select! {
            () = until => {}
            () = calls => {}
        }
    };
    steady(&mut Box::pin(tokio::time::sleep(Duration::from_millis(300)))).await;
    going.stop();
    steady(&mut Box::pin(gateway.connected(1))).await;
    let preferred = gateway.call_at(&going.url, "echo", ECHO).await;
    assert_eq!((preferred.status, preferred.header("x-portcullis-attempts")), (200, "1"));
    assert_eq!(gateway.server(&staying.url).await["name"], preferred.header("x-portcullis-server"));
    steady(&mut Box::pin(async {
        going.restart_on_same_port().await;
        gateway.connected(2).await;
    }))
    .await;
    let preferred = gateway.call_at(&going.url, "echo", ECHO).await;
    assert_eq!(gateway.server(&going.url).await["name"], preferred.header("x-portcullis-server"));
}

#[tokio::test]
async fn a_gateway_starts_before_its_servers_do() {
    require!(real::available(RealServerKind::EverythingStreamable));
    let mut server = RealServer::start(RealServerKind::EverythingStreamable).await;
    server.stop();
    let gateway = TestGateway::before(&[&server.url]).await;
    gateway.fails(&server.url, "cannot be reached: connection refused").await;
    assert_eq!(gateway.call("echo", ECHO).await.status, 404, "nothing is known of it yet");
    server.restart_on_same_port().await;
    wait_for("the server", RETURN_LIMIT, async || gateway.call("echo", ECHO).await.status == 200).await;
}

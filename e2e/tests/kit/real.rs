//! The kit's real servers start, answer, stop for good and come back on the same port.

use std::time::Duration;

use portcullis_e2e::real::{self, RealServer, RealServerKind, TestTransport};
use portcullis_e2e::{http, require, sse};

const LIMIT: Duration = Duration::from_secs(10);
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"kit","version":"0"}}}"#;

/// Starts a kind, lets it answer an `initialize`, twice, with a stop between.
async fn answers_stops_and_comes_back(kind: RealServerKind) {
    let mut server = RealServer::start(kind).await;
    let url = server.url.clone();
    assert!(initialize(&server).await.contains("protocolVersion"), "{kind:?}");
    server.stop();
    assert!(http::get(&url).send().await.is_err(), "{kind:?} still answers");
    server.restart_on_same_port().await;
    assert_eq!(server.url, url);
    assert!(initialize(&server).await.contains("protocolVersion"), "{kind:?}");
    drop(server);
    assert!(http::get(&url).send().await.is_err(), "{kind:?} outlives its handle");
}

async fn initialize(server: &RealServer) -> String {
    match server.transport {
        TestTransport::StreamableHttp => {
            http::post(&server.url, INITIALIZE).send().await.expect("an answer").text().to_owned()
        }
        TestTransport::Sse => {
            let mut events = sse::open(http::get(&server.url)).await.expect("an event stream");
            let endpoint = events.next(LIMIT).await.expect("an event").expect("not the end");
            assert_eq!(endpoint.event, "endpoint");
            let origin = server.url.strip_suffix("/sse").expect("the path is /sse");
            let posted = http::post(&format!("{origin}{}", endpoint.data), INITIALIZE).send().await.expect("an answer");
            assert_eq!(posted.status, 202);
            events.next(LIMIT).await.expect("an event").expect("not the end").data
        }
    }
}

#[tokio::test]
async fn server_everything_serves_sse() {
    require!(real::available(RealServerKind::EverythingSse));
    answers_stops_and_comes_back(RealServerKind::EverythingSse).await;
}

#[tokio::test]
async fn server_everything_serves_streamable_http() {
    require!(real::available(RealServerKind::EverythingStreamable));
    answers_stops_and_comes_back(RealServerKind::EverythingStreamable).await;
}

#[tokio::test]
async fn supergateway_serves_sse() {
    require!(real::available(RealServerKind::SupergatewaySse));
    answers_stops_and_comes_back(RealServerKind::SupergatewaySse).await;
}

#[tokio::test]
async fn the_python_sdk_serves_sse() {
    require!(real::available(RealServerKind::PythonSse));
    answers_stops_and_comes_back(RealServerKind::PythonSse).await;
}

#[tokio::test]
async fn the_python_sdk_serves_streamable_http() {
    require!(real::available(RealServerKind::PythonStreamable));
    answers_stops_and_comes_back(RealServerKind::PythonStreamable).await;
}

#[tokio::test]
async fn fastmcp_serves_sse() {
    require!(real::available(RealServerKind::FastmcpSse));
    answers_stops_and_comes_back(RealServerKind::FastmcpSse).await;
}

#[tokio::test]
async fn fastmcp_serves_streamable_http() {
    require!(real::available(RealServerKind::FastmcpStreamable));
    answers_stops_and_comes_back(RealServerKind::FastmcpStreamable).await;
}

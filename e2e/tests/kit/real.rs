//! The kit's real servers start, answer, stop for good and come back on the same port.

use std::time::Duration;

use portcullis_e2e::real::{self, Kind, RealServer, Transport};
use portcullis_e2e::{http, require, sse};

const LIMIT: Duration = Duration::from_secs(10);
const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18","capabilities":{},"clientInfo":{"name":"kit","version":"0"}}}"#;

/// Starts a kind, lets it answer an `initialize`, twice, with a stop between.
async fn answers_stops_and_comes_back(kind: Kind) {
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
        Transport::StreamableHttp => {
            http::post(&server.url, INITIALIZE).send().await.expect("an answer").text().to_owned()
        }
        Transport::Sse => {
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
    require!(real::available(Kind::EverythingSse));
    answers_stops_and_comes_back(Kind::EverythingSse).await;
}

#[tokio::test]
async fn server_everything_serves_streamable_http() {
    require!(real::available(Kind::EverythingStreamable));
    answers_stops_and_comes_back(Kind::EverythingStreamable).await;
}

#[tokio::test]
async fn supergateway_serves_sse() {
    require!(real::available(Kind::SupergatewaySse));
    answers_stops_and_comes_back(Kind::SupergatewaySse).await;
}

#[tokio::test]
async fn the_python_sdk_serves_sse() {
    require!(real::available(Kind::PythonSse));
    answers_stops_and_comes_back(Kind::PythonSse).await;
}

#[tokio::test]
async fn the_python_sdk_serves_streamable_http() {
    require!(real::available(Kind::PythonStreamable));
    answers_stops_and_comes_back(Kind::PythonStreamable).await;
}

#[tokio::test]
async fn fastmcp_serves_sse() {
    require!(real::available(Kind::FastmcpSse));
    answers_stops_and_comes_back(Kind::FastmcpSse).await;
}

#[tokio::test]
async fn fastmcp_serves_streamable_http() {
    require!(real::available(Kind::FastmcpStreamable));
    answers_stops_and_comes_back(Kind::FastmcpStreamable).await;
}

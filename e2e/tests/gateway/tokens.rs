//! Tokens: their places, their refusals, and that the gateway checks them first.

use std::time::Duration;

use http::Method;
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http as client;
use portcullis_e2e::token::{SECRET, after, before, mint_with};
use portcullis_gateway::Options;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rest::{is_error, send, start};

#[tokio::test]
async fn a_request_without_a_good_token_is_refused_before_its_body_is_read() {
    let (gateway, server) = start().await;
    let secret = SECRET.as_bytes();
    let hour = Duration::from_secs(3600);
    let expired = mint_with(secret, &json!({"sub": "a", "exp": before(hour)}));
    let early = mint_with(secret, &json!({"sub": "a", "exp": after(hour), "nbf": after(hour)}));
    let endless = mint_with(secret, &json!({"sub": "a"}));
    let foreign = mint_with(b"another-secret-of-more-than-32-bytes", &json!({"sub": "a", "exp": after(hour)}));
    let long = "x".repeat(8193);
    let missing = "a token is required: send the header 'Authorization: Bearer TOKEN'";
    let scheme = "the Authorization header must have the form 'Bearer TOKEN'";
    let cases = [
        ("".to_owned(), missing),
        ("Bearer".to_owned(), missing),
        ("Basic YTpi".to_owned(), scheme),
        ("Bearer nonsense".to_owned(), "the token is not a well-formed JWT"),
        (format!("Bearer {long}"), "the token is longer than 8192 bytes"),
        (format!("Bearer {expired}"), "the token has expired: get a new one"),
        (format!("Bearer {early}"), "the token is not valid yet (nbf, iat): check the clocks"),
        (format!("Bearer {endless}"), "the token has no valid expiry time (exp, in seconds since 1970)"),
        (format!("bEaReR {foreign}"), "the token's signature is not valid"),
    ];
    for (header, message) in &cases {
        for (method, path) in [(Method::POST, "/tools"), (Method::GET, "/tools/list"), (Method::GET, "/servers")] {
            let request = client::request(method, &gateway.url(path)).body("not even JSON");
            let request = if header.is_empty() { request } else { request.header("authorization", header) };
            let answer = send(request.header("content-type", "text/plain")).await;
            is_error(&answer, 401, message);
            let challenge = if *message == missing || *message == scheme {
                "Bearer".to_owned()
            } else {
                format!("Bearer error=\"invalid_token\", error_description=\"{message}\"")
            };
            assert_eq!(answer.header("www-authenticate"), challenge);
        }
    }
    assert_eq!(server.seen().calls, 0);
    refuses_before_the_body_comes(&gateway).await;
}

async fn refuses_before_the_body_comes(gateway: &TestGateway) {
    let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
    stream.write_all(b"POST /tools HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n{").await.expect("written");
    let mut head = [0; 12];
    let read = tokio::time::timeout(LIMIT, stream.read_exact(&mut head)).await;
    read.expect("an answer without the body").expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 401");
}

#[tokio::test]
async fn a_token_may_come_in_the_query_but_not_in_both_places() {
    let (gateway, _server) = start().await;
    let token = &gateway.token;
    for path in ["/tools/list", "/servers"] {
        let url = gateway.url(&format!("{path}?token={token}"));
        assert_eq!(send(client::get(&url)).await.status, 200);
        let both = send(client::get(&url).bearer(token)).await;
        is_error(&both, 400, "send the token either in the Authorization header or in the query, not in both");
        assert_eq!(both.header("www-authenticate"), "");
    }
    let call = client::post(&gateway.url(&format!("/tools?token={token}")), r#"{"method":"echo"}"#);
    assert_eq!(send(call).await.status, 200);
    let twice = client::get(&gateway.url(&format!("/servers?token={token}&token={token}")));
    is_error(&send(twice).await, 400, "send exactly one token");
    let empty = send(client::get(&gateway.url("/servers?token="))).await;
    is_error(&empty, 401, "a token is required: send the header 'Authorization: Bearer TOKEN'");
}

#[tokio::test]
async fn a_token_in_the_query_can_be_forbidden() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let options = Options { mcp_url: Some(server.url()), allow_query_token: Some("false".into()), ..options() };
    let gateway = TestGateway::start(options).await;
    let answer = send(client::get(&gateway.url(&format!("/servers?token={}", gateway.token)))).await;
    is_error(&answer, 401, "a token is required: send the header 'Authorization: Bearer TOKEN'");
}

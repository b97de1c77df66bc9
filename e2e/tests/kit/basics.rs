//! Waits, ports, tokens and the HTTP client.

use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt;
use jsonwebtoken::{DecodingKey, Validation, decode};
use portcullis_e2e::wait::wait_for;
use portcullis_e2e::{http, port, token};

#[tokio::test]
async fn a_wait_gives_the_value_once_it_is_there() {
    let mut looks = 0;
    let value = wait_for("the third look", Duration::from_secs(5), || {
        looks += 1;
        let now = looks;
        async move { (now == 3).then_some(now) }
    });
    assert_eq!(value.await, 3);
}

#[tokio::test]
async fn a_wait_that_fails_names_what_the_last_state_and_the_caller() {
    let wait = wait_for("the moon", Duration::from_millis(50), async || Err::<(), _>("half full"));
    let text = panic_of(wait).await;
    assert!(text.contains("basics.rs") && text.contains("the moon") && text.contains("half full"), "{text}");
}

#[tokio::test]
async fn a_wait_cuts_a_look_that_hangs() {
    let wait = wait_for("godot", Duration::from_millis(50), std::future::pending::<bool>);
    let text = panic_of(wait).await;
    assert!(text.contains("godot") && text.contains("hung"), "{text}");
}

async fn panic_of<T>(wait: impl Future<Output = T>) -> String {
    let panic = AssertUnwindSafe(wait).catch_unwind().await.err().expect("it panics");
    panic.downcast::<String>().map(|text| *text).expect("a text")
}

#[tokio::test]
async fn a_held_port_refuses_callers_listens_and_refuses_again() {
    let held = port::hold();
    let connect = || tokio::net::TcpStream::connect(held.address());
    assert!(connect().await.is_err());
    for _ in 0..3 {
        let listener = held.listen().await;
        assert!(connect().await.is_ok());
        drop(listener);
        assert!(connect().await.is_err());
    }
    assert_ne!(port::hold().port(), held.port());
}

#[test]
fn a_minted_token_is_an_hs256_token_with_its_claims() {
    let key = DecodingKey::from_secret(token::SECRET.as_bytes());
    let read = |token: &str| decode::<serde_json::Value>(token, &key, &Validation::default());
    assert_eq!(read(&token::mint("alice")).expect("valid").claims["sub"], "alice");
    let old = serde_json::json!({ "sub": "bob", "exp": token::before(Duration::from_secs(300)) });
    assert!(read(&token::mint_with(token::SECRET.as_bytes(), &old)).is_err(), "expired");
    let foreign = serde_json::json!({ "sub": "bob", "exp": token::after(Duration::from_secs(300)) });
    assert!(read(&token::mint_with(b"another secret", &foreign)).is_err(), "another key");
}

#[tokio::test]
async fn a_request_to_nobody_is_an_error_that_names_the_url() {
    let held = port::hold();
    let error = http::get(&held.origin()).send().await.expect_err("nobody listens");
    assert!(format!("{error:#}").contains(&held.origin()), "{error:#}");
    assert!(http::get("https://localhost/").send().await.is_err());
    assert!(http::get("nonsense").send().await.is_err());
}

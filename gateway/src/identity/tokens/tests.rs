//! The life of tokens, with a clock that the tests turn.

use portcullis_crds::{McpServerSpec, ServerKey};
use tokio::time::advance;

use super::*;

const LIFE: Duration = Duration::from_secs(3600);

fn server(namespace: &str, url: &str) -> Server {
    let spec: McpServerSpec = serde_yaml::from_str("{identity: {serviceAccountToken: {}}}").unwrap();
    let key = ServerKey::new(namespace, "x");
    Server { key, identity: spec.identity, ..Server::from_url("x", url) }
}

fn header(value: &'static str) -> HeaderValue {
    HeaderValue::from_static(value)
}

/// Answers the only due request.
fn answer(tokens: &Tokens, result: Result<&'static str, IdentityError>) {
    let due = tokens.take_due(8);
    assert_eq!(due.len(), 1);
    let issued = result.map(|value| Issued { header: header(value), life: LIFE });
    tokens.settle(&due[0], Instant::now(), issued, 0.0);
}

fn due(tokens: &Tokens) -> usize {
    tokens.take_due(8).len()
}

fn value(tokens: &Tokens, server: &Server) -> Result<HeaderValue, IdentityError> {
    tokens.of(server).map(|token| token.expect("a token").1)
}

fn away() -> IdentityError {
    IdentityError::Unavailable { audience: "https://a.example".into(), problem: "it cannot be reached" }
}

#[tokio::test(start_paused = true)]
async fn a_token_is_requested_once_for_all_servers_of_an_origin_and_renewed_at_four_fifths_of_its_life() {
    let tokens = Tokens::new(true, AudienceRules::default());
    let changes = tokens.changes();
    let (one, other) = (server("a", "https://a.example/mcp"), server("b", "https://a.example:443/sse"));
    assert_eq!(value(&tokens, &one), Err(IdentityError::Pending));
    assert_eq!(value(&tokens, &other), Err(IdentityError::Pending));
    answer(&tokens, Ok("Bearer 1"));
    assert_eq!(*changes.borrow(), 1);
    let audience: Arc<str> = "https://a.example".into();
    assert_eq!(tokens.of(&one), Ok(Some((audience.clone(), header("Bearer 1")))));
    assert_eq!(value(&tokens, &other), Ok(header("Bearer 1")));
    assert_eq!(tokens.expire(true), Some(Instant::now() + LIFE.mul_f64(0.8)));
    advance(LIFE.mul_f64(0.8) - Duration::from_secs(1)).await;
    assert_eq!(due(&tokens), 0);
    advance(Duration::from_secs(1)).await;
    answer(&tokens, Ok("Bearer 2"));
    assert_eq!((value(&tokens, &one), *changes.borrow()), (Ok(header("Bearer 2")), 1));
    assert_eq!(tokens.revoked(&audience), None);
    // All servers look at their credentials then, so renewed tokens are announced together.
    assert_eq!(tokens.expire(true), Some(Instant::now() + GATHER));
    advance(GATHER).await;
    tokens.expire(true);
    assert_eq!(*changes.borrow(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_token_outlives_the_api_servers_absence_until_its_end_and_no_longer() {
    let tokens = Tokens::new(true, AudienceRules::default());
    let changes = tokens.changes();
    let one = server("a", "https://a.example/mcp");
    assert_eq!(value(&tokens, &one), Err(IdentityError::Pending));
    answer(&tokens, Err(away()));
    assert_eq!((value(&tokens, &one), *changes.borrow()), (Err(away()), 1));
    advance(Duration::from_secs(1)).await;
    answer(&tokens, Ok("Bearer 1"));
    let ends = Instant::now() + LIFE;
    advance(LIFE.mul_f64(0.8)).await;
    while Instant::now() < ends {
        assert_eq!(value(&tokens, &one), Ok(header("Bearer 1")));
        answer(&tokens, Err(away()));
        assert_eq!(*changes.borrow(), 2);
        let next = tokens.expire(true).expect("something to do");
        advance(next - Instant::now()).await;
    }
    assert_eq!(value(&tokens, &one), Err(away()));
    assert_eq!(tokens.revoked("https://a.example"), Some(away()));
    tokens.expire(true);
    assert_eq!(*changes.borrow(), 3);
    advance(PAUSES.1).await;
    answer(&tokens, Ok("Bearer 2"));
    assert_eq!((value(&tokens, &one), *changes.borrow()), (Ok(header("Bearer 2")), 4));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_the_api_server_accepts_is_withdrawn() {
    let tokens = Tokens::new(true, AudienceRules::default());
    let one = server("a", "https://a.example/mcp");
    assert_eq!(value(&tokens, &one), Err(IdentityError::Pending));
    answer(&tokens, Ok("Bearer 1"));
    advance(LIFE.mul_f64(0.8)).await;
    let refusal = IdentityError::OfApiServer("https://a.example".into());
    assert_eq!(value(&tokens, &one), Ok(header("Bearer 1")));
    answer(&tokens, Err(refusal.clone()));
    assert_eq!(value(&tokens, &one), Err(refusal.clone()));
    assert_eq!(tokens.revoked("https://a.example"), Some(refusal.clone()));
    assert!(refusal.is_revocation());
}

#[tokio::test(start_paused = true)]
async fn a_token_that_no_server_needs_is_not_renewed() {
    let tokens = Tokens::new(true, AudienceRules::default());
    let (one, other) = (server("a", "https://a.example/"), server("a", "https://b.example/"));
    drop((value(&tokens, &one), value(&tokens, &other)));
    advance(Duration::from_millis(1)).await;
    for audience in tokens.take_due(8) {
        tokens.settle(&audience, Instant::now(), Ok(Issued { header: header("Bearer 1"), life: LIFE }), 0.0);
    }
    advance(Duration::from_secs(1)).await;
    assert_eq!(value(&tokens, &one), Ok(header("Bearer 1")));
    advance(LIFE.mul_f64(0.8)).await;
    assert_eq!(tokens.take_due(8), [Arc::from("https://a.example")]);
    assert_eq!(tokens.revoked("https://b.example"), Some(IdentityError::Ended("https://b.example".into())));
    // One that never had a token is forgotten ten minutes after a server last asked.
    assert_eq!(value(&tokens, &other), Err(IdentityError::Pending));
    advance(FORGET).await;
    assert_eq!(due(&tokens), 0);
    assert_eq!(tokens.audiences.lock().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_namespace_has_so_many_audiences_and_takes_none_from_another() {
    let tokens = Tokens::new(true, AudienceRules::default());
    for number in 0..MAX_IN_NAMESPACE {
        let one = server("a", &format!("https://{number}.example.com/"));
        assert_eq!(value(&tokens, &one), Err(IdentityError::Pending));
    }
    let (known, new) = (server("a", "https://0.example.com/"), server("a", "https://new.example.com/"));
    assert_eq!(value(&tokens, &known), Err(IdentityError::Pending));
    let refusal = IdentityError::TooManyInNamespace { namespace: "a".into(), limit: MAX_IN_NAMESPACE };
    assert_eq!(value(&tokens, &new), Err(refusal));
    assert_eq!(value(&tokens, &server("b", "https://new.example.com/")), Err(IdentityError::Pending));
    for namespace in 0..MAX_AUDIENCES {
        let one = server(&format!("n{namespace}"), &format!("https://{namespace}.example.org/"));
        let _ = tokens.of(&one);
    }
    assert_eq!(tokens.audiences.lock().len(), MAX_AUDIENCES);
    assert_eq!(value(&tokens, &server("z", "https://z.example/")), Err(IdentityError::TooMany(MAX_AUDIENCES)));
}

#[tokio::test(start_paused = true)]
async fn without_a_service_account_there_is_no_token_and_a_server_without_identity_needs_none() {
    let tokens = Tokens::default();
    let one = server("a", "https://a.example/");
    assert_eq!(value(&tokens, &one), Err(IdentityError::NoAccount));
    assert_eq!(tokens.of(&Server { identity: None, ..one }), Ok(None));
}

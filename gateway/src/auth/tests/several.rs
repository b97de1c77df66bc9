//! Several issuers: which keys verify which tokens.
use super::{
    verify::{Name, Trust},
    *,
};

const A: &str = "https://a.example";
const B: &str = "https://b.example/realms/x";

/// An issuer with this key under the kid `1`, which the other issuers have too.
fn issuer(name: &str, key: &TestKey, audiences: &[&str]) -> Issuer {
    let mut jwk = key.jwk();
    jwk["kid"] = "1".into();
    let set = json!({"keys": [jwk]}).to_string();
    let keys = KeySet::from_jwks(set.as_bytes(), &[key.algorithm]).unwrap().0;
    Issuer {
        audiences: audiences.iter().map(|&one| one.to_owned()).collect(),
        algorithms: vec![key.algorithm],
        ..Issuer::bare(&Settings::default(), Trust { name: Name::Is(name.into()), keys })
    }
}

/// The shared secret, two issuers, and a cluster that has not been reached yet.
fn all() -> Vec<Issuer> {
    let cluster = Issuer {
        algorithms: vec![Algorithm::RS256],
        ..Issuer::bare(&Settings::default(), Trust { name: Name::Unknown, keys: KeySet::default() })
    };
    vec![HS256.issuer(), issuer(A, &RS256, &["portcullis", "other"]), issuer(B, &ES256, &["portcullis"]), cluster]
}

fn claims(iss: &str, aud: &str) -> String {
    format!(r#"{{"sub":"alice","exp":2000000600,"iss":"{iss}","aud":{aud}}}"#)
}

const KID: &str = r#"{"alg":"ALG","kid":"1"}"#;
const OURS: &str = r#""portcullis""#;

#[test]
fn every_issuer_vouches_for_its_own_tokens_only() {
    use AuthError::*;
    let issuers = all();
    let with_public_key_as_secret = TestKey::hmac(RS256.pem().as_bytes());
    let other = TestKey::generate(ES256.algorithm);
    let of_a = |aud: &str| RS256.token(KID, &claims(A, aud));
    let rows: Vec<(&str, String, Result<&str, AuthError>)> = vec![
        ("the secret's", HS256.plain_token(GOOD_CLAIMS), Ok("alice")),
        ("a's", of_a(OURS), Ok("alice")),
        ("a's for its other audience", of_a(r#""other""#), Ok("alice")),
        ("a's for a list with ours", of_a(r#"["x","other"]"#), Ok("alice")),
        ("b's", ES256.token(KID, &claims(B, OURS)), Ok("alice")),
        ("b's without kid", ES256.plain_token(&claims(B, OURS)), Ok("alice")),
        ("a's for somebody else", of_a(r#""b""#), Err(Audience)),
        ("a's for a list of others", of_a(r#"["x","y"]"#), Err(Audience)),
        ("b's for a's other audience", ES256.token(KID, &claims(B, r#""other""#)), Err(Audience)),
        ("a's without aud", RS256.token(KID, &format!(r#"{{"exp":2000000600,"iss":"{A}"}}"#)), Err(Audience)),
        ("a's without exp", RS256.token(KID, &format!(r#"{{"iss":"{A}","aud":"portcullis"}}"#)), Err(NoExp)),
        ("b's key, iss of a", ES256.token(KID, &claims(A, OURS)), Err(Algorithm)),
        ("a's key, iss of b", RS256.token(KID, &claims(B, OURS)), Err(Algorithm)),
        ("b's key, iss of a, alg of a", ES256.token(r#"{"alg":"RS256","kid":"1"}"#, &claims(A, OURS)), Err(Signature)),
        ("another key of b's kind", other.token(KID, &claims(B, OURS)), Err(Signature)),
        ("a's with another kid", RS256.token(r#"{"alg":"ALG","kid":"2"}"#, &claims(A, OURS)), Err(UnknownKey)),
        ("the secret's key, iss of a", HS256.token(KID, &claims(A, OURS)), Err(Algorithm)),
        ("a's public key as secret", with_public_key_as_secret.token(KID, &claims(A, OURS)), Err(Algorithm)),
        ("a's with alg none", RS256.token(r#"{"alg":"none","kid":"1"}"#, &claims(A, OURS)), Err(Algorithm)),
        ("a's with a slash behind iss", RS256.token(KID, &claims("https://a.example/", OURS)), Err(NoKeys)),
        ("a's without iss", RS256.token(KID, r#"{"exp":2000000600,"aud":"portcullis"}"#), Err(Algorithm)),
        ("perhaps the cluster's", RS256.token(KID, &claims("https://c.example", OURS)), Err(NoKeys)),
        ("not the cluster's kind", ES256.token(KID, &claims("https://c.example", OURS)), Err(Algorithm)),
    ];
    let mut wrong = Vec::new();
    for (name, token, expected) in rows {
        let outcome = subject(verify(&token, &issuers, now()));
        if outcome != expected.map(str::to_owned) {
            wrong.push(format!("{name}: {outcome:?} instead of {expected:?}"));
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn a_secret_with_an_issuer_vouches_for_that_one_only() {
    let settings = Settings { issuer: Some("mine".into()), ..HS256.settings() };
    let issuers = [Issuer::new(&settings, HS256.key_set()), issuer(A, &RS256, &["portcullis"])];
    let outcome = |token: String| subject(verify(&token, &issuers, now()));
    assert_eq!(outcome(HS256.plain_token(&claims("mine", OURS))), Ok("alice".into()));
    assert_eq!(outcome(HS256.plain_token(&claims(A, OURS))), Err(AuthError::Algorithm));
    assert_eq!(outcome(RS256.token(KID, &claims("mine", OURS))), Err(AuthError::Algorithm));
}

#[test]
fn newer_keys_are_asked_for_only_where_they_could_change_the_answer() {
    let issuers = all();
    let outdated = |token: String| examine(&token, &issuers, now()).unwrap_err().outdated;
    let unknown = r#"{"alg":"ALG","kid":"2"}"#;
    assert_eq!(outdated(RS256.token(unknown, &claims(A, OURS))), Some(1));
    assert_eq!(outdated(ES256.token(unknown, &claims(B, OURS))), Some(2));
    assert_eq!(outdated(TestKey::generate(Algorithm::ES256).token(KID, &claims(B, OURS))), Some(2));
    for token in [
        RS256.token(KID, &claims(A, r#""x""#)),
        ES256.token(unknown, &claims(A, OURS)),
        RS256.token(unknown, &claims("https://c.example", OURS)),
        RS256.token(unknown, r#"{"exp":2000000600}"#),
        "x".to_owned(),
    ] {
        assert_eq!(outdated(token), None);
    }
}

#[test]
fn the_source_of_somebody_who_is_not_here_is_the_issuer_that_vouches_for_such_callers() {
    const CLUSTER: &str = "https://kubernetes.default.svc";
    let cluster = || Issuer { is_cluster: true, ..issuer(CLUSTER, &RS256, &["portcullis"]) };
    let source = |issuers: Vec<Issuer>, is_service_account: bool, issuer: Option<&str>| {
        Authenticator::from_issuers(issuers).unwrap().source_of(is_service_account, issuer)
    };
    let is = |issuer: Option<&str>, is_cluster: bool, is_only: bool| TokenSource {
        issuer: issuer.map(str::to_owned),
        is_cluster,
        is_only,
    };
    let several = || vec![HS256.issuer(), issuer(A, &ES256, &["portcullis"]), cluster()];
    for (issuers, is_service_account, asked, expected) in [
        (several(), true, None, is(Some(CLUSTER), true, false)),
        (several(), true, Some(A), is(Some(A), false, false)),
        (several(), true, Some(CLUSTER), is(Some(CLUSTER), true, false)),
        (several(), false, None, is(None, false, false)),
        (several(), false, Some("unknown"), is(Some("unknown"), false, false)),
        (vec![cluster()], false, None, is(Some(CLUSTER), true, true)),
        (vec![HS256.issuer()], false, None, is(None, false, true)),
        (vec![HS256.issuer()], true, None, is(None, true, true)),
    ] {
        assert_eq!(source(issuers, is_service_account, asked), expected, "{is_service_account} {asked:?}");
    }
}

//! Key sets: the accepted keys, and the one that is tried on a token.
use super::*;

fn set(keys: &[Value]) -> Vec<u8> {
    json!({ "keys": keys }).to_string().into_bytes()
}

fn with(mut jwk: Value, members: Value) -> Value {
    jwk.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    jwk
}

fn check(keys: &[Value], algorithm: Algorithm, token: &str) -> Result<String, AuthError> {
    let settings = Settings { algorithm, ..Settings::default() };
    let keys = KeySet::from_jwks(&set(keys), &[algorithm]).unwrap().0;
    subject(verify(token, &[Issuer::new(&settings, keys)], now()))
}

fn only_fault(jwk: Value, algorithm: Algorithm) -> KeyFault {
    match KeySet::from_jwks(&set(&[jwk]), &[algorithm]) {
        Err(JwksError::NoneUsable(skipped)) if skipped.len() == 1 => skipped[0].fault,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_key_that_is_not_for_checking_signatures_of_the_algorithm_is_left_out() {
    for key in [&*RS256, &*ES256, &*EDDSA] {
        let algorithm = key.algorithm;
        let marked = |members: Value| only_fault(with(key.jwk(), members), algorithm);
        assert_eq!(marked(json!({"use": "enc"})), KeyFault::Use);
        assert_eq!(marked(json!({"key_ops": ["encrypt", "sign"]})), KeyFault::Use);
        assert_eq!(marked(json!({"alg": "RS512"})), KeyFault::Algorithm);
        assert_eq!(marked(json!({"alg": "HS256"})), KeyFault::Algorithm);
        assert_eq!(marked(json!({"kty": "dilithium"})), KeyFault::Algorithm);
        assert_eq!(marked(json!({"kty": 1})), KeyFault::Unfit);
        assert_eq!(marked(json!({"kid": 1})), KeyFault::Unfit);
    }
}

#[test]
fn a_shared_secret_in_a_set_is_never_used() {
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        assert_eq!(only_fault(HS256.jwk(), algorithm), KeyFault::Shared);
    }
    let keys = [HS256.jwk(), RS256.jwk()];
    let (_, skipped) = KeySet::from_jwks(&set(&keys), &[Algorithm::HS256, Algorithm::RS256]).unwrap();
    assert_eq!(skipped, [Skipped { number: 1, fault: KeyFault::Shared }]);
    assert_eq!(check(&keys, Algorithm::RS256, &HS256.plain_token(GOOD_CLAIMS)), Err(AuthError::Algorithm));
    assert_eq!(check(&keys, Algorithm::RS256, &RS256.plain_token(GOOD_CLAIMS)), Ok("alice".into()));
}

#[test]
fn broken_keys_are_left_out() {
    let zeros = base64url(&[0; 32]);
    assert_eq!(only_fault(with(ES256.jwk(), json!({"y": zeros})), Algorithm::ES256), KeyFault::Unfit);
    assert_eq!(only_fault(with(ES256.jwk(), json!({"y": "AA"})), Algorithm::ES256), KeyFault::Unfit);
    assert_eq!(only_fault(with(ES256.jwk(), json!({"y": null})), Algorithm::ES256), KeyFault::Unfit);
    assert_eq!(only_fault(with(ES256.jwk(), json!({"crv": "P-384"})), Algorithm::ES384), KeyFault::Unfit);
    assert_eq!(only_fault(with(ES256.jwk(), json!({"crv": "P-521"})), Algorithm::ES256), KeyFault::Algorithm);
    let point = |name: &str| URL_SAFE_NO_PAD.decode(ES256.jwk()[name].as_str().unwrap()).unwrap();
    let shifted = [&point("x")[31..], &point("y")].concat();
    let shifted = with(ES256.jwk(), json!({"x": base64url(&point("x")[..31]), "y": base64url(&shifted)}));
    assert_eq!(only_fault(shifted, Algorithm::ES256), KeyFault::Unfit);
    assert_eq!(only_fault(with(EDDSA.jwk(), json!({"x": "AA"})), Algorithm::EdDSA), KeyFault::Unfit);
    assert_eq!(only_fault(with(EDDSA.jwk(), json!({"crv": "Ed448"})), Algorithm::EdDSA), KeyFault::Algorithm);
    assert_eq!(only_fault(with(RS256.jwk(), json!({"n": "!"})), Algorithm::RS256), KeyFault::Unfit);
    assert_eq!(only_fault(with(RS256.jwk(), json!({"n": ""})), Algorithm::RS256), KeyFault::Unfit);
    let short = base64url(&[0xff; 128]);
    assert_eq!(only_fault(with(RS256.jwk(), json!({"n": short})), Algorithm::RS256), KeyFault::RsaSize(1024));
    // With the exponent 1 every signature is its own message.
    assert_eq!(only_fault(with(RS256.jwk(), json!({"e": "AQ"})), Algorithm::RS256), KeyFault::Unfit);
}

#[test]
fn a_leading_zero_of_an_rsa_key_does_no_harm() {
    let n = URL_SAFE_NO_PAD.decode(RS256.jwk()["n"].as_str().unwrap()).unwrap();
    let padded = with(RS256.jwk(), json!({"n": base64url(&[&[0], n.as_slice()].concat())}));
    assert_eq!(check(&[padded], Algorithm::RS256, &RS256.plain_token(GOOD_CLAIMS)), Ok("alice".into()));
}

#[test]
fn what_is_no_key_set_is_refused() {
    for text in ["", "{}", "[]", r#"{"keys":{}}"#, r#"{"keys":[}"#] {
        assert_eq!(KeySet::from_jwks(text.as_bytes(), &[Algorithm::RS256]).unwrap_err(), JwksError::NotASet, "{text}");
    }
    assert_eq!(KeySet::from_jwks(&set(&[]), &[Algorithm::RS256]).unwrap_err(), JwksError::NoneUsable(vec![]));
    let many = vec![ES256.jwk(); 101];
    assert_eq!(KeySet::from_jwks(&set(&many), &[Algorithm::ES256]).unwrap_err(), JwksError::TooMany);
}

#[test]
fn the_kid_chooses_the_key() {
    for key in [&*RS256, &*ES256, &*EDDSA] {
        let other = TestKey::generate(key.algorithm);
        let keys = [with(other.jwk(), json!({"kid": "other"})), with(key.jwk(), json!({"kid": "ours", "use": "sig"}))];
        let token = |header: &str| key.token(header, GOOD_CLAIMS);
        let outcome = |header: &str| check(&keys, key.algorithm, &token(header));
        assert_eq!(outcome(r#"{"alg":"ALG","kid":"ours"}"#), Ok("alice".into()));
        assert_eq!(outcome(r#"{"alg":"ALG"}"#), Ok("alice".into()));
        assert_eq!(outcome(r#"{"alg":"ALG","kid":"other"}"#), Err(AuthError::Signature));
        assert_eq!(outcome(r#"{"alg":"ALG","kid":"unknown"}"#), Err(AuthError::UnknownKey));
        assert_eq!(outcome(r#"{"alg":"ALG","kid":""}"#), Err(AuthError::UnknownKey));
    }
}

#[test]
fn no_more_than_four_keys_are_tried() {
    let others: Vec<TestKey> = (0..4).map(|_| TestKey::generate(Algorithm::ES256)).collect();
    let mut keys: Vec<Value> = others[..3].iter().map(TestKey::jwk).collect();
    keys.push(ES256.jwk());
    let token = ES256.plain_token(GOOD_CLAIMS);
    assert_eq!(check(&keys, Algorithm::ES256, &token), Ok("alice".into()));
    keys.insert(0, others[3].jwk());
    assert_eq!(check(&keys, Algorithm::ES256, &token), Err(AuthError::Signature));
    // A kid puts the right key first.
    keys[4] = with(ES256.jwk(), json!({"kid": "ours"}));
    let token = ES256.token(r#"{"alg":"ALG","kid":"ours"}"#, GOOD_CLAIMS);
    assert_eq!(check(&keys, Algorithm::ES256, &token), Ok("alice".into()));
}

#[test]
fn a_key_without_an_algorithm_serves_every_accepted_one_that_it_fits() {
    let key = TestKey::generate(Algorithm::RS256);
    let accepted = [Algorithm::RS256, Algorithm::PS512, Algorithm::ES256];
    let (keys, _) = KeySet::from_jwks(&set(&[key.jwk()]), &accepted).unwrap();
    let mut issuer = Issuer::new(&key.settings(), keys);
    issuer.algorithms = accepted.to_vec();
    let issuers = [issuer];
    assert_eq!(subject(verify(&key.plain_token(GOOD_CLAIMS), &issuers, now())), Ok("alice".into()));
    let key = key.with(Algorithm::PS512);
    assert_eq!(subject(verify(&key.plain_token(GOOD_CLAIMS), &issuers, now())), Ok("alice".into()));
    let key = key.with(Algorithm::PS256);
    assert_eq!(subject(verify(&key.plain_token(GOOD_CLAIMS), &issuers, now())), Err(AuthError::Algorithm));
    assert_eq!(subject(verify(&ES256.plain_token(GOOD_CLAIMS), &issuers, now())), Err(AuthError::UnknownKey));
}

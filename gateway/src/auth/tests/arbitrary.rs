//! Arbitrary input as a token: nothing panics, and only a signed token is accepted.
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use proptest::prelude::*;

use super::*;

fn issuers() -> Vec<Issuer> {
    families().into_iter().map(TestKey::issuer).collect()
}

/// Texts that get past the first checks more often than chance would allow.
fn token_like() -> impl Strategy<Value = String> {
    let json = prop_oneof![
        Just(r#"{"alg":"HS256"}"#.to_owned()),
        Just(r#"{"alg":"RS256","kid":"1"}"#.to_owned()),
        Just(GOOD_CLAIMS.to_owned()),
        r#"\{("[a-z]{1,4}":[0-9\[\]"{}.e-]{0,9},?){0,4}\}"#,
        any::<String>(),
    ];
    let part = prop_oneof![json.prop_map(|json| base64url(json.as_bytes())), "[A-Za-z0-9_=.-]{0,60}"];
    prop::collection::vec(part, 0..6).prop_map(|parts| parts.join("."))
}

proptest! {
    #[test]
    fn arbitrary_bytes_in_the_header_are_refused(bytes: Vec<u8>) {
        let authenticator = Authenticator::from_issuers(issuers()).unwrap();
        if let Ok(value) = HeaderValue::from_bytes(&[b"Bearer ", bytes.as_slice()].concat()) {
            let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
            prop_assert!(authenticator.authenticate_at(&headers, None, false, now()).is_err());
        }
    }

    #[test]
    fn arbitrary_queries_are_refused(query: String) {
        let authenticator = Authenticator::from_issuers(issuers()).unwrap();
        for query in [format!("token={query}"), query] {
            prop_assert!(authenticator.authenticate_at(&HeaderMap::new(), Some(&query), true, now()).is_err());
        }
    }

    #[test]
    fn arbitrary_text_is_no_token(text: String) {
        prop_assert!(verify(&text, &issuers(), now()).is_err());
    }

    #[test]
    fn what_looks_like_a_token_is_none_without_a_signature(text in token_like()) {
        prop_assert!(verify(&text, &issuers(), now()).is_err());
    }

    #[test]
    fn arbitrary_claims_never_panic_even_if_signed(claims in prop_oneof![
        any::<String>(),
        r#"\{"exp":[0-9.eE+-]{1,12}(,"(nbf|iat|iss|aud|sub)":[0-9\[\]"a-z.]{1,6}){0,3}\}"#,
    ]) {
        let _ = verify(&HS256.plain_token(&claims), &issuers(), now());
    }

    #[test]
    fn a_good_token_with_any_one_byte_changed_is_refused(family in 0..4usize, at: prop::sample::Index, with in 0..128u8) {
        let key = families()[family];
        let mut token = key.plain_token(GOOD_CLAIMS).into_bytes();
        let at = at.index(token.len());
        prop_assume!(token[at] != with);
        token[at] = with;
        let token = String::from_utf8(token).unwrap();
        prop_assert!(verify(&token, &issuers(), now()).is_err());
    }

    #[test]
    fn arbitrary_key_files_never_panic(bytes: Vec<u8>) {
        let _ = KeySet::from_jwks(&bytes, &[Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA]);
        let body = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode(&bytes));
        for algorithm in [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA] {
            let _ = KeySet::from_public_pem(&bytes, algorithm);
            prop_assert!(KeySet::from_public_pem(body.as_bytes(), algorithm).is_err());
        }
    }
}

//! Keys and algorithms: each pairing, known answers, and the confusions that forgers try.
use super::*;
use crate::auth::SubjectId;

const ALL: [Algorithm; 12] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

#[test]
fn a_token_is_accepted_by_an_issuer_of_its_algorithm_and_by_no_other() {
    let keys = ALL.map(TestKey::generate);
    for signer in &keys {
        let token = signer.plain_token(GOOD_CLAIMS);
        for checker in &keys {
            let expected =
                if signer.algorithm == checker.algorithm { Ok("alice".to_owned()) } else { Err(AuthError::Algorithm) };
            let outcome = subject(verify(&token, &[checker.issuer()], now()));
            assert_eq!(outcome, expected, "{:?} at {:?}", signer.algorithm, checker.algorithm);
        }
    }
}

#[test]
fn a_lie_about_the_algorithm_is_refused_for_every_pair() {
    for signer in families() {
        for claimed in ALL.into_iter().filter(|claimed| *claimed != signer.algorithm) {
            let token = signer.token(&format!(r#"{{"alg":"{claimed:?}"}}"#), GOOD_CLAIMS);
            let honest = subject(verify(&token, &[signer.issuer()], now()));
            assert_eq!(honest, Err(AuthError::Algorithm), "{:?} as {claimed:?}", signer.algorithm);
        }
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    for key in [&*RS256, &*ES256, &*EDDSA] {
        for public in [key.pem(), key.pem().trim().to_owned(), key.jwk().to_string()] {
            let forger = TestKey::hmac(public.as_bytes());
            let as_hs256 = forger.plain_token(GOOD_CLAIMS);
            assert_eq!(subject(verify(&as_hs256, &[key.issuer()], now())), Err(AuthError::Algorithm));
            let lying = forger.token(&format!(r#"{{"alg":"{:?}"}}"#, key.algorithm), GOOD_CLAIMS);
            assert_eq!(subject(verify(&lying, &[key.issuer()], now())), Err(AuthError::Signature));
        }
    }
}

#[test]
fn an_rsa_key_serves_only_the_padding_that_it_was_loaded_for() {
    let key = TestKey::generate(Algorithm::RS256);
    let issuer = [key.issuer()];
    let pss = key.with(Algorithm::PS256);
    assert_eq!(subject(verify(&pss.plain_token(GOOD_CLAIMS), &issuer, now())), Err(AuthError::Algorithm));
    let lying = pss.token(r#"{"alg":"RS256"}"#, GOOD_CLAIMS);
    assert_eq!(subject(verify(&lying, &issuer, now())), Err(AuthError::Signature));
}

/// RFC 7515, appendix A.1 and A.3: tokens that were made elsewhere.
#[test]
fn the_tokens_of_the_rfc_are_accepted() {
    let payload = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let hs256 =
        format!("eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{payload}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk");
    let secret = URL_SAFE_NO_PAD
        .decode("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
        .unwrap();
    let es256 = format!(
        "eyJhbGciOiJFUzI1NiJ9.{payload}.\
         DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    );
    let jwks = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    let ec = Settings { algorithm: Algorithm::ES256, ..Settings::default() };
    let issuers = [
        Issuer::new(&Settings::default(), KeySet::from_secret(&Secret::new(secret), Algorithm::HS256)),
        Issuer::new(&ec, KeySet::from_jwks(jwks.as_bytes(), &[Algorithm::ES256]).unwrap().0),
    ];
    let expires_at = UNIX_EPOCH + Duration::from_secs(1_300_819_380);
    let joe = Identity {
        subject: String::new(),
        issuer: Some("joe".into()),
        expires_at,
        claims: "{\"iss\":\"joe\",\r\n \"exp\":1300819380,\r\n \"http://example.com/is_root\":true}".into(),
        subject_id: SubjectId::new(Some("joe"), ""),
        access: AccessFacts::default(),
    };
    for token in [hs256, es256] {
        assert_eq!(verify(&token, &issuers, expires_at), Ok(joe.clone()));
        assert_eq!(verify(&token, &issuers, expires_at + DEFAULT_LEEWAY), Err(AuthError::Expired));
    }
}

#[test]
fn issuers_side_by_side_do_not_vouch_for_each_other() {
    let named = |key: &TestKey, name: &str, audience: &str| {
        let settings = Settings { issuer: Some(name.into()), audience: Some(audience.into()), ..key.settings() };
        Issuer::new(&settings, key.key_set())
    };
    let issuers = [named(&RS256, "a", "for-a"), named(&ES256, "b", "for-b"), HS256.issuer()];
    let claims = |iss: &str, aud: &str| format!(r#"{{"sub":"alice","exp":2000000600,"iss":"{iss}","aud":"{aud}"}}"#);
    for (key, iss, aud, expected) in [
        (&*RS256, "a", "for-a", Ok("alice".to_owned())),
        (&*ES256, "b", "for-b", Ok("alice".to_owned())),
        (&*HS256, "a", "for-a", Err(AuthError::Algorithm)),
        (&*HS256, "c", "for-c", Ok("alice".to_owned())),
        (&*RS256, "b", "for-b", Err(AuthError::Algorithm)),
        (&*ES256, "a", "for-a", Err(AuthError::Algorithm)),
        (&*RS256, "a", "for-b", Err(AuthError::Audience)),
        (&*EDDSA, "a", "for-a", Err(AuthError::Algorithm)),
    ] {
        let outcome = subject(verify(&key.plain_token(&claims(iss, aud)), &issuers, now()));
        assert_eq!(outcome, expected, "{:?} {iss} {aud}", key.algorithm);
    }
    let unknown = EDDSA.plain_token(&claims("c", "for-c"));
    assert_eq!(subject(verify(&unknown, &issuers[..2], now())), Err(AuthError::Issuer));
}

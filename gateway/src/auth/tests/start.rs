//! The settings with which the gateway starts, and the problems of all others.
use std::{fs, path::PathBuf};

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use tempfile::TempDir;

use super::*;

/// Files that vanish with the test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> Option<PathBuf> {
        let path = self.0.path().join(name);
        fs::write(&path, content).unwrap();
        Some(path)
    }
}

fn with_secret(secret: &str) -> Settings {
    Settings { secret: Some(Secret::new(secret)), ..Settings::default() }
}

fn problems(settings: &Settings) -> Vec<Problem> {
    Authenticator::new(settings).map(|_| ()).expect_err("these settings must be refused")
}

fn accepts(settings: &Settings, key: &TestKey) -> Result<(), AuthError> {
    let value = HeaderValue::try_from(format!("Bearer {}", key.plain_token(GOOD_CLAIMS))).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    Authenticator::new(settings).unwrap().authenticate_at(&headers, None, false, now()).map(|_| ())
}

#[test]
fn the_default_settings_are_refused_for_want_of_a_key() {
    assert_eq!(problems(&Settings::default()), [Problem::NoKeySource]);
    let rsa = Settings { algorithm: Algorithm::RS256, ..Settings::default() };
    assert_eq!(problems(&rsa), [Problem::NoKeySource]);
}

#[test]
fn every_kind_of_key_source_works() {
    let files = Files::new();
    assert_eq!(accepts(&with_secret(SECRET), &HS256), Ok(()));
    for ending in ["", "\n", "\r\n"] {
        let secret_file = files.file("secret", format!("{SECRET}{ending}"));
        assert_eq!(accepts(&Settings { secret_file, ..Settings::default() }, &HS256), Ok(()), "{ending:?}");
    }
    for key in [&*RS256, &*ES256, &*EDDSA] {
        let public_key_file = files.file("key.pem", key.pem());
        assert_eq!(accepts(&Settings { public_key_file, ..key.settings() }, key), Ok(()));
        let jwks_file = files.file("jwks.json", json!({"keys": [HS256.jwk(), key.jwk()]}).to_string());
        assert_eq!(accepts(&Settings { jwks_file, ..key.settings() }, key), Ok(()));
    }
    let pkcs1 = concat!(env!("CARGO_MANIFEST_DIR"), "/src/auth/testdata/rsa-2048-pkcs1-public.pem");
    let settings = Settings { public_key_file: Some(pkcs1.into()), ..RS256.settings() };
    assert_eq!(accepts(&settings, &RS256), Err(AuthError::Signature));
}

#[test]
fn spaces_around_a_secret_belong_to_it() {
    let files = Files::new();
    let settings = Settings { secret_file: files.file("secret", format!(" {SECRET} \n")), ..Settings::default() };
    assert_eq!(accepts(&settings, &HS256), Err(AuthError::Signature));
    assert_eq!(accepts(&settings, &TestKey::hmac(format!(" {SECRET} ").as_bytes())), Ok(()));
}

#[test]
fn short_empty_and_well_known_secrets_are_refused() {
    for (secret, expected) in [
        ("", Problem::Empty("JWT_SECRET")),
        (&SECRET[1..], Problem::ShortSecret("JWT_SECRET")),
        ("changeme", Problem::WellKnownSecret("JWT_SECRET")),
        ("default-secret-key", Problem::WellKnownSecret("JWT_SECRET")),
        ("your-secret-key-here-your-secret-key-here", Problem::WellKnownSecret("JWT_SECRET")),
        ("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", Problem::WellKnownSecret("JWT_SECRET")),
    ] {
        for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
            let settings = Settings { algorithm, ..with_secret(secret) };
            assert_eq!(problems(&settings), std::slice::from_ref(&expected), "{secret}");
        }
        let files = Files::new();
        let settings = Settings { secret_file: files.file("secret", format!("{secret}\n")), ..Settings::default() };
        assert_eq!(problems(&settings).len(), 1);
        assert!(problems(&settings)[0].to_string().starts_with("JWT_SECRET_FILE is "));
    }
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let files = Files::new();
    let missing = files.0.path().join("missing");
    let unreadable =
        |setting| vec![Problem::Unreadable { setting, path: missing.clone(), reason: std::io::ErrorKind::NotFound }];
    let path = || Some(missing.clone());
    let settings = Settings { secret_file: path(), ..Settings::default() };
    assert_eq!(problems(&settings), unreadable("JWT_SECRET_FILE"));
    let settings = Settings { public_key_file: path(), ..RS256.settings() };
    assert_eq!(problems(&settings), unreadable("JWT_PUBLIC_KEY_FILE"));
    let settings = Settings { jwks_file: path(), ..RS256.settings() };
    assert_eq!(problems(&settings), unreadable("JWT_JWKS_FILE"));
    let settings = Settings { secret_file: Some(files.0.path().to_owned()), ..Settings::default() };
    assert!(matches!(problems(&settings)[..], [Problem::Unreadable { setting: "JWT_SECRET_FILE", .. }]));
    let settings = Settings { public_key_file: files.file("empty", ""), ..RS256.settings() };
    assert_eq!(problems(&settings), [Problem::Empty("JWT_PUBLIC_KEY_FILE")]);
    let settings = Settings { secret_file: files.file("newline", "\n"), ..Settings::default() };
    assert_eq!(problems(&settings), [Problem::Empty("JWT_SECRET_FILE")]);
    let settings = Settings { secret_file: files.file("huge", vec![b'x'; 65_537]), ..Settings::default() };
    assert_eq!(problems(&settings), [Problem::TooLarge { setting: "JWT_SECRET_FILE", limit: 65_536 }]);
}

#[test]
fn unfit_public_keys_are_refused() {
    let files = Files::new();
    let fault = |pem: String, algorithm| {
        let settings = Settings { public_key_file: files.file("key.pem", pem), algorithm, ..Settings::default() };
        match problems(&settings)[..] {
            [Problem::Key { setting: "JWT_PUBLIC_KEY_FILE", fault }] => fault,
            ref other => panic!("{other:?}"),
        }
    };
    let small = include_str!("../testdata/rsa-1024-public.pem").to_owned();
    assert_eq!(fault(small, Algorithm::RS256), KeyFault::RsaSize(1024));
    assert_eq!(fault(ES256.pem(), Algorithm::RS256), KeyFault::Unfit);
    assert_eq!(fault(RS256.pem(), Algorithm::ES256), KeyFault::Unfit);
    assert_eq!(fault(ES256.pem(), Algorithm::ES384), KeyFault::Unfit);
    assert_eq!(fault(ES256.pem(), Algorithm::EdDSA), KeyFault::Unfit);
    assert_eq!(fault(EDDSA.pem(), Algorithm::ES256), KeyFault::Unfit);
    let private = ES256.pem().replace("PUBLIC", "PRIVATE");
    assert_eq!(fault(private, Algorithm::ES256), KeyFault::Private);
    let certificate = ES256.pem().replace("PUBLIC KEY", "CERTIFICATE");
    let bare = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----", STANDARD.encode([0; 32]));
    assert_eq!(fault(bare, Algorithm::EdDSA), KeyFault::NotPem);
    for no_pem in ["no PEM".into(), certificate, ES256.pem().repeat(2), ES256.pem().replace('M', "?")] {
        assert_eq!(fault(no_pem, Algorithm::ES256), KeyFault::NotPem);
    }
}

#[test]
fn a_key_set_without_a_fit_key_is_refused_with_reasons() {
    let files = Files::new();
    let text = |keys: Value| {
        let jwks_file = files.file("jwks.json", keys.to_string());
        let problems = problems(&Settings { jwks_file, ..RS256.settings() });
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    assert_eq!(
        text(json!({"keys": [HS256.jwk(), ES256.jwk()]})),
        "JWT_JWKS_FILE has no usable key: key 1 is a shared secret (kty oct), with which anyone who can read the set \
         could sign tokens; key 2 is meant for another algorithm (alg)"
    );
    assert_eq!(text(json!({"keys": []})), "JWT_JWKS_FILE has no usable key");
    assert_eq!(text(json!(1)), "JWT_JWKS_FILE is not a JSON Web Key Set: an object with a list named 'keys'");
}

#[test]
fn key_sources_of_the_wrong_kind_are_refused() {
    let files = Files::new();
    let pem = || files.file("key.pem", RS256.pem());
    let wrong = |setting, algorithm, fitting| Problem::WrongKind { setting, algorithm, fitting };
    let (hs, public) = ("HS256, HS384, HS512", "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA");
    let settings = Settings { public_key_file: pem(), ..Settings::default() };
    assert_eq!(problems(&settings), [wrong("JWT_PUBLIC_KEY_FILE", Algorithm::HS256, public)]);
    let settings = Settings { jwks_file: pem(), ..with_secret(SECRET) };
    assert_eq!(problems(&settings), [wrong("JWT_JWKS_FILE", Algorithm::HS256, public)]);
    let settings = Settings { algorithm: Algorithm::RS256, ..with_secret(SECRET) };
    assert_eq!(problems(&settings), [wrong("JWT_SECRET", Algorithm::RS256, hs)]);
    let settings = Settings { secret_file: pem(), public_key_file: pem(), ..RS256.settings() };
    assert_eq!(problems(&settings), [wrong("JWT_SECRET_FILE", Algorithm::RS256, hs)]);
}

#[test]
fn all_problems_are_told_at_once() {
    let files = Files::new();
    let settings = Settings {
        secret: Some(Secret::new("short-and-never-shown")),
        secret_file: files.file("empty", ""),
        public_key_file: files.file("key.pem", RS256.pem()),
        issuer: Some(" ".into()),
        audience: Some(String::new()),
        leeway: Duration::from_secs(61),
        max_lifetime: Some(Duration::ZERO),
        ..Settings::default()
    };
    let problems = problems(&settings);
    assert_eq!(problems.len(), 8, "{problems:?}");
    let shown = format!("{problems:?} {settings:?} {}", problems.iter().map(ToString::to_string).collect::<String>());
    assert!(!shown.contains("never-shown"), "{shown}");
    for problem in &problems {
        let text = problem.to_string();
        assert!(text.contains("JWT_") && !text.ends_with('.') && !text.contains('\n'), "{text}");
    }
    for setting in [
        "JWT_SECRET ",
        "JWT_SECRET_FILE",
        "JWT_PUBLIC_KEY_FILE",
        "JWT_ISSUER",
        "JWT_AUDIENCE",
        "JWT_LEEWAY",
        "JWT_MAX_LIFETIME",
    ] {
        assert!(shown.contains(setting), "{setting}");
    }
}

#[test]
fn the_bounds_of_the_leeway_are_good_settings() {
    for seconds in [0, 60] {
        let settings = Settings { leeway: Duration::from_secs(seconds), ..with_secret(SECRET) };
        assert_eq!(accepts(&settings, &HS256), Ok(()));
    }
}

#[test]
fn algorithms_are_known_by_their_exact_names() {
    for name in
        ["HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
    {
        assert_eq!(format!("{:?}", parse_algorithm(name).unwrap()), name);
        assert!(UnknownAlgorithm.to_string().contains(name));
    }
    for name in ["", "none", "hs256", "HS256 ", "ES512", "ES256K", "Ed25519"] {
        assert_eq!(parse_algorithm(name), Err(UnknownAlgorithm), "{name:?}");
    }
}

#[test]
fn the_names_in_debug_output_hide_keys_and_claims() {
    let authenticator = Authenticator::new(&with_secret(SECRET)).unwrap();
    assert!(!format!("{authenticator:?}").contains(SECRET));
    assert_eq!(format!("{:?}", Secret::new(SECRET)), "Secret(hidden)");
    let identity = verify(&HS256.plain_token(GOOD_CLAIMS), &[HS256.issuer()], now()).unwrap();
    assert!(!format!("{identity:?}").contains("iat"));
}

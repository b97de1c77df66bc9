//! Required scopes: which tokens need them, and in which claims.
use super::{
    verify::{Name, Trust},
    *,
};

fn settings() -> Settings {
    Settings {
        secret: Some(Secret::new(SECRET)),
        required_scopes: vec!["tools".into(), "mcp:use".into()],
        ..Settings::default()
    }
}

fn outcome(more: &str) -> Result<(), AuthError> {
    let token = HS256.plain_token(&format!(r#"{{"sub":"alice","exp":2000000600{more}}}"#));
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    let headers = http::HeaderMap::from_iter([(http::header::AUTHORIZATION, value)]);
    Authenticator::new(&settings()).unwrap().authenticate_at(&headers, None, false, now()).map(|_| ())
}

#[test]
fn a_token_has_all_scopes_in_scope_or_scp_as_text_or_list() {
    for more in [
        r#","scope":"tools mcp:use""#,
        r#","scope":"openid mcp:use tools email""#,
        r#","scp":"mcp:use tools""#,
        r#","scp":["tools","mcp:use"]"#,
        r#","scope":["tools","mcp:use"]"#,
        r#","scope":"tools","scp":["mcp:use"]"#,
    ] {
        assert_eq!(outcome(more), Ok(()), "{more}");
    }
    for more in [
        "",
        r#","scope":"""#,
        r#","scope":"tools""#,
        r#","scope":"tools mcp:user""#,
        r#","scope":"TOOLS mcp:use""#,
        r#","scope":"tools,mcp:use""#,
        r#","scp":["tools mcp:use"]"#,
        r#","scp":[1,null]"#,
        r#","scope":{"tools":true,"mcp:use":true}"#,
        r#","scopes":"tools mcp:use""#,
    ] {
        assert_eq!(outcome(more), Err(AuthError::Scope), "{more}");
    }
}

#[test]
fn a_token_that_is_refused_for_more_than_its_scopes_is_refused_for_the_rest() {
    let expired = HS256.plain_token(r#"{"sub":"alice","exp":1000000000}"#);
    let issuers = [Issuer::new(&settings(), KeySet::from_secret(&Secret::new(SECRET), Algorithm::HS256))];
    assert_eq!(verify(&expired, &issuers, now()), Err(AuthError::Expired));
}

#[test]
fn tokens_of_the_cluster_need_no_scopes() {
    let kubernetes = Some(Kubernetes { audience: "portcullis".into(), kept: None, review: false });
    let loaded = load::issuers(&Settings { kubernetes, ..settings() }, None).unwrap();
    let issuers: Vec<Issuer> = loaded.into_iter().map(|loaded| loaded.issuer).collect();
    let scopes: Vec<(&str, &[String])> = issuers.iter().map(|it| (it.label.as_str(), it.scopes.as_slice())).collect();
    assert_eq!(scopes, [("own", settings().required_scopes.as_slice()), ("cluster", &[])]);

    let jwks = json!({"keys": [RS256.jwk()]}).to_string();
    let keys = KeySet::from_jwks(jwks.as_bytes(), &[Algorithm::RS256]).unwrap().0;
    issuers[1].replace(Trust { name: Name::Is("https://kubernetes".into()), keys });
    let claims =
        r#"{"sub":"system:serviceaccount:a:b","exp":2000000600,"iss":"https://kubernetes","aud":["portcullis"]}"#;
    let identity = verify(&RS256.plain_token(claims), &issuers, now());
    assert_eq!(identity.map(|identity| identity.subject).as_deref(), Ok("system:serviceaccount:a:b"));
}

#[test]
fn only_issuers_with_an_https_address_are_told_to_clients() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("issuers.yaml");
    let yaml = "[{issuer: 'https://login.example.com/', audience: a}, {issuer: build, audience: a, jwksFile: KEYS}]";
    let keys = folder.path().join("keys.json");
    std::fs::write(&keys, json!({"keys": [RS256.jwk()]}).to_string()).unwrap();
    std::fs::write(&file, yaml.replace("KEYS", keys.to_str().unwrap())).unwrap();
    let own = Settings { issuer: Some("https://own.example".into()), issuers_file: Some(file), ..settings() };
    let auth = Authenticator::new(&own).unwrap();
    assert_eq!(auth.https_issuers(), ["https://own.example", "https://login.example.com/"]);
    assert_eq!(Authenticator::new(&settings()).unwrap().https_issuers(), Vec::<String>::new());
}

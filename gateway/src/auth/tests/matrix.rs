//! Every defect of a token, for every family of algorithms.
use super::{forgeries::*, *};

const OPEN: Policy = |_| {};
const STRICT: Policy = |settings| {
    settings.issuer = Some("https://issuer.example".into());
    settings.audience = Some("portcullis".into());
};
const NO_LEEWAY: Policy = |settings| settings.leeway = Duration::ZERO;
const ONE_HOUR: Policy = |settings| settings.max_lifetime = Some(Duration::from_secs(3600));

const HEADER: &str = r#"{"alg":"ALG","typ":"JWT"}"#;
const STRICT_CLAIMS: &str = r#"{"sub":"alice","exp":2000000600,"iss":"https://issuer.example","aud":"portcullis"}"#;

type Policy = fn(&mut Settings);
type Row<Text = String> = (&'static str, Policy, Text, Result<&'static str, AuthError>);

/// Rows by claims: name, policy, claims, expected subject or refusal.
fn claim_rows() -> Vec<Row> {
    let groups = [expiry_rows, start_rows, lifetime_rows, issuer_rows, audience_rows, subject_rows, shape_rows];
    let rows = groups.into_iter().flat_map(|rows| rows());
    rows.map(|(name, policy, claims, expected)| (name, policy, claims.to_owned(), expected)).collect()
}

/// When a token ends.
fn expiry_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        ("no exp", OPEN, r#"{"sub":"alice"}"#, Err(NoExp)),
        ("exp null", OPEN, r#"{"sub":"alice","exp":null}"#, Err(NoExp)),
        ("exp text", OPEN, r#"{"sub":"alice","exp":"2000000600"}"#, Err(NoExp)),
        ("exp true", OPEN, r#"{"sub":"alice","exp":true}"#, Err(NoExp)),
        ("exp list", OPEN, r#"{"sub":"alice","exp":[2000000600]}"#, Err(Malformed)),
        ("exp negative", OPEN, r#"{"sub":"alice","exp":-1}"#, Err(NoExp)),
        ("exp 1e300", OPEN, r#"{"sub":"alice","exp":1e300}"#, Err(NoExp)),
        ("exp 1e999 (no number)", OPEN, r#"{"sub":"alice","exp":1e999}"#, Err(Malformed)),
        ("exp NaN (no JSON)", OPEN, r#"{"sub":"alice","exp":NaN}"#, Err(Malformed)),
        ("exp u64::MAX", OPEN, r#"{"sub":"alice","exp":18446744073709551615}"#, Err(NoExp)),
        ("exp in milliseconds", OPEN, r#"{"sub":"alice","exp":2000000600000}"#, Err(NoExp)),
        ("exp at the end of 9999", OPEN, r#"{"sub":"alice","exp":253402300799}"#, Ok("alice")),
        ("exp at the start of 10000", OPEN, r#"{"sub":"alice","exp":253402300800}"#, Err(NoExp)),
        ("exp with a fraction", OPEN, r#"{"sub":"alice","exp":2000000100.5}"#, Ok("alice")),
        ("exp with an exponent", OPEN, r#"{"sub":"alice","exp":2.0000006e9}"#, Ok("alice")),
        ("exp zero", OPEN, r#"{"sub":"alice","exp":0}"#, Err(Expired)),
        ("exp 59 s ago", OPEN, r#"{"sub":"alice","exp":1999999941}"#, Err(Expired)),
        ("exp 10 s ago, the leeway", OPEN, r#"{"sub":"alice","exp":1999999990}"#, Err(Expired)),
        ("exp 9 s ago, within the leeway", OPEN, r#"{"sub":"alice","exp":1999999991}"#, Ok("alice")),
        ("exp now, no leeway", NO_LEEWAY, r#"{"sub":"alice","exp":2000000000}"#, Err(Expired)),
        ("exp in 1 s, no leeway", NO_LEEWAY, r#"{"sub":"alice","exp":2000000001}"#, Ok("alice")),
        ("exp doubled", OPEN, r#"{"sub":"alice","exp":1,"exp":2000000600}"#, Err(Malformed)),
    ]
}

/// When a token begins.
fn start_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        ("nbf one day ahead", OPEN, r#"{"sub":"alice","exp":2000172800,"nbf":2000086400}"#, Err(NotYetValid)),
        ("nbf 10 s ahead, the leeway", OPEN, r#"{"sub":"alice","exp":2000000600,"nbf":2000000010}"#, Ok("alice")),
        ("nbf 11 s ahead", OPEN, r#"{"sub":"alice","exp":2000000600,"nbf":2000000011}"#, Err(NotYetValid)),
        ("nbf in the past", OPEN, r#"{"sub":"alice","exp":2000000600,"nbf":1}"#, Ok("alice")),
        ("nbf null", OPEN, r#"{"sub":"alice","exp":2000000600,"nbf":null}"#, Ok("alice")),
        ("nbf text", OPEN, r#"{"sub":"alice","exp":2000000600,"nbf":"1"}"#, Err(Malformed)),
        ("nbf u64::MAX", OPEN, r#"{"sub":"alice","exp":2000000600,"nbf":18446744073709551615}"#, Err(NotYetValid)),
        ("iat one day ahead", OPEN, r#"{"sub":"alice","exp":2000172800,"iat":2000086400}"#, Err(NotYetValid)),
        ("iat 1 s ahead, no leeway", NO_LEEWAY, r#"{"exp":2000000600,"iat":2000000001}"#, Err(NotYetValid)),
        ("iat 10 s ahead, the leeway", OPEN, r#"{"sub":"alice","exp":2000000600,"iat":2000000010}"#, Ok("alice")),
        ("iat text", OPEN, r#"{"sub":"alice","exp":2000000600,"iat":"now"}"#, Err(Malformed)),
    ]
}

/// How long a token is valid.
fn lifetime_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        ("one hour, bound one hour", ONE_HOUR, r#"{"sub":"alice","exp":2000003600}"#, Ok("alice")),
        ("one hour and leeway, bound one hour", ONE_HOUR, r#"{"sub":"alice","exp":2000003610}"#, Ok("alice")),
        ("longer than the bound", ONE_HOUR, r#"{"sub":"alice","exp":2000003611}"#, Err(Lifetime)),
        ("a long token near its end", ONE_HOUR, r#"{"exp":2000000600,"iat":1999990000}"#, Err(Lifetime)),
    ]
}

/// Who issues a token.
fn issuer_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        ("iss and aud as configured", STRICT, STRICT_CLAIMS, Ok("alice")),
        ("neither iss nor aud", STRICT, GOOD_CLAIMS, Err(Issuer)),
        ("no iss", STRICT, r#"{"exp":2000000600,"aud":"portcullis"}"#, Err(Issuer)),
        ("iss null", STRICT, r#"{"exp":2000000600,"iss":null,"aud":"portcullis"}"#, Err(Issuer)),
        ("another iss", STRICT, r#"{"exp":2000000600,"iss":"https://evil.example","aud":"portcullis"}"#, Err(Issuer)),
        (
            "iss with a slash",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example/","aud":"portcullis"}"#,
            Err(Issuer),
        ),
        (
            "iss in a list",
            STRICT,
            r#"{"exp":2000000600,"iss":["https://issuer.example"],"aud":"portcullis"}"#,
            Err(Issuer),
        ),
        ("iss in a list, none configured", OPEN, r#"{"sub":"alice","exp":2000000600,"iss":["a"]}"#, Err(Issuer)),
        (
            "iss doubled",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","iss":"x","aud":"portcullis"}"#,
            Err(Malformed),
        ),
    ]
}

/// For whom a token is.
fn audience_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        ("no aud", STRICT, r#"{"exp":2000000600,"iss":"https://issuer.example"}"#, Err(Audience)),
        ("aud null", STRICT, r#"{"exp":2000000600,"iss":"https://issuer.example","aud":null}"#, Err(Audience)),
        ("aud 123", STRICT, r#"{"exp":2000000600,"iss":"https://issuer.example","aud":123}"#, Err(Audience)),
        (
            "aud object",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","aud":{"portcullis":1}}"#,
            Err(Audience),
        ),
        ("aud empty list", STRICT, r#"{"exp":2000000600,"iss":"https://issuer.example","aud":[]}"#, Err(Audience)),
        (
            "another aud",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","aud":"kubernetes"}"#,
            Err(Audience),
        ),
        (
            "aud in other case",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","aud":"Portcullis"}"#,
            Err(Audience),
        ),
        (
            "aud list of others",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","aud":["a","b"]}"#,
            Err(Audience),
        ),
        (
            "aud list with ours",
            STRICT,
            r#"{"sub":"alice","exp":2000000600,"iss":"https://issuer.example","aud":["a","portcullis"]}"#,
            Ok("alice"),
        ),
        (
            "aud list with ours and a number",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","aud":["portcullis",1]}"#,
            Err(Audience),
        ),
        (
            "aud doubled",
            STRICT,
            r#"{"exp":2000000600,"iss":"https://issuer.example","aud":"a","aud":"portcullis"}"#,
            Err(Malformed),
        ),
        ("aud present, none configured", OPEN, r#"{"sub":"alice","exp":2000000600,"aud":"others"}"#, Ok("alice")),
    ]
}

/// Whom a token names.
fn subject_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        ("a good token", OPEN, GOOD_CLAIMS, Ok("alice")),
        ("user_id instead of sub", OPEN, r#"{"user_id":"bob","exp":2000000600,"iss":"mcp-proxy"}"#, Ok("bob")),
        ("user_id number", OPEN, r#"{"user_id":42,"exp":2000000600}"#, Ok("42")),
        ("sub before user_id", OPEN, r#"{"sub":"alice","user_id":"bob","exp":2000000600}"#, Ok("alice")),
        ("neither sub nor user_id", OPEN, r#"{"exp":2000000600}"#, Ok("")),
        ("sub number", OPEN, r#"{"sub":1,"exp":2000000600}"#, Err(Malformed)),
        ("user_id object", OPEN, r#"{"user_id":{},"exp":2000000600}"#, Err(Malformed)),
    ]
}

/// What is wrong with the JSON of claims.
fn shape_rows() -> Vec<Row<&'static str>> {
    use AuthError::*;
    vec![
        (
            "an unknown claim doubled",
            OPEN,
            r#"{"sub":"alice","exp":2000000600,"groups":[],"groups":["admin"]}"#,
            Err(Malformed),
        ),
        ("an escaped name doubled", OPEN, r#"{"sub":"alice","s\u0075b":"root","exp":2000000600}"#, Err(Malformed)),
        ("claims list", OPEN, r#"[{"exp":2000000600}]"#, Err(Malformed)),
        ("claims text", OPEN, r#""alice""#, Err(Malformed)),
        ("claims empty", OPEN, "", Err(Malformed)),
        ("claims with something behind", OPEN, r#"{"exp":2000000600}{"exp":1}"#, Err(Malformed)),
        ("claims with a byte order mark", OPEN, "\u{feff}{\"exp\":2000000600}", Err(Malformed)),
    ]
}

/// All rows for one key: name, policy, token, expected.
fn rows(key: &TestKey) -> Vec<Row> {
    let good = key.plain_token(GOOD_CLAIMS);
    let claims = claim_rows();
    let claims =
        claims.into_iter().map(|(name, policy, text, expected)| (name, policy, key.token(HEADER, &text), expected));
    let headers =
        header_rows().into_iter().map(|(name, text, expected)| (name, OPEN, key.token(&text, GOOD_CLAIMS), expected));
    let edits = edit_rows().into_iter().map(|(name, edit, expected)| (name, OPEN, edit(key, &good), Err(expected)));
    let nested = |levels| format!(r#"{{"exp":2000000600,"x":{}}}"#, deep(levels));
    let deep = [
        ("claims 100 deep", OPEN, key.plain_token(&nested(100)), Ok("")),
        ("claims 1,000 deep", OPEN, key.plain_token(&nested(1000)), Err(AuthError::Malformed)),
        ("claims 5,000 deep", OPEN, key.plain_token(&nested(5000)), Err(AuthError::TooLarge)),
    ];
    claims.chain(headers).chain(edits).chain(deep).collect()
}

#[test]
fn every_row_of_the_matrix_has_its_outcome_with_every_family() {
    let mut wrong = Vec::new();
    for key in families() {
        for (name, policy, token, expected) in rows(key) {
            let mut settings = key.settings();
            policy(&mut settings);
            let issuers = [Issuer::new(&settings, key.key_set())];
            let outcome = subject(verify(&token, &issuers, now()));
            if outcome != expected.map(str::to_owned) {
                wrong.push(format!("{:?}, {name}: {outcome:?} instead of {expected:?}", key.algorithm));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn the_matrix_has_no_name_twice_and_meets_every_refusal_of_a_token() {
    let rows = rows(&HS256);
    let names: std::collections::HashSet<_> = rows.iter().map(|row| row.0).collect();
    assert_eq!(names.len(), rows.len());
    assert!(rows.len() >= 60, "{}", rows.len());
    let met: Vec<AuthError> = rows.iter().filter_map(|row| row.3.err()).collect();
    use AuthError::*;
    let elsewhere = [Missing, Scheme, BothPlaces, Several, UnknownKey, NoKeys, Scope, Revoked, NoReview];
    for refusal in AuthError::ALL {
        assert_eq!(met.contains(&refusal), !elsewhere.contains(&refusal), "{refusal:?}");
    }
}

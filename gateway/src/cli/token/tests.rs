//! The written claims, the prompts, and the refusals.
use clap::Parser;
use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};
use serde_json::json;

use super::*;
use crate::auth::{Authenticator, Identity, Secret};

const NOW: u64 = 2_000_000_000;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: TokenArgs,
}

fn args(flags: &[&str]) -> TokenArgs {
    parse(flags).unwrap()
}

fn parse(flags: &[&str]) -> Result<TokenArgs, clap::Error> {
    Line::try_parse_from([&["token"], flags].concat()).map(|line| line.args)
}

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn settings() -> Settings {
    Settings { secret: Some(Secret::new("k3Jw9TqXv5ZbN8sRyD2fHc7LmP4gUa6E")), ..Settings::default() }
}

fn accepted(token: &str, settings: &Settings) -> Identity {
    let value = HeaderValue::try_from(format!("Bearer {token}")).unwrap();
    let headers = HeaderMap::from_iter([(AUTHORIZATION, value)]);
    let authenticator = Authenticator::new(settings).unwrap();
    Identity::clone(&authenticator.authenticate_at(&headers, None, false, now()).unwrap())
}

fn claims_of(flags: &[&str], settings: &Settings) -> Value {
    let token = mint(&args(flags), settings, now()).unwrap();
    serde_json::from_str(&accepted(&token, settings).claims).unwrap()
}

fn refusal(flags: &[&str], settings: &Settings) -> String {
    mint(&args(flags), settings, now()).unwrap_err().to_string()
}

#[test]
fn a_token_for_a_subject_is_valid_for_a_day() {
    let expected = json!({"sub": "alice", "iat": NOW, "exp": NOW + 86_400});
    assert_eq!(claims_of(&["--subject", "alice"], &settings()), expected);
}

#[test]
fn every_hs_algorithm_makes_tokens_that_the_gateway_accepts() {
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let settings = Settings { algorithm, ..settings() };
        assert_eq!(claims_of(&["--subject", "alice"], &settings)["sub"], "alice");
    }
}

#[test]
fn configured_issuer_and_audience_are_written_unless_others_are_given() {
    let settings = Settings { issuer: Some("us".into()), audience: Some("portcullis".into()), ..settings() };
    let claims = claims_of(&["--subject", "alice"], &settings);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("us"), &json!("portcullis")));
    let flags = args(&["--subject", "alice", "--issuer", "them", "--audience", "there"]);
    let claims = claims_of_args(&flags, &settings);
    assert_eq!((&claims["iss"], &claims["aud"]), (&json!("them"), &json!("there")));
}

fn claims_of_args(flags: &TokenArgs, settings: &Settings) -> Value {
    Value::Object(claims(flags, settings, now()).unwrap())
}

#[test]
fn other_claims_are_json_where_they_can_be() {
    let flags = [
        "--subject",
        "alice",
        "--ttl",
        "90s",
        "--claim",
        "groups=[\"a\",\"b\"]",
        "--claim",
        "level=3",
        "--claim",
        "admin=true",
        "--claim",
        "name=Alice B=C",
        "--claim",
        "empty=",
        "--claim",
        "quoted=\"3\"",
    ];
    let expected = json!({
        "sub": "alice", "iat": NOW, "exp": NOW + 90, "groups": ["a", "b"], "level": 3, "admin": true,
        "name": "Alice B=C", "empty": "", "quoted": "3",
    });
    assert_eq!(claims_of(&flags, &settings()), expected);
}

#[test]
fn reserved_doubled_and_nameless_claims_are_refused() {
    for name in RESERVED {
        let refusal = refusal(&["--subject", "alice", "--claim", &format!("{name}=1")], &settings());
        assert!(refusal.contains(&format!("'{name}'")), "{refusal}");
    }
    let doubled = ["--subject", "alice", "--claim", "a=1", "--claim", "a=2"];
    assert_eq!(refusal(&doubled, &settings()), "the claim 'a' is given more than once");
    for claim in ["a", "=1", ""] {
        let refusal = parse(&["--subject", "alice", "--claim", claim]).unwrap_err().to_string();
        assert!(refusal.contains("a claim must have the form NAME=VALUE"), "{refusal}");
    }
}

#[test]
fn times_are_read_with_their_unit_and_up_to_a_year() {
    for (text, seconds) in [("90s", 90), ("30m", 1800), ("24h", 86_400), ("7d", 604_800), ("365d", 31_536_000)] {
        assert_eq!(parse_ttl(text).unwrap(), Duration::from_secs(seconds), "{text}");
    }
    for text in [
        "",
        "s",
        "24",
        "0s",
        "-1h",
        "+1h",
        "1.5h",
        "1w",
        "1H",
        " 1h",
        "1h30m",
        "366d",
        "8761h",
        "é",
        "99999999999999999999d",
        "18446744073709551615d",
    ] {
        assert!(matches!(parse_ttl(text), Err(TokenError::Ttl)), "{text:?}");
    }
    let beyond = TokenArgs { ttl: Some(MAX_TTL + Duration::from_secs(1)), ..args(&["--subject", "alice"]) };
    assert!(matches!(mint(&beyond, &settings(), now()), Err(TokenError::Ttl)));
}

#[test]
fn a_token_that_the_gateway_would_refuse_is_not_made() {
    let bounded = Settings { max_lifetime: Some(Duration::from_secs(3600)), ..settings() };
    assert!(refusal(&["--subject", "alice"], &bounded).contains("at most 3600 seconds"));
    assert_eq!(claims_of(&["--subject", "alice", "--ttl", "1h"], &bounded)["sub"], "alice");
    let long = format!("x={}", "y".repeat(8192));
    assert!(matches!(
        mint(&args(&["--subject", "alice", "--claim", &long]), &settings(), now()),
        Err(TokenError::TooLarge)
    ));
    assert!(matches!(mint(&args(&["--subject", " "]), &settings(), now()), Err(TokenError::EmptySubject)));
}

#[test]
fn only_a_good_shared_secret_makes_tokens() {
    let rsa = Settings { algorithm: Algorithm::RS256, ..Settings::default() };
    assert!(refusal(&["--subject", "alice"], &rsa).starts_with("JWT_ALGORITHM is RS256"));
    let without = refusal(&["--subject", "alice"], &Settings::default());
    assert!(without.contains("JWT_SECRET"), "{without}");
    let known = Settings { secret: Some(Secret::new("changeme")), ..Settings::default() };
    assert_eq!(
        refusal(&["--subject", "alice"], &known),
        "JWT_SECRET is a well-known or trivial secret: make one with 'openssl rand -base64 48'"
    );
    let both = Settings { secret_file: Some("/nonexistent".into()), ..settings() };
    let both = refusal(&["--subject", "alice"], &both);
    assert!(both.contains("keep one of them; JWT_SECRET_FILE: cannot read"), "{both}");
}

fn asked(flags: &[&str], typed: &str) -> (Result<TokenArgs, TokenError>, String) {
    let mut output = Vec::new();
    let answered = complete(args(flags), true, &mut typed.as_bytes(), &mut output);
    (answered, String::from_utf8(output).unwrap())
}

#[test]
fn a_missing_subject_and_time_are_asked_for() {
    let both = "Subject (who the token is for): Valid for, as in 30m, 24h or 7d [24h]: ";
    for (flags, typed, ttl, questions) in [
        (&[][..], "alice\n7d\n", 604_800, both),
        (&[][..], " alice \r\n\n", 86_400, both),
        (&[][..], "alice", 86_400, both),
        (&["--ttl", "1h"][..], "alice\n", 3600, "Subject (who the token is for): "),
    ] {
        let (answered, output) = asked(flags, typed);
        let answered = answered.unwrap();
        assert_eq!(answered.subject.as_deref(), Some("alice"), "{typed:?}");
        assert_eq!((answered.ttl, output.as_str()), (Some(Duration::from_secs(ttl)), questions), "{typed:?}");
    }
}

#[test]
fn bad_answers_are_refused() {
    assert!(matches!(asked(&[], "alice\nforever\n").0, Err(TokenError::Ttl)));
    let silent = asked(&[], "").0.unwrap();
    assert!(matches!(mint(&silent, &settings(), now()), Err(TokenError::EmptySubject)));
    let endless = asked(&[], &"x".repeat(10_000)).0;
    assert!(matches!(endless, Err(TokenError::Ttl)));
}

#[test]
fn nobody_is_asked_without_need_or_without_a_terminal() {
    let (answered, output) = asked(&["--subject", "alice"], "bob\n");
    assert_eq!((answered.unwrap().subject.as_deref(), output.as_str()), (Some("alice"), ""));
    let mut output = Vec::new();
    let refusal = complete(args(&[]), false, &mut &b"bob\n"[..], &mut output).unwrap_err();
    assert_eq!(refusal.to_string(), "who is the token for? Give --subject NAME");
    assert_eq!(output, b"");
}

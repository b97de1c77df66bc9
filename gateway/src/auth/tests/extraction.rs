//! Finding the token of a request, and the refusals.
use http::{HeaderMap, HeaderValue, StatusCode, header::AUTHORIZATION};

use super::*;

fn authenticator() -> Authenticator {
    Authenticator::from_issuers(vec![HS256.issuer()]).unwrap()
}

fn headers(values: &[&[u8]]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(AUTHORIZATION, HeaderValue::from_bytes(value).unwrap());
    }
    headers
}

/// TOKEN is replaced by a valid token.
fn outcome(values: &[&str], query: Option<&str>, allow: bool) -> Result<String, AuthError> {
    let token = HS256.plain_token(GOOD_CLAIMS);
    let values: Vec<String> = values.iter().map(|value| value.replace("TOKEN", &token)).collect();
    let values: Vec<&[u8]> = values.iter().map(String::as_bytes).collect();
    let query = query.map(|query| query.replace("TOKEN", &token));
    let identity = authenticator().authenticate_at(&headers(&values), query.as_deref(), allow, now());
    identity.map(|identity| identity.subject.clone())
}

#[test]
fn one_token_is_found_wherever_it_may_be() {
    let dotted = "token=%54OKEN".replace("%54OKEN", "TOKEN");
    for (values, query, allow) in [
        (vec!["Bearer TOKEN"], None, false),
        (vec!["bearer TOKEN"], None, false),
        (vec!["BEARER TOKEN"], None, false),
        (vec!["Bearer    TOKEN"], None, false),
        (vec!["Bearer TOKEN "], None, false),
        (vec!["Bearer TOKEN"], Some("verbose=1"), true),
        (vec!["Bearer TOKEN"], Some("token=TOKEN"), false),
        (vec![], Some(dotted.as_str()), true),
        (vec![], Some("a=b&token=TOKEN&c"), true),
        (vec![], Some("%74oken=TOKEN"), true),
    ] {
        assert_eq!(outcome(&values, query, allow), Ok("alice".to_owned()), "{values:?} {query:?} {allow}");
    }
}

#[test]
fn a_percent_encoded_token_is_decoded() {
    let token = HS256.plain_token(GOOD_CLAIMS).replace('.', "%2E").replace('-', "%2d");
    let query = format!("token={token}");
    let identity = authenticator().authenticate_at(&HeaderMap::new(), Some(&query), true, now());
    assert_eq!(identity.unwrap().subject, "alice");
}

#[test]
fn no_token_or_two_tokens_are_refused() {
    use AuthError::*;
    for (values, query, allow, expected) in [
        (vec![], None, true, Missing),
        (vec![], Some(""), true, Missing),
        (vec![], Some("token"), true, Missing),
        (vec![], Some("token="), true, Missing),
        (vec![], Some("Token=TOKEN"), true, Missing),
        (vec![], Some("token=TOKEN"), false, Missing),
        (vec![""], None, true, Missing),
        (vec!["Bearer"], None, true, Missing),
        (vec!["Bearer  "], None, true, Missing),
        (vec!["TOKEN"], None, true, Scheme),
        (vec!["BearerTOKEN"], None, true, Scheme),
        (vec!["Bearer:TOKEN"], None, true, Scheme),
        (vec!["Basic TOKEN"], None, true, Scheme),
        (vec!["Token TOKEN"], None, true, Scheme),
        (vec!["Bearer TOKEN TOKEN"], None, true, Several),
        (vec!["Bearer TOKEN, Bearer TOKEN"], None, true, Several),
        (vec!["Bearer TOKEN\tx"], None, true, Several),
        (vec!["Bearer TOKEN", "Bearer TOKEN"], None, true, Several),
        (vec!["Bearer TOKEN", "Basic x"], None, true, Several),
        (vec!["Bearer TOKEN", ""], None, true, Several),
        (vec![], Some("token=TOKEN&token=TOKEN"), true, Several),
        (vec![], Some("token=TOKEN&token="), true, Several),
        (vec![], Some("token=TOKEN&%74oken=x"), true, Several),
        (vec!["Bearer TOKEN"], Some("token=TOKEN"), true, BothPlaces),
        (vec!["Bearer TOKEN"], Some("token="), true, BothPlaces),
        (vec!["Basic x"], Some("token=TOKEN"), true, BothPlaces),
        (vec!["Bearer \"TOKEN\""], None, true, Malformed),
        (vec!["Bearer <TOKEN>"], None, true, Malformed),
        (vec![], Some("token=TOKEN%00"), true, Malformed),
        (vec![], Some("token=Bearer+TOKEN"), true, Malformed),
    ] {
        assert_eq!(outcome(&values, query, allow), Err(expected), "{values:?} {query:?} {allow}");
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let outcome = authenticator().authenticate_at(&headers(&[b"Bearer \xff\xfe"]), None, false, now());
    assert_eq!(outcome, Err(AuthError::Malformed));
    let outcome = authenticator().authenticate_at(&HeaderMap::new(), Some("token=%ff%fe"), true, now());
    assert_eq!(outcome, Err(AuthError::Malformed));
}

#[test]
fn the_size_is_checked_before_anything_else_of_the_token() {
    let huge = "a".repeat(MAX_TOKEN_BYTES + 1);
    assert_eq!(outcome(&[&format!("Bearer {huge}")], None, false), Err(AuthError::TooLarge));
    assert_eq!(outcome(&[], Some(&format!("token={huge}")), true), Err(AuthError::TooLarge));
    assert_eq!(outcome(&[&format!("Bearer {}", &huge[1..])], None, false), Err(AuthError::Malformed));
}

#[test]
fn refusals_have_a_status_a_challenge_and_a_label_of_their_own() {
    let mut labels = Vec::new();
    for refusal in AuthError::ALL {
        let challenge = refusal.challenge(&[], None);
        let text = refusal.to_string();
        let (status, expected) = match refusal {
            AuthError::Missing | AuthError::Scheme => (StatusCode::UNAUTHORIZED, Some("Bearer".to_owned())),
            AuthError::BothPlaces | AuthError::Several => (StatusCode::BAD_REQUEST, None),
            AuthError::NoKeys | AuthError::NoReview => (StatusCode::SERVICE_UNAVAILABLE, None),
            AuthError::Scope => {
                let challenge = format!("Bearer error=\"insufficient_scope\", error_description=\"{text}\"");
                (StatusCode::FORBIDDEN, Some(challenge))
            }
            _ => {
                let challenge = format!("Bearer error=\"invalid_token\", error_description=\"{text}\"");
                (StatusCode::UNAUTHORIZED, Some(challenge))
            }
        };
        let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
        assert_eq!((refusal.status(), challenge), (status, expected));
        assert!(!text.contains(['"', '\\']), "{text}");
        labels.push(refusal.kind());
    }
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), AuthError::ALL.len());
}

#[test]
fn a_challenge_names_all_scopes_and_where_to_learn_more_also_without_a_token() {
    let scopes = ["tools".to_owned(), "prompts".to_owned()];
    let challenge = |refusal: AuthError| refusal.challenge(&scopes, Some("https://gateway/x")).unwrap();
    let parameters = "resource_metadata=\"https://gateway/x\", scope=\"tools prompts\"";
    assert_eq!(challenge(AuthError::Missing), format!("Bearer {parameters}"));
    let refused =
        format!("Bearer {parameters}, error=\"insufficient_scope\", error_description=\"{}\"", AuthError::Scope);
    assert_eq!(challenge(AuthError::Scope), refused);
}

#[test]
fn the_size_in_the_text_is_the_bound() {
    assert!(AuthError::TooLarge.to_string().contains(&MAX_TOKEN_BYTES.to_string()));
}

//! Headers and changed tokens of the matrix.
use super::*;

pub(super) fn deep(levels: usize) -> String {
    format!("{}{}", "[".repeat(levels), "]".repeat(levels))
}

/// Rows by header: name, header, expected.
pub(super) fn header_rows() -> Vec<(&'static str, String, Result<&'static str, AuthError>)> {
    use AuthError::*;
    let rows: Vec<(&'static str, &str, Result<&'static str, AuthError>)> = vec![
        ("alg only", r#"{"alg":"ALG"}"#, Ok("alice")),
        ("no alg", r#"{"typ":"JWT"}"#, Err(Malformed)),
        ("alg null", r#"{"alg":null}"#, Err(Malformed)),
        ("alg doubled", r#"{"alg":"none","alg":"ALG"}"#, Err(Malformed)),
        ("alg none, signed", r#"{"alg":"none"}"#, Err(Algorithm)),
        ("alg nOnE, signed", r#"{"alg":"nOnE"}"#, Err(Algorithm)),
        ("alg empty", r#"{"alg":""}"#, Err(Algorithm)),
        ("alg in lower case", r#"{"alg":"hs256"}"#, Err(Algorithm)),
        ("alg with a space", r#"{"alg":"ALG "}"#, Err(Algorithm)),
        ("alg unknown", r#"{"alg":"ES512"}"#, Err(Algorithm)),
        ("alg of the same family", r#"{"alg":"HS512"}"#, Err(Algorithm)),
        ("crit unknown", r#"{"alg":"ALG","crit":["exp"],"exp":1}"#, Err(CriticalHeader)),
        ("crit empty", r#"{"alg":"ALG","crit":[]}"#, Err(CriticalHeader)),
        ("crit null", r#"{"alg":"ALG","crit":null}"#, Err(CriticalHeader)),
        ("crit text", r#"{"alg":"ALG","crit":"exp"}"#, Err(CriticalHeader)),
        ("b64 false with crit", r#"{"alg":"ALG","crit":["b64"],"b64":false}"#, Err(CriticalHeader)),
        ("b64 false without crit", r#"{"alg":"ALG","b64":false}"#, Err(CriticalHeader)),
        ("jku", r#"{"alg":"ALG","jku":"https://evil.example/jwks"}"#, Ok("alice")),
        ("x5u", r#"{"alg":"ALG","x5u":"https://evil.example/x509"}"#, Ok("alice")),
        ("jwk", r#"{"alg":"ALG","jwk":{"kty":"oct","k":"AAAA"}}"#, Ok("alice")),
        ("typ in lower case", r#"{"alg":"ALG","typ":"jwt"}"#, Ok("alice")),
        ("typ at+jwt", r#"{"alg":"ALG","typ":"at+jwt"}"#, Ok("alice")),
        ("typ refresh", r#"{"alg":"ALG","typ":"refresh"}"#, Err(Type)),
        ("typ number", r#"{"alg":"ALG","typ":1}"#, Err(Malformed)),
        ("kid, and a key without one", r#"{"alg":"ALG","kid":"1"}"#, Ok("alice")),
        ("kid that is a path", r#"{"alg":"ALG","kid":"../../../dev/null"}"#, Ok("alice")),
        ("kid number", r#"{"alg":"ALG","kid":1}"#, Err(Malformed)),
        ("header list", r#"["ALG"]"#, Err(Malformed)),
        ("header empty", "", Err(Malformed)),
        ("header no JSON", "ALG", Err(Malformed)),
    ];
    let mut rows: Vec<_> =
        rows.into_iter().map(|(name, header, expected)| (name, header.to_owned(), expected)).collect();
    rows.push(("kid of 7,000 bytes", format!(r#"{{"alg":"ALG","kid":"{}"}}"#, "k".repeat(7000)), Err(TooLarge)));
    rows.push(("kid of 1,000 bytes", format!(r#"{{"alg":"ALG","kid":"{}"}}"#, "k".repeat(1000)), Ok("alice")));
    rows.push(("header 1,000 deep", format!(r#"{{"alg":"ALG","x":{}}}"#, deep(1000)), Err(Malformed)));
    rows.push(("header 5,000 deep", format!(r#"{{"alg":"ALG","x":{}}}"#, deep(5000)), Err(TooLarge)));
    rows
}

fn part(token: &str, index: usize) -> &str {
    token.split('.').nth(index).unwrap()
}

/// The same bits with a tail that no encoder writes.
fn uncanonical(token: &str) -> String {
    const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let (rest, last) = token.split_at(token.len() - 1);
    let next = ALPHABET.find(last).unwrap() + 1;
    format!("{rest}{}", &ALPHABET[next..=next])
}

pub(super) type Edit = fn(&TestKey, &str) -> String;

/// Rows by the change to a valid token: name, change, expected.
pub(super) fn edit_rows() -> Vec<(&'static str, Edit, AuthError)> {
    use AuthError::*;
    vec![
        ("the empty text", |_, _| String::new(), Malformed),
        ("one dot", |_, _| ".".into(), Malformed),
        ("two dots", |_, _| "..".into(), Malformed),
        ("no signature part", |_, t| t.rsplit_once('.').unwrap().0.into(), Malformed),
        ("an empty signature", |_, t| format!("{}.", t.rsplit_once('.').unwrap().0), Signature),
        ("four parts", |_, t| format!("{t}.e30"), Malformed),
        ("five parts", |_, t| format!("{t}.e30.e30"), Malformed),
        ("a dot behind", |_, t| format!("{t}."), Malformed),
        ("padding behind", |_, t| format!("{t}="), Malformed),
        ("a space behind", |_, t| format!("{t} "), Malformed),
        ("a newline behind", |_, t| format!("{t}\n"), Malformed),
        ("a space before", |_, t| format!(" {t}"), Malformed),
        ("a zero byte behind", |_, t| format!("{t}\0"), Malformed),
        ("an uncanonical tail", |_, t| uncanonical(t), Malformed),
        ("plain base64 instead of base64url", |_, t| format!("{}+/", &t[..t.len() - 2]), Malformed),
        (
            "a signature one byte short",
            |key, t| {
                let (message, _) = t.rsplit_once('.').unwrap();
                let mut signature = key.sign(message.as_bytes());
                signature.pop();
                format!("{message}.{}", base64url(&signature))
            },
            Signature,
        ),
        (
            "a signature one byte long",
            |key, t| {
                let (message, _) = t.rsplit_once('.').unwrap();
                let mut signature = key.sign(message.as_bytes());
                signature.push(0);
                format!("{message}.{}", base64url(&signature))
            },
            Signature,
        ),
        (
            "a signature of zeros",
            |key, t| {
                let (message, _) = t.rsplit_once('.').unwrap();
                format!("{message}.{}", base64url(&vec![0; key.sign(b"").len()]))
            },
            Signature,
        ),
        (
            "another payload",
            |_, t| format!("{}.{}.{}", part(t, 0), base64url(br#"{"sub":"root","exp":2000000600}"#), part(t, 2)),
            Signature,
        ),
        (
            "another header",
            |key, t| {
                let header = format!(r#"{{"alg":"{:?}"}}"#, key.algorithm);
                format!("{}.{}.{}", base64url(header.as_bytes()), part(t, 1), part(t, 2))
            },
            Signature,
        ),
        ("alg none, unsigned", |_, t| format!("{}.{}.", base64url(br#"{"alg":"none"}"#), part(t, 1)), Algorithm),
        (
            "a signature of another key",
            |key, _| {
                let other = match key.algorithm {
                    super::Algorithm::HS256 => TestKey::hmac(b"an entirely different secret, yet long enough"),
                    algorithm => TestKey::generate(algorithm),
                };
                other.plain_token(GOOD_CLAIMS)
            },
            Signature,
        ),
        ("a header of 64 MiB, unsigned", |_, _| format!("{}.e30.", "a".repeat(64 << 20)), TooLarge),
        ("more than 8 KiB, signed", |key, _| key.plain_token(&"x".repeat(8192)), TooLarge),
    ]
}

//! The file of issuers: its valid content, and all problems of an invalid one.
use std::{fs, path::Path};

use super::{
    issuers::{KeyPlace, ListedIssuer, read},
    *,
};

fn faults(yaml: &str) -> Vec<String> {
    read(yaml.as_bytes(), Some("own")).unwrap_err().iter().map(ToString::to_string).collect()
}

/// The problems of settings that consist of a file with this text.
fn problems(folder: &Path, yaml: &str) -> Vec<String> {
    let path = folder.join("issuers.yaml");
    fs::write(&path, yaml).unwrap();
    let settings = Settings { issuers_file: Some(path), ..Settings::default() };
    Authenticator::new(&settings).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn an_issuer_needs_a_name_and_an_audience() {
    let yaml = "
- {issuer: https://a.example/, audience: portcullis}
- {issuer: https://b.example, audience: [x, y], jwksUri: 'https://keys.example/b?v=1', caFile: ca.pem}
- {issuer: plain, audience: x, jwksFile: keys.json, algorithms: [EdDSA, PS256, EdDSA]}
- {issuer: 'http://127.0.0.1:8080/realms/x', audience: x}
";
    let usual = vec![Algorithm::RS256, Algorithm::ES256];
    let url = |text: &str| url::Url::parse(text).unwrap();
    let listed =
        |number, issuer: &str, audiences: &[&str], keys, ca: Option<&str>, algorithms: &[Algorithm]| ListedIssuer {
            number,
            issuer: issuer.into(),
            audiences: audiences.iter().map(|&one| one.into()).collect(),
            keys,
            ca_file: ca.map(Into::into),
            algorithms: algorithms.to_vec(),
        };
    let discovery = |base: &str| KeyPlace::Discovery(url(&format!("{base}/.well-known/openid-configuration")));
    let expected = vec![
        listed(1, "https://a.example/", &["portcullis"], discovery("https://a.example"), None, &usual),
        listed(
            2,
            "https://b.example",
            &["x", "y"],
            KeyPlace::Uri(url("https://keys.example/b?v=1")),
            Some("ca.pem"),
            &usual,
        ),
        listed(3, "plain", &["x"], KeyPlace::File("keys.json".into()), None, &[Algorithm::EdDSA, Algorithm::PS256]),
        listed(4, "http://127.0.0.1:8080/realms/x", &["x"], discovery("http://127.0.0.1:8080/realms/x"), None, &usual),
    ];
    assert_eq!(read(yaml.as_bytes(), None), Ok(expected));
}

#[test]
fn everything_that_is_wrong_is_told_at_once() {
    let yaml = "
- {issuer: https://a.example, audience: x, audiance: y, keys: z}
- {jwksUri: http://keys.example/}
- {issuer: 5, audience: [], algorithms: [HS256, none, RS256]}
- text
- {issuer: https://a.example, audience: x}
- {issuer: own, audience: x, jwksUri: 'https://k.example', jwksFile: k.json, caFile: c.pem}
- {issuer: 'https://u:p@a.example', audience: x}
- {issuer: 'https://c.example?x=1', audience: ['']}
- {issuer: plain, audience: x, algorithms: RS256}
";
    let url = "must be an https URL without user name and fragment, because anyone who can change the keys in transit \
               can forge tokens";
    let issuer = "issuer (where neither jwksUri nor jwksFile is set)";
    let accepted = "is not accepted: use RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA";
    let fields = "an issuer has issuer, audience, jwksUri, jwksFile, caFile and algorithms";
    let expected = [
        format!("entry 1 has the unknown field \"audiance\": {fields}"),
        format!("entry 1 has the unknown field \"keys\": {fields}"),
        "entry 2: issuer is missing: set it to the iss of its tokens".into(),
        "entry 2: audience is missing: set it to the aud of tokens for this gateway".into(),
        format!("entry 2: jwksUri {url}"),
        "entry 3: issuer must be a string, the iss of its tokens".into(),
        "entry 3: audience must be a string or a list of strings".into(),
        format!("entry 3: the algorithm \"HS256\" {accepted}"),
        format!("entry 3: the algorithm \"none\" {accepted}"),
        "entry 4 must be an object with the fields issuer, audience, jwksUri, jwksFile, caFile and algorithms".into(),
        "entry 5 has the same issuer as entry 1: keep one of them".into(),
        "entry 6: jwksUri and jwksFile are both set: keep one of them".into(),
        "entry 6: caFile has no effect with jwksFile: remove it".into(),
        "entry 6 has the same issuer as JWT_ISSUER: keep one of them".into(),
        format!("entry 7: {issuer} {url}"),
        "entry 8: audience must be a string or a list of strings".into(),
        format!("entry 8: {issuer} {url}"),
        format!("entry 9: {issuer} {url}"),
    ];
    assert_eq!(faults(yaml), expected);
}

#[test]
fn what_is_no_list_of_issuers_is_refused() {
    let no_list = "the file must be a list of issuers, each with at least 'issuer' and 'audience'";
    for yaml in ["", "[]", "issuer: a", "text"] {
        assert_eq!(faults(yaml), [no_list], "{yaml}");
    }
    assert_eq!(faults(&"- {}\n".repeat(101)), ["the file has more than 100 issuers"]);
    assert!(faults("- {issuer: a, issuer: b}")[0].starts_with("the file is not valid YAML: "));
}

#[test]
fn a_file_that_would_take_minutes_to_read_is_refused_at_once() {
    for text in ["{", "- ", "a: ["] {
        let told = faults(&text.repeat(1_000));
        assert!(told.len() == 1 && told[0].contains("more than 64 levels"), "{told:?}");
    }
}

#[test]
fn files_that_issuers_name_are_looked_at_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).unwrap();
        folder.path().join(name).display().to_string()
    };
    let keys = file("keys.json", &json!({"keys": [RS256.jwk()]}).to_string());
    let secret = file("secret.json", &json!({"keys": [HS256.jwk()]}).to_string());
    let ca = file("ca.pem", "nothing");
    let (good, oct, missing) = (
        format!("- {{issuer: a, audience: x, jwksFile: {keys}}}\n"),
        format!("- {{issuer: b, audience: x, jwksFile: {secret}}}\n"),
        format!("- {{issuer: c, audience: x, jwksFile: {keys}.gone}}\n"),
    );
    let no_ca = format!("- {{issuer: https://d.example, audience: x, caFile: {ca}}}\n");
    assert_eq!(problems(folder.path(), &good), Vec::<String>::new());
    assert_eq!(
        problems(folder.path(), &[good, oct, missing, no_ca].concat()),
        [
            "ISSUERS_FILE, entry 2: jwksFile has no usable key: key 1 is a shared secret (kty oct), with which anyone \
             who can read the set could sign tokens"
                .to_owned(),
            format!("ISSUERS_FILE, entry 3: jwksFile: cannot read {keys}.gone: entity not found"),
            "ISSUERS_FILE, entry 4: caFile contains no PEM certificate: add one, from BEGIN CERTIFICATE to END \
             CERTIFICATE"
                .to_owned(),
        ]
    );
    assert_eq!(problems(folder.path(), ""), ["ISSUERS_FILE is empty: give it a value, or unset it"]);
}

#[test]
fn one_source_of_keys_is_enough() {
    let kubernetes = Some(Kubernetes { audience: "portcullis".into(), kept: None, review: true });
    assert!(Authenticator::new(&Settings { kubernetes, ..Settings::default() }).is_ok());
    assert_eq!(Authenticator::new(&Settings::default()).err(), Some(vec![Problem::NoKeySource]));
}

//! The resolved references of a server, from a folder and from a cluster.

use std::collections::HashMap;

use http::HeaderMap;
use portcullis_crds::{McpServerSpec, Reason, ServerKey};

use super::cluster::given::test_object;
use super::cluster::{ListScope, LookupResult, Store};
use super::*;

fn server(url: &str, yaml: &str) -> Server {
    let spec: McpServerSpec = serde_yaml::from_str(yaml).unwrap();
    let key = ServerKey::new("team", "x");
    Server { key, headers: spec.headers, tls: spec.tls, ..Server::from_url("x", url) }
}

fn with_header(key: &str) -> Server {
    server(
        "https://mcp.example.com/mcp",
        &format!(
            "{{headers: [{{name: Authorization, prefix: 'Bearer ', secretRef: {{name: github, key: {key}}}}}, {{name: X-Team, value: a}}]}}"
        ),
    )
}

fn bearer() -> SessionHeaders {
    let mut expected = HeaderMap::new();
    expected.insert("authorization", HeaderValue::from_static("Bearer s3cret"));
    expected.insert("x-team", HeaderValue::from_static("a"));
    SessionHeaders { all: expected, ..SessionHeaders::default() }
}

fn reason(secrets: &Secrets, server: &Server) -> Option<Reason> {
    secrets.resolve(server).err().map(|error| error.reason())
}

#[test]
fn headers_take_their_values_from_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("github")).unwrap();
    std::fs::write(folder.path().join("github/token"), "s3cret\n").unwrap();
    std::fs::write(folder.path().join("github/bad"), "a\nb").unwrap();
    let secrets = Secrets::Folder(Some(folder.path().into()));
    assert_eq!(secrets.resolve(&with_header("token")).unwrap().headers, bearer());
    let place = |key: &str| format!("github/{key}");
    assert_eq!(secrets.resolve(&with_header("bad")).err(), Some(SecretError::NotAHeader(place("bad"))));
    let missing = SecretError::Unreadable { place: place("none"), reason: Reason::SecretKeyMissing };
    assert_eq!(secrets.resolve(&with_header("none")).err(), Some(missing));
    let elsewhere = server("https://x/", "{headers: [{name: A, secretRef: {name: gitlab, key: token}}]}");
    assert_eq!(reason(&secrets, &elsewhere), Some(Reason::SecretNotFound));
    let authority = server("https://x/", "{tls: {caRef: {name: ca}}}");
    assert_eq!(reason(&secrets, &authority), Some(Reason::CaNotFound));
    let nowhere = Secrets::Folder(None);
    assert_eq!(nowhere.resolve(&with_header("token")).err(), Some(SecretError::NoFolder(place("token"))));
}

#[test]
fn values_that_are_too_long_are_named_and_neither_cut_nor_shown() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["github", "ca"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
    }
    std::fs::write(folder.path().join("github/token"), "s".repeat(16 * 1024 + 1)).unwrap();
    std::fs::write(folder.path().join("ca/ca.crt"), "s".repeat(1024 * 1024 + 1)).unwrap();
    let secrets = Secrets::Folder(Some(folder.path().into()));
    let authority = server("https://x/", "{tls: {caRef: {name: ca}}}");
    for (server, reason, told) in [
        (with_header("token"), Reason::SecretInvalid, "github/token is longer than 16384 bytes"),
        (authority, Reason::CaInvalid, "ca/ca.crt is longer than 1048576 bytes"),
    ] {
        let error = secrets.resolve(&server).err().unwrap();
        assert_eq!(error.reason(), reason);
        assert!(error.to_string().starts_with(told) && !error.to_string().contains("sss"), "{error}");
    }
    let in_cluster = Secrets::Cluster(store("https://mcp.example.com", &"s".repeat(1_000_000)));
    let error = in_cluster.resolve(&with_header("token")).err().unwrap();
    assert_eq!(error.reason(), Reason::SecretInvalid);
    assert!(error.to_string().starts_with("Secret team/github, key token is longer than"), "{error}");
}

/// A store of the namespace `team` in which one Secret and one ConfigMap are labelled.
fn store(origin: &str, value: &str) -> Arc<Store> {
    let store = Arc::new(Store::new("team".parse().unwrap()));
    store.list(
        ObjectKind::Secret,
        "team",
        vec![("github", test_object(origin, &[("token", value), ("tls.crt", "C")]))],
    );
    store.list(ObjectKind::ConfigMap, "team", vec![("ca", test_object("", &[("ca.crt", "A")]))]);
    store
}

#[test]
fn a_labelled_secret_is_sent_to_the_origins_of_its_annotation_and_nowhere_else() {
    let url = |url: &str| Server { url: url.into(), ..with_header("token") };
    let good =
        ["https://mcp.example.com", "https://other, HTTPS://MCP.example.com:443/", "http://a https://mcp.example.com"];
    for annotation in good {
        let secrets = Secrets::Cluster(store(annotation, "s3cret"));
        assert_eq!(secrets.resolve(&with_header("token")).unwrap().headers, bearer(), "{annotation}");
    }
    let bad = [
        "",
        "http://mcp.example.com",
        "https://mcp.example.com:8443",
        "https://example.com",
        "mcp.example.com",
        "*",
        "https://*.example.com",
        "https://mcp.example.com/mcp",
        "https://mcp.example.com?x",
        "https://mcp.example.com#x",
        "https://user@mcp.example.com",
        "https://mcp.example.com.",
        "https://mcp.example.com.evil.example",
    ];
    for annotation in bad {
        let error = Secrets::Cluster(store(annotation, "s3cret")).resolve(&with_header("token")).err().unwrap();
        assert_eq!(error.reason(), Reason::OriginMismatch, "{annotation}");
        assert_eq!(
            error.to_string(),
            "Secret team/github may not be sent to https://mcp.example.com: add this origin to its annotation portcullis.dev/origin"
        );
    }
    let secrets = Secrets::Cluster(store("https://mcp.example.com", "s3cret"));
    for other in ["http://mcp.example.com/mcp", "https://mcp.example.com:444/", "https://evil.example/", "nonsense"] {
        assert_eq!(reason(&secrets, &url(other)), Some(Reason::OriginMismatch), "{other}");
    }
}

#[test]
fn each_reason_names_the_object_and_says_what_to_do() {
    let secrets = Secrets::Cluster(store("https://mcp.example.com", "two\nlines"));
    let cases = [
        (
            with_header("token"),
            Reason::SecretInvalid,
            "Secret team/github, key token is not a valid header value: use one line of visible characters",
        ),
        (
            with_header("none"),
            Reason::SecretKeyMissing,
            "Secret team/github has no key none: add it, or correct the key in the McpServer",
        ),
        (
            Server { key: ServerKey::new("other", "x"), ..with_header("token") },
            Reason::NamespaceNotAllowed,
            "Secret other/github is needed, but the gateway reads no credentials in namespace other: add it to \
             CREDENTIAL_NAMESPACES",
        ),
        (
            server("https://mcp.example.com/", "{tls: {clientCertRef: {name: github}}}"),
            Reason::SecretKeyMissing,
            "Secret team/github has no key tls.key: add it, or correct the key in the McpServer",
        ),
        (
            server("https://mcp.example.com/", "{tls: {caRef: {name: ca, key: b}}}"),
            Reason::SecretKeyMissing,
            "ConfigMap team/ca has no key b: add it, or correct the key in the McpServer",
        ),
        (
            server("https://mcp.example.com/", "{tls: {caRef: {kind: Secret, name: ca}}}"),
            Reason::Probing,
            "Secret team/ca is needed, but the API server has not listed its namespace yet: wait; if this stays, see \
             the gateway's log",
        ),
    ];
    for (server, reason, text) in cases {
        let error = secrets.resolve(&server).err().unwrap();
        assert_eq!((error.reason(), error.to_string().as_str()), (reason, text));
    }
    let authority = server("https://anywhere.example/", "{tls: {caRef: {name: ca}}}");
    let found = secrets.resolve(&authority).unwrap().tls.ca.map(|ca| (ca.name, ca.value));
    assert_eq!(found, Some(("ConfigMap team/ca, key ca.crt".into(), b"A".to_vec())), "an authority needs no origin");
}

#[test]
fn a_namespace_that_the_api_server_refuses_is_told_so_until_it_is_listed() {
    let store = Arc::new(Store::new(Namespaces::All));
    let secrets = Secrets::Cluster(store.clone());
    let needing = server("https://mcp.example.com/", "{headers: [{name: A, secretRef: {name: gitlab, key: t}}]}");
    let scope = |namespace: &str| ListScope { kind: ObjectKind::Secret, namespace: Some(namespace.into()) };
    store.change(|state| state.refuse(&scope("other")));
    assert_eq!(reason(&secrets, &needing), Some(Reason::Probing));
    store.change(|state| state.refuse(&scope("team")));
    assert_eq!(reason(&secrets, &needing), Some(Reason::NamespaceNotAllowed));
    store.change(|state| state.replace(&scope("team"), HashMap::new()));
    assert_eq!(reason(&secrets, &needing), Some(Reason::Probing));
    store.change(|state| state.refuse(&scope("team")));
    assert_eq!(reason(&secrets, &needing), Some(Reason::Probing), "what was known stays");
}

#[test]
fn what_is_not_among_the_labelled_is_looked_for_and_then_told_apart() {
    let store = store("https://mcp.example.com", "s3cret");
    let secrets = Secrets::Cluster(store.clone());
    let missing = server("https://mcp.example.com/", "{headers: [{name: A, secretRef: {name: gitlab, key: t}}]}");
    let key = ObjectKey { kind: ObjectKind::Secret, namespace: "team".into(), name: "gitlab".into() };
    let changes = store.changes();
    let told = |found| {
        store.change(|state| state.looked(&key, found, tokio::time::Instant::now()));
        (reason(&secrets, &missing), changes.has_changed().unwrap())
    };
    assert_eq!(reason(&secrets, &missing), Some(Reason::Probing));
    assert_eq!((store.take_wanted(), store.take_wanted()), (vec![key.clone()], vec![]));
    assert_eq!(told(Some(LookupResult::Absent)), (Some(Reason::SecretNotFound), true));
    assert_eq!(told(Some(LookupResult::Unlabelled)).0, Some(Reason::SecretNotLabelled));
    assert_eq!(
        secrets.resolve(&missing).err().unwrap().to_string(),
        "Secret team/gitlab lacks the label that lets the gateway read it: kubectl -n team label secret gitlab \
         portcullis.dev/credentials=true"
    );
    assert_eq!(told(None).0, Some(Reason::SecretNotLabelled), "a look that fails changes nothing");
    assert_eq!(told(Some(LookupResult::Labelled)).0, Some(Reason::Probing), "its watch tells any moment");
    assert!(store.take_wanted().is_empty(), "nobody looks twice within ten seconds");
    store.change(|state| state.put(key.clone(), test_object("https://mcp.example.com", &[("t", "v")])));
    assert_eq!(reason(&secrets, &missing), None);
    store.change(|state| state.remove(&key));
    assert_eq!(reason(&secrets, &missing), Some(Reason::Probing), "whether it is gone or unlabelled is open again");
    assert_eq!(store.take_wanted(), vec![key]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_object_is_looked_for_every_ten_seconds_while_somebody_needs_it() {
    let store = store("https://mcp.example.com", "s3cret");
    let secrets = Secrets::Cluster(store.clone());
    let missing = server("https://mcp.example.com/", "{headers: [{name: A, secretRef: {name: gitlab, key: t}}]}");
    for (after, looks) in [(0, 1), (4, 0), (5, 0), (2, 1), (9, 0), (100, 1)] {
        tokio::time::advance(std::time::Duration::from_secs(after)).await;
        let _ = secrets.resolve(&missing);
        assert_eq!(store.take_wanted().len(), looks, "after {after} more seconds");
    }
    tokio::time::advance(std::time::Duration::from_secs(700)).await;
    assert!(store.take_wanted().is_empty(), "nobody needs it");
}

#[test]
fn a_revocation_is_told_before_any_other_problem() {
    let store = store("https://mcp.example.com", "s3cret");
    let secrets = Secrets::Cluster(store.clone());
    let used = secrets.resolve(&with_header("token")).unwrap();
    assert_eq!(secrets.revoked(&used), None);
    let both = server(
        "https://mcp.example.com/",
        "{headers: [{name: A, secretRef: {name: github, key: none}}, {name: B, secretRef: {name: github, key: token}}]}",
    );
    assert_eq!(reason(&secrets, &both), Some(Reason::SecretKeyMissing));
    let key = ObjectKey { kind: ObjectKind::Secret, namespace: "team".into(), name: "github".into() };
    store.change(|state| state.remove(&key));
    assert_eq!(secrets.revoked(&used), None, "a Secret that is gone revokes nothing");
    let _ = store.take_wanted();
    store.change(|state| state.looked(&key, Some(LookupResult::Unlabelled), tokio::time::Instant::now()));
    assert_eq!(secrets.revoked(&used), Some(SecretError::NotLabelled(key.clone())));
    store.change(|state| state.put(key.clone(), test_object("https://elsewhere", &[("token", "s3cret")])));
    assert_eq!(secrets.revoked(&used).map(|error| error.reason()), Some(Reason::OriginMismatch));
}

#[test]
fn before_the_lists_are_read_servers_wait_and_a_list_removes_what_it_does_not_hold() {
    let store = Arc::new(Store::new(Namespaces::All));
    let secrets = Secrets::Cluster(store.clone());
    assert_eq!(reason(&secrets, &with_header("token")), Some(Reason::Probing));
    assert!(store.take_wanted().is_empty(), "nothing is looked for before the list is whole");
    let object = || test_object("https://mcp.example.com", &[("token", "s3cret")]);
    store.list_all(ObjectKind::Secret, vec![("team", "github", object()), ("b", "github", object())]);
    assert_eq!(reason(&secrets, &with_header("token")), None);
    let changes = store.changes();
    store.list_all(ObjectKind::Secret, vec![("team", "github", object()), ("b", "github", object())]);
    assert!(!changes.has_changed().unwrap(), "the same list is no change");
    store.list_all(ObjectKind::Secret, vec![("b", "github", object())]);
    assert!(changes.has_changed().unwrap());
    assert_eq!(reason(&secrets, &with_header("token")), Some(Reason::Probing));
}

#[test]
fn a_setting_of_namespaces_is_a_list_or_a_star() {
    let listed = |names: &[&str]| Ok(Namespaces::Listed(names.iter().map(|name| (*name).to_owned()).collect()));
    let cases: [(&str, Result<Namespaces, String>); 6] = [
        ("*", Ok(Namespaces::All)),
        ("a", listed(&["a"])),
        (" a, b-1,a,", listed(&["a", "b-1"])),
        ("a,*", Err("*".into())),
        ("a b", Err("a b".into())),
        ("A", Err("A".into())),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<Namespaces>(), expected, "{text}");
    }
    let two: Namespaces = "a,b".parse().unwrap();
    assert_eq!([two.cover("a"), two.cover("c"), Namespaces::All.cover("c")], [true, false, true]);
}

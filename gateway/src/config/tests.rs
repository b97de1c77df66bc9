use super::*;
use crate::source::ConfigMapNames;

fn given(text: &str) -> Option<String> {
    Some(text.to_owned())
}

#[test]
fn every_problem_is_told_at_once() {
    let options = Options {
        host: given("nowhere"),
        port: given("70000"),
        mcp_urls: given("http://a/sse, ftp://b, http://u:p@c/, http://a/sse,"),
        jwt_algorithm: given("none"),
        jwt_leeway: given("61"),
        debug: given("perhaps"),
        log_format: given("xml"),
        log_level: given("loud"),
        max_body_bytes: given("12"),
        admin_address: given("9090"),
        ..Options::default()
    };
    let problems = options.check().unwrap_err();
    let settings: Vec<&str> = problems.iter().map(|p| p.split([' ', ',', ':']).next().unwrap()).collect();
    assert_eq!(
        settings,
        [
            "HOST",
            "PORT",
            "ADMIN_ADDRESS",
            "MCP_URLS",
            "MCP_URLS",
            "MCP_URLS",
            "JWT_ALGORITHM",
            "JWT_LEEWAY",
            "DEBUG",
            "LOG_FORMAT",
            "LOG_LEVEL",
            "MAX_BODY_BYTES"
        ]
    );
    assert!(problems.iter().all(|problem| !problem.contains("u:p") && !problem.contains('\n')), "{problems:?}");
}

#[test]
fn memory_is_told_in_bytes_or_as_kubernetes_does() {
    let limit = |text: &str| {
        let options = Options { mcp_urls: given("http://a/"), memory_limit: given(text), ..Options::default() };
        options.check().map(|config| config.memory_limit)
    };
    for (text, bytes) in [("", None), ("268435456", Some(268_435_456)), ("65536Ki", Some(67_108_864))] {
        assert_eq!(limit(text).unwrap(), bytes, "{text}");
    }
    assert_eq!([limit("256Mi").unwrap(), limit("2Gi").unwrap()], [Some(268_435_456), Some(2_147_483_648)]);
    for text in ["1", "63Mi", "256M", "0.5Gi", "-1", "99999999999Gi", "lots"] {
        let problem = format!("MEMORY_LIMIT is {text:?}: it must be a number of bytes such as 256Mi, at least 64Mi");
        assert_eq!(limit(text).unwrap_err(), [problem]);
    }
}

#[test]
fn urls_become_servers_with_short_names() {
    let options = Options {
        mcp_url: given("http://localhost:9000/sse?key=1"),
        mcp_urls: given("http://localhost:9000/sse?key=2,https://api.example.com/"),
        ..Options::default()
    };
    let SourceConfig::Urls(servers) = options.check().unwrap().source else { panic!("urls") };
    let found: Vec<_> = servers.iter().map(|s| (s.name.as_str(), s.label(), s.created)).collect();
    assert_eq!(
        found,
        [
            ("localhost-9000-sse", "http://localhost:9000/sse", 0),
            ("localhost-9000-sse-2", "localhost-9000-sse-2", 1),
            ("api-example-com", "https://api.example.com/", 2)
        ]
    );
}

#[test]
fn a_url_that_is_written_without_a_query_is_shown_for_its_own_server() {
    let options = Options { mcp_urls: given("http://a/sse?key=1,http://a/sse,http://a/sse?"), ..Options::default() };
    let SourceConfig::Urls(servers) = options.check().unwrap().source else { panic!("urls") };
    let labels: Vec<_> = servers.iter().map(|server| server.label()).collect();
    assert_eq!(labels, ["a-sse", "http://a/sse", "a-sse-3"]);
}

#[test]
fn empty_variables_count_as_absent() {
    let options = Options { mcp_urls: given("http://a/"), port: given(""), debug: given(" "), ..Options::default() };
    let config = options.check().unwrap();
    assert_eq!((config.listen.port(), config.log.level.as_str()), (5000, "INFO"));
}

#[test]
fn a_gateway_without_servers_or_with_two_sources_is_refused() {
    assert_eq!(Options::default().check().unwrap_err().len(), 1);
    let both = Options { mcp_urls: given("http://a/"), servers: Some("x".into()), ..Options::default() };
    assert_eq!(both.check().unwrap_err(), ["SERVERS and MCP_URL(S) are both set: keep one of them"]);
    let all = Options { configmaps: given("a"), ..both };
    assert_eq!(all.check().unwrap_err(), ["CONFIGMAPS, SERVERS, MCP_URL(S) are all set: keep one of them"]);
}

#[test]
fn names_of_configmaps_are_read_and_wrong_ones_are_told() {
    let options = Options {
        configmaps: given("p-servers-2-0, p-servers-2-1"),
        configmaps_mounted: Some("/slots".into()),
        namespace: given("mcp"),
        ..Options::default()
    };
    let expected = ConfigMapNames {
        names: vec!["p-servers-2-0".into(), "p-servers-2-1".into()],
        namespace: Some("mcp".into()),
        mounted: Some("/slots".into()),
    };
    assert_eq!(options.check().unwrap().source, SourceConfig::ConfigMaps(expected));

    let wrong = Options { configmaps: given("a,a,,B,x=y"), namespace: given("No"), ..Options::default() };
    assert_eq!(
        wrong.check().unwrap_err(),
        [
            "CONFIGMAPS, entry 2: the name appears twice: keep one",
            "CONFIGMAPS, entry 3: \"\" is not the name of a ConfigMap",
            "CONFIGMAPS, entry 4: \"B\" is not the name of a ConfigMap",
            "CONFIGMAPS, entry 5: \"x=y\" is not the name of a ConfigMap",
            "POD_NAMESPACE is \"No\": it is not the name of a namespace",
        ]
    );
    let lonely = Options { mcp_urls: given("http://a/"), configmaps_mounted: Some("x".into()), ..Options::default() };
    assert_eq!(lonely.check().unwrap_err(), ["CONFIGMAPS_MOUNTED is set without CONFIGMAPS: set that too"]);
}

#[test]
fn addresses_are_guarded_with_configmaps_and_else_when_asked() {
    let guards = |options: Options| options.check().unwrap().guard.special;
    let urls = || Options { mcp_urls: given("http://a/"), ..Options::default() };
    let maps = || Options { configmaps: given("a"), ..Options::default() };
    assert_eq!([guards(urls()), guards(maps())], [false, true]);
    let urls = Options { guard_addresses: given("true"), ..urls() };
    let maps = Options { guard_addresses: given("false"), ..maps() };
    assert_eq!([guards(urls), guards(maps)], [true, false]);
}

#[test]
fn settings_of_addresses_and_credentials_are_read_and_wrong_ones_are_told() {
    let options = Options {
        mcp_urls: given("http://a/"),
        credential_namespaces: given("a, b"),
        allowed_addresses: given("10.0.0.0/8, fd00::1"),
        own_addresses: given("10.1.2.3, gateway.mcp.svc,"),
        ..Options::default()
    };
    let config = options.check().unwrap();
    assert_eq!(config.secrets, SecretsConfig::Cluster("a,b".parse().unwrap()));
    assert_eq!(config.guard.allowed, "10.0.0.0/8,fd00::1".parse().unwrap());
    assert_eq!(config.guard.own, ["10.1.2.3", "gateway.mcp.svc"]);
    let wrong = Options {
        secrets: Some("/".into()),
        allowed_addresses: given("10.0.0.0/33"),
        blocked_addresses: given("localhost"),
        ..options.clone()
    };
    assert_eq!(
        wrong.check().unwrap_err(),
        [
            "SECRETS_DIR and CREDENTIAL_NAMESPACES are both set: keep one of them",
            "ALLOWED_ADDRESSES holds \"10.0.0.0/33\": use addresses or ranges such as 10.0.0.0/8",
            "BLOCKED_ADDRESSES holds \"localhost\": use addresses or ranges such as 10.0.0.0/8",
        ]
    );
    let star = Options { credential_namespaces: given("a,*"), ..options };
    assert_eq!(
        star.check().unwrap_err(),
        ["CREDENTIAL_NAMESPACES holds \"*\": use names of namespaces separated by commas, or * alone"]
    );
}

#[test]
fn settings_of_tls_are_read_and_those_that_miss_another_are_told() {
    let urls = || Options { mcp_urls: given("http://a/"), ..Options::default() };
    let (certificate, key) = (Some("/tls/tls.crt".into()), Some("/tls/tls.key".into()));
    let both = Options { tls_cert_file: certificate.clone(), tls_key_file: key.clone(), ..urls() };
    let files = |clients| TlsFiles { certificate: "/tls/tls.crt".into(), key: "/tls/tls.key".into(), clients };
    assert_eq!((urls().check().unwrap().tls, both.check().unwrap().tls), (None, Some(files(None))));
    for (mode, required) in [(None, true), (given("Required"), true), (given("Optional"), false)] {
        let options = Options { tls_client_ca_file: Some("/ca".into()), tls_client_certificates: mode, ..both.clone() };
        let clients = ClientAuthorities { file: "/ca".into(), required };
        assert_eq!(options.check().unwrap().tls, Some(files(Some(clients))));
    }
    let keys = || Some("/keys".into());
    for (options, problem) in [
        (Options { tls_cert_file: certificate, ..urls() }, "TLS_CERT_FILE is set without TLS_KEY_FILE: set both"),
        (Options { tls_key_file: key, ..urls() }, "TLS_KEY_FILE is set without TLS_CERT_FILE: set both"),
        (
            Options { tls_client_ca_file: Some("/ca".into()), ..urls() },
            "TLS_CLIENT_CA_FILE is set without TLS_CERT_FILE: set TLS_CERT_FILE and TLS_KEY_FILE too",
        ),
        (
            Options { tls_client_certificates: given("optional"), ..both.clone() },
            "TLS_CLIENT_CERTIFICATES is \"optional\": it must be Required or Optional",
        ),
        (
            Options { replica_address: given("http://a:5000"), session_keys: keys(), ..both },
            "REPLICA_ADDRESS is \"http://a:5000\": it must begin with https://, because that is what this gateway speaks",
        ),
    ] {
        assert_eq!(options.check().unwrap_err(), [problem]);
    }
}

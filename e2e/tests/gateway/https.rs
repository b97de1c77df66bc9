//! HTTPS in front of the gateway: callers, certificates that change, and callers that speak something else.

use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::Method;
use portcullis_e2e::certificates::{TestAuthority, TlsFolder};
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway, options};
use portcullis_e2e::http::{self as client, HttpConnection};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ProtocolVersion, RootCertStore, SupportedProtocolVersion};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

const OK: &str = "portcullis_tls_certificate_ok";
const EXPIRES: &str = "portcullis_tls_certificate_expiry_timestamp_seconds";

async fn start(tls: &TlsFolder, server: &Faulty) -> TestGateway {
    let options = Options { mcp_url: Some(server.url()), admin_address: Some("127.0.0.1:0".into()), ..options() };
    let gateway = TestGateway::start(tls.options(options)).await;
    gateway.connected(1).await;
    gateway
}

/// A connection of a client that trusts this authority, with these versions and protocols.
async fn connect(
    gateway: &TestGateway,
    authority: &TestAuthority,
    versions: &[&'static SupportedProtocolVersion],
    protocols: &[&str],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).expect("a certificate")).expect("a root");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions");
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let tcp = TcpStream::connect(gateway.address).await.expect("a connection");
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("127.0.0.1").expect("a name"), tcp).await
}

/// Runs a program that ends by itself, without input. The gateway's own tasks go on meanwhile.
async fn run(mut command: Command) -> Output {
    let running = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output());
    tokio::time::timeout(LIMIT, running).await.expect("in time").expect("no panic").expect("it runs")
}

/// curl's GET of this path.
async fn curl(gateway: &TestGateway, path: &str, more: &[&str]) -> Output {
    let url = format!("{}{path}", gateway.url("").replace("127.0.0.1", "localhost"));
    let arguments = ["--silent", "--show-error", "--ipv4", "--max-time", "10", &url];
    let mut command = Command::new("curl");
    command.args(arguments).args(more);
    run(command).await
}

fn has(program: &str) -> Result<(), String> {
    let found = Command::new(program).arg("version").output();
    found.map(drop).map_err(|_| format!("{program} is not installed"))
}

#[tokio::test]
async fn callers_speak_tls_of_two_versions_and_plain_http_gets_one_sentence_and_nothing_else() {
    let (tls, server) = (TlsFolder::new(), Faulty::start(FaultyMode::Streamable).await);
    let gateway = start(&tls, &server).await;
    for (versions, expected) in [(&[&TLS12], ProtocolVersion::TLSv1_2), (&[&TLS13], ProtocolVersion::TLSv1_3)] {
        let mut stream = connect(&gateway, &tls.authority, versions, &["http/1.1"]).await.expect("a handshake");
        assert_eq!(stream.get_ref().1.protocol_version(), Some(expected));
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.expect("it is sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("it ends with a close_notify");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    assert!(connect(&gateway, &TestAuthority::new(), &[&TLS13], &[]).await.is_err());
    assert!(connect(&gateway, &tls.authority, &[&TLS13], &["spdy/3"]).await.is_err());
    assert_eq!(gateway.call("echo", "{}").await.status, 200);

    let plain = format!("http://{}/tools", gateway.address);
    let refused = client::request(Method::POST, &plain).bearer(&gateway.token).body("{}").send().await;
    let refused = refused.expect("an answer");
    let message = "this port speaks HTTPS alone: write https:// instead of http:// in the URL";
    assert_eq!((refused.status, refused.json()), (400, json!({"error": {"message": message, "code": 400}})));
    gateway.ready().await;
    assert_eq!(gateway.metric(OK).await, Some(1.0));
}

#[tokio::test]
async fn large_bodies_and_answers_go_through_tls_whole() {
    let text = "x".repeat(3 << 20);
    let tls = TlsFolder::new();
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("long", &text)]).await;
    let gateway = start(&tls, &server).await;
    let answer = gateway.call("long", &format!(r#"{{"text":"{}"}}"#, "y".repeat(900_000))).await;
    assert_eq!(answer.status, 200, "{}", answer.text().get(..200).unwrap_or_default());
    assert!(answer.text().contains(&text), "{} bytes", answer.body.len());
}

#[tokio::test]
async fn a_new_certificate_drops_no_connection_and_a_broken_one_leaves_the_last_good_one() {
    let (tls, server) = (TlsFolder::new(), Faulty::start(FaultyMode::Streamable).await);
    let gateway = start(&tls, &server).await;
    let mut kept = HttpConnection::to(&gateway.url("")).await.expect("a connection");
    let first = kept.certificate().expect("TLS");
    let shown = async || HttpConnection::to(&gateway.url("")).await.expect("a connection").certificate();

    tls.renew();
    wait_for("the new certificate", LIMIT, async || shown().await.filter(|shown| *shown != first)).await;
    let second = shown().await.expect("TLS");
    assert_eq!(kept.send(gateway.get("/tools/list")).await.expect("an answer").status, 200, "the old one goes on");

    tls.write("tls.key", "nothing");
    gateway.counts(OK, 0.0).await;
    let problem = format!(
        "TLS_KEY_FILE: {} contains no PEM private key: add one, from BEGIN PRIVATE KEY to END PRIVATE KEY",
        tls.path("tls.key").display()
    );
    let expected = json!({"ok": false, "problems": [problem]});
    wait_for("the problem", LIMIT, async || {
        let health = gateway.health().await;
        if health["configuration"] == expected { Ok(()) } else { Err(health) }
    })
    .await;
    assert_eq!(shown().await, Some(second));
    assert_eq!(kept.send(gateway.get("/tools/list")).await.expect("an answer").status, 200);

    tls.renew();
    gateway.counts(OK, 1.0).await;
    assert_eq!(gateway.health().await["configuration"], json!({"ok": true}));
    assert!(gateway.metric(EXPIRES).await.is_some_and(|seconds| seconds > 2e9));
}

#[tokio::test]
async fn certificates_are_renewed_under_load_without_a_failed_call() {
    let (tls, server) = (TlsFolder::new(), Faulty::start(FaultyMode::Streamable).await);
    let gateway = start(&tls, &server).await;
    let (is_over, calls) = (AtomicBool::new(false), AtomicUsize::new(0));
    let body = r#"{"method":"echo","args":{}}"#;
    // Some callers keep their connection, some open one for each call.
    let caller = async |keeps: bool| {
        let mut kept = HttpConnection::to(&gateway.url("")).await.expect("a connection");
        while !is_over.load(Ordering::Relaxed) {
            if !keeps {
                kept = HttpConnection::to(&gateway.url("")).await.expect("a connection");
            }
            let answer = kept.send(gateway.post(body).limit(LIMIT)).await.expect("an answer");
            assert_eq!(answer.status, 200, "{}", answer.text());
            calls.fetch_add(1, Ordering::Relaxed);
        }
    };
    let renewing = async {
        let shown = async || HttpConnection::to(&gateway.url("")).await.expect("a connection").certificate();
        for _ in 0..3 {
            let before = (shown().await, calls.load(Ordering::Relaxed));
            tls.renew();
            wait_for("the new certificate", LIMIT, async || shown().await != before.0).await;
            wait_for("calls with it", LIMIT, async || calls.load(Ordering::Relaxed) >= before.1 + 20).await;
        }
        is_over.store(true, Ordering::Relaxed);
    };
    tokio::join!(renewing, caller(true), caller(true), caller(false), caller(false));
    assert_eq!(server.seen().calls, calls.load(Ordering::Relaxed) as u64);
}

#[tokio::test]
async fn curl_and_openssl_agree() {
    require!(has("curl").and_then(|()| has("openssl")));
    let (tls, server) = (TlsFolder::new(), Faulty::start(FaultyMode::Streamable).await);
    let gateway = start(&tls, &server).await;
    let authority = tls.path("ca.crt").display().to_string();
    let answered = curl(&gateway, "/health", &["--cacert", &authority, "--fail"]).await;
    assert!(answered.status.success(), "{answered:?}");
    let untrusted = curl(&gateway, "/health", &[]).await;
    assert_eq!(untrusted.status.code(), Some(60), "{untrusted:?}");
    let address = gateway.address.to_string();
    for (version, works) in [("-tls1_1", false), ("-tls1_2", true), ("-tls1_3", true)] {
        let arguments = ["s_client", "-connect", &address, "-CAfile", &authority, "-verify_return_error", version];
        let weak = ["-cipher", "DEFAULT@SECLEVEL=0"];
        let mut command = Command::new("openssl");
        command.args(arguments).args(weak);
        let shaken = run(command).await;
        assert_eq!(shaken.status.success(), works, "{version}: {shaken:?}");
    }
}

/// The HTTP version and the body of curl's answer to this call, with a body of this many bytes.
async fn curl_call(gateway: &TestGateway, path: &str, text: &str, more: &[&str]) -> (String, String) {
    let body = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(body.path(), text).expect("it is written");
    let (token, data) = (format!("authorization: Bearer {}", gateway.token), format!("@{}", body.path().display()));
    let accept = "accept: application/json, text/event-stream";
    let arguments = ["-H", &token, "-H", accept, "-H", "content-type: application/json", "--data-binary", &data];
    let shown = ["--write-out", "\n%{http_code} HTTP/%{http_version}"];
    let answered = curl(gateway, path, &[&arguments[..], &shown, more].concat()).await;
    let text = String::from_utf8_lossy(&answered.stdout).into_owned();
    let (body, version) = text.rsplit_once('\n').unwrap_or_default();
    (version.to_owned(), body.to_owned())
}

#[tokio::test]
async fn http2_is_agreed_on_within_tls_and_known_before_in_clear() {
    require!(has("curl"));
    let (tls, server) = (TlsFolder::new(), Faulty::start(FaultyMode::Streamable).await);
    let authority = tls.path("ca.crt").display().to_string();
    let plain = TestGateway::start(Options { mcp_url: Some(server.url()), ..options() }).await;
    plain.connected(1).await;
    let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "curl", "version": "1"}}});
    let call = json!({"method": "echo", "args": {"text": "x".repeat(300_000)}}).to_string();
    let secured = start(&tls, &server).await;
    for (gateway, more, version) in [
        (&secured, &["--cacert", &authority][..], "HTTP/2"),
        (&secured, &["--cacert", &authority, "--http1.1"], "HTTP/1.1"),
        (&plain, &["--http2-prior-knowledge"], "HTTP/2"),
        // A client that would change to HTTP/2 is answered in HTTP/1.1.
        (&plain, &["--http2"], "HTTP/1.1"),
    ] {
        let (shown, body) = curl_call(gateway, "/tools", &call, more).await;
        assert_eq!((&*shown, body.len() > 300_000), (&*format!("200 {version}"), true), "{more:?}: {body:.200}");
        let (shown, body) = curl_call(gateway, "/mcp", &initialize.to_string(), more).await;
        assert_eq!(shown, format!("200 {version}"), "{more:?}: {body}");
        assert!(body.contains(r#""serverInfo""#), "{body}");
        let (shown, body) = curl_call(gateway, "/tools", "{", more).await;
        assert!(shown.starts_with("400 ") && body.contains(r#""error""#), "{shown} {body}");
    }
}

/// A connection of a client that shows this certificate, if any; `None`: the gateway refuses it.
async fn as_client(gateway: &TestGateway, pair: Option<&portcullis_e2e::certificates::PemPair>) -> Option<String> {
    let certificate = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate");
    let identity = pair.map(|pair| {
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
        (vec![certificate(&pair.certificate)], key)
    });
    let mut connection = HttpConnection::with_certificate(&gateway.url(""), identity).await.ok()?;
    let request = gateway.get("/tools/list").header("x-request-id", "of-client");
    let answer = connection.send(request).await.ok()?;
    assert_eq!(answer.status, 200);
    Some(answer.text().to_owned())
}

#[tokio::test]
async fn client_certificates_are_required_or_optional_and_their_subjects_are_logged() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    for (mode, without) in [("Required", false), ("Optional", true)] {
        let (tls, clients, strangers) = (TlsFolder::new(), TestAuthority::new(), TestAuthority::new());
        tls.write("clients.crt", &clients.pem());
        let options = Options {
            mcp_url: Some(server.url()),
            admin_address: Some("127.0.0.1:0".into()),
            tls_client_ca_file: Some(tls.path("clients.crt")),
            tls_client_certificates: Some(mode.into()),
            ..options()
        };
        let gateway = TestGateway::start(tls.options(options)).await;
        gateway.ready().await;
        assert_eq!(as_client(&gateway, None).await.is_some(), without, "{mode}");
        assert!(as_client(&gateway, Some(&strangers.sign("mallory"))).await.is_none(), "{mode}");
        let seen = gateway.log().matches("client_certificate").count();
        assert_eq!(seen, 0, "{}", gateway.log());
        assert!(as_client(&gateway, Some(&clients.sign("alice"))).await.is_some(), "{mode}");
        wait_for("the subject in the log", LIMIT, async || {
            gateway.log().contains(r#""client_certificate":"CN=alice","#).then_some(())
        })
        .await;
        let url = gateway.url("/tools/list");
        let identity = clients.sign("alice");
        let key = PrivateKeyDer::from_pem_slice(identity.key.as_bytes()).expect("a key");
        let chain = vec![CertificateDer::from_pem_slice(identity.certificate.as_bytes()).expect("a certificate")];
        let mut connection = HttpConnection::with_certificate(&url, Some((chain, key))).await.expect("a connection");
        let answer = connection.send(client::get(&url)).await.expect("an answer");
        assert_eq!(answer.status, 401, "a certificate does not replace the token");
    }
}

#[tokio::test]
async fn half_a_handshake_delays_nobody() {
    let (tls, server) = (TlsFolder::new(), Faulty::start(FaultyMode::Streamable).await);
    let gateway = start(&tls, &server).await;
    let mut silent = Vec::new();
    for bytes in [&b""[..], &b"\x16\x03\x01"[..]].repeat(50) {
        let mut stream = TcpStream::connect(gateway.address).await.expect("a connection");
        stream.write_all(bytes).await.expect("it is sent");
        silent.push(stream);
    }
    let began = tokio::time::Instant::now();
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    let mut ended = Vec::new();
    for stream in &mut silent {
        let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut ended)).await;
        assert!(read.is_ok(), "a handshake has a deadline");
    }
}

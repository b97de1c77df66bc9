//! Servers behind https: the gateway's trust, and its client certificate.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_e2e::fake_secrets::{FakeSecrets, TestSecret};
use portcullis_e2e::faulty::{Faulty, FaultyMode, ProtocolFault};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

/// A certificate authority of the test.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
struct CertificatePair {
    certificate: String,
    key: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        Self { issuer }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    fn pair(&self, name: &str) -> CertificatePair {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("a good name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        CertificatePair { certificate, key: key.serialize_pem() }
    }
}

fn certificate(pem: &str) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pem.as_bytes()).expect("a certificate")
}

/// Ends TLS before a plain server.
struct TlsFront {
    address: SocketAddr,
    /// Handshakes that succeeded.
    accepted: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl TlsFront {
    /// `clients` signs the certificates that callers must have.
    async fn start(backend: SocketAddr, pair: &CertificatePair, clients: Option<&Authority>) -> Self {
        let acceptor = TlsAcceptor::from(Arc::new(server_config(pair, clients)));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let accepted = Arc::new(AtomicU64::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, acceptor, backend, accepted.clone()));
        Self { address, accepted, _tasks: tasks }
    }

    fn url(&self, host: &str, path: &str) -> String {
        format!("https://{host}:{}{path}", self.address.port())
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, backend: SocketAddr, accepted: Arc<AtomicU64>) {
    let mut connections = JoinSet::new();
    while let Ok((plain, _)) = listener.accept().await {
        let (acceptor, accepted) = (acceptor.clone(), accepted.clone());
        connections.spawn(async move {
            let Ok(mut tls) = acceptor.accept(plain).await else { return };
            accepted.fetch_add(1, Ordering::Relaxed);
            let mut behind = TcpStream::connect(backend).await.expect("the backend runs");
            drop(copy_bidirectional(&mut tls, &mut behind).await);
        });
    }
}

fn server_config(pair: &CertificatePair, clients: Option<&Authority>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().expect("the default versions");
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(authority) => {
            let mut roots = RootCertStore::empty();
            roots.add(certificate(&authority.pem())).expect("a root");
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.expect("a verifier"))
        }
    };
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    builder.with_single_cert(vec![certificate(&pair.certificate)], key).expect("a good pair")
}

const CA: &str = "tls: {caRef: {name: backend-ca}}";
const UNTRUSTED: &str = "cannot be reached: the server's certificate is not trusted";

#[tokio::test]
async fn a_server_is_trusted_by_the_authority_that_its_manifest_names() {
    let authority = Authority::new();
    for (mode, path) in [(FaultyMode::Sse, "/sse"), (FaultyMode::Streamable, "/mcp"), (FaultyMode::Modern, "/mcp")] {
        let server = Faulty::start(mode).await;
        let front = TlsFront::start(server.address(), &authority.pair("127.0.0.1"), None).await;
        let manifests = Manifests::new();
        manifests.secret("backend-ca", "ca.crt", &authority.pem());
        manifests.add("one", &front.url("127.0.0.1", path), CA);
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(1).await;
        assert_eq!(gateway.call("echo", "{}").await.status, 200, "{mode:?}");
    }
}

#[tokio::test]
async fn a_server_of_another_authority_or_name_is_not_trusted() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = Faulty::start(FaultyMode::Streamable).await;
    let front = TlsFront::start(server.address(), &authority.pair("mcp.internal"), None).await;
    let manifests = Manifests::new();
    manifests.secret("backend-ca", "ca.crt", &authority.pem());
    manifests.secret("other-ca", "ca.crt", &other.pem());
    manifests.secret("no-ca", "ca.crt", "nothing");
    let url = front.url("127.0.0.1", "/mcp");
    let missing = "cannot read gone/ca.crt in the folder of Secrets: put the value into the file gone/ca.crt there";
    let broken =
        "tls.caRef: no-ca/ca.crt contains no PEM certificate: add one, from BEGIN CERTIFICATE to END CERTIFICATE";
    let cases = [
        ("system", "", UNTRUSTED),
        ("other", "tls: {serverName: mcp.internal, caRef: {name: other-ca}}", UNTRUSTED),
        ("name", CA, UNTRUSTED),
        ("wrong-name", "tls: {serverName: mcp.external, caRef: {name: backend-ca}}", UNTRUSTED),
        ("broken", "tls: {caRef: {name: no-ca}}", broken),
        ("missing", "tls: {caRef: {name: gone}}", missing),
    ];
    for (name, more, _) in cases {
        manifests.add(name, &url, more);
    }
    let gateway = TestGateway::start(manifests.options()).await;
    for (name, _, problem) in cases {
        gateway.fails(name, problem).await;
    }
    assert_eq!((front.accepted.load(Ordering::Relaxed), server.seen().connections), (0, 0));

    manifests.add(
        "good",
        &url,
        "tls: {serverName: mcp.internal, caRef: {kind: Secret, name: backend-ca, key: ca.crt}}",
    );
    manifests.add("careless", &url, "tls: {insecureSkipVerify: true}");
    gateway.connected(2).await;
    for name in ["good", "careless"] {
        assert_eq!(gateway.call_at(name, "echo", "{}").await.header("x-portcullis-server"), name);
    }
}

#[tokio::test]
async fn a_server_that_demands_a_certificate_gets_the_one_of_its_manifest() {
    let (servers, clients, strangers) = (Authority::new(), Authority::new(), Authority::new());
    let server = Faulty::start(FaultyMode::Sse).await;
    let front = TlsFront::start(server.address(), &servers.pair("localhost"), Some(&clients)).await;
    let manifests = Manifests::new();
    manifests.secret("backend-ca", "ca.crt", &servers.pem());
    for (name, authority) in [("mine", &clients), ("theirs", &strangers)] {
        let pair = authority.pair("portcullis");
        manifests.secret(name, "tls.crt", &pair.certificate);
        manifests.secret(name, "tls.key", &pair.key);
    }
    manifests.secret("half", "tls.crt", &clients.pair("portcullis").certificate);
    manifests.secret("half", "tls.key", "nothing");
    let url = front.url("localhost", "/sse");
    let with = |secret: &str| format!("tls: {{caRef: {{name: backend-ca}}, clientCertRef: {{name: {secret}}}}}");
    manifests.add("half", &url, &with("half"));
    manifests.add("none", &url, CA);
    manifests.add("theirs", &url, &with("theirs"));
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.fails("half", "tls.clientCertRef: half/tls.crt and its tls.key are not a usable pair: put a certificate and its key there, in PEM").await;
    for name in ["none", "theirs"] {
        wait_for("a refusal", LIMIT, async || {
            let view = gateway.server(name).await;
            if view["last_error"].is_string() && view["connected"] == false { Ok(()) } else { Err(view) }
        })
        .await;
    }
    assert_eq!((front.accepted.load(Ordering::Relaxed), server.seen().connections), (0, 0));
    manifests.add("mine", &url, &with("mine"));
    gateway.connected(1).await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
}

#[tokio::test]
async fn a_new_certificate_in_the_folder_is_used_by_a_new_session() {
    let (old, new) = (Authority::new(), Authority::new());
    let server = Faulty::start(FaultyMode::Streamable).await;
    let front = TlsFront::start(server.address(), &new.pair("127.0.0.1"), None).await;
    let manifests = Manifests::new();
    manifests.secret("backend-ca", "ca.crt", &old.pem());
    manifests.add("one", &front.url("127.0.0.1", "/mcp"), CA);
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.fails("one", UNTRUSTED).await;
    manifests.secret("backend-ca", "ca.crt", &new.pem());
    gateway.connected(1).await;
    let before = server.seen().initializes;
    manifests.secret("backend-ca", "ca.crt", &format!("{}{}", new.pem(), old.pem()));
    wait_for("a new session", LIMIT, async || server.seen().initializes > before).await;
    gateway.connected(1).await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
}

#[tokio::test]
async fn what_is_taken_back_ends_the_old_session_while_a_new_one_is_still_being_opened() {
    let (authority, another) = (Authority::new(), Authority::new());
    let server = Faulty::start(FaultyMode::Streamable).await;
    let front = TlsFront::start(server.address(), &authority.pair("127.0.0.1"), None).await;
    let (manifests, api, url) = (Manifests::new(), FakeSecrets::start().await, front.url("127.0.0.1", "/mcp"));
    let origin = front.url("127.0.0.1", "");
    let secret = |name: &str, key: &str, value: &str, labelled: bool| {
        api.put(&TestSecret { namespace: "default", name, labelled, origin: &origin, entry: (key, value) });
    };
    secret("ca", "ca.crt", &authority.pem(), true);
    secret("token", "token", "hunter2", true);
    let more = "tls: {caRef: {kind: Secret, name: ca}}\n\
                timeouts: {connectSeconds: 60}\n\
                headers: [{name: Authorization, secretRef: {name: token, key: token}}]";
    manifests.add("one", &url, more);
    let options = Options {
        secrets: None,
        credential_namespaces: Some("default".into()),
        kubeconfig: Some(api.kubeconfig()),
        ..manifests.options()
    };
    let gateway = TestGateway::start(options).await;
    gateway.connected(1).await;

    let before = server.seen().initializes;
    server.behave(|behaviour| behaviour.init = ProtocolFault::Never);
    secret("ca", "ca.crt", &format!("{}{}", authority.pem(), another.pem()), true);
    wait_for("the attempt of a new session", LIMIT, async || server.seen().initializes > before).await;
    assert_eq!(gateway.call("echo", "{}").await.status, 200);
    secret("token", "token", "hunter2", false);
    wait_for("the end of the old session", LIMIT, async || {
        let view = gateway.server("one").await;
        if view["connected"] == false && view["reason"] == "SecretNotLabelled" { Ok(()) } else { Err(view) }
    })
    .await;
}

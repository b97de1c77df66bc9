//! Somebody between two replicas who ends TLS with a certificate of their own.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_e2e::certificates::{PemPair, TlsFolder};
use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::port;
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use portcullis_mcp::http1::pinned::PinnedCertificate;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ServerConfig};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::kit::{TestSession, done};
use crate::owner::{KEYS, replica};

fn acceptor(pair: &PemPair) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).expect("a key");
    let certificate = CertificateDer::from_pem_slice(pair.certificate.as_bytes()).expect("a certificate");
    let config = builder.expect("versions").with_no_client_auth().with_single_cert(vec![certificate], key);
    TlsAcceptor::from(Arc::new(config.expect("a good pair")))
}

fn connector() -> TlsConnector {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let builder = builder.expect("versions").dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(PinnedCertificate::learning()));
    TlsConnector::from(Arc::new(builder.with_no_client_auth()))
}

/// Passes everything on, and keeps the first bytes that each connection brings.
async fn intercept(listener: TcpListener, pair: PemPair, owner: std::net::SocketAddr, seen: Arc<Mutex<String>>) {
    let (acceptor, connector) = (acceptor(&pair), connector());
    while let Ok((plain, _)) = listener.accept().await {
        let Ok(mut front) = acceptor.accept(plain).await else { continue };
        let name = ServerName::try_from("127.0.0.1").expect("a name");
        let behind = TcpStream::connect(owner).await.expect("the owner runs");
        let mut behind = connector.connect(name, behind).await.expect("a handshake");
        let mut buffer = [0; 4096];
        let length = front.read(&mut buffer).await.unwrap_or_default();
        seen.lock().unwrap_or_else(PoisonError::into_inner).push_str(&String::from_utf8_lossy(&buffer[..length]));
        behind.write_all(&buffer[..length]).await.expect("it is sent");
        behind.flush().await.expect("it is sent");
        drop(copy_bidirectional(&mut front, &mut behind).await);
    }
}

#[tokio::test]
async fn who_passes_on_the_proof_of_a_replica_with_another_certificate_gets_no_token() {
    let (server, manifests, tls) = (Conforming::start().await, Manifests::new(), TlsFolder::new());
    manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "protocolVersion: \"2025-11-25\"");
    std::fs::write(manifests.secrets().join("../keys"), KEYS).expect("a file");
    let between = port::hold();
    let address = format!("https://127.0.0.1:{}", between.port());
    let intercepted = Options { replica_address: Some(address), ..replica(&manifests, 0) };
    let owner = TestGateway::start(tls.options(intercepted)).await;
    let other = TestGateway::start(tls.options(replica(&manifests, 0))).await;
    owner.connected(1).await;
    other.connected(1).await;
    let seen = Arc::new(Mutex::new(String::new()));
    let pair = tls.authority.sign("gateway");
    let between = intercept(between.listen().await, pair, owner.address, seen.clone());
    let asking = async {
        let session = TestSession::begin(&owner, "/mcp").await;
        let watched = json!({"uri": "test://watched-resource"});
        assert_eq!(session.ask(&other, "resources/subscribe", watched).await, done());
        other.counts(r#"portcullis_requests_handed_on_total{outcome="unreachable"}"#, 1.0).await;
    };
    tokio::select! {
        () = between => panic!("it listens for ever"),
        () = asking => {}
    }
    let seen = wait_for("the riddle", LIMIT, async || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (!seen.is_empty()).then_some(seen)
    })
    .await;
    assert!(seen.starts_with("GET /.well-known/portcullis-replica?"), "{seen}");
    assert!(!seen.contains(&other.token) && !seen.to_lowercase().contains("authorization"), "{seen}");
}

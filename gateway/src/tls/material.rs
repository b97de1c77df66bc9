//! Contents of files → TLS settings, or what is wrong with them. Pure.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_runtime::serve::TlsSettings;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig, SignatureScheme};

use super::{ClientAuthorities, TlsFiles, x509};

/// The protocols above TLS, the preferred one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// What the files contain.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) certificate: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) clients: Option<Vec<u8>>,
}

/// What is made of the contents.
pub(super) struct Material {
    pub(super) settings: TlsSettings,
    pub(super) key: Arc<CertifiedKey>,
    pub(super) expires: SystemTime,
}

/// Accepts clients whose certificates the configured authorities have signed, and other replicas, which show the
/// gateway's own.
#[derive(Debug)]
struct ClientsAndReplicas {
    clients: Arc<dyn ClientCertVerifier>,
    replicas: Vec<CertificateDer<'static>>,
}

impl Material {
    /// Makes settings. `shown`: certificates that other replicas may still show.
    ///
    /// # Errors
    /// One sentence, without any of the contents.
    pub(super) fn new(
        files: &TlsFiles,
        contents: &Contents,
        shown: &[CertificateDer<'static>],
    ) -> Result<Self, String> {
        let path = files.certificate.display();
        let chain = certificates("TLS_CERT_FILE", &files.certificate, &contents.certificate)?;
        let leaf = chain.first().cloned().ok_or_else(|| format!("TLS_CERT_FILE: {path} contains no certificate"))?;
        let broken = || format!("TLS_CERT_FILE: {path} contains a certificate that cannot be read: issue it again");
        let expires = x509::not_after(&leaf).ok_or_else(broken)?;
        let provider = Arc::new(aws_lc_rs::default_provider());
        let key = PrivateKeyDer::from_pem_slice(&contents.key).map_err(|_| {
            format!(
                "TLS_KEY_FILE: {} contains no PEM private key: add one, from BEGIN PRIVATE KEY to END PRIVATE KEY",
                files.key.display()
            )
        })?;
        let unusable = |_| {
            format!(
                "TLS_KEY_FILE: {} is not the key of the certificate in {path}: put a certificate and its own key there",
                files.key.display()
            )
        };
        let key = CertifiedKey::from_der(chain, key, &provider).map_err(unusable)?;
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| format!("TLS_CERT_FILE: {path} cannot be used: {error}"))?;
        let builder = match (&files.clients, &contents.clients) {
            (Some(authorities), Some(pem)) => {
                let replicas = [&[leaf.clone()][..], shown].concat();
                builder.with_client_cert_verifier(verifier(authorities, pem, replicas)?)
            }
            _ => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key.clone())));
        config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
        // Clients keep their sessions, sealed with a key of these settings: a new certificate or authority ends them.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = aws_lc_rs::Ticketer::new().map_err(|_| "the system gives no random bytes".to_owned())?;
        config.send_tls13_tickets = 1;
        let settings = TlsSettings { config: Arc::new(config), certificate: Arc::new(leaf) };
        Ok(Self { settings, key: Arc::new(key), expires })
    }
}

fn verifier(
    authorities: &ClientAuthorities,
    pem: &[u8],
    replicas: Vec<CertificateDer<'static>>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let path = authorities.file.display();
    let broken = || format!("TLS_CLIENT_CA_FILE: {path} contains a certificate that is no authority: replace it");
    let mut roots = RootCertStore::empty();
    for certificate in certificates("TLS_CLIENT_CA_FILE", &authorities.file, pem)? {
        roots.add(certificate).map_err(|_| broken())?;
    }
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if authorities.required { builder } else { builder.allow_unauthenticated() };
    let clients = builder.build().map_err(|_| broken())?;
    Ok(Arc::new(ClientsAndReplicas { clients, replicas }))
}

fn certificates(setting: &str, path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    all.ok().filter(|all| !all.is_empty()).ok_or_else(|| {
        format!(
            "{setting}: {} contains no PEM certificate: add one, from BEGIN CERTIFICATE to END CERTIFICATE",
            path.display()
        )
    })
}

impl ClientCertVerifier for ClientsAndReplicas {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.clients.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        shown: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // The handshake proves that the other has its key.
        if self.replicas.iter().any(|own| own == shown) {
            return Ok(ClientCertVerified::assertion());
        }
        self.clients.verify_client_cert(shown, chain, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls12_signature(message, shown, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        shown: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.clients.verify_tls13_signature(message, shown, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.clients.supported_verify_schemes()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.clients.client_auth_mandatory()
    }
}

//! Certificates of a test: an authority, and the files that a gateway reads.

use std::fs;
use std::path::PathBuf;

use portcullis_gateway::Options;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};

/// An authority that signs certificates.
#[derive(Debug)]
pub struct TestAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate and its key, in PEM.
#[derive(Clone, Debug)]
pub struct PemPair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

/// A folder with `tls.crt`, `tls.key` and `ca.crt`, as Kubernetes mounts a Secret of cert-manager.
#[derive(Debug)]
pub struct TlsFolder {
    folder: tempfile::TempDir,
    /// Signs what is in the folder.
    pub authority: TestAuthority,
}

impl Default for TestAuthority {
    fn default() -> Self {
        Self::new()
    }
}

impl TestAuthority {
    /// A new one.
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are good names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate");
        Self { issuer }
    }

    /// Its certificate.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for 127.0.0.1 and localhost with this common name.
    pub fn sign(&self, name: &str) -> PemPair {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec!["127.0.0.1".into(), "localhost".into()]).expect("good names");
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate").pem();
        PemPair { certificate, key: key.serialize_pem() }
    }
}

impl Default for TlsFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl TlsFolder {
    /// With a first certificate.
    pub fn new() -> Self {
        let tls = Self { folder: tempfile::tempdir().expect("a folder"), authority: TestAuthority::new() };
        tls.write("ca.crt", &tls.authority.pem());
        tls.renew();
        tls
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a file.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
    }

    /// Replaces the certificate and its key by new ones.
    pub fn renew(&self) {
        let pair = self.authority.sign("gateway");
        self.write("tls.crt", &pair.certificate);
        self.write("tls.key", &pair.key);
    }

    /// These options with HTTPS.
    pub fn options(&self, options: Options) -> Options {
        Options { tls_cert_file: Some(self.path("tls.crt")), tls_key_file: Some(self.path("tls.key")), ..options }
    }
}

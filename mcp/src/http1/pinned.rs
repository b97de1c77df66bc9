//! TLS to a peer whose certificate no authority vouches for: any, or the one that is pinned. The peer always proves that it
//! holds the key.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{CertificateError, DigitallySignedStruct, SignatureScheme};

/// The only certificate that a peer may show. While there is none, no peer is accepted, unless the first one is learnt.
pub struct PinnedCertificate {
    certificate: Mutex<Option<CertificateDer<'static>>>,
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

/// What a peer may show.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trust {
    /// The pinned certificate.
    Pinned,
    /// The first one, which is pinned then.
    First,
    /// Any certificate: none is pinned.
    Any,
}

impl Default for PinnedCertificate {
    fn default() -> Self {
        Self::with(Trust::Pinned)
    }
}

impl PinnedCertificate {
    fn with(trust: Trust) -> Self {
        Self { certificate: Mutex::default(), trust, provider: Arc::new(aws_lc_rs::default_provider()) }
    }

    /// Takes the first certificate that is shown.
    pub fn learning() -> Self {
        Self::with(Trust::First)
    }

    /// Takes any certificate.
    pub(super) fn any() -> Self {
        Self::with(Trust::Any)
    }

    /// The certificate, if there is one.
    pub fn get(&self) -> Option<CertificateDer<'static>> {
        self.certificate.lock().clone()
    }

    /// Lets new connections accept this one only.
    pub fn set(&self, certificate: CertificateDer<'static>) {
        *self.certificate.lock() = Some(certificate);
    }
}

impl fmt::Debug for PinnedCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PinnedCertificate").finish_non_exhaustive()
    }
}

impl ServerCertVerifier for PinnedCertificate {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let mut pinned = self.certificate.lock();
        if pinned.is_none() && self.trust == Trust::First {
            *pinned = Some(shown.clone().into_owned());
        }
        if self.trust == Trust::Any || pinned.as_deref() == Some(&**shown) {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_accepted_only_if_it_is_the_pinned_one() {
        let [first, second] = [&b"first"[..], b"second"].map(|bytes| CertificateDer::from(bytes.to_vec()));
        let name = ServerName::try_from("10.0.0.1").unwrap();
        let accepts = |pin: &PinnedCertificate, shown: &CertificateDer<'_>| {
            pin.verify_server_cert(shown, &[], &name, &[], UnixTime::now()).is_ok()
        };
        let strict = PinnedCertificate::default();
        assert!(!accepts(&strict, &first), "none is pinned");
        strict.set(first.clone());
        assert_eq!((accepts(&strict, &first), accepts(&strict, &second)), (true, false));
        let learning = PinnedCertificate::learning();
        assert_eq!((accepts(&learning, &second), accepts(&learning, &first)), (true, false));
        assert_eq!(learning.get().as_ref(), Some(&second));
        let any = PinnedCertificate::any();
        assert_eq!((accepts(&any, &first), accepts(&any, &second), any.get()), (true, true, None));
    }
}

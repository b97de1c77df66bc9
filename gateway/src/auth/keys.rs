//! Keys that check signatures, each bound to the one algorithm that it may be used for.
use aws_lc_rs::{rsa, signature as sig};
use base64::{Engine, engine::general_purpose::STANDARD};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Validation};

use super::Secret;

/// The number of keys of one algorithm that are tried on a token before it is refused: each costs a computation.
const MAX_TRIES: usize = 4;
/// RSA keys below this size are breakable (NIST SP 800-131A).
const MIN_RSA_BITS: usize = 2048;
/// The longest RSA key that aws-lc supports.
const MAX_RSA_BITS: usize = 8192;

/// A problem of one public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFault {
    /// The file is not a PEM file with a public key.
    #[error("is not a PEM file with one 'PUBLIC KEY' block (to get one: openssl pkey -pubout, openssl x509 -pubkey)")]
    NotPem,
    /// A private key instead of a public one.
    #[error("holds a private key: give the public one (openssl pkey -pubout) and keep the private one away from here")]
    Private,
    /// A shared secret instead of a public key.
    #[error("is a shared secret (kty oct), with which anyone who can read the set could sign tokens")]
    Shared,
    /// The key is invalid, or of another kind than the algorithm's.
    #[error("is not a valid public key for the configured algorithm")]
    Unfit,
    /// The key is marked for a use other than signatures.
    #[error("is not meant for verifying signatures (use, key_ops)")]
    Use,
    /// The key is marked for an algorithm that is not accepted.
    #[error("is meant for another algorithm (alg)")]
    Algorithm,
    /// An RSA key of an unacceptable size.
    #[error("has an RSA key of {0} bits: it must have 2048 to 8192")]
    RsaSize(usize),
}

/// The keys of one issuer.
#[derive(Debug, Default)]
pub(crate) struct KeySet(pub(super) Vec<VerificationKey>);

/// One key for one algorithm.
#[derive(Debug)]
pub(super) struct VerificationKey {
    /// The `kid` that tokens of this key carry; a key without one may have signed any token.
    pub(super) id: Option<String>,
    pub(super) algorithm: Algorithm,
    pub(super) decoding: DecodingKey,
    /// Fixed when the key is loaded, so that a token cannot influence it.
    pub(super) validation: Validation,
}

impl VerificationKey {
    fn new(id: Option<String>, algorithm: Algorithm, decoding: DecodingKey) -> Self {
        Self { id, algorithm, decoding, validation: signature_only(algorithm) }
    }

    /// Accepts a public key in one of the forms of its kind: SubjectPublicKeyInfo (RFC 5280) or, for RSA, RFC 8017, for
    /// elliptic curves, the uncompressed point, for Ed25519, the 32 bytes.
    pub(super) fn public(id: Option<String>, algorithm: Algorithm, bytes: &[u8]) -> Result<Self, KeyFault> {
        let decoding = match algorithm.family() {
            AlgorithmFamily::Hmac => return Err(KeyFault::Algorithm),
            AlgorithmFamily::Rsa => rsa_key(bytes)?,
            AlgorithmFamily::Ec => {
                let curve = match algorithm {
                    Algorithm::ES256 => &sig::ECDSA_P256_SHA256_FIXED,
                    _ => &sig::ECDSA_P384_SHA384_FIXED,
                };
                sig::ParsedPublicKey::new(curve, bytes).map_err(|_| KeyFault::Unfit)?;
                DecodingKey::from_ec_der(bytes)
            }
            AlgorithmFamily::Ed => {
                sig::ParsedPublicKey::new(&sig::ED25519, bytes).map_err(|_| KeyFault::Unfit)?;
                DecodingKey::from_ed_der(bytes)
            }
        };
        Ok(Self::new(id, algorithm, decoding))
    }
}

impl KeySet {
    /// The single shared secret. `algorithm` must be an HS one, or no token will ever match.
    pub(crate) fn from_secret(secret: &Secret, algorithm: Algorithm) -> Self {
        Self(vec![VerificationKey::new(None, algorithm, DecodingKey::from_secret(secret.expose()))])
    }

    /// The single public key of a PEM file.
    ///
    /// # Errors
    /// The reason the key is unusable for `algorithm`.
    pub(crate) fn from_public_pem(pem: &[u8], algorithm: Algorithm) -> Result<Self, KeyFault> {
        Ok(Self(vec![VerificationKey::public(None, algorithm, &public_der(pem)?)?]))
    }

    /// Whether there is no key.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The keys that may have signed a token with this algorithm and `kid`, the likeliest first, at most four.
    pub(super) fn candidates<'a>(&'a self, algorithm: Algorithm, kid: Option<&str>) -> Vec<&'a VerificationKey> {
        let fitting = || self.0.iter().filter(|key| key.algorithm == algorithm);
        let Some(kid) = kid else { return fitting().take(MAX_TRIES).collect() };
        let named = fitting().filter(|key| key.id.as_deref() == Some(kid));
        let nameless = fitting().filter(|key| key.id.is_none());
        named.chain(nameless).take(MAX_TRIES).collect()
    }
}

/// The library checks only the algorithm and the signature; `claims` checks the claims.
///
/// The library reads the system's clock, lets a required issuer be one of a list, and refuses a token with an audience
/// if none is configured; so all of its claim checks are replaced, not just disabled.
fn signature_only(algorithm: Algorithm) -> Validation {
    let mut validation = Validation::new(algorithm);
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

fn rsa_key(der: &[u8]) -> Result<DecodingKey, KeyFault> {
    let key = rsa::PublicKey::from_der(der).map_err(|_| KeyFault::Unfit)?;
    let modulus = sig::RsaPublicKeyComponents::<Vec<u8>>::from(&key).n;
    let bits = modulus.len() * 8 - modulus.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
        return Err(KeyFault::RsaSize(bits));
    }
    Ok(DecodingKey::from_rsa_der(key.as_ref()))
}

/// The content of the one `PUBLIC KEY` (or `RSA PUBLIC KEY`) block of a PEM file.
fn public_der(pem: &[u8]) -> Result<Vec<u8>, KeyFault> {
    let text = str::from_utf8(pem).map_err(|_| KeyFault::NotPem)?;
    if text.contains("PRIVATE KEY-----") {
        return Err(KeyFault::Private);
    }
    let (_, block) = text.split_once("-----BEGIN ").ok_or(KeyFault::NotPem)?;
    let (label, block) = block.split_once("-----").ok_or(KeyFault::NotPem)?;
    if !matches!(label, "PUBLIC KEY" | "RSA PUBLIC KEY") {
        return Err(KeyFault::NotPem);
    }
    let (body, rest) = block.split_once(&format!("-----END {label}-----")).ok_or(KeyFault::NotPem)?;
    if rest.contains("-----BEGIN ") {
        return Err(KeyFault::NotPem);
    }
    let body: String = body.split_ascii_whitespace().collect();
    let der = STANDARD.decode(body).map_err(|_| KeyFault::NotPem)?;
    // A bare point or 32 bare bytes are accepted from a JWKS, but not in a PEM file.
    let is_sequence = der.first() == Some(&0x30) && der.len() > 32;
    if is_sequence { Ok(der) } else { Err(KeyFault::NotPem) }
}

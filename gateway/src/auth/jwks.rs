//! Parses a JSON Web Key Set (RFC 7517), keeping only keys for signatures of accepted algorithms.
use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    signature::RsaPublicKeyComponents,
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{KeyFault, KeySet, keys::VerificationKey};

/// Far above the keys of any issuer.
const MAX_KEYS: usize = 100;

/// The reason a whole key set is unusable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not a JSON object with a list `keys`.
    #[error("is not a JSON Web Key Set: an object with a list named 'keys'")]
    NotASet,
    /// More than 100 keys.
    #[error("has more than 100 keys")]
    TooMany,
    /// Every key was left out.
    #[error("has no usable key{}", reasons(.0))]
    NoneUsable(Vec<Skipped>),
}

/// An unused key of a set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key {number} {fault}")]
pub struct Skipped {
    /// The position of the key in the set, from 1.
    pub(crate) number: usize,
    /// The reason it is not used.
    pub(crate) fault: KeyFault,
}

#[derive(Deserialize)]
struct Set<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Takes the keys of a set that can check signatures of these algorithms, and returns the keys that were skipped.
    ///
    /// A key that does not name its algorithm serves every one of `algorithms` that it fits.
    ///
    /// # Errors
    /// The text is not a key set, has too many keys, or no usable one.
    pub(crate) fn from_jwks(json: &[u8], algorithms: &[Algorithm]) -> Result<(Self, Vec<Skipped>), JwksError> {
        let set: Set<'_> = serde_json::from_slice(json).map_err(|_| JwksError::NotASet)?;
        if set.keys.len() > MAX_KEYS {
            return Err(JwksError::TooMany);
        }
        let (mut keys, mut skipped) = (Vec::new(), Vec::new());
        for (index, raw) in set.keys.iter().enumerate() {
            match read(raw.get(), algorithms) {
                Ok(read) => keys.extend(read),
                Err(fault) => skipped.push(Skipped { number: index + 1, fault }),
            }
        }
        if keys.is_empty() { Err(JwksError::NoneUsable(skipped)) } else { Ok((Self(keys), skipped)) }
    }
}

/// One entry of a set, once for each algorithm that it serves.
fn read(json: &str, algorithms: &[Algorithm]) -> Result<Vec<VerificationKey>, KeyFault> {
    let jwk: Jwk = serde_json::from_str(json).map_err(|_| KeyFault::Unfit)?;
    if jwk.kty == "oct" {
        return Err(KeyFault::Shared);
    }
    if !jwk.is_for_signatures() {
        return Err(KeyFault::Use);
    }
    let mut fitting = algorithms.iter().copied().filter(|algorithm| jwk.may_serve(*algorithm)).peekable();
    if fitting.peek().is_none() {
        return Err(KeyFault::Algorithm);
    }
    let bytes = jwk.bytes()?;
    fitting.map(|algorithm| VerificationKey::public(jwk.kid.clone(), algorithm, &bytes)).collect()
}

impl Jwk {
    fn is_for_signatures(&self) -> bool {
        let operation = |operations: &Vec<String>| operations.iter().any(|operation| operation == "verify");
        self.r#use.as_deref().is_none_or(|r#use| r#use == "sig") && self.key_ops.as_ref().is_none_or(operation)
    }

    fn may_serve(&self, algorithm: Algorithm) -> bool {
        let (kty, curve) = match algorithm {
            Algorithm::ES256 => ("EC", Some("P-256")),
            Algorithm::ES384 => ("EC", Some("P-384")),
            Algorithm::EdDSA => ("OKP", Some("Ed25519")),
            _ if algorithm.family() == AlgorithmFamily::Rsa => ("RSA", None),
            _ => return false,
        };
        let named = self.alg.as_deref().is_none_or(|name| name == format!("{algorithm:?}"));
        named && self.kty == kty && curve.is_none_or(|curve| self.crv.as_deref() == Some(curve))
    }

    /// The key in a form that [`VerificationKey::public`] accepts.
    fn bytes(&self) -> Result<Vec<u8>, KeyFault> {
        match self.kty.as_str() {
            "RSA" => rsa_der(&part(self.n.as_ref())?, &part(self.e.as_ref())?),
            "EC" => {
                let (x, y) = (part(self.x.as_ref())?, part(self.y.as_ref())?);
                // Both coordinates of a point have equal length; otherwise one could be read as part of the other.
                if x.len() != y.len() {
                    return Err(KeyFault::Unfit);
                }
                Ok([&[0x04], x.as_slice(), y.as_slice()].concat())
            }
            _ => part(self.x.as_ref()),
        }
    }
}

fn part(text: Option<&String>) -> Result<Vec<u8>, KeyFault> {
    let text = text.ok_or(KeyFault::Unfit)?;
    URL_SAFE_NO_PAD.decode(text).map_err(|_| KeyFault::Unfit)
}

/// Some issuers write a leading zero byte, which RFC 7518 forbids and which changes nothing.
fn rsa_der(n: &[u8], e: &[u8]) -> Result<Vec<u8>, KeyFault> {
    let stripped = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let components = RsaPublicKeyComponents { n: stripped(n), e: stripped(e) };
    let der: PublicKeyX509Der<'_> = components.as_der().map_err(|_| KeyFault::Unfit)?;
    Ok(der.as_ref().to_vec())
}

fn reasons(skipped: &[Skipped]) -> String {
    // Three reasons help; a hundred would hide the next problem.
    let told: Vec<String> = skipped.iter().take(3).map(ToString::to_string).collect();
    if told.is_empty() { String::new() } else { format!(": {}", told.join("; ")) }
}

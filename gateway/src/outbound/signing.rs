//! The keys that sign assertions, and the public part by which servers verify them.
//!
//! Pure. Errors never contain any part of a key.

use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use thiserror::Error;

use crate::key_file::FileKeys;

/// Far above the need of any rotation.
const MAX_KEYS: usize = 16;

/// The first byte of a point that is not compressed (SEC 1, section 2.3.3).
const UNCOMPRESSED: u8 = 4;

/// At least one key; the first signs, all are published.
pub(crate) struct SigningKeys {
    keys: Vec<SigningKey>,
    /// The JSON Web Key Set of all public keys.
    published: String,
}

/// One key, ready for use.
struct SigningKey {
    pair: Pair,
    /// The thumbprint of its public key (RFC 7638).
    id: String,
    /// The header of its assertions, encoded, with the dot behind it.
    header: String,
    public: Value,
}

enum Pair {
    /// ECDSA with P-256 and SHA-256.
    Es256(EcdsaKeyPair),
    /// Ed25519.
    EdDsa(Ed25519KeyPair),
}

/// The reason a text contains no valid keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SigningKeysError {
    /// There is no private key.
    #[error(
        "contains no private key: write PEM keys, as made by 'openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256'"
    )]
    None,
    /// There are more than `MAX_KEYS`.
    #[error("contains more than {MAX_KEYS} keys: remove the old ones")]
    TooMany,
    /// The text is not valid PEM.
    #[error("key {0}: it is not valid PEM")]
    Pem(usize),
    /// A key of another kind.
    #[error("key {0}: it is neither of P-256 (for ES256) nor of Ed25519 (for EdDSA)")]
    Kind(usize),
    /// A key is there twice.
    #[error("key {0}: the same key appears twice: remove one")]
    Twice(usize),
}

impl SigningKeys {
    /// Parses PEM keys, PKCS #8 or SEC 1; ignores everything else in the text.
    ///
    /// # Errors
    /// The first problem of the text.
    pub(crate) fn parse(pem: &[u8]) -> Result<Self, SigningKeysError> {
        let mut keys: Vec<SigningKey> = Vec::new();
        for (der, number) in PrivateKeyDer::pem_slice_iter(pem).zip(1..) {
            if number > MAX_KEYS {
                return Err(SigningKeysError::TooMany);
            }
            let der = der.map_err(|_| SigningKeysError::Pem(number))?;
            let key = SigningKey::of(der.secret_der()).ok_or(SigningKeysError::Kind(number))?;
            if keys.iter().any(|other| other.id == key.id) {
                return Err(SigningKeysError::Twice(number));
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(SigningKeysError::None);
        }
        let published = json!({ "keys": keys.iter().map(|key| &key.public).collect::<Vec<_>>() }).to_string();
        Ok(Self { keys, published })
    }

    /// The JSON Web Key Set (RFC 7517) of all public keys.
    pub(crate) fn published(&self) -> &str {
        &self.published
    }

    /// The algorithms of the keys, each once.
    pub(crate) fn algorithms(&self) -> Vec<&'static str> {
        let mut all: Vec<&'static str> = self.keys.iter().map(|key| key.pair.algorithm()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// A signed JSON Web Token with these claims, a JSON object; `None` if the system fails to sign.
    pub(crate) fn sign(&self, claims: &str) -> Option<String> {
        let key = self.keys.first()?;
        let mut token = key.header.clone();
        URL_SAFE_NO_PAD.encode_string(claims, &mut token);
        let signature = key.pair.sign(token.as_bytes())?;
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        Some(token)
    }
}

impl FileKeys for SigningKeys {
    const SETTING: &'static str = "ASSERTION_KEYS_FILE";
    const WHAT: &'static str = "assertion keys";
    const MAX_BYTES: u64 = 64 * 1024;

    fn of_file(bytes: &[u8]) -> Result<Self, String> {
        Self::parse(bytes).map_err(|error| error.to_string())
    }

    fn key_ids(&self) -> Vec<String> {
        self.keys.iter().map(|key| key.id.clone()).collect()
    }
}

impl fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.id)).finish()
    }
}

impl SigningKey {
    fn of(der: &[u8]) -> Option<Self> {
        let ecdsa = EcdsaKeyPair::from_private_key_der(&ECDSA_P256_SHA256_FIXED_SIGNING, der).ok().map(Pair::Es256);
        let pair = match ecdsa {
            Some(pair) => pair,
            None => Pair::EdDsa(Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok()?),
        };
        let (members, algorithm) = (pair.public()?, pair.algorithm());
        let id = URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()));
        let header = json!({ "alg": algorithm, "kid": id, "typ": "JWT" }).to_string();
        let header = format!("{}.", URL_SAFE_NO_PAD.encode(header));
        let mut public: Value = serde_json::from_str(&members).ok()?;
        for (name, value) in [("alg", algorithm), ("kid", &id), ("use", "sig")] {
            public[name] = value.into();
        }
        Some(Self { pair, id, header, public })
    }
}

impl Pair {
    fn algorithm(&self) -> &'static str {
        match self {
            Self::Es256(_) => "ES256",
            Self::EdDsa(_) => "EdDSA",
        }
    }

    /// The members of the public key that its thumbprint is made of, in their order (RFC 7638, section 3.2; RFC 8037,
    /// section 2).
    fn public(&self) -> Option<String> {
        match self {
            Self::Es256(pair) => {
                let (form, point) = pair.public_key().as_ref().split_first()?;
                let (x, y) = point.split_at_checked(32).filter(|(_, y)| *form == UNCOMPRESSED && y.len() == 32)?;
                let [x, y] = [x, y].map(|part| URL_SAFE_NO_PAD.encode(part));
                Some(format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#))
            }
            Self::EdDsa(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key().as_ref());
                Some(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#))
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Option<Vec<u8>> {
        match self {
            Self::Es256(pair) => Some(pair.sign(&SystemRandom::new(), message).ok()?.as_ref().to_vec()),
            Self::EdDsa(pair) => Some(pair.sign(message).as_ref().to_vec()),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use jsonwebtoken::jwk::JwkSet;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};

    use super::*;

    /// A new key as PEM.
    pub(in crate::outbound) fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        KeyPair::generate_for(algorithm).unwrap().serialize_pem()
    }

    /// The claims of a token that one of these published keys has signed.
    pub(in crate::outbound) fn verified(token: &str, published: &str) -> Option<Value> {
        let keys: JwkSet = serde_json::from_str(published).unwrap();
        let head = decode_header(token).unwrap();
        let key = keys.find(head.kid.as_deref()?)?;
        let mut validation = Validation::new(head.alg);
        validation.validate_aud = false;
        validation.required_spec_claims = HashSet::new();
        validation.validate_exp = false;
        decode::<Value>(token, &DecodingKey::from_jwk(key).unwrap(), &validation).ok().map(|data| data.claims)
    }

    #[test]
    fn a_library_verifies_what_either_kind_of_key_signs_by_the_published_keys() {
        let pems = [pem(&PKCS_ECDSA_P256_SHA256), pem(&PKCS_ED25519)];
        for (first, algorithm) in [(0, Algorithm::ES256), (1, Algorithm::EdDSA)] {
            let text = [pems[first].as_str(), &pems[1 - first]].concat();
            let keys = SigningKeys::parse(text.as_bytes()).unwrap();
            let token = keys.sign(r#"{"sub":"alice"}"#).unwrap();
            let head = decode_header(&token).unwrap();
            assert_eq!((head.alg, head.kid), (algorithm, Some(keys.key_ids()[0].clone())));
            assert_eq!(verified(&token, keys.published()), Some(json!({"sub": "alice"})));
            assert_eq!(keys.algorithms(), ["ES256", "EdDSA"]);
            let other = SigningKeys::parse(pem(&PKCS_ED25519).as_bytes()).unwrap();
            assert_eq!(verified(&token, other.published()), None);
        }
    }

    #[test]
    fn keys_of_openssl_and_of_helm_are_read_and_the_thumbprint_is_that_of_the_rfc() {
        // RFC 8037, appendix A: the private key in PKCS #8 as openssl writes it, and its thumbprint.
        let ed25519 = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n-----END PRIVATE KEY-----\n";
        // What 'openssl ecparam -genkey' writes; without its first part, what genPrivateKey "ecdsa" of Helm writes.
        let parameters = "-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n";
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQEEIEKD2f4QOtCz/Qt55LHe9snsnZRlZ/s6m5Lbnkl67mENoAoGCCqGSM49\nAwEHoUQDQgAEl3Rs1x8mydr/0SabClioJIS0I+jrkUpLiJZY9bz2U/sLsKciRnuN\nbKudImbpWxXIrZ73iCqo9Pg1qd/Zutc/Iw==\n-----END EC PRIVATE KEY-----\n";
        let keys = SigningKeys::parse(ed25519.as_bytes()).unwrap();
        assert_eq!(keys.key_ids(), ["kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"]);
        for text in [sec1.to_owned(), format!("{parameters}{sec1}")] {
            let keys = SigningKeys::parse(text.as_bytes()).unwrap();
            let token = keys.sign("{}").unwrap();
            assert_eq!((keys.algorithms(), verified(&token, keys.published())), (vec!["ES256"], Some(json!({}))));
        }
    }

    #[test]
    fn a_text_without_usable_keys_is_refused_without_its_content() {
        let (good, other) = (pem(&PKCS_ED25519), pem(&PKCS_ECDSA_P384_SHA384));
        let many: String = (0..=MAX_KEYS).map(|_| pem(&PKCS_ED25519)).collect();
        for (text, expected) in [
            ("", SigningKeysError::None),
            ("k1 abc", SigningKeysError::None),
            (&[good.as_str(), &good].concat(), SigningKeysError::Twice(2)),
            (&[good.as_str(), &other].concat(), SigningKeysError::Kind(2)),
            ("-----BEGIN PRIVATE KEY-----\nMC4C\n-----END PRIVATE KEY-----\n", SigningKeysError::Kind(1)),
            ("-----BEGIN PRIVATE KEY-----\n%\n-----END PRIVATE KEY-----\n", SigningKeysError::Pem(1)),
            (&many, SigningKeysError::TooMany),
        ] {
            assert_eq!(SigningKeys::parse(text.as_bytes()).map(|keys| keys.key_ids()), Err(expected), "{text}");
        }
    }
}

//! The shared part of these tests: keys, tokens and a fixed time.
mod algorithms;
mod arbitrary;
mod caching;
mod extraction;
mod fake;
mod fetching;
mod forgeries;
mod issuers_file;
mod key_sets;
mod matrix;
mod reviewing;
mod scopes;
mod several;
mod start;

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{
    encoding::{AsDer, PublicKeyX509Der},
    hmac,
    rand::SystemRandom,
    rsa::KeySize,
    signature::{self as sig, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RsaKeyPair},
};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use serde_json::{Value, json};

use super::*;

/// Far enough from today that a check against the system's clock would show.
pub(super) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}
pub(super) const SECRET: &str = "k3Jw9TqXv5ZbN8sRyD2fHc7LmP4gUa6E";
pub(super) const GOOD_CLAIMS: &str = r#"{"sub":"alice","iat":2000000000,"exp":2000000600}"#;

/// Signs anything, with independent cryptography, so that the tested code does not also make the tokens.
pub(super) struct TestKey {
    pub(super) algorithm: Algorithm,
    pair: Pair,
}

enum Pair {
    Hmac(Vec<u8>),
    Rsa(RsaKeyPair),
    Ec(EcdsaKeyPair),
    Ed(Ed25519KeyPair),
}

pub(super) static HS256: LazyLock<TestKey> = LazyLock::new(|| TestKey::hmac(SECRET.as_bytes()));
pub(super) static RS256: LazyLock<TestKey> = LazyLock::new(|| TestKey::generate(Algorithm::RS256));
pub(super) static ES256: LazyLock<TestKey> = LazyLock::new(|| TestKey::generate(Algorithm::ES256));
pub(super) static EDDSA: LazyLock<TestKey> = LazyLock::new(|| TestKey::generate(Algorithm::EdDSA));

/// One key of each family.
pub(super) fn families() -> [&'static TestKey; 4] {
    [&HS256, &RS256, &ES256, &EDDSA]
}

impl TestKey {
    pub(super) fn hmac(secret: &[u8]) -> Self {
        Self { algorithm: Algorithm::HS256, pair: Pair::Hmac(secret.to_vec()) }
    }

    pub(super) fn generate(algorithm: Algorithm) -> Self {
        let pair = match algorithm {
            Algorithm::ES256 => Pair::Ec(EcdsaKeyPair::generate(&sig::ECDSA_P256_SHA256_FIXED_SIGNING).unwrap()),
            Algorithm::ES384 => Pair::Ec(EcdsaKeyPair::generate(&sig::ECDSA_P384_SHA384_FIXED_SIGNING).unwrap()),
            Algorithm::EdDSA => Pair::Ed(Ed25519KeyPair::generate().unwrap()),
            Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512 => Pair::Hmac(SECRET.into()),
            _ => Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()),
        };
        Self { algorithm, pair }
    }

    /// The same key, used with another algorithm of its family.
    pub(super) fn with(self, algorithm: Algorithm) -> Self {
        Self { algorithm, ..self }
    }

    pub(super) fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Hmac(secret) => hmac::sign(&hmac::Key::new(self.hash(), secret), message).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(self.padding(), &random, message, &mut signature).unwrap();
                signature
            }
            Pair::Ec(pair) => pair.sign(&random, message).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(message).as_ref().to_vec(),
        }
    }

    fn hash(&self) -> hmac::Algorithm {
        match self.algorithm {
            Algorithm::HS384 => hmac::HMAC_SHA384,
            Algorithm::HS512 => hmac::HMAC_SHA512,
            _ => hmac::HMAC_SHA256,
        }
    }

    fn padding(&self) -> &'static dyn sig::RsaEncoding {
        match self.algorithm {
            Algorithm::RS384 => &sig::RSA_PKCS1_SHA384,
            Algorithm::RS512 => &sig::RSA_PKCS1_SHA512,
            Algorithm::PS256 => &sig::RSA_PSS_SHA256,
            Algorithm::PS384 => &sig::RSA_PSS_SHA384,
            Algorithm::PS512 => &sig::RSA_PSS_SHA512,
            _ => &sig::RSA_PKCS1_SHA256,
        }
    }

    /// A token of these two texts; `ALG` in the header is replaced by this key's algorithm.
    pub(super) fn token(&self, header: &str, claims: &str) -> String {
        let header = header.replace("ALG", &format!("{:?}", self.algorithm));
        let message = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
        let signature = base64url(&self.sign(message.as_bytes()));
        format!("{message}.{signature}")
    }

    /// A token with these claims and the usual header.
    pub(super) fn plain_token(&self, claims: &str) -> String {
        self.token(r#"{"alg":"ALG","typ":"JWT"}"#, claims)
    }

    fn spki(&self) -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match &self.pair {
            Pair::Hmac(_) => panic!("a shared secret has no public part"),
            Pair::Rsa(pair) => pair.public_key().as_der().unwrap(),
            Pair::Ec(pair) => pair.public_key().as_der().unwrap(),
            Pair::Ed(pair) => pair.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    }

    pub(super) fn pem(&self) -> String {
        let text = STANDARD.encode(self.spki());
        let lines: Vec<&str> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    /// The public key as a JWK without `use`, `alg` and `kid`.
    pub(super) fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Hmac(secret) => json!({"kty": "oct", "k": base64url(secret)}),
            Pair::Rsa(pair) => {
                let parts = sig::RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({"kty": "RSA", "n": base64url(&parts.n), "e": base64url(&parts.e)})
            }
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at((pair.public_key().as_ref().len() - 1) / 2);
                let curve = if x.len() == 32 { "P-256" } else { "P-384" };
                json!({"kty": "EC", "crv": curve, "x": base64url(x), "y": base64url(y)})
            }
            Pair::Ed(pair) => {
                json!({"kty": "OKP", "crv": "Ed25519", "x": base64url(pair.public_key().as_ref())})
            }
        }
    }

    /// The form in which a gateway holds this key outside a JWKS.
    pub(super) fn key_set(&self) -> KeySet {
        match &self.pair {
            Pair::Hmac(secret) => KeySet::from_secret(&Secret::new(secret.clone()), self.algorithm),
            _ => KeySet::from_public_pem(self.pem().as_bytes(), self.algorithm).unwrap(),
        }
    }

    /// An issuer with this key and no other conditions.
    pub(super) fn issuer(&self) -> Issuer {
        Issuer::new(&self.settings(), self.key_set())
    }

    pub(super) fn settings(&self) -> Settings {
        Settings { algorithm: self.algorithm, ..Settings::default() }
    }
}

pub(super) fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub(super) fn subject(result: Result<Identity, AuthError>) -> Result<String, AuthError> {
    result.map(|identity| identity.subject)
}

//! What an operator can set about tokens, and everything that can be wrong with it.
use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use super::{Algorithm, IssuerFault, JwksError, KeyFault};

/// The least length of a shared secret, in bytes, for every HS algorithm.
///
/// RFC 7518 asks for 48 and 64 with HS384 and HS512; but 32 random bytes cannot be guessed with any of them.
pub const MIN_SECRET_BYTES: usize = 32;
/// The clock difference that is forgiven unless `JWT_LEEWAY` is set.
pub const DEFAULT_LEEWAY: Duration = Duration::from_secs(10);
/// The most that `JWT_LEEWAY` may be.
pub const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// A shared secret. Its value is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Keeps these bytes, as they are.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// The value, for the one who computes with it.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// How tokens are checked: which keys, and what a token must say.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `JWT_SECRET`: the shared secret of the HS algorithms, at least [`MIN_SECRET_BYTES`] long.
    pub secret: Option<Secret>,
    /// `JWT_SECRET_FILE`: a file with that secret. Line ends at its end are not part of the secret.
    pub secret_file: Option<PathBuf>,
    /// `JWT_ALGORITHM`: the one algorithm that tokens are signed with.
    pub algorithm: Algorithm,
    /// `JWT_PUBLIC_KEY_FILE`: a PEM file with one public key, for every algorithm but the HS ones.
    pub public_key_file: Option<PathBuf>,
    /// `JWT_JWKS_FILE`: a JSON Web Key Set, for every algorithm but the HS ones.
    pub jwks_file: Option<PathBuf>,
    /// `JWT_ISSUER`: what `iss` must be, to the letter. If unset, any issuer passes.
    pub issuer: Option<String>,
    /// `JWT_AUDIENCE`: what `aud` must contain. If unset, `aud` is not looked at.
    pub audience: Option<String>,
    /// `JWT_LEEWAY`: how far the issuer's clock may differ from ours, at most [`MAX_LEEWAY`].
    pub leeway: Duration,
    /// `JWT_MAX_LIFETIME`: the longest accepted time from issue (or, if untold, from now) to expiry.
    pub max_lifetime: Option<Duration>,
    /// `ISSUERS_FILE`: other issuers, each with keys and conditions of its own.
    pub issuers_file: Option<PathBuf>,
    /// `KUBERNETES_TOKENS`: accept service-account tokens of this cluster.
    pub kubernetes: Option<Kubernetes>,
    /// `REQUIRED_SCOPES`: what every token must have in `scope` or `scp`, but for those of the cluster.
    pub required_scopes: Vec<String>,
}

/// How service-account tokens of this cluster are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// `KUBERNETES_AUDIENCE`: what `aud` must contain.
    pub audience: String,
    /// `KUBERNETES_KEYS_FILE`: the mounted copy of the keys that the operator keeps.
    pub kept: Option<PathBuf>,
    /// `TOKEN_REVIEW`: ask the API server about each token too, once in 30 s.
    pub review: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            secret: None,
            secret_file: None,
            algorithm: Algorithm::HS256,
            public_key_file: None,
            jwks_file: None,
            issuer: None,
            audience: None,
            leeway: DEFAULT_LEEWAY,
            max_lifetime: None,
            issuers_file: None,
            kubernetes: None,
            required_scopes: Vec::new(),
        }
    }
}

/// Something in the settings with which the gateway does not start. Names the setting, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing says how to check a token.
    #[error(
        "no key to check tokens with: set JWT_SECRET or JWT_SECRET_FILE (HS algorithms), \
         JWT_PUBLIC_KEY_FILE or JWT_JWKS_FILE (all others), ISSUERS_FILE, or KUBERNETES_TOKENS=true"
    )]
    NoKeySource,
    /// Two settings exclude each other.
    #[error("{0} and {1} are both set: keep one of them")]
    Both(&'static str, &'static str),
    /// A shared secret for a public-key algorithm, or the other way round.
    #[error("{setting} does not go with JWT_ALGORITHM {algorithm:?}: unset it, or choose an algorithm of {fitting}")]
    WrongKind {
        /// The setting that does not fit.
        setting: &'static str,
        /// The configured algorithm.
        algorithm: Algorithm,
        /// The algorithms that the setting is for.
        fitting: &'static str,
    },
    /// A file cannot be read.
    #[error("{setting}: cannot read {}: {reason}", path.display())]
    Unreadable {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: io::ErrorKind,
    },
    /// A value or a file is empty.
    #[error("{0} is empty: give it a value, or unset it")]
    Empty(&'static str),
    /// A file is too large to be what it should be.
    #[error("{setting}: the file is larger than {limit} bytes")]
    TooLarge {
        /// The setting that names the file.
        setting: &'static str,
        /// The bound, in bytes.
        limit: u64,
    },
    /// The secret is too short.
    #[error("{0} is shorter than 32 bytes: make one with 'openssl rand -base64 48'")]
    ShortSecret(&'static str),
    /// The secret is one that everybody knows, or made up of such ones.
    #[error("{0} is a well-known or trivial secret: make one with 'openssl rand -base64 48'")]
    WellKnownSecret(&'static str),
    /// The public key file cannot be used.
    #[error("{setting} {fault}")]
    Key {
        /// The setting that names the file.
        setting: &'static str,
        /// What is wrong with the key.
        fault: KeyFault,
    },
    /// The key set cannot be used.
    #[error("{setting} {fault}")]
    KeySet {
        /// The setting that names the file.
        setting: &'static str,
        /// What is wrong with the set.
        fault: JwksError,
    },
    /// The file of issuers cannot be used.
    #[error("ISSUERS_FILE: {0}")]
    Issuers(#[from] IssuerFault),
    /// A file that an issuer of that file names cannot be used.
    #[error("ISSUERS_FILE, entry {number}: {problem}")]
    IssuerFile {
        /// Which entry, from 1.
        number: usize,
        /// What is wrong with the file.
        problem: Box<Problem>,
    },
    /// A file of certificate authorities has none.
    #[error("{0} holds no PEM certificate: put one between BEGIN CERTIFICATE and END CERTIFICATE")]
    NoCertificate(&'static str),
    /// The leeway is out of bounds.
    #[error("JWT_LEEWAY must be between 0 and 60 seconds")]
    Leeway,
    /// No token could satisfy the bound.
    #[error("JWT_MAX_LIFETIME must be at least one second: unset it for no bound")]
    MaxLifetime,
    /// This build cannot sign and check a token.
    #[error("the cryptography self-test failed: JWT_ALGORITHM HS256 does not work in this build")]
    SelfTest,
}

/// `JWT_ALGORITHM` has a value that is not supported.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "JWT_ALGORITHM must be one of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA"
)]
pub struct UnknownAlgorithm;

/// Reads the value of `JWT_ALGORITHM`, spelt as in RFC 7518 and RFC 8037.
///
/// # Errors
/// [`UnknownAlgorithm`] for anything else, `none` included.
pub fn parse_algorithm(text: &str) -> Result<Algorithm, UnknownAlgorithm> {
    Algorithm::from_str(text).map_err(|_| UnknownAlgorithm)
}

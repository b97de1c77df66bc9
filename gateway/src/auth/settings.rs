//! The settings for tokens, and all of their problems.
use std::{fmt, io, path::PathBuf, str::FromStr, time::Duration};

use super::{Algorithm, IssuerFault, JwksError, KeyFault};

/// The minimum length of a shared secret, in bytes, for every HS algorithm.
///
/// RFC 7518 requires 48 and 64 with HS384 and HS512; but 32 random bytes cannot be guessed with any of them.
pub(crate) const MIN_SECRET_BYTES: usize = 32;
/// The tolerated clock difference unless `JWT_LEEWAY` is set.
pub(crate) const DEFAULT_LEEWAY: Duration = Duration::from_secs(10);
/// The maximum of `JWT_LEEWAY`.
pub(crate) const MAX_LEEWAY: Duration = Duration::from_secs(60);

/// A shared secret. Its value is never displayed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(Vec<u8>);

impl Secret {
    /// Stores these bytes unchanged.
    pub(crate) fn new(value: impl Into<Vec<u8>>) -> Self {
        Self(value.into())
    }

    /// The value, for cryptography.
    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// The settings for checking tokens: the keys and the required claims.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `JWT_SECRET`: the shared secret of the HS algorithms, at least [`MIN_SECRET_BYTES`] long.
    pub(crate) secret: Option<Secret>,
    /// `JWT_SECRET_FILE`: a file with that secret. Line ends at its end are not part of the secret.
    pub(crate) secret_file: Option<PathBuf>,
    /// `JWT_ALGORITHM`: the single signing algorithm.
    pub(crate) algorithm: Algorithm,
    /// `JWT_PUBLIC_KEY_FILE`: a PEM file with one public key, for every algorithm but the HS ones.
    pub(crate) public_key_file: Option<PathBuf>,
    /// `JWT_JWKS_FILE`: a JSON Web Key Set, for every algorithm but the HS ones.
    pub(crate) jwks_file: Option<PathBuf>,
    /// `JWT_ISSUER`: the exact value of `iss`. If unset, any issuer passes.
    pub(crate) issuer: Option<String>,
    /// `JWT_AUDIENCE`: a required value of `aud`. If unset, `aud` is not checked.
    pub(crate) audience: Option<String>,
    /// `JWT_LEEWAY`: the tolerated difference between the issuer's clock and the gateway's, at most [`MAX_LEEWAY`].
    pub(crate) leeway: Duration,
    /// `JWT_MAX_LIFETIME`: the longest accepted time from issue (or, if absent, from now) to expiry.
    pub(crate) max_lifetime: Option<Duration>,
    /// `ISSUERS_FILE`: other issuers, each with separate keys and conditions.
    pub(crate) issuers_file: Option<PathBuf>,
    /// `KUBERNETES_TOKENS`: accept service-account tokens of this cluster.
    pub(crate) kubernetes: Option<Kubernetes>,
    /// `REQUIRED_SCOPES`: the scopes that every token needs in `scope` or `scp`, except those of the cluster.
    pub(crate) required_scopes: Vec<String>,
}

/// The settings for checking service-account tokens of this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Kubernetes {
    /// `KUBERNETES_AUDIENCE`: a required value of `aud`.
    pub(crate) audience: String,
    /// `KUBERNETES_KEYS_FILE`: the mounted copy of the keys that the operator keeps.
    pub(crate) kept: Option<PathBuf>,
    /// `TOKEN_REVIEW`: also review each token at the API server, once in 30 s.
    pub(crate) review: bool,
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

/// A problem of the settings that prevents the start. Names the setting, never its value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// No setting defines how to check a token.
    #[error(
        "no key to check tokens with: set JWT_SECRET or JWT_SECRET_FILE (HS algorithms), \
         JWT_PUBLIC_KEY_FILE or JWT_JWKS_FILE (all others), ISSUERS_FILE, or KUBERNETES_TOKENS=true"
    )]
    NoKeySource,
    /// Two settings exclude each other.
    #[error("{0} and {1} are both set: keep one of them")]
    Both(&'static str, &'static str),
    /// A shared secret for a public-key algorithm, or the other way round.
    #[error("{setting} does not fit JWT_ALGORITHM {algorithm:?}: unset it, or choose an algorithm of {fitting}")]
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
        /// The error of the system.
        reason: io::ErrorKind,
    },
    /// A value or a file is empty.
    #[error("{0} is empty: give it a value, or unset it")]
    Empty(&'static str),
    /// A file exceeds its size limit.
    #[error("{setting}: the file is larger than {limit} bytes")]
    TooLarge {
        /// The setting that names the file.
        setting: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The secret is too short.
    #[error("{0} is shorter than 32 bytes: make one with 'openssl rand -base64 48'")]
    ShortSecret(&'static str),
    /// The secret is publicly known, or composed of such secrets.
    #[error("{0} is a well-known or trivial secret: make one with 'openssl rand -base64 48'")]
    WellKnownSecret(&'static str),
    /// The public key file is unusable.
    #[error("{setting} {fault}")]
    Key {
        /// The setting that names the file.
        setting: &'static str,
        /// The problem of the key.
        fault: KeyFault,
    },
    /// The key set is unusable.
    #[error("{setting} {fault}")]
    KeySet {
        /// The setting that names the file.
        setting: &'static str,
        /// The problem of the set.
        fault: JwksError,
    },
    /// The file of issuers is unusable.
    #[error("ISSUERS_FILE: {0}")]
    Issuers(#[from] IssuerFault),
    /// A file that the file of issuers names is unusable.
    #[error("ISSUERS_FILE, entry {number}: {problem}")]
    IssuerFile {
        /// The number of the entry, from 1.
        number: usize,
        /// The problem of the file.
        problem: Box<Problem>,
    },
    /// A file of certificate authorities contains none.
    #[error("{0} contains no PEM certificate: add one, from BEGIN CERTIFICATE to END CERTIFICATE")]
    NoCertificate(&'static str),
    /// The leeway is out of bounds.
    #[error("JWT_LEEWAY must be between 0 and 60 seconds")]
    Leeway,
    /// No token could satisfy the limit.
    #[error("JWT_MAX_LIFETIME must be at least one second: unset it for no limit")]
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
pub(crate) struct UnknownAlgorithm;

/// Parses the value of `JWT_ALGORITHM`, spelt as in RFC 7518 and RFC 8037.
///
/// # Errors
/// [`UnknownAlgorithm`] for anything else, `none` included.
pub(crate) fn parse_algorithm(text: &str) -> Result<Algorithm, UnknownAlgorithm> {
    Algorithm::from_str(text).map_err(|_| UnknownAlgorithm)
}

//! Decides from a token, the issuers and the time alone whose token it is.
use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, errors::ErrorKind};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Algorithm, AuthError, KeySet, Problem, Secret, Settings, claims::Claims, keys::Key, parse_algorithm};

/// The longest token that is looked at. A bound service-account token of Kubernetes has about 1,500 bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The `typ` values of access tokens (RFC 7519 and RFC 9068), in lower case; most issuers say JWT or nothing.
const TYPES: [&str; 4] = ["jwt", "application/jwt", "at+jwt", "application/at+jwt"];

/// Somebody whose tokens are accepted, and under which conditions.
#[derive(Debug)]
pub struct Issuer {
    /// What `iss` must be; any, or none, if unset.
    pub name: Option<String>,
    /// What `aud` must contain; not looked at if unset.
    pub audience: Option<String>,
    /// The algorithms that its tokens may be signed with, whatever its keys could do.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may differ from ours.
    pub leeway: Duration,
    /// The longest time from issue to expiry.
    pub max_lifetime: Option<Duration>,
    keys: ArcSwap<KeySet>,
}

impl Issuer {
    /// An issuer with what the settings say about tokens, and these keys.
    pub fn new(settings: &Settings, keys: KeySet) -> Self {
        Self {
            name: settings.issuer.clone(),
            audience: settings.audience.clone(),
            algorithms: vec![settings.algorithm],
            leeway: settings.leeway,
            max_lifetime: settings.max_lifetime,
            keys: ArcSwap::from_pointee(keys),
        }
    }

    pub(super) fn replace_keys(&self, keys: KeySet) {
        self.keys.store(Arc::new(keys));
    }

    fn may_have_issued(&self, name: Option<&str>) -> bool {
        self.name.is_none() || self.name.as_deref() == name
    }

    fn verify(&self, token: &str, head: &Head, now: SystemTime) -> Result<Identity, AuthError> {
        // The header only chooses among the keys; each is used with the algorithm that it was loaded for.
        let named = parse_algorithm(&head.alg).ok().filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = named.ok_or(AuthError::Algorithm)?;
        let keys = self.keys.load();
        let mut refusal = AuthError::UnknownKey;
        for key in keys.candidates(algorithm, head.kid.as_deref()) {
            match signed_claims(token, key) {
                Ok(raw) => return self.identify(&raw, now),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn identify(&self, raw: &RawValue, now: SystemTime) -> Result<Identity, AuthError> {
        let claims: Claims = serde_json::from_str(raw.get()).map_err(|_| AuthError::Malformed)?;
        let expires_at = claims.check(self, now)?;
        Ok(Identity {
            subject: claims.subject()?,
            issuer: claims.issuer()?.map(str::to_owned),
            expires_at,
            claims: raw.get().into(),
        })
    }
}

/// Who the bearer of a token is.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// `sub`, else `user_id`, else empty.
    pub subject: String,
    /// `iss`, if the token has one.
    pub issuer: Option<String>,
    /// `exp`, without leeway.
    pub expires_at: SystemTime,
    /// All claims, as the issuer wrote them: a JSON object in which no name is doubled.
    pub claims: Arc<str>,
}

impl fmt::Debug for Identity {
    /// Leaves the claims out: they may say more about a person than a log should.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("subject", &self.subject)
            .field("issuer", &self.issuer)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The part of a token's header that is looked at. Nothing that it points to (jku, x5u, jwk) is.
#[derive(Deserialize)]
struct Head {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // Present with any value, null included, is what counts.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
}

/// Checks a token against all issuers whose it may be.
///
/// # Errors
/// Why no issuer vouches for it; of several reasons, that of the issuer who came closest.
pub fn verify(token: &str, issuers: &[Issuer], now: SystemTime) -> Result<Identity, AuthError> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(AuthError::TooLarge);
    }
    let (head, payload) = split(token)?;
    let head = read_head(head)?;
    // Not trusted yet: it only saves the work of asking issuers who would say no.
    let unverified: Claims = decode(payload)?;
    let name = unverified.issuer()?;
    let mut refusals = Vec::new();
    for issuer in issuers.iter().filter(|issuer| issuer.may_have_issued(name)) {
        match issuer.verify(token, &head, now) {
            Ok(identity) => return Ok(identity),
            Err(refusal) => refusals.push(refusal),
        }
    }
    Err(refusals.into_iter().max_by_key(|refusal| refusal.depth()).unwrap_or(AuthError::Issuer))
}

/// The header and the payload of a token of three parts.
fn split(token: &str) -> Result<(&str, &str), AuthError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(head), Some(payload), Some(_), None) => Ok((head, payload)),
        _ => Err(AuthError::Malformed),
    }
}

fn read_head(text: &str) -> Result<Head, AuthError> {
    let head: Head = decode(text)?;
    if head.crit || head.b64 {
        return Err(AuthError::CriticalHeader);
    }
    match &head.typ {
        Some(typ) if !TYPES.contains(&typ.to_ascii_lowercase().as_str()) => Err(AuthError::Type),
        _ => Ok(head),
    }
}

fn decode<T: for<'de> Deserialize<'de>>(text: &str) -> Result<T, AuthError> {
    let json = URL_SAFE_NO_PAD.decode(text).map_err(|_| AuthError::Malformed)?;
    serde_json::from_slice(&json).map_err(|_| AuthError::Malformed)
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    serde::de::IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// The claims, if this key signed them with its own algorithm.
fn signed_claims(token: &str, key: &Key) -> Result<Box<RawValue>, AuthError> {
    let data = jsonwebtoken::decode::<Box<RawValue>>(token, &key.decoding, &key.validation);
    data.map(|data| data.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
        _ => AuthError::Malformed,
    })
}

/// Signs and checks one token, and refuses it once its signature is cut: a build whose cryptography is missing or
/// doubled must fail here and not on the first request.
pub(super) fn self_test() -> Result<(), Problem> {
    let secret = Secret::new(*b"portcullis: for the self-test only");
    let issuer = Issuer::new(&Settings::default(), KeySet::from_secret(&secret, Algorithm::HS256));
    let claims = serde_json::json!({ "sub": "self-test", "exp": 60 });
    let key = EncodingKey::from_secret(secret.expose());
    let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|_| Problem::SelfTest)?;
    let issuers = [issuer];
    let good = verify(&token, &issuers, UNIX_EPOCH).is_ok_and(|identity| identity.subject == "self-test");
    let (unsigned, _) = token.rsplit_once('.').ok_or(Problem::SelfTest)?;
    let forged = verify(&format!("{unsigned}."), &issuers, UNIX_EPOCH) == Err(AuthError::Signature);
    if good && forged { Ok(()) } else { Err(Problem::SelfTest) }
}

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
use crate::seal::SubjectId;

/// The longest token that is looked at. A bound service-account token of Kubernetes has about 1,500 bytes.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The `typ` values of access tokens (RFC 7519 and RFC 9068), in lower case; most issuers say JWT or nothing.
const TYPES: [&str; 4] = ["jwt", "application/jwt", "at+jwt", "application/at+jwt"];

/// Somebody whose tokens are accepted, and under which conditions.
#[derive(Debug)]
pub struct Issuer {
    /// What it is called in the log and in metrics.
    pub label: String,
    /// One of these must be in `aud`; that is not looked at if there are none.
    pub audiences: Vec<String>,
    /// The algorithms that its tokens may be signed with, whatever its keys could do.
    pub algorithms: Vec<Algorithm>,
    /// How far its clock may differ from ours.
    pub leeway: Duration,
    /// The longest time from issue to expiry.
    pub max_lifetime: Option<Duration>,
    /// All of these must be in `scope` or `scp`.
    pub scopes: Vec<String>,
    pub(super) trust: ArcSwap<Trust>,
}

/// What may become known, or change, while the process runs.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) name: Name,
    pub(super) keys: KeySet,
}

/// What `iss` must be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// Anything, or absent.
    Any,
    /// This, to the letter.
    Is(String),
    /// That is not known yet: the issuer has not been reached.
    Unknown,
}

impl Name {
    /// Whether a token of this `iss` is one of the issuer's.
    pub(super) fn vouches_for(&self, iss: Option<&str>) -> bool {
        match self {
            Self::Any => true,
            Self::Is(name) => iss == Some(name),
            Self::Unknown => false,
        }
    }
}

impl Issuer {
    /// The issuer of the `JWT_` settings, with these keys.
    pub fn new(settings: &Settings, keys: KeySet) -> Self {
        Self {
            label: "own".into(),
            audiences: settings.audience.iter().cloned().collect(),
            algorithms: vec![settings.algorithm],
            ..Self::bare(settings, Trust { name: settings.issuer.clone().map_or(Name::Any, Name::Is), keys })
        }
    }

    /// An issuer that accepts nothing yet, with the settings that hold for all.
    pub(super) fn bare(settings: &Settings, trust: Trust) -> Self {
        Self {
            label: String::new(),
            audiences: Vec::new(),
            algorithms: Vec::new(),
            leeway: settings.leeway,
            max_lifetime: settings.max_lifetime,
            scopes: settings.required_scopes.clone(),
            trust: ArcSwap::from_pointee(trust),
        }
    }

    /// What is known of it now.
    pub(super) fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    pub(super) fn replace(&self, trust: Trust) {
        self.trust.store(Arc::new(trust));
    }

    fn may_turn_out(&self, head: &Head) -> bool {
        let algorithm = parse_algorithm(&head.alg);
        self.trust.load().name == Name::Unknown && algorithm.is_ok_and(|algorithm| self.algorithms.contains(&algorithm))
    }

    fn verify(&self, trust: &Trust, token: &str, head: &Head, now: SystemTime) -> Result<Identity, AuthError> {
        // The header only chooses among the keys; each is used with the algorithm that it was loaded for.
        let named = parse_algorithm(&head.alg).ok().filter(|algorithm| self.algorithms.contains(algorithm));
        let algorithm = named.ok_or(AuthError::Algorithm)?;
        if trust.keys.is_empty() {
            return Err(AuthError::NoKeys);
        }
        let mut refusal = AuthError::UnknownKey;
        for key in trust.keys.candidates(algorithm, head.kid.as_deref()) {
            match signed_claims(token, key) {
                Ok(raw) => return self.identify(&trust.name, &raw, now),
                Err(error) => refusal = error,
            }
        }
        Err(refusal)
    }

    fn identify(&self, name: &Name, raw: &RawValue, now: SystemTime) -> Result<Identity, AuthError> {
        let claims: Claims = serde_json::from_str(raw.get()).map_err(|_| AuthError::Malformed)?;
        let expires_at = claims.check(self, name, now)?;
        let (subject, issuer) = (claims.subject()?, claims.issuer()?.map(str::to_owned));
        let subject_id = SubjectId::new(issuer.as_deref(), &subject);
        Ok(Identity { subject, issuer, expires_at, claims: raw.get().into(), subject_id })
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
    /// Of issuer and subject: what ids that are given out are bound to.
    pub subject_id: SubjectId,
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

/// Whose a token is, and which issuer says so.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) identity: Identity,
    /// Where the issuer stands in the list.
    pub(super) issuer: usize,
}

/// Why no issuer vouches for a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) error: AuthError,
    /// The issuer that the token names, where newer keys of it could change the answer.
    pub(super) outdated: Option<usize>,
}

impl From<AuthError> for Refusal {
    fn from(error: AuthError) -> Self {
        Self { error, outdated: None }
    }
}

/// Checks a token against all issuers whose it may be.
///
/// # Errors
/// Why no issuer vouches for it; of several reasons, that of the issuer who came closest.
pub fn verify(token: &str, issuers: &[Issuer], now: SystemTime) -> Result<Identity, AuthError> {
    examine(token, issuers, now).map(|vouched| vouched.identity).map_err(|refusal| refusal.error)
}

/// Like [`verify`], and tells the issuer.
pub(super) fn examine(token: &str, issuers: &[Issuer], now: SystemTime) -> Result<Vouched, Refusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(AuthError::TooLarge.into());
    }
    let (head, payload) = split(token)?;
    let head = read_head(head)?;
    // Not trusted yet: it only saves the work of asking issuers who would say no.
    let unverified: Claims = decode(payload)?;
    let iss = unverified.issuer()?;
    // Who may sign for anybody may not sign for somebody who signs himself.
    let is_claimed =
        issuers.iter().any(|issuer| matches!(&issuer.trust.load().name, Name::Is(name) if Some(name.as_str()) == iss));
    let (mut errors, mut named, mut outdated) = (Vec::new(), false, None);
    for (index, issuer) in issuers.iter().enumerate() {
        let trust = issuer.trust.load();
        if !trust.name.vouches_for(iss) || (is_claimed && matches!(trust.name, Name::Any)) {
            continue;
        }
        let error = match issuer.verify(&trust, token, &head, now) {
            Ok(identity) => return Ok(Vouched { identity, issuer: index }),
            Err(error) => error,
        };
        if matches!(trust.name, Name::Is(_)) {
            named = true;
            outdated = matches!(error, AuthError::UnknownKey | AuthError::Signature).then_some(index);
        }
        errors.push(error);
    }
    // An issuer that nobody has reached yet may turn out to be the one that the token names.
    if iss.is_some() && !named && issuers.iter().any(|issuer| issuer.may_turn_out(&head)) {
        errors.push(AuthError::NoKeys);
    }
    let error = errors.into_iter().max_by_key(|error| error.depth()).unwrap_or(AuthError::Issuer);
    Err(Refusal { error, outdated })
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

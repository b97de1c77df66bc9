//! Determines the bearer of a token from the token, the issuers and the time alone.
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{EncodingKey, Header, errors::ErrorKind};
use portcullis_access::Memo;
use serde::Deserialize;
use serde_json::{Map, Value, value::RawValue};

use super::{
    Algorithm, AuthError, KeySet, Problem, Secret, Settings, claims::Claims, keys::VerificationKey, parse_algorithm,
};
use crate::auth::SubjectId;
use crate::outbound::ShownCaller;
use crate::util::short_digest;

/// The longest accepted token. A bound service-account token of Kubernetes has about 1,500 bytes.
pub(crate) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// The `typ` values of access tokens (RFC 7519 and RFC 9068), in lower case; most issuers use JWT or none.
const TYPES: [&str; 4] = ["jwt", "application/jwt", "at+jwt", "application/at+jwt"];

/// An issuer whose tokens are accepted, and the conditions.
#[derive(Debug)]
pub(crate) struct Issuer {
    /// The issuer's label in the log and in metrics.
    pub(crate) label: String,
    /// `aud` must contain one of these; it is not checked if there are none.
    pub(crate) audiences: Vec<String>,
    /// The accepted signing algorithms of its tokens, whatever its keys support.
    pub(crate) algorithms: Vec<Algorithm>,
    /// The tolerated difference between its clock and the gateway's.
    pub(crate) leeway: Duration,
    /// The longest time from issue to expiry.
    pub(crate) max_lifetime: Option<Duration>,
    /// `scope` or `scp` must contain all of these.
    pub(crate) scopes: Vec<String>,
    /// It is the cluster's own issuer.
    pub(super) is_cluster: bool,
    /// There is no other issuer.
    pub(super) is_only: bool,
    pub(super) trust: ArcSwap<Trust>,
}

/// The parts of an issuer that may change while the process runs.
#[derive(Debug)]
pub(super) struct Trust {
    pub(super) name: Name,
    pub(super) keys: KeySet,
}

/// The condition for `iss`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Name {
    /// Anything, or absent.
    Any,
    /// Exactly this.
    Is(String),
    /// Unknown: the issuer has not been reached yet.
    Unknown,
}

impl Name {
    /// Whether a token with this `iss` may be the issuer's.
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
    pub(crate) fn new(settings: &Settings, keys: KeySet) -> Self {
        Self {
            label: "own".into(),
            audiences: settings.audience.iter().cloned().collect(),
            algorithms: vec![settings.algorithm],
            ..Self::bare(settings, Trust { name: settings.issuer.clone().map_or(Name::Any, Name::Is), keys })
        }
    }

    /// An issuer that accepts nothing yet, with the common settings.
    pub(super) fn bare(settings: &Settings, trust: Trust) -> Self {
        Self {
            label: String::new(),
            audiences: Vec::new(),
            algorithms: Vec::new(),
            leeway: settings.leeway,
            max_lifetime: settings.max_lifetime,
            scopes: settings.required_scopes.clone(),
            is_cluster: false,
            is_only: false,
            trust: ArcSwap::from_pointee(trust),
        }
    }

    /// The current state.
    pub(super) fn trust(&self) -> Arc<Trust> {
        self.trust.load_full()
    }

    pub(super) fn replace(&self, trust: Trust) {
        self.trust.store(Arc::new(trust));
    }

    fn may_turn_out(&self, head: &TokenHeader) -> bool {
        let algorithm = parse_algorithm(&head.alg);
        self.trust.load().name == Name::Unknown && algorithm.is_ok_and(|algorithm| self.algorithms.contains(&algorithm))
    }

    fn verify(&self, trust: &Trust, token: &str, head: &TokenHeader, now: SystemTime) -> Result<Identity, AuthError> {
        // The header only selects among the keys; each is used with the algorithm that it was loaded for.
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
        let is_named = matches!(name, Name::Is(_)) || self.is_only;
        let access =
            AccessFacts { is_cluster: self.is_cluster, is_only: self.is_only, is_named, ..AccessFacts::default() };
        Ok(Identity { subject, issuer, expires_at, claims: raw.get().into(), subject_id, access })
    }
}

/// The source of a caller's tokens, as far as decisions about access depend on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TokenSource {
    /// The name of the issuer, if it has one.
    pub(crate) issuer: Option<String>,
    /// It is the cluster's own issuer.
    pub(crate) is_cluster: bool,
    /// There is no other source.
    pub(crate) is_only: bool,
}

/// The bearer of a token.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Identity {
    /// `sub`, else `user_id`, else empty.
    pub(crate) subject: String,
    /// `iss`, if the token has one.
    pub(crate) issuer: Option<String>,
    /// `exp`, without leeway.
    pub(crate) expires_at: SystemTime,
    /// All claims, as the issuer wrote them: a JSON object without duplicate names.
    pub(crate) claims: Arc<str>,
    /// The id of issuer and subject, to which issued ids are bound.
    pub(crate) subject_id: SubjectId,
    /// What decisions about access need besides.
    pub(crate) access: AccessFacts,
}

/// What decisions about access need of an identity besides its claims. It does not tell identities apart.
#[derive(Clone, Default)]
pub(crate) struct AccessFacts {
    /// The cluster's own issuer signed the token.
    is_cluster: bool,
    /// There is no other issuer.
    is_only: bool,
    /// The issuer whose keys verified the token has the name that the token says.
    is_named: bool,
    /// The claims, decoded on first use.
    claims: OnceLock<Map<String, Value>>,
    /// The class of the caller, found on first use.
    pub(crate) class: Memo,
    /// The digest of the claims, made on first use.
    claims_id: OnceLock<[u8; 16]>,
}

impl AccessFacts {
    /// Those of a gateway with a single source of keys.
    #[cfg(test)]
    pub(crate) fn of_only_source() -> Self {
        Self { is_only: true, is_named: true, ..Self::default() }
    }
}

impl PartialEq for AccessFacts {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for AccessFacts {}

impl Identity {
    /// The caller, for decisions about access.
    pub(crate) fn caller(&self) -> portcullis_access::Caller<'_> {
        let facts = &self.access;
        portcullis_access::Caller {
            subject: &self.subject,
            issuer: self.issuer.as_deref().filter(|_| facts.is_named),
            is_of_cluster: facts.is_cluster,
            is_of_only_source: facts.is_only,
            claims: facts.claims.get_or_init(|| serde_json::from_str(&self.claims).unwrap_or_default()),
            view: None,
        }
    }
}

impl ShownCaller for Identity {
    fn id(&self) -> [u8; 16] {
        let vouching = || self.issuer.as_deref().filter(|_| self.access.is_named).unwrap_or_default();
        *self.access.claims_id.get_or_init(|| short_digest(&[&self.claims, vouching()]))
    }

    fn caller(&self) -> portcullis_access::Caller<'_> {
        Self::caller(self)
    }

    fn expires_at(&self) -> SystemTime {
        self.expires_at
    }
}

impl fmt::Debug for Identity {
    /// Omits the claims: they may reveal more about a person than a log should contain.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity")
            .field("subject", &self.subject)
            .field("issuer", &self.issuer)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The relevant part of a token's header. Anything that it points to (jku, x5u, jwk) is ignored.
#[derive(Deserialize)]
struct TokenHeader {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    // The presence counts, with any value, null included.
    #[serde(default, deserialize_with = "present")]
    crit: bool,
    #[serde(default, deserialize_with = "present")]
    b64: bool,
}

/// The bearer of a token, and the issuer that accepts it.
#[derive(Debug)]
pub(super) struct Vouched {
    pub(super) identity: Identity,
    /// The issuer's position in the list.
    pub(super) issuer: usize,
}

/// The reason no issuer accepts a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TokenRefusal {
    pub(super) error: AuthError,
    /// The issuer that the token names, if newer keys of it could change the result.
    pub(super) outdated: Option<usize>,
}

impl From<AuthError> for TokenRefusal {
    fn from(error: AuthError) -> Self {
        Self { error, outdated: None }
    }
}

/// Checks a token against all issuers that it may come from.
///
/// # Errors
/// The reason no issuer accepts it; of several reasons, that of the issuer that came closest.
pub(crate) fn verify(token: &str, issuers: &[Issuer], now: SystemTime) -> Result<Identity, AuthError> {
    examine(token, issuers, now).map(|vouched| vouched.identity).map_err(|refusal| refusal.error)
}

/// Like [`verify`], and also returns the issuer.
pub(super) fn examine(token: &str, issuers: &[Issuer], now: SystemTime) -> Result<Vouched, TokenRefusal> {
    if token.len() > MAX_TOKEN_BYTES {
        return Err(AuthError::TooLarge.into());
    }
    let (head, payload) = split(token)?;
    let head = read_head(head)?;
    // Not trusted yet: only saves checks against issuers that would refuse.
    let unverified: Claims = decode(payload)?;
    let iss = unverified.issuer()?;
    // An issuer that may sign for any name must not sign for an issuer with keys of its own.
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
    // An issuer that has not been reached yet may turn out to be the one that the token names.
    if iss.is_some() && !named && issuers.iter().any(|issuer| issuer.may_turn_out(&head)) {
        errors.push(AuthError::NoKeys);
    }
    let error = errors.into_iter().max_by_key(|error| error.depth()).unwrap_or(AuthError::Issuer);
    Err(TokenRefusal { error, outdated })
}

/// The header and the payload of a token with three parts.
fn split(token: &str) -> Result<(&str, &str), AuthError> {
    let mut parts = token.split('.');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(head), Some(payload), Some(_), None) => Ok((head, payload)),
        _ => Err(AuthError::Malformed),
    }
}

fn read_head(text: &str) -> Result<TokenHeader, AuthError> {
    let head: TokenHeader = decode(text)?;
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
fn signed_claims(token: &str, key: &VerificationKey) -> Result<Box<RawValue>, AuthError> {
    let data = jsonwebtoken::decode::<Box<RawValue>>(token, &key.decoding, &key.validation);
    data.map(|data| data.claims).map_err(|error| match error.kind() {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAlgorithm => AuthError::Algorithm,
        _ => AuthError::Malformed,
    })
}

/// Signs and checks one token, and refuses it with a truncated signature: a build with missing or duplicate
/// cryptography must fail here and not on the first request.
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

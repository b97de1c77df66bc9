//! Authenticates callers: finds the token of a request, checks it, and names its bearer.
//!
//! There is no optional mode: a request has a valid token or is refused. A valid token stays valid until it expires or
//! the keys change; only the cluster can report a revocation. For the `JWT_` settings without an audience, any `aud` is
//! accepted.
mod cache;
mod claims;
mod error;
mod extract;
mod fetch;
mod issuers;
mod jwks;
mod keys;
mod load;
mod refresh;
mod review;
mod settings;
mod subject;
mod verify;
mod weak;

#[cfg(test)]
mod tests;

use std::{borrow::Cow, collections::BTreeSet, fmt, sync::Arc, time::SystemTime};

pub use error::AuthError;
use http::{HeaderMap, HeaderValue, header};
pub(crate) use issuers::IssuerFault;
pub(crate) use jsonwebtoken::Algorithm;
pub(crate) use jwks::JwksError;
pub(crate) use keys::{KeyFault, KeySet};
pub(crate) use load::shared_secret;
use portcullis_runtime::serve::Fields;
pub(crate) use settings::{Kubernetes, Problem, Secret, Settings, parse_algorithm};
pub(crate) use subject::SubjectId;
#[cfg(test)]
pub(crate) use verify::AccessFacts;
pub(crate) use verify::{Identity, Issuer, MAX_TOKEN_BYTES, TokenSource};
#[cfg(test)]
use {jwks::Skipped, settings::DEFAULT_LEEWAY, settings::UnknownAlgorithm, verify::verify};

use cache::{MAX_AGE, MAX_AGE_REVIEWED, TokenCache, TokenLookup};
use load::Loaded;
use refresh::Remote;
use review::Reviewer;
use verify::{TokenRefusal, Vouched, examine};

use crate::telemetry::metrics::Metrics;

/// Checks the token of every request against a fixed list of issuers whose keys may change.
pub struct Authenticator {
    issuers: Vec<Issuer>,
    /// The issuers whose keys are fetched.
    remotes: Vec<Remote>,
    /// The issuer whose tokens are reviewed, and the reviewer.
    reviewer: Option<(usize, Reviewer)>,
    cache: TokenCache,
    metrics: Metrics,
    /// The scopes that all tokens need, except those of the cluster.
    scopes: Vec<String>,
}

/// The immediate result of checking a request's token.
pub(crate) enum TokenCheck {
    /// The token is valid, and this is its bearer.
    Known(Arc<Identity>),
    /// The token is refused.
    Refused(AuthError),
    /// Undecided: the issuer or the cluster must be queried.
    Pending(Box<PendingCheck>),
}

/// A token that needs a query. It lives no longer than its request.
pub(crate) struct PendingCheck {
    token: String,
    lookup: TokenLookup,
    now: SystemTime,
    found: Result<Vouched, TokenRefusal>,
}

/// The token of a request that was authenticated by it.
pub(crate) fn token_of<'a>(fields: &'a Fields, query: Option<&'a str>) -> Option<Cow<'a, str>> {
    extract::token(fields, query, true).or_else(|_| extract::token(fields, None, false)).ok()
}

impl Authenticator {
    /// Reads the keys that the settings name and proves once that tokens can be signed and checked.
    ///
    /// # Errors
    /// All problems of the settings at once.
    pub fn new(settings: &Settings) -> Result<Self, Vec<Problem>> {
        Self::with_cluster(settings, None, Metrics::new())
    }

    /// The same with the cluster's API server, without which none of its tokens is ever accepted.
    ///
    /// # Errors
    /// As [`Authenticator::new`].
    pub(crate) fn with_cluster(
        settings: &Settings,
        client: Option<&kube::Client>,
        metrics: Metrics,
    ) -> Result<Self, Vec<Problem>> {
        let scopes = settings.required_scopes.clone();
        Ok(Self { scopes, ..Self::of(load::issuers(settings, client)?, client, metrics)? })
    }

    /// Accepts tokens of any of these issuers. Keys of one issuer never verify tokens of another.
    ///
    /// # Errors
    /// [`Problem::SelfTest`] if this build cannot sign and check tokens.
    #[cfg(test)]
    pub(crate) fn from_issuers(issuers: Vec<Issuer>) -> Result<Self, Vec<Problem>> {
        Self::of(issuers.into_iter().map(Loaded::fixed).collect(), None, Metrics::new())
    }

    fn of(loaded: Vec<Loaded>, client: Option<&kube::Client>, metrics: Metrics) -> Result<Self, Vec<Problem>> {
        verify::self_test().map_err(|problem| vec![problem])?;
        let (mut issuers, mut remotes, mut reviewer) = (Vec::new(), Vec::new(), None);
        let is_only = loaded.len() == 1;
        for (index, Loaded { issuer, source, review }) in loaded.into_iter().enumerate() {
            issuers.push(Issuer { is_only, ..issuer });
            remotes.extend(source.map(|source| Remote::new(index, source)));
            if let (Some(review), Some(client)) = (review, client) {
                reviewer = Some((index, Reviewer::new(client.clone(), review.audience, metrics.clone())));
            }
        }
        Ok(Self { issuers, remotes, reviewer, cache: TokenCache::default(), metrics, scopes: Vec::new() })
    }

    /// Identifies the caller, as far as possible without a query. Never waits.
    ///
    /// `query` is the raw query of the request's address; its `token` counts only with `allow_query_token`. `now` is
    /// the arrival time of the request. A refusal contains nothing from the request.
    pub(crate) fn look_at(
        &self,
        fields: &Fields,
        query: Option<&str>,
        allow_query_token: bool,
        now: SystemTime,
    ) -> TokenCheck {
        let token = match extract::token(fields, query, allow_query_token) {
            Ok(token) if token.len() > MAX_TOKEN_BYTES => return TokenCheck::Refused(AuthError::TooLarge),
            Ok(token) => token,
            Err(error) => return TokenCheck::Refused(error),
        };
        let lookup = self.cache.lookup(&token);
        if let Some(identity) = self.cache.get(&lookup, now) {
            return TokenCheck::Known(identity);
        }
        match examine(&token, &self.issuers, now) {
            Ok(vouched) if self.reviewer_of(vouched.issuer).is_none() => {
                let identity = Arc::new(vouched.identity);
                self.cache.insert(&lookup, &identity, now, MAX_AGE);
                TokenCheck::Known(identity)
            }
            Err(refusal) if self.remote_of(refusal).is_none() => TokenCheck::Refused(refusal.error),
            found => TokenCheck::Pending(Box::new(PendingCheck { token: token.into_owned(), lookup, now, found })),
        }
    }

    /// Sends the query: to the issuer for newer keys (up to 2 s), to the cluster about the token (up to 5 s).
    ///
    /// # Errors
    /// The reason the request is refused.
    pub(crate) async fn ask(&self, pending: PendingCheck) -> Result<Arc<Identity>, AuthError> {
        let PendingCheck { token, mut lookup, mut now, found } = pending;
        let vouched = match found {
            Ok(vouched) => vouched,
            Err(refusal) => {
                let remote = self.remote_of(refusal).ok_or(refusal.error)?;
                if !remote.renewed().await {
                    return Err(refusal.error);
                }
                (lookup, now) = (self.cache.lookup(&token), SystemTime::now());
                examine(&token, &self.issuers, now).map_err(|refusal| refusal.error)?
            }
        };
        let identity = Arc::new(vouched.identity);
        let mut max_age = MAX_AGE;
        if let Some(reviewer) = self.reviewer_of(vouched.issuer) {
            reviewer.vouches_for(lookup.digest(), &token, &identity.subject).await?;
            max_age = MAX_AGE_REVIEWED;
        }
        self.cache.insert(&lookup, &identity, now, max_age);
        Ok(identity)
    }

    /// The audiences of which a token must have one, of all issuers.
    pub(crate) fn audiences(&self) -> BTreeSet<String> {
        self.issuers.iter().flat_map(|issuer| issuer.audiences.iter().cloned()).collect()
    }

    /// Whether a token that somebody sends would be accepted. Undecided counts as not.
    pub(crate) async fn accepts(&self, token: &str) -> bool {
        let Ok(value) = HeaderValue::try_from(format!("Bearer {token}")) else { return false };
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value)]);
        match self.look_at(&(&headers).into(), None, false, SystemTime::now()) {
            TokenCheck::Known(_) => true,
            TokenCheck::Refused(_) => false,
            TokenCheck::Pending(pending) => self.ask(*pending).await.is_ok(),
        }
    }

    /// The scopes that a token needs, unless it is one of the cluster.
    pub(crate) fn required_scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The `WWW-Authenticate` header of a refusal; `None` if another token would change nothing.
    ///
    /// `resource_metadata` is the address at which the caller finds the issuers.
    pub(crate) fn challenge(&self, error: AuthError, resource_metadata: Option<&str>) -> Option<HeaderValue> {
        error.challenge(&self.scopes, resource_metadata)
    }

    /// The names of issuers that are https addresses: clients may find out there how to get a token.
    ///
    /// The cluster is not included: clients cannot sign in there.
    pub(crate) fn https_issuers(&self) -> Vec<String> {
        let cluster = |index: usize| self.remotes.iter().any(|remote| remote.issuer == index && remote.is_cluster());
        let named = self.issuers.iter().enumerate().filter(|(index, _)| !cluster(*index));
        let names = named.filter_map(|(_, issuer)| match &issuer.trust().name {
            verify::Name::Is(name) if name.starts_with("https://") => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    /// The source of the tokens of somebody who is not here. Without `issuer`, a service account is one of the cluster, and
    /// others have tokens of the only source, if there is only one.
    pub(crate) fn source_of(&self, is_service_account: bool, issuer: Option<&str>) -> TokenSource {
        let is_only = self.issuers.len() == 1;
        let name_of = |issuer: &Issuer| match &issuer.trust().name {
            verify::Name::Is(name) => Some(name.clone()),
            verify::Name::Any | verify::Name::Unknown => None,
        };
        let found = match issuer {
            Some(wanted) => self.issuers.iter().find(|issuer| name_of(issuer).as_deref() == Some(wanted)),
            None if is_service_account => self.issuers.iter().find(|issuer| issuer.is_cluster),
            None => self.issuers.first().filter(|_| is_only),
        };
        TokenSource {
            issuer: issuer.map(str::to_owned).or_else(|| found.and_then(name_of)),
            is_cluster: found.map_or(issuer.is_none() && is_service_account, |issuer| issuer.is_cluster),
            is_only,
        }
    }

    /// The immediate result; a token that needs a query counts as refused.
    #[cfg(test)]
    pub(crate) fn authenticate_at(
        &self,
        headers: &http::HeaderMap,
        query: Option<&str>,
        allow_query_token: bool,
        now: SystemTime,
    ) -> Result<Arc<Identity>, AuthError> {
        match self.look_at(&headers.into(), query, allow_query_token, now) {
            TokenCheck::Known(identity) => Ok(identity),
            TokenCheck::Refused(error) => Err(error),
            TokenCheck::Pending(pending) => {
                Err(pending.found.map_or_else(|refusal| refusal.error, |_| AuthError::NoReview))
            }
        }
    }

    fn remote_of(&self, refusal: TokenRefusal) -> Option<&Remote> {
        self.remotes.iter().find(|remote| Some(remote.issuer) == refusal.outdated)
    }

    fn reviewer_of(&self, issuer: usize) -> Option<&Reviewer> {
        self.reviewer.as_ref().filter(|(reviewed, _)| *reviewed == issuer).map(|(_, reviewer)| reviewer)
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("issuers", &self.issuers).finish_non_exhaustive()
    }
}

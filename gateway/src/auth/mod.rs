//! Who is calling: finds the token of a request, checks it, and names its bearer.
//!
//! There is no optional mode: a request has a good token or is refused. A good token stays good until it expires or
//! the keys change; only the cluster can be asked whether it was revoked. For the `JWT_` settings without an audience,
//! any `aud` is accepted.
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
mod verify;
mod weak;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::SystemTime};

pub use error::AuthError;
use http::HeaderValue;
pub use issuers::IssuerFault;
pub use jsonwebtoken::Algorithm;
pub use jwks::{JwksError, Skipped};
pub use keys::{KeyFault, KeySet};
pub(crate) use load::shared_secret;
use portcullis_runtime::serve::Fields;
pub use settings::{
    DEFAULT_LEEWAY, Kubernetes, MAX_LEEWAY, MIN_SECRET_BYTES, Problem, Secret, Settings, UnknownAlgorithm,
    parse_algorithm,
};
pub use verify::{Identity, Issuer, MAX_TOKEN_BYTES, verify};

use cache::{MAX_AGE, MAX_AGE_REVIEWED, Ticket, TokenCache};
use load::Loaded;
use refresh::Remote;
use review::Reviewer;
use verify::{Refusal, Vouched, examine};

use crate::metrics::Metrics;

/// Checks the token of every request against a fixed list of issuers whose keys may change.
pub struct Authenticator {
    issuers: Vec<Issuer>,
    /// Those of them whose keys are fetched.
    remotes: Vec<Remote>,
    /// The issuer whose tokens are asked about, and who asks.
    reviewer: Option<(usize, Reviewer)>,
    cache: TokenCache,
    metrics: Metrics,
    /// All that tokens must have, but for those of the cluster.
    scopes: Vec<String>,
}

/// What can be said about a request's token at once.
pub enum Look {
    /// Whose it is.
    Known(Arc<Identity>),
    /// That it is refused.
    Refused(AuthError),
    /// Nothing yet: somebody has to be asked.
    Open(Box<Question>),
}

/// A token that somebody has to be asked about. It lives no longer than its request.
pub struct Question {
    token: String,
    ticket: Ticket,
    now: SystemTime,
    found: Result<Vouched, Refusal>,
}

impl Authenticator {
    /// Reads the keys that the settings name and proves once that tokens can be signed and checked.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, at once.
    pub fn new(settings: &Settings) -> Result<Self, Vec<Problem>> {
        Self::with_cluster(settings, None, Metrics::new())
    }

    /// The same with the cluster's API server, without which none of its tokens is ever accepted.
    ///
    /// # Errors
    /// As [`Authenticator::new`].
    pub fn with_cluster(
        settings: &Settings,
        client: Option<&kube::Client>,
        metrics: Metrics,
    ) -> Result<Self, Vec<Problem>> {
        let scopes = settings.required_scopes.clone();
        Ok(Self { scopes, ..Self::of(load::issuers(settings, client)?, client, metrics)? })
    }

    /// Accepts tokens of any of these issuers. Keys of one issuer never vouch for another.
    ///
    /// # Errors
    /// [`Problem::SelfTest`] if this build cannot sign and check tokens.
    pub fn from_issuers(issuers: Vec<Issuer>) -> Result<Self, Vec<Problem>> {
        Self::of(issuers.into_iter().map(Loaded::fixed).collect(), None, Metrics::new())
    }

    fn of(loaded: Vec<Loaded>, client: Option<&kube::Client>, metrics: Metrics) -> Result<Self, Vec<Problem>> {
        verify::self_test().map_err(|problem| vec![problem])?;
        let (mut issuers, mut remotes, mut reviewer) = (Vec::new(), Vec::new(), None);
        for (index, Loaded { issuer, source, review }) in loaded.into_iter().enumerate() {
            issuers.push(issuer);
            remotes.extend(source.map(|source| Remote::new(index, source)));
            if let (Some(review), Some(client)) = (review, client) {
                reviewer = Some((index, Reviewer::new(client.clone(), review.audience, metrics.clone())));
            }
        }
        Ok(Self { issuers, remotes, reviewer, cache: TokenCache::default(), metrics, scopes: Vec::new() })
    }

    /// Names the caller, as far as that needs nobody's answer. It never waits.
    ///
    /// `query` is the raw query of the request's address; its `token` counts only with `allow_query_token`. `now` is
    /// when the request came. Nothing in a refusal comes from the request.
    pub fn look_at(&self, fields: &Fields, query: Option<&str>, allow_query_token: bool, now: SystemTime) -> Look {
        let token = match extract::token(fields, query, allow_query_token) {
            Ok(token) if token.len() > MAX_TOKEN_BYTES => return Look::Refused(AuthError::TooLarge),
            Ok(token) => token,
            Err(error) => return Look::Refused(error),
        };
        let ticket = self.cache.ticket(&token);
        if let Some(identity) = self.cache.get(&ticket, now) {
            return Look::Known(identity);
        }
        match examine(&token, &self.issuers, now) {
            Ok(vouched) if self.reviewer_of(vouched.issuer).is_none() => {
                let identity = Arc::new(vouched.identity);
                self.cache.insert(&ticket, &identity, now, MAX_AGE);
                Look::Known(identity)
            }
            Err(refusal) if self.remote_of(refusal).is_none() => Look::Refused(refusal.error),
            found => Look::Open(Box::new(Question { token: token.into_owned(), ticket, now, found })),
        }
    }

    /// Asks who has to be asked: the issuer for newer keys (up to 2 s), the cluster about the token (up to 5 s).
    ///
    /// # Errors
    /// Why the request is refused.
    pub async fn ask(&self, question: Question) -> Result<Arc<Identity>, AuthError> {
        let Question { token, mut ticket, mut now, found } = question;
        let vouched = match found {
            Ok(vouched) => vouched,
            Err(refusal) => {
                let remote = self.remote_of(refusal).ok_or(refusal.error)?;
                if !remote.renewed().await {
                    return Err(refusal.error);
                }
                (ticket, now) = (self.cache.ticket(&token), SystemTime::now());
                examine(&token, &self.issuers, now).map_err(|refusal| refusal.error)?
            }
        };
        let identity = Arc::new(vouched.identity);
        let mut max_age = MAX_AGE;
        if let Some(reviewer) = self.reviewer_of(vouched.issuer) {
            reviewer.vouches_for(ticket.digest(), &token, &identity.subject).await?;
            max_age = MAX_AGE_REVIEWED;
        }
        self.cache.insert(&ticket, &identity, now, max_age);
        Ok(identity)
    }

    /// The scopes that a token must have, unless it is one of the cluster.
    pub fn required_scopes(&self) -> &[String] {
        &self.scopes
    }

    /// The `WWW-Authenticate` header of a refusal; `None` if another token would change nothing.
    ///
    /// `resource_metadata` is where the caller learns who gives tokens.
    pub fn challenge(&self, error: AuthError, resource_metadata: Option<&str>) -> Option<HeaderValue> {
        error.challenge(&self.scopes, resource_metadata)
    }

    /// The names of issuers that are https addresses: there clients may find out how to get a token.
    ///
    /// The cluster is none of them: nobody can sign in there.
    pub fn https_issuers(&self) -> Vec<String> {
        let cluster = |index: usize| self.remotes.iter().any(|remote| remote.issuer == index && remote.is_cluster());
        let named = self.issuers.iter().enumerate().filter(|(index, _)| !cluster(*index));
        let names = named.filter_map(|(_, issuer)| match &issuer.trust().name {
            verify::Name::Is(name) if name.starts_with("https://") => Some(name.clone()),
            _ => None,
        });
        names.collect()
    }

    /// What can be said at once, where a token without an answer counts as refused.
    #[cfg(test)]
    pub(crate) fn authenticate_at(
        &self,
        headers: &http::HeaderMap,
        query: Option<&str>,
        allow_query_token: bool,
        now: SystemTime,
    ) -> Result<Arc<Identity>, AuthError> {
        match self.look_at(&headers.into(), query, allow_query_token, now) {
            Look::Known(identity) => Ok(identity),
            Look::Refused(error) => Err(error),
            Look::Open(question) => Err(question.found.map_or_else(|refusal| refusal.error, |_| AuthError::NoReview)),
        }
    }

    fn remote_of(&self, refusal: Refusal) -> Option<&Remote> {
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

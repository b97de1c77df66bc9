//! Who is calling: finds the token of a request, checks it, and names its bearer.
//!
//! There is no optional mode: a request has a good token or is refused. A good token stays good until it expires or
//! the keys change; there is no earlier revocation. Without a configured audience, any `aud` is accepted.
mod cache;
mod claims;
mod error;
mod extract;
mod jwks;
mod keys;
mod load;
mod settings;
mod verify;
mod weak;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc, time::SystemTime};

pub use error::AuthError;
use http::HeaderMap;
pub use jsonwebtoken::Algorithm;
pub use jwks::{JwksError, Skipped};
pub use keys::{KeyFault, KeySet};
pub(crate) use load::shared_secret;
pub use settings::{
    DEFAULT_LEEWAY, MAX_LEEWAY, MIN_SECRET_BYTES, Problem, Secret, Settings, UnknownAlgorithm, parse_algorithm,
};
pub use verify::{Identity, Issuer, MAX_TOKEN_BYTES, verify};

use cache::TokenCache;

/// Checks the token of every request against a fixed list of issuers whose keys may change.
pub struct Authenticator {
    issuers: Vec<Issuer>,
    cache: TokenCache,
}

impl Authenticator {
    /// Reads the keys that the settings name and proves once that tokens can be signed and checked.
    ///
    /// # Errors
    /// Everything that is wrong with the settings, at once.
    pub fn new(settings: &Settings) -> Result<Self, Vec<Problem>> {
        let issuer = load::issuer(settings)?;
        Self::from_issuers(vec![issuer])
    }

    /// Accepts tokens of any of these issuers. Keys of one issuer never vouch for another.
    ///
    /// # Errors
    /// [`Problem::SelfTest`] if this build cannot sign and check tokens.
    pub fn from_issuers(issuers: Vec<Issuer>) -> Result<Self, Vec<Problem>> {
        verify::self_test().map_err(|problem| vec![problem])?;
        Ok(Self { issuers, cache: TokenCache::default() })
    }

    /// Names the caller, now.
    ///
    /// `query` is the raw query of the request's address; its `token` counts only with `allow_query_token`.
    ///
    /// # Errors
    /// Why the request is refused. Nothing in the error comes from the request.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        allow_query_token: bool,
    ) -> Result<Arc<Identity>, AuthError> {
        self.authenticate_at(headers, query, allow_query_token, SystemTime::now())
    }

    /// Like [`Authenticator::authenticate`], at a given time.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub fn authenticate_at(
        &self,
        headers: &HeaderMap,
        query: Option<&str>,
        allow_query_token: bool,
        now: SystemTime,
    ) -> Result<Arc<Identity>, AuthError> {
        let token = extract::token(headers, query, allow_query_token)?;
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::TooLarge);
        }
        let ticket = self.cache.ticket(&token);
        if let Some(identity) = self.cache.get(&ticket, now) {
            return Ok(identity);
        }
        let identity = Arc::new(verify(&token, &self.issuers, now)?);
        self.cache.insert(&ticket, &identity, now);
        Ok(identity)
    }

    /// Replaces the keys of the issuer at `index` in the list and forgets every remembered token.
    ///
    /// Returns false, and changes nothing, if there is no such issuer.
    pub fn replace_keys(&self, index: usize, keys: KeySet) -> bool {
        let Some(issuer) = self.issuers.get(index) else { return false };
        issuer.replace_keys(keys);
        self.cache.forget_all();
        true
    }
}

impl fmt::Debug for Authenticator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authenticator").field("issuers", &self.issuers).finish_non_exhaustive()
    }
}

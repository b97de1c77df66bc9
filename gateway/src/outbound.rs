//! What servers are shown of callers, and of the gateway: assertions that the gateway signs, and tokens that it gets from
//! authorization servers.
//!
//! Tokens leave this room only in headers: nothing here displays them.

mod assertion;
mod client_auth;
mod endpoints;
mod error;
mod exchange;
mod own;
mod signing;
mod token_cache;
mod token_endpoint;

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use http::HeaderValue;
use portcullis_crds::Server;
use tokio::time::Instant;

pub(crate) use assertion::AssertionTerms;
pub(crate) use client_auth::TokenUrls;
pub(crate) use endpoints::Endpoints;
pub(crate) use error::OutboundError;
pub(crate) use exchange::ExchangeTerms;
pub(crate) use signing::SigningKeys;
pub(crate) use token_endpoint::TokenClient;

use exchange::Exchanges;
use own::OwnTokens;
use token_cache::{TokenCache, TokenKey};

/// The bearer of a checked token, whom servers are shown.
pub(crate) trait ShownCaller: Sync {
    /// A digest of all claims and of the issuer that vouches for them: two tokens have the same only if they say the same.
    fn id(&self) -> [u8; 16];

    /// What the token says.
    fn caller(&self) -> portcullis_access::Caller<'_>;

    /// When the token expires.
    fn expires_at(&self) -> SystemTime;
}

/// Makes tokens for calls, and keeps them until shortly before they expire. The default makes none.
#[derive(Default)]
pub(crate) struct Outbound {
    /// `iss` of assertions, without a slash at the end.
    issuer: Option<String>,
    signing: ArcSwapOption<SigningKeys>,
    cache: TokenCache,
    /// What is needed to ask authorization servers, and to decide for whom.
    endpoints: Option<Arc<Endpoints>>,
    exchanges: Exchanges,
    own: OwnTokens,
}

impl Outbound {
    /// Signs as `issuer` with these keys.
    pub(crate) fn new(issuer: Option<String>, keys: Option<SigningKeys>, endpoints: Endpoints) -> Self {
        let (signing, endpoints) = (ArcSwapOption::from_pointee(keys), Some(Arc::new(endpoints)));
        Self { issuer, signing, endpoints, ..Self::default() }
    }

    /// Signs with the first of these keys from now on.
    pub(crate) fn replace_keys(&self, keys: SigningKeys) {
        self.signing.store(Some(keys.into()));
        // Servers must not see tokens of a key that is no longer published.
        self.cache.forget_all();
        self.renew_own_assertions();
    }

    /// The documents by which servers verify assertions; `None` if the gateway signs none.
    pub(crate) fn published(&self) -> Option<Published> {
        let (issuer, keys) = (self.issuer.as_deref()?, self.signing.load());
        let keys = keys.as_deref()?;
        let discovery = serde_json::json!({
            "issuer": issuer,
            "jwks_uri": format!("{issuer}{KEYS_PATH}"),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": keys.algorithms(),
        });
        Some(Published { discovery: discovery.to_string(), keys: keys.published().to_owned() })
    }

    /// Why the gateway cannot sign assertions, if it cannot.
    ///
    /// # Errors
    /// A setting is missing.
    fn can_sign(&self) -> Result<(), OutboundError> {
        match (&self.issuer, self.signing.load().is_some()) {
            (_, false) => Err(OutboundError::NoKeys),
            (None, true) => Err(OutboundError::NoIssuer),
            (Some(_), true) => Ok(()),
        }
    }

    /// Checks whether calls to this server can be made as it asks.
    ///
    /// # Errors
    /// They cannot: the server must not be contacted.
    pub(crate) fn check(&self, server: &Server) -> Result<(), OutboundError> {
        if let Some(forward) = &server.forward_caller_token {
            let own = server.caller_token_header().ok_or(OutboundError::NoHeader)?;
            if forward.from != own {
                return Err(OutboundError::Header(own));
            }
        }
        if let Some(terms) = AssertionTerms::of(server) {
            self.check_audience(&terms)?;
            return self.can_sign();
        }
        match ExchangeTerms::of(server) {
            None => Ok(()),
            Some(terms) => self.endpoints()?.check_exchange(&terms),
        }
    }

    fn check_audience(&self, terms: &AssertionTerms) -> Result<(), OutboundError> {
        self.endpoints()?.decide(terms.server(), terms.wanted())
    }

    fn endpoints(&self) -> Result<&Arc<Endpoints>, OutboundError> {
        self.endpoints.as_ref().ok_or(OutboundError::Pending)
    }

    /// The header of an assertion for this caller, from the cache if there is one. `now`: the time of the call.
    ///
    /// # Errors
    /// No assertion can be made: the call must not be sent.
    pub(crate) fn assertion(
        &self,
        terms: &AssertionTerms,
        caller: &dyn ShownCaller,
        tool: Option<&str>,
        now: Instant,
    ) -> Result<HeaderValue, OutboundError> {
        let key = TokenKey { caller: caller.id(), terms: terms.id(tool.filter(|_| terms.names_tool())) };
        match self.cache.get(&key, now) {
            Some(value) => Ok(value),
            None => self.signed(terms, caller, tool, (key, now)),
        }
    }

    #[cold]
    fn signed(
        &self,
        terms: &AssertionTerms,
        caller: &dyn ShownCaller,
        tool: Option<&str>,
        (key, now): (TokenKey, Instant),
    ) -> Result<HeaderValue, OutboundError> {
        self.check_audience(terms)?;
        let generation = self.cache.generation();
        let keys = self.signing.load_full().ok_or(OutboundError::NoKeys)?;
        let issuer = self.issuer.as_deref().ok_or(OutboundError::NoIssuer)?;
        let made = terms.sign(&keys, issuer, caller, tool.filter(|_| terms.names_tool()))?;
        let value = bearer(&made.token)?;
        if let Some(fresh_for) = made.fresh_for {
            self.cache.put(generation, key, (value.clone(), now + fresh_for), now);
        }
        Ok(value)
    }
}

/// How one server is shown who makes each call.
#[derive(Clone)]
pub(crate) enum CallerTerms {
    /// By assertions.
    Assertion(Arc<AssertionTerms>),
    /// By tokens that are exchanged for the callers'.
    Exchange(Arc<ExchangeTerms>),
}

impl CallerTerms {
    /// The terms of a server; none if it is not shown who calls.
    pub(crate) fn of(server: &Server) -> Option<Self> {
        let assertion = || Some(Self::Assertion(Arc::new(AssertionTerms::of(server)?)));
        assertion().or_else(|| Some(Self::Exchange(Arc::new(ExchangeTerms::of(server)?))))
    }
}

/// The path of the public keys.
pub(crate) const KEYS_PATH: &str = "/.well-known/jwks.json";

/// The path of the document that names the issuer of assertions (OpenID Connect Discovery).
pub(crate) const DISCOVERY_PATH: &str = "/.well-known/openid-configuration";

/// The documents by which servers verify assertions, as JSON.
pub(crate) struct Published {
    /// The issuer, and where its keys are.
    pub(crate) discovery: String,
    /// A JSON Web Key Set.
    pub(crate) keys: String,
}

/// The value of a header that holds this token.
fn bearer(token: &str) -> Result<HeaderValue, OutboundError> {
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| OutboundError::Signature)?;
    value.set_sensitive(true);
    Ok(value)
}

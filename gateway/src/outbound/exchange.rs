//! Exchanges a caller's token for one that a server accepts (RFC 8693): once for each caller, however many calls wait.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared, WeakShared};
use http::HeaderValue;
use parking_lot::Mutex;
use portcullis_crds::Server;
use portcullis_crds::mcpserver::TokenExchange;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::client_auth::{ClientProof, put_scopes, put_target};
use super::error::OutboundError;
use super::token_cache::TokenKey;
use super::token_endpoint::{DEADLINE, Issued, TokenError, TokenRequest};
use super::{Outbound, ShownCaller, bearer};
use crate::util::short_digest;

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
const JWT: &str = "urn:ietf:params:oauth:token-type:jwt";

/// A token is no longer used this long before it expires, or a quarter of its life.
const MARGIN: Duration = Duration::from_secs(30);

/// How long an answer without a token is remembered, and how long any other failure.
const REMEMBERED: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(2));

/// The limit for exchanges under way.
const MAX_EXCHANGES: usize = 1024;

/// The limit for calls that wait for exchanges.
const MAX_WAITING: usize = 4096;

/// The limit for remembered failures.
const MAX_FAILURES: usize = 10_000;

/// How the callers' tokens are exchanged for those of one server.
#[derive(Debug)]
pub(crate) struct ExchangeTerms {
    pub(super) server: Server,
    pub(super) url: Url,
    /// The digest of everything that the result depends on.
    id: [u8; 16],
}

type Outcome = Result<(HeaderValue, Duration), OutboundError>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// The exchanges under way, and those that failed lately.
#[derive(Default)]
pub(super) struct Exchanges {
    /// Owned by the calls that wait, not here: an exchange for which no call waits ends.
    running: Mutex<HashMap<TokenKey, WeakShared<BoxFuture<'static, Outcome>>>>,
    failed: Mutex<HashMap<TokenKey, (OutboundError, Instant)>>,
    waiting: AtomicUsize,
}

/// A call that waits.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Result<Self, OutboundError> {
        let waits = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= MAX_WAITING { Err(OutboundError::Busy) } else { Ok(waits) }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl ExchangeTerms {
    /// The terms of a server whose callers' tokens are exchanged.
    pub(crate) fn of(server: &Server) -> Option<Self> {
        let spec = server.identity.as_ref()?.exchange.as_ref()?;
        let text = serde_json::to_string(spec).unwrap_or_default();
        let id = short_digest(&["exchange", &server.key.namespace, &server.url, &text]);
        // Invalid URLs are refused elsewhere.
        let url = Url::parse(&spec.token_url).ok()?;
        Some(Self { server: server.clone(), url, id })
    }

    pub(super) fn spec(&self) -> Option<&TokenExchange> {
        self.server.identity.as_ref()?.exchange.as_ref()
    }

    /// Identifies the token of this caller.
    pub(super) fn key(&self, caller: &dyn ShownCaller) -> TokenKey {
        TokenKey { caller: caller.id(), terms: self.id }
    }

    /// The parameters of the request.
    fn form(&self, subject_token: &str) -> Vec<(&'static str, String)> {
        let mut form = vec![
            ("grant_type", GRANT.to_owned()),
            ("subject_token", subject_token.to_owned()),
            ("subject_token_type", ACCESS_TOKEN.to_owned()),
            ("requested_token_type", ACCESS_TOKEN.to_owned()),
        ];
        if let Some(spec) = self.spec() {
            put_target(&mut form, (spec.audience.as_ref(), spec.resource.as_ref()), &self.server);
            put_scopes(&mut form, &spec.scopes);
        }
        form
    }
}

impl Outbound {
    /// The header of a token that was exchanged for this caller's, if one is kept.
    pub(crate) fn kept_exchange(
        &self,
        terms: &ExchangeTerms,
        caller: &dyn ShownCaller,
        now: Instant,
    ) -> Option<HeaderValue> {
        self.cache.get(&terms.key(caller), now)
    }

    /// Exchanges this caller's token, or joins the exchange that runs. Waits until `until` at most, and 10 s.
    ///
    /// # Errors
    /// There is no token: the call must not be sent.
    pub(crate) async fn exchanged(
        &self,
        terms: &Arc<ExchangeTerms>,
        caller: &dyn ShownCaller,
        subject_token: &str,
        until: Instant,
    ) -> Result<HeaderValue, OutboundError> {
        let (key, now) = (terms.key(caller), Instant::now());
        let failed = self.exchanges.failed.lock().get(&key).cloned();
        if let Some((error, _)) = failed.filter(|(_, until)| now < *until) {
            return Err(error);
        }
        let left = caller.expires_at().duration_since(SystemTime::now()).map_err(|_| OutboundError::Expires)?;
        let _waiting = Waiting::begin(&self.exchanges.waiting)?;
        let generation = self.cache.generation();
        let running = self.running(key, terms, subject_token)?;
        let outcome = timeout_at(until.min(now + DEADLINE), running).await;
        let (value, life) = match outcome.unwrap_or(Err(OutboundError::Exchange(TokenError::Slow))) {
            Ok(made) => made,
            Err(error) => {
                self.exchanges.remember(key, &error);
                return Err(error);
            }
        };
        // Never longer than the caller's own token.
        let life = life.min(left);
        let fresh_for = life.saturating_sub(MARGIN.min(life / 4));
        self.cache.put(generation, key, (value.clone(), now + fresh_for), now);
        Ok(value)
    }

    /// The exchange that runs for this caller; starts one if there is none.
    fn running(
        &self,
        key: TokenKey,
        terms: &Arc<ExchangeTerms>,
        subject_token: &str,
    ) -> Result<Running, OutboundError> {
        let mut all = self.exchanges.running.lock();
        if let Some(running) = all.get(&key).and_then(WeakShared::upgrade) {
            return Ok(running);
        }
        all.retain(|_, other| other.upgrade().is_some_and(|running| running.peek().is_none()));
        if all.len() >= MAX_EXCHANGES {
            return Err(OutboundError::Busy);
        }
        let endpoints = self.endpoints.clone().ok_or(OutboundError::Pending)?;
        endpoints.check_exchange(terms)?;
        let mut form = terms.form(subject_token);
        let mut basic = None;
        if let Some(auth) = terms.spec().and_then(|spec| spec.client_auth.as_ref()) {
            let proof = endpoints.proof(&terms.server, &terms.url, auth)?;
            if let ClientProof::Assertion { token, .. } = &proof {
                // The gateway acts for the caller.
                form.extend([("actor_token", token.clone()), ("actor_token_type", JWT.to_owned())]);
            }
            basic = proof.put(&mut form);
        }
        let request = TokenRequest { url: terms.url.clone(), form, basic };
        let running = async move {
            let Issued { token, life } = endpoints.ask("exchange", request).await.map_err(OutboundError::Exchange)?;
            Ok((bearer(&token)?, life))
        };
        let running = running.boxed().shared();
        if let Some(weak) = running.downgrade() {
            all.insert(key, weak);
        }
        Ok(running)
    }
}

impl Exchanges {
    fn remember(&self, key: TokenKey, error: &OutboundError) {
        let OutboundError::Exchange(of) = error else { return };
        let now = Instant::now();
        let until = now + if of.is_answer() { REMEMBERED.0 } else { REMEMBERED.1 };
        let mut failed = self.failed.lock();
        if failed.len() >= MAX_FAILURES {
            failed.retain(|_, (_, until)| now < *until);
        }
        if failed.len() < MAX_FAILURES {
            failed.insert(key, (error.clone(), until));
        }
    }
}

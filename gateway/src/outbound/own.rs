//! Tokens by which the gateway itself is known to servers: of the client-credentials grant, and assertions about nobody
//! but the gateway, for lists and checks.
//!
//! A token is made when a server needs it, and renewed while servers need it. It stays in use until it ends, whatever
//! becomes of its renewal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::HeaderValue;
use parking_lot::Mutex;
use portcullis_crds::Server;
use portcullis_crds::mcpserver::ClientCredentials;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};
use url::Url;

use super::client_auth::{put_scopes, put_target};
use super::error::OutboundError;
use super::token_endpoint::{Issued, TokenRequest};
use super::{AssertionTerms, Endpoints, Outbound, bearer};
use crate::util::short_digest;

/// The limit for tokens of one namespace.
const MAX_IN_NAMESPACE: usize = 128;

/// The limit for all tokens.
const MAX_TOKENS: usize = 4096;

/// The limit for requests under way.
const MAX_ASKING: usize = 16;

/// A token is renewed after this part of its life.
const RENEW_AFTER: f64 = 0.8;

/// Tokens that are due within this time are renewed together: each renewal is a change for all servers.
const TOGETHER: Duration = Duration::from_secs(5);

/// The life of an assertion about the gateway itself.
pub(super) const OWN_LIFE: Duration = Duration::from_secs(600);

/// The pauses after failed requests.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// A token that no server has asked for during this time, nor since it was made, is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// A token of no known use is looked for again after this time.
const IDLE: Duration = Duration::from_secs(3600);

/// What the gateway's own token for one server is.
#[derive(Clone)]
enum OwnTerms {
    Assertion(Arc<AssertionTerms>),
    Credentials(Arc<CredentialTerms>),
}

/// How the gateway gets its own token for one server.
struct CredentialTerms {
    server: Server,
    spec: ClientCredentials,
    url: Url,
}

/// All of them.
#[derive(Default)]
pub(super) struct OwnTokens {
    all: Mutex<HashMap<[u8; 16], OwnToken>>,
    /// A server needs a token that is not there.
    wanted: Notify,
}

struct OwnToken {
    terms: OwnTerms,
    namespace: String,
    /// When a server last needed it.
    read: Instant,
    token: Option<Current>,
    problem: OutboundError,
    /// When to ask for the next.
    due: Instant,
    is_asking: bool,
    failures: u32,
}

struct Current {
    header: HeaderValue,
    made: Instant,
    ends: Instant,
}

impl Outbound {
    /// The header by which a server knows the gateway itself, if it asks for one that is made here.
    ///
    /// # Errors
    /// There is none, so the server must not be contacted. A missing token is asked for, and a change is counted once there
    /// is more to say.
    pub(crate) fn own_token(&self, server: &Server) -> Result<Option<HeaderValue>, OutboundError> {
        if let Some(terms) = AssertionTerms::of(server) {
            self.check(server)?;
            return self.own(terms.own_id(), server, OwnTerms::Assertion(Arc::new(terms))).map(Some);
        }
        let Some(spec) = server.identity.as_ref().and_then(|identity| identity.client_credentials.as_ref()) else {
            return self.check(server).map(|()| None);
        };
        self.check(server)?;
        let endpoints = self.endpoints.as_ref().ok_or(OutboundError::Pending)?;
        let url = Url::parse(&spec.token_url).map_err(|_| OutboundError::Pending)?;
        let terms = CredentialTerms { server: server.clone(), spec: spec.clone(), url };
        terms.check(endpoints)?;
        let text = serde_json::to_string(spec).unwrap_or_default();
        let id = short_digest(&["clientCredentials", &server.key.namespace, &server.url, &text]);
        self.own(id, server, OwnTerms::Credentials(Arc::new(terms))).map(Some)
    }

    fn own(&self, id: [u8; 16], server: &Server, terms: OwnTerms) -> Result<HeaderValue, OutboundError> {
        let (now, namespace) = (Instant::now(), &server.key.namespace);
        let mut all = self.own.all.lock();
        if !all.contains_key(&id) {
            let of_namespace = all.values().filter(|one| one.namespace == *namespace).count();
            if of_namespace >= MAX_IN_NAMESPACE || all.len() >= MAX_TOKENS {
                return Err(OutboundError::TooManyTokens);
            }
            all.insert(id, OwnToken::new(terms, namespace.clone(), now));
        }
        let Some(entry) = all.get_mut(&id) else { return Err(OutboundError::Pending) };
        entry.read = now;
        if entry.living(now).is_none()
            && let OwnTerms::Assertion(terms) = &entry.terms
        {
            // It takes no time, so nobody has to wait.
            let made = self.signed_own(terms);
            entry.settle(now, made);
            self.own.wanted.notify_one();
        }
        match entry.living(now) {
            Some(token) => Ok(token.header.clone()),
            None => {
                self.own.wanted.notify_one();
                Err(entry.problem.clone())
            }
        }
    }

    fn signed_own(&self, terms: &AssertionTerms) -> Result<(HeaderValue, Duration), OutboundError> {
        self.can_sign()?;
        let keys = self.signing.load_full().ok_or(OutboundError::NoKeys)?;
        let issuer = self.issuer.as_deref().ok_or(OutboundError::NoIssuer)?;
        Ok((bearer(&terms.sign_own(&keys, issuer)?)?, OWN_LIFE))
    }

    /// Renews all tokens that servers need, forever.
    pub(crate) async fn keep_own_tokens(&self) {
        let mut asking = FuturesUnordered::new();
        loop {
            let (due, next) = self.own.take_due(MAX_ASKING.saturating_sub(asking.len()));
            for (id, terms) in due {
                asking.push(async move { (id, Instant::now(), self.made(&terms).await) });
            }
            tokio::select! {
                Some((id, asked, made)) = asking.next() => {
                    let has_changed = self.own.all.lock().get_mut(&id).is_some_and(|entry| entry.settle(asked, made));
                    if has_changed && let Some(endpoints) = &self.endpoints {
                        endpoints.own_tokens.note_change();
                    }
                }
                () = self.own.wanted.notified() => {}
                () = sleep_until(next) => {}
            }
        }
    }

    /// Signs assertions about the gateway anew, after a change of the keys.
    pub(super) fn renew_own_assertions(&self) {
        let now = Instant::now();
        for one in self.own.all.lock().values_mut().filter(|one| matches!(one.terms, OwnTerms::Assertion(_))) {
            one.due = now;
        }
        self.own.wanted.notify_one();
    }

    async fn made(&self, terms: &OwnTerms) -> Result<(HeaderValue, Duration), OutboundError> {
        match terms {
            OwnTerms::Assertion(terms) => self.signed_own(terms),
            OwnTerms::Credentials(terms) => {
                let endpoints = self.endpoints.as_ref().ok_or(OutboundError::Pending)?;
                let request = terms.request(endpoints)?;
                let asked = endpoints.ask("client_credentials", request).await;
                let Issued { token, life } = asked.map_err(OutboundError::NoToken)?;
                Ok((bearer(&token)?, life))
            }
        }
    }
}

impl CredentialTerms {
    /// Checks what the request needs, without asking anyone.
    fn check(&self, endpoints: &Endpoints) -> Result<(), OutboundError> {
        for wanted in [&self.spec.audience, &self.spec.resource].into_iter().flatten() {
            endpoints.check_target(&self.server, wanted)?;
        }
        endpoints.proof(&self.server, &self.url, &self.spec.client_auth).map(drop)
    }

    fn request(&self, endpoints: &Endpoints) -> Result<TokenRequest, OutboundError> {
        let mut form = vec![("grant_type", "client_credentials".to_owned())];
        let target = (self.spec.audience.as_ref(), self.spec.resource.as_ref());
        put_target(&mut form, target, &self.server);
        put_scopes(&mut form, &self.spec.scopes);
        let basic = endpoints.proof(&self.server, &self.url, &self.spec.client_auth)?.put(&mut form);
        Ok(TokenRequest { url: self.url.clone(), form, basic })
    }
}

impl OwnTokens {
    /// Up to `most` tokens that are due, which must be settled, and when to look again. Forgets those that no server needs.
    fn take_due(&self, most: usize) -> (Vec<([u8; 16], OwnTerms)>, Instant) {
        let now = Instant::now();
        let mut all = self.all.lock();
        all.retain(|_, one| one.is_asking || one.due > now || one.is_needed(now));
        let is_due = |one: &OwnToken| !one.is_asking && one.due <= now;
        let mut due = Vec::new();
        if all.values().any(is_due) {
            let soon = |one: &OwnToken| !one.is_asking && one.due <= now + TOGETHER;
            for (id, one) in all.iter_mut().filter(|(_, one)| soon(one)).take(most) {
                one.is_asking = true;
                due.push((*id, one.terms.clone()));
            }
        }
        let waits = all.values().filter(|one| !one.is_asking).map(|one| one.due.max(now + PAUSES.0 / 4)).min();
        (due, waits.unwrap_or(now + IDLE))
    }
}

impl OwnToken {
    fn new(terms: OwnTerms, namespace: String, now: Instant) -> Self {
        let problem = OutboundError::Pending;
        Self { terms, namespace, read: now, token: None, problem, due: now, is_asking: false, failures: 0 }
    }

    fn living(&self, now: Instant) -> Option<&Current> {
        self.token.as_ref().filter(|token| now < token.ends)
    }

    /// All servers ask again after each change, so also after the last token was made.
    fn is_needed(&self, now: Instant) -> bool {
        let made = self.token.as_ref().map(|token| token.made);
        made.map_or_else(|| now.duration_since(self.read) < FORGET, |made| self.read >= made)
    }

    /// Records the result of a request that began at `asked`. True if this changes what servers get.
    fn settle(&mut self, asked: Instant, made: Result<(HeaderValue, Duration), OutboundError>) -> bool {
        let now = Instant::now();
        self.is_asking = false;
        match made {
            Ok((header, life)) => {
                // A life of seconds must not make a loop.
                self.due = (asked + life.mul_f64(RENEW_AFTER)).max(now + PAUSES.0);
                self.token = Some(Current { header, made: now, ends: asked + life });
                self.failures = 0;
                true
            }
            Err(problem) => {
                let pause = PAUSES.0.saturating_mul(1 << self.failures.min(5)).min(PAUSES.1);
                self.failures = self.failures.saturating_add(1);
                self.due = now + pause;
                let is_news = self.problem != problem && self.living(now).is_none();
                self.problem = problem;
                is_news
            }
        }
    }
}

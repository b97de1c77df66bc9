//! The gateway's tokens, one for each audience: who needs them, when they are renewed, when they end.
//!
//! A token is requested when a server needs it, and renewed while servers need it. It stays in use until it ends,
//! whatever becomes of its renewal.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use parking_lot::Mutex;
use portcullis_crds::Server;
use portcullis_crds::mcpserver::Identity;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use url::Url;

use super::issue::Issued;
use super::{AudienceRules, IdentityError};

/// The limit for audiences of one namespace: each costs the API server a request in 48 minutes from each replica.
const MAX_IN_NAMESPACE: usize = 128;

/// The limit for all audiences. A token has about 1.5 KiB.
const MAX_AUDIENCES: usize = 4096;

/// A token is renewed after this part of its life, less some jitter, so that replicas and audiences spread.
const RENEW_AFTER: f64 = 0.8;

/// The jitter, as a part of a token's life.
const JITTER: f64 = 0.05;

/// An audience that no server has asked for during this time is forgotten if it has no token. Servers without a token
/// ask every ten seconds.
const FORGET: Duration = Duration::from_secs(600);

/// The pauses after failed requests.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The pause after the API server or this gateway turned out to accept a token.
const RECONSIDER: Duration = Duration::from_secs(600);

/// A renewed token is announced with others after this time, because every server looks at its credentials then. The
/// token before is good for minutes.
const GATHER: Duration = Duration::from_secs(30);

/// The token of a server, and its audience.
pub(crate) type OwnToken = (Arc<str>, HeaderValue);

/// All tokens.
pub(crate) struct Tokens {
    /// Whether tokens can be requested at all.
    enabled: bool,
    rules: AudienceRules,
    audiences: Mutex<HashMap<Arc<str>, Audience>>,
    /// When to announce renewed tokens.
    announce: Mutex<Option<Instant>>,
    /// A server needs a token for a new audience.
    pub(super) wanted: Notify,
    changes: watch::Sender<u64>,
}

/// The state of one audience.
struct Audience {
    /// The namespaces whose servers need it, and when they last did.
    readers: HashMap<String, Instant>,
    token: Option<CurrentToken>,
    problem: IdentityError,
    /// When to request a token.
    due: Instant,
    is_asking: bool,
    failures: u32,
}

struct CurrentToken {
    /// `Bearer TOKEN`.
    header: HeaderValue,
    issued: Instant,
    ends: Instant,
}

impl Default for Tokens {
    /// No tokens, ever.
    fn default() -> Self {
        Self::new(false, AudienceRules::default())
    }
}

impl Tokens {
    /// No tokens yet. Without `enabled` there will never be any.
    pub(crate) fn new(enabled: bool, rules: AudienceRules) -> Self {
        let changes = watch::Sender::new(0);
        let (audiences, announce) = (Mutex::default(), Mutex::default());
        Self { enabled, rules, audiences, announce, wanted: Notify::new(), changes }
    }

    /// For which audiences servers may have tokens.
    pub(crate) fn rules(&self) -> &AudienceRules {
        &self.rules
    }

    /// Counts a change of other tokens of the gateway.
    pub(crate) fn note_change(&self) {
        self.count_change(true);
    }

    /// The gateway's own token for a token endpoint, by the rules for servers.
    ///
    /// # Errors
    /// There is none. A missing token is requested.
    pub(crate) fn for_endpoint(
        &self,
        namespace: &str,
        url: &Url,
        wanted: Option<&str>,
    ) -> Result<OwnToken, IdentityError> {
        let audience = self.rules.decide(namespace, url, wanted)?;
        self.get(namespace, audience.into())
    }

    /// Counts the changes of the results of [`Tokens::of`].
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The gateway's own token for a server, if the server asks for one.
    ///
    /// # Errors
    /// There is none, so the server must not be contacted. A missing token is requested, and a change is counted once
    /// there is more to say.
    pub(crate) fn of(&self, server: &Server) -> Result<Option<OwnToken>, IdentityError> {
        match &server.identity {
            None => Ok(None),
            Some(Identity { service_account_token: Some(wanted), .. }) => {
                let Ok(url) = Url::parse(&server.url) else { return Err(IdentityError::NoAccount) };
                let audience = self.rules.decide(&server.key.namespace, &url, wanted.audience.as_deref())?;
                self.get(&server.key.namespace, audience.into()).map(Some)
            }
            // Others make what these ask for.
            Some(_) => Ok(None),
        }
    }

    /// Why the token that was in use for this audience must no longer be used.
    pub(crate) fn revoked(&self, audience: &str) -> Option<IdentityError> {
        match self.audiences.lock().get(audience) {
            Some(known) if known.living(Instant::now()).is_some() => None,
            Some(known) => Some(known.problem.clone()),
            None => Some(IdentityError::Ended(audience.to_owned())),
        }
    }

    /// The token for an audience that the namespace may have.
    fn get(&self, namespace: &str, audience: Arc<str>) -> Result<OwnToken, IdentityError> {
        if !self.enabled {
            return Err(IdentityError::NoAccount);
        }
        let now = Instant::now();
        let mut audiences = self.audiences.lock();
        let is_known = audiences.get(&audience).is_some_and(|known| known.readers.contains_key(namespace));
        if !is_known {
            let of_namespace = |one: &&Audience| one.readers.contains_key(namespace);
            if audiences.values().filter(of_namespace).count() >= MAX_IN_NAMESPACE {
                let limit = MAX_IN_NAMESPACE;
                return Err(IdentityError::TooManyInNamespace { namespace: namespace.to_owned(), limit });
            }
            if audiences.len() >= MAX_AUDIENCES && !audiences.contains_key(&audience) {
                return Err(IdentityError::TooMany(MAX_AUDIENCES));
            }
        }
        let entry = audiences.entry(audience.clone()).or_insert_with(|| {
            self.wanted.notify_one();
            Audience::new(now)
        });
        entry.readers.insert(namespace.to_owned(), now);
        match entry.living(now) {
            Some(token) => Ok((audience, token.header.clone())),
            None => Err(entry.problem.clone()),
        }
    }

    /// Up to `most` audiences whose tokens are due, which must be [settled](Tokens::settle) after their requests. Forgets
    /// those that no server needs.
    pub(super) fn take_due(&self, most: usize) -> Vec<Arc<str>> {
        let now = Instant::now();
        let mut audiences = self.audiences.lock();
        audiences.retain(|_, one| one.is_asking || one.due > now || one.is_needed(now));
        let mut due: Vec<_> = audiences.iter_mut().filter(|(_, one)| !one.is_asking && one.due <= now).collect();
        due.sort_by_key(|(_, one)| one.due);
        due.truncate(most);
        due.into_iter()
            .map(|(audience, one)| {
                one.is_asking = true;
                audience.clone()
            })
            .collect()
    }

    /// Records the result of a request that began at `asked`. `random` is in 0..1.
    pub(super) fn settle(&self, audience: &str, asked: Instant, result: Result<Issued, IdentityError>, random: f64) {
        let now = Instant::now();
        let has_changed = {
            let mut audiences = self.audiences.lock();
            let Some(entry) = audiences.get_mut(audience) else { return };
            entry.is_asking = false;
            match result {
                Ok(issued) => {
                    let left = entry.living(now).map(|token| token.ends - now);
                    entry.take(issued, asked, random);
                    left.is_none_or(|left| self.announce_later(now + GATHER.min(left / 2)))
                }
                Err(problem) => entry.fail(problem, now, random),
            }
        };
        self.count_change(has_changed);
    }

    /// Drops the tokens that have ended, announces renewed ones, and says when something is next to be done. `has_room`:
    /// a request could be sent.
    pub(super) fn expire(&self, has_room: bool) -> Option<Instant> {
        let now = Instant::now();
        let mut next = *self.announce.lock();
        let mut has_changed = next.is_some_and(|at| at <= now);
        if has_changed {
            (*self.announce.lock(), next) = (None, None);
        }
        for (audience, entry) in self.audiences.lock().iter_mut() {
            if entry.token.is_some() && entry.living(now).is_none() {
                entry.token = None;
                if entry.failures == 0 {
                    entry.problem = IdentityError::Ended(audience.to_string());
                }
                has_changed = true;
            }
            let due = (has_room && !entry.is_asking).then_some(entry.due);
            let ends = entry.token.as_ref().map(|token| token.ends);
            next = [next, due, ends].into_iter().flatten().min();
        }
        self.count_change(has_changed);
        next
    }

    /// Announces the change at this time, or earlier with others. Always false: now is nothing to announce.
    fn announce_later(&self, at: Instant) -> bool {
        let mut announce = self.announce.lock();
        *announce = Some(announce.map_or(at, |earlier| earlier.min(at)));
        false
    }

    fn count_change(&self, has_changed: bool) {
        if has_changed {
            self.changes.send_modify(|count| *count += 1);
        }
    }
}

impl Audience {
    fn new(now: Instant) -> Self {
        let problem = IdentityError::Pending;
        Self { readers: HashMap::new(), token: None, problem, due: now, is_asking: false, failures: 0 }
    }

    fn living(&self, now: Instant) -> Option<&CurrentToken> {
        self.token.as_ref().filter(|token| now < token.ends)
    }

    /// Whether servers need the audience. All servers ask again after each change, so also after the last token was
    /// issued. Forgets the namespaces that do not need it.
    fn is_needed(&mut self, now: Instant) -> bool {
        let issued = self.token.as_ref().map(|token| token.issued);
        self.readers.retain(|_, at| issued.map_or(now.duration_since(*at) < FORGET, |issued| *at >= issued));
        !self.readers.is_empty()
    }

    fn take(&mut self, issued: Issued, asked: Instant, random: f64) {
        let Issued { header, life } = issued;
        let part = (RENEW_AFTER - JITTER * random.clamp(0.0, 1.0)).clamp(0.0, 1.0);
        // A life of seconds, as no real API server gives it, must not make a loop.
        self.due = (asked + life.mul_f64(part)).max(Instant::now() + PAUSES.0 / 2);
        self.token = Some(CurrentToken { header, issued: Instant::now(), ends: asked + life });
        self.failures = 0;
    }

    /// Records a failed request. True if this changes what servers get.
    fn fail(&mut self, problem: IdentityError, now: Instant, random: f64) -> bool {
        let is_final = matches!(problem, IdentityError::OfApiServer(_) | IdentityError::OfGateway(_));
        let pause = if is_final {
            self.token = None;
            RECONSIDER
        } else {
            PAUSES.0.saturating_mul(1 << self.failures.min(5)).min(PAUSES.1)
        };
        self.failures = self.failures.saturating_add(1);
        self.due = now + pause.mul_f64(1.0 - random.clamp(0.0, 1.0) / 4.0);
        let is_news = self.problem != problem && self.living(now).is_none();
        self.problem = problem;
        is_news
    }
}

#[cfg(test)]
mod tests;

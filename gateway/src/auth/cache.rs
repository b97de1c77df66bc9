//! Remembers checked tokens for a short while, by their digest. Refusals are not remembered.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::digest::{SHA256, digest};

use super::Identity;
use crate::sharded::Sharded;

/// How long a checked token is remembered, at most. It is forgotten when it expires.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);
/// The same for a token that the cluster was asked about: so long a revocation may go unnoticed.
pub(super) const MAX_AGE_REVIEWED: Duration = Duration::from_secs(30);
/// How many tokens each worker remembers, at most.
pub(super) const CAPACITY: usize = 10_000;

/// SHA-256 of a token.
pub(super) type Digest = [u8; 32];

/// Tokens that were good a moment ago.
pub(super) struct TokenCache(Sharded<Digest, Entry>);

impl Default for TokenCache {
    fn default() -> Self {
        Self(Sharded::new(CAPACITY))
    }
}

/// Stands for one token in one lookup: its digest, and the state of the keys before it was checked.
pub(super) struct Ticket {
    digest: Digest,
    generation: u64,
}

struct Entry {
    identity: Arc<Identity>,
    generation: u64,
    checked_at: SystemTime,
    max_age: Duration,
}

impl Ticket {
    /// The token's digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

impl Entry {
    fn holds(&self, generation: u64, now: SystemTime) -> bool {
        // A clock that was set back makes the age unknown.
        let fresh = now.duration_since(self.checked_at).is_ok_and(|age| age < self.max_age);
        fresh && self.generation == generation && now < self.identity.expires_at
    }

    /// The same for another worker, whose calls then count the users of an identity of its own.
    fn copied(&self) -> Self {
        Self { identity: Arc::new(Identity::clone(&self.identity)), ..*self }
    }
}

impl TokenCache {
    /// Take it before checking a token: an identity that was found with older keys is then never kept.
    pub(super) fn ticket(&self, token: &str) -> Ticket {
        let mut hash = Digest::default();
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        Ticket { digest: hash, generation: self.0.generation() }
    }

    /// The bearer of a token that was checked lately with the present keys.
    pub(super) fn get(&self, ticket: &Ticket, now: SystemTime) -> Option<Arc<Identity>> {
        let holds = |entry: &&Entry| entry.holds(ticket.generation, now);
        if let Some(entry) = self.0.own().get(&ticket.digest).filter(holds) {
            return Some(Arc::clone(&entry.identity));
        }
        let entry = self.0.elsewhere(&ticket.digest, |entry| Some(entry).filter(holds).map(Entry::copied))?;
        let identity = Arc::clone(&entry.identity);
        self.put(ticket, entry, now);
        Some(identity)
    }

    /// Remembers the bearer of a token that was checked at `now`, for `max_age`.
    pub(super) fn insert(&self, ticket: &Ticket, identity: &Arc<Identity>, now: SystemTime, max_age: Duration) {
        let identity = Arc::clone(identity);
        self.put(ticket, Entry { identity, generation: ticket.generation, checked_at: now, max_age }, now);
    }

    /// What holds no longer makes room first.
    fn put(&self, ticket: &Ticket, entry: Entry, now: SystemTime) {
        let mut part = self.0.own();
        if self.0.is_full(&part) {
            part.retain(|_, entry| entry.holds(ticket.generation, now));
        }
        self.0.insert(part, ticket.digest, entry);
    }

    /// Makes every entry void, those of checks under way included. Call it after the keys have changed.
    pub(super) fn forget_all(&self) {
        self.0.forget_all();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

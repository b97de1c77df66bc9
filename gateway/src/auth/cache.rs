//! Caches checked tokens for a short time, by their digest. Refusals are not cached.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use siphasher::sip128::SipHasher24;

use super::Identity;
use crate::util::sharded::Sharded;

/// The longest time that a checked token is cached. A token is also dropped when it expires.
pub(super) const MAX_AGE: Duration = Duration::from_secs(60);
/// The same for a token that the cluster has reviewed: a revocation may go unnoticed for this long.
pub(super) const MAX_AGE_REVIEWED: Duration = Duration::from_secs(30);
/// The limit for the tokens that each worker caches.
pub(super) const CAPACITY: usize = 10_000;

/// SipHash-2-4-128 of a token, under a key that only this process knows. Without the key, equal digests of two tokens
/// cannot be found, so this does what SHA-256 would, at a fifth of its cost on processors without instructions for
/// that.
pub(super) type Digest = [u8; 16];

/// Recently accepted tokens.
pub(super) struct TokenCache {
    entries: Sharded<Digest, CachedIdentity>,
    hasher: SipHasher24,
}

impl Default for TokenCache {
    fn default() -> Self {
        let mut key = [0; 16];
        aws_lc_rs::rand::fill(&mut key).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        Self { entries: Sharded::new(CAPACITY), hasher: SipHasher24::new_with_key(&key) }
    }
}

/// One lookup of a token: its digest, and the state of the keys before the check.
pub(super) struct TokenLookup {
    digest: Digest,
    generation: u64,
}

struct CachedIdentity {
    identity: Arc<Identity>,
    generation: u64,
    checked_at: SystemTime,
    max_age: Duration,
}

impl TokenLookup {
    /// The token's digest.
    pub(super) fn digest(&self) -> Digest {
        self.digest
    }
}

impl CachedIdentity {
    fn holds(&self, generation: u64, now: SystemTime) -> bool {
        // If the clock was set back, the age is unknown.
        let fresh = now.duration_since(self.checked_at).is_ok_and(|age| age < self.max_age);
        fresh && self.generation == generation && now < self.identity.expires_at
    }

    /// The same for another worker, whose calls then count the users of a separate identity.
    fn copied(&self) -> Self {
        Self { identity: Arc::new(Identity::clone(&self.identity)), ..*self }
    }
}

impl TokenCache {
    /// Create the ticket before checking a token: an identity found with older keys is then never cached.
    pub(super) fn lookup(&self, token: &str) -> TokenLookup {
        let digest = self.hasher.hash(token.as_bytes()).as_bytes();
        TokenLookup { digest, generation: self.entries.generation() }
    }

    /// The bearer of a token that was recently checked with the current keys.
    pub(super) fn get(&self, lookup: &TokenLookup, now: SystemTime) -> Option<Arc<Identity>> {
        let holds = |entry: &&CachedIdentity| entry.holds(lookup.generation, now);
        if let Some(entry) = self.entries.own().get(&lookup.digest).filter(holds) {
            return Some(Arc::clone(&entry.identity));
        }
        let entry =
            self.entries.elsewhere(&lookup.digest, |entry| Some(entry).filter(holds).map(CachedIdentity::copied))?;
        let identity = Arc::clone(&entry.identity);
        self.put(lookup, entry, now);
        Some(identity)
    }

    /// Caches the bearer of a token that was checked at `now`, for `max_age`.
    pub(super) fn insert(&self, lookup: &TokenLookup, identity: &Arc<Identity>, now: SystemTime, max_age: Duration) {
        let identity = Arc::clone(identity);
        self.put(lookup, CachedIdentity { identity, generation: lookup.generation, checked_at: now, max_age }, now);
    }

    /// Evicts expired entries first.
    fn put(&self, lookup: &TokenLookup, entry: CachedIdentity, now: SystemTime) {
        let mut part = self.entries.own();
        if self.entries.is_full(&part) {
            part.retain(|_, entry| entry.holds(lookup.generation, now));
        }
        self.entries.insert(part, lookup.digest, entry);
    }

    /// Invalidates every entry, including those of running checks. Call it after the keys have changed.
    pub(super) fn forget_all(&self) {
        self.entries.forget_all();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}

//! Keeps the headers of tokens until shortly before these expire: for each caller, and for each server's terms.
//!
//! Each worker has a part of its own, so that a call writes nothing that other processors read.

use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use http::HeaderValue;
use parking_lot::Mutex;
use portcullis_runtime::workers::{self, Parts};
use tokio::time::Instant;

use crate::util::random_keys::RandomKeyMap;

/// Entries of all workers together.
const MAX_ENTRIES: usize = 64 * 1024;

/// Bytes of all workers together.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// What an entry takes besides its value.
const ENTRY_BYTES: usize = 128;

/// Identifies a token: whom it is about, and what is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct TokenKey {
    /// The digest of all claims of the caller's token.
    pub(super) caller: [u8; 16],
    /// The digest of everything else that the token depends on.
    pub(super) terms: [u8; 16],
}

/// Kept tokens.
pub(super) struct TokenCache {
    parts: Parts<Mutex<Part>>,
    /// Counts the changes that make older tokens worthless.
    generation: AtomicU64,
    max_entries: usize,
    max_bytes: usize,
}

#[derive(Default)]
struct Part {
    entries: RandomKeyMap<TokenKey, Entry>,
    bytes: usize,
}

struct Entry {
    value: HeaderValue,
    until: Instant,
}

impl Default for TokenCache {
    fn default() -> Self {
        Self::with_bounds(MAX_ENTRIES, MAX_BYTES)
    }
}

impl TokenCache {
    fn with_bounds(entries: usize, bytes: usize) -> Self {
        let (max_entries, max_bytes) = (entries / workers::count(), bytes / workers::count());
        Self { parts: Parts::default(), generation: AtomicU64::new(0), max_entries, max_bytes }
    }

    /// The state of what tokens are made with. Read it before making one.
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The header of a token that is still fresh.
    pub(super) fn get(&self, key: &TokenKey, now: Instant) -> Option<HeaderValue> {
        let own = self.parts.own().lock().fresh(key, now).map(|entry| entry.value.clone());
        own.or_else(|| self.copied(key, now))
    }

    /// The same of another worker, which keeps its own copy.
    #[cold]
    fn copied(&self, key: &TokenKey, now: Instant) -> Option<HeaderValue> {
        let generation = self.generation();
        let (value, until) = self.parts.others().find_map(|part| {
            let part = part.lock();
            let entry = part.fresh(key, now)?;
            let mut value = HeaderValue::from_bytes(entry.value.as_bytes()).ok()?;
            value.set_sensitive(true);
            Some((value, entry.until))
        })?;
        self.put(generation, *key, (value.clone(), until), now);
        Some(value)
    }

    /// Keeps a header until this time, unless it was made with what is outdated by now.
    pub(super) fn put(&self, generation: u64, key: TokenKey, (value, until): (HeaderValue, Instant), now: Instant) {
        let mut part = self.parts.own().lock();
        if generation != self.generation() {
            return;
        }
        let bytes = bytes_of(&value);
        if part.is_full(self.max_entries, self.max_bytes.saturating_sub(bytes)) {
            part.drop_expired(now);
        }
        // Making all anew is cheaper than keeping an order.
        let dropped = if part.is_full(self.max_entries, self.max_bytes.saturating_sub(bytes)) {
            mem::take(&mut *part)
        } else {
            Part::default()
        };
        part.bytes += bytes;
        if let Some(before) = part.entries.insert(key, Entry { value, until }) {
            part.bytes -= bytes_of(&before.value);
        }
        drop(part);
        drop(dropped);
    }

    /// Drops all tokens, and those that are being made.
    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for part in self.parts.iter() {
            let dropped = mem::take(&mut *part.lock());
            drop(dropped);
        }
    }

    #[cfg(test)]
    pub(super) fn size(&self) -> (usize, usize) {
        let sizes = self.parts.iter().map(|part| {
            let part = part.lock();
            (part.entries.len(), part.bytes)
        });
        sizes.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }
}

impl Part {
    fn fresh(&self, key: &TokenKey, now: Instant) -> Option<&Entry> {
        self.entries.get(key).filter(|entry| now < entry.until)
    }

    fn is_full(&self, max_entries: usize, max_bytes: usize) -> bool {
        self.entries.len() >= max_entries || self.bytes > max_bytes
    }

    fn drop_expired(&mut self, now: Instant) {
        let bytes = &mut self.bytes;
        self.entries.retain(|_, entry| {
            let stays = now < entry.until;
            if !stays {
                *bytes -= bytes_of(&entry.value);
            }
            stays
        });
    }
}

fn bytes_of(value: &HeaderValue) -> usize {
    value.len() + ENTRY_BYTES
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn key(caller: u8, terms: u8) -> TokenKey {
        TokenKey { caller: [caller; 16], terms: [terms; 16] }
    }

    fn value(text: &str) -> HeaderValue {
        HeaderValue::from_str(text).unwrap()
    }

    #[test]
    fn a_token_is_kept_for_its_caller_and_its_terms_until_its_time_is_over() {
        let (cache, now) = (TokenCache::default(), Instant::now());
        let later = now + Duration::from_secs(50);
        cache.put(cache.generation(), key(1, 1), (value("a"), later), now);
        let got = |key: TokenKey, at: Instant| cache.get(&key, at).map(|value| value.to_str().unwrap().to_owned());
        assert_eq!(got(key(1, 1), now).as_deref(), Some("a"));
        assert_eq!([got(key(2, 1), now), got(key(1, 2), now), got(key(1, 1), later)], [None, None, None]);
    }

    #[test]
    fn what_was_made_before_a_change_is_neither_given_nor_kept() {
        let (cache, now) = (TokenCache::default(), Instant::now());
        let (before, later) = (cache.generation(), now + Duration::from_secs(50));
        cache.put(before, key(1, 1), (value("a"), later), now);
        cache.forget_all();
        cache.put(before, key(2, 1), (value("b"), later), now);
        assert_eq!((cache.get(&key(1, 1), now), cache.get(&key(2, 1), now), cache.size()), (None, None, (0, 0)));
    }

    #[test]
    fn the_cache_stays_within_its_bounds_and_what_has_expired_goes_first() {
        let workers = workers::count();
        let (max_entries, max_bytes) = (4 * workers, 4 * 1024 * workers);
        let (cache, now) = (TokenCache::with_bounds(max_entries, max_bytes), Instant::now());
        let until = |seconds| now + Duration::from_secs(seconds);
        let put = |caller, length: usize, seconds, now| {
            cache.put(cache.generation(), key(caller, 1), (value(&"x".repeat(length)), until(seconds)), now);
        };
        for caller in 0..3 {
            put(caller, 10, 10, now);
        }
        put(3, 10, 60, now);
        put(4, 10, 60, until(20));
        assert_eq!(cache.size(), (2, 2 * (10 + ENTRY_BYTES)), "the expired ones went");
        put(4, 20, 60, until(20));
        assert_eq!(cache.size(), (2, 30 + 2 * ENTRY_BYTES), "one was replaced");
        put(5, 4000, 60, until(20));
        assert_eq!(cache.size(), (1, 4000 + ENTRY_BYTES), "there was no room for the others");
        for caller in 0..100 {
            put(caller, 500, 60, until(20));
            let (entries, bytes) = cache.size();
            assert!(entries <= 4 && bytes <= 4 * 1024, "{entries} {bytes}");
        }
    }
}

//! Caches recently opened sessions, so that their ids need not be opened for each of their requests.

use super::SealedSession;
use crate::util::sharded::Sharded;

/// The limit for the sessions that each worker caches.
const CAPACITY: usize = 8_192;

/// Sessions by id. The reader checks the owner and the expiry.
pub(super) struct SessionCache(Sharded<Box<[u8]>, SealedSession>);

impl Default for SessionCache {
    fn default() -> Self {
        Self(Sharded::new(CAPACITY))
    }
}

impl SessionCache {
    /// The state of the keys: read it before opening an id.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation()
    }

    pub(super) fn get(&self, text: &[u8]) -> Option<SealedSession> {
        self.0.own().get(text).cloned()
    }

    /// Caches a session opened in this generation; one that older keys have opened is dropped.
    pub(super) fn insert(&self, text: &[u8], session: &SealedSession, opened_in: u64) {
        let part = self.0.own();
        if self.generation() == opened_in {
            self.0.insert(part, text.into(), session.clone());
        }
    }

    /// Call it after the keys have changed.
    pub(super) fn forget_all(&self) {
        self.0.forget_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::auth::SubjectId;
    use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
    use portcullis_mcp::protocol::extensions::Extensions;
    use portcullis_mcp::protocol::revision::Revision;

    fn session(number: u8) -> SealedSession {
        let expires = SystemTime::UNIX_EPOCH;
        let able = (ClientCapabilities::NONE, Extensions::default());
        SealedSession::new(SubjectId([number; 16]), Revision::V2025_11_25, able, expires, None)
    }

    #[test]
    fn a_session_is_remembered_until_the_keys_change() {
        let cache = SessionCache::default();
        let (before, first) = (cache.generation(), session(1));
        cache.insert(b"one", &first, before);
        assert_eq!((cache.get(b"one"), cache.get(b"two")), (Some(first.clone()), None));
        cache.forget_all();
        assert_eq!(cache.get(b"one"), None);
        cache.insert(b"one", &first, before);
        assert_eq!(cache.get(b"one"), None, "it was opened with keys that are gone");
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let cache = SessionCache::default();
        for number in 0..3 * CAPACITY {
            cache.insert(format!("{number:08}x").as_bytes(), &session(0), cache.generation());
        }
        let held = cache.0.len();
        assert!((1..=CAPACITY).contains(&held), "{held}");
    }
}

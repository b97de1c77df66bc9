//! Remembers sessions that were opened lately, so that their ids need not be opened for each of their requests.

use super::Session;
use crate::sharded::Sharded;

/// Sessions that each worker remembers, at most.
const CAPACITY: usize = 8_192;

/// Sessions by their ids. Whose they are, and whether they still last, is for the reader to check.
pub(super) struct Opened(Sharded<Box<[u8]>, Session>);

impl Default for Opened {
    fn default() -> Self {
        Self(Sharded::new(CAPACITY))
    }
}

impl Opened {
    /// The state of the keys: take it before opening an id.
    pub(super) fn generation(&self) -> u64 {
        self.0.generation()
    }

    pub(super) fn get(&self, text: &[u8]) -> Option<Session> {
        self.0.own().get(text).cloned()
    }

    /// Remembers what was opened in this generation; what older keys have opened is not kept.
    pub(super) fn insert(&self, text: &[u8], session: &Session, opened_in: u64) {
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
    use crate::capabilities::ClientCapabilities;
    use crate::revision::Revision;
    use crate::seal::SubjectId;

    fn session(number: u8) -> Session {
        let expires = SystemTime::UNIX_EPOCH;
        Session::new(SubjectId([number; 16]), Revision::V2025_11_25, ClientCapabilities::NONE, expires, None)
    }

    #[test]
    fn a_session_is_remembered_until_the_keys_change() {
        let opened = Opened::default();
        let (before, first) = (opened.generation(), session(1));
        opened.insert(b"one", &first, before);
        assert_eq!((opened.get(b"one"), opened.get(b"two")), (Some(first.clone()), None));
        opened.forget_all();
        assert_eq!(opened.get(b"one"), None);
        opened.insert(b"one", &first, before);
        assert_eq!(opened.get(b"one"), None, "it was opened with keys that are gone");
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let opened = Opened::default();
        for number in 0..3 * CAPACITY {
            opened.insert(format!("{number:08}x").as_bytes(), &session(0), opened.generation());
        }
        let held = opened.0.len();
        assert!((1..=CAPACITY).contains(&held), "{held}");
    }
}

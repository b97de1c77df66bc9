//! Remembers sessions that were opened lately, so that their ids need not be opened for each of their requests.

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Session;

/// Sessions that are remembered, at most.
const CAPACITY: usize = 8_192;
/// Parts with a lock each, so that two threads seldom wait for one another.
const SHARDS: usize = 16;

type Shard = HashMap<Box<str>, Session>;

/// Sessions by their ids. Whose they are, and whether they still last, is for the reader to check.
#[derive(Default)]
pub(super) struct Opened {
    shards: [Mutex<Shard>; SHARDS],
    /// Counts the changes of keys.
    generation: AtomicU64,
}

/// The state of the keys before an id was opened: what older keys have opened is not kept.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Generation(u64);

impl Opened {
    pub(super) fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    pub(super) fn get(&self, text: &str) -> Option<Session> {
        self.shard(text).get(text).cloned()
    }

    pub(super) fn insert(&self, text: &str, session: &Session, opened_in: Generation) {
        let mut dropped = Shard::default();
        let mut shard = self.shard(text);
        if self.generation() != opened_in {
            return;
        }
        if shard.len() >= CAPACITY / SHARDS {
            // Each costs one more opening, which is cheaper than keeping an order.
            dropped = mem::take(&mut shard);
        }
        shard.insert(text.into(), session.clone());
        drop(shard);
        drop(dropped);
    }

    /// Call it after the keys have changed.
    pub(super) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            let dropped = mem::take(&mut *lock(shard));
            drop(dropped);
        }
    }

    /// The end of an id is as good as random.
    fn shard(&self, text: &str) -> MutexGuard<'_, Shard> {
        lock(&self.shards[text.bytes().rev().nth(1).map_or(0, usize::from) % SHARDS])
    }
}

/// A panic elsewhere leaves a map whole, so its lock stays usable.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
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
        opened.insert("one", &first, before);
        assert_eq!((opened.get("one"), opened.get("two")), (Some(first.clone()), None));
        opened.forget_all();
        assert_eq!(opened.get("one"), None);
        opened.insert("one", &first, before);
        assert_eq!(opened.get("one"), None, "it was opened with keys that are gone");
    }

    #[test]
    fn there_are_never_more_than_fit() {
        let opened = Opened::default();
        for number in 0..3 * CAPACITY {
            opened.insert(&format!("{number:08}x"), &session(0), opened.generation());
        }
        let held: usize = opened.shards.iter().map(|shard| lock(shard).len()).sum();
        assert!((1..=CAPACITY).contains(&held), "{held}");
    }
}

//! Keeps the objects of one kind as the API server has them, and those whose statuses are to be derived again.
//!
//! Pure: the caller passes the time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use portcullis_crds::ServerKey;
use tokio::time::Instant;

/// The statuses are derived this long after a change, because each depends on many servers.
const GATHER_DELAY: Duration = Duration::from_millis(50);

/// All objects of one kind, whose statuses are `S` and of which `F` is known besides.
#[derive(Debug)]
pub(crate) struct Entries<S, F> {
    entries: BTreeMap<ServerKey, Entry<S, F>>,
    stale: BTreeSet<ServerKey>,
    /// When those that are stale are due.
    due: Option<Instant>,
}

/// One object.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Entry<S, F> {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`.
    pub(crate) generation: i64,
    /// `metadata.resourceVersion`, where it is a number.
    pub(crate) version: u64,
    /// Its status at the API server.
    pub(crate) status: S,
    /// What else is known of it.
    pub(crate) facts: F,
    /// A status that arrived during a write, with the version of its object.
    pub(crate) later: Option<(u64, S)>,
}

impl<S, F> Default for Entries<S, F> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), stale: BTreeSet::new(), due: None }
    }
}

impl<S: Clone, F> Entries<S, F> {
    /// One object.
    pub(crate) fn get(&self, key: &ServerKey) -> Option<&Entry<S, F>> {
        self.entries.get(key)
    }

    /// All objects.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServerKey, &Entry<S, F>)> {
        self.entries.iter()
    }

    /// One object, to update its written status.
    pub(crate) fn get_mut(&mut self, key: &ServerKey) -> Option<&mut Entry<S, F>> {
        self.entries.get_mut(key)
    }

    /// Adds or replaces an object. `busy`: a write of its status is under way.
    pub(crate) fn put(&mut self, key: ServerKey, mut entry: Entry<S, F>, busy: bool) {
        if let Some(known) = self.entries.get(&key).filter(|known| known.uid == entry.uid)
            && (busy || entry.version < known.version)
        {
            // The status is ours or another writer's: the end of the write shows which.
            let later = busy.then(|| (entry.version, entry.status.clone()));
            entry.later = later.or_else(|| known.later.clone());
            entry.status = known.status.clone();
            entry.version = entry.version.max(known.version);
        }
        self.entries.insert(key, entry);
    }

    /// Removes an object.
    pub(crate) fn remove(&mut self, key: &ServerKey) {
        self.entries.remove(key);
        self.stale.remove(key);
    }

    /// Notes that the statuses of these objects are to be derived again.
    pub(crate) fn mark(&mut self, keys: impl IntoIterator<Item = ServerKey>, now: Instant) {
        let entries = &self.entries;
        self.stale.extend(keys.into_iter().filter(|key| entries.contains_key(key)));
        if !self.stale.is_empty() {
            self.due.get_or_insert(now + GATHER_DELAY);
        }
    }

    /// The same for all objects of a namespace; none: of all namespaces.
    pub(crate) fn mark_all(&mut self, namespace: Option<&str>, now: Instant) {
        let keys = self.entries.keys().filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace));
        let keys: Vec<ServerKey> = keys.cloned().collect();
        self.mark(keys, now);
    }

    /// When the next statuses are to be derived.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// The objects whose statuses are to be derived now.
    pub(crate) fn take_due(&mut self, now: Instant) -> BTreeSet<ServerKey> {
        if self.due.is_none_or(|due| due > now) {
            return BTreeSet::new();
        }
        self.due = None;
        std::mem::take(&mut self.stale)
    }
}

impl<S: Clone, F> Entry<S, F> {
    /// Takes the end of a write. `written`: the status and the version of its object, if it succeeded. Returns the status
    /// before and the one that was written.
    pub(crate) fn finish_write(&mut self, written: Option<(S, u64)>) -> Option<(S, S)> {
        let mut at = 0;
        let change = written.map(|(status, version)| {
            at = version;
            self.version = self.version.max(version);
            let old = std::mem::replace(&mut self.status, status.clone());
            (old, status)
        });
        if let Some((_, newer)) = self.later.take().filter(|(version, _)| *version > at) {
            self.status = newer;
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Numbers = Entries<i64, ()>;

    fn entry(version: u64, status: i64) -> Entry<i64, ()> {
        Entry { uid: "u".into(), version, status, ..Default::default() }
    }

    #[test]
    fn an_older_object_does_not_bring_back_an_older_status() {
        let (mut all, key) = (Numbers::default(), ServerKey::new("n", "p"));
        let seen = |all: &Numbers| all.get(&key).map(|entry| (entry.version, entry.status));
        all.put(key.clone(), entry(5, 1), false);
        all.put(key.clone(), entry(4, 0), false);
        assert_eq!(seen(&all), Some((5, 1)));
        // During a write, what arrives waits for the end of the write.
        all.put(key.clone(), entry(6, 2), true);
        assert_eq!(seen(&all), Some((6, 1)));
        all.get_mut(&key).unwrap().finish_write(Some((3, 7)));
        assert_eq!(seen(&all), Some((7, 3)));
        all.put(key.clone(), entry(9, 4), true);
        assert_eq!(all.get_mut(&key).unwrap().finish_write(None), None);
        assert_eq!(seen(&all), Some((9, 4)));
    }

    #[test]
    fn changes_of_many_servers_make_one_derivation() {
        let (mut all, key, now) = (Numbers::default(), ServerKey::new("n", "p"), Instant::now());
        all.put(key.clone(), entry(1, 1), false);
        all.mark([ServerKey::new("n", "other")], now);
        assert_eq!(all.next(), None);
        all.mark([key.clone()], now);
        all.mark_all(Some("n"), now + GATHER_DELAY / 2);
        assert_eq!((all.next(), all.take_due(now)), (Some(now + GATHER_DELAY), BTreeSet::new()));
        assert_eq!(all.take_due(now + GATHER_DELAY), BTreeSet::from([key]));
        assert_eq!(all.next(), None);
    }
}

//! A map for each worker, for what was found out with keys that may change.

use std::hash::Hash;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_runtime::workers::Parts;

use crate::random_keys::RandomKeyMap;

/// What is remembered until the keys change, or there is too much of it. Each worker remembers for itself what it needs:
/// then a call writes nothing that other processors read.
pub(crate) struct Sharded<K, V> {
    parts: Parts<Mutex<RandomKeyMap<K, V>>>,
    /// Counts the changes of keys.
    generation: AtomicU64,
    /// Entries of one worker, at most.
    capacity: usize,
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    /// Without entries, of which each worker may have so many.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { parts: Parts::default(), generation: AtomicU64::new(0), capacity }
    }

    /// The state of the keys. Take it before finding something out: what older keys have said does not count.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What this worker remembers.
    pub(crate) fn own(&self) -> MutexGuard<'_, RandomKeyMap<K, V>> {
        lock(self.parts.own())
    }

    /// What others remember, taken over as `take` says.
    pub(crate) fn elsewhere(&self, key: &K, take: impl Fn(&V) -> Option<V>) -> Option<V> {
        self.parts.others().find_map(|part| lock(part).get(key).and_then(&take))
    }

    /// Whether no more fit into a part.
    pub(crate) fn is_full(&self, part: &RandomKeyMap<K, V>) -> bool {
        part.len() >= self.capacity
    }

    /// Puts something into a part. A full one starts anew: finding it out once more is cheaper than keeping an order.
    pub(crate) fn insert(&self, mut part: MutexGuard<'_, RandomKeyMap<K, V>>, key: K, value: V) {
        let dropped = if self.is_full(&part) { mem::take(&mut *part) } else { RandomKeyMap::default() };
        part.insert(key, value);
        drop(part);
        drop(dropped);
    }

    /// Call it after the keys have changed.
    pub(crate) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for part in self.parts.iter() {
            let dropped = mem::take(&mut *lock(part));
            drop(dropped);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| lock(part).len()).sum()
    }
}

/// A panic elsewhere leaves a map whole, so its lock stays usable.
fn lock<T>(part: &Mutex<T>) -> MutexGuard<'_, T> {
    part.lock().unwrap_or_else(PoisonError::into_inner)
}

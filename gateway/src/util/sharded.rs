//! A map for each worker, for results that depend on replaceable keys.

use std::hash::Hash;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use portcullis_runtime::workers::Parts;

use crate::util::random_keys::RandomKeyMap;

/// Caches results until the keys change, or the cache is full. Each worker caches separately: then a call writes
/// nothing that other processors read.
pub(crate) struct Sharded<K, V> {
    parts: Parts<Mutex<RandomKeyMap<K, V>>>,
    /// Counts the changes of keys.
    generation: AtomicU64,
    /// The limit for the entries of one worker.
    capacity: usize,
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    /// Creates an empty cache with this many entries for each worker.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { parts: Parts::default(), generation: AtomicU64::new(0), capacity }
    }

    /// The state of the keys. Read it before computing a result: results of older keys do not count.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The entries of this worker.
    pub(crate) fn own(&self) -> MutexGuard<'_, RandomKeyMap<K, V>> {
        self.parts.own().lock()
    }

    /// An entry of another worker, copied by `take`.
    pub(crate) fn elsewhere(&self, key: &K, take: impl Fn(&V) -> Option<V>) -> Option<V> {
        self.parts.others().find_map(|part| part.lock().get(key).and_then(&take))
    }

    /// Whether a part is full.
    pub(crate) fn is_full(&self, part: &RandomKeyMap<K, V>) -> bool {
        part.len() >= self.capacity
    }

    /// Inserts an entry into a part. A full part is cleared: recomputing is cheaper than keeping an order.
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
            let dropped = mem::take(&mut *part.lock());
            drop(dropped);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.parts.iter().map(|part| part.lock().len()).sum()
    }
}

//! A map in parts with a lock each, for what was found out with keys that may change.

use std::array;
use std::hash::Hash;
use std::mem;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::random_keys::RandomKeyMap;

/// So many that two threads seldom wait for one another.
const SHARDS: usize = 16;

/// What is remembered until the keys change, or there is too much of it.
pub(crate) struct Sharded<K, V> {
    shards: [Mutex<RandomKeyMap<K, V>>; SHARDS],
    /// Counts the changes of keys.
    generation: AtomicU64,
    /// Entries of all parts together, at most.
    capacity: usize,
}

impl<K: Eq + Hash, V> Sharded<K, V> {
    /// Without entries, of which there may be so many.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { shards: array::from_fn(|_| Mutex::default()), generation: AtomicU64::new(0), capacity }
    }

    /// The state of the keys. Take it before finding something out: what older keys have said does not count.
    pub(crate) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// The part for keys to which this byte belongs; the byte is as good as random.
    pub(crate) fn shard(&self, byte: u8) -> MutexGuard<'_, RandomKeyMap<K, V>> {
        lock(&self.shards[usize::from(byte) % SHARDS])
    }

    /// Whether no more fit into a part.
    pub(crate) fn is_full(&self, shard: &RandomKeyMap<K, V>) -> bool {
        shard.len() >= self.capacity / SHARDS
    }

    /// Puts something into its part. A full one starts anew: finding it out once more is cheaper than keeping an order.
    pub(crate) fn insert(&self, mut shard: MutexGuard<'_, RandomKeyMap<K, V>>, key: K, value: V) {
        let dropped = if self.is_full(&shard) { mem::take(&mut *shard) } else { RandomKeyMap::default() };
        shard.insert(key, value);
        drop(shard);
        drop(dropped);
    }

    /// Call it after the keys have changed.
    pub(crate) fn forget_all(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        for shard in &self.shards {
            let dropped = mem::take(&mut *lock(shard));
            drop(dropped);
        }
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).len()).sum()
    }
}

/// A panic elsewhere leaves a map whole, so its lock stays usable.
fn lock<T>(shard: &Mutex<T>) -> MutexGuard<'_, T> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

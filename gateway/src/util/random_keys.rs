//! A hash map for keys that are as good as random, and that no client chooses: digests, sealed ids, ids of the gateway.
//!
//! The usual map hashes every byte of a key so that an attacker cannot choose colliding keys. Here that would be wasted
//! work, several times for each request. Hashers of libraries read the whole key too: to find a digest takes 25
//! instructions here, 115 with `foldhash`, 300 with the hasher of `std`.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

/// The map.
pub(crate) type RandomKeyMap<K, V> = HashMap<K, V, BuildHasherDefault<LastBytes>>;

/// Hashes the last 16 bytes of a key, mixed by one multiplication: in text, the upper bits of a byte are not random.
#[derive(Default)]
pub(crate) struct LastBytes(u64);

/// About as many set bits as clear ones, so that no usual key makes a factor zero: digits of the golden ratio and of
/// pi.
const MASKS: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x243f_6a88_85a3_08d3];

impl Hasher for LastBytes {
    fn write(&mut self, bytes: &[u8]) {
        let (before, last) = last_word(bytes);
        let (_, before) = last_word(before);
        let product = u128::from(last ^ MASKS[0]) * u128::from(before ^ MASKS[1] ^ self.0);
        let [low, high] = [product, product >> 64].map(|half| half & u128::from(u64::MAX));
        self.0 = u64::try_from(low ^ high).unwrap_or_default();
    }

    /// The end of a text.
    fn write_u8(&mut self, _: u8) {}

    /// The length of an array.
    fn write_usize(&mut self, _: usize) {}

    fn finish(&self) -> u64 {
        self.0
    }
}

/// The last eight bytes, or all if there are fewer, and the bytes before them.
fn last_word(bytes: &[u8]) -> (&[u8], u64) {
    match bytes.split_last_chunk::<8>() {
        Some((before, last)) => (before, u64::from_le_bytes(*last)),
        None => (&[], bytes.iter().fold(0, |word, byte| (word << 8) | u64::from(*byte))),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher as _, Hash};

    use super::*;

    fn hash(key: impl Hash) -> u64 {
        BuildHasherDefault::<LastBytes>::default().hash_one(key)
    }

    /// The bits that a map uses: the highest 7, and as many of the lowest as it needs.
    fn are_spread(hashes: impl Iterator<Item = u64>) -> bool {
        let all: Vec<u64> = hashes.collect();
        let different = |part: fn(&u64) -> u64| all.iter().map(part).collect::<HashSet<u64>>().len();
        // Of 4,096 random numbers below 4,096 about 63 % differ.
        all.len() == 4096 && different(|hash| hash >> 57) == 128 && different(|hash| hash % 4096) > 2400
    }

    #[test]
    fn keys_that_differ_in_their_last_bytes_have_hashes_that_differ_where_maps_look() {
        assert!(are_spread((0..4096).map(|n| hash(format!("v1.AbCdEfGhIjKlMnOpQrStUvWxYz-{n:08x}")))));
        assert!(are_spread((0..4096_u64).map(|n| hash([[7; 4].as_slice(), &n.to_be_bytes()].concat()))));
        assert!(are_spread((0..4096_u64).map(|n| hash([n.to_le_bytes(), [0; 8]].concat()))));
    }

    #[test]
    fn what_is_the_same_has_the_same_hash_and_short_keys_have_one_too() {
        let key: Box<str> = "an id".into();
        assert_eq!(hash(&*key), hash("an id"));
        assert_ne!(hash("an id"), hash("an ie"));
        assert_ne!(hash([1_u8, 2]), hash([2_u8, 1]));
        assert_eq!(hash(""), hash(""));
    }
}

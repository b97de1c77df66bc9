//! The keys that seal and open, and the file that they come from.
//!
//! Pure. Nothing of a key is ever in an error.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thiserror::Error;

/// More than a rotation ever needs.
pub const MAX_KEYS: usize = 16;

/// A file of keys is no longer, in bytes.
pub const MAX_KEYS_BYTES: u64 = 16 * 1024;

/// Ids are part of every sealed text.
const MAX_ID: usize = 16;

const KEY: usize = 32;

/// One key, ready for use.
pub(super) struct Key {
    pub(super) id: String,
    pub(super) cipher: RandomizedNonceKey,
}

/// At least one key; the first seals, all open.
pub struct Keys(Vec<Key>);

/// Why a text holds no keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeysError {
    /// There is no line with a key.
    #[error("holds no key: write lines of an id and 32 bytes in base64, as in: k1 $(openssl rand -base64 32)")]
    None,
    /// There are more than [`MAX_KEYS`].
    #[error("holds more than {MAX_KEYS} keys: take the old ones away")]
    TooMany,
    /// A line has not two words.
    #[error("line {0}: write an id and 32 bytes in base64 with a space between")]
    Line(usize),
    /// An id is too long or has other characters.
    #[error("line {0}: an id has 1 to {MAX_ID} letters, digits, - or _")]
    Id(usize),
    /// An id stands there twice.
    #[error("line {0}: the id is there twice, give each key one of its own")]
    Twice(usize),
    /// A key is no base64 of 32 bytes.
    #[error("line {0}: the key is not 32 bytes in base64, make one with 'openssl rand -base64 32'")]
    Key(usize),
    /// A key is one byte over and over.
    #[error("line {0}: the key is not random, make one with 'openssl rand -base64 32'")]
    Trivial(usize),
}

impl Keys {
    /// A key of which nobody knows.
    pub fn random() -> Self {
        let mut bytes = [0; KEY];
        aws_lc_rs::rand::fill(&mut bytes).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        Self(vec![Key { id: "own".to_owned(), cipher: cipher(&bytes) }])
    }

    /// Reads lines of `ID BASE64`; empty lines and those that begin with `#` do not count.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let (mut keys, mut ids) = (Vec::new(), HashSet::new());
        let lines = text.lines().map(str::trim).zip(1..);
        for (line, number) in lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#')) {
            let mut words = line.split_whitespace();
            let (Some(id), Some(key), None) = (words.next(), words.next(), words.next()) else {
                return Err(KeysError::Line(number));
            };
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
            if id.len() > MAX_ID || !id.bytes().all(plain) {
                return Err(KeysError::Id(number));
            }
            if !ids.insert(id) {
                return Err(KeysError::Twice(number));
            }
            keys.push(Key { id: id.to_owned(), cipher: cipher(&decoded(key, number)?) });
        }
        match keys.len() {
            0 => Err(KeysError::None),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(KeysError::TooMany),
        }
    }

    /// Their ids; that of the one that seals is the first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    pub(super) fn first(&self) -> &Key {
        &self.0[0]
    }

    pub(super) fn named(&self, id: &str) -> Option<&Key> {
        self.0.iter().find(|key| key.id == id)
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.ids()).finish()
    }
}

fn decoded(text: &str, line: usize) -> Result<[u8; KEY], KeysError> {
    let alphabet = if text.contains(['-', '_']) { alphabet::URL_SAFE } else { alphabet::STANDARD };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let bytes = GeneralPurpose::new(&alphabet, config).decode(text).map_err(|_| KeysError::Key(line))?;
    let key: [u8; KEY] = bytes.try_into().map_err(|_| KeysError::Key(line))?;
    if key.iter().all(|byte| *byte == key[0]) {
        return Err(KeysError::Trivial(line));
    }
    Ok(key)
}

fn cipher(bytes: &[u8; KEY]) -> RandomizedNonceKey {
    RandomizedNonceKey::new(&AES_256_GCM, bytes).unwrap_or_else(|_| unreachable!("32 bytes are a key of AES-256"))
}

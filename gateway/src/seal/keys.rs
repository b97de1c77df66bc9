//! The keys that seal and open, and the format of their file.
//!
//! Pure. Errors never contain any part of a key.

use std::collections::HashSet;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, RandomizedNonceKey};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use thiserror::Error;

use crate::key_file::FileKeys;

/// Far above the need of any rotation.
pub(crate) const MAX_KEYS: usize = 16;

/// Ids are part of every sealed text.
const MAX_ID: usize = 16;

const KEY: usize = 32;

/// One key, ready for use.
pub(super) struct SealingKey {
    pub(super) id: String,
    pub(super) cipher: RandomizedNonceKey,
}

/// At least one key; the first seals, all open.
pub struct Keys(Vec<SealingKey>);

/// The reason a text contains no valid keys.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum KeysError {
    /// There is no line with a key.
    #[error("contains no key: write lines of an id and 32 bytes in base64, as in: k1 $(openssl rand -base64 32)")]
    None,
    /// There are more than `MAX_KEYS`.
    #[error("contains more than {MAX_KEYS} keys: remove the old ones")]
    TooMany,
    /// A line does not have two words.
    #[error("line {0}: write an id and 32 bytes in base64 with a space between")]
    Line(usize),
    /// An id is too long or has invalid characters.
    #[error("line {0}: an id has 1 to {MAX_ID} letters, digits, - or _")]
    Id(usize),
    /// An id is duplicated.
    #[error("line {0}: the id appears twice: give each key its own id")]
    Twice(usize),
    /// A key is not 32 bytes in base64.
    #[error("line {0}: the key is not 32 bytes in base64: make one with 'openssl rand -base64 32'")]
    Key(usize),
    /// A key repeats one byte.
    #[error("line {0}: the key is not random: make one with 'openssl rand -base64 32'")]
    Trivial(usize),
}

impl Keys {
    /// A random key, which only this process has.
    pub(crate) fn random() -> Self {
        let mut bytes = [0; KEY];
        aws_lc_rs::rand::fill(&mut bytes).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        Self(vec![SealingKey { id: "own".to_owned(), cipher: cipher(&bytes) }])
    }

    /// Parses lines of `ID BASE64`; ignores empty lines and those that begin with `#`.
    ///
    /// # Errors
    /// The first problem of the text.
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
            keys.push(SealingKey { id: id.to_owned(), cipher: cipher(&decoded(key, number)?) });
        }
        match keys.len() {
            0 => Err(KeysError::None),
            1..=MAX_KEYS => Ok(Self(keys)),
            _ => Err(KeysError::TooMany),
        }
    }

    /// The ids of the keys; the sealing key comes first.
    pub fn ids(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|key| key.id.as_str())
    }

    pub(super) fn first(&self) -> &SealingKey {
        &self.0[0]
    }

    pub(super) fn named(&self, id: &str) -> Option<&SealingKey> {
        self.0.iter().find(|key| key.id == id)
    }
}

impl FileKeys for Keys {
    const SETTING: &'static str = "SESSION_KEYS_FILE";
    const WHAT: &'static str = "session keys";
    const MAX_BYTES: u64 = 16 * 1024;

    fn of_file(bytes: &[u8]) -> Result<Self, String> {
        let text =
            str::from_utf8(bytes).map_err(|_| "is not text: write lines of an id and 32 bytes in base64".to_owned())?;
        Self::parse(text).map_err(|error| error.to_string())
    }

    fn key_ids(&self) -> Vec<String> {
        self.ids().map(str::to_owned).collect()
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

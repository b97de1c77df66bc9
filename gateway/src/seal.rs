//! Seals state that clients keep for the gateway, so that every replica with the same keys can open it unchanged.
//!
//! A sealed text is base64url (RFC 4648, section 5, unpadded) of: format (1 byte), length of the key's id (1), the id,
//! nonce (12), then the content under AES-256-GCM with its tag (16). The bytes before the nonce, and the purpose, are
//! authenticated too. Nonces are random: a key is good for 2^32 texts (NIST SP 800-38D, section 8.3).

mod keys;
mod layout;
mod request_state;
mod session;
mod session_cache;
mod task_id;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{Aad, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

pub use keys::{Keys, KeysError};
pub(crate) use request_state::{Inner, RequestState, digest};
pub(crate) use session::{SealedSession, SessionKey};
pub(crate) use task_id::TaskId;
#[cfg(test)]
use task_id::TaskIdError;
#[cfg(test)]
use {keys::MAX_KEYS, request_state::RequestStateError, request_state::StateTooLarge, session::SessionError};

use layout::ByteReader;
use session_cache::SessionCache;

/// The only format so far.
const FORMAT: u8 = 1;

const NONCE: usize = 12;
const TAG: usize = 16;

/// The purpose of a sealed text. A text sealed for one purpose never opens for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The id of a session.
    Session,
    /// The `requestState` of an `input_required` result.
    RequestState,
    /// The challenge by which one replica makes another prove that it has the keys.
    Replica,
    /// The id of a request to a client.
    ServerRequest,
    /// The sending gateway's token in a request to a server.
    Hop,
    /// This gateway's token in an answer to another gateway.
    Behind,
    /// The id of a task.
    Task,
}

impl Purpose {
    /// Part of the authenticated data: changing it invalidates all texts of this purpose.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"portcullis session",
            Self::RequestState => b"portcullis request state",
            Self::Replica => b"portcullis replica",
            Self::ServerRequest => b"portcullis question",
            Self::Hop => b"portcullis hop",
            Self::Behind => b"portcullis behind",
            Self::Task => b"portcullis task",
        }
    }

    /// The limit for a text, in bytes; longer texts are refused unread.
    ///
    /// Ids of sessions are headers; states hold what a server wrote.
    pub(crate) const fn max_text(self) -> usize {
        match self {
            Self::Session | Self::Replica | Self::ServerRequest | Self::Hop | Self::Behind => 1024,
            // A header too.
            Self::Task => 4096,
            Self::RequestState => 1024 * 1024,
        }
    }
}

/// The reason a text does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// The text was never sealed by the gateway, or was truncated.
    #[error("this was not made by the gateway: start over")]
    Malformed,
    /// No key has this id: it was removed, or the text comes from a gateway with other keys.
    #[error("the key that this was sealed with is no longer in use: start over")]
    UnknownKey,
    /// The text was modified, or sealed for another purpose.
    #[error("this was changed, or made for something else: start over")]
    Forged,
}

/// Seals and opens texts. Cheap to clone: all clones share their keys, even when those are replaced.
#[derive(Clone)]
pub struct Sealer {
    keys: Arc<ArcSwap<Keys>>,
    /// Sessions that these keys have opened.
    session_cache: Arc<SessionCache>,
}

impl Sealer {
    /// Uses these keys: the first seals, all open.
    pub fn new(keys: Keys) -> Self {
        Self { keys: Arc::new(ArcSwap::from_pointee(keys)), session_cache: Arc::default() }
    }

    /// Uses a random key that exists only in this process.
    pub(crate) fn random() -> Self {
        Self::new(Keys::random())
    }

    /// Replaces the keys. Texts sealed with a removed key no longer open.
    pub(crate) fn replace(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
        self.session_cache.forget_all();
    }

    /// The id of the key that seals.
    #[cfg(test)]
    pub(crate) fn key_id(&self) -> String {
        self.keys.load().first().id.clone()
    }

    /// Seals `content` into a text that opens only for this purpose and reveals only the length.
    pub(crate) fn seal(&self, purpose: Purpose, content: &[u8]) -> String {
        let keys = self.keys.load();
        let key = keys.first();
        let mut head = vec![FORMAT];
        layout::put_text(&mut head, &key.id);
        let mut sealed = content.to_vec();
        let nonce = key
            .cipher
            .seal_in_place_append_tag(Aad::from(associated(purpose, &head)), &mut sealed)
            .unwrap_or_else(|_| unreachable!("AES-256-GCM seals everything below 64 GiB"));
        head.extend_from_slice(nonce.as_ref());
        head.append(&mut sealed);
        URL_SAFE_NO_PAD.encode(head)
    }

    /// Opens a text that was sealed for this purpose.
    ///
    /// # Errors
    /// The reason the text does not open. Nothing in it can be trusted then, not even its key id.
    pub fn open(&self, purpose: Purpose, text: &str) -> Result<Vec<u8>, SealError> {
        if text.len() > purpose.max_text() {
            return Err(SealError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Malformed)?;
        let mut rest = ByteReader::new(&bytes);
        if rest.byte() != Some(FORMAT) {
            return Err(SealError::Malformed);
        }
        let id = rest.text().ok_or(SealError::Malformed)?;
        let head = &bytes[..bytes.len() - rest.left()];
        let nonce: [u8; NONCE] = rest.array().ok_or(SealError::Malformed)?;
        if rest.left() < TAG {
            return Err(SealError::Malformed);
        }
        let keys = self.keys.load();
        let key = keys.named(id).ok_or(SealError::UnknownKey)?;
        let mut content = rest.rest().to_vec();
        let aad = Aad::from(associated(purpose, head));
        let nonce = Nonce::assume_unique_for_key(nonce);
        let length = key.cipher.open_in_place(nonce, aad, &mut content).map_err(|_| SealError::Forged)?.len();
        content.truncate(length);
        Ok(content)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Sealer").field(&self.keys.load()).finish()
    }
}

/// No label is a prefix of another followed by the format's byte, so no two purposes share a text.
fn associated(purpose: Purpose, head: &[u8]) -> Vec<u8> {
    [purpose.label(), head].concat()
}

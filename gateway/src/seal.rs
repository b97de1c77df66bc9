//! Seals what clients keep for the gateway, so that every replica with the same keys can take it back unchanged.
//!
//! A sealed text is base64url (RFC 4648, section 5, unpadded) of: format (1 byte), length of the key's id (1), the id,
//! nonce (12), then the content under AES-256-GCM with its tag (16). What comes before the nonce, and the purpose, are
//! authenticated too. Nonces are random: a key is good for 2^32 texts (NIST SP 800-38D, section 8.3).

pub mod file;
mod keys;
mod layout;
mod opened;
mod request_state;
mod session;
mod subject;

#[cfg(test)]
mod tests;

use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::aead::{Aad, Nonce};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use thiserror::Error;

pub use keys::{Keys, KeysError, MAX_KEYS, MAX_KEYS_BYTES};
pub use request_state::{Inner, RequestState, RequestStateError, StateTooLarge, digest};
pub use session::{Session, SessionError};
pub use subject::SubjectId;

use layout::Reader;
use opened::Opened;

/// The only form of sealed text there has been.
const FORMAT: u8 = 1;

const NONCE: usize = 12;
const TAG: usize = 16;

/// What a sealed text is for. One that was sealed for one purpose never opens for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The id of a session.
    Session,
    /// The `requestState` of an `input_required` result.
    RequestState,
    /// What one replica asks another for its proof.
    Replica,
    /// The id of a question to a client.
    Question,
    /// What a request to a server says of the gateway that sends it.
    Hop,
    /// What a gateway that asks is told of this one.
    Behind,
}

impl Purpose {
    /// Part of what is authenticated: a change makes all texts of this purpose void.
    fn label(self) -> &'static [u8] {
        match self {
            Self::Session => b"portcullis session",
            Self::RequestState => b"portcullis request state",
            Self::Replica => b"portcullis replica",
            Self::Question => b"portcullis question",
            Self::Hop => b"portcullis hop",
            Self::Behind => b"portcullis behind",
        }
    }

    /// A longer text is refused before it is looked at, in bytes.
    ///
    /// Ids of sessions are headers; states hold what a server wrote.
    pub const fn max_text(self) -> usize {
        match self {
            Self::Session | Self::Replica | Self::Question | Self::Hop | Self::Behind => 1024,
            Self::RequestState => 1024 * 1024,
        }
    }
}

/// Why a text does not open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// It never was sealed here, or was cut.
    #[error("this was not made by the gateway: start anew")]
    Malformed,
    /// None of the keys has this id: it was taken away, or the text comes from a gateway with other keys.
    #[error("the key that this was sealed with is no longer in use: start anew")]
    UnknownKey,
    /// It was changed, or sealed for something else.
    #[error("this was changed, or made for something else: start anew")]
    Forged,
}

/// Seals and opens. Cheap to clone: all clones share their keys, also when those are replaced.
#[derive(Clone)]
pub struct Sealer {
    keys: Arc<ArcSwap<Keys>>,
    /// Sessions that these keys have opened.
    opened: Arc<Opened>,
}

impl Sealer {
    /// With these keys: the first seals, all open.
    pub fn new(keys: Keys) -> Self {
        Self { keys: Arc::new(ArcSwap::from_pointee(keys)), opened: Arc::default() }
    }

    /// With a key that nobody else has and that is gone with the process.
    pub fn random() -> Self {
        Self::new(Keys::random())
    }

    /// Puts other keys to use. What was sealed with a key that is not among them no longer opens.
    pub fn replace(&self, keys: Keys) {
        self.keys.store(Arc::new(keys));
        self.opened.forget_all();
    }

    /// The id of the key that seals.
    pub fn key_id(&self) -> String {
        self.keys.load().first().id.clone()
    }

    /// A text that opens for this purpose alone and shows nothing but the length of `content`.
    pub fn seal(&self, purpose: Purpose, content: &[u8]) -> String {
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

    /// What was sealed for this purpose.
    ///
    /// # Errors
    /// Why it does not open. Nothing of the text can be trusted then, its key id included.
    pub fn open(&self, purpose: Purpose, text: &str) -> Result<Vec<u8>, SealError> {
        if text.len() > purpose.max_text() {
            return Err(SealError::Malformed);
        }
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| SealError::Malformed)?;
        let mut rest = Reader::new(&bytes);
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

/// No label is the beginning of another followed by the format's byte, so no two purposes share a text.
fn associated(purpose: Purpose, head: &[u8]) -> Vec<u8> {
    [purpose.label(), head].concat()
}

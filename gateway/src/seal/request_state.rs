//! The `requestState` that a client brings back with its answers: where its request goes on, sealed.

use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use super::layout::{Reader, put_text};
use super::session::{owner, put_owner, seconds, time};
use super::subject::short_digest;
use super::{Purpose, SealError, Sealer, SubjectId};

/// A request that waits for its client's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestState {
    /// The server that asked, as the text of its `ServerKey`; at most 255 bytes.
    pub server: String,
    /// Who was asked.
    pub subject: SubjectId,
    /// Of what was requested, by [`digest`].
    pub digest: [u8; 16],
    /// From then on it is void. Whole seconds are kept.
    pub expires: SystemTime,
    /// What the server needs to go on.
    pub inner: Inner,
    /// The http address of the replica at which the request waits.
    pub owner: Option<Arc<str>>,
}

/// What a server needs to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inner {
    /// The server gave no state of its own.
    Nothing,
    /// The server's own `requestState`, as it wrote it.
    Server(Vec<u8>),
    /// The call of this number, which waits at the owner.
    Parked(u64),
}

/// Why a state is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum RequestStateError {
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It opens, but does not hold what this version expects.
    #[error("this requestState was made by another version of the gateway: send the request again without it")]
    Layout,
    /// Somebody else's.
    #[error("this requestState belongs to another caller: send the request again without it")]
    OtherSubject,
    /// It came with another method, or another name.
    #[error("this requestState belongs to another request: send it with the one that it was the answer to")]
    OtherRequest,
    /// Too old.
    #[error("this requestState has expired: send the request again without it")]
    Expired,
}

/// The server's own state is longer than the gateway would take back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the server's requestState is longer than 700 KiB: that is more than the gateway passes on")]
pub struct StateTooLarge;

/// Of a method and the name (or uri) that it is about.
pub fn digest(method: &str, name: &str) -> [u8; 16] {
    short_digest(&[method, name])
}

impl RequestState {
    /// The text for the client: letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// It is longer than the gateway would take back.
    pub fn seal(&self, sealer: &Sealer) -> Result<String, StateTooLarge> {
        let mut bytes = Vec::with_capacity(128);
        if self.server.len() > usize::from(u8::MAX) {
            return Err(StateTooLarge);
        }
        put_text(&mut bytes, &self.server);
        bytes.extend_from_slice(&self.subject.0);
        bytes.extend_from_slice(&self.digest);
        bytes.extend_from_slice(&seconds(self.expires).to_be_bytes());
        put_owner(&mut bytes, self.owner.as_deref());
        match &self.inner {
            Inner::Nothing => bytes.push(0),
            Inner::Server(state) => {
                bytes.push(1);
                bytes.extend_from_slice(state);
            }
            Inner::Parked(number) => {
                bytes.push(2);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
        }
        let text = sealer.seal(Purpose::RequestState, &bytes);
        if text.len() > Purpose::RequestState.max_text() { Err(StateTooLarge) } else { Ok(text) }
    }

    /// The state of this text, if it is `subject`'s, of the request with this digest, and still holds at `now`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn open(
        sealer: &Sealer,
        text: &str,
        subject: &SubjectId,
        digest: &[u8; 16],
        now: SystemTime,
    ) -> Result<Self, RequestStateError> {
        let bytes = sealer.open(Purpose::RequestState, text)?;
        let state = Self::read(&bytes).ok_or(RequestStateError::Layout)?;
        if state.subject != *subject {
            return Err(RequestStateError::OtherSubject);
        }
        if state.digest != *digest {
            return Err(RequestStateError::OtherRequest);
        }
        if now >= state.expires {
            return Err(RequestStateError::Expired);
        }
        Ok(state)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader::new(bytes);
        let server = rest.text()?.to_owned();
        let (subject, digest) = (SubjectId(rest.array()?), rest.array()?);
        let expires = time(rest.number()?)?;
        let owner = owner(&mut rest)?;
        let inner = match (rest.byte()?, rest.left()) {
            (0, 0) => Inner::Nothing,
            (1, _) => Inner::Server(rest.rest().to_vec()),
            (2, 8) => Inner::Parked(rest.number()?),
            _ => return None,
        };
        Some(Self { server, subject, digest, expires, inner, owner })
    }
}

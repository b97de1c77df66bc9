//! The `requestState` that a client returns with its answers: the sealed state for continuing its request.

use std::sync::Arc;
use std::time::SystemTime;

use thiserror::Error;

use super::layout::{ByteReader, put_text};
use super::session::{owner, put_owner, seconds, time};
use super::{Purpose, SealError, Sealer};
use crate::auth::SubjectId;
use crate::util::short_digest;

/// A request that waits for its client's answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequestState {
    /// The server that sent requests, as the text of its `ServerKey`; at most 255 bytes.
    pub(crate) server: String,
    /// The client that received them.
    pub(crate) subject: SubjectId,
    /// The [`digest`] of the request.
    pub(crate) digest: [u8; 16],
    /// The expiry, in whole seconds.
    pub(crate) expires: SystemTime,
    /// The server's state for continuing.
    pub(crate) inner: Inner,
    /// The http address of the replica that holds the request.
    pub(crate) owner: Option<Arc<str>>,
}

/// A server's state for continuing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Inner {
    /// The server returned no state.
    Nothing,
    /// The server's own `requestState`, verbatim.
    Server(Vec<u8>),
    /// The call of this number, which is suspended at the owner.
    Suspended(u64),
}

/// The reason a state is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum RequestStateError {
    /// The text does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The text opens, but has another layout than this version's.
    #[error("this requestState was made by another version of the gateway: send the request again without it")]
    Layout,
    /// Another caller's.
    #[error("this requestState belongs to another caller: send the request again without it")]
    OtherSubject,
    /// The method or the name differs from that of the original request.
    #[error("this requestState belongs to another request: send it with the request that it answered")]
    OtherRequest,
    /// Expired.
    #[error("this requestState has expired: send the request again without it")]
    Expired,
}

/// The server's own state exceeds the limit for the returned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the server's requestState is longer than 700 KiB, the most that the gateway forwards")]
pub(crate) struct StateTooLarge;

/// The digest of a method and its name (or uri).
pub(crate) fn digest(method: &str, name: &str) -> [u8; 16] {
    short_digest(&[method, name])
}

impl RequestState {
    /// The text for the client: letters, digits, `-` and `_`.
    ///
    /// # Errors
    /// The text exceeds the limit for the returned text.
    pub(crate) fn seal(&self, sealer: &Sealer) -> Result<String, StateTooLarge> {
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
            Inner::Suspended(number) => {
                bytes.push(2);
                bytes.extend_from_slice(&number.to_be_bytes());
            }
        }
        let text = sealer.seal(Purpose::RequestState, &bytes);
        if text.len() > Purpose::RequestState.max_text() { Err(StateTooLarge) } else { Ok(text) }
    }

    /// Opens a text, if it belongs to `subject` and to the request with this digest, and is still valid at `now`.
    ///
    /// # Errors
    /// The reason it is refused.
    pub(crate) fn open(
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
        let mut rest = ByteReader::new(bytes);
        let server = rest.text()?.to_owned();
        let (subject, digest) = (SubjectId(rest.array()?), rest.array()?);
        let expires = time(rest.number()?)?;
        let owner = owner(&mut rest)?;
        let inner = match (rest.byte()?, rest.left()) {
            (0, 0) => Inner::Nothing,
            (1, _) => Inner::Server(rest.rest().to_vec()),
            (2, 8) => Inner::Suspended(rest.number()?),
            _ => return None,
        };
        Some(Self { server, subject, digest, expires, inner, owner })
    }
}

//! The id of a session: the sealed data that a replica needs to serve it, so that none has to store it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::layout::{ByteReader, put_text};
use super::{Purpose, SealError, Sealer};
use crate::auth::SubjectId;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::{self, Extensions};
use portcullis_mcp::protocol::revision::Revision;

/// The limit for a replica's address, in bytes.
const MAX_OWNER: usize = 255;

/// The limit for the JSON of a client's extensions, in bytes: an id is a header.
const MAX_EXTENSIONS: usize = 384;

/// Identifies a session: random bytes, which are sealed in its id.
pub(crate) type SessionKey = [u8; 12];

/// A session of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SealedSession {
    /// The random key of the session.
    pub(crate) id: SessionKey,
    /// The owner of the session.
    pub(crate) subject: SubjectId,
    /// The negotiated revision.
    pub(crate) revision: Revision,
    /// The client's capabilities.
    pub(crate) capabilities: ClientCapabilities,
    /// The client's extensions.
    pub(crate) extensions: Extensions,
    /// The expiry, in whole seconds.
    pub(crate) expires: SystemTime,
    /// The http address of the replica that holds state for the session.
    pub(crate) owner: Option<Arc<str>>,
}

/// The reason a session id is refused. Clients see one error for all: the session does not exist (HTTP status 404).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum SessionError {
    /// The id does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The id opens, but has another layout than this version's.
    #[error("this session was made by another version of the gateway: start a new session")]
    Layout,
    /// Another caller's.
    #[error("this session belongs to another caller: start one of your own")]
    OtherSubject,
    /// Expired.
    #[error("this session has expired: start a new session")]
    Expired,
}

impl SealedSession {
    /// A new session with a random key. Of the client's extensions it has those for which an id has room.
    pub(crate) fn new(
        subject: SubjectId,
        revision: Revision,
        (capabilities, extensions): (ClientCapabilities, Extensions),
        expires: SystemTime,
        owner: Option<Arc<str>>,
    ) -> Self {
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        Self { id, subject, revision, capabilities, extensions: fitted(extensions), expires, owner }
    }

    /// The id for the client: letters, digits, `-` and `_`.
    pub(crate) fn seal(&self, sealer: &Sealer) -> String {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.subject.0);
        bytes.push(code(self.revision));
        bytes.extend_from_slice(&self.capabilities.bits().to_be_bytes());
        bytes.extend_from_slice(&seconds(self.expires).to_be_bytes());
        put_owner(&mut bytes, self.owner.as_deref());
        if !self.extensions.is_empty() {
            bytes.extend_from_slice(self.extensions.to_json().as_bytes());
        }
        sealer.seal(Purpose::Session, &bytes)
    }

    /// Opens an id, if the session belongs to `subject` and is still valid at `now`.
    ///
    /// # Errors
    /// The reason it is refused.
    pub(crate) fn open(
        sealer: &Sealer,
        text: impl AsRef<[u8]>,
        subject: &SubjectId,
        now: SystemTime,
    ) -> Result<Self, SessionError> {
        let text = text.as_ref();
        let session = match sealer.session_cache.get(text) {
            Some(session) => session,
            None => Self::unseal(sealer, text)?,
        };
        if session.subject != *subject {
            return Err(SessionError::OtherSubject);
        }
        if now >= session.expires {
            return Err(SessionError::Expired);
        }
        Ok(session)
    }

    fn unseal(sealer: &Sealer, text: &[u8]) -> Result<Self, SessionError> {
        let generation = sealer.session_cache.generation();
        // An id that is not text is refused like one that is not Base64.
        let bytes = sealer.open(Purpose::Session, std::str::from_utf8(text).unwrap_or_default())?;
        let session = Self::read(&bytes).ok_or(SessionError::Layout)?;
        sealer.session_cache.insert(text, &session, generation);
        Ok(session)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = ByteReader::new(bytes);
        let session = Self {
            id: rest.array()?,
            subject: SubjectId(rest.array()?),
            revision: *Revision::ALL.get(usize::from(rest.byte()?))?,
            capabilities: ClientCapabilities::from_bits(rest.array().map(u16::from_be_bytes)?)?,
            expires: time(rest.number()?)?,
            owner: owner(&mut rest)?,
            // Ids of earlier versions end here, and so do most of this one's.
            extensions: match rest.rest() {
                b"" => Extensions::default(),
                json => Extensions::from_json(std::str::from_utf8(json).ok()?),
            },
        };
        Some(session)
    }
}

/// Those for which an id has room: if not for all, then those that the gateway knows, or none.
fn fitted(all: Extensions) -> Extensions {
    let known = all.filtered(extensions::is_routed);
    [all, known].into_iter().find(|some| some.to_json().len() <= MAX_EXTENSIONS).unwrap_or_default()
}

/// The code of a revision, which later revisions do not change.
fn code(revision: Revision) -> u8 {
    let place = Revision::ALL.iter().position(|one| *one == revision).unwrap_or_default();
    u8::try_from(place).unwrap_or_default()
}

pub(super) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

pub(super) fn time(seconds: u64) -> Option<SystemTime> {
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// An empty text means no owner. An address too long to be sealed could not be reached anyway.
pub(super) fn put_owner(bytes: &mut Vec<u8>, owner: Option<&str>) {
    put_text(bytes, owner.filter(|owner| owner.len() <= MAX_OWNER).unwrap_or_default());
}

/// The owner, if there is one; `None` if the bytes end before.
pub(super) fn owner(rest: &mut ByteReader<'_>) -> Option<Option<Arc<str>>> {
    rest.text().map(|owner| (!owner.is_empty()).then(|| owner.into()))
}

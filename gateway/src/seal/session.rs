//! The id of a session: all that a replica needs to serve it, sealed, so that none has to remember it.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use thiserror::Error;

use super::layout::{Reader, put_text};
use super::{Purpose, SealError, Sealer, SubjectId};
use crate::capabilities::ClientCapabilities;
use crate::revision::Revision;

/// An address of a replica is no longer, in bytes.
const MAX_OWNER: usize = 255;

/// A session of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Tells it from all others.
    pub id: [u8; 12],
    /// Whose it is.
    pub subject: SubjectId,
    /// What was agreed on.
    pub revision: Revision,
    /// What its client can do for servers.
    pub capabilities: ClientCapabilities,
    /// From then on it is void. Whole seconds are kept.
    pub expires: SystemTime,
    /// The http address of the replica that keeps something for it.
    pub owner: Option<Arc<str>>,
}

/// Why a session id is refused. To the client all are one: the session is not there (HTTP status 404).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SessionError {
    /// It does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// It opens, but does not hold what this version expects.
    #[error("this session was made by another version of the gateway: start anew")]
    Layout,
    /// Somebody else's.
    #[error("this session belongs to another caller: start one of your own")]
    OtherSubject,
    /// Too old.
    #[error("this session has expired: start anew")]
    Expired,
}

impl Session {
    /// A new one, with a random id.
    pub fn new(
        subject: SubjectId,
        revision: Revision,
        capabilities: ClientCapabilities,
        expires: SystemTime,
        owner: Option<Arc<str>>,
    ) -> Self {
        let mut id = [0; 12];
        aws_lc_rs::rand::fill(&mut id).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        Self { id, subject, revision, capabilities, expires, owner }
    }

    /// Its id for the client: letters, digits, `-` and `_`.
    pub fn seal(&self, sealer: &Sealer) -> String {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(&self.id);
        bytes.extend_from_slice(&self.subject.0);
        bytes.push(code(self.revision));
        bytes.extend_from_slice(&self.capabilities.bits().to_be_bytes());
        bytes.extend_from_slice(&seconds(self.expires).to_be_bytes());
        put_owner(&mut bytes, self.owner.as_deref());
        sealer.seal(Purpose::Session, &bytes)
    }

    /// The session of this id, if it is `subject`'s and still holds at `now`.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn open(
        sealer: &Sealer,
        text: impl AsRef<[u8]>,
        subject: &SubjectId,
        now: SystemTime,
    ) -> Result<Self, SessionError> {
        let text = text.as_ref();
        let session = match sealer.opened.get(text) {
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
        let generation = sealer.opened.generation();
        // What is no text is none of ours, like all that is no Base64.
        let bytes = sealer.open(Purpose::Session, std::str::from_utf8(text).unwrap_or_default())?;
        let session = Self::read(&bytes).ok_or(SessionError::Layout)?;
        sealer.opened.insert(text, &session, generation);
        Ok(session)
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = Reader::new(bytes);
        let session = Self {
            id: rest.array()?,
            subject: SubjectId(rest.array()?),
            revision: *Revision::ALL.get(usize::from(rest.byte()?))?,
            capabilities: ClientCapabilities::from_bits(rest.array().map(u16::from_be_bytes)?)?,
            expires: time(rest.number()?)?,
            owner: owner(&mut rest)?,
        };
        (rest.left() == 0).then_some(session)
    }
}

/// Its place among all, which no later revision changes.
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

/// No owner is an empty text. An address too long to be sealed is none that could be reached.
pub(super) fn put_owner(bytes: &mut Vec<u8>, owner: Option<&str>) {
    put_text(bytes, owner.filter(|owner| owner.len() <= MAX_OWNER).unwrap_or_default());
}

/// The owner, if one is named; nothing if the text ends before.
pub(super) fn owner(rest: &mut Reader<'_>) -> Option<Option<Arc<str>>> {
    rest.text().map(|owner| (!owner.is_empty()).then(|| owner.into()))
}

//! Identifies a caller in few bytes, without a name.

use super::Identity;
use crate::util::short_digest;

/// The first 16 bytes of SHA-256 over issuer and subject: the same for every token of the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SubjectId(pub(crate) [u8; 16]);

impl SubjectId {
    /// The id of a caller.
    pub(crate) fn of(identity: &Identity) -> Self {
        identity.subject_id
    }

    /// A number derived from the id, for uses that tolerate collisions.
    pub(crate) fn number(&self) -> u64 {
        let (first, _) = self.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*first)
    }

    /// The id of this subject of this issuer.
    pub(crate) fn new(issuer: Option<&str>, subject: &str) -> Self {
        Self(short_digest(&[issuer.unwrap_or_default(), subject]))
    }
}

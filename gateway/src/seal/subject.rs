//! Who something was sealed for, in few bytes and without a name.

use aws_lc_rs::digest::{Context, SHA256};

use crate::auth::Identity;

/// The first 16 bytes of SHA-256 over issuer and subject: the same for every token of the same caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SubjectId(pub [u8; 16]);

impl SubjectId {
    /// That of a caller.
    pub fn of(identity: &Identity) -> Self {
        identity.subject_id
    }

    /// A number for it, for what need not be told apart for certain.
    pub fn number(&self) -> u64 {
        let (first, _) = self.0.split_first_chunk().unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*first)
    }

    /// That of this subject of this issuer.
    pub fn new(issuer: Option<&str>, subject: &str) -> Self {
        Self(short_digest(&[issuer.unwrap_or_default(), subject]))
    }
}

/// The first 16 bytes of SHA-256 over texts, each after its length: so no two lists are alike.
pub(super) fn short_digest(texts: &[&str]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&context.finish().as_ref()[..16]);
    short
}

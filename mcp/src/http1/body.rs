//! Finds the end of a response's body.
//!
//! Pure. Source of the rules: RFC 9112 §6.

use bytes::BytesMut;
use portcullis_runtime::chunked::{Chunks, Strictness, Taken};

use super::Malformed;

/// Servers write anything into chunk extensions and trailers, which the gateway ignores.
pub(super) const STRICTNESS: Strictness = Strictness::Lenient;

/// The part of a body that is still to come.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Everything until the connection closes.
    UntilClose,
}

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks::new(STRICTNESS))
    }

    /// Takes the next piece from the front of the received bytes.
    pub(super) fn take(&mut self, arrived: &mut BytesMut) -> Result<Taken, Malformed> {
        match self {
            Self::Length(left) => Ok(Taken::of(left, arrived)),
            Self::Chunked(chunks) => chunks.take(arrived).map_err(|_| Malformed),
            Self::UntilClose if arrived.is_empty() => Ok(Taken::More),
            Self::UntilClose => Ok(Taken::Piece(arrived.split().freeze())),
        }
    }

    /// Whether the body is complete.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.has_ended(),
            Self::UntilClose => false,
        }
    }
}

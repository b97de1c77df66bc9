//! The body of an answer, taken piece by piece out of what has arrived, without copying.
//!
//! Pure. Source of the rules: RFC 9112 §6 and §7.

use bytes::{Buf, Bytes, BytesMut};

use super::Malformed;

/// Chunk extensions and trailers of one body are no longer than this together: nobody reads them.
pub(super) const MAX_ASIDE: usize = 16 * 1024;

/// So many hexadecimal digits are a chunk size that a `u64` can hold.
const MAX_SIZE_DIGITS: u8 = 15;

/// What is still to come of a body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Body {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunks),
    /// Whatever comes until the connection closes.
    UntilClose,
}

/// What could be taken.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Some of the body, not empty.
    Piece(Bytes),
    /// Nothing before more has arrived.
    More,
    /// The body has ended.
    End,
}

/// Where in a chunked body the next byte stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chunks {
    at: At,
    /// Bytes left of this chunk.
    left: u64,
    digits: u8,
    aside: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    SpaceAfterSize,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    LineBegin,
    Trailer,
    LastLf,
    End,
}

impl Body {
    pub(super) fn chunked() -> Self {
        Self::Chunked(Chunks { at: At::Size, left: 0, digits: 0, aside: 0 })
    }

    /// Takes the next piece from the front of what has arrived.
    pub(super) fn take(&mut self, arrived: &mut BytesMut) -> Result<Taken, Malformed> {
        match self {
            Self::Length(left) => Ok(piece(left, arrived)),
            Self::Chunked(chunks) => chunks.take(arrived),
            Self::UntilClose if arrived.is_empty() => Ok(Taken::More),
            Self::UntilClose => Ok(Taken::Piece(arrived.split().freeze())),
        }
    }

    /// Whether nothing more comes.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
            Self::UntilClose => false,
        }
    }
}

impl Chunks {
    fn take(&mut self, arrived: &mut BytesMut) -> Result<Taken, Malformed> {
        let mut read = 0;
        while !matches!(self.at, At::Data | At::End) && read < arrived.len() {
            self.at = self.after(arrived[read])?;
            read += 1;
        }
        arrived.advance(read);
        match self.at {
            At::End => Ok(Taken::End),
            At::Data => {
                let taken = piece(&mut self.left, arrived);
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                Ok(taken)
            }
            _ => Ok(Taken::More),
        }
    }

    fn after(&mut self, byte: u8) -> Result<At, Malformed> {
        Ok(match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (At::Size | At::SpaceAfterSize, b' ' | b'\t' | b';' | b'\r') if self.digits > 0 => match byte {
                b'\r' => At::SizeEnd,
                b';' => At::Extension,
                _ => self.aside(At::SpaceAfterSize)?,
            },
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, _) if byte != b'\n' => self.aside(At::Extension)?,
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::LineBegin } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::LineBegin, b'\r') => At::LastLf,
            (At::LineBegin, _) if byte != b'\n' => self.aside(At::Trailer)?,
            (At::Trailer, b'\n') => At::LineBegin,
            (At::Trailer, _) => self.aside(At::Trailer)?,
            (At::LastLf, b'\n') => At::End,
            _ => return Err(Malformed),
        })
    }

    fn digit(&mut self, byte: u8) -> Result<At, Malformed> {
        if self.digits == MAX_SIZE_DIGITS {
            return Err(Malformed);
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        self.digits += 1;
        self.left = self.left * 16 + u64::from(digit);
        Ok(At::Size)
    }

    fn aside(&mut self, at: At) -> Result<At, Malformed> {
        self.aside += 1;
        if self.aside > MAX_ASIDE { Err(Malformed) } else { Ok(at) }
    }
}

/// The next of `left` bytes.
fn piece(left: &mut u64, arrived: &mut BytesMut) -> Taken {
    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(arrived.len());
    match (*left, here) {
        (0, _) => Taken::End,
        (_, 0) => Taken::More,
        _ => {
            *left -= here as u64;
            Taken::Piece(arrived.split_to(here).freeze())
        }
    }
}

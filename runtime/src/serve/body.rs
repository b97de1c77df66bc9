//! The body of a request, which its reader gets as it comes: nobody reads what nobody has asked for.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{Body, Frame, SizeHint};
use thiserror::Error;

/// Chunk extensions and trailers of one body are no longer than this together: nobody reads them.
const MAX_ASIDE: usize = 8 * 1024;

/// So many hexadecimal digits are a chunk size that a `u64` can hold.
const MAX_SIZE_DIGITS: u8 = 15;

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After so many bytes.
    Length(u64),
    /// By its chunks.
    Chunked,
}

/// The body of a request.
pub enum Sent {
    /// All of it.
    Whole(Bytes),
    /// What is still to be read.
    Coming(Coming),
}

/// A body that is still to be read. Dropping it means that nobody wants the rest.
pub struct Coming(Arc<Pipe>);

/// Why a body breaks off.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BrokenBody {
    /// The connection ended before it.
    #[error("the connection ended before the body")]
    Incomplete,
    /// Its chunks cannot be understood.
    #[error("the body has a malformed chunk")]
    Malformed,
}

/// Between the connection and whoever reads the body.
#[derive(Default)]
pub(super) struct Pipe {
    length: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    piece: Option<Bytes>,
    end: Option<Result<(), BrokenBody>>,
    /// Somebody waits for the next piece.
    reader: Option<Waker>,
}

/// Takes a body out of what has arrived.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    Length(u64),
    Chunked(Chunks),
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
    TrailerEnd,
    LastLf,
    End,
}

// === impl Coming ===

impl Coming {
    pub(super) fn new(framing: Framing) -> (Self, Arc<Pipe>) {
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let pipe = Arc::new(Pipe { length, state: Mutex::default() });
        (Self(pipe.clone()), pipe)
    }

    /// Its length, if that is known.
    pub fn length(&self) -> Option<u64> {
        self.0.length
    }
}

impl Body for Coming {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let mut state = self.0.lock();
        if let Some(piece) = state.piece.take() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        match state.end {
            Some(Ok(())) => Poll::Ready(None),
            Some(Err(broken)) => Poll::Ready(Some(Err(broken))),
            None => {
                state.reader = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        let state = self.0.lock();
        state.piece.is_none() && state.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        self.0.length.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// As far as the connection is concerned, it has ended.
impl Drop for Coming {
    fn drop(&mut self) {
        self.0.lock().reader = None;
    }
}

// === impl Pipe ===

impl Pipe {
    /// Whether somebody waits for the next piece.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().reader.is_some()
    }

    /// Hands over what was taken, which its reader waits for.
    pub(super) fn put(&self, taken: Result<Taken, BrokenBody>) {
        let mut state = self.lock();
        match taken {
            Ok(Taken::Piece(piece)) => state.piece = Some(piece),
            Ok(Taken::End) => state.end = Some(Ok(())),
            Ok(Taken::More) => return,
            Err(broken) => state.end = Some(Err(broken)),
        }
        let reader = state.reader.take();
        drop(state);
        reader.into_iter().for_each(Waker::wake);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Decoder ===

impl From<Framing> for Decoder {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks { at: At::Size, left: 0, digits: 0, aside: 0 }),
        }
    }
}

impl Decoder {
    /// Takes the next piece from the front of what has arrived.
    pub(super) fn take(&mut self, arrived: &mut BytesMut) -> Result<Taken, BrokenBody> {
        match self {
            Self::Length(left) => Ok(piece(left, arrived)),
            Self::Chunked(chunks) => chunks.take(arrived).map_err(|Malformed| BrokenBody::Malformed),
        }
    }

    /// Whether the whole body was taken.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.at == At::End,
        }
    }

    /// Bytes that a read for this body should have room for.
    pub(super) fn room(&self, usual: usize) -> usize {
        match self {
            Self::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(usual),
            Self::Chunked(_) => usual,
        }
    }
}

struct Malformed;

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
        let is_text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        Ok(match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (At::Size | At::SpaceAfterSize, b' ' | b'\t' | b';' | b'\r') if self.digits > 0 => match byte {
                b'\r' => At::SizeEnd,
                b';' => At::Extension,
                _ => self.aside(At::SpaceAfterSize)?,
            },
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, _) if is_text => self.aside(At::Extension)?,
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::LineBegin } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::LineBegin, b'\r') => At::LastLf,
            (At::Trailer, b'\r') => At::TrailerEnd,
            (At::LineBegin | At::Trailer, _) if is_text => self.aside(At::Trailer)?,
            (At::TrailerEnd, b'\n') => At::LineBegin,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What is decoded of a chunked body that comes in pieces of this size, and what is left behind it.
    fn decoded(text: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), BrokenBody> {
        let (mut decoder, mut arrived, mut body) = (Decoder::from(Framing::Chunked), BytesMut::new(), Vec::new());
        let mut pieces = text.chunks(size);
        loop {
            match decoder.take(&mut arrived)? {
                Taken::Piece(piece) => body.extend_from_slice(&piece),
                Taken::End => {
                    let behind: Vec<u8> = pieces.flatten().copied().collect();
                    return Ok((body, [&arrived[..], &behind].concat()));
                }
                Taken::More => arrived.extend_from_slice(pieces.next().ok_or(BrokenBody::Incomplete)?),
            }
        }
    }

    #[test]
    fn chunks_are_joined_and_their_extensions_and_trailers_passed_over() {
        let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(MAX_ASIDE));
        let longer = long.replace(";x", ";xx");
        let good = |body: &str, behind: &str| Ok((body.as_bytes().to_vec(), behind.as_bytes().to_vec()));
        for (text, expected) in [
            ("0\r\n\r\n", good("", "")),
            ("4\r\nbody\r\n0\r\n\r\nGET", good("body", "GET")),
            ("2;a=b\r\nbo\r\n02 \t;c\r\ndy\r\n000\r\nx: y\r\nz:\r\n\r\n", good("body", "")),
            ("A\r\n0123456789\r\n0\r\n\r\n", good("0123456789", "")),
            (&long, good("a", "")),
            (&longer, Err(BrokenBody::Malformed)),
            ("4\r\nbody\r\n0\r\n", Err(BrokenBody::Incomplete)),
            ("4\r\nbod", Err(BrokenBody::Incomplete)),
            ("", Err(BrokenBody::Incomplete)),
        ] {
            for size in [1, 3, 1000] {
                assert_eq!(decoded(text.as_bytes(), size), expected, "{text} by {size}");
            }
        }
        for malformed in [
            "x\r\n",
            "\r\n",
            "-1\r\n",
            "+1\r\n",
            " 1\r\n",
            "0x1\r\n",
            "1\n",
            "1\rx",
            "1;a\nb\r\n",
            "1 x\r\n",
            "1;\0\r\n",
            "1\r\nab",
            "1\r\na\n",
            "1\r\na\r\r",
            "0\r\nx\n\r\n",
            "0\r\n\n",
            "0\r\n\rx",
            "0\r\n\0: y\r\n",
            "1,2\r\n",
            "1111111111111111\r\n",
            "FFFFFFFFFFFFFFFFF\r\n",
        ] {
            assert_eq!(decoded(malformed.as_bytes(), 7), Err(BrokenBody::Malformed), "{malformed:?}");
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_ends_or_breaks(text in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..50) {
            let _ = decoded(&text, size);
        }
    }
}

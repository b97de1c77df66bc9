//! The body of a request, read only on demand.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use hyper::body::{Body, Frame, SizeHint};
use parking_lot::{Mutex, MutexGuard};
use thiserror::Error;

use crate::chunked::{Chunks, Malformed, Strictness, Taken};

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// After this many bytes.
    Length(u64),
    /// By its chunks.
    Chunked,
}

/// The body of a request.
pub enum Sent {
    /// The complete body.
    Whole(Bytes),
    /// The body is still to be read.
    Coming(Coming),
}

/// A body that is still to be read. Dropping it discards the rest.
pub struct Coming(Source);

/// Where a body comes from.
enum Source {
    /// The connection, which reads it on demand.
    Pipe(Arc<Pipe>),
    /// A stream of HTTP/2, and its declared length. The window bounds what has arrived and is not taken yet.
    Stream(RecvStream, Option<u64>),
}

/// The reason a body breaks off.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum BrokenBody {
    /// The connection ended before it.
    #[error("the connection ended before the body")]
    Incomplete,
    /// The chunks are malformed.
    #[error("the body has a malformed chunk")]
    Malformed,
}

/// Connects the connection with the reader of the body.
#[derive(Default)]
pub(super) struct Pipe {
    length: Option<u64>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    piece: Option<Bytes>,
    end: Option<Result<(), BrokenBody>>,
    /// The reader that waits for the next piece.
    reader: Option<Waker>,
}

/// Takes a body from the received bytes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoder {
    Length(u64),
    Chunked(Chunks),
}

// === impl Coming ===

impl Coming {
    pub(super) fn new(framing: Framing) -> (Self, Arc<Pipe>) {
        let length = match framing {
            Framing::Length(length) => Some(length),
            Framing::Chunked => None,
        };
        let pipe = Arc::new(Pipe { length, state: Mutex::default() });
        (Self(Source::Pipe(pipe.clone())), pipe)
    }

    /// The length, if known.
    pub fn length(&self) -> Option<u64> {
        match &self.0 {
            Source::Pipe(pipe) => pipe.length,
            Source::Stream(_, length) => *length,
        }
    }

    pub(super) fn of_stream(stream: RecvStream, length: Option<u64>) -> Self {
        Self(Source::Stream(stream, length))
    }
}

impl Body for Coming {
    type Data = Bytes;
    type Error = BrokenBody;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
        let mut state = match &mut self.get_mut().0 {
            Source::Pipe(pipe) => pipe.lock(),
            Source::Stream(stream, _) => return poll_stream(stream, context),
        };
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
        let state = match &self.0 {
            Source::Pipe(pipe) => pipe.lock(),
            Source::Stream(stream, _) => return stream.is_end_stream(),
        };
        state.piece.is_none() && state.end == Some(Ok(()))
    }

    fn size_hint(&self) -> SizeHint {
        self.length().map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

/// For the connection, the body has ended.
impl Drop for Coming {
    fn drop(&mut self) {
        if let Source::Pipe(pipe) = &self.0 {
            pipe.lock().reader = None;
        }
    }
}

fn poll_stream(stream: &mut RecvStream, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenBody>>> {
    let piece = ready!(stream.poll_data(context)).map(|read| read.map_err(|_| BrokenBody::Incomplete));
    if let Some(Ok(piece)) = &piece {
        // Fails only for a stream that is over.
        let _ = stream.flow_control().release_capacity(piece.len());
    }
    Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
}

// === impl Pipe ===

impl Pipe {
    /// Whether a reader waits for the next piece.
    pub(super) fn is_wanted(&self) -> bool {
        self.lock().reader.is_some()
    }

    /// Passes a piece to the waiting reader.
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
        self.state.lock()
    }
}

// === impl Decoder ===

impl From<Framing> for Decoder {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::Length(length),
            Framing::Chunked => Self::Chunked(Chunks::new(Strictness::Strict)),
        }
    }
}

impl Decoder {
    /// Takes the next piece from the front of the received bytes.
    pub(super) fn take(&mut self, arrived: &mut BytesMut) -> Result<Taken, BrokenBody> {
        match self {
            Self::Length(left) => Ok(Taken::of(left, arrived)),
            Self::Chunked(chunks) => chunks.take(arrived).map_err(|Malformed| BrokenBody::Malformed),
        }
    }

    /// Whether the whole body was taken.
    pub(super) fn has_ended(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunked(chunks) => chunks.has_ended(),
        }
    }

    /// The buffer size for reading this body.
    pub(super) fn room(&self, usual: usize) -> usize {
        match self {
            Self::Length(left) => usize::try_from(*left).unwrap_or(usize::MAX).min(usual),
            Self::Chunked(_) => usual,
        }
    }
}

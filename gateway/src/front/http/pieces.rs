//! The body of an answer that is sent piece by piece as it is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use smallvec::SmallVec;

use crate::server::handle::HeldPermits;

/// Room for the headers of an answer: a map that grows is copied.
pub(crate) const HEADERS: usize = 8;

/// A body of these pieces, which keeps places at servers until it is written.
pub(crate) fn pieces(pieces: SmallVec<[Bytes; 1]>, places: HeldPermits) -> Body {
    Body::new(Pieces(pieces.into_iter(), places))
}

/// A body that is sent as it is, piece by piece.
struct Pieces(smallvec::IntoIter<[Bytes; 1]>, #[expect(dead_code, reason = "dropping it leaves them")] HeldPermits);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.next().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_slice().is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_slice().iter().map(|piece| piece.len() as u64).sum())
    }
}

//! A stream with a read-ahead buffer, which fails if the peer reads nothing.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::places::Place;
use super::stream::Stream;

/// Buffer for the next request: larger than most requests. A connection without a request keeps no more.
pub(super) const ROOM: usize = 4096;

/// This much is read during an answer. Usually nothing arrives.
pub(super) const LITTLE: usize = 256;

/// The stream of one connection. A write fails with `TimedOut` if the peer has read no byte within the limit, or the
/// connection must make space for others.
///
/// The read-ahead buffer may contain tokens, so there is no `Debug`.
pub(super) struct Socket {
    stream: Stream,
    /// Bytes that were read and not taken yet.
    pub(super) ahead: Vec<u8>,
    /// The place of this connection.
    pub(super) place: Arc<Place>,
    stall: Duration,
    /// Set only while a write is pending, which is rare: most answers fit into the system's buffer.
    stalled: Option<Pin<Box<Sleep>>>,
    /// The buffer is larger than usual, which counts.
    has_grown: bool,
}

impl Socket {
    pub(super) fn new(stream: Stream, stall: Duration, place: Arc<Place>) -> Self {
        Self { stream, ahead: Vec::new(), place, stall, stalled: None, has_grown: false }
    }

    /// Reads more into the buffer, with space for this many bytes if there is none. Zero bytes: the client sends no
    /// more.
    pub(super) fn poll_more(&mut self, room: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ahead.len() == self.ahead.capacity() {
            self.ahead.reserve(room);
        }
        pin!(self.stream.read_buf(&mut self.ahead)).poll(context)
    }

    /// Reads more into another buffer, with space for this many bytes if there is none.
    pub(super) fn poll_into(
        &mut self,
        buffer: &mut BytesMut,
        room: usize,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if buffer.len() == buffer.capacity() {
            buffer.reserve(room);
        }
        pin!(self.stream.read_buf(buffer)).poll(context)
    }

    /// How much the buffer must grow, so that more can be read.
    pub(super) fn growth(&self) -> usize {
        let capacity = self.ahead.capacity();
        if self.ahead.len() < capacity { 0 } else { capacity.max(ROOM) }
    }

    /// Grows the buffer.
    pub(super) fn grow(&mut self, bytes: usize) {
        if bytes > 0 {
            self.ahead.reserve_exact(bytes);
            self.has_grown = true;
        }
    }

    /// Drops this many bytes of the buffer.
    pub(super) fn take(&mut self, bytes: usize) {
        self.ahead.drain(..bytes);
        if self.has_grown && self.ahead.is_empty() {
            self.ahead = Vec::new();
            self.has_grown = false;
            self.place.shrink();
        }
    }

    /// Whether both sides have agreed on HTTP/2 in the handshake of TLS.
    pub(super) fn is_http2(&self) -> bool {
        self.stream.is_http2()
    }

    /// Frees the unused buffer.
    pub(super) fn shrink(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }

    /// Tells a client of TLS that the connection ends here, if that can be sent at once; a plain one sees it anyway.
    pub(super) async fn say_goodbye(&mut self) {
        if let Stream::Tls(_) = self.stream {
            std::future::poll_fn(|context| {
                let _ = Pin::new(&mut self.stream).poll_shutdown(context);
                Poll::Ready(())
            })
            .await;
        }
    }

    /// Writes a few bytes, which the system's buffer accepts at once or never.
    pub(super) fn poll_write_all(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = ready!(Pin::new(&mut *self).poll_write(context, bytes))?;
        let is_sent = Pin::new(&mut self.stream).poll_flush(context)?.is_ready();
        Poll::Ready(if is_sent && written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) })
    }

    /// Keeps the timer running while writes are pending, and ends it with any progress.
    fn guarded(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            if self.stalled.take().is_some() && !self.place.works() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return written;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        let is_over = timer.as_mut().poll(context).is_ready();
        if is_over || !self.place.stalls() { Poll::Ready(Err(io::ErrorKind::TimedOut.into())) } else { Poll::Pending }
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.ahead.is_empty() {
            return Pin::new(&mut this.stream).poll_read(context, buffer);
        }
        let length = this.ahead.len().min(buffer.remaining());
        buffer.put_slice(&this.ahead[..length]);
        this.take(length);
        this.shrink();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(context, bytes);
        this.guarded(written, context)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(context, parts);
        this.guarded(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.stream).poll_flush(context).map_ok(|()| 0);
        this.guarded(flushed, context).map_ok(drop)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let shut = Pin::new(&mut this.stream).poll_shutdown(context).map_ok(|()| 0);
        this.guarded(shut, context).map_ok(drop)
    }
}

//! A TCP stream that remembers what was read ahead, and gives up on a reader that takes nothing.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::places::Place;

/// Room for what comes next: more than most requests take. A connection without a request keeps no more.
pub(super) const ROOM: usize = 4096;

/// So much is read of what comes during an answer. Usually nothing does.
pub(super) const LITTLE: usize = 256;

/// The stream of one connection. A write fails with `TimedOut` when the peer has taken no byte for the limit, or has to
/// make room for others.
///
/// What was read ahead may hold tokens, so it has no `Debug`.
pub(super) struct Socket {
    stream: TcpStream,
    /// What has been read and not been taken.
    pub(super) ahead: Vec<u8>,
    /// Of this connection.
    pub(super) place: Arc<Place>,
    stall: Duration,
    /// Set only while a write is pending, which is rare: most answers fit into the system's buffer.
    stalled: Option<Pin<Box<Sleep>>>,
    /// There is more room than usual, which counts.
    has_grown: bool,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, stall: Duration, place: Arc<Place>) -> Self {
        Self { stream, ahead: Vec::new(), place, stall, stalled: None, has_grown: false }
    }

    /// Reads on, behind what was read ahead, with room for so many bytes if there is none. No bytes: the client sends no
    /// more.
    pub(super) fn poll_more(&mut self, room: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ahead.len() == self.ahead.capacity() {
            self.ahead.reserve(room);
        }
        pin!(self.stream.read_buf(&mut self.ahead)).poll(context)
    }

    /// Reads on into another buffer, with room for so many bytes if there is none.
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

    /// By how many bytes the room for what is read ahead has to grow, so that anything more can be read.
    pub(super) fn growth(&self) -> usize {
        let capacity = self.ahead.capacity();
        if self.ahead.len() < capacity { 0 } else { capacity.max(ROOM) }
    }

    /// Makes it grow by so many.
    pub(super) fn grow(&mut self, bytes: usize) {
        if bytes > 0 {
            self.ahead.reserve_exact(bytes);
            self.has_grown = true;
        }
    }

    /// Drops so many bytes of what was read ahead.
    pub(super) fn take(&mut self, bytes: usize) {
        self.ahead.drain(..bytes);
        if self.has_grown && self.ahead.is_empty() {
            self.ahead = Vec::new();
            self.has_grown = false;
            self.place.shrink();
        }
    }

    /// Keeps no room for what may come.
    pub(super) fn shrink(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }

    /// Writes a few bytes, which are in the system's buffer at once or never.
    pub(super) fn poll_write_all(&mut self, bytes: &[u8], context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let written = ready!(Pin::new(self).poll_write(context, bytes))?;
        Poll::Ready(if written == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) })
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
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(context)
    }
}

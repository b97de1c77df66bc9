//! A TCP stream that remembers what was read ahead, and gives up on a reader that takes nothing.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Sleep, sleep};

use super::head::Received;

/// A connection without a request keeps no more room than this.
const MUCH: usize = 16 * 1024;

/// The stream of one connection. A write fails with `TimedOut` when the peer has taken no byte for the limit.
///
/// What was read ahead may hold tokens, so it has no `Debug`.
pub(super) struct Socket {
    stream: TcpStream,
    /// What has been read and not been taken. Whoever reads gets it first.
    pub(super) ahead: Vec<u8>,
    received: Option<Received>,
    stall: Duration,
    /// Set only while a write is pending, which is rare: most answers fit into the system's buffer.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Socket {
    pub(super) fn new(stream: TcpStream, stall: Duration) -> Self {
        Self { stream, ahead: Vec::new(), received: None, stall, stalled: None }
    }

    /// Counts what is read from now on.
    pub(super) fn count(&mut self, received: Received) {
        self.received = Some(received);
    }

    /// Reads on, behind what was read ahead, with room for so many bytes if there is none. No bytes: the client sends no
    /// more.
    pub(super) fn poll_more(&mut self, room: usize, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ahead.len() == self.ahead.capacity() {
            self.ahead.reserve(room);
        }
        pin!(self.stream.read_buf(&mut self.ahead)).poll(context)
    }

    /// Drops so many bytes of what was read ahead.
    pub(super) fn take(&mut self, bytes: usize) {
        self.ahead.drain(..bytes);
        if self.ahead.capacity() > MUCH {
            self.shrink();
        }
    }

    /// Keeps no room for what may come.
    pub(super) fn shrink(&mut self) {
        if self.ahead.is_empty() {
            self.ahead = Vec::new();
        }
    }

    /// Keeps the timer running while writes are pending, and ends it with any progress.
    fn guarded(&mut self, written: Poll<io::Result<usize>>, context: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let timer = self.stalled.get_or_insert_with(|| Box::pin(sleep(self.stall)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        let read = if this.ahead.is_empty() {
            Pin::new(&mut this.stream).poll_read(context, buffer)
        } else {
            let bytes = this.ahead.len().min(buffer.remaining());
            buffer.put_slice(&this.ahead[..bytes]);
            this.take(bytes);
            this.shrink();
            Poll::Ready(Ok(()))
        };
        if let Some(received) = &this.received {
            received.add(buffer.filled().len() - before);
        }
        read
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

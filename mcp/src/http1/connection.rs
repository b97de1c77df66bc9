//! Drives one connection while it carries a request: writes the request, and reads the response even before all of it
//! is written.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use portcullis_runtime::chunked::Taken;
use tokio::io::{AsyncRead as _, AsyncReadExt as _, AsyncWrite as _, ReadBuf};

use super::HttpError;
use super::body::Body;
use super::head::{Finder, Head};
use super::request::Outgoing;
use crate::http1::stream::Stream;

/// Buffer for a read: the usual response fits.
const READ: usize = 16 * 1024;

/// Buffer for a read after reads that filled theirs.
const MAX_READ: usize = 256 * 1024;

/// With less space than this, the buffer grows before a read.
const MIN_READ: usize = 1024;

/// A connection in use.
pub(super) struct Connection {
    stream: Stream,
    /// The bytes still to be written.
    outgoing: Option<Outgoing>,
    /// Received bytes that are not taken yet. Empty until something arrives: waiting connections cost no memory.
    arrived: BytesMut,
    finder: Finder,
    room: usize,
    /// The whole request was written.
    is_written: bool,
    /// Some bytes have arrived.
    has_heard: bool,
}

impl Connection {
    /// Starts a request.
    pub(super) fn new(stream: Stream, outgoing: Outgoing) -> Self {
        let (arrived, finder) = (BytesMut::new(), Finder::default());
        Self { stream, outgoing: Some(outgoing), arrived, finder, room: READ, is_written: false, has_heard: false }
    }

    /// The request, if no byte of it was written.
    pub(super) fn unsent(self) -> Option<Outgoing> {
        self.outgoing.filter(|outgoing| outgoing.sent == 0)
    }

    /// Whether any byte of a response has arrived.
    pub(super) fn has_heard(&self) -> bool {
        self.has_heard
    }

    /// The stream, if it can carry another request.
    pub(super) fn reusable(self) -> Option<Stream> {
        (self.is_written && self.arrived.is_empty()).then_some(self.stream)
    }

    /// Waits for the head of the response.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<(Head, Body), HttpError>> {
        loop {
            if ready!(self.poll_more(cx))? == 0 {
                return Poll::Ready(Err(self.broken()));
            }
            self.has_heard = true;
            if let Some(found) = self.finder.take(&mut self.arrived)? {
                return Poll::Ready(Ok(found));
            }
        }
    }

    /// Waits for the next piece of the body; `None` at its end.
    pub(super) fn poll_piece(
        &mut self,
        cx: &mut Context<'_>,
        body: &mut Body,
    ) -> Poll<Result<Option<Bytes>, HttpError>> {
        loop {
            match body.take(&mut self.arrived)? {
                Taken::Piece(piece) => return Poll::Ready(Ok(Some(piece))),
                Taken::End => return Poll::Ready(Ok(None)),
                Taken::More => {}
            }
            if ready!(self.poll_more(cx))? == 0 {
                let ended = matches!(body, Body::UntilClose);
                return Poll::Ready(if ended { Ok(None) } else { Err(HttpError::Lost) });
            }
        }
    }

    /// Reserves space for the rest of a body of this length; if the buffer has none, exactly that much.
    pub(super) fn expect(&mut self, length: usize) {
        if self.arrived.capacity() < length {
            let mut all = BytesMut::with_capacity(length);
            all.extend_from_slice(&self.arrived);
            self.arrived = all;
        }
    }

    /// Waits until this many bytes have arrived, after [`Self::expect`] of them, and takes them.
    pub(super) fn poll_exactly(&mut self, cx: &mut Context<'_>, length: usize) -> Poll<Result<Bytes, HttpError>> {
        while self.arrived.len() < length {
            ready!(self.poll_news(cx))?;
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(HttpError::Lost));
            }
        }
        let rest = self.arrived.split_off(length);
        Poll::Ready(Ok(std::mem::replace(&mut self.arrived, rest).freeze()))
    }

    /// Reads available bytes; 0 at the end of the stream. The buffer grows only when something has arrived.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, HttpError>> {
        ready!(self.poll_news(cx))?;
        if self.arrived.capacity() - self.arrived.len() < MIN_READ {
            self.arrived.reserve(self.room);
        }
        let read = self.poll_read(cx);
        if self.arrived.is_empty() {
            self.arrived = BytesMut::new();
        } else if self.arrived.len() == self.arrived.capacity() {
            self.room = (self.room * 4).min(MAX_READ);
        }
        read
    }

    /// Writes as much as possible, and waits until something may be readable.
    fn poll_news(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), HttpError>> {
        if self.outgoing.is_some() {
            self.write(cx)?;
        }
        self.stream.poll_read_ready(cx).map(Ok)
    }

    /// Reads into the free space of the buffer.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, HttpError>> {
        let read = pin!(self.stream.read_buf(&mut self.arrived)).poll(cx);
        read.map_err(|_| self.broken())
    }

    /// Writes as much as possible without waiting.
    ///
    /// # Errors
    /// No byte could be written. Later failures are not errors: the server may have answered before it read the whole
    /// request.
    fn write(&mut self, cx: &mut Context<'_>) -> Result<(), HttpError> {
        let Some(outgoing) = &mut self.outgoing else { return Ok(()) };
        match outgoing.poll_write(&mut self.stream, cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Ok(())) => {
                self.is_written = true;
                self.outgoing = None;
                Ok(())
            }
            Poll::Ready(Err(_)) if outgoing.sent == 0 => Err(HttpError::NotSent),
            Poll::Ready(Err(_)) => {
                self.outgoing = None;
                Ok(())
            }
        }
    }

    fn broken(&self) -> HttpError {
        match &self.outgoing {
            Some(outgoing) if outgoing.sent == 0 => HttpError::NotSent,
            _ => HttpError::Lost,
        }
    }
}

impl Outgoing {
    fn poll_write(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let written = match self.rest() {
                ([], []) => return Pin::new(stream).poll_flush(cx),
                (text, []) => ready!(Pin::new(&mut *stream).poll_write(cx, text)),
                ([], body) => ready!(Pin::new(&mut *stream).poll_write(cx, body)),
                (text, body) => {
                    let both = [io::IoSlice::new(text), io::IoSlice::new(body)];
                    ready!(Pin::new(&mut *stream).poll_write_vectored(cx, &both))
                }
            };
            match written {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(written) => self.sent += written,
                Err(error) => {
                    // With TLS, it is unknown how many bytes left.
                    if matches!(stream, Stream::Tls(_)) {
                        self.sent = self.sent.max(1);
                    }
                    return Poll::Ready(Err(error));
                }
            }
        }
    }
}

/// Whether an unused connection is still open and silent. Asks the system only if the runtime reports an event.
pub(super) fn is_quiet(stream: &mut Stream) -> bool {
    let mut byte = [0];
    match stream {
        Stream::Tcp(tcp) => {
            matches!(tcp.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
        }
        Stream::Tls(tls) => {
            let mut cx = Context::from_waker(Waker::noop());
            Pin::new(tls).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
        }
    }
}

/// The same, but always asks the system: the runtime may not have seen the close yet.
pub(super) fn is_open(stream: &mut Stream) -> bool {
    match stream.peek() {
        // The TLS bytes that were read may have been its end.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_quiet(stream),
        // TLS sends records that answer no request.
        Ok(1..) => is_quiet(stream) && matches!(stream, Stream::Tls(_)) && is_drained(stream),
        Ok(0) | Err(_) => false,
    }
}

/// Whether everything that arrived was read.
fn is_drained(stream: &Stream) -> bool {
    matches!(stream.peek(), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
}

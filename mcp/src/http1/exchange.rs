//! A response whose head has arrived and whose body is still to be read.

use std::future::poll_fn;
use std::sync::Weak;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use portcullis_runtime::memory::{Held, SMALL, account};
use tokio::task::yield_now;
use tokio::time::Instant;

use super::HttpError;
use super::body::Body;
use super::connection::Connection;
use super::head::Head;
use super::pool::WorkerConnections;

/// This much of a body is examined before other tasks run; each piece has a fixed cost on top, however short it is.
const TURN: usize = 64 * 1024;
const PIECE: usize = 64;

/// A response whose head has arrived. Dropping it before its end closes the connection.
pub struct Exchange {
    /// Status and headers.
    pub head: Head,
    body: Body,
    /// `None` once the body has ended or was lost.
    connection: Option<Connection>,
    /// The pool that takes the connection back when it is free.
    part: Weak<WorkerConnections>,
    /// The time since which no caller reads the rest: the arrival time of the rest is unknown.
    left_since: Option<Instant>,
}

impl Exchange {
    pub(super) fn new(head: Head, body: Body, connection: Connection, part: Weak<WorkerConnections>) -> Self {
        Self { head, body, connection: Some(connection), part, left_since: None }
    }

    /// The next piece of the body; `None` at its end, when the connection returns to the pool. Dropping the future
    /// loses nothing.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, HttpError>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(None)) };
        let piece = connection.poll_piece(cx, &mut self.body);
        match &piece {
            Poll::Ready(Ok(None)) => self.finish(),
            Poll::Ready(Err(_)) => self.connection = None,
            _ => {}
        }
        piece
    }

    /// The next piece of the body if it has arrived.
    pub(crate) fn arrived(&mut self) -> Option<Bytes> {
        match self.poll_chunk(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(Ok(piece)) => piece,
            Poll::Ready(Err(_)) | Poll::Pending => None,
        }
    }

    /// The whole body.
    ///
    /// # Errors
    /// [`HttpError::TooLarge`] above `limit` bytes, [`HttpError::Lost`] if the connection ends before.
    pub async fn whole(mut self, limit: usize) -> Result<Bytes, HttpError> {
        match self.body {
            Body::Length(length) => match usize::try_from(length) {
                Ok(length) if length <= limit => self.exactly(length).await,
                _ => Err(HttpError::TooLarge(limit)),
            },
            _ => self.collected(limit).await,
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Bytes, HttpError> {
        let Some(connection) = &mut self.connection else { return Ok(Bytes::new()) };
        let mut held = Held::none(&account().large);
        if length > SMALL {
            account().room(&mut held, length).await?;
        }
        connection.expect(length);
        let body = poll_fn(|cx| connection.poll_exactly(cx, length)).await?;
        self.body = Body::Length(0);
        self.finish();
        Ok(body)
    }

    async fn collected(&mut self, limit: usize) -> Result<Bytes, HttpError> {
        let Some(first) = self.chunk().await? else { return Ok(Bytes::new()) };
        if first.len() > limit {
            return Err(HttpError::TooLarge(limit));
        }
        let Some(second) = self.chunk().await? else { return Ok(first) };
        let mut all: Vec<u8> = Vec::new();
        let mut held = Held::none(&account().large);
        grow(&mut all, &mut held, first.len() + second.len()).await?;
        all.extend_from_slice(&first);
        drop(first);
        let (mut next, mut turn) = (Some(second), 0);
        while let Some(chunk) = next {
            turn += chunk.len() + PIECE;
            if turn >= TURN {
                yield_now().await;
                turn = 0;
            }
            if all.len() + chunk.len() > limit {
                return Err(HttpError::TooLarge(limit));
            }
            grow(&mut all, &mut held, chunk.len()).await?;
            all.extend_from_slice(&chunk);
            drop(chunk);
            next = self.chunk().await?;
        }
        Ok(all.into())
    }

    /// Lets the rest of the body arrive after the caller has left, so that the connection can be reused.
    pub(crate) fn linger(mut self) {
        if self.ended_now().is_some() {
            return;
        }
        self.left_since = Some(Instant::now());
        if let Some(part) = self.part.upgrade() {
            part.linger(self);
        }
    }

    /// Whether the body has ended: `Some(true)` with its connection back in the pool, `Some(false)` with it lost. A
    /// body with much left to read counts as not ended.
    pub(super) fn ended_now(&mut self) -> Option<bool> {
        let mut cx = Context::from_waker(Waker::noop());
        let mut turn = 0;
        while turn < TURN {
            match self.poll_chunk(&mut cx) {
                Poll::Pending => return None,
                Poll::Ready(Ok(Some(chunk))) => turn += chunk.len() + PIECE,
                Poll::Ready(Ok(None)) => return Some(true),
                Poll::Ready(Err(_)) => return Some(false),
            }
        }
        None
    }

    fn finish(&mut self) {
        if let Some(connection) = self.connection.take()
            && self.head.keeps
            && self.body.has_ended()
            && let Some(stream) = connection.reusable()
            && let Some(part) = self.part.upgrade()
        {
            part.put_back(stream, self.head.announced_idle, self.left_since);
        }
    }
}

/// Reserves space for this many bytes more, and for as many again, which count unless they are few.
async fn grow(all: &mut Vec<u8>, held: &mut Held, more: usize) -> Result<(), HttpError> {
    let needed = all.len() + more;
    if needed <= all.capacity() {
        return Ok(());
    }
    let room = 2 * needed;
    if room > SMALL {
        let missing = room.saturating_sub(held.bytes());
        account().room(held, missing).await?;
    }
    all.reserve_exact(room - all.len());
    Ok(())
}

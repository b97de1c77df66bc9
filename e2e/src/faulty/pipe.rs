//! The body of an answer that is written while it is read: whole, in pieces, endless, cut, or frozen.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use tokio::sync::mpsc;
use tokio::task::yield_now;
use tokio::time::sleep;

use super::fault::EventFraming;

/// The body of every answer here.
pub(super) type Payload = UnsyncBoxBody<Bytes, PipeCut>;

/// Makes hyper drop the connection where it stands.
#[derive(Debug)]
pub(super) struct PipeCut;

impl fmt::Display for PipeCut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection is cut on purpose")
    }
}

impl std::error::Error for PipeCut {}

/// The writing end. Clones write to the same body; it ends when all are gone.
#[derive(Clone, Debug)]
pub(super) struct BodyPipe {
    sender: mpsc::Sender<PipeStep>,
    frozen: Arc<AtomicBool>,
    started: Arc<AtomicBool>,
}

#[derive(Debug)]
enum PipeStep {
    Write(Write),
    End,
    Cut,
}

#[derive(Debug)]
struct Write {
    bytes: Bytes,
    /// The rest of the current round.
    left: Bytes,
    rounds: u64,
    piece: usize,
    pause: Duration,
}

/// A pipe and its body.
pub(super) fn pipe() -> (BodyPipe, Payload) {
    let (sender, receiver) = mpsc::channel(64);
    let pipe = BodyPipe { sender, frozen: Arc::default(), started: Arc::default() };
    (pipe, StreamBody::new(frames(receiver)).boxed_unsync())
}

/// A body that is there already.
pub(super) fn whole(bytes: impl Into<Bytes>) -> Payload {
    Full::new(bytes.into()).map_err(|never: Infallible| match never {}).boxed_unsync()
}

impl BodyPipe {
    /// Writes bytes in the pieces that the framing asks for.
    pub(super) async fn write(&self, bytes: impl Into<Bytes>, framing: &EventFraming) {
        self.repeat(bytes, 1, framing).await;
    }

    /// Writes the same bytes many times.
    pub(super) async fn repeat(&self, bytes: impl Into<Bytes>, times: u64, framing: &EventFraming) {
        let bytes: Bytes = bytes.into();
        let piece = framing.piece.unwrap_or(usize::MAX).max(1);
        let write = Write { left: Bytes::new(), bytes, rounds: times, piece, pause: framing.pause };
        self.step(PipeStep::Write(write)).await;
    }

    /// Ends the body properly, after what was written.
    pub(super) async fn end(&self) {
        self.step(PipeStep::End).await;
    }

    /// Cuts the connection, after what was written.
    pub(super) async fn cut(&self) {
        self.step(PipeStep::Cut).await;
    }

    /// Lets everything that is written from now on vanish, with the connection left open.
    pub(super) fn freeze(&self) {
        self.frozen.store(true, Ordering::Relaxed);
    }

    /// Whether nothing was written through [`BodyPipe::first`] before.
    pub(super) fn first(&self) -> bool {
        !self.started.swap(true, Ordering::Relaxed)
    }

    /// Waits until the reader is gone.
    pub(super) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Whether the reader is gone.
    pub(super) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    async fn step(&self, step: PipeStep) {
        if !self.frozen.load(Ordering::Relaxed) {
            // An error means that the reader is gone, which is its right.
            drop(self.sender.send(step).await);
        }
    }
}

fn frames(receiver: mpsc::Receiver<PipeStep>) -> impl Stream<Item = Result<Frame<Bytes>, PipeCut>> {
    unfold((receiver, None), |(mut receiver, mut current): (_, Option<Write>)| async move {
        loop {
            if let Some(bytes) = next_piece(&mut current).await {
                return Some((Ok(Frame::data(bytes)), (receiver, current)));
            }
            match receiver.recv().await? {
                PipeStep::Write(write) => current = Some(write),
                PipeStep::End => return None,
                PipeStep::Cut => {
                    // Yielding makes hyper flush first: the head and what was written reach the caller before the cut.
                    yield_now().await;
                    return Some((Err(PipeCut), (receiver, None)));
                }
            }
        }
    })
}

async fn next_piece(current: &mut Option<Write>) -> Option<Bytes> {
    let write = current.as_mut()?;
    if write.left.is_empty() {
        write.rounds = write.rounds.checked_sub(1)?;
        write.left = write.bytes.clone();
    }
    if write.left.is_empty() {
        return None;
    }
    if !write.pause.is_zero() {
        sleep(write.pause).await;
    }
    // Yielding makes hyper flush, so that pieces are pieces on the wire too.
    yield_now().await;
    let piece = write.left.len().min(write.piece);
    Some(write.left.split_to(piece))
}

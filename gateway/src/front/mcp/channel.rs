//! The streams of clients of 2024-11-05: what they send comes in by other requests, all answers go out on the stream.
//!
//! A request runs as part of its stream: when the stream ends, it is cancelled at the server.

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use http_body::Frame;
use tokio::sync::mpsc;

use super::listen::Listening;
use super::live::SessionKey;
use super::stream::Answering;
use super::told;
use crate::capabilities::ClientCapabilities;
use crate::front::app::App;
use crate::revision::Revision;
use crate::seal::Session;

/// Requests of one stream that are answered at the same time.
const RUNNING: usize = 128;

/// Requests that may wait for that; each may be as long as a body.
const WAITING: usize = 16;

/// All open streams.
#[derive(Default)]
pub struct Channels(Mutex<HashMap<SessionKey, Arc<Channel>>>);

/// The way onto one stream.
pub struct Channel {
    jobs: mpsc::Sender<Job>,
    agreed: Mutex<Agreed>,
}

/// What `initialize` has agreed upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// The revision.
    pub revision: Revision,
    /// What the client can do for servers.
    pub capabilities: ClientCapabilities,
}

/// What comes onto a stream.
pub enum Job {
    /// The answer to `initialize`: from now on the client can be told of changes.
    Begun(Bytes),
    /// An event that is there already.
    Event(Bytes),
    /// The events of a request that a server answers.
    Answering(Answering),
}

/// Why nothing comes onto a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotTake {
    /// As much waits as may.
    Full,
    /// It has ended, or is about to.
    Over,
}

/// The body of a stream.
pub struct Conversation {
    listening: Listening,
    turns: Turns,
    over: bool,
    /// Last, so that what runs has ended when the session is forgotten.
    _open: Open,
}

/// What waits for a stream, and what runs on it.
struct Turns {
    jobs: mpsc::Receiver<Job>,
    running: SelectAll<Answering>,
}

/// What comes onto a stream next.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Begun(Bytes),
    Event(Bytes),
}

/// Forgets a session when its stream is gone.
struct Open {
    app: Arc<App>,
    session: Session,
}

// === impl Channels ===

impl Channels {
    /// Opens the stream of a session.
    pub fn open(app: &Arc<App>, session: Session, listening: Listening) -> Conversation {
        let (sender, jobs) = mpsc::channel(WAITING);
        let agreed = Agreed { revision: Revision::V2024_11_05, capabilities: ClientCapabilities::NONE };
        let channel = Channel { jobs: sender, agreed: Mutex::new(agreed) };
        app.mcp.channels.lock().insert(session.id, Arc::new(channel));
        let open = Open { app: app.clone(), session };
        let turns = Turns { jobs, running: SelectAll::new() };
        Conversation { listening, turns, over: false, _open: open }
    }

    /// The stream of a session, if it is open here.
    pub fn of(&self, session: &SessionKey) -> Option<Arc<Channel>> {
        self.lock().get(session).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<Channel>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Channel ===

impl Channel {
    /// What was agreed upon; before that, the first revision of all.
    pub fn agreed(&self) -> Agreed {
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers what was agreed upon.
    pub fn agree(&self, agreed: Agreed) {
        *self.agreed.lock().unwrap_or_else(PoisonError::into_inner) = agreed;
    }

    /// Puts something onto the stream.
    ///
    /// # Errors
    /// [`CannotTake`].
    pub fn put(&self, job: Job) -> Result<(), CannotTake> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CannotTake::Full,
            mpsc::error::TrySendError::Closed(_) => CannotTake::Over,
        })
    }
}

// === impl Turns ===

impl Turns {
    /// What comes next; none when nothing runs and nothing more can come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        loop {
            let mut drained = false;
            while self.running.len() < RUNNING {
                match self.jobs.poll_recv(cx) {
                    Poll::Ready(Some(Job::Answering(answering))) => self.running.push(answering),
                    Poll::Ready(Some(Job::Event(event))) => return Poll::Ready(Some(Turn::Event(event))),
                    Poll::Ready(Some(Job::Begun(event))) => return Poll::Ready(Some(Turn::Begun(event))),
                    Poll::Ready(None) => {
                        drained = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            let full = self.running.len() >= RUNNING;
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(Turn::Event(event))),
                Poll::Ready(None) if drained => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            // If one has ended without an event, nothing waits for the next job yet.
            if !full || self.running.len() >= RUNNING {
                return Poll::Pending;
            }
        }
    }
}

// === impl Conversation ===

impl Conversation {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match self.turns.poll_next(cx) {
                Poll::Ready(Some(Turn::Event(event))) => return Poll::Ready(Some(event)),
                Poll::Ready(Some(Turn::Begun(event))) => {
                    self.listening.begin();
                    return Poll::Ready(Some(event));
                }
                Poll::Ready(None) if self.over => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            if self.over {
                return Poll::Pending;
            }
            match self.listening.poll_event(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(event)),
                Poll::Pending => return Poll::Pending,
                // What has been taken is still answered, but nothing more is taken.
                Poll::Ready(None) => {
                    self.over = true;
                    self.turns.jobs.close();
                }
            }
        }
    }
}

impl http_body::Body for Conversation {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_event(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.app.mcp.channels.lock().remove(&self.session.id);
        told::over(&self.app, self.session.id);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::front::mcp::reply::Reply;
    use crate::front::mcp::stream::{Ears, Shape};

    #[test]
    fn a_full_stream_takes_the_next_message_as_soon_as_a_request_ends() {
        let (jobs, receiver) = mpsc::channel(RUNNING + 1);
        let mut turns = Turns { jobs: receiver, running: SelectAll::new() };
        let mut ends = Vec::new();
        for _ in 0..RUNNING {
            let (end, ended) = oneshot::channel::<()>();
            ends.push(end);
            let work = Box::pin(async move {
                let _ = ended.await;
                Reply::result("1", [Bytes::from_static(b"{}")])
            });
            let shape = Shape { progress_token: None, log_level: None, ears: Ears::None };
            assert!(jobs.try_send(Job::Answering(Answering::among_others(work, None, shape))).is_ok());
        }
        let mut next = || poll_fn(|cx| turns.poll_next(cx)).now_or_never();
        assert_eq!(next(), None, "all run");
        let waiting = Bytes::from_static(b"the next");
        assert!(jobs.try_send(Job::Event(waiting.clone())).is_ok());
        assert_eq!(next(), None, "there is no room for it");
        drop(ends.pop());
        assert!(matches!(next(), Some(Some(Turn::Event(answer))) if answer != waiting));
        assert_eq!(next(), Some(Some(Turn::Event(waiting))));
    }
}

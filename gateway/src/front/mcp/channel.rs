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
    jobs: mpsc::Receiver<Job>,
    running: SelectAll<Answering>,
    over: bool,
    /// Last, so that what runs has ended when the session is forgotten.
    _open: Open,
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
        Conversation { listening, jobs, running: SelectAll::new(), over: false, _open: open }
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

// === impl Conversation ===

impl Conversation {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let mut drained = false;
            while self.running.len() < RUNNING {
                match self.jobs.poll_recv(cx) {
                    Poll::Ready(Some(Job::Answering(answering))) => self.running.push(answering),
                    Poll::Ready(Some(Job::Event(event))) => return Poll::Ready(Some(event)),
                    Poll::Ready(Some(Job::Begun(event))) => {
                        self.listening.begin();
                        return Poll::Ready(Some(event));
                    }
                    Poll::Ready(None) => {
                        drained = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            let full = self.running.len() >= RUNNING;
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(event)),
                Poll::Ready(None) if self.over && drained => return Poll::Ready(None),
                Poll::Ready(None) | Poll::Pending => {}
            }
            // One has ended without an event: nothing waits for the next job yet.
            if full && self.running.len() < RUNNING {
                continue;
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
                    self.jobs.close();
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

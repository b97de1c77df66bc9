//! The body of the stream of a client of 2024-11-05: what it is told, and the answers to its requests.
//!
//! A request runs as part of its stream: when the stream ends, it is cancelled at the server.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use http_body::Frame;
use tokio::sync::mpsc;

use crate::front::mcp::client_notifications;
use crate::front::mcp::listen::ListenStream;
use crate::front::mcp::state::legacy_streams::{Job, LegacyCall};
use crate::front::mcp::stream::{AnswerStream, InputMode, Presentation};
use crate::front::request::app::App;
use crate::seal::SealedSession;

/// Requests of one stream that are answered at the same time.
const RUNNING: usize = 128;

/// The body of a stream.
pub(crate) struct LegacyBody {
    listening: ListenStream,
    turns: RunningCalls,
    over: bool,
    /// Last, so that what runs has ended when the session is forgotten.
    _open: SessionGuard,
}

/// The calls that wait for a stream, and those that run on it.
struct RunningCalls {
    jobs: mpsc::Receiver<Job>,
    running: SelectAll<AnswerStream>,
}

/// The next event of a stream.
#[derive(Debug, PartialEq, Eq)]
enum NextEvent {
    Begun(Bytes),
    Event(Bytes),
}

/// Forgets a session when its stream is gone.
struct SessionGuard {
    app: Arc<App>,
    session: SealedSession,
}

impl RunningCalls {
    /// The next event; `None` when nothing runs and nothing more can come.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<NextEvent>> {
        loop {
            let mut drained = false;
            while self.running.len() < RUNNING {
                match self.jobs.poll_recv(cx) {
                    Poll::Ready(Some(Job::Call(call))) => self.running.push(answering(call)),
                    Poll::Ready(Some(Job::Event(event))) => return Poll::Ready(Some(NextEvent::Event(event))),
                    Poll::Ready(Some(Job::Begun(event))) => return Poll::Ready(Some(NextEvent::Begun(event))),
                    Poll::Ready(None) => {
                        drained = true;
                        break;
                    }
                    Poll::Pending => break,
                }
            }
            let full = self.running.len() >= RUNNING;
            match self.running.poll_next_unpin(cx) {
                Poll::Ready(Some(event)) => return Poll::Ready(Some(NextEvent::Event(event))),
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

impl LegacyBody {
    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match self.turns.poll_next(cx) {
                Poll::Ready(Some(NextEvent::Event(event))) => return Poll::Ready(Some(event)),
                Poll::Ready(Some(NextEvent::Begun(event))) => {
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

impl http_body::Body for LegacyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_event(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.app.mcp.legacy_streams.close(&self.session.id);
        client_notifications::over(&self.app, self.session.id);
    }
}

/// Opens the stream of a session.
pub(crate) fn open(app: &Arc<App>, session: SealedSession, listening: ListenStream) -> LegacyBody {
    let jobs = app.mcp.legacy_streams.open(session.id);
    let open = SessionGuard { app: app.clone(), session };
    let turns = RunningCalls { jobs, running: SelectAll::new() };
    LegacyBody { listening, turns, over: false, _open: open }
}

/// The events of a request that a server answers.
fn answering(call: LegacyCall) -> AnswerStream {
    let LegacyCall { work, mailbox, progress_token, log_level, requests } = call;
    let input = requests.map_or(InputMode::None, InputMode::Requests);
    AnswerStream::among_others(work, mailbox, Presentation { progress_token, log_level, input })
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;
    use tokio::sync::oneshot;

    use super::*;
    use crate::front::mcp::messages::reply::RpcReply;

    #[test]
    fn a_full_stream_takes_the_next_message_as_soon_as_a_request_ends() {
        let (jobs, receiver) = mpsc::channel(RUNNING + 1);
        let mut turns = RunningCalls { jobs: receiver, running: SelectAll::new() };
        let mut ends = Vec::new();
        for _ in 0..RUNNING {
            let (end, ended) = oneshot::channel::<()>();
            ends.push(end);
            let work = Box::pin(async move {
                let _ = ended.await;
                RpcReply::result("1", [Bytes::from_static(b"{}")])
            });
            let call = LegacyCall { work, mailbox: None, progress_token: None, log_level: None, requests: None };
            assert!(jobs.try_send(Job::Call(call)).is_ok());
        }
        let mut next = || poll_fn(|cx| turns.poll_next(cx)).now_or_never();
        assert_eq!(next(), None, "all run");
        let waiting = Bytes::from_static(b"the next");
        assert!(jobs.try_send(Job::Event(waiting.clone())).is_ok());
        assert_eq!(next(), None, "there is no room for it");
        drop(ends.pop());
        assert!(matches!(next(), Some(Some(NextEvent::Event(answer))) if answer != waiting));
        assert_eq!(next(), Some(Some(NextEvent::Event(waiting))));
    }
}

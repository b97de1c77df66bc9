//! The interface of every upstream session, whatever its transport.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use ::http::HeaderValue;
use tokio::sync::watch;

use super::call::{Call, CallError};
use super::core::Core;
use super::doubts::{self, Heard, Hears as _, Verdict};
use super::heads::{Heads, SessionHeaders};
use super::message::Reply;
use super::refusal::Denial;
use super::sse::SseSession;
use super::streamable::{StreamableSession, Wanted};
use super::timing::Timing;
use crate::protocol::extensions::Extensions;

/// An open session.
pub enum Session {
    /// Legacy HTTP+SSE.
    Sse(Arc<SseSession>),
    /// Streamable HTTP of any revision.
    Streamable(Arc<StreamableSession>),
}

// === impl Session ===

impl Session {
    /// Sends a request and waits for its answer; dropping the future cancels the call at the server.
    ///
    /// # Errors
    /// See [`CallError`]; an error that the server answers is a [`Reply::Error`].
    pub async fn call(&self, call: &Call<'_>, timing: &Arc<Timing>) -> Result<Reply, CallError> {
        let Heard { answer, refusal } = match self {
            Self::Sse(session) => session.hear(call, timing).await,
            Self::Streamable(session) => session.hear(call, timing).await,
        };
        match refusal.filter(|said| said.is_suspicious()) {
            None => answer,
            // Boxed, so that the future of the usual call does not include it.
            Some(said) => Box::pin(self.doubted(answer, &said, call.method, timing)).await,
        }
    }

    /// The answer that suggests an unknown session, or the error that the session is lost: then nothing was done, if
    /// the server refuses every request in the same words.
    async fn doubted(
        &self,
        answer: Result<Reply, CallError>,
        said: &Denial,
        method: &str,
        timing: &Timing,
    ) -> Result<Reply, CallError> {
        let doubts = &self.core().doubts;
        if said.is_by_the_book() && self.is_long_open() {
            doubts.expire();
            return Err(CallError::SessionExpired);
        }
        let asking = pin!(doubts.verdict(method != doubts::LIST));
        match timing.limit(asking).await.unwrap_or(Verdict::Unclear) {
            Verdict::Lost(refusals) if said.is_by_the_book() || refusals.contains(said) => {
                Err(CallError::SessionExpired)
            }
            Verdict::Split(refusal) if refusal == *said => {
                doubts.expire();
                Err(CallError::SessionExpired)
            }
            Verdict::Unclear if said.is_by_the_book() => {
                doubts.expire();
                Err(CallError::SessionExpired)
            }
            Verdict::Unclear => {
                self.core().notices.suspect.notify_one();
                answer
            }
            Verdict::Known | Verdict::Split(_) | Verdict::Lost(_) => answer,
        }
    }

    /// Whether the session was opened so long ago that the server may well have forgotten it since. A refusal in a new
    /// session is checked, or calls could make the gateway reopen it again and again.
    fn is_long_open(&self) -> bool {
        matches!(self, Self::Streamable(session) if session.is_long_open())
    }

    /// Queues a notification for the server: `params` is a JSON object, or empty.
    pub fn tell(&self, method: &str, params: &str) {
        let params = if params.is_empty() { String::new() } else { format!(r#","params":{params}"#) };
        self.core().post_later(format!(r#"{{"jsonrpc":"2.0","method":"{method}"{params}}}"#));
    }

    fn core(&self) -> &Core {
        match self {
            Self::Sse(session) => &session.core,
            Self::Streamable(session) => &session.core,
        }
    }

    fn heads(&self) -> &Heads {
        match self {
            Self::Sse(session) => &session.heads,
            Self::Streamable(session) => &session.heads,
        }
    }

    /// Whether the session uses 2026-07-28, where it keeps no state and each request is self-contained.
    pub fn is_modern(&self) -> bool {
        matches!(self, Self::Streamable(session) if session.is_modern())
    }

    /// The JSON of the capabilities of a client, with those of its extensions that the server has too. `None` if none of
    /// them is to be named: in a session that began with a handshake they were declared there.
    pub fn told_of(&self, extensions: &Extensions, capabilities: &str) -> Option<String> {
        let Self::Streamable(session) = self else { return None };
        if extensions.is_empty() || !session.modern {
            return None;
        }
        let understood = extensions.understood_by(&session.extensions);
        (!understood.is_empty()).then(|| understood.in_capabilities(capabilities))
    }

    /// The last reported gateways behind the server, if it reported any.
    pub fn instances(&self) -> Option<HeaderValue> {
        self.heads().instances()
    }

    /// Replaces the configured headers from the next request on.
    pub fn set_headers(&self, headers: SessionHeaders) {
        self.heads().configure(headers);
    }

    /// Replaces the limits for opening a connection to the server and for keeping an unused one.
    pub fn set_limits(&self, connect: Duration, idle: Duration) {
        self.core().pool.set_limits(connect, idle);
    }

    /// Checks whether the server lives and still knows this session; `by_list`: with the list of its tools.
    ///
    /// # Errors
    /// [`CallError::SessionExpired`] if the session is lost; others if the server does not answer.
    pub async fn check(&self, by_list: bool) -> Result<(), CallError> {
        match self {
            Self::Sse(session) => doubts::check(&**session, by_list).await,
            Self::Streamable(session) => doubts::check(&**session, by_list).await,
        }
    }

    /// Sets the resources and tasks whose updates the server reports, if the listening stream carries them: since 2026-07-28.
    /// False: each needs a request.
    pub fn hear_of(&self, wanted: Wanted) -> bool {
        match self {
            Self::Streamable(session) if session.is_modern() => {
                session.hear_of(wanted);
                true
            }
            Self::Sse(_) | Self::Streamable(_) => false,
        }
    }

    /// The tasks whose changes the server reports since its listening stream was opened; `None` if it reports none.
    pub fn heard_tasks(&self) -> Option<watch::Receiver<BTreeSet<Arc<str>>>> {
        match self {
            Self::Streamable(session) if session.has_tasks() => Some(session.heard_tasks.subscribe()),
            Self::Sse(_) | Self::Streamable(_) => None,
        }
    }

    /// Whether the server can currently announce changes of its tools.
    pub fn hears(&self) -> bool {
        match self {
            Self::Sse(_) => true,
            Self::Streamable(session) => session.hears(),
        }
    }

    /// Closes connections to the server that have long been unused.
    pub fn tidy(&self) {
        self.core().pool.sweep();
    }

    /// Ends the session, if the transport has a way to. The caller sets the deadline.
    pub async fn close(&self) {
        if let Self::Streamable(session) = self {
            session.close().await;
        }
    }
}

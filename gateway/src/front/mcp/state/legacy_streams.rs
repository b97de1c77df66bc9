//! The streams of clients of 2024-11-05: what they send comes in by other requests, all answers go out on the stream.
//!
//! Here is the way onto each; its body is made by the handler of `GET /sse`.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::revision::Revision;
use portcullis_mcp::upstream::Mailbox;
use tokio::sync::mpsc;

use crate::front::mcp::messages::reply::Work;
use crate::front::mcp::state::server_requests::ScopedRequests;
use crate::seal::SessionKey;

/// Requests that may wait for that; each may be as long as a body.
const WAITING: usize = 16;

/// All open streams.
#[derive(Default)]
pub(crate) struct LegacyStreams(Mutex<HashMap<SessionKey, Arc<LegacyStream>>>);

/// The way onto one stream.
pub(crate) struct LegacyStream {
    jobs: mpsc::Sender<Job>,
    agreed: Mutex<Negotiated>,
}

/// The result of `initialize`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Negotiated {
    /// The revision.
    pub(crate) revision: Revision,
    /// The client's capabilities.
    pub(crate) capabilities: ClientCapabilities,
    /// The client's extensions.
    pub(crate) extensions: Extensions,
}

/// An item for a stream.
pub(crate) enum Job {
    /// The answer to `initialize`: from now on the client can be told of changes.
    Begun(Bytes),
    /// An event that is there already.
    Event(Bytes),
    /// A request that a server answers.
    Call(LegacyCall),
}

/// A request that a server answers, and how what comes before its answer is shown.
pub(crate) struct LegacyCall {
    /// The call itself.
    pub(crate) work: Work,
    /// Takes what comes before the answer; none: nothing that comes is wanted.
    pub(crate) mailbox: Option<Mailbox>,
    /// The client's own progress token, as JSON.
    pub(crate) progress_token: Option<String>,
    /// The least urgent log level that it wants.
    pub(crate) log_level: Option<usize>,
    /// Passes requests of the server to the client; none: it cannot be asked.
    pub(crate) requests: Option<ScopedRequests>,
}

/// Why nothing comes onto a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CannotTake {
    /// As many items wait as may wait.
    Full,
    /// It has ended, or is about to.
    Over,
}

// === impl LegacyStreams ===

impl LegacyStreams {
    /// Opens the stream of a session; what comes onto it.
    pub(crate) fn open(&self, session: SessionKey) -> mpsc::Receiver<Job> {
        let (sender, jobs) = mpsc::channel(WAITING);
        let (revision, capabilities) = (Revision::V2024_11_05, ClientCapabilities::NONE);
        let agreed = Negotiated { revision, capabilities, extensions: Extensions::default() };
        let channel = LegacyStream { jobs: sender, agreed: Mutex::new(agreed) };
        self.lock().insert(session, Arc::new(channel));
        jobs
    }

    /// Forgets the stream of a session.
    pub(crate) fn close(&self, session: &SessionKey) {
        self.lock().remove(session);
    }

    /// The stream of a session, if it is open here.
    pub(crate) fn of(&self, session: &SessionKey) -> Option<Arc<LegacyStream>> {
        self.lock().get(session).cloned()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<SessionKey, Arc<LegacyStream>>> {
        self.0.lock()
    }
}

// === impl LegacyStream ===

impl LegacyStream {
    /// The result of `initialize`; before it, the first revision of all.
    pub(crate) fn agreed(&self) -> Negotiated {
        self.agreed.lock().clone()
    }

    /// Remembers what was agreed upon.
    pub(crate) fn agree(&self, agreed: Negotiated) {
        *self.agreed.lock() = agreed;
    }

    /// Puts something onto the stream.
    ///
    /// # Errors
    /// [`CannotTake`].
    pub(crate) fn put(&self, job: Job) -> Result<(), CannotTake> {
        self.jobs.try_send(job).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CannotTake::Full,
            mpsc::error::TrySendError::Closed(_) => CannotTake::Over,
        })
    }
}

//! What the routes of `/mcp` share, and who asks in one request.

use std::sync::Arc;

use arc_swap::Guard;
use tokio::time::Instant;

use super::asking::Asking;
use super::changes::Changes;
use super::channel::Channels;
use super::live::{Live, SessionKey};
use super::owner::Owners;
use super::parking::Parking;
use super::streams::Streams;
use super::topics::{Follower, Topics};
use crate::catalog::{Catalog, Scope};
use crate::front::app::App;
use crate::front::head::Head;
use crate::front::routes::Recorder;
use crate::handle::Handle;
use crate::seal::{Session, SubjectId};

/// What the routes of `/mcp` share.
pub struct Mcp {
    /// Every open stream.
    pub streams: Arc<Streams>,
    /// The catalog that streams tell of.
    pub changes: Changes,
    /// Streams of clients of 2024-11-05.
    pub channels: Arc<Channels>,
    /// Who wants to hear of which resources.
    pub topics: Topics,
    /// What is known of other replicas.
    pub owners: Owners,
    /// What is remembered of sessions while they need it.
    pub live: Arc<Live>,
    /// What clients are asked.
    pub asking: Arc<Asking>,
    /// Calls that wait for their clients.
    pub parking: Parking,
}

impl Mcp {
    /// Ends a session for good.
    pub fn end(&self, session: SessionKey) {
        self.live.end(session);
        self.topics.forget(Follower::Session(session));
        self.streams.end(&session);
    }
}

/// What of all servers is asked, as the path says.
#[derive(Clone)]
pub enum Within {
    /// Everything: `/mcp`.
    All,
    /// The servers of one namespace: `/mcp/~NAMESPACE`.
    Namespace(Arc<str>),
    /// One server: `/mcp/NAME`, `/mcp/NAMESPACE/NAME`.
    Server(Arc<Handle>),
}

/// Who asks, and how.
#[derive(Clone)]
pub struct Caller {
    /// The request; takes what its log line is to say.
    pub recorder: Recorder,
    /// What of all servers is asked.
    pub within: Within,
    /// Who.
    pub subject: SubjectId,
    /// In which session.
    pub session: Option<Session>,
    /// Whether a stream of events may be the answer.
    pub takes_streams: bool,
}

impl Caller {
    /// What the routes share.
    pub fn app(&self) -> &Arc<App> {
        self.recorder.app()
    }

    /// What the request says.
    pub fn head(&self) -> &Head {
        self.recorder.head()
    }

    /// The newest catalog. To look into at once: who keeps it makes others slower.
    pub fn catalog(&self) -> Guard<Arc<Catalog>> {
        self.app().published.load()
    }

    /// When an answer that is not there goes on as a stream of events: never for a caller that takes none.
    pub fn goes_on_at(&self) -> Option<Instant> {
        let began = || Instant::from_std(self.recorder.began());
        self.takes_streams.then(|| began() + self.app().options.stream_after)
    }

    /// What of it is asked.
    pub fn scope(&self) -> Scope<'_> {
        self.within.scope()
    }
}

// === impl Within ===

impl Within {
    /// The same, to look into a catalog with.
    pub fn scope(&self) -> Scope<'_> {
        match self {
            Self::All => Scope::All,
            Self::Namespace(namespace) => Scope::Namespace(namespace),
            Self::Server(server) => Scope::Server(server),
        }
    }
}

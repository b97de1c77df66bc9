//! The caller of one request at `/mcp`, and the part of all servers that it asks for.

use std::ops::Deref;
use std::sync::Arc;

use arc_swap::Guard;
use portcullis_mcp::protocol::extensions::Extensions;
use tokio::time::Instant;

use crate::auth::{Identity, SubjectId};
use crate::catalog::{Catalog, Scope};
use crate::front::http::head::IncomingHead;
use crate::front::request::app::App;
use crate::front::request::observe::Recorder;
use crate::seal::SealedSession;
use crate::server::handle::Handle;

/// The servers that a path selects.
#[derive(Clone)]
pub(crate) enum Within {
    /// Everything: `/mcp`.
    All,
    /// The servers of one namespace: `/mcp/~NAMESPACE`.
    Namespace(Arc<str>),
    /// One server: `/mcp/NAME`, `/mcp/NAMESPACE/NAME`.
    Server(Arc<Handle>),
    /// What a view selects: `/mcp/_views/NAME`, `/mcp/_views/NAMESPACE/NAME`.
    View(Arc<str>),
}

/// The caller of one request, and how it asks.
#[derive(Clone)]
pub(crate) struct Caller {
    /// The request; takes what its log line is to say.
    pub(crate) recorder: Recorder,
    /// The servers that the path selects.
    pub(crate) within: Within,
    /// The subject of its token.
    pub(crate) subject: SubjectId,
    /// The bearer of its token.
    pub(crate) identity: Arc<Identity>,
    /// Its session.
    pub(crate) session: Option<SealedSession>,
    /// Its extensions: those of its session, or of its request since 2026-07-28.
    pub(crate) extensions: Extensions,
    /// Whether the request is one of 2026-07-28 or later.
    pub(crate) is_modern: bool,
    /// Whether a stream of events may be the answer.
    pub(crate) takes_streams: bool,
    /// The catalog with what servers list for it alone, where its request needs that.
    pub(crate) completed: Option<Arc<Catalog>>,
}

/// The catalog that a request looks into.
pub(crate) enum CurrentCatalog<'a> {
    /// That of all servers.
    Published(Guard<Arc<Catalog>>),
    /// The same with what servers list for the caller alone.
    Completed(&'a Arc<Catalog>),
    /// That of a view, which has its own; empty if the view is gone.
    View(Arc<Catalog>),
}

impl Deref for CurrentCatalog<'_> {
    type Target = Arc<Catalog>;

    fn deref(&self) -> &Arc<Catalog> {
        match self {
            Self::Published(catalog) => catalog,
            Self::Completed(catalog) => catalog,
            Self::View(catalog) => catalog,
        }
    }
}

impl Caller {
    /// The state of all routes.
    pub(crate) fn app(&self) -> &Arc<App> {
        self.recorder.app()
    }

    /// The head of the request.
    pub(crate) fn head(&self) -> &IncomingHead {
        self.recorder.head()
    }

    /// The newest catalog. To look into at once: a guard that is kept makes others slower.
    pub(crate) fn catalog(&self) -> CurrentCatalog<'_> {
        match &self.completed {
            None => self.within.catalog(self.app().published.load()),
            Some(catalog) => CurrentCatalog::Completed(catalog),
        }
    }

    /// The newest catalog as the caller sees it, for lists.
    pub(crate) fn seen_catalog(&self) -> Arc<Catalog> {
        self.catalog().seen_by(&self.identity)
    }

    /// When an answer that is not there goes on as a stream of events: never for a caller that takes none.
    pub(crate) fn goes_on_at(&self) -> Option<Instant> {
        let began = || Instant::from_std(self.recorder.began());
        self.takes_streams.then(|| began() + self.app().options.stream_after)
    }

    /// The part of the catalog that the path selects.
    pub(crate) fn scope(&self) -> Scope<'_> {
        self.within.scope()
    }
}

// === impl Within ===

impl Within {
    /// The catalog in which the path is looked up.
    pub(crate) fn catalog(&self, whole: Guard<Arc<Catalog>>) -> CurrentCatalog<'static> {
        match self {
            Self::View(name) => CurrentCatalog::View(self::view(&whole, name)),
            Self::All | Self::Namespace(_) | Self::Server(_) => CurrentCatalog::Published(whole),
        }
    }

    /// The same in a catalog that is kept.
    pub(crate) fn catalog_in(&self, whole: Arc<Catalog>) -> Arc<Catalog> {
        match self {
            Self::View(name) => self::view(&whole, name),
            Self::All | Self::Namespace(_) | Self::Server(_) => whole,
        }
    }

    /// The part of that catalog.
    pub(crate) fn scope(&self) -> Scope<'_> {
        match self {
            Self::All | Self::View(_) => Scope::All,
            Self::Namespace(namespace) => Scope::Namespace(namespace),
            Self::Server(server) => Scope::Server(server),
        }
    }
}

fn view(whole: &Catalog, name: &str) -> Arc<Catalog> {
    whole.view(name).cloned().unwrap_or_default()
}

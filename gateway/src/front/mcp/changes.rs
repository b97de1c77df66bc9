//! Tells every open stream of changes: of the catalog, at most four times a second, and of resources.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_crds::ServerKey;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::catalog::Catalog;
use crate::front::app::App;

/// Changes that come together are told as one.
pub const PAUSE: Duration = Duration::from_millis(250);

/// Changes of resources that may wait to be told; more are dropped.
pub const UPDATES: usize = 4_096;

/// How often it is looked for sessions that nobody listens to, and connections that nobody uses any more.
const TIDY: Duration = Duration::from_secs(60);

/// A resource of a server has changed.
pub type Update = (ServerKey, String);

/// The catalog that streams tell of: the newest, or one that is at most [`PAUSE`] old.
#[derive(Default)]
pub struct Changes {
    number: AtomicU64,
    catalog: ArcSwap<Catalog>,
}

impl Changes {
    /// Counts them.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// The catalog of this number, or of a later one.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.catalog.load_full()
    }

    fn take(&self, catalog: Arc<Catalog>) {
        self.catalog.store(catalog);
        self.number.fetch_add(1, Ordering::AcqRel);
    }
}

/// Tells of changes until `stop`, then ends all streams. `published` is notified of each new catalog.
pub async fn keep(
    app: Arc<App>,
    published: &Notify,
    mut updates: mpsc::Receiver<Update>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mcp = &app.mcp;
    let mut tidy = tokio::time::interval(TIDY);
    let mut due: Option<Instant> = None;
    let mut last = Instant::now().checked_sub(PAUSE).unwrap_or_else(Instant::now);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = published.notified() => due = due.or(Some((last + PAUSE).max(Instant::now()))),
            () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                (due, last) = (None, Instant::now());
                mcp.changes.take(app.published.load_full());
                mcp.topics.resolve(&mcp.changes.catalog());
                mcp.streams.wake_all();
            }
            Some((server, uri)) = updates.recv() => {
                for (uri, followers) in mcp.topics.followers(&server, &uri) {
                    mcp.streams.tell_updated(&uri, followers);
                }
            }
            _ = tidy.tick() => {
                mcp.topics.tidy(|session| mcp.streams.is_open(session));
                mcp.owners.tidy();
            }
        }
    }
    mcp.streams.end_all();
    mcp.parking.end_all();
}

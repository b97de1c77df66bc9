//! The shared context of all servers' tasks, and the commands to them.

use std::convert::Infallible;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use portcullis_access::Quotas;
use portcullis_crds::ServerKey;
use portcullis_mcp::guard::Guard;
use rustls::RootCertStore;
use tokio::sync::{Notify, Semaphore, mpsc};

use super::loops::Loops;
use super::status_changes::StatusChanges;
use crate::client_sessions::ClientInbox;
use crate::credentials::Credentials;
use crate::telemetry::metrics::Metrics;

/// What has changed at a server.
pub(crate) enum Update {
    /// The resource with this URI.
    Resource(ServerKey, String),
    /// A task: the `params` of its notification.
    Task(ServerKey, Bytes),
}

/// The context of every server's task.
pub(crate) struct ServerContext {
    /// The system's certificate authorities, read when the first https server needs them.
    pub(crate) roots: LazyLock<Arc<RootCertStore>>,
    /// The sources of credentials.
    pub(crate) credentials: Credentials,
    /// Decides which addresses servers may have.
    pub(crate) guard: Arc<Guard>,
    /// Messages above this many bytes are refused.
    pub(crate) max_message: usize,
    /// All metrics.
    pub(crate) metrics: Metrics,
    /// A server's items have changed: the catalog must be rebuilt.
    pub(crate) dirty: Notify,
    /// A new catalog was published.
    pub(crate) published: Notify,
    /// Receives changes of resources and tasks.
    pub(crate) updates: mpsc::Sender<Update>,
    /// Limits the servers that open a session: ten thousand must not do it in the same instant.
    pub(crate) handshakes: Semaphore,
    /// Servers whose status may have changed.
    pub(crate) touched: Arc<StatusChanges>,
    /// Delivers servers' requests to clients.
    pub(crate) inbox: Arc<dyn ClientInbox>,
    /// Servers that wait for their next attempt.
    pub(crate) away: AtomicU32,
    /// Detects servers that lead back to this gateway.
    pub(crate) loops: Arc<Loops>,
    /// Calls that were counted against the limits of policies.
    pub(crate) quotas: Arc<Quotas>,
}

/// The command to a server's task.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerCommand {
    /// The number of changes of its configuration.
    pub(crate) changes: u64,
    /// The task is to finish its calls and end.
    pub(crate) stop: bool,
}

/// The command for a task whose sender of commands is gone.
pub(super) const STOP: ServerCommand = ServerCommand { changes: 0, stop: true };

/// The pool waits until all of these are dropped: each is held during the first attempt of a server.
pub(crate) type FirstAttempt = mpsc::Sender<Infallible>;

/// Counts a server that waits for its next attempt.
pub(super) struct Away {
    all: Arc<ServerContext>,
    pub(super) number: u32,
}

impl Away {
    pub(super) fn count(all: &Arc<ServerContext>) -> Self {
        let number = all.away.fetch_add(1, Ordering::Relaxed) + 1;
        Self { all: all.clone(), number }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.all.away.fetch_sub(1, Ordering::Relaxed);
    }
}

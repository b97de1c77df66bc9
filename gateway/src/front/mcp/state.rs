//! Stores what this replica remembers for MCP clients. No store imports a handler.

use std::sync::Arc;

use crate::front::mcp::state::catalog_changes::CatalogChanges;
use crate::front::mcp::state::legacy_streams::LegacyStreams;
use crate::front::mcp::state::replicas::Replicas;
use crate::front::mcp::state::resource_subscriptions::{ResourceSubscriptions, Subscriber};
use crate::front::mcp::state::server_requests::ServerRequests;
use crate::front::mcp::state::sessions::SessionStore;
use crate::front::mcp::state::streams::Streams;
use crate::front::mcp::state::suspended_calls::SuspendedCalls;
use crate::front::mcp::state::task_subscriptions::TaskSubscriptions;
use crate::seal::SessionKey;

pub(crate) mod catalog_changes;
pub(crate) mod legacy_streams;
pub(crate) mod replicas;
pub(crate) mod resource_subscriptions;
pub(crate) mod server_requests;
pub(crate) mod sessions;
pub(crate) mod streams;
pub(crate) mod suspended_calls;
pub(crate) mod task_subscriptions;

/// The stores of `/mcp`.
pub(crate) struct Mcp {
    /// Every open stream.
    pub(crate) streams: Arc<Streams>,
    /// The catalog that streams tell of.
    pub(crate) catalog_changes: CatalogChanges,
    /// Streams of clients of 2024-11-05.
    pub(crate) legacy_streams: Arc<LegacyStreams>,
    /// The subscriptions to resources.
    pub(crate) resource_subscriptions: ResourceSubscriptions,
    /// The subscriptions to tasks.
    pub(crate) task_subscriptions: TaskSubscriptions,
    /// The other replicas.
    pub(crate) replicas: Replicas,
    /// The running requests and log levels of sessions.
    pub(crate) sessions: Arc<SessionStore>,
    /// The open requests of servers to clients.
    pub(crate) server_requests: Arc<ServerRequests>,
    /// Calls that wait for their clients.
    pub(crate) suspended_calls: SuspendedCalls,
}

impl Mcp {
    /// Ends a session for good.
    pub(crate) fn end(&self, session: SessionKey) {
        self.sessions.end(session);
        self.resource_subscriptions.forget(Subscriber::Session(session));
        self.streams.end(&session);
    }
}

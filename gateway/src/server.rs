//! One task for one server: connects, lists its items, checks its health, reconnects.
//!
//! The task ends only on command; whatever the server does is an event, never an error of the gateway.

mod adapt;
mod client_sessions;
pub(crate) mod concurrency_limit;
mod context;
pub(crate) mod farewells;
pub mod handle;
mod health;
mod lists;
pub(crate) mod loops;
mod opening;
pub(crate) mod problem;
mod serving;
pub(crate) mod status_changes;
mod subscribe;
pub(crate) mod subscriptions;
mod target;
mod task;

use std::time::Duration;

pub(crate) use self::adapt::limits;
pub(crate) use self::context::{FirstAttempt, ServerCommand, ServerContext, Update};
pub(crate) use self::target::target_of;
pub(crate) use self::task::run;

/// Between checks of a server that failed the last check, or whose calls fail.
pub(crate) const RECHECK: Duration = Duration::from_millis(500);

/// The limit for servers that connect at the same time.
pub(crate) const HANDSHAKES: usize = 256;

/// Between two searches for connections that will not be used again.
pub(crate) const TIDY: Duration = Duration::from_secs(5);

//! Serves an open session: applies changes of the configuration, replaces the session if it cannot adopt them, and ends
//! it.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portcullis_mcp::upstream::connect::Spoken;
use portcullis_mcp::upstream::{Connected, End, ServerCapabilities, Session, SessionHeaders};
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{info, warn};

use super::adapt::{self, Adapted};
use super::context::STOP;
use super::handle::{Handle, Phase};
use super::opening::NewSession;
use super::problem::ServerProblem;
use super::task::{Task, credentials_again, far_away};
use crate::util::backoff::HEALTHY_AFTER;

/// The limit for closing a session.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// The end of a session.
pub(super) enum SessionEnd {
    Ended(End),
    Unhealthy,
    /// The server leads back to this gateway.
    Loop,
    Changed,
    /// The credentials must not be sent any more.
    Revoked(ServerProblem),
    Stopped,
}

impl SessionEnd {
    /// The minimum lifetime of a session after which the next is opened at once.
    pub(super) fn earns_quick_reconnect_after(&self) -> Duration {
        match self {
            Self::Changed | Self::Stopped => Duration::ZERO,
            // Calls wait for the new session, so it must come soon; but not in a loop.
            Self::Ended(End::Expired) => Duration::from_secs(1),
            Self::Ended(_) | Self::Unhealthy | Self::Loop | Self::Revoked(_) => HEALTHY_AFTER,
        }
    }
}

/// Sessions that take no new calls and finish the running ones.
type Retiring = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// Lets running calls finish, then closes the session.
async fn finish(handle: Arc<Handle>, mut connected: Connected) {
    let limit = Duration::from_secs(handle.spec().timeouts.request_seconds.into());
    tokio::select! {
        _ = timeout(limit, handle.drained()) => {}
        _ = &mut connected.attend => return,
    }
    close(connected).await;
}

/// Closes a session, and stops reading from it meanwhile.
pub(super) async fn close(connected: Connected) {
    let goodbye = async { tokio::join!(connected.session.close(), async { drop(connected.attend) }) };
    let _ = timeout(CLOSE_LIMIT, goodbye).await;
}

impl Task {
    pub(super) async fn serve(&mut self, mut opened: NewSession) -> SessionEnd {
        let mut retiring = Retiring::new();
        self.opened(&mut opened);
        self.first = None;
        let mut again = None;
        loop {
            let mut seen = self.seen;
            let mut over = self.follow(&mut opened, &mut retiring, &mut seen, again).await;
            self.seen = seen;
            if let SessionEnd::Changed = over {
                match Box::pin(self.replace(&mut opened, &mut retiring)).await {
                    Ok(renewed) => {
                        again = (!renewed).then(credentials_again);
                        continue;
                    }
                    Err(end) => over = end,
                }
            }
            match over {
                SessionEnd::Stopped => {
                    self.handle.shut();
                    retiring.push(Box::pin(finish(self.handle.clone(), opened.connected)));
                    while retiring.next().await.is_some() {}
                    return SessionEnd::Stopped;
                }
                SessionEnd::Revoked(trouble) => {
                    self.handle.shut();
                    // Running calls keep the session, but it no longer sends the value, not even when it closes.
                    opened.connected.session.set_headers(SessionHeaders::default());
                    return SessionEnd::Revoked(trouble);
                }
                over => return over,
            }
        }
    }

    /// Opens a session with changed credentials while the old one still serves; if that fails, the old one stays.
    /// Returns whether there is a new one, or how the old one ended.
    pub(super) async fn replace(
        &mut self,
        opened: &mut NewSession,
        retiring: &mut Retiring,
    ) -> Result<bool, SessionEnd> {
        let (mut orders, mut seen) = (self.orders.clone(), self.seen);
        let (handle, shared) = (self.handle.clone(), self.shared.clone());
        let tried = shared.credentials.resolve(&handle.spec());
        let outcome = {
            let mut opening = std::pin::pin!(self.open());
            loop {
                let order = tokio::select! {
                    end = &mut opened.connected.attend => return Err(SessionEnd::Ended(end)),
                    outcome = &mut opening => break outcome,
                    order = orders.wait_for(|order| order.stop || order.changes != seen) => {
                        order.map_or(STOP, |order| *order)
                    }
                };
                if order.stop {
                    return Err(SessionEnd::Stopped);
                }
                seen = order.changes;
                // The old session continues meanwhile, and the new one may take a while to open.
                match adapt::adapt(&handle, &shared, &opened.connected.session, &mut opened.resolved) {
                    Adapted::Revoked(trouble) => return Err(SessionEnd::Revoked(trouble)),
                    // The next `follow` starts over.
                    _ if shared.credentials.resolve(&handle.spec()) != tried => return Ok(true),
                    _ => {}
                }
            }
        };
        match outcome {
            Ok(mut new) => {
                self.handle.count_reconnect("changed");
                self.opened(&mut new);
                let old = std::mem::replace(opened, new);
                retiring.push(Box::pin(finish(self.handle.clone(), old.connected)));
                Ok(true)
            }
            Err(trouble) if trouble.is_revocation() => Err(SessionEnd::Revoked(trouble)),
            Err(trouble) => {
                warn!(server = %self.handle.name, problem = %trouble, "changed credentials do not work; the previous ones stay in use");
                self.handle.update_status(|status| status.note(&trouble));
                Ok(false)
            }
        }
    }

    /// Applies changes of the configuration until the session ends or must end. `again`: when to check the credentials
    /// once more without a change.
    pub(super) async fn follow(
        &self,
        opened: &mut NewSession,
        retiring: &mut Retiring,
        seen: &mut u64,
        mut again: Option<Instant>,
    ) -> SessionEnd {
        let NewSession { connected, resolved, spec } = opened;
        let session = connected.session.clone();
        let mut orders = self.orders.clone();
        // One future for all changes: a change must not make it lose pending work. With its own waker: each answer on
        // the stream wakes this task, which need not poll all these waits.
        let mut watching = FuturesUnordered::from_iter([Box::pin(self.watch(&session, connected.capabilities))]);
        loop {
            let order = tokio::select! {
                biased;
                end = &mut connected.attend => return SessionEnd::Ended(end),
                order = orders.wait_for(|order| order.stop || order.changes != *seen) => {
                    order.map_or(STOP, |order| *order)
                }
                Some(()) = retiring.next() => continue,
                Some(over) = watching.next() => return over,
                () = sleep_until(again.unwrap_or_else(far_away)), if again.is_some() => *self.orders.borrow(),
            };
            *seen = order.changes;
            if order.stop {
                return SessionEnd::Stopped;
            }
            again = match adapt::adapt(&self.handle, &self.shared, &session, resolved) {
                Adapted::Kept => None,
                Adapted::Troubled => Some(credentials_again()),
                Adapted::Outdated => return SessionEnd::Changed,
                Adapted::Revoked(trouble) => return SessionEnd::Revoked(trouble),
            };
            let before = std::mem::replace(spec, self.handle.spec());
            if before.health_check != spec.health_check {
                // The server would use the previous configuration for a long time.
                self.handle.notices.suspect.notify_one();
            }
        }
    }

    pub(super) fn opened(&self, opened: &mut NewSession) {
        let NewSession { connected, resolved, spec } = opened;
        let now = self.handle.spec();
        if !Arc::ptr_eq(spec, &now) {
            // No call may use the configuration of the start of the opening. The consequences for the session itself
            // are handled by `follow`.
            let _ = adapt::adapt(&self.handle, &self.shared, &connected.session, resolved);
        }
        let number = self.handle.open(connected.session.clone(), &now);
        self.handle.alive();
        let transport = match connected.spoken {
            Spoken::Sse => "sse",
            Spoken::Streamable | Spoken::Modern => "streamable-http",
        };
        self.handle.update_status(|status| {
            status.phase = Phase::Ready;
            status.transport = Some(transport);
            status.protocol_version = Some(connected.version.clone());
            status.server_info = connected.server_info.clone();
            status.instructions = connected.instructions.clone();
            status.clear(|_| true);
        });
        let offer = self.handle.offer();
        let (tools, prompts, resources) = (offer.tools.len(), offer.prompts.len(), offer.resources.len());
        info!(server = %self.handle.name, transport, version = %connected.version, tools, prompts, resources, session = number, "server is ready");
        self.shared.dirty.notify_one();
    }

    /// Reads changed lists, keeps subscriptions, says farewells, and checks the health, until the server is unhealthy.
    pub(super) async fn watch(&self, session: &Session, capabilities: ServerCapabilities) -> SessionEnd {
        tokio::select! {
            over = self.keep_lists(session, capabilities) => match over {},
            over = self.keep_subscribed(session, capabilities) => match over {},
            over = self.handle.farewells.send() => match over {},
            over = self.keep_healthy(session) => over,
        }
    }
}

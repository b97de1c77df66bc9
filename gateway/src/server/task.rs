//! The lifecycle of one server: opens a session, serves it until it ends, waits, and repeats until the task is told to
//! stop.

use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::mcpserver::ServingState;
use portcullis_crds::{Reason, Server};
use portcullis_mcp::upstream::connect::Spoken;
use portcullis_mcp::upstream::{ConnectError, End};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::client_sessions;
use super::context::{Away, FirstAttempt, ServerCommand, ServerContext, Update};
use super::handle::{Handle, Phase};
use super::opening::Attempted;
use super::problem::ServerProblem;
use super::serving::SessionEnd;
use crate::credentials::CredentialError;
use crate::secrets::Resolved;
use crate::util::backoff;

/// The offer of an unavailable server stays listed for this long, so that lists do not flap.
pub(crate) const LIST_GRACE: Duration = Duration::from_secs(30);

/// Calls may wait for a session from this attempt, which comes within half a second, but not from a later one.
const LAST_QUICK_ATTEMPT: u32 = 1;

/// The delay before unusable credentials are checked again without a notice of change.
const CREDENTIALS_AGAIN: Duration = Duration::from_secs(10);

/// The task of one server.
pub(super) struct Task {
    pub(super) handle: Arc<Handle>,
    pub(super) shared: Arc<ServerContext>,
    pub(super) orders: watch::Receiver<ServerCommand>,
    /// The number of configuration changes that the task has applied.
    pub(super) seen: u64,
    pub(super) spoken: Option<Spoken>,
    /// The server supports 2026-07-28 in name only, and works with `initialize`.
    pub(super) is_modern_in_name: bool,
    pub(super) attempts: u32,
    /// The start of the current trouble: sessions that end soon after their opening do not end it.
    pub(super) troubled: Option<Instant>,
    pub(super) first: Option<FirstAttempt>,
    /// The list of resources has been read again.
    pub(super) resources_read: Notify,
    /// The configuration and credentials of the last attempt.
    pub(super) tried: Option<(Arc<Server>, Result<Resolved, CredentialError>)>,
}

/// Runs one server until it is told to stop, then until its calls have finished or their time is over. `first` is
/// dropped after the first attempt to open a session.
pub(crate) async fn run(
    handle: Arc<Handle>,
    shared: Arc<ServerContext>,
    orders: watch::Receiver<ServerCommand>,
    first: Option<FirstAttempt>,
) {
    let clients = handle.clients().cloned();
    let clients = clients.map(|clients| client_sessions::run(handle.clone(), clients, shared.clone(), orders.clone()));
    let task = Task {
        handle: handle.clone(),
        shared,
        orders,
        resources_read: Notify::new(),
        seen: 0,
        spoken: None,
        is_modern_in_name: false,
        attempts: 0,
        troubled: None,
        first,
        tried: None,
    };
    let running = async {
        task.run().await;
        handle.shut();
    };
    match clients {
        None => running.await,
        // Boxed, so that servers without client sessions do not reserve space for them.
        Some(clients) => drop(Box::pin(async { tokio::join!(running, clients) }).await),
    }
}

impl Task {
    async fn run(mut self) {
        if self.handle.spec().state == ServingState::Disabled {
            self.first = None;
            let _ = self.orders.wait_for(|order| order.stop).await;
            return;
        }
        self.hear_updates();
        // Tools kept over a restart are listed only for the grace period.
        let mut away_since = self.handle.is_fresh().then(Instant::now);
        while !self.orders.borrow().stop {
            self.seen = self.orders.borrow().changes;
            let opened = match self.open_as_configured().await {
                Attempted::Stopped => return,
                Attempted::Outdated => continue,
                Attempted::Ended(opened) => *opened,
            };
            match opened {
                Err(trouble) => {
                    self.note_failure(&trouble);
                    // A server that only waits for the API server to deliver its Secrets has not been tried.
                    if trouble.reason() != Reason::Probing {
                        self.first = None;
                    }
                }
                Ok(opened) => {
                    let opened_at = Instant::now();
                    let over = self.serve(opened).await;
                    if opened_at.elapsed() >= over.earns_quick_reconnect_after() {
                        (self.attempts, self.troubled) = (0, None);
                    }
                    // The server rejects each call with the forgotten session, and rejected calls wait for the next
                    // session: without any session, calls that arrive meanwhile would fail.
                    let is_forgotten = matches!(over, SessionEnd::Ended(End::Expired));
                    if !is_forgotten || self.attempts > LAST_QUICK_ATTEMPT {
                        self.handle.shut();
                    }
                    self.end(&over);
                    if let SessionEnd::Stopped = over {
                        return;
                    }
                    away_since = Some(Instant::now());
                }
            }
            if self.pause(away_since).await {
                return;
            }
        }
    }

    /// Forwards its sessions' updates of single resources and tasks.
    fn hear_updates(&self) {
        let (key, updates) = (self.handle.key.clone(), self.shared.updates.clone());
        let pass_on = move |uri| updates.try_send(Update::Resource(key.clone(), uri)).is_ok();
        let _ = self.handle.notices.updated.set(Box::new(pass_on));
        let (key, updates) = (self.handle.key.clone(), self.shared.updates.clone());
        let pass_on = move |params| updates.try_send(Update::Task(key.clone(), params)).is_ok();
        let _ = self.handle.notices.tasks.set(Box::new(pass_on));
    }

    /// Waits before the next attempt; true if the task is told to stop meanwhile.
    async fn pause(&mut self, away_since: Option<Instant>) -> bool {
        let troubled = *self.troubled.get_or_insert_with(Instant::now);
        let away = Away::count(&self.shared);
        let outage = backoff::Outage { attempt: self.attempts, lasts: troubled.elapsed(), away: away.number };
        let pause = backoff::reconnect(outage, backoff::random());
        let lacks_credentials = matches!(self.tried, Some((_, Err(_))));
        let until = Instant::now() + if lacks_credentials { pause.min(CREDENTIALS_AGAIN) } else { pause };
        self.attempts = self.attempts.saturating_add(1);
        let mut seen = self.seen;
        let mut orders = self.orders.clone();
        loop {
            let unlist_at = away_since.map_or_else(far_away, |since| since + LIST_GRACE);
            tokio::select! {
                changed = orders.wait_for(|order| order.stop || order.changes != seen) => {
                    let Ok(order) = changed.map(|order| *order) else { return true };
                    if order.stop || self.tries_something_new() {
                        return order.stop;
                    }
                    seen = order.changes;
                }
                () = sleep_until(unlist_at), if self.handle.is_fresh() => self.unlist(),
                () = sleep_until(until) => return false,
            }
        }
    }

    /// Whether an attempt now would differ from the last: changes of unrelated Secrets are no reason to hurry.
    fn tries_something_new(&self) -> bool {
        let spec = self.handle.spec();
        let tried = |(with, resolved): &(Arc<Server>, Result<Resolved, CredentialError>)| {
            Arc::ptr_eq(with, &spec) && *resolved == self.shared.credentials.resolve(&spec)
        };
        !self.tried.as_ref().is_some_and(tried)
    }

    fn end(&self, over: &SessionEnd) {
        self.shared.loops.note(&self.handle.key, None);
        let (reason, trouble) = match over {
            SessionEnd::Ended(End::Closed) => ("closed", ServerProblem::Closed),
            SessionEnd::Ended(End::Expired) => ("expired", ServerProblem::Forgotten),
            SessionEnd::Ended(End::Broken(why)) => ("broken", ServerProblem::Broken(why)),
            SessionEnd::Unhealthy => ("unhealthy", ServerProblem::Unhealthy),
            SessionEnd::Loop => ("broken", ServerProblem::Connect(ConnectError::Loop)),
            SessionEnd::Revoked(trouble) => ("revoked", trouble.clone()),
            SessionEnd::Changed | SessionEnd::Stopped => return,
        };
        if self.handle.is_retired() {
            return;
        }
        self.handle.count_reconnect(reason);
        warn!(server = %self.handle.name, problem = %trouble, "session ended");
        self.handle.update_status(|status| {
            status.phase = Phase::Backoff;
            status.note(&trouble);
        });
    }
}

pub(super) fn credentials_again() -> Instant {
    Instant::now() + CREDENTIALS_AGAIN
}

pub(super) fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(86_400 * 365)
}

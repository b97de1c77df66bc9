//! Opens a session with a server, in its turn, and reads its lists.

use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::{Reason, Server};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::connect::Spoken;
use portcullis_mcp::upstream::{ConnectError, Connected, End, LoopGuard as _, Session, Target, connect};
use tokio::time::timeout;
use tracing::warn;

use super::adapt;
use super::context::STOP;
use super::handle::{Lists, Phase};
use super::problem::ServerProblem;
use super::serving::close;
use super::target::target_of;
use super::task::Task;
use crate::secrets::Resolved;

/// A slower handshake gives up its turn: a thousand servers that do not answer must not delay those that do.
const HANDSHAKE_TURN: Duration = Duration::from_millis(250);

/// The result of an attempt to open a session.
pub(super) enum Attempted {
    Ended(Box<Result<NewSession, ServerProblem>>),
    /// The attempt used credentials that have been replaced.
    Outdated,
    Stopped,
}

/// A new session and the configuration at its opening, which may have changed meanwhile.
pub(super) struct NewSession {
    pub(super) connected: Connected,
    pub(super) resolved: Resolved,
    pub(super) spec: Arc<Server>,
}

impl Task {
    /// Opens a session. Meanwhile, changes still reach the previous session, which calls may use; and an attempt that
    /// would send outdated settings is abandoned.
    pub(super) async fn open_as_configured(&mut self) -> Attempted {
        let (mut orders, mut seen) = (self.orders.clone(), self.seen);
        let (handle, shared) = (self.handle.clone(), self.shared.clone());
        let mut tried = shared.credentials.resolve(&handle.spec());
        let mut opening = std::pin::pin!(self.open());
        loop {
            let order = tokio::select! {
                biased;
                order = orders.wait_for(|order| order.stop || order.changes != seen) => order.map_or(STOP, |order| *order),
                opened = &mut opening => return Attempted::Ended(Box::new(opened)),
            };
            if order.stop {
                return Attempted::Stopped;
            }
            seen = order.changes;
            adapt::adapt_left_over(&handle, &shared);
            let now = shared.credentials.resolve(&handle.spec());
            if std::mem::replace(&mut tried, now) != tried {
                return Attempted::Outdated;
            }
        }
    }

    /// Opens a session and lists the server's tools, in its turn.
    pub(super) async fn open(&mut self) -> Result<NewSession, ServerProblem> {
        let shared = self.shared.clone();
        let turn = shared.handshakes.acquire().await;
        // Boxed, so that the task of an open session does not reserve space for handshakes; so are the rare cases
        // below. There are thousands of these tasks.
        let mut attempt = Box::pin(self.attempt());
        if let Ok(outcome) = timeout(HANDSHAKE_TURN, &mut attempt).await {
            return outcome;
        }
        drop(turn);
        attempt.await
    }

    pub(super) async fn attempt(&mut self) -> Result<NewSession, ServerProblem> {
        let spec = self.handle.spec();
        let resolved = self.shared.credentials.resolve(&spec);
        self.tried = Some((spec.clone(), resolved.clone()));
        let resolved = resolved?;
        // Some tools exist only for clients with certain capabilities.
        let capabilities =
            if spec.session.is_shared() { ClientCapabilities::NONE } else { ClientCapabilities::EVERYTHING };
        let declared = (capabilities, Extensions::of_lists());
        let target = target_of(&self.shared, &spec, &resolved, declared)?;
        let before = self.spoken.or(self.is_modern_in_name.then_some(Spoken::Streamable));
        let (mut connected, mut listed) = self.open_as(&target, before).await?;
        if connected.spoken == Spoken::Modern
            && target.pinned.is_none()
            && (listed.is_err() || connected.session.wants_a_session().await)
            && let Ok((older, Ok(lists))) = Box::pin(self.open_as(&target, Some(Spoken::Streamable))).await
        {
            self.is_modern_in_name = true;
            (connected, listed) = (older, Ok(lists));
        }
        match listed {
            // It may have connected to this gateway meanwhile.
            Ok(_) if self.leads_back(&connected.session) => {
                close(connected).await;
                Err(ServerProblem::Connect(ConnectError::Loop))
            }
            Ok(lists) => {
                self.spoken = Some(connected.spoken);
                if let Some(clients) = self.handle.clients() {
                    clients.note_spoken(self.spoken);
                }
                self.handle.set_software(connected.server_info.as_ref().map(|(name, _)| name.as_str()));
                self.handle.set_declared(connected.extensions.clone());
                self.publish(lists, connected.capabilities).await;
                Ok(NewSession { connected, resolved, spec })
            }
            Err(problem) => {
                // Each attempt opens a session; none may be left open.
                close(connected).await;
                Err(problem)
            }
        }
    }

    /// Whether the server has reported meanwhile that it leads back to this gateway. Records the report.
    pub(super) fn leads_back(&self, session: &Session) -> bool {
        let told = session.instances();
        let leads_back = told.as_ref().is_some_and(|told| self.shared.loops.leads_back(told));
        self.shared.loops.note(&self.handle.key, told.filter(|_| !leads_back));
        leads_back
    }

    /// Opens a session with a server whose transport was detected before, and reads its lists.
    pub(super) async fn open_as(
        &mut self,
        target: &Target,
        before: Option<Spoken>,
    ) -> Result<(Connected, Result<Lists, ServerProblem>), ServerProblem> {
        let outcome = connect(target, before, &self.handle.notices).await;
        let mut connected = outcome.map_err(|error| {
            // The next attempt detects the transport again, unless the server was merely unreachable.
            if !matches!(error, ConnectError::Unreachable(_) | ConnectError::Blocked(_)) {
                self.spoken = None;
                self.is_modern_in_name &= !error.tells_of_another_way();
            }
            ServerProblem::Connect(error)
        })?;
        let listed = tokio::select! {
            listed = self.first_lists(&connected.session, connected.capabilities) => {
                listed.map_err(ServerProblem::List)
            }
            end = &mut connected.attend => Err(match end {
                End::Broken(why) => ServerProblem::ListBroken(why),
                End::Closed | End::Expired => ServerProblem::ListEnded,
            }),
        };
        Ok((connected, listed))
    }

    pub(super) fn note_failure(&self, trouble: &ServerProblem) {
        self.handle.shut();
        // Until its Secrets are known to exist or not, nothing has failed.
        let waits = trouble.reason() == Reason::Probing;
        if !waits {
            self.handle.count_reconnect("connect_failed");
            let problem = trouble.to_string();
            if self.handle.status().last_error.as_ref() != Some(&problem) {
                warn!(server = %self.handle.name, problem, "server is not available");
            }
        }
        self.handle.update_status(|status| {
            status.phase = if waits { Phase::Connecting } else { Phase::Backoff };
            status.note(trouble);
        });
    }
}

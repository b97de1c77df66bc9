//! Checks a server's health: periodically, and when its calls fail.

use std::time::Duration;

use portcullis_crds::Reason;
use portcullis_crds::mcpserver::HealthMode;
use portcullis_mcp::upstream::{CallError, End, Session};
use tokio::time::sleep;

use super::RECHECK;
use super::adapt::is_about_credentials;
use super::handle::Phase;
use super::problem::ServerProblem;
use super::serving::SessionEnd;
use super::task::Task;
use crate::util::backoff;

/// The result of a health check.
enum Health {
    Good,
    Bad,
    /// The server has forgotten the session: no further check can succeed.
    Forgotten,
}

impl Task {
    /// Returns when the server is lost.
    pub(super) async fn keep_healthy(&self, session: &Session) -> SessionEnd {
        let (mut bad, mut good) = (0, 0);
        loop {
            let check = self.handle.spec().health_check;
            let interval = backoff::jittered(Duration::from_secs(check.interval_seconds.into()));
            let suspected = tokio::select! {
                () = self.handle.notices.suspect.notified(), if bad == 0 => true,
                () = sleep(if bad == 0 { interval } else { RECHECK }) => bad > 0,
            };
            let passive = check.mode == HealthMode::Passive && !suspected;
            let fresh = passive || (!suspected && self.handle.since_success() < interval);
            let health = if fresh { Health::Good } else { Box::pin(self.check(session, check.mode)).await };
            if self.leads_back(session) {
                return SessionEnd::Loop;
            }
            match health {
                Health::Good => {
                    (bad, good) = (0, good + 1);
                    if good >= u32::from(check.healthy_threshold) {
                        self.set_phase(Phase::Ready);
                    }
                    if suspected {
                        // Its calls fail though it lives: not every failure needs a check.
                        sleep(RECHECK).await;
                    }
                }
                Health::Bad => {
                    (bad, good) = (bad + 1, 0);
                    self.set_phase(Phase::Degraded);
                    // The check may have taken long.
                    if bad >= u32::from(self.handle.spec().health_check.unhealthy_threshold) {
                        return SessionEnd::Unhealthy;
                    }
                }
                Health::Forgotten => return SessionEnd::Ended(End::Expired),
            }
        }
    }

    async fn check(&self, session: &Session, mode: HealthMode) -> Health {
        match session.check(mode == HealthMode::ListTools).await {
            Ok(()) => {
                self.handle.alive();
                Health::Good
            }
            Err(CallError::SessionExpired) => Health::Forgotten,
            Err(error) => {
                self.handle.update_status(|status| status.note(&ServerProblem::Check(error)));
                Health::Bad
            }
        }
    }

    fn set_phase(&self, phase: Phase) {
        self.handle.update_status(|status| {
            status.phase = phase;
            if phase == Phase::Ready {
                status.clear(|reason| !is_about_credentials(reason) && reason != Reason::ListFailed);
            }
        });
    }
}

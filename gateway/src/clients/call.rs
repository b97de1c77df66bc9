//! One call in the session that its client has with a server, opened if need be, within the call's deadline.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use tokio::time::Instant;

use super::{Clients, Refused};
use crate::call::{Failure, Request, send};
use crate::catalog::Candidate;
use crate::upstream::timing::Timing;
use crate::upstream::{CallError, Reply};

/// Attempts to open a session may take so many times the limit of one step: it has several.
const STEPS: u32 = 4;

/// Makes the call.
///
/// # Errors
/// Why it has no answer.
pub async fn attempt(
    clients: &Arc<Clients>,
    candidate: &Candidate,
    call: &Request<'_>,
    headers: &HeaderMap,
    timing: &Arc<Timing>,
) -> Result<Reply, Failure> {
    const GOING: Failure = Failure::Server(CallError::NotSent("it is being taken out of use"));
    let (key, spec) = (call.client.key(), candidate.server.spec());
    let step = Duration::from_secs(spec.timeouts.connect_seconds.into());
    if let Some(mailbox) = call.mailbox {
        mailbox.times(timing);
    }
    let mut healed = false;
    loop {
        let lease = clients.lease(&key, spec.client_sessions).map_err(|refused| match refused {
            Refused::Lost => Failure::SessionLost,
            Refused::Full => Failure::TooManySessions,
            Refused::Shut => GOING,
        })?;
        let deadline = timing.deadline().min(Instant::now() + STEPS * step);
        let session = lease.session(deadline).await.map_err(Failure::Server)?;
        let _listening = call.mailbox.map(|mailbox| lease.line.listens(mailbox));
        if let Some(level) = call.caller.log_level {
            lease.line.tell_level(level).await;
        }
        match send(&session, candidate, call, headers, timing).await {
            Ok(reply) => {
                lease.line.answered();
                return Ok(reply);
            }
            Err(CallError::SessionExpired) => {
                lease.forgotten();
                if lease.line.holds_state() {
                    return Err(Failure::SessionLost);
                }
                if std::mem::replace(&mut healed, true) {
                    return Err(Failure::Server(CallError::SessionExpired));
                }
            }
            Err(error) => {
                if error.lies_with_the_server() {
                    lease.line.suspect();
                }
                return Err(Failure::Server(error));
            }
        }
    }
}

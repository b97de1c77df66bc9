//! Makes one call in its client's own session with a server, opened on demand, within the call's deadline.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::call::{CallHeaders, Failure, Request, send};
use crate::catalog::Candidate;
use crate::client_sessions::{Clients, Refused};
use portcullis_mcp::upstream::timing::Timing;
use portcullis_mcp::upstream::{CallError, Reply};

/// Opening a session may take this many times the limit of one step: it has several.
const STEPS: u32 = 4;

/// Makes the call.
///
/// # Errors
/// The reason the call has no answer.
pub(crate) async fn attempt(
    clients: &Arc<Clients>,
    candidate: &Candidate,
    call: &Request<'_>,
    headers: &CallHeaders,
    timing: &Arc<Timing>,
) -> Result<Reply, Failure> {
    const GOING: Failure = Failure::Server(CallError::NotSent("it is being taken out of service"));
    let (key, spec) = (call.client.key(), candidate.server.spec());
    let step = Duration::from_secs(spec.timeouts.connect_seconds.into());
    if let Some(mailbox) = call.mailbox {
        mailbox.times(timing);
    }
    let mut healed = false;
    loop {
        let lease = clients.lease((&key, call.extensions), spec.client_sessions).map_err(|refused| match refused {
            Refused::Lost => Failure::SessionLost,
            Refused::Full => Failure::TooManySessions,
            Refused::Shut => GOING,
        })?;
        let deadline = timing.deadline().min(Instant::now() + STEPS * step);
        let session = lease.session(deadline).await.map_err(Failure::Server)?;
        let _listening = call.mailbox.map(|mailbox| lease.client_session.listens(mailbox));
        if let Some(level) = call.caller.log_level {
            lease.client_session.tell_level(level).await;
        }
        match send(&session, candidate, call, headers, timing).await {
            Ok(reply) => {
                lease.client_session.answered();
                return Ok(reply);
            }
            Err(CallError::SessionExpired) => {
                lease.forgotten();
                if lease.client_session.holds_state() {
                    return Err(Failure::SessionLost);
                }
                if std::mem::replace(&mut healed, true) {
                    return Err(Failure::Server(CallError::SessionExpired));
                }
            }
            Err(error) => {
                if error.lies_with_the_server() {
                    lease.client_session.suspect();
                }
                return Err(Failure::Server(error));
            }
        }
    }
}

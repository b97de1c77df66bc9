//! Applies a changed configuration to an open session: the session adopts what it can at once.

use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::conditions::ConditionType;
use portcullis_crds::{Reason, Server};
use tracing::warn;

use super::context::ServerContext;
use super::target::{tls, url_of};
use crate::secrets::Resolved;
use crate::server::handle::Handle;
use crate::server::problem::ServerProblem;
use portcullis_mcp::upstream::Session;

/// The effect on the session.
pub(super) enum Adapted {
    /// The session continues.
    Kept,
    /// The session continues unchanged, because the new configuration is unusable.
    Troubled,
    /// The session needs a successor.
    Outdated,
    /// The session must end.
    Revoked(ServerProblem),
}

/// Which sessions can use changed credentials.
pub(super) enum Credentials {
    /// All: only headers differ.
    OfOpenSessions(Resolved),
    /// Those with new connections: the settings of TLS differ.
    OfNewConnections(Resolved),
}

/// Why changed credentials cannot be used.
pub(super) enum Unusable {
    /// The previous ones must not be sent any more either.
    Revoked(ServerProblem),
    /// The previous ones stay in use until a connection needs the new ones.
    Faulty(ServerProblem),
}

/// Applies a changed configuration to an open session as far as possible. `used`: the settings that it sends.
pub(super) fn adapt(handle: &Handle, shared: &ServerContext, session: &Session, used: &mut Resolved) -> Adapted {
    let spec = handle.spec();
    let adapted = adapt_to(&spec, handle, shared, session, used);
    if !matches!(adapted, Adapted::Revoked(_)) {
        handle.note_sent(&spec);
    }
    adapted
}

fn adapt_to(
    spec: &Arc<Server>,
    handle: &Handle,
    shared: &ServerContext,
    session: &Session,
    used: &mut Resolved,
) -> Adapted {
    let (connect, idle) = limits(spec);
    session.set_limits(connect, idle);
    match changed_credentials(shared, spec, used) {
        Ok(Credentials::OfOpenSessions(new)) => {
            session.set_headers(new.headers.clone());
            *used = new;
            handle.update_status(|status| status.clear(is_about_credentials));
            Adapted::Kept
        }
        Ok(Credentials::OfNewConnections(new)) => match url_of(spec).and_then(|url| tls(shared, &url, &new)) {
            Ok(_) => {
                // The successor may take a while to open.
                session.set_headers(new.headers.clone());
                used.take_headers_of(new);
                Adapted::Outdated
            }
            Err(trouble) => keep_the_last_good(handle, Unusable::of(trouble, shared, used)),
        },
        Err(unusable) => keep_the_last_good(handle, unusable),
    }
}

/// Resolves the credentials of a server whose open sessions send `used`.
pub(super) fn changed_credentials(
    shared: &ServerContext,
    spec: &Server,
    used: &Resolved,
) -> Result<Credentials, Unusable> {
    match shared.credentials.resolve(spec) {
        Ok(new) if new.tls == used.tls => Ok(Credentials::OfOpenSessions(new)),
        Ok(new) => Ok(Credentials::OfNewConnections(new)),
        Err(error) => Err(Unusable::of(error.into(), shared, used)),
    }
}

impl Unusable {
    fn of(trouble: ServerProblem, shared: &ServerContext, used: &Resolved) -> Self {
        if trouble.is_revocation() {
            return Self::Revoked(trouble);
        }
        match shared.credentials.revoked(used) {
            Some(error) => Self::Revoked(error.into()),
            None => Self::Faulty(trouble),
        }
    }
}

/// The same for a session that its server has forgotten, which calls use until the server tells them so.
pub(super) fn adapt_left_over(handle: &Handle, shared: &ServerContext) {
    let Some(live) = handle.live() else { return };
    let spec = handle.spec();
    match shared.credentials.resolve(&spec) {
        Ok(new) => {
            live.session.set_headers(new.headers.clone());
            handle.note_sent(&spec);
        }
        Err(error) if error.is_revocation() => handle.shut(),
        // The last valid credentials stay in use.
        Err(_) => handle.note_sent(&spec),
    }
}

/// The limits for connecting to the server, and for keeping an unused connection.
pub(crate) fn limits(spec: &Server) -> (Duration, Duration) {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    (seconds(spec.timeouts.connect_seconds), seconds(spec.timeouts.idle_seconds))
}

/// Keeps the last valid credentials, unless they are revoked.
fn keep_the_last_good(handle: &Handle, unusable: Unusable) -> Adapted {
    let trouble = match unusable {
        Unusable::Revoked(trouble) => return Adapted::Revoked(trouble),
        Unusable::Faulty(trouble) => trouble,
    };
    let problem = trouble.to_string();
    if trouble.reason() != Reason::Probing && handle.status().last_error.as_ref() != Some(&problem) {
        warn!(server = %handle.name, problem, "cannot use the credentials; the previous ones stay in use");
        handle.update_status(|status| status.note(&trouble));
    }
    Adapted::Troubled
}

/// Whether a reason means unusable credentials.
pub(super) fn is_about_credentials(reason: Reason) -> bool {
    reason.condition() == ConditionType::ResolvedRefs
}

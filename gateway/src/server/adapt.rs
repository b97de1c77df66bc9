//! What a changed configuration means for an open session: what the session can take over, it takes over at once.

use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::{Reason, Server};
use tracing::warn;

use super::{Shared, is_about_credentials, tls, url_of};
use crate::handle::Handle;
use crate::secrets::Resolved;
use crate::trouble::Trouble;
use crate::upstream::Session;

/// What becomes of the session.
pub(super) enum Adapted {
    /// It goes on.
    Kept,
    /// It goes on as before, because the new cannot be used.
    Troubled,
    /// It needs a successor.
    Outdated,
    /// It must end.
    Revoked(Trouble),
}

/// Takes a changed configuration over into an open session, as far as it can. `used`: what it sends.
pub(super) fn adapt(handle: &Handle, shared: &Shared, session: &Session, used: &mut Resolved) -> Adapted {
    let spec = handle.spec();
    let adapted = adapt_to(&spec, handle, shared, session, used);
    if !matches!(adapted, Adapted::Revoked(_)) {
        handle.note_sent(&spec);
    }
    adapted
}

fn adapt_to(spec: &Arc<Server>, handle: &Handle, shared: &Shared, session: &Session, used: &mut Resolved) -> Adapted {
    let (connect, idle) = limits(spec);
    session.set_limits(connect, idle);
    match shared.secrets.resolve(spec) {
        Ok(new) if new.tls == used.tls => {
            session.set_headers(new.headers.clone());
            *used = new;
            handle.update_status(|status| status.clear(is_about_credentials));
            Adapted::Kept
        }
        Ok(new) => match url_of(spec).and_then(|url| tls(shared, &url, &new)) {
            Ok(_) => {
                // The successor may take its time.
                session.set_headers(new.headers.clone());
                used.take_headers_of(new);
                Adapted::Outdated
            }
            Err(trouble) => keep_the_last_good(handle, shared, used, trouble),
        },
        Err(error) => keep_the_last_good(handle, shared, used, error.into()),
    }
}

/// The same for a session that its server has forgotten, which calls use until they are told so.
pub(super) fn adapt_left_over(handle: &Handle, shared: &Shared) {
    let Some(live) = handle.live() else { return };
    let spec = handle.spec();
    match shared.secrets.resolve(&spec) {
        Ok(new) => {
            live.session.set_headers(new.headers.clone());
            handle.note_sent(&spec);
        }
        Err(error) if error.is_revocation() => handle.shut(),
        // What was valid stays in use.
        Err(_) => handle.note_sent(&spec),
    }
}

/// For a connection to the server, and for one that is not used.
pub(crate) fn limits(spec: &Server) -> (Duration, Duration) {
    let seconds = |seconds: u32| Duration::from_secs(seconds.into());
    (seconds(spec.timeouts.connect_seconds), seconds(spec.timeouts.idle_seconds))
}

/// What was valid stays in use until the connection needs the new, unless it may not be used any more.
fn keep_the_last_good(handle: &Handle, shared: &Shared, used: &Resolved, trouble: Trouble) -> Adapted {
    if trouble.is_revocation() {
        return Adapted::Revoked(trouble);
    }
    if let Some(error) = shared.secrets.revoked(used) {
        return Adapted::Revoked(error.into());
    }
    let problem = trouble.to_string();
    if trouble.reason() != Reason::Probing && handle.status().last_error.as_ref() != Some(&problem) {
        warn!(server = %handle.name, problem, "credentials cannot be used, the previous ones stay in use");
        handle.update_status(|status| status.note(&trouble));
    }
    Adapted::Troubled
}

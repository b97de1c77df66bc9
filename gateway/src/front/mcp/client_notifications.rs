//! Passes notifications of a client on to the servers that have a session for it.

use std::sync::Arc;

use futures_util::future::join_all;

use crate::client_sessions::{ClientKey, ClientSession};
use crate::front::mcp::caller::Caller;
use crate::front::mcp::messages::request::LEVELS;
use crate::front::request::app::App;
use crate::seal::{SealedSession, SessionKey};

/// The sessions with servers that a client has for itself.
fn client_sessions(caller: &Caller, session: &SealedSession) -> Vec<Arc<ClientSession>> {
    let key = ClientKey::of_session(session);
    let catalog = caller.app().published.load();
    catalog.servers().iter().filter_map(|server| server.clients()?.get(&key)).collect()
}

/// The roots of the client have changed.
pub(crate) fn roots_changed(caller: &Caller) {
    let Some(session) = &caller.session else { return };
    for upstream in client_sessions(caller, session).iter().filter_map(|one| one.session()) {
        upstream.tell("notifications/roots/list_changed", "");
    }
}

/// The client wants another log level; servers have heard of it when this returns.
pub(crate) async fn level(caller: &Caller) {
    let Some(session) = &caller.session else { return };
    let Some(level) = caller.app().mcp.sessions.level(&session.id) else { return };
    let level = format!("\"{}\"", LEVELS[level]);
    join_all(client_sessions(caller, session).iter().map(|one| one.tell_level(&level))).await;
}

/// A client's session is over for good: what belongs to it ends.
pub(crate) fn over(app: &App, session: SessionKey) {
    app.mcp.end(session);
    app.mcp.server_requests.forget(&session);
    let catalog = app.published.load();
    catalog.servers().iter().filter_map(|server| server.clients()).for_each(|clients| clients.end(&session));
}

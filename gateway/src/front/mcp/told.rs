//! What a client tells that servers with a session of its own are to hear.

use std::sync::Arc;

use futures_util::future::join_all;

use super::live::SessionKey;
use super::request::LEVELS;
use super::state::Caller;
use crate::clients::{ClientKey, Line};
use crate::front::app::App;
use crate::seal::Session;

/// The sessions with servers that a client has for itself.
fn lines(caller: &Caller, session: &Session) -> Vec<Arc<Line>> {
    let key = ClientKey::of_session(session);
    let catalog = caller.catalog();
    catalog.servers().iter().filter_map(|server| server.clients()?.get(&key)).collect()
}

/// The roots of the client have changed.
pub fn roots_changed(caller: &Caller) {
    let Some(session) = &caller.session else { return };
    for upstream in lines(caller, session).iter().filter_map(|line| line.session()) {
        upstream.tell("notifications/roots/list_changed", "");
    }
}

/// The client wants another log level; servers have heard of it when this returns.
pub async fn level(caller: &Caller) {
    let Some(session) = &caller.session else { return };
    let Some(level) = caller.app().mcp.live.level(&session.id) else { return };
    let level = format!("\"{}\"", LEVELS[level]);
    join_all(lines(caller, session).iter().map(|line| line.tell_level(&level))).await;
}

/// A client's session is over for good: what belongs to it ends.
pub fn over(app: &App, session: SessionKey) {
    app.mcp.end(session);
    app.mcp.asking.forget(&session);
    let catalog = app.published.load();
    catalog.servers().iter().filter_map(|server| server.clients()).for_each(|clients| clients.end(&session));
}

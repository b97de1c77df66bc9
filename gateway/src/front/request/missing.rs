//! Tells callers which servers are missing from a list, so that one that is away is not taken for one that has nothing.

use crate::catalog::{Catalog, Kind, Lacking, Scope};
use crate::server::handle::{Handle, Phase};
use crate::status::report::report;
use portcullis_crds::mcpserver::ServingState;
use serde::Serialize;
use utoipa::ToSchema;

/// Servers that are named.
const MAX_NAMED: usize = 32;

/// A server whose items are missing, or not all there.
#[derive(Serialize, ToSchema)]
pub(crate) struct MissingServer {
    /// Its name.
    server: String,
    /// Why, in one word, as in the status of an McpServer; `ListIncomplete`: some of its items are left out.
    reason: &'static str,
    /// The same in a sentence.
    message: String,
}

/// The servers of this part that are not ready or not fully listed, as a JSON array; `None` if there are none. Servers that
/// are disabled on purpose are not missing.
pub(crate) fn of(catalog: &Catalog, scope: Scope<'_>) -> Option<String> {
    let servers = catalog.servers_in(scope).iter();
    let missing: Vec<MissingServer> = servers.filter_map(|server| missing(catalog, server)).take(MAX_NAMED).collect();
    if missing.is_empty() { None } else { serde_json::to_string(&missing).ok() }
}

fn missing(catalog: &Catalog, server: &Handle) -> Option<MissingServer> {
    let left_out: u32 = Kind::ALL.iter().map(|kind| server.left_out(*kind)).sum();
    // What is said of a server that is well, but not of its lists for this caller.
    let lacking = catalog.lacking(server);
    let is_well = server.phase() == Phase::Ready && server.live().is_some() && catalog.lists(server);
    if (is_well && left_out == 0 && lacking.is_none()) || server.spec().state != ServingState::Enabled {
        return None;
    }
    let report = report(catalog, server);
    let (reason, message) = match (report.ready, lacking) {
        (false, _) => (report.reason.as_str(), report.message),
        (true, Some(Lacking::All(why))) => ("ListFailed", why.clone()),
        (true, Some(Lacking::Some(count))) => incomplete(*count),
        (true, None) if left_out == 0 => return None,
        (true, None) => incomplete(left_out as usize),
    };
    Some(MissingServer { server: server.name.clone(), reason, message })
}

fn incomplete(count: usize) -> (&'static str, String) {
    ("ListIncomplete", format!("{count} of its tools, prompts and resources are left out"))
}

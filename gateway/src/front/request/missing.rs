//! Tells callers which servers are missing from a list, so that one that is away is not taken for one that has nothing.

use crate::catalog::{Catalog, Kind, Scope};
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
    let is_well = server.phase() == Phase::Ready && server.live().is_some() && catalog.lists(server);
    if (is_well && left_out == 0) || server.spec().state != ServingState::Enabled {
        return None;
    }
    let report = report(catalog, server);
    let (reason, message) = match report.ready {
        false => (report.reason.as_str(), report.message),
        true if left_out == 0 => return None,
        true => ("ListIncomplete", format!("{left_out} of its tools, prompts and resources are left out")),
    };
    Some(MissingServer { server: server.name.clone(), reason, message })
}

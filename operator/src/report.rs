//! Reports the state of the operator at `/status` of its admin port.

use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use tokio::sync::watch;

/// Path of the report on the admin port.
pub(crate) const PATH: &str = "/status";

/// The report.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OperatorStatus {
    /// Namespace and name of the release.
    pub(crate) installation: String,
    /// Whether this replica writes.
    pub(crate) leads: bool,
    /// Whether every watch has listed everything.
    pub(crate) listed: bool,
    /// Number of McpServers.
    pub(crate) servers: usize,
    /// Number of McpServers whose status another installation writes.
    pub(crate) servers_of_others: usize,
    /// Listed namespaces that count as empty, because they are gone or their Role is missing.
    pub(crate) unreadable_namespaces: Vec<String>,
}

/// The route that answers with the newest report.
pub(crate) fn route(reports: watch::Receiver<OperatorStatus>) -> (&'static str, MethodRouter) {
    let answer = move || {
        let text = serde_json::to_string(&*reports.borrow()).expect("names and numbers are JSON");
        std::future::ready(([(CONTENT_TYPE, "application/json")], text))
    };
    (PATH, get(answer))
}

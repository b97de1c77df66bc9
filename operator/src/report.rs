//! What the operator tells of itself at `/status` of its admin port.

use axum::http::header::CONTENT_TYPE;
use axum::routing::{MethodRouter, get};
use serde::Serialize;
use tokio::sync::watch;

/// Path on the admin port.
pub const PATH: &str = "/status";

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// Namespace and name of the release.
    pub installation: String,
    /// Whether this replica writes.
    pub leads: bool,
    /// Whether everything has been listed.
    pub listed: bool,
    /// McpServers that are known.
    pub servers: usize,
    /// Of these, those whose status another installation writes.
    pub servers_of_others: usize,
    /// Listed namespaces that count as empty, because they are gone or their Role is missing.
    pub unreadable_namespaces: Vec<String>,
}

/// The route that tells the newest report.
pub fn route(reports: watch::Receiver<Report>) -> (&'static str, MethodRouter) {
    let answer = move || {
        let text = serde_json::to_string(&*reports.borrow()).expect("names and numbers are JSON");
        std::future::ready(([(CONTENT_TYPE, "application/json")], text))
    };
    (PATH, get(answer))
}

//! Counts McpServers by the status of their condition `Ready`, as a metric.

use std::collections::BTreeMap;

use portcullis_crds::ConditionType;
use portcullis_crds::mcpserver::McpServerStatus;

use crate::metrics::OperatorMetrics;
use crate::status;

/// The numbers of McpServers that are ready, not ready, or unknown.
pub(crate) struct ReadyCounts {
    counts: BTreeMap<&'static str, i64>,
    metrics: OperatorMetrics,
}

impl ReadyCounts {
    /// Counts of no servers.
    pub(crate) fn new(metrics: OperatorMetrics) -> Self {
        Self { counts: BTreeMap::new(), metrics }
    }

    /// Replaces the status of one server. `old` is none for a new server, `new` for a deleted one.
    pub(crate) fn replace(&mut self, old: Option<&McpServerStatus>, new: Option<&McpServerStatus>) {
        for (status, step) in [(old, -1), (new, 1)] {
            let Some(status) = status else { continue };
            let label = ready_label(status);
            let count = self.counts.entry(label).or_insert(0);
            *count += step;
            self.metrics.servers.with_label_values(&[label]).set(*count);
        }
    }
}

fn ready_label(status: &McpServerStatus) -> &'static str {
    match status::find(&status.conditions, ConditionType::Ready).map(|condition| condition.status.as_str()) {
        Some("True") => "true",
        Some("False") => "false",
        _ => "unknown",
    }
}

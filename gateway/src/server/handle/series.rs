//! The counters of a server.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use portcullis_access::DENIAL_REASONS;
use portcullis_runtime::workers::Parts;
use prometheus::{Histogram, HistogramVec};

use crate::offer::item::Kind;
use crate::telemetry::metrics::{Metrics, Outcome, Parted};
use crate::telemetry::tool_counts::ToolCounts;

/// The reasons a session ended or could not be opened, as metric labels.
pub const RECONNECT_REASONS: [&str; 7] =
    ["connect_failed", "closed", "expired", "broken", "unhealthy", "changed", "revoked"];

/// The counters of a server.
pub struct Series {
    /// Calls that were answered.
    pub(crate) ok: Answered,
    /// Calls of each tool.
    pub(crate) calls: ToolCounts,
    /// Calls that were tried at another server.
    pub(crate) failovers: Count,
    /// Ejections.
    pub(crate) ejections: Count,
    /// Sessions that ended or could not be opened, for each of [`RECONNECT_REASONS`].
    pub(super) reconnects: [Count; RECONNECT_REASONS.len()],
    /// Calls that policies denied, for each of [`DENIAL_REASONS`].
    pub(super) denials: [Count; DENIAL_REASONS.len()],
    /// Items of each kind that are invalid, duplicate or too many.
    pub(super) left_out: [AtomicU32; Kind::ALL.len()],
    /// Problems of its items of each kind, whether these are left out or not.
    pub(super) problems: [AtomicU32; Kind::ALL.len()],
}

/// The duration of answered calls: a series that is looked up once, and exists after the first answered call.
pub struct Answered {
    server: String,
    all: Parted<HistogramVec>,
    parts: Parts<OnceLock<Histogram>>,
}

/// A growing number.
#[derive(Default)]
pub struct Count(AtomicU64);

impl Series {
    pub(super) fn new(server: &str, metrics: &Metrics) -> Self {
        let all = metrics.call_duration.clone();
        Self {
            ok: Answered { server: server.to_owned(), all, parts: Parts::default() },
            calls: ToolCounts::default(),
            failovers: Count::default(),
            ejections: Count::default(),
            reconnects: Default::default(),
            denials: Default::default(),
            left_out: Default::default(),
            problems: Default::default(),
        }
    }
}

impl Answered {
    /// Records a call of this duration.
    pub(crate) fn observe(&self, seconds: f64) {
        let labels = [self.server.as_str(), Outcome::Ok.as_str()];
        self.parts.own().get_or_init(|| self.all.own().with_label_values(&labels)).observe(seconds);
    }
}

impl Count {
    /// Adds one.
    pub(crate) fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// The count.
    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

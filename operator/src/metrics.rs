//! The metrics of the operator. A test compares them with docs/metrics.md.

use portcullis_runtime::metrics::{Definition, Maker};
use prometheus::{GaugeVec, Histogram, IntCounterVec, IntGauge, IntGaugeVec, Registry};

/// Seconds from a change of an McpServer to the ConfigMap that holds it.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics; cloning shares them.
#[derive(Clone)]
pub struct OperatorMetrics {
    /// The registry that exposes them.
    pub(crate) registry: Registry,
    /// `portcullis_operator_leader`: 1 while this replica writes.
    pub(crate) leader: IntGauge,
    /// `portcullis_operator_mcpservers{ready}`: McpServers by the status of their condition `Ready`.
    pub(crate) servers: IntGaugeVec,
    /// `portcullis_operator_mcpservers_of_others`
    pub(crate) others: IntGauge,
    /// `portcullis_operator_namespace_unreadable{watched}`
    pub(crate) unreadable: IntGaugeVec,
    /// `portcullis_operator_slot_writes_total{outcome}`
    pub(crate) slot_writes: IntCounterVec,
    /// `portcullis_operator_slot_bytes{slot}`
    pub(crate) slot_bytes: IntGaugeVec,
    /// `portcullis_operator_slot_fill_ratio{slot}`
    pub(crate) slot_fill: GaugeVec,
    /// `portcullis_operator_servers_left_out{slot}`
    pub(crate) left_out: IntGaugeVec,
    /// `portcullis_operator_publish_duration_seconds`
    pub(crate) publish: Histogram,
    /// `portcullis_operator_status_writes_total{outcome}`
    pub(crate) status_writes: IntCounterVec,
    /// `portcullis_operator_status_queue`
    pub(crate) status_queue: IntGauge,
    /// `portcullis_operator_events_total{outcome}`
    pub(crate) events: IntCounterVec,
    /// `portcullis_operator_gateways{state}`
    pub(crate) gateways: IntGaugeVec,
    /// `portcullis_operator_watch_errors_total{kind}`
    pub(crate) watch_errors: IntCounterVec,
}

impl Default for OperatorMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl OperatorMetrics {
    /// A set of metrics with a registry of its own.
    pub fn new() -> Self {
        Self::described().0
    }

    /// The same, with the definitions of all its metrics.
    pub fn described() -> (Self, Vec<Definition>) {
        let make = Maker::new("portcullis_operator_", &BUCKETS);
        let build = make.gauges("build_info", "Always 1; the labels identify the build.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            leader: make.gauge("leader", "1 while this replica writes, else 0."),
            servers: make.gauges("mcpservers", "McpServers by the status of their condition Ready.", &["ready"]),
            others: make.gauge(
                "mcpservers_of_others",
                "McpServers that this operator watches, but whose status another installation writes.",
            ),
            unreadable: make.gauges(
                "namespace_unreadable",
                "1 while a listed namespace counts as empty because it is gone or lacks the Role, else 0.",
                &["watched"],
            ),
            slot_writes: make.counters("slot_writes_total", "ConfigMaps written for the gateway.", &["outcome"]),
            slot_bytes: make.gauges("slot_bytes", "Size of a ConfigMap's content.", &["slot"]),
            slot_fill: make.float_gauges(
                "slot_fill_ratio",
                "Share of a ConfigMap that all its servers and views would take; above 1 some are left out.",
                &["slot"],
            ),
            left_out: make.gauges("servers_left_out", "Servers and views that a ConfigMap has no room for.", &["slot"]),
            publish: make.histogram(
                "publish_duration_seconds",
                "Time from a change of an McpServer to the write of its ConfigMap.",
            ),
            status_writes: make.counters("status_writes_total", "Statuses written.", &["outcome"]),
            status_queue: make.gauge("status_queue", "Statuses waiting to be written."),
            events: make.counters(
                "events_total",
                "Events written about McpServers, McpAccessPolicies and McpViews.",
                &["outcome"],
            ),
            gateways: make.gauges("gateways", "Gateway replicas that take traffic.", &["state"]),
            watch_errors: make.counters("watch_errors_total", "Watches of the API server that broke.", &["kind"]),
            registry: make.registry(),
        };
        (metrics, make.into_definitions())
    }
}

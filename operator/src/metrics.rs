//! Every metric of the operator, by name. docs/metrics.md says the same, and a test compares them.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{GaugeVec, Histogram, HistogramOpts, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Seconds from a change of an McpServer to the ConfigMap that holds it.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics; cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    /// Where they are gathered from.
    pub registry: Registry,
    /// `portcullis_operator_leader`: 1 while this replica writes.
    pub leader: IntGauge,
    /// `portcullis_operator_mcpservers{ready}`: McpServers by the status of their condition `Ready`.
    pub servers: IntGaugeVec,
    /// `portcullis_operator_mcpservers_of_others`
    pub others: IntGauge,
    /// `portcullis_operator_namespace_unreadable{watched}`
    pub unreadable: IntGaugeVec,
    /// `portcullis_operator_slot_writes_total{outcome}`
    pub slot_writes: IntCounterVec,
    /// `portcullis_operator_slot_bytes{slot}`
    pub slot_bytes: IntGaugeVec,
    /// `portcullis_operator_slot_fill_ratio{slot}`
    pub slot_fill: GaugeVec,
    /// `portcullis_operator_servers_left_out{slot}`
    pub left_out: IntGaugeVec,
    /// `portcullis_operator_publish_duration_seconds`
    pub publish: Histogram,
    /// `portcullis_operator_status_writes_total{outcome}`
    pub status_writes: IntCounterVec,
    /// `portcullis_operator_status_queue`
    pub status_queue: IntGauge,
    /// `portcullis_operator_events_total{outcome}`
    pub events: IntCounterVec,
    /// `portcullis_operator_gateways{state}`
    pub gateways: IntGaugeVec,
    /// `portcullis_operator_watch_errors_total{kind}`
    pub watch_errors: IntCounterVec,
}

/// What a metric is, for docs/metrics.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The whole name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// What it counts.
    pub help: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// A set of metrics with a registry of its own.
    pub fn new() -> Self {
        Self::described().0
    }

    /// The same, with the definitions of all its metrics.
    pub fn described() -> (Self, Vec<Definition>) {
        let make = Maker { registry: Registry::new(), definitions: RefCell::default() };
        let build = make.gauges("build_info", "Always 1; the labels tell what runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            leader: make.gauge("leader", "Whether this replica writes: 1 or 0."),
            servers: make.gauges("mcpservers", "McpServers by the status of their condition Ready.", &["ready"]),
            others: make.gauge(
                "mcpservers_of_others",
                "McpServers that are watched here, but whose status another installation writes.",
            ),
            unreadable: make.gauges(
                "namespace_unreadable",
                "Whether a listed namespace counts as empty because it is gone or its Role is missing: 1 or 0.",
                &["watched"],
            ),
            slot_writes: make.counters("slot_writes_total", "ConfigMaps written for the gateway.", &["outcome"]),
            slot_bytes: make.gauges("slot_bytes", "Size of a ConfigMap's content.", &["slot"]),
            slot_fill: make.ratios(
                "slot_fill_ratio",
                "What all servers of a ConfigMap would take, of what fits: above 1 some are left out.",
                &["slot"],
            ),
            left_out: make.gauges("servers_left_out", "Servers for which a ConfigMap has no room.", &["slot"]),
            publish: make
                .histogram("publish_duration_seconds", "From a change of an McpServer to the ConfigMap that holds it."),
            status_writes: make.counters("status_writes_total", "Statuses written.", &["outcome"]),
            status_queue: make.gauge("status_queue", "Statuses that wait to be written."),
            events: make.counters("events_total", "Events about McpServers.", &["outcome"]),
            gateways: make.gauges("gateways", "Gateway replicas that take traffic.", &["state"]),
            watch_errors: make.counters("watch_errors_total", "Watches of the API server that broke.", &["kind"]),
            registry: make.registry.clone(),
        };
        (metrics, make.definitions.into_inner())
    }
}

/// Makes, registers and notes; every name stands once in this file, so none can clash.
struct Maker {
    registry: Registry,
    definitions: RefCell<Vec<Definition>>,
}

impl Maker {
    fn register<C: Collector + Clone + 'static>(&self, kind: &'static str, made: prometheus::Result<C>) -> C {
        let made = made.expect("the name and the labels are valid");
        self.registry.register(Box::new(made.clone())).expect("each name is registered once");
        self.definitions.borrow_mut().extend(made.desc().into_iter().map(|desc| Definition {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        made
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register("counter", IntCounterVec::new(Opts::new(named(name), help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register("gauge", IntGaugeVec::new(Opts::new(named(name), help), labels))
    }

    fn ratios(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register("gauge", GaugeVec::new(Opts::new(named(name), help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register("gauge", IntGauge::new(named(name), help))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let opts = HistogramOpts::new(named(name), help).buckets(BUCKETS.to_vec());
        self.register("histogram", Histogram::with_opts(opts))
    }
}

fn named(name: &str) -> String {
    format!("portcullis_operator_{name}")
}

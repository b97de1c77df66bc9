//! Every metric of the gateway, by name. docs/metrics.md says the same, and a test compares them.
//!
//! Labels come from configured servers, listed tools and closed sets only, never from a request.

mod kept;
mod parted;
mod servers;
pub mod tools;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};

pub use self::kept::Kept;
pub use self::parted::Parted;
pub use self::servers::OfServers;

/// Seconds; the first ones are the gateway's own work, the last ones slow tools.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// All metrics; cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    /// Where they are gathered from.
    pub registry: Registry,
    /// `portcullis_http_request_duration_seconds{route,method,status}`
    pub http_duration: Parted<HistogramVec>,
    /// `portcullis_tool_call_duration_seconds{server,outcome}`
    pub call_duration: Parted<HistogramVec>,
    /// `portcullis_client_streams_open`.
    pub client_streams: IntGauge,
    /// `portcullis_client_questions_open`.
    pub client_questions: IntGauge,
    /// `portcullis_calls_waiting_for_input`.
    pub waiting_calls: IntGauge,
    /// `portcullis_server_request_duration_seconds{server, method, outcome}`: prompts, resources, completion.
    pub request_duration: Parted<HistogramVec>,
    /// `portcullis_unknown_tool_calls_total`
    pub unknown_tools: IntCounter,
    /// `portcullis_auth_rejections_total{reason}`
    pub auth_rejections: IntCounterVec,
    /// `portcullis_gate_refusals_total{reason}`
    pub gate_refusals: IntCounterVec,
    /// `portcullis_requests_handed_on_total{outcome}`
    pub handed_on: IntCounterVec,
    /// `portcullis_session_keys_ok`: 0 while the file of session keys is refused.
    pub session_keys_ok: IntGauge,
    /// `portcullis_keys_refreshes_total{issuer,outcome}`
    pub keys_refreshes: IntCounterVec,
    /// `portcullis_keys_fetched_timestamp_seconds{issuer}`: the last time that the issuer answered with keys.
    pub keys_fetched: GaugeVec,
    /// `portcullis_token_reviews_total{outcome}`
    pub token_reviews: IntCounterVec,
    /// `portcullis_snapshot_applied_timestamp_seconds`
    pub snapshot_applied: Gauge,
    /// `portcullis_snapshot_apply_duration_seconds`: from the change to the catalog without the removed servers.
    pub snapshot_apply: Histogram,
    /// `portcullis_snapshot_delay_seconds`: from the writing of a slot to the moment it is applied.
    pub snapshot_delay: Histogram,
    /// `portcullis_config_source_up`: 0 while the configuration cannot be watched.
    pub config_source_up: IntGauge,
    /// `portcullis_snapshot_rejected_total{reason}`
    pub snapshot_rejected: IntCounterVec,
    /// `portcullis_configuration_ok`: 0 while something in the configuration is refused.
    pub configuration_ok: IntGauge,
}

/// Something that a gauge counts as long as it is there.
pub struct Counted(IntGauge);

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

/// What happened to a call, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The tool answered.
    Ok,
    /// The tool answered that it failed (`isError`).
    ToolError,
    /// The server answered with a JSON-RPC error.
    RpcError,
    /// No server could be reached.
    Unavailable,
    /// All servers were busy.
    Busy,
    /// No answer in time.
    Timeout,
    /// The answer was lost or unusable.
    BadAnswer,
    /// The caller went away.
    Cancelled,
}

impl Outcome {
    /// Where it stands in [`OUTCOMES`].
    pub fn place(self) -> usize {
        self as usize
    }

    /// The label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::ToolError => "tool_error",
            Self::RpcError => "rpc_error",
            Self::Unavailable => "unavailable",
            Self::Busy => "busy",
            Self::Timeout => "timeout",
            Self::BadAnswer => "bad_answer",
            Self::Cancelled => "cancelled",
        }
    }
}

impl Counted {
    /// One more.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
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
        let registry = Registry::new();
        let make = Maker { registry: registry.clone(), definitions: RefCell::default() };
        let build = make.gauges("build_info", "Always 1; the labels tell what runs.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let configuration_ok = make.gauge("configuration_ok", "0 while part of the configuration is refused.");
        configuration_ok.set(1);
        let config_source_up =
            make.gauge("config_source_up", "0 while the API server cannot be asked for the configuration.");
        config_source_up.set(1);
        let session_keys_ok =
            make.gauge("session_keys_ok", "0 while the file of session keys is refused; the last good keys stay.");
        session_keys_ok.set(1);
        let metrics = Self {
            http_duration: make.parted_histograms(
                "http_request_duration_seconds",
                "Time to answer a request.",
                &["route", "method", "status"],
            ),
            call_duration: make.parted_histograms(
                "tool_call_duration_seconds",
                "Time of a tool call, all attempts.",
                &["server", "outcome"],
            ),
            request_duration: make.parted_histograms(
                "server_request_duration_seconds",
                "Time of what is asked of a server besides tool calls, all attempts.",
                &["server", "method", "outcome"],
            ),
            client_streams: make.gauge("client_streams_open", "Streams on which callers listen for changes."),
            client_questions: make.gauge(
                "client_questions_open",
                "Questions of servers that clients with sessions have not answered yet.",
            ),
            waiting_calls: make.gauge(
                "calls_waiting_for_input",
                "Calls that wait until clients without sessions come back with answers to questions of servers.",
            ),
            unknown_tools: make.counter("unknown_tool_calls_total", "Calls of tools that no server offers."),
            auth_rejections: make.counters("auth_rejections_total", "Requests refused for their token.", &["reason"]),
            gate_refusals: make.counters(
                "gate_refusals_total",
                "Requests to /mcp refused for their Origin or Host.",
                &["reason"],
            ),
            handed_on: make.counters(
                "requests_handed_on_total",
                "Requests of sessions that another replica keeps something for.",
                &["outcome"],
            ),
            session_keys_ok,
            keys_refreshes: make.counters(
                "keys_refreshes_total",
                "Times the keys of an issuer were fetched.",
                &["issuer", "outcome"],
            ),
            keys_fetched: make.float_gauges(
                "keys_fetched_timestamp_seconds",
                "When an issuer answered with keys last.",
                &["issuer"],
            ),
            token_reviews: make.counters(
                "token_reviews_total",
                "Times the cluster was asked about a token.",
                &["outcome"],
            ),
            snapshot_applied: make
                .float_gauge("snapshot_applied_timestamp_seconds", "When the configuration was applied last."),
            snapshot_apply: make
                .histogram("snapshot_apply_duration_seconds", "Time to apply a change of configuration."),
            snapshot_delay: make.histogram(
                "snapshot_delay_seconds",
                "Time from the writing of a slot of the configuration to its use.",
            ),
            config_source_up,
            snapshot_rejected: make.counters(
                "snapshot_rejected_total",
                "Configurations refused; the last good one stays.",
                &["reason"],
            ),
            configuration_ok,
            registry,
        };
        let mut definitions = make.definitions.into_inner();
        definitions.extend(OfServers::definitions());
        (metrics, definitions)
    }

    /// Notes that a snapshot was applied.
    pub fn applied(&self, took: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.snapshot_applied.set(now.as_secs_f64());
        self.snapshot_apply.observe(took.as_secs_f64());
    }

    /// Notes that an issuer has answered with keys.
    pub fn keys_fetched_now(&self, issuer: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.keys_fetched.with_label_values(&[issuer]).set(now.as_secs_f64());
    }

    /// Forgets servers that are gone, so that their series end.
    pub fn forget(&self, servers: &HashSet<&str>) {
        for server in servers {
            for outcome in OUTCOMES {
                for part in self.call_duration.iter() {
                    let _ = part.remove_label_values(&[server, outcome.as_str()]);
                }
            }
        }
        // Only these have labels that are not known here. It looks at every series, so it is done once for all.
        if !servers.is_empty() {
            forget_in(&self.request_duration, servers);
        }
    }
}

/// Takes out every series that these servers have, whatever its other labels are.
fn forget_in<B: MetricVecBuilder>(series: &Parted<MetricVec<B>>, servers: &HashSet<&str>) {
    for part in series.iter() {
        for labels in labels_of(part, servers) {
            let _ = part.remove(&borrowed(&labels));
        }
    }
}

fn borrowed(labels: &[(String, String)]) -> HashMap<&str, &str> {
    labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

/// The labels of every series that these servers have.
fn labels_of(collector: &impl Collector, servers: &HashSet<&str>) -> Vec<Vec<(String, String)>> {
    let families = collector.collect();
    let series = families.iter().flat_map(MetricFamily::get_metric);
    let of_server = series.filter(|metric| {
        metric.get_label().iter().any(|label| label.name() == "server" && servers.contains(label.value()))
    });
    let pairs = |metric: &Metric| -> Vec<(String, String)> {
        metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned())).collect()
    };
    of_server.map(pairs).collect()
}

/// Outcomes of `portcullis_keys_refreshes_total`.
pub const KEYS_OUTCOMES: [&str; 4] = ["changed", "unchanged", "bad_answer", "unreachable"];
/// Outcomes of `portcullis_token_reviews_total`.
pub const REVIEW_OUTCOMES: [&str; 3] = ["accepted", "refused", "unavailable"];

/// Every outcome of a call.
pub const OUTCOMES: [Outcome; 8] = [
    Outcome::Ok,
    Outcome::ToolError,
    Outcome::RpcError,
    Outcome::Unavailable,
    Outcome::Busy,
    Outcome::Timeout,
    Outcome::BadAnswer,
    Outcome::Cancelled,
];

fn named(name: &str) -> String {
    format!("portcullis_{name}")
}

/// Why making a metric cannot fail.
const VALID: &str = "the name and the labels are valid";

/// Makes, registers and notes; every name stands once in this file, so none can clash.
struct Maker {
    registry: Registry,
    definitions: RefCell<Vec<Definition>>,
}

impl Maker {
    fn register<C: Collector + Clone + 'static>(&self, kind: &'static str, made: prometheus::Result<C>) -> C {
        let made = made.expect(VALID);
        self.registry.register(Box::new(made.clone())).expect("each name is registered once");
        self.definitions.borrow_mut().extend(made.desc().into_iter().map(|desc| Definition {
            name: desc.fq_name.clone(),
            kind,
            labels: desc.variable_labels.clone(),
            help: desc.help.clone(),
        }));
        made
    }

    fn parted_histograms(&self, name: &str, help: &str, labels: &[&str]) -> Parted<HistogramVec> {
        let opts = HistogramOpts::new(named(name), help).buckets(BUCKETS.to_vec());
        let part = || HistogramVec::new(opts.clone(), labels).expect(VALID);
        self.register("histogram", Ok(Parted::new(part)))
    }

    fn histogram(&self, name: &str, help: &str) -> Histogram {
        let opts = HistogramOpts::new(named(name), help).buckets(BUCKETS.to_vec());
        self.register("histogram", Histogram::with_opts(opts))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register("counter", IntCounterVec::new(Opts::new(named(name), help), labels))
    }

    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register("counter", IntCounter::new(named(name), help))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register("gauge", IntGaugeVec::new(Opts::new(named(name), help), labels))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register("gauge", IntGauge::new(named(name), help))
    }

    fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register("gauge", GaugeVec::new(Opts::new(named(name), help), labels))
    }

    fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register("gauge", Gauge::new(named(name), help))
    }
}

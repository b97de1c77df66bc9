//! Every metric of the gateway, by name. docs/metrics.md lists the same, and a test compares them.
//!
//! Labels come from configured servers, listed tools and closed sets only, never from a request.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use portcullis_runtime::metrics::{Definition, Maker};
use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::proto::{Counter, LabelPair, Metric, MetricFamily, MetricType};
use prometheus::{Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, Registry};

pub(crate) use crate::telemetry::parted::Parted;
pub use crate::telemetry::process::{Kept, Sinks};

/// The prefix of all names.
const PREFIX: &str = "portcullis_";

/// Seconds; the first ones are the gateway's own work, the last ones slow tools.
const BUCKETS: [f64; 14] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 15.0, 60.0];

/// All metrics; cloning shares them.
#[derive(Clone)]
pub struct Metrics {
    /// The registry that collects them.
    pub(crate) registry: Registry,
    /// `portcullis_http_request_duration_seconds{route,method,status}`
    pub(crate) http_duration: Parted<HistogramVec>,
    /// `portcullis_tool_call_duration_seconds{server,outcome}`
    pub(crate) call_duration: Parted<HistogramVec>,
    /// `portcullis_client_streams_open`.
    pub(crate) client_streams: IntGauge,
    /// `portcullis_client_questions_open`.
    pub(crate) client_questions: IntGauge,
    /// `portcullis_calls_waiting_for_input`.
    pub(crate) waiting_calls: IntGauge,
    /// `portcullis_server_request_duration_seconds{server, method, outcome}`: prompts, resources, completion.
    pub(crate) request_duration: Parted<HistogramVec>,
    /// `portcullis_unknown_tool_calls_total`
    pub(crate) unknown_tools: IntCounter,
    /// `portcullis_audit_refusals_total`
    pub(crate) audit_refusals: IntCounter,
    /// `portcullis_auth_rejections_total{reason}`
    pub(crate) auth_rejections: IntCounterVec,
    /// `portcullis_gate_refusals_total{reason}`
    pub(crate) origin_refusals: IntCounterVec,
    /// `portcullis_requests_handed_on_total{outcome}`
    pub(crate) forwarded: IntCounterVec,
    /// `portcullis_session_keys_ok`: 0 while the file of session keys is refused.
    pub(crate) session_keys_ok: IntGauge,
    /// `portcullis_assertion_keys_ok`: 0 while the file of assertion keys is refused.
    pub(crate) assertion_keys_ok: IntGauge,
    /// `portcullis_tls_certificate_ok`: 0 while the TLS files are refused, or the certificate in use has expired.
    pub(crate) tls_certificate_ok: IntGauge,
    /// `portcullis_tls_certificate_expiry_timestamp_seconds`: 0 without TLS.
    pub(crate) tls_certificate_expires: Gauge,
    /// `portcullis_keys_refreshes_total{issuer,outcome}`
    pub(crate) keys_refreshes: IntCounterVec,
    /// `portcullis_keys_fetched_timestamp_seconds{issuer}`: the last time that the issuer answered with keys.
    pub(crate) keys_fetched: GaugeVec,
    /// `portcullis_token_reviews_total{outcome}`
    pub(crate) token_reviews: IntCounterVec,
    /// `portcullis_token_requests_total{outcome}`
    pub(crate) token_requests: IntCounterVec,
    /// `portcullis_token_endpoint_requests_total{grant,outcome}`
    pub(crate) token_endpoint_requests: IntCounterVec,
    /// `portcullis_snapshot_applied_timestamp_seconds`
    pub(crate) snapshot_applied: Gauge,
    /// `portcullis_snapshot_apply_duration_seconds`: from the change to the catalog without the removed servers.
    pub(crate) snapshot_apply: Histogram,
    /// `portcullis_snapshot_delay_seconds`: from the writing of a slot to the moment it is applied.
    pub(crate) snapshot_delay: Histogram,
    /// `portcullis_config_source_up`: 0 while the configuration cannot be watched.
    pub(crate) config_source_up: IntGauge,
    /// `portcullis_snapshot_rejected_total{reason}`
    pub(crate) snapshot_rejected: IntCounterVec,
    /// `portcullis_configuration_ok`: 0 while something in the configuration is refused.
    pub(crate) configuration_ok: IntGauge,
}

/// Counts in a gauge while it lives.
pub(crate) struct Counted(IntGauge);

/// The outcome of a call, as a label.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The tool answered.
    Ok,
    /// The tool reported a failure (`isError`).
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
    /// The caller left.
    Cancelled,
}

impl Outcome {
    /// The index in [`OUTCOMES`].
    pub(crate) fn place(self) -> usize {
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
    /// Adds one.
    pub(crate) fn new(gauge: &IntGauge) -> Self {
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
    /// A set of metrics with a separate registry.
    pub(crate) fn new() -> Self {
        Self::described().0
    }

    /// The same, with the definitions of all its metrics.
    pub fn described() -> (Self, Vec<Definition>) {
        let make = Maker::new(PREFIX, &BUCKETS);
        let build = make.gauges("build_info", "Always 1; the labels identify the build.", &["version"]);
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let [http_duration, call_duration, request_duration] = durations(&make);
        let metrics = Self {
            http_duration,
            call_duration,
            request_duration,
            client_streams: make.gauge("client_streams_open", "Open streams on which callers listen for changes."),
            client_questions: make
                .gauge("client_questions_open", "Server requests that clients with sessions have not answered yet."),
            waiting_calls: make.gauge(
                "calls_waiting_for_input",
                "Suspended calls, which wait for clients without sessions to answer server requests.",
            ),
            unknown_tools: make.counter("unknown_tool_calls_total", "Calls of tools that no server offers."),
            audit_refusals: make
                .counter("audit_refusals_total", "Calls refused because the audit log had no room for their lines."),
            auth_rejections: make.counters(
                "auth_rejections_total",
                "Requests refused because of their token.",
                &["reason"],
            ),
            origin_refusals: make.counters(
                "gate_refusals_total",
                "Requests to /mcp refused because of their Origin or Host.",
                &["reason"],
            ),
            forwarded: make.counters(
                "requests_handed_on_total",
                "Requests of sessions whose state another replica holds.",
                &["outcome"],
            ),
            session_keys_ok: well(
                &make,
                "session_keys_ok",
                "0 while the gateway refuses the file of session keys; the last good keys stay in use.",
            ),
            assertion_keys_ok: well(
                &make,
                "assertion_keys_ok",
                "0 while the gateway refuses the file of assertion keys; the last good keys stay in use.",
            ),
            tls_certificate_ok: well(
                &make,
                "tls_certificate_ok",
                "0 while the gateway refuses its TLS files, or its certificate has expired; the last good certificate stays in use.",
            ),
            tls_certificate_expires: make.float_gauge(
                "tls_certificate_expiry_timestamp_seconds",
                "Time when the certificate in use expires; 0 without TLS.",
            ),
            keys_refreshes: make.counters(
                "keys_refreshes_total",
                "Fetches of the keys of an issuer.",
                &["issuer", "outcome"],
            ),
            keys_fetched: make.float_gauges(
                "keys_fetched_timestamp_seconds",
                "Time of the last successful fetch of an issuer's keys.",
                &["issuer"],
            ),
            token_reviews: make.counters(
                "token_reviews_total",
                "Requests to the cluster to review a token.",
                &["outcome"],
            ),
            token_requests: make.counters(
                "token_requests_total",
                "Requests to the cluster for tokens of the gateway itself, one for each audience.",
                &["outcome"],
            ),
            token_endpoint_requests: make.counters(
                "token_endpoint_requests_total",
                "Requests to token endpoints of authorization servers: in exchange for callers' tokens, and by client credentials.",
                &["grant", "outcome"],
            ),
            snapshot_applied: make
                .float_gauge("snapshot_applied_timestamp_seconds", "Time when the configuration was last applied."),
            snapshot_apply: make
                .histogram("snapshot_apply_duration_seconds", "Time to apply a change of the configuration."),
            snapshot_delay: make.histogram(
                "snapshot_delay_seconds",
                "Time from the write of a slot until its configuration is in use.",
            ),
            config_source_up: well(
                &make,
                "config_source_up",
                "0 while the gateway cannot watch the configuration through the API server.",
            ),
            snapshot_rejected: make.counters(
                "snapshot_rejected_total",
                "Configurations refused; the last good one stays in use.",
                &["reason"],
            ),
            configuration_ok: well(&make, "configuration_ok", "0 while the gateway refuses part of its configuration."),
            registry: make.registry(),
        };
        (metrics, make.into_definitions())
    }

    /// Records that a snapshot was applied.
    pub(crate) fn applied(&self, took: Duration) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.snapshot_applied.set(now.as_secs_f64());
        self.snapshot_apply.observe(took.as_secs_f64());
    }

    /// Records that an issuer has responded with keys.
    pub(crate) fn keys_fetched_now(&self, issuer: &str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.keys_fetched.with_label_values(&[issuer]).set(now.as_secs_f64());
    }

    /// Removes the series of deleted servers.
    pub(crate) fn forget(&self, servers: &HashSet<&str>) {
        for server in servers {
            for outcome in OUTCOMES {
                for part in self.call_duration.iter() {
                    let _ = part.remove_label_values(&[server, outcome.as_str()]);
                }
            }
        }
        // Only these have labels that are unknown here. Every series is examined, so this is done once for all servers.
        if !servers.is_empty() {
            forget_in(&self.request_duration, servers);
        }
    }
}

/// Removes every series of these servers, whatever the other labels.
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

/// The labels of every series of these servers.
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
/// Outcomes of `portcullis_token_requests_total`.
pub const REQUEST_OUTCOMES: [&str; 3] = ["issued", "refused", "unavailable"];

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

/// The durations of callers' requests, of tool calls, and of other requests to servers.
fn durations(make: &Maker) -> [Parted<HistogramVec>; 3] {
    let [http, call, request] =
        ["http_request_duration_seconds", "tool_call_duration_seconds", "server_request_duration_seconds"];
    [
        parted_histograms(make, http, "Time to answer a request.", &["route", "method", "status"]),
        parted_histograms(make, call, "Time of a tool call, all attempts.", &["server", "outcome"]),
        parted_histograms(
            make,
            request,
            "Time of a request to a server other than a tool call, all attempts.",
            &["server", "method", "outcome"],
        ),
    ]
}

/// A gauge that is 1 until there is a problem.
fn well(make: &Maker, name: &str, help: &str) -> IntGauge {
    let gauge = make.gauge(name, help);
    gauge.set(1);
    gauge
}

/// The full name of a metric.
pub(crate) fn named(name: &str) -> String {
    format!("{PREFIX}{name}")
}

/// All series of one metric that is read on each scrape.
pub(crate) fn family(name: &str, help: &str, kind: MetricType, series: Vec<Metric>) -> MetricFamily {
    let mut all = MetricFamily::default();
    all.set_name(named(name));
    all.set_help(help.to_owned());
    all.set_field_type(kind);
    all.set_metric(series);
    all
}

/// One series of a counter or a gauge that is read on each scrape.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub(crate) fn series<'a>(kind: MetricType, labels: impl Iterator<Item = (&'a str, &'a str)>, value: u64) -> Metric {
    let pairs = labels.map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.to_owned());
        pair.set_value(value.to_owned());
        pair
    });
    let mut pairs: Vec<LabelPair> = pairs.collect();
    pairs.sort();
    let mut metric = Metric::from_label(pairs);
    if kind == MetricType::COUNTER {
        let mut counter = Counter::default();
        counter.set_value(value as f64);
        metric.set_counter(counter);
    } else {
        let mut gauge = prometheus::proto::Gauge::default();
        gauge.set_value(value as f64);
        metric.set_gauge(gauge);
    }
    metric
}

fn parted_histograms(make: &Maker, name: &str, help: &str, labels: &[&str]) -> Parted<HistogramVec> {
    let opts = make.histogram_opts(name, help);
    let part = || HistogramVec::new(opts.clone(), labels).expect("the name and the labels are valid");
    make.register("histogram", Ok(Parted::new(part)))
}

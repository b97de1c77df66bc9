//! Numbers that the listener and the log keep themselves.

use std::sync::Arc;

use portcullis_runtime::{Connections, LogSink};
use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Counter, Metric, MetricFamily, MetricType};

use super::named;

/// Reads them when somebody asks.
pub struct Kept {
    connections: Arc<Connections>,
    log: Option<LogSink>,
    descs: Vec<Desc>,
}

impl Kept {
    /// Reads from these.
    pub fn new(connections: Arc<Connections>, log: Option<LogSink>) -> Self {
        let mut kept = Self { connections, log, descs: Vec::new() };
        kept.descs = kept.numbers().into_iter().flat_map(|(opts, _, _)| opts.describe()).collect();
        kept
    }

    fn numbers(&self) -> [(Opts, MetricType, u64); 4] {
        let of = |name: &str, help: &str| Opts::new(named(name), help);
        [
            (of("connections_open", "Connections of callers."), MetricType::GAUGE, self.connections.open()),
            (
                of("connections_accepted_total", "Connections accepted."),
                MetricType::COUNTER,
                self.connections.accepted(),
            ),
            (
                of("connections_refused_total", "Connections closed at once because there were too many."),
                MetricType::COUNTER,
                self.connections.refused(),
            ),
            (
                of("log_lines_dropped_total", "Log lines dropped because the output was too slow."),
                MetricType::COUNTER,
                self.log.as_ref().map_or(0, LogSink::dropped),
            ),
        ]
    }
}

impl Collector for Kept {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn collect(&self) -> Vec<MetricFamily> {
        let families = self.numbers().into_iter().map(|(opts, kind, value)| {
            let mut metric = Metric::default();
            if kind == MetricType::COUNTER {
                let mut counter = Counter::default();
                counter.set_value(value as f64);
                metric.set_counter(counter);
            } else {
                let mut gauge = prometheus::proto::Gauge::default();
                gauge.set_value(value as f64);
                metric.set_gauge(gauge);
            }
            let mut family = MetricFamily::default();
            family.set_name(opts.fq_name());
            family.set_help(opts.help.clone());
            family.set_field_type(kind);
            family.set_metric(vec![metric]);
            family
        });
        families.collect()
    }
}

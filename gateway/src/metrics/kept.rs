//! Numbers that the listener, the account of memory and the log keep themselves.

use std::sync::Arc;

use portcullis_runtime::memory::account;
use portcullis_runtime::{Connections, LogSink};
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Counter, Metric, MetricFamily, MetricType};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use super::named;

/// Reads them when somebody asks.
pub struct Kept {
    connections: Arc<Connections>,
    log: Option<LogSink>,
    memory: Memory,
    descs: Vec<Desc>,
}

/// The account of memory, part by part.
struct Memory {
    held: IntGaugeVec,
    limit: IntGaugeVec,
    refused: IntCounterVec,
}

impl Kept {
    /// Reads from these.
    pub fn new(connections: Arc<Connections>, log: Option<LogSink>) -> Self {
        let mut kept = Self { connections, log, memory: Memory::new(), descs: Vec::new() };
        kept.descs = kept.numbers().into_iter().flat_map(|(opts, _, _)| opts.describe()).collect();
        kept.descs.extend(kept.memory.descs());
        kept
    }

    fn numbers(&self) -> [(Opts, MetricType, u64); 5] {
        let of = |name: &str, help: &str| Opts::new(named(name), help);
        [
            (of("connections_open", "Connections of callers."), MetricType::GAUGE, self.connections.open()),
            (
                of("connections_accepted_total", "Connections accepted."),
                MetricType::COUNTER,
                self.connections.accepted(),
            ),
            (
                of("connections_refused_total", "Connections closed at once because there was no room for them."),
                MetricType::COUNTER,
                self.connections.refused(),
            ),
            (
                of(
                    "connections_evicted_total",
                    "Connections that waited for their clients and were ended to make room.",
                ),
                MetricType::COUNTER,
                self.connections.evicted(),
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
        let mut families: Vec<MetricFamily> = families.collect();
        families.extend(self.memory.collect());
        families
    }
}

// === impl Memory ===

impl Memory {
    fn new() -> Self {
        let of = |name: &str, help: &str| Opts::new(named(name), help);
        let held = of("memory_held_bytes", "Bytes held for others, for each part of the account.");
        let limit = of("memory_limit_bytes", "Bytes that the part may hold.");
        let refused = of("memory_refusals_total", "How often there was no room in the part.");
        let known = "a valid metric";
        Self {
            held: IntGaugeVec::new(held, &["part"]).expect(known),
            limit: IntGaugeVec::new(limit, &["part"]).expect(known),
            refused: IntCounterVec::new(refused, &["part"]).expect(known),
        }
    }

    fn descs(&self) -> Vec<Desc> {
        [self.held.desc(), self.limit.desc(), self.refused.desc()].concat().into_iter().cloned().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let bytes = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (name, part) in account().parts() {
            self.held.with_label_values(&[name]).set(bytes(part.held()));
            self.limit.with_label_values(&[name]).set(bytes(part.limit()));
            let refused = self.refused.with_label_values(&[name]);
            refused.inc_by(part.refused().saturating_sub(refused.get()));
        }
        [self.held.collect(), self.limit.collect(), self.refused.collect()].concat()
    }
}

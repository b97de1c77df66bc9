//! Exports numbers that the listener, the memory account and the log keep themselves.

use std::sync::Arc;

use portcullis_runtime::memory::account;
use portcullis_runtime::{Connections, LogSink};
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{MetricFamily, MetricType};
use prometheus::{IntCounterVec, IntGaugeVec, Opts};

use crate::telemetry::metrics::{family, named, series};

/// The logs that count what they lose.
#[derive(Clone, Debug, Default)]
pub struct Sinks {
    /// The log of the process and of requests.
    pub log: Option<LogSink>,
    /// The audit log.
    pub audit: Option<LogSink>,
}

/// Reads the numbers on each scrape.
pub struct Kept {
    connections: Arc<Connections>,
    sinks: Sinks,
    memory: MemoryGauges,
    descs: Vec<Desc>,
}

/// The memory account, part by part.
struct MemoryGauges {
    held: IntGaugeVec,
    limit: IntGaugeVec,
    refused: IntCounterVec,
}

impl Kept {
    /// A collector that reads from these.
    pub fn new(connections: Arc<Connections>, sinks: Sinks) -> Self {
        let mut kept = Self { connections, sinks, memory: MemoryGauges::new(), descs: Vec::new() };
        let opts = kept.numbers().map(|(name, help, _, _)| Opts::new(named(name), help));
        kept.descs = opts.iter().flat_map(Opts::describe).collect();
        kept.descs.extend(kept.memory.descs());
        kept
    }

    /// Name, help, kind and value of each.
    fn numbers(&self) -> [(&'static str, &'static str, MetricType, u64); 7] {
        let (gauge, counter) = (MetricType::GAUGE, MetricType::COUNTER);
        let dropped = |sink: &Option<LogSink>| sink.as_ref().map_or(0, LogSink::dropped);
        let audit_fails = self.sinks.audit.as_ref().is_some_and(LogSink::is_failing);
        let connections = &self.connections;
        [
            ("connections_open", "Open connections of callers.", gauge, connections.open()),
            ("connections_accepted_total", "Connections accepted.", counter, connections.accepted()),
            (
                "connections_refused_total",
                "Connections closed at once because there was no room for them.",
                counter,
                connections.refused(),
            ),
            (
                "connections_evicted_total",
                "Connections closed to make room while they waited for their clients.",
                counter,
                connections.evicted(),
            ),
            (
                "log_lines_dropped_total",
                "Log lines dropped because the output was too slow.",
                counter,
                dropped(&self.sinks.log),
            ),
            (
                "audit_lines_dropped_total",
                "Lines of the audit log that were lost.",
                counter,
                dropped(&self.sinks.audit),
            ),
            (
                "audit_log_ok",
                "0 while the audit log cannot be written; its lines wait.",
                gauge,
                u64::from(!audit_fails),
            ),
        ]
    }
}

impl Collector for Kept {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let families = self
            .numbers()
            .into_iter()
            .map(|(name, help, kind, value)| family(name, help, kind, vec![series(kind, std::iter::empty(), value)]));
        let mut families: Vec<MetricFamily> = families.collect();
        families.extend(self.memory.collect());
        families
    }
}

// === impl Memory ===

impl MemoryGauges {
    fn new() -> Self {
        let of = |name: &str, help: &str| Opts::new(named(name), help);
        let held = of("memory_held_bytes", "Bytes of memory held for callers and servers, by part of the account.");
        let limit = of("memory_limit_bytes", "Limit of the bytes that the part may hold.");
        let refused = of("memory_refusals_total", "Times that the part had no room.");
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

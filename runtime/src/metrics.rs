//! Creates and registers metrics, and records their definitions for the documents that list them.

use std::cell::RefCell;

use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

/// The definition of a metric.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Definition {
    /// The full name.
    pub name: String,
    /// `counter`, `gauge` or `histogram`.
    pub kind: &'static str,
    /// Names of its labels.
    pub labels: Vec<String>,
    /// The help text.
    pub help: String,
}

/// Creates the metrics of one program, whose names share a prefix. Each name may be created once.
#[derive(Debug)]
pub struct Maker {
    registry: Registry,
    prefix: &'static str,
    buckets: &'static [f64],
    definitions: RefCell<Vec<Definition>>,
}

impl Maker {
    /// Names begin with this prefix, and histograms have these buckets.
    pub fn new(prefix: &'static str, buckets: &'static [f64]) -> Self {
        Self { registry: Registry::new(), prefix, buckets, definitions: RefCell::default() }
    }

    /// The registry that collects all of them.
    pub fn registry(&self) -> Registry {
        self.registry.clone()
    }

    /// The definitions of the created metrics.
    pub fn into_definitions(self) -> Vec<Definition> {
        self.definitions.into_inner()
    }

    /// Registers and records a metric under a [name](Self::named). Panics if the name or a label is invalid, or the
    /// name was registered before.
    pub fn register<C: Collector + Clone + 'static>(&self, kind: &'static str, made: prometheus::Result<C>) -> C {
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

    /// The full name.
    pub fn named(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The options of a histogram.
    pub fn histogram_opts(&self, name: &str, help: &str) -> HistogramOpts {
        HistogramOpts::new(self.named(name), help).buckets(self.buckets.to_vec())
    }

    /// A histogram without labels.
    pub fn histogram(&self, name: &str, help: &str) -> Histogram {
        self.register("histogram", Histogram::with_opts(self.histogram_opts(name, help)))
    }

    /// A counter with labels.
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.register("counter", IntCounterVec::new(Opts::new(self.named(name), help), labels))
    }

    /// A counter without labels.
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.register("counter", IntCounter::new(self.named(name), help))
    }

    /// An integer gauge with labels.
    pub fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.register("gauge", IntGaugeVec::new(Opts::new(self.named(name), help), labels))
    }

    /// An integer gauge without labels.
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.register("gauge", IntGauge::new(self.named(name), help))
    }

    /// A float gauge with labels.
    pub fn float_gauges(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.register("gauge", GaugeVec::new(Opts::new(self.named(name), help), labels))
    }

    /// A float gauge without labels.
    pub fn float_gauge(&self, name: &str, help: &str) -> Gauge {
        self.register("gauge", Gauge::new(self.named(name), help))
    }
}

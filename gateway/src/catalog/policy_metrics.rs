//! Exports what access policies count, read on each scrape.

use std::sync::Arc;

use portcullis_access::CompiledPolicy;
use portcullis_runtime::metrics::Definition;
use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::catalog::PublishedCatalog;
use crate::telemetry::metrics::{family, named, series};

/// Reads the counts of every policy that governs a server.
pub struct OfPolicies {
    published: PublishedCatalog,
    descs: Vec<Desc>,
}

/// One counter of policies.
struct CounterDefinition {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: fn(&CompiledPolicy) -> Vec<PolicySeries>,
}

/// A series of a policy: the values of the labels after the first, and the count.
type PolicySeries = (Vec<String>, u64);

const FAMILIES: [CounterDefinition; 2] = [
    CounterDefinition {
        name: "policy_would_deny_total",
        help: "Calls that policies in Audit mode would have denied.",
        labels: &["policy"],
        read: |policy| vec![(Vec::new(), policy.would_deny())],
    },
    CounterDefinition {
        name: "policy_limit_refusals_total",
        help: "Calls refused because the limit of a rule was used up.",
        labels: &["policy", "rule"],
        read: |policy| policy.rules.iter().map(|rule| (vec![rule.name.clone()], rule.refusals())).collect(),
    },
];

impl OfPolicies {
    /// Reads the counts of the newest catalog.
    pub(crate) fn new(published: PublishedCatalog) -> Self {
        let descs = FAMILIES.iter().filter_map(|family| family.opts().describe().ok()).collect();
        Self { published, descs }
    }

    /// The definitions for docs/metrics.md.
    pub fn definitions() -> Vec<Definition> {
        let labels = |all: &[&str]| all.iter().map(|label| (*label).to_owned()).collect();
        let definition = |family: &CounterDefinition| Definition {
            name: named(family.name),
            kind: "counter",
            labels: labels(family.labels),
            help: family.help.to_owned(),
        };
        FAMILIES.iter().map(definition).collect()
    }
}

impl Collector for OfPolicies {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let catalog = self.published.load_full();
        let families = FAMILIES.iter().map(|one| {
            let series = catalog.policies().iter().flat_map(|policy| one.of(policy)).collect();
            family(one.name, one.help, MetricType::COUNTER, series)
        });
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

impl CounterDefinition {
    fn opts(&self) -> Opts {
        Opts::new(named(self.name), self.help).variable_labels(self.labels.iter().map(|it| (*it).to_owned()).collect())
    }

    fn of(&self, policy: &Arc<CompiledPolicy>) -> Vec<Metric> {
        let key = policy.policy.key.to_string();
        let counted = (self.read)(policy).into_iter().filter(|(_, count)| *count > 0);
        let metric = |(rest, count): PolicySeries| {
            let values = std::iter::once(key.as_str()).chain(rest.iter().map(String::as_str));
            series(MetricType::COUNTER, self.labels.iter().copied().zip(values), count)
        };
        counted.map(metric).collect()
    }
}

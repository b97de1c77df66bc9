//! Exports figures of access policies and views, read on each scrape.

use portcullis_access::CompiledPolicy;
use portcullis_crds::report::ViewReport;
use portcullis_runtime::metrics::Definition;
use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::catalog::{Catalog, PublishedCatalog};
use crate::telemetry::metrics::{family, named, series};

/// Reads the figures of every policy that governs a server, and of every view.
pub struct CatalogFigures {
    published: PublishedCatalog,
    descs: Vec<Desc>,
}

/// One family of figures.
struct FigureDefinition {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    read: FigureSource,
}

/// What a family reads, and from what.
enum FigureSource {
    /// A counter of policies.
    Policies(fn(&CompiledPolicy) -> Vec<Figure>),
    /// A gauge of views.
    Views(fn(&ViewReport) -> u64),
}

/// A series: the values of the labels after the first, and the figure.
type Figure = (Vec<String>, u64);

const FAMILIES: [FigureDefinition; 6] = [
    FigureDefinition {
        name: "policy_would_deny_total",
        help: "Calls that policies in Audit mode would have denied.",
        labels: &["policy"],
        read: FigureSource::Policies(|policy| vec![(Vec::new(), policy.would_deny())]),
    },
    FigureDefinition {
        name: "policy_limit_refusals_total",
        help: "Calls refused because the limit of a rule was used up.",
        labels: &["policy", "rule"],
        read: FigureSource::Policies(|policy| {
            policy.rules.iter().map(|rule| (vec![rule.name.clone()], rule.refusals())).collect()
        }),
    },
    FigureDefinition {
        name: "view_tools",
        help: "Tools of views.",
        labels: &["view"],
        read: FigureSource::Views(|view| view.tools.into()),
    },
    FigureDefinition {
        name: "view_tools_hidden",
        help: "Tools of views that are not listed because the budget has no room for them.",
        labels: &["view"],
        read: FigureSource::Views(|view| view.hidden.into()),
    },
    FigureDefinition {
        name: "view_list_bytes",
        help: "Bytes of the list of tools of views, for a caller who may use all of them.",
        labels: &["view"],
        read: FigureSource::Views(|view| view.bytes),
    },
    FigureDefinition {
        name: "view_list_tokens",
        help: "Tokens of that list, as estimated.",
        labels: &["view"],
        read: FigureSource::Views(|view| view.tokens),
    },
];

impl CatalogFigures {
    /// Reads the figures of the newest catalog.
    pub(crate) fn new(published: PublishedCatalog) -> Self {
        let descs = FAMILIES.iter().filter_map(|family| family.opts().describe().ok()).collect();
        Self { published, descs }
    }

    /// The definitions for docs/metrics.md.
    pub fn definitions() -> Vec<Definition> {
        let labels = |all: &[&str]| all.iter().map(|label| (*label).to_owned()).collect();
        let definition = |family: &FigureDefinition| Definition {
            name: named(family.name),
            kind: match family.read {
                FigureSource::Policies(_) => "counter",
                FigureSource::Views(_) => "gauge",
            },
            labels: labels(family.labels),
            help: family.help.to_owned(),
        };
        FAMILIES.iter().map(definition).collect()
    }
}

impl Collector for CatalogFigures {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let catalog = self.published.load_full();
        let families = FAMILIES.iter().map(|one| {
            let (kind, series) = one.of(&catalog);
            family(one.name, one.help, kind, series)
        });
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

impl FigureDefinition {
    fn opts(&self) -> Opts {
        Opts::new(named(self.name), self.help).variable_labels(self.labels.iter().map(|it| (*it).to_owned()).collect())
    }

    fn of(&self, catalog: &Catalog) -> (MetricType, Vec<Metric>) {
        let metric = |kind, key: &str, (rest, figure): Figure| {
            let values = std::iter::once(key).chain(rest.iter().map(String::as_str));
            series(kind, self.labels.iter().copied().zip(values), figure)
        };
        match self.read {
            FigureSource::Policies(read) => {
                let of_policy = |policy: &std::sync::Arc<CompiledPolicy>| {
                    let counted = read(policy).into_iter().filter(|(_, count)| *count > 0);
                    let key = policy.policy.key.to_string();
                    counted.map(|figure| metric(MetricType::COUNTER, &key, figure)).collect::<Vec<_>>()
                };
                (MetricType::COUNTER, catalog.policies().iter().flat_map(of_policy).collect())
            }
            FigureSource::Views(read) => {
                let reports = catalog.view_reports();
                let of_view =
                    |view: &ViewReport| metric(MetricType::GAUGE, &view.key.to_string(), (Vec::new(), read(view)));
                (MetricType::GAUGE, reports.iter().map(of_view).collect())
            }
        }
    }
}

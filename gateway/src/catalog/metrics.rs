//! Exports numbers that servers keep themselves, read on each scrape: a series in memory is ten times as large as its
//! number, and there may be ten thousand servers.

use std::sync::Arc;

use portcullis_access::DENIAL_REASONS;
use portcullis_runtime::metrics::Definition;
use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Metric, MetricFamily, MetricType};

use crate::catalog::PublishedCatalog;
use crate::catalog::{Catalog, Kind, ServerSummary};
use crate::server::handle::Handle;
use crate::server::handle::RECONNECT_REASONS;
use crate::telemetry::metrics::{OUTCOMES, family, named, series};

/// Reads the numbers of every published server.
pub struct OfServers {
    published: PublishedCatalog,
    descs: Vec<Desc>,
}

/// A server and its labels.
struct ServerRow<'a> {
    catalog: &'a Catalog,
    server: &'a Handle,
    place: ServerSummary,
}

/// One metric.
struct MetricDefinition {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    read: Read,
}

/// The source of a server's value.
#[derive(Clone, Copy)]
enum Read {
    /// Every server has one.
    Always(fn(&ServerRow<'_>) -> u64),
    /// Only servers with something to count have one, which few do.
    Sparse(fn(&ServerRow<'_>) -> u64),
    /// Only servers with a session for each client have one.
    Clients,
    /// One for each reason that occurred.
    Reconnects,
    /// One for each reason of a denial that occurred.
    Denials,
    /// One for each called tool and outcome.
    Calls,
}

const fn gauge(name: &'static str, help: &'static str, read: Read) -> MetricDefinition {
    MetricDefinition { name, kind: MetricType::GAUGE, help, read }
}

const fn counter(name: &'static str, help: &'static str, read: Read) -> MetricDefinition {
    MetricDefinition { name, kind: MetricType::COUNTER, help, read }
}

const FAMILIES: [MetricDefinition; 21] = [
    gauge(
        "server_up",
        "1 while a session with the server is open.",
        Read::Always(|row| u64::from(row.server.live().is_some())),
    ),
    gauge(
        "server_calls_in_flight",
        "Calls in flight at the server.",
        Read::Always(|row| row.server.outstanding().into()),
    ),
    gauge("client_upstream_sessions", "Sessions with the server that belong to one client.", Read::Clients),
    counter("tool_calls_total", "Tool calls.", Read::Calls),
    counter(
        "failovers_total",
        "Calls tried at another server after this server failed them.",
        Read::Always(|row| row.server.series.failovers.get()),
    ),
    counter("server_reconnects_total", "Sessions that ended or could not be opened.", Read::Reconnects),
    counter("policy_denials_total", "Calls that access policies denied.", Read::Denials),
    counter(
        "server_ejections_total",
        "Ejections of the server after failures in a row.",
        Read::Always(|row| row.server.series.ejections.get()),
    ),
    counter(
        "server_messages_dropped_total",
        "Invalid messages of the server.",
        Read::Sparse(|row| row.server.dropped()),
    ),
    gauge("catalog_tools", "Tools that the server offers.", Read::Always(|row| row.offered(Kind::Tools))),
    gauge(
        "tools_left_out",
        "Tools of the server that are left out as invalid, duplicate or too many.",
        Read::Always(|row| row.left_out(Kind::Tools)),
    ),
    gauge(
        "tools_renamed",
        "Tools of the server that are prefixed with its name because another server has the bare name.",
        Read::Always(|row| row.place.renamed.into()),
    ),
    gauge(
        "tools_shortened",
        "Tools of the server under a shortened name, if there are any.",
        Read::Sparse(|row| row.place.shortened.into()),
    ),
    gauge(
        "catalog_prompts",
        "Prompts that the server offers, if there are any.",
        Read::Sparse(|row| row.offered(Kind::Prompts)),
    ),
    gauge(
        "prompts_left_out",
        "Prompts of the server that are left out as invalid, duplicate or too many, if there are any.",
        Read::Sparse(|row| row.left_out(Kind::Prompts)),
    ),
    gauge(
        "catalog_resources",
        "Resources that the server offers, if there are any.",
        Read::Sparse(|row| row.offered(Kind::Resources)),
    ),
    gauge(
        "resources_left_out",
        "Resources of the server that are left out as invalid, duplicate or too many, if there are any.",
        Read::Sparse(|row| row.left_out(Kind::Resources)),
    ),
    gauge(
        "catalog_resource_templates",
        "Resource templates that the server offers, if there are any.",
        Read::Sparse(|row| row.offered(Kind::Templates)),
    ),
    gauge(
        "resource_templates_left_out",
        "Resource templates of the server that are left out as invalid, duplicate or too many, if there are any.",
        Read::Sparse(|row| row.left_out(Kind::Templates)),
    ),
    gauge(
        "list_problems",
        "Definitions of the server that are left out or shown without some part, if there are any.",
        Read::Sparse(|row| row.server.problems()),
    ),
    gauge(
        "resources_hidden",
        "Resources and templates of the server that are not listed because another server has their URI, if there are any.",
        Read::Sparse(|row| row.place.hidden.into()),
    ),
];

// === impl OfServers ===

impl OfServers {
    /// Reads the numbers of the newest catalog.
    pub(crate) fn new(published: PublishedCatalog) -> Self {
        let descs = FAMILIES.iter().filter_map(|family| family.opts().describe().ok()).collect();
        Self { published, descs }
    }

    /// The definitions for docs/metrics.md.
    pub fn definitions() -> Vec<Definition> {
        FAMILIES.iter().map(MetricDefinition::definition).collect()
    }
}

impl Collector for OfServers {
    fn desc(&self) -> Vec<&Desc> {
        self.descs.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let catalog = self.published.load_full();
        let rows = || {
            let servers = catalog.servers().iter();
            servers.map(|server| ServerRow { catalog: &catalog, server, place: catalog.place(server) })
        };
        let families = FAMILIES.iter().map(|one| {
            let series = rows().flat_map(|row| one.of(&row)).collect();
            family(one.name, one.help, one.kind, series)
        });
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

// === impl Family ===

impl MetricDefinition {
    fn labels(&self) -> &'static [&'static str] {
        match self.read {
            Read::Reconnects | Read::Denials => &["server", "reason"],
            Read::Calls => &["server", "tool", "outcome"],
            Read::Always(_) | Read::Sparse(_) | Read::Clients => &["server"],
        }
    }

    fn opts(&self) -> Opts {
        let labels = self.labels().iter().map(|label| (*label).to_owned()).collect();
        Opts::new(named(self.name), self.help).variable_labels(labels)
    }

    fn definition(&self) -> Definition {
        Definition {
            name: named(self.name),
            kind: if self.kind == MetricType::COUNTER { "counter" } else { "gauge" },
            labels: self.labels().iter().map(|label| (*label).to_owned()).collect(),
            help: self.help.to_owned(),
        }
    }

    /// The series of a server.
    fn of(&self, row: &ServerRow<'_>) -> Vec<Metric> {
        let one = |value| vec![self.metric(&[&row.server.name], value)];
        match self.read {
            Read::Always(read) => one(read(row)),
            Read::Sparse(read) => Some(read(row)).filter(|value| *value > 0).map_or_else(Vec::new, one),
            Read::Clients => row.server.clients().map_or_else(Vec::new, |clients| one(clients.count() as u64)),
            Read::Reconnects => self.by_reason(row, RECONNECT_REASONS.iter().zip(row.server.reconnects())),
            Read::Denials => self.by_reason(row, DENIAL_REASONS.iter().zip(row.server.denials())),
            Read::Calls => self.calls(row),
        }
    }

    fn by_reason(&self, row: &ServerRow<'_>, all: impl Iterator<Item = (&'static &'static str, u64)>) -> Vec<Metric> {
        let there = all.filter(|(_, count)| *count > 0);
        there.map(|(reason, count)| self.metric(&[&row.server.name, reason], count)).collect()
    }

    /// The calls of existing tools: a name that is no longer callable has no series.
    fn calls(&self, row: &ServerRow<'_>) -> Vec<Metric> {
        let is_there = |name: &str| row.catalog.offers_tool(row.server, name);
        let all = row.server.series.calls.all(is_there);
        let of_tool = |(tool, counts): &(Arc<str>, [u64; OUTCOMES.len()])| -> Vec<Metric> {
            let there = OUTCOMES.iter().zip(counts).filter(|(_, count)| **count > 0);
            there.map(|(outcome, count)| self.metric(&[&row.server.name, tool, outcome.as_str()], *count)).collect()
        };
        all.iter().flat_map(of_tool).collect()
    }

    fn metric(&self, labels: &[&str], value: u64) -> Metric {
        series(self.kind, self.labels().iter().copied().zip(labels.iter().copied()), value)
    }
}

// === impl Row ===

impl ServerRow<'_> {
    fn offered(&self, kind: Kind) -> u64 {
        self.catalog.offered_by(self.server, kind) as u64
    }

    fn left_out(&self, kind: Kind) -> u64 {
        self.server.left_out(kind).into()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_crds::Server;
    use prometheus::{Registry, TextEncoder};

    use super::*;
    use crate::server::handle::Offer;
    use crate::telemetry::metrics::Metrics;

    #[test]
    fn a_server_has_what_each_has_and_otherwise_only_what_it_counts() {
        let server = Arc::new(Handle::new(Server::from_url("a", "http://a/"), &Metrics::new()));
        server.count_reconnect("closed");
        server.count_reconnect("closed");
        server.series.failovers.inc();
        server.note_left_out(Kind::Prompts, 3);
        server.set_offer(Offer { listed: true, ..Offer::default() });
        let published = PublishedCatalog::default();
        let registry = Registry::new();
        registry.register(Box::new(OfServers::new(published.clone()))).unwrap();
        published.store(Arc::new(Catalog::build(vec![server])));

        let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();

        let series: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected = [
            r#"portcullis_catalog_tools{server="a"} 0"#,
            r#"portcullis_failovers_total{server="a"} 1"#,
            r#"portcullis_prompts_left_out{server="a"} 3"#,
            r#"portcullis_server_calls_in_flight{server="a"} 0"#,
            r#"portcullis_server_ejections_total{server="a"} 0"#,
            r#"portcullis_server_reconnects_total{reason="closed",server="a"} 2"#,
            r#"portcullis_server_up{server="a"} 0"#,
            r#"portcullis_tools_left_out{server="a"} 0"#,
            r#"portcullis_tools_renamed{server="a"} 0"#,
        ];
        assert_eq!(series, expected);
    }
}

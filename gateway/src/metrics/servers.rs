//! Numbers that servers keep themselves, read when somebody asks: a series in memory is ten times as large as its number,
//! and there may be ten thousand servers.

use std::sync::Arc;

use prometheus::Opts;
use prometheus::core::{Collector, Desc, Describer as _};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Definition, OUTCOMES, named};
use crate::catalog::{Catalog, Kind, Place};
use crate::handle::Handle;
use crate::pool::Published;
use crate::server::RECONNECT_REASONS;

/// Reads them of every server that is published.
pub struct OfServers {
    published: Published,
    descs: Vec<Desc>,
}

/// A server, and how it is shown.
struct Row<'a> {
    catalog: &'a Catalog,
    server: &'a Handle,
    place: Place,
}

/// One metric.
struct Family {
    name: &'static str,
    kind: MetricType,
    help: &'static str,
    read: Read,
}

/// How a server's value is read.
#[derive(Clone, Copy)]
enum Read {
    /// Each server has one.
    Always(fn(&Row<'_>) -> u64),
    /// Those have one that have something to count, which few do.
    Sparse(fn(&Row<'_>) -> u64),
    /// Those have one that have sessions for each client.
    Clients,
    /// One for each reason that there was.
    Reconnects,
    /// One for each of its tools that was called, and each outcome.
    Calls,
}

const fn gauge(name: &'static str, help: &'static str, read: Read) -> Family {
    Family { name, kind: MetricType::GAUGE, help, read }
}

const fn counter(name: &'static str, help: &'static str, read: Read) -> Family {
    Family { name, kind: MetricType::COUNTER, help, read }
}

const FAMILIES: [Family; 20] = [
    gauge(
        "server_up",
        "1 with an open session to the server.",
        Read::Always(|row| u64::from(row.server.live().is_some())),
    ),
    gauge("server_calls_in_flight", "Calls the server has now.", Read::Always(|row| row.server.outstanding().into())),
    gauge("client_upstream_sessions", "Sessions with the server that clients have for themselves.", Read::Clients),
    counter("tool_calls_total", "Tool calls.", Read::Calls),
    counter(
        "failovers_total",
        "Calls tried elsewhere after this server failed them.",
        Read::Always(|row| row.server.series.failovers.get()),
    ),
    counter("server_reconnects_total", "Sessions that ended or could not be opened.", Read::Reconnects),
    counter(
        "server_ejections_total",
        "Times the server was put last after failures in a row.",
        Read::Always(|row| row.server.series.ejections.get()),
    ),
    counter(
        "server_messages_dropped_total",
        "Messages of the server that made no sense.",
        Read::Sparse(|row| row.server.dropped()),
    ),
    gauge("catalog_tools", "Tools the server offers.", Read::Always(|row| row.offered(Kind::Tools))),
    gauge(
        "tools_left_out",
        "Tools of the server that are invalid, double or too many.",
        Read::Always(|row| row.left_out(Kind::Tools)),
    ),
    gauge(
        "tools_renamed",
        "Tools of the server that have its name in theirs because another server has the bare one.",
        Read::Always(|row| row.place.renamed.into()),
    ),
    gauge(
        "tools_shortened",
        "Tools of the server under a short form of their name, where there are any.",
        Read::Sparse(|row| row.place.shortened.into()),
    ),
    gauge(
        "catalog_prompts",
        "Prompts the server offers, where there are any.",
        Read::Sparse(|row| row.offered(Kind::Prompts)),
    ),
    gauge(
        "prompts_left_out",
        "Prompts of the server that are invalid, double or too many, where there are any.",
        Read::Sparse(|row| row.left_out(Kind::Prompts)),
    ),
    gauge(
        "catalog_resources",
        "Resources the server offers, where there are any.",
        Read::Sparse(|row| row.offered(Kind::Resources)),
    ),
    gauge(
        "resources_left_out",
        "Resources of the server that are invalid, double or too many, where there are any.",
        Read::Sparse(|row| row.left_out(Kind::Resources)),
    ),
    gauge(
        "catalog_resource_templates",
        "Resource templates the server offers, where there are any.",
        Read::Sparse(|row| row.offered(Kind::Templates)),
    ),
    gauge(
        "resource_templates_left_out",
        "Resource templates of the server that are invalid, double or too many, where there are any.",
        Read::Sparse(|row| row.left_out(Kind::Templates)),
    ),
    gauge(
        "list_problems",
        "Definitions of the server that are left out, or shown without something, where there are any.",
        Read::Sparse(|row| row.server.problems()),
    ),
    gauge(
        "resources_hidden",
        "Resources and templates of the server whose URI another server has, where there are any.",
        Read::Sparse(|row| row.place.hidden.into()),
    ),
];

// === impl OfServers ===

impl OfServers {
    /// Reads those of the newest catalog.
    pub fn new(published: Published) -> Self {
        let descs = FAMILIES.iter().filter_map(|family| family.opts().describe().ok()).collect();
        Self { published, descs }
    }

    /// What they are, for docs/metrics.md.
    pub fn definitions() -> Vec<Definition> {
        FAMILIES.iter().map(Family::definition).collect()
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
            servers.map(|server| Row { catalog: &catalog, server, place: catalog.place(server) })
        };
        let families = FAMILIES.iter().map(|family| {
            let mut all = MetricFamily::default();
            all.set_name(named(family.name));
            all.set_help(family.help.to_owned());
            all.set_field_type(family.kind);
            all.set_metric(rows().flat_map(|row| family.of(&row)).collect());
            all
        });
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

// === impl Family ===

impl Family {
    fn labels(&self) -> &'static [&'static str] {
        match self.read {
            Read::Reconnects => &["server", "reason"],
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

    /// A server's series.
    fn of(&self, row: &Row<'_>) -> Vec<Metric> {
        let one = |value| vec![self.metric(&[&row.server.name], value)];
        match self.read {
            Read::Always(read) => one(read(row)),
            Read::Sparse(read) => Some(read(row)).filter(|value| *value > 0).map_or_else(Vec::new, one),
            Read::Clients => row.server.clients().map_or_else(Vec::new, |clients| one(clients.count() as u64)),
            Read::Reconnects => {
                let all = RECONNECT_REASONS.iter().zip(row.server.reconnects());
                let there = all.filter(|(_, count)| *count > 0);
                there.map(|(reason, count)| self.metric(&[&row.server.name, reason], count)).collect()
            }
            Read::Calls => self.calls(row),
        }
    }

    /// Of the tools that are there: a name that nobody can call any more has no series.
    fn calls(&self, row: &Row<'_>) -> Vec<Metric> {
        let is_there = |name: &str| row.catalog.offers_tool(row.server, name);
        let all = row.server.series.calls.all(is_there);
        let of_tool = |(tool, counts): &(Arc<str>, [u64; OUTCOMES.len()])| -> Vec<Metric> {
            let there = OUTCOMES.iter().zip(counts).filter(|(_, count)| **count > 0);
            there.map(|(outcome, count)| self.metric(&[&row.server.name, tool, outcome.as_str()], *count)).collect()
        };
        all.iter().flat_map(of_tool).collect()
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
    fn metric(&self, labels: &[&str], value: u64) -> Metric {
        let pairs = self.labels().iter().zip(labels).map(|(name, value)| {
            let mut pair = LabelPair::default();
            pair.set_name((*name).to_owned());
            pair.set_value((*value).to_owned());
            pair
        });
        let mut pairs: Vec<LabelPair> = pairs.collect();
        pairs.sort();
        let mut metric = Metric::from_label(pairs);
        if self.kind == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value as f64);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value as f64);
            metric.set_gauge(gauge);
        }
        metric
    }
}

// === impl Row ===

impl Row<'_> {
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
    use crate::handle::Offer;
    use crate::metrics::Metrics;

    #[test]
    fn a_server_has_what_each_has_and_otherwise_only_what_it_counts() {
        let server = Arc::new(Handle::new(Server::from_url("a", "http://a/"), &Metrics::new()));
        server.count_reconnect("closed");
        server.count_reconnect("closed");
        server.series.failovers.inc();
        server.note_left_out(Kind::Prompts, 3);
        server.set_offer(Offer { listed: true, ..Offer::default() });
        let published = Published::default();
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

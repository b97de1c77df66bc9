//! What `/servers` and `/health` tell, written from memory: no server is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_crds::Reason;
use portcullis_runtime::log::timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalog::{Catalog, Kind};
use crate::handle::Handle;
use crate::shown;
use crate::source::Soundness;

/// The body of `GET /servers`.
#[derive(Serialize, ToSchema)]
pub struct Servers<'a> {
    /// Each server, by its name, or by its URL without the query where it was configured as a URL.
    servers: BTreeMap<String, ServerView<'a>>,
    /// All of them together.
    summary: Summary,
}

/// One server.
#[derive(Serialize, ToSchema)]
#[schema(as = Server)]
struct ServerView<'a> {
    /// It has an open session.
    connected: bool,
    /// How many of its tools are listed.
    tools_count: usize,
    /// Their names, sorted.
    available_tools: Vec<&'a str>,
    /// How many prompts it offers.
    prompts_count: usize,
    /// How many resources it offers.
    resources_count: usize,
    /// How many resource templates it offers.
    resource_templates_count: usize,
    /// `sse` or `streamable-http`, once that is known.
    #[schema(required = true)]
    transport: Option<&'static str>,
    /// The MCP revision that is spoken, once that is known.
    #[schema(required = true)]
    protocol_version: Option<String>,
    /// What went wrong last, until it is well again.
    #[schema(required = true)]
    last_error: Option<String>,
    /// The same in one word, as the status of an McpServer says it.
    #[schema(required = true)]
    reason: Option<&'static str>,
    /// When its state changed last (RFC 3339).
    since: String,
    /// The name that logs, metrics and `X-Portcullis-Server` use.
    name: String,
    /// `connecting`, `ready`, `degraded`, `backoff`, `draining` or `disabled`.
    state: &'static str,
    /// Its URL without the query.
    url: String,
    /// Name for people, from its manifest.
    #[schema(required = true)]
    display_name: Option<String>,
    /// What it is for, from its manifest.
    #[schema(required = true)]
    description: Option<String>,
    /// What it says about itself.
    #[schema(required = true)]
    server_info: Option<ServerInfo>,
    /// Tools that are invalid, double or too many.
    tools_left_out: usize,
    /// What is wrong with what it lists: what is left out, or shown without something, because clients would refuse the
    /// whole list for it. The first 16, a sentence each.
    list_problems: Vec<String>,
    /// How many such problems there are.
    list_problems_count: u32,
    /// Tools and prompts on which an older server of its pool does not agree, so that they go by names of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pool_disagreements: Vec<String>,
    /// Calls it has now.
    calls_in_flight: u32,
    /// It failed several calls in a row: others are tried first.
    ejected: bool,
}

/// What a server says about itself.
#[derive(Serialize, ToSchema)]
struct ServerInfo {
    /// Name of the software.
    name: String,
    /// Its version.
    version: String,
}

/// All servers together.
#[derive(Serialize, ToSchema)]
struct Summary {
    /// How many are configured.
    total_servers: usize,
    /// How many have an open session.
    connected_servers: usize,
    /// How many tools can be called.
    total_tools: usize,
}

/// The body of `GET /health`.
#[derive(Serialize, ToSchema)]
pub struct Health {
    /// Always `healthy`: the process lives.
    status: &'static str,
    /// The servers.
    servers: HealthServers,
    /// The tools.
    tools: Total,
    /// Whether all that was configured is in use.
    configuration: Configuration,
}

/// The servers, in short.
#[derive(Serialize, ToSchema)]
struct HealthServers {
    /// How many are configured.
    total: usize,
    /// How many have an open session.
    connected: usize,
    /// Each server, by its name; with a token, by its URL without the query where it was configured as a URL.
    status: BTreeMap<String, HealthServer>,
}

/// One server, in short.
#[derive(Serialize, ToSchema)]
struct HealthServer {
    /// It has an open session.
    connected: bool,
    /// How many of its tools are listed.
    tools_count: usize,
}

/// A number of things.
#[derive(Serialize, ToSchema)]
struct Total {
    /// How many.
    total: usize,
}

/// Whether all that was configured is in use.
#[derive(Serialize, ToSchema)]
struct Configuration {
    /// Nothing is wrong.
    ok: bool,
    /// What is refused, one sentence each. Only for callers with a token, and only if there is something.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    problems: Vec<String>,
}

impl<'a> Servers<'a> {
    /// Everything about every server.
    pub fn of(catalog: &'a Catalog) -> Self {
        let mut names = names_by_server(catalog);
        let servers: BTreeMap<String, ServerView<'a>> = catalog
            .servers()
            .iter()
            .map(|server| {
                let tools = names.remove(&Arc::as_ptr(server)).unwrap_or_default();
                (server.spec().label().to_owned(), ServerView::of(catalog, server, tools))
            })
            .collect();
        let summary = Summary {
            total_servers: servers.len(),
            connected_servers: servers.values().filter(|server| server.connected).count(),
            total_tools: catalog.count(Kind::Tools),
        };
        Self { servers, summary }
    }
}

impl<'a> ServerView<'a> {
    fn of(catalog: &Catalog, server: &Handle, available_tools: Vec<&'a str>) -> Self {
        let (status, spec) = (server.status(), server.spec());
        let listed = |kind| catalog.offered_by(server, kind);
        let problems = status.all_problems();
        Self {
            connected: catalog.is_connected(server),
            tools_count: available_tools.len(),
            available_tools,
            prompts_count: listed(Kind::Prompts),
            resources_count: listed(Kind::Resources),
            resource_templates_count: listed(Kind::Templates),
            transport: status.transport,
            protocol_version: status.protocol_version,
            last_error: status.last_error,
            reason: status.reason.map(Reason::as_str),
            since: rfc3339(status.since),
            name: server.name.clone(),
            state: match spec.state {
                portcullis_crds::mcpserver::State::Draining => "draining",
                _ => status.phase.as_str(),
            },
            url: shown::address(&spec.url),
            display_name: spec.display_name.clone(),
            description: spec.description.clone(),
            server_info: status.server_info.map(|(name, version)| ServerInfo { name, version }),
            tools_left_out: status.left_out,
            list_problems: problems.first,
            list_problems_count: problems.count,
            pool_disagreements: catalog.place(server).disagreed.iter().map(|name| name.to_string()).collect(),
            calls_in_flight: server.outstanding(),
            ejected: server.is_ejected(),
        }
    }
}

impl Health {
    /// What anybody may know; with `known`, also the URLs as configured and what is wrong with the configuration.
    pub fn of(catalog: &Catalog, soundness: &Soundness, known: bool) -> Self {
        let mut names = names_by_server(catalog);
        let status: BTreeMap<String, HealthServer> = catalog
            .servers()
            .iter()
            .map(|server| {
                let key = if known { server.spec().label().to_owned() } else { server.name.clone() };
                let tools_count = names.remove(&Arc::as_ptr(server)).map_or(0, |names| names.len());
                (key, HealthServer { connected: catalog.is_connected(server), tools_count })
            })
            .collect();
        let connected = status.values().filter(|server| server.connected).count();
        Self {
            status: "healthy",
            servers: HealthServers { total: status.len(), connected, status },
            tools: Total { total: catalog.count(Kind::Tools) },
            configuration: Configuration {
                ok: soundness.problems.is_empty(),
                problems: if known { soundness.problems.clone() } else { Vec::new() },
            },
        }
    }
}

fn names_by_server(catalog: &Catalog) -> std::collections::HashMap<*const Handle, Vec<&str>> {
    let mut names: std::collections::HashMap<*const Handle, Vec<&str>> = std::collections::HashMap::new();
    for entry in catalog.listed(Kind::Tools) {
        for candidate in entry.candidates.iter().filter(|candidate| candidate.listed) {
            names.entry(Arc::as_ptr(&candidate.server)).or_default().push(&*entry.name);
        }
    }
    names
}

fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::with_capacity(24);
    timestamp(time, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

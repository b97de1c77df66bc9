//! The bodies of `/servers` and `/health`, written from memory: the gateway asks no server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_crds::Reason;
use portcullis_runtime::log::timestamp;
use serde::Serialize;
use utoipa::ToSchema;

use crate::catalog::{Catalog, Kind};
use crate::server::handle::Handle;
use crate::source::Soundness;
use crate::status::report;
use crate::util::shown;

/// The body of `GET /servers`.
#[derive(Serialize, ToSchema)]
#[schema(as = Servers)]
pub(crate) struct ServersView<'a> {
    /// Each server, by its name, or by its URL without the query where it was configured as a URL.
    servers: BTreeMap<String, ServerView<'a>>,
    /// Totals of all servers.
    summary: Summary,
}

/// One server.
#[derive(Serialize, ToSchema)]
#[schema(as = Server)]
struct ServerView<'a> {
    /// Whether a session with it is open.
    connected: bool,
    /// Number of its listed tools.
    tools_count: usize,
    /// Their names, sorted.
    available_tools: Vec<&'a str>,
    /// Number of its prompts.
    prompts_count: usize,
    /// Number of its resources.
    resources_count: usize,
    /// Number of its resource templates.
    resource_templates_count: usize,
    /// `sse` or `streamable-http`, once known.
    #[schema(required = true)]
    transport: Option<&'static str>,
    /// The MCP revision in use, once known.
    #[schema(required = true)]
    protocol_version: Option<String>,
    /// The last problem, until the server is ready again.
    #[schema(required = true)]
    last_error: Option<String>,
    /// The reason in one word, as in the status of an McpServer.
    #[schema(required = true)]
    reason: Option<&'static str>,
    /// Time when its state last changed (RFC 3339).
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
    /// Its description, from its manifest.
    #[schema(required = true)]
    description: Option<String>,
    /// Its own name and version.
    #[schema(required = true)]
    server_info: Option<ServerInfoView>,
    /// What clients are told of it in its own words, or in those of its manifest.
    #[schema(required = true)]
    instructions: Option<String>,
    /// Names of its MCP extensions, at most 32.
    extensions: Vec<String>,
    /// Tools that are left out as invalid, duplicate or too many.
    tools_left_out: usize,
    /// Problems of its lists: definitions that are left out or shown without some part, because clients would refuse the
    /// whole list for them. The first 16, one sentence each.
    list_problems: Vec<String>,
    /// Number of all these problems.
    list_problems_count: u32,
    /// Tools and prompts that an older server of its pool defines differently, so that they get names of their own.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    pool_disagreements: Vec<String>,
    /// `perCaller` if it is listed for each caller: the tools, prompts and resources that it has for a caller are in no number
    /// here.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    listing: Option<&'static str>,
    /// Calls in flight.
    calls_in_flight: u32,
    /// Whether it failed several calls in a row: the gateway tries other servers first.
    ejected: bool,
}

/// The name and version that a server reports.
#[derive(Serialize, ToSchema)]
#[schema(as = ServerInfo)]
struct ServerInfoView {
    /// Name of the software.
    name: String,
    /// Its version.
    version: String,
}

/// Totals of all servers.
#[derive(Serialize, ToSchema)]
struct Summary {
    /// Number of configured servers.
    total_servers: usize,
    /// Number of servers with an open session.
    connected_servers: usize,
    /// Number of tools that can be called.
    total_tools: usize,
}

/// The body of `GET /health`.
#[derive(Serialize, ToSchema)]
#[schema(as = Health)]
pub(crate) struct HealthView {
    /// Always `healthy`: the process lives.
    status: &'static str,
    /// The servers.
    servers: HealthServers,
    /// The tools.
    tools: Total,
    /// Whether all that was configured is in use.
    configuration: ConfigurationView,
}

/// The servers, in short.
#[derive(Serialize, ToSchema)]
struct HealthServers {
    /// Number of configured servers.
    total: usize,
    /// Number of servers with an open session.
    connected: usize,
    /// Each server, by its name; with a token, by its URL without the query where it was configured as a URL. Without a token
    /// those alone that no policy restricts.
    status: BTreeMap<String, HealthServer>,
}

/// One server, in short.
#[derive(Serialize, ToSchema)]
struct HealthServer {
    /// Whether a session with it is open.
    connected: bool,
    /// Number of its listed tools.
    tools_count: usize,
}

/// A number of things.
#[derive(Serialize, ToSchema)]
struct Total {
    /// The number.
    total: usize,
}

/// Whether all that was configured is in use.
#[derive(Serialize, ToSchema)]
#[schema(as = Configuration)]
struct ConfigurationView {
    /// Nothing is wrong.
    ok: bool,
    /// The refused parts, one sentence each. Only for callers with a token, and only if any part is refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    problems: Vec<String>,
}

impl<'a> ServersView<'a> {
    /// Everything about every server.
    pub(crate) fn of(catalog: &'a Catalog) -> Self {
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
            state: report::state_of(&spec, status.phase),
            url: shown::address(&spec.url),
            display_name: spec.display_name.clone(),
            description: spec.description.clone(),
            server_info: status.server_info.map(|(name, version)| ServerInfoView { name, version }),
            instructions: server.instructions().map(|text| text.to_string()),
            extensions: server.offer().extensions.names().map(str::to_owned).collect(),
            tools_left_out: status.left_out,
            list_problems: problems.first,
            list_problems_count: problems.count,
            pool_disagreements: catalog.place(server).disagreed.iter().map(|name| name.to_string()).collect(),
            listing: spec.listing.per_caller.then_some("perCaller"),
            calls_in_flight: server.outstanding(),
            ejected: server.is_ejected(),
        }
    }
}

impl HealthView {
    /// The public part, which counts servers that a policy restricts but does not name them; with `known`, also the URLs as
    /// configured and the problems of the configuration.
    pub(crate) fn of(catalog: &Catalog, soundness: &Soundness, known: bool) -> Self {
        let mut names = names_by_server(catalog);
        let status: BTreeMap<String, HealthServer> = catalog
            .servers()
            .iter()
            .filter(|server| known || catalog.is_open_to_all(server))
            .map(|server| {
                let key = if known { server.spec().label().to_owned() } else { server.name.clone() };
                let tools_count = names.remove(&Arc::as_ptr(server)).map_or(0, |names| names.len());
                (key, HealthServer { connected: catalog.is_connected(server), tools_count })
            })
            .collect();
        let all = catalog.servers();
        let connected = all.iter().filter(|server| catalog.is_connected(server)).count();
        Self {
            status: "healthy",
            servers: HealthServers { total: all.len(), connected, status },
            tools: Total { total: catalog.count(Kind::Tools) },
            configuration: ConfigurationView {
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

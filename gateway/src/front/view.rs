//! What `/servers` and `/health` tell, written from memory: no server is asked.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use portcullis_runtime::log::timestamp;
use serde::Serialize;

use crate::catalog::Catalog;
use crate::handle::Handle;
use crate::source::Soundness;

/// The body of `GET /servers`.
#[derive(Serialize)]
pub struct Servers<'a> {
    servers: BTreeMap<String, ServerView<'a>>,
    summary: Summary,
}

#[derive(Serialize)]
struct ServerView<'a> {
    connected: bool,
    tools_count: usize,
    available_tools: Vec<&'a str>,
    transport: Option<&'static str>,
    protocol_version: Option<String>,
    last_error: Option<String>,
    since: String,
    name: String,
    state: &'static str,
    url: String,
    display_name: Option<String>,
    description: Option<String>,
    server_info: Option<ServerInfo>,
    tools_left_out: usize,
    calls_in_flight: u32,
    ejected: bool,
}

#[derive(Serialize)]
struct ServerInfo {
    name: String,
    version: String,
}

#[derive(Serialize)]
struct Summary {
    total_servers: usize,
    connected_servers: usize,
    total_tools: usize,
}

/// The body of `GET /health`.
#[derive(Serialize)]
pub struct Health {
    status: &'static str,
    servers: HealthServers,
    tools: Total,
    configuration: Configuration,
}

#[derive(Serialize)]
struct HealthServers {
    total: usize,
    connected: usize,
    status: BTreeMap<String, HealthServer>,
}

#[derive(Serialize)]
struct HealthServer {
    connected: bool,
    tools_count: usize,
}

#[derive(Serialize)]
struct Total {
    total: usize,
}

#[derive(Serialize)]
struct Configuration {
    ok: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
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
            total_tools: catalog.tool_count(),
        };
        Self { servers, summary }
    }
}

impl<'a> ServerView<'a> {
    fn of(catalog: &Catalog, server: &Handle, available_tools: Vec<&'a str>) -> Self {
        let (status, spec) = (server.status(), server.spec());
        Self {
            connected: catalog.is_connected(server),
            tools_count: available_tools.len(),
            available_tools,
            transport: status.transport,
            protocol_version: status.protocol_version,
            last_error: status.last_error,
            since: rfc3339(status.since),
            name: server.name.clone(),
            state: match spec.state {
                portcullis_crds::mcpserver::State::Draining => "draining",
                _ => status.phase.as_str(),
            },
            url: without_query(&spec.url),
            display_name: spec.display_name.clone(),
            description: spec.description.clone(),
            server_info: status.server_info.map(|(name, version)| ServerInfo { name, version }),
            tools_left_out: status.left_out,
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
            tools: Total { total: catalog.tool_count() },
            configuration: Configuration {
                ok: soundness.problems.is_empty(),
                problems: if known { soundness.problems.clone() } else { Vec::new() },
            },
        }
    }
}

fn names_by_server(catalog: &Catalog) -> std::collections::HashMap<*const Handle, Vec<&str>> {
    let mut names: std::collections::HashMap<*const Handle, Vec<&str>> = std::collections::HashMap::new();
    for (name, entry) in catalog.listed() {
        for candidate in entry.candidates.iter().filter(|candidate| candidate.listed) {
            names.entry(Arc::as_ptr(&candidate.server)).or_default().push(name);
        }
    }
    names
}

/// Queries of URLs often hold keys.
fn without_query(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

fn rfc3339(time: SystemTime) -> String {
    let mut text = Vec::with_capacity(24);
    timestamp(time, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

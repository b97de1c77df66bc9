//! McpServers → what the gateway connects to, and a verdict for each.
//!
//! Pure. A bad McpServer never hides the good ones; equal inputs give equal outputs in any order.

use std::collections::BTreeMap;

use crate::conditions::Reason;
use crate::mcpserver::{McpServer, Scheme, ServicePort, ServiceRef, Transport};
use crate::names::{DEFAULT_NAMESPACE, ServerKey};
use crate::rules;
use crate::slots::MAX_ENTRY_BYTES;
use crate::snapshot::{Server, Snapshot};

/// What `resolve` made of its input.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    /// The servers that were accepted.
    pub snapshot: Snapshot,
    /// One verdict for each McpServer, sorted by key.
    pub verdicts: Vec<Verdict>,
}

/// What became of one McpServer.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// Which one.
    pub key: ServerKey,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// What is wrong with it, if anything is.
    pub refusal: Option<Refusal>,
    /// [`Server::revision`] of what it became; none if it was left out.
    pub revision: Option<String>,
}

/// What is wrong with an McpServer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason of the condition: `Invalid`, `TooLarge`, `Duplicate`, `ServiceNotFound` or `PortNotFound`.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
}

/// The ports of Services, by namespace and name: each with its name, if it has one, and its number.
pub type ServicePorts = BTreeMap<(String, String), Vec<(Option<String>, u16)>>;

/// What is known of Services.
#[derive(Clone, Copy, Debug)]
pub enum Services<'a> {
    /// There is no cluster: no Service can be found.
    Unknown,
    /// Every Service that may be named.
    Known(&'a ServicePorts),
}

/// Translates McpServers into a snapshot. `home` is the namespace whose servers go by their bare names.
pub fn resolve<'a>(servers: impl IntoIterator<Item = &'a McpServer>, home: &str, services: Services<'_>) -> Resolution {
    let mut by_key: BTreeMap<ServerKey, Vec<&McpServer>> = BTreeMap::new();
    for server in servers {
        by_key.entry(key_of(server)).or_default().push(server);
    }
    let mut accepted = Vec::new();
    let mut verdicts = Vec::new();
    for (key, same) in by_key {
        let (server, refusal) = judge(&key, &same, home, services);
        let generation = same[0].metadata.generation.unwrap_or(0);
        verdicts.push(Verdict { key, generation, refusal, revision: server.as_ref().map(|server| server.revision()) });
        accepted.extend(server.map(|server| *server));
    }
    Resolution { snapshot: Snapshot::new(accepted), verdicts }
}

/// The key of an McpServer; a missing namespace is the default one.
pub fn key_of(server: &McpServer) -> ServerKey {
    let namespace = server.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    ServerKey::new(namespace.unwrap_or(DEFAULT_NAMESPACE), server.metadata.name.as_deref().unwrap_or_default())
}

fn judge(
    key: &ServerKey,
    same: &[&McpServer],
    home: &str,
    services: Services<'_>,
) -> (Option<Box<Server>>, Option<Refusal>) {
    if same.len() > 1 {
        let message = format!("{key} is declared {} times: keep one", same.len());
        return (None, Some(refusal(Reason::Duplicate, message)));
    }
    let spec = &same[0].spec;
    let mut problems = Vec::new();
    for (field, name) in [("name", &key.name), ("namespace", &key.namespace)] {
        if !rules::is_dns_label(name) {
            problems.push(format!(
                "metadata.{field} {name:?} is no DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"
            ));
        }
    }
    problems.extend(rules::problems(spec));
    if !problems.is_empty() {
        return (None, Some(refusal(Reason::Invalid, problems.join("; "))));
    }
    let (url, refused) = match (&spec.url, &spec.service) {
        (Some(url), _) => (Some(url.clone()), None),
        (None, Some(service)) => service_url(key, service, spec.transport, services),
        (None, None) => (None, None),
    };
    let server = url.map(|url| Box::new(server_of(key, same[0], home, url)));
    let bytes = server.as_ref().map_or(0, |server| server.to_text().len());
    if bytes > MAX_ENTRY_BYTES {
        let message = format!("it takes {bytes} bytes, and at most {MAX_ENTRY_BYTES} fit: shorten tools and headers");
        return (None, Some(refusal(Reason::TooLarge, message)));
    }
    (server, refused)
}

/// The URL of a Service, and what is wrong with it. By its number a port is known even while the Service is away, so a
/// server whose Service is made anew stays what it is.
fn service_url(
    key: &ServerKey,
    service: &ServiceRef,
    transport: Transport,
    services: Services<'_>,
) -> (Option<String>, Option<Refusal>) {
    let name = &service.name;
    let Services::Known(known) = services else {
        let message = "spec.service can be found only in a cluster: set spec.url here".to_owned();
        return (None, Some(refusal(Reason::ServiceNotFound, message)));
    };
    let scheme = if service.scheme == Scheme::Https { "https" } else { "http" };
    let path = service.path.as_deref().unwrap_or(if transport == Transport::Sse { "/sse" } else { "/mcp" });
    let url = |port: u16| format!("{scheme}://{name}.{}.svc:{port}{path}", key.namespace);
    let number = if let ServicePort::Number(number) = service.port { Some(url(number)) } else { None };
    let Some(ports) = known.get(&(key.namespace.clone(), name.clone())) else {
        let message =
            format!("Service {name:?} is not in namespace {:?}: create it or correct spec.service", key.namespace);
        return (number, Some(refusal(Reason::ServiceNotFound, message)));
    };
    let found = ports.iter().find(|(its_name, its_number)| match &service.port {
        ServicePort::Number(number) => number == its_number,
        ServicePort::Name(wanted) => its_name.as_ref() == Some(wanted),
    });
    match found {
        Some((_, port)) => (Some(url(*port)), None),
        None => {
            let all: Vec<String> = ports.iter().map(|(_, port)| port.to_string()).collect();
            let wanted = match &service.port {
                ServicePort::Number(number) => number.to_string(),
                ServicePort::Name(name) => name.clone(),
            };
            let message = format!("Service {name:?} has no port {wanted}: use one of {}", all.join(", "));
            (number, Some(refusal(Reason::PortNotFound, message)))
        }
    }
}

fn server_of(key: &ServerKey, server: &McpServer, home: &str, url: String) -> Server {
    let spec = &server.spec;
    Server {
        name: key.public_name(home),
        key: key.clone(),
        label: None,
        generation: server.metadata.generation.unwrap_or(0),
        created: server.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        url,
        transport: spec.transport,
        protocol_version: spec.protocol_version.clone(),
        display_name: spec.display_name.clone(),
        description: spec.description.clone(),
        weight: spec.weight,
        priority: spec.priority,
        state: spec.state,
        headers: spec.headers.clone(),
        forward_headers: spec.forward_headers.clone(),
        tls: spec.tls.clone(),
        timeouts: spec.timeouts,
        health_check: spec.health_check,
        limits: spec.limits,
        pool: spec.pool.clone(),
        session: spec.session,
        client_sessions: spec.client_sessions,
        tools: spec.tools.clone(),
        read_from: crate::snapshot::ReadFrom::default(),
    }
}

fn refusal(reason: Reason, message: String) -> Refusal {
    Refusal { reason, message }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn server(namespace: &str, name: &str, url: &str) -> McpServer {
        let yaml = format!(
            "{{apiVersion: portcullis.dev/v1alpha1, kind: McpServer, metadata: {{namespace: '{namespace}', name: '{name}', generation: 3}}, spec: {{url: '{url}'}}}}"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    fn refused(resolution: &Resolution) -> Vec<(String, Reason)> {
        let refusals = resolution.verdicts.iter().filter_map(|v| Some((v.key.to_string(), v.refusal.as_ref()?.reason)));
        refusals.collect()
    }

    #[test]
    fn a_bad_server_hides_no_other() {
        let by_service: McpServer = serde_yaml::from_str(
            "{apiVersion: portcullis.dev/v1alpha1, kind: McpServer, metadata: {name: s}, spec: {service: {name: a, port: 1}}}",
        )
        .unwrap();
        let all = [
            server("team", "good", "http://a/"),
            server("", "plain", "http://b/"),
            server("", "bad", "ftp://c/"),
            server("", "UPPER", "http://d/"),
            server("", "double", "http://e/"),
            server("default", "double", "http://f/"),
            by_service,
        ];
        let resolution = resolve(&all, "default", Services::Unknown);
        let names: Vec<_> = resolution.snapshot.servers.iter().map(|s| (s.name.as_str(), s.generation)).collect();
        assert_eq!(names, [("plain", 3), ("team/good", 3)]);
        assert_eq!(
            refused(&resolution),
            [
                ("default/UPPER".to_owned(), Reason::Invalid),
                ("default/bad".to_owned(), Reason::Invalid),
                ("default/double".to_owned(), Reason::Duplicate),
                ("default/s".to_owned(), Reason::ServiceNotFound),
            ]
        );
    }

    fn by_service(port: &str, more: &str) -> McpServer {
        let yaml = format!(
            "{{apiVersion: portcullis.dev/v1alpha1, kind: McpServer, metadata: {{namespace: team, name: s}}, spec: {{service: {{name: a, port: {port}}}{more}}}}}"
        );
        serde_yaml::from_str(&yaml).unwrap()
    }

    #[test]
    fn a_service_becomes_a_url_and_a_missing_one_is_told() {
        let ports = vec![(Some("mcp".to_owned()), 8080), (None, 9090)];
        let known = BTreeMap::from([(("team".to_owned(), "a".to_owned()), ports)]);
        let (here, nowhere) = (Services::Known(&known), BTreeMap::new());
        let away = Services::Known(&nowhere);
        let cases = [
            ("8080", "", here, Some("http://a.team.svc:8080/mcp"), None),
            ("mcp", ", transport: sse", here, Some("http://a.team.svc:8080/sse"), None),
            ("9090", "", here, Some("http://a.team.svc:9090/mcp"), None),
            ("http", "", here, None, Some(Reason::PortNotFound)),
            ("1", "", here, Some("http://a.team.svc:1/mcp"), Some(Reason::PortNotFound)),
            ("8080", "", away, Some("http://a.team.svc:8080/mcp"), Some(Reason::ServiceNotFound)),
            ("mcp", "", away, None, Some(Reason::ServiceNotFound)),
        ];
        for (port, more, services, url, reason) in cases {
            let resolution = resolve(&[by_service(port, more)], "default", services);
            let found = resolution.snapshot.servers.first().map(|server| server.url.as_str());
            let refusal = resolution.verdicts[0].refusal.as_ref().map(|refusal| refusal.reason);
            assert_eq!((found, refusal), (url, reason), "{port}{more}");
            let revision = resolution.snapshot.servers.first().map(Server::revision);
            assert_eq!(resolution.verdicts[0].revision, revision);
        }
    }

    proptest! {
        #[test]
        fn the_order_of_the_servers_does_not_matter(names in prop::collection::vec("[a-c]", 0..6), turn in 0usize..6) {
            let mut servers: Vec<McpServer> = names.iter().map(|name| server("n", name, "http://x/")).collect();
            let before = resolve(&servers, "n", Services::Unknown);
            let middle = turn.min(servers.len());
            servers.rotate_left(middle);
            prop_assert_eq!(resolve(&servers, "n", Services::Unknown), before);
        }
    }
}

//! Resolves McpServers to the servers that the gateway connects to, with a verdict for each.
//!
//! Pure. A bad McpServer never hides the good ones; equal inputs give equal outputs in any order.

use std::collections::BTreeMap;

use crate::conditions::Reason;
use crate::mcpserver::{McpServer, Scheme, ServicePort, ServiceRef, Transport};
use crate::names::{DEFAULT_NAMESPACE, ServerKey};
use crate::policy::Policies;
use crate::rules;
use crate::slots::MAX_ENTRY_BYTES;
use crate::snapshot::{Governing, Server, Snapshot};
use crate::view::Views;

/// The result of [`resolve`].
#[derive(Clone, Debug, PartialEq)]
pub struct Resolution {
    /// The accepted servers.
    pub snapshot: Snapshot,
    /// One verdict for each McpServer, sorted by key.
    pub verdicts: Vec<ServerVerdict>,
}

/// The verdict on one McpServer.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerVerdict {
    /// The McpServer.
    pub key: ServerKey,
    /// Its `metadata.generation`.
    pub generation: i64,
    /// Why it is refused; none: it is accepted.
    pub refusal: Option<SpecRefusal>,
    /// [`Server::revision`] of its server; none if it was left out.
    pub revision: Option<String>,
}

/// Why an McpServer is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpecRefusal {
    /// The reason of the condition: `Invalid`, `TooLarge`, `Duplicate`, `ServiceNotFound`,
    /// `ServiceExternal` or `PortNotFound`.
    pub reason: Reason,
    /// One sentence for people.
    pub message: String,
}

/// The Services of the cluster, by namespace and name.
pub type KnownServices = BTreeMap<(String, String), KnownService>;

/// The facts of a Service that decide a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownService {
    /// The Service is only another name for a host outside of the cluster.
    pub is_external: bool,
    /// Its ports.
    pub ports: Vec<KnownPort>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KnownPort {
    /// Its name, if it has one.
    pub name: Option<String>,
    /// Its number.
    pub number: u16,
    /// The port to connect to. Of a headless Service it is the pods' own port; none: the port has a name there, which
    /// only the pods know.
    pub connect: Option<u16>,
}

/// The Services to resolve with.
#[derive(Clone, Copy, Debug)]
pub enum Services<'a> {
    /// There is no cluster, so no Service is found.
    Unknown,
    /// All Services of the cluster.
    Known(&'a KnownServices),
}

/// Objects besides a server that decide what the gateway gets of it.
#[derive(Clone, Copy, Debug)]
pub struct AroundServers<'a> {
    /// All policies that may govern servers.
    pub policies: &'a Policies,
    /// All views that may select servers; none: there are no views.
    pub views: Option<&'a Views>,
}

impl<'a> From<&'a Policies> for AroundServers<'a> {
    fn from(policies: &'a Policies) -> Self {
        Self { policies, views: None }
    }
}

impl<'a> From<(&'a Policies, &'a Views)> for AroundServers<'a> {
    fn from((policies, views): (&'a Policies, &'a Views)) -> Self {
        Self { policies, views: Some(views) }
    }
}

/// Resolves McpServers into a snapshot. `home` is the namespace whose servers go by their bare names; `around` are the policies
/// that may govern them, and the views that may select them.
pub fn resolve<'a>(
    servers: impl IntoIterator<Item = &'a McpServer>,
    around: impl Into<AroundServers<'a>>,
    home: &str,
    services: Services<'_>,
) -> Resolution {
    let around = around.into();
    let mut by_key: BTreeMap<ServerKey, Vec<&McpServer>> = BTreeMap::new();
    for server in servers {
        by_key.entry(key_of(server)).or_default().push(server);
    }
    let mut accepted = Vec::new();
    let mut verdicts = Vec::new();
    for (key, same) in by_key {
        let (server, refusal) = judge(&key, &same, around, home, services);
        let generation = same[0].metadata.generation.unwrap_or(0);
        verdicts.push(ServerVerdict {
            key,
            generation,
            refusal,
            revision: server.as_ref().map(|server| server.revision()),
        });
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
    AroundServers { policies, views }: AroundServers<'_>,
    home: &str,
    services: Services<'_>,
) -> (Option<Box<Server>>, Option<SpecRefusal>) {
    if same.len() > 1 {
        let message = format!("{key} is declared {} times: keep one", same.len());
        return (None, Some(refusal(Reason::Duplicate, message)));
    }
    let spec = &same[0].spec;
    let mut problems = Vec::new();
    for (field, name) in [("name", &key.name), ("namespace", &key.namespace)] {
        if !rules::is_dns_label(name) {
            problems.push(format!(
                "metadata.{field} {name:?} is not a DNS label: use at most 63 of a-z, 0-9 and '-', and neither begin \
                 nor end with '-'"
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
    let server =
        url.map(|url| Box::new(policies.govern_beside(views, server_of(key, same[0], home, url), labels_of(same[0]))));
    let bytes = server.as_ref().map_or(0, |server| server.to_text().len());
    if bytes > MAX_ENTRY_BYTES {
        let message = format!("it takes {bytes} bytes, but at most {MAX_ENTRY_BYTES} fit: shorten tools and headers");
        return (None, Some(refusal(Reason::TooLarge, message)));
    }
    (server, refused)
}

/// The URL of a Service, and its problem. A port number is known even while the Service is away, so a server whose
/// Service is recreated stays as it is.
fn service_url(
    key: &ServerKey,
    service: &ServiceRef,
    transport: Transport,
    services: Services<'_>,
) -> (Option<String>, Option<SpecRefusal>) {
    let name = &service.name;
    let Services::Known(known) = services else {
        let message = "spec.service resolves only in a cluster: set spec.url instead".to_owned();
        return (None, Some(refusal(Reason::ServiceNotFound, message)));
    };
    let scheme = if service.scheme == Scheme::Https { "https" } else { "http" };
    let path = service.path.as_deref().unwrap_or(if transport == Transport::Sse { "/sse" } else { "/mcp" });
    let url = |port: u16| format!("{scheme}://{name}.{}.svc:{port}{path}", key.namespace);
    let number = if let ServicePort::Number(number) = service.port { Some(url(number)) } else { None };
    let Some(found) = known.get(&(key.namespace.clone(), name.clone())) else {
        let message = format!(
            "Service {name:?} does not exist in namespace {:?}: create it or correct spec.service",
            key.namespace
        );
        return (number, Some(refusal(Reason::ServiceNotFound, message)));
    };
    if found.is_external {
        let message = format!("Service {name:?} is of type ExternalName: set spec.url to the URL at its host instead");
        return (None, Some(refusal(Reason::ServiceExternal, message)));
    }
    match port_of(name, &service.port, &found.ports) {
        Ok(port) => (Some(url(port)), None),
        Err((known, message)) => (number.filter(|_| !known), Some(refusal(Reason::PortNotFound, message))),
    }
}

/// The port to connect to; or whether the Service has the wanted port, and the problem.
fn port_of(service: &str, wanted: &ServicePort, ports: &[KnownPort]) -> Result<u16, (bool, String)> {
    let found = ports.iter().find(|port| match wanted {
        ServicePort::Number(number) => *number == port.number,
        ServicePort::Name(name) => port.name.as_ref() == Some(name),
    });
    let wanted_text = match wanted {
        ServicePort::Number(number) => number.to_string(),
        ServicePort::Name(name) => name.clone(),
    };
    let Some(port) = found else {
        let by_name = matches!(wanted, ServicePort::Name(_));
        let of = |port: &KnownPort| port.name.clone().filter(|_| by_name).unwrap_or_else(|| port.number.to_string());
        let all: Vec<String> = ports.iter().map(of).collect();
        return Err((false, format!("Service {service:?} has no port {wanted_text}: use one of {}", all.join(", "))));
    };
    port.connect.ok_or_else(|| {
        let message = format!(
            "Service {service:?} is headless, and its port {wanted_text} has a name as targetPort: set a number as \
             targetPort, or give the Service a cluster IP"
        );
        (true, message)
    })
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
        identity: spec.identity.clone(),
        forward_caller_token: spec.forward_caller_token.clone(),
        listing: spec.listing.clone(),
        tls: spec.tls.clone(),
        timeouts: spec.timeouts,
        health_check: spec.health_check,
        limits: spec.limits,
        pool: spec.pool.clone(),
        session: spec.session,
        client_sessions: spec.client_sessions,
        instructions: spec.instructions.clone(),
        tools: spec.tools.clone(),
        allowed_views: spec.allowed_views.clone(),
        labels: BTreeMap::new(),
        governed_by: Vec::new(),
        policies: Governing::default(),
        read_from: crate::snapshot::ReadFrom::default(),
    }
}

/// The labels of an McpServer.
pub fn labels_of(server: &McpServer) -> &BTreeMap<String, String> {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    server.metadata.labels.as_ref().unwrap_or(&NONE)
}

fn refusal(reason: Reason, message: String) -> SpecRefusal {
    SpecRefusal { reason, message }
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
        let resolution = resolve(&all, &Policies::default(), "default", Services::Unknown);
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

    fn port(name: Option<&str>, number: u16, connect: Option<u16>) -> KnownPort {
        KnownPort { name: name.map(Into::into), number, connect }
    }

    fn known(is_external: bool, ports: Vec<KnownPort>) -> KnownServices {
        BTreeMap::from([(("team".to_owned(), "a".to_owned()), KnownService { is_external, ports })])
    }

    #[test]
    fn a_service_becomes_a_url_and_a_missing_one_is_told() {
        let known_ports = known(false, vec![port(Some("mcp"), 8080, Some(8080)), port(None, 9090, Some(9090))]);
        // Behind a headless Service, callers reach the pods themselves.
        let headless = known(false, vec![port(Some("mcp"), 80, Some(8000)), port(Some("web"), 81, None)]);
        let external = known(true, vec![port(Some("mcp"), 80, Some(80))]);
        let (here, nowhere) = (Services::Known(&known_ports), BTreeMap::new());
        let (away, pods, outside) = (Services::Known(&nowhere), Services::Known(&headless), Services::Known(&external));
        let cases = [
            ("8080", "", here, Some("http://a.team.svc:8080/mcp"), None),
            ("mcp", ", transport: sse", here, Some("http://a.team.svc:8080/sse"), None),
            ("9090", "", here, Some("http://a.team.svc:9090/mcp"), None),
            ("http", "", here, None, Some(Reason::PortNotFound)),
            ("1", "", here, Some("http://a.team.svc:1/mcp"), Some(Reason::PortNotFound)),
            ("8080", "", away, Some("http://a.team.svc:8080/mcp"), Some(Reason::ServiceNotFound)),
            ("mcp", "", away, None, Some(Reason::ServiceNotFound)),
            ("80", "", pods, Some("http://a.team.svc:8000/mcp"), None),
            ("mcp", "", pods, Some("http://a.team.svc:8000/mcp"), None),
            ("81", "", pods, None, Some(Reason::PortNotFound)),
            ("web", "", pods, None, Some(Reason::PortNotFound)),
            ("80", "", outside, None, Some(Reason::ServiceExternal)),
            ("mcp", "", outside, None, Some(Reason::ServiceExternal)),
        ];
        for (port, more, services, url, reason) in cases {
            let resolution = resolve(&[by_service(port, more)], &Policies::default(), "default", services);
            let found = resolution.snapshot.servers.first().map(|server| server.url.as_str());
            let refusal = resolution.verdicts[0].refusal.as_ref().map(|refusal| refusal.reason);
            assert_eq!((found, refusal), (url, reason), "{port}{more}");
            let revision = resolution.snapshot.servers.first().map(Server::revision);
            assert_eq!(resolution.verdicts[0].revision, revision);
        }
    }

    #[test]
    fn a_port_that_is_not_there_is_answered_with_those_that_are_as_it_was_asked_for() {
        let known = known(false, vec![port(Some("mcp"), 8080, Some(8080)), port(None, 9090, Some(9090))]);
        let message = |port: &str| {
            let resolution = resolve(&[by_service(port, "")], &Policies::default(), "default", Services::Known(&known));
            resolution.verdicts[0].refusal.clone().unwrap().message
        };
        assert_eq!(message("http"), "Service \"a\" has no port http: use one of mcp, 9090");
        assert_eq!(message("1"), "Service \"a\" has no port 1: use one of 8080, 9090");
    }

    proptest! {
        #[test]
        fn the_order_of_the_servers_does_not_matter(names in prop::collection::vec("[a-c]", 0..6), turn in 0usize..6) {
            let mut servers: Vec<McpServer> = names.iter().map(|name| server("n", name, "http://x/")).collect();
            let before = resolve(&servers, &Policies::default(), "n", Services::Unknown);
            let middle = turn.min(servers.len());
            servers.rotate_left(middle);
            prop_assert_eq!(resolve(&servers, &Policies::default(), "n", Services::Unknown), before);
        }
    }
}

//! McpServers → what the gateway connects to, and a verdict for each.
//!
//! Pure. A bad McpServer never hides the good ones; equal inputs give equal outputs in any order.

use std::collections::BTreeMap;

use crate::mcpserver::McpServer;
use crate::names::{DEFAULT_NAMESPACE, ServerKey};
use crate::rules;
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
    /// Why it was left out, if it was.
    pub refusal: Option<Refusal>,
}

/// Why an McpServer was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason of the condition: `Invalid`, `Duplicate` or `ServiceNotFound`.
    pub reason: &'static str,
    /// One sentence for people.
    pub message: String,
}

/// Translates McpServers into a snapshot. `home` is the namespace whose servers go by their bare names.
pub fn resolve<'a>(servers: impl IntoIterator<Item = &'a McpServer>, home: &str) -> Resolution {
    let mut by_key: BTreeMap<ServerKey, Vec<&McpServer>> = BTreeMap::new();
    for server in servers {
        by_key.entry(key_of(server)).or_default().push(server);
    }
    let mut accepted = Vec::new();
    let mut verdicts = Vec::new();
    for (key, same) in by_key {
        let generation = same[0].metadata.generation.unwrap_or(0);
        let refusal = match judge(&key, &same, home) {
            Ok(server) => {
                accepted.push(*server);
                None
            }
            Err(refusal) => Some(refusal),
        };
        verdicts.push(Verdict { key, generation, refusal });
    }
    Resolution { snapshot: Snapshot::new(accepted), verdicts }
}

/// The key of an McpServer; a missing namespace is the default one.
pub fn key_of(server: &McpServer) -> ServerKey {
    let namespace = server.metadata.namespace.as_deref().filter(|namespace| !namespace.is_empty());
    ServerKey::new(namespace.unwrap_or(DEFAULT_NAMESPACE), server.metadata.name.as_deref().unwrap_or_default())
}

fn judge(key: &ServerKey, same: &[&McpServer], home: &str) -> Result<Box<Server>, Refusal> {
    if same.len() > 1 {
        return Err(refusal("Duplicate", format!("{key} is declared {} times: keep one", same.len())));
    }
    let spec = &same[0].spec;
    let mut problems = Vec::new();
    for (field, name) in [("name", &key.name), ("namespace", &key.namespace)] {
        if !is_dns_label(name) {
            problems.push(format!(
                "metadata.{field} {name:?} is no DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"
            ));
        }
    }
    problems.extend(rules::problems(spec));
    if !problems.is_empty() {
        return Err(refusal("Invalid", problems.join("; ")));
    }
    let Some(url) = spec.url.clone() else {
        return Err(refusal(
            "ServiceNotFound",
            "spec.service can be found only in a cluster: set spec.url here".into(),
        ));
    };
    Ok(Box::new(Server {
        name: key.public_name(home),
        key: key.clone(),
        label: None,
        generation: same[0].metadata.generation.unwrap_or(0),
        created: same[0].metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
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
        tools: spec.tools.clone(),
    }))
}

fn refusal(reason: &'static str, message: String) -> Refusal {
    Refusal { reason, message }
}

fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
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

    fn refused(resolution: &Resolution) -> Vec<(String, &'static str)> {
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
        let resolution = resolve(&all, "default");
        let names: Vec<_> = resolution.snapshot.servers.iter().map(|s| (s.name.as_str(), s.generation)).collect();
        assert_eq!(names, [("plain", 3), ("team/good", 3)]);
        assert_eq!(
            refused(&resolution),
            [
                ("default/UPPER".to_owned(), "Invalid"),
                ("default/bad".to_owned(), "Invalid"),
                ("default/double".to_owned(), "Duplicate"),
                ("default/s".to_owned(), "ServiceNotFound"),
            ]
        );
    }

    proptest! {
        #[test]
        fn the_order_of_the_servers_does_not_matter(names in prop::collection::vec("[a-c]", 0..6), turn in 0usize..6) {
            let mut servers: Vec<McpServer> = names.iter().map(|name| server("n", name, "http://x/")).collect();
            let before = resolve(&servers, "n");
            let middle = turn.min(servers.len());
            servers.rotate_left(middle);
            prop_assert_eq!(resolve(&servers, "n"), before);
        }
    }
}

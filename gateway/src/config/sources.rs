//! The sources of servers: URLs, manifests or ConfigMaps.

use std::collections::HashSet;

use portcullis_crds::{Server, rules};
use portcullis_runtime::settings::{path, text};
use url::Url;

use super::{Options, Problem};
use crate::source::{ConfigMapNames, SourceConfig};
use crate::util::shown;

/// Each one is watched over a separate connection.
const MAX_CONFIGMAPS: usize = 64;

impl Options {
    /// The configured source of servers.
    pub(crate) fn source(&self, problems: &mut Vec<Problem>) -> SourceConfig {
        let urls: Vec<&str> = text(&self.mcp_url)
            .into_iter()
            .chain(text(&self.mcp_urls).into_iter().flat_map(|list| list.split(',')))
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .collect();
        let (configmaps, servers) = (text(&self.configmaps), path(&self.servers));
        let given =
            [("CONFIGMAPS", configmaps.is_some()), ("SERVERS", servers.is_some()), ("MCP_URL(S)", !urls.is_empty())];
        let given: Vec<&str> = given.into_iter().filter_map(|(name, set)| set.then_some(name)).collect();
        match given.len() {
            0 => problems.push(
                "no MCP server is configured: set MCP_URLS to URLs, SERVERS to a file or folder of manifests, or \
                 CONFIGMAPS to names of ConfigMaps"
                    .into(),
            ),
            1 => {}
            2 => problems.push(format!("{} are both set: keep one of them", given.join(" and "))),
            _ => problems.push(format!("{} are all set: keep one of them", given.join(", "))),
        }
        if configmaps.is_none() && path(&self.configmaps_mounted).is_some() {
            problems.push("CONFIGMAPS_MOUNTED is set without CONFIGMAPS: set that too".into());
        }
        match (configmaps, servers) {
            (Some(names), _) => SourceConfig::ConfigMaps(self.configmap_names(names, problems)),
            (None, Some(path)) => SourceConfig::Path(path),
            (None, None) => SourceConfig::Urls(servers_of(&urls, problems)),
        }
    }

    fn configmap_names(&self, list: &str, problems: &mut Vec<Problem>) -> ConfigMapNames {
        let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
        for (index, name) in names.iter().enumerate() {
            if !is_object_name(name) {
                problems.push(format!("CONFIGMAPS, entry {}: {name:?} is not the name of a ConfigMap", index + 1));
            } else if names[..index].contains(name) {
                problems.push(format!("CONFIGMAPS, entry {}: the name appears twice: keep one", index + 1));
            }
        }
        if names.len() > MAX_CONFIGMAPS {
            problems.push(format!("CONFIGMAPS has {} names: use at most {MAX_CONFIGMAPS}", names.len()));
        }
        let namespace = text(&self.namespace).map(str::to_owned);
        if let Some(namespace) = namespace.as_deref().filter(|name| !is_object_name(name)) {
            problems.push(format!("POD_NAMESPACE is {namespace:?}: it is not the name of a namespace"));
        }
        ConfigMapNames { names, namespace, mounted: path(&self.configmaps_mounted) }
    }
}

/// A DNS subdomain: lower-case letters, digits, `-` and `.`; see kubernetes.io/docs/concepts/overview/working-with-objects/names.
fn is_object_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    ends && name.len() <= 253 && name.bytes().all(|c| plain(c) || matches!(c, b'-' | b'.'))
}

/// Servers for plain URLs: `/servers` shows them by URL, tools and logs by a short name.
///
/// Queries often contain keys, so the URL is shown without; of several URLs that differ only in the query, all but the
/// first are shown by their names.
fn servers_of(urls: &[&str], problems: &mut Vec<Problem>) -> Vec<Server> {
    let (mut seen, mut labels) = (HashSet::new(), HashSet::new());
    let mut names = HashSet::new();
    let mut servers = Vec::new();
    for (index, text) in urls.iter().enumerate() {
        match rules::check_url(text) {
            Err(problem) => problems.push(format!("MCP_URLS, entry {}: {problem}", index + 1)),
            Ok(_) if !seen.insert(*text) => {
                problems.push(format!("MCP_URLS, entry {}: the URL appears twice: keep one", index + 1))
            }
            Ok(url) => {
                let name = free_name(&slug(&url), &mut names);
                let created = i64::try_from(index).unwrap_or(i64::MAX);
                // A URL that is configured without a query names its own server.
                let label = Some(shown::address(text)).filter(|label| label == text || !urls.contains(&&**label));
                let label = label.filter(|label| labels.insert(label.clone()));
                servers.push(Server { label, created, ..Server::from_url(&name, text) });
            }
        }
    }
    servers
}

/// `http://localhost:9000/sse?x=1` → `localhost-9000-sse`: a DNS label, without the query.
fn slug(url: &Url) -> String {
    let port = url.port().map(|port| format!("-{port}")).unwrap_or_default();
    let text = format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path()).to_ascii_lowercase();
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty()).collect();
    let mut name = parts.join("-");
    name.truncate(55);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "server".to_owned() } else { name.to_owned() }
}

fn free_name(wanted: &str, taken: &mut HashSet<String>) -> String {
    let names = (1..).map(|n| if n == 1 { wanted.to_owned() } else { format!("{wanted}-{n}") });
    let name = names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(name.clone());
    name
}

//! Every tool under the name callers use, with the servers that offer it.
//!
//! An immutable view: built anew when something changed and swapped in whole, so that a call never sees half a change.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use portcullis_crds::ServerKey;
use portcullis_crds::names::TOOL_NAME_JOINER;
use portcullis_crds::rules::is_tool_name;

use crate::handle::Handle;
use crate::tool::Tool;
use crate::upstream::message::json_string;

/// All tools of all servers.
#[derive(Default)]
pub struct Catalog {
    tools: HashMap<Arc<str>, Entry>,
    servers: Vec<Arc<Handle>>,
    renamed: Vec<(Arc<Handle>, i64)>,
    /// Servers whose tools are listed here.
    shown: HashSet<ServerKey>,
    listing: OnceLock<Bytes>,
}

/// A tool and who offers it, in the order of precedence.
pub struct Entry {
    /// The servers that offer it.
    pub candidates: Vec<Candidate>,
    /// At least one of them is listed now.
    pub listed: bool,
}

/// A server that offers a tool.
pub struct Candidate {
    /// The server.
    pub server: Arc<Handle>,
    /// The tool as this server knows it.
    pub tool: Arc<Tool>,
    /// Its tools are listed now.
    pub listed: bool,
}

impl Catalog {
    /// Builds the view. Servers come in any order.
    ///
    /// A server that is older keeps a contested name, so that adding one never renames what exists.
    pub fn build(mut servers: Vec<Arc<Handle>>) -> Self {
        servers.sort_by_cached_key(|server| (server.spec().created, server.key.clone()));
        let mut tools: HashMap<Arc<str>, Entry> = HashMap::new();
        let mut renamed = Vec::with_capacity(servers.len());
        let mut shown = HashSet::new();
        for server in &servers {
            let offer = server.offer();
            if offer.listed {
                shown.insert(server.key.clone());
            }
            let mut count = 0;
            for tool in offer.tools.iter() {
                let name = free_name(&tools, server, tool);
                let Some(name) = name else { continue };
                count += i64::from(name != tool.name);
                let entry = tools.entry(name.into()).or_insert_with(|| Entry { candidates: Vec::new(), listed: false });
                entry.listed |= offer.listed;
                entry.candidates.push(Candidate { server: server.clone(), tool: tool.clone(), listed: offer.listed });
            }
            renamed.push((server.clone(), count));
        }
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        Self { tools, servers, renamed, shown, listing: OnceLock::new() }
    }

    /// The tool of this name.
    pub fn find(&self, name: &str) -> Option<&Entry> {
        self.tools.get(name)
    }

    /// Every server, sorted by key.
    pub fn servers(&self) -> &[Arc<Handle>] {
        &self.servers
    }

    /// The server that a caller means: by name, by the URL as configured, or by its bare name where only one has it.
    pub fn server(&self, wanted: &str) -> Option<&Arc<Handle>> {
        let exact = self.servers.iter().find(|server| server.name == wanted || server.spec().label() == wanted);
        exact.or_else(|| self.servers.iter().find(|server| server.spec().url == wanted)).or_else(|| {
            let mut bare = self.servers.iter().filter(|server| server.key.name == wanted);
            bare.next().filter(|_| bare.next().is_none())
        })
    }

    /// Whether a server has an open session, and this view shows what it offers: whoever waits until a server is
    /// connected can then call its tools.
    pub fn is_connected(&self, server: &Handle) -> bool {
        server.live().is_some() && (self.shown.contains(&server.key) || !server.offer().listed)
    }

    /// For each server, how many of its tools go by `server__tool` because another server has their name.
    pub fn renamed(&self) -> &[(Arc<Handle>, i64)] {
        &self.renamed
    }

    /// Names of the listed tools, sorted, with their entries.
    pub fn listed(&self) -> Vec<(&Arc<str>, &Entry)> {
        let mut all: Vec<_> = self.tools.iter().filter(|(_, entry)| entry.listed).collect();
        all.sort_by(|a, b| a.0.cmp(b.0));
        all
    }

    /// How many tools are listed.
    pub fn tool_count(&self) -> usize {
        self.tools.values().filter(|entry| entry.listed).count()
    }

    /// Names under which a server's tools are listed, sorted.
    pub fn names_of(&self, server: &Handle) -> Vec<&str> {
        let mut names: Vec<&str> = self
            .tools
            .iter()
            .filter(|(_, entry)| entry.candidates.iter().any(|c| c.listed && c.server.key == server.key))
            .map(|(name, _)| &**name)
            .collect();
        names.sort_unstable();
        names
    }

    /// The body of `GET /tools/list`; the same bytes as long as nothing changes.
    pub fn listing(&self) -> Bytes {
        self.listing.get_or_init(|| self.write_listing(None)).clone()
    }

    /// The body of `GET /tools/list?server=...`.
    pub fn listing_of(&self, server: &Handle) -> Bytes {
        self.write_listing(Some(server))
    }

    fn write_listing(&self, only: Option<&Handle>) -> Bytes {
        let mut text = String::from(r#"{"tools":["#);
        let mut first = true;
        for (name, entry) in self.listed() {
            let wanted = |c: &&Candidate| c.listed && only.is_none_or(|server| server.key == c.server.key);
            let Some(shown) = entry.candidates.iter().find(wanted) else { continue };
            if !std::mem::take(&mut first) {
                text.push(',');
            }
            text.push_str(r#"{"name":"#);
            text.push_str(&json_string(name));
            text.push_str(&shown.tool.members);
            if only.is_none() {
                let servers: Vec<String> = entry
                    .candidates
                    .iter()
                    .filter(|c| c.listed)
                    .map(|c| json_string(c.server.spec().label()))
                    .collect();
                text.push_str(&format!(
                    r#","available_servers":[{}],"server_count":{}"#,
                    servers.join(","),
                    servers.len()
                ));
            }
            text.push('}');
        }
        text.push_str("]}");
        text.into()
    }
}

/// The name under which a tool is offered: its own, unless an older server has it with another schema.
fn free_name(tools: &HashMap<Arc<str>, Entry>, server: &Handle, tool: &Tool) -> Option<String> {
    let fits = |name: &str| tools.get(name).is_none_or(|entry| entry.candidates[0].tool.schema == tool.schema);
    if fits(&tool.name) {
        return Some(tool.name.clone());
    }
    let key = &server.key;
    let prefixes = [key.name.clone(), format!("{}.{}", key.namespace, key.name)];
    let names = prefixes.into_iter().map(|prefix| format!("{prefix}{TOOL_NAME_JOINER}{}", tool.name));
    names.into_iter().find(|name| is_tool_name(name) && fits(name))
}

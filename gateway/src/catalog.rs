//! Every tool under the name callers use, with the servers that offer it.
//!
//! An immutable view: built anew when something changed and swapped in whole, so that a call never sees half a change.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use portcullis_crds::ServerKey;
use portcullis_crds::names::TOOL_NAME_JOINER;
use portcullis_crds::rules::is_tool_name;
use smallvec::SmallVec;

use crate::handle::{Handle, Phase};
use crate::tool::Tool;
use crate::upstream::message::json_string;

/// All tools of all servers.
#[derive(Default)]
pub struct Catalog {
    tools: HashMap<Arc<str>, Entry>,
    servers: Vec<Arc<Handle>>,
    /// For each of the servers, in the same order.
    places: Vec<Place>,
    listing: OnceLock<Bytes>,
}

/// A server's place in the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Place {
    /// Its tools are listed here.
    listed: bool,
    /// They are those that it has told itself.
    own: bool,
    /// So many of them go by `server__tool` because another server has their name.
    renamed: u32,
}

/// What differs between two views.
#[derive(Default)]
pub struct Difference<'a> {
    /// Servers of the newer one that are new or have another place.
    pub servers: Vec<&'a Arc<Handle>>,
    /// Servers of the older one that the newer one has not.
    pub gone: Vec<&'a ServerKey>,
}

/// A tool and who offers it, in the order of precedence.
pub struct Entry {
    /// The servers that offer it.
    pub candidates: SmallVec<[Candidate; 1]>,
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
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        let mut by_age: Vec<usize> = (0..servers.len()).collect();
        // Stable: of two of one age the first by key comes first.
        by_age.sort_by_cached_key(|index| servers[*index].spec().created);
        let count = servers.iter().map(|server| server.offer().tools.len()).sum();
        let mut tools: HashMap<Arc<str>, Entry> = HashMap::with_capacity(count);
        let mut places = vec![Place::default(); servers.len()];
        for index in by_age {
            let (server, place) = (&servers[index], &mut places[index]);
            // Before the offer, which is then no older.
            place.own = server.has_listed();
            let offer = server.offer();
            place.listed = offer.listed;
            for tool in offer.tools.iter() {
                let name = free_name(&tools, server, tool);
                let Some(name) = name else { continue };
                place.renamed += u32::from(name != tool.name);
                let entry = tools.entry(name).or_insert_with(|| Entry { candidates: SmallVec::new(), listed: false });
                entry.listed |= offer.listed;
                entry.candidates.push(Candidate { server: server.clone(), tool: tool.clone(), listed: offer.listed });
            }
        }
        Self { tools, servers, places, listing: OnceLock::new() }
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
        server.live().is_some() && (self.lists(server) || !server.offer().listed)
    }

    /// Whether a server is being connected for the first time, so that its tools are not known yet.
    pub fn is_incomplete(&self) -> bool {
        self.servers.iter().any(|server| server.status().phase == Phase::Connecting)
    }

    /// The server of this key.
    pub fn server_of(&self, key: &ServerKey) -> Option<&Arc<Handle>> {
        self.index_of(key).map(|index| &self.servers[index])
    }

    /// Whether the tools of this server are listed here, as it has told them since it was started last.
    pub fn lists(&self, server: &Handle) -> bool {
        let place = self.place(server);
        place.listed && place.own
    }

    /// How many tools of this server go by `server__tool` because another server has their name.
    pub fn renamed(&self, server: &Handle) -> u32 {
        self.place(server).renamed
    }

    fn place(&self, server: &Handle) -> Place {
        self.index_of(&server.key).map(|index| self.places[index]).unwrap_or_default()
    }

    fn index_of(&self, key: &ServerKey) -> Option<usize> {
        self.servers.binary_search_by(|server| server.key.cmp(key)).ok()
    }

    /// What differs from an older view.
    pub fn since<'a>(&'a self, older: &'a Self) -> Difference<'a> {
        let mut difference = Difference::default();
        let mut before = older.servers.iter().zip(&older.places).peekable();
        for (server, place) in self.servers.iter().zip(&self.places) {
            // Most are the same, and comparing names takes its time.
            if let Some((_, was)) = before.next_if(|(old, _)| Arc::ptr_eq(old, server)) {
                if was != place {
                    difference.servers.push(server);
                }
                continue;
            }
            while let Some((gone, _)) = before.next_if(|(old, _)| old.key < server.key) {
                difference.gone.push(&gone.key);
            }
            let same = before.next_if(|(old, _)| old.key == server.key);
            if !same.is_some_and(|(old, was)| Arc::ptr_eq(old, server) && was == place) {
                difference.servers.push(server);
            }
        }
        difference.gone.extend(before.map(|(gone, _)| &gone.key));
        difference
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
fn free_name(tools: &HashMap<Arc<str>, Entry>, server: &Handle, tool: &Tool) -> Option<Arc<str>> {
    let fits = |name: &str| tools.get(name).is_none_or(|entry| entry.candidates[0].tool.schema == tool.schema);
    if fits(&tool.name) {
        return Some(tool.name.clone());
    }
    let key = &server.key;
    let prefixes = [key.name.clone(), format!("{}.{}", key.namespace, key.name)];
    let names = prefixes.into_iter().map(|prefix| format!("{prefix}{TOOL_NAME_JOINER}{}", tool.name));
    names.into_iter().find(|name| is_tool_name(name) && fits(name)).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handle::Offer;
    use crate::metrics::Metrics;
    use crate::tool::read_tools;
    use portcullis_crds::mcpserver::ToolRules;
    use portcullis_crds::{Server, ServerKey};

    fn server(name: &str, created: i64, tools: &[(&str, &str)], listed: bool) -> Arc<Handle> {
        let spec = Server { created, ..Server::from_url(name, &format!("http://{name}/")) };
        let handle = Handle::new(spec, &Metrics::new());
        let texts: Vec<String> = tools
            .iter()
            .map(|(tool, kind)| format!(r#"{{"name":"{tool}","inputSchema":{{"type":"object","title":"{kind}"}}}}"#))
            .collect();
        let tools = read_tools(texts.iter().map(String::as_str), &ToolRules::default()).tools;
        handle.set_offer(Offer { tools: Arc::new(tools.into_iter().map(Arc::new).collect()), listed });
        Arc::new(handle)
    }

    fn offered(catalog: &Catalog) -> Vec<(String, Vec<String>)> {
        let names = |entry: &Entry| entry.candidates.iter().map(|c| c.server.name.clone()).collect();
        catalog.listed().into_iter().map(|(name, entry)| (name.to_string(), names(entry))).collect()
    }

    fn row(name: &str, servers: &[&str]) -> (String, Vec<String>) {
        (name.to_owned(), servers.iter().map(|s| (*s).to_owned()).collect())
    }

    #[test]
    fn a_tool_of_one_name_and_schema_is_one_tool_and_the_older_server_keeps_a_contested_name() {
        let a = server("a", 2, &[("t", "x"), ("own", "x")], true);
        let b = server("b", 1, &[("t", "x")], true);
        let c = server("c", 3, &[("t", "y")], true);
        let catalog = Catalog::build(vec![c, a, b]);
        assert_eq!(offered(&catalog), [row("c__t", &["c"]), row("own", &["a"]), row("t", &["b", "a"])]);
        let renamed: Vec<_> =
            catalog.servers().iter().map(|server| (server.name.as_str(), catalog.renamed(server))).collect();
        assert_eq!(renamed, [("a", 0), ("b", 0), ("c", 1)]);
    }

    #[test]
    fn adding_a_server_never_renames_what_exists() {
        let old = server("old", 1, &[("t", "x"), ("u", "x")], true);
        let new = server("new", 2, &[("t", "y"), ("old__t", "y"), ("v", "y")], true);
        let before = offered(&Catalog::build(vec![old.clone()]));
        let after = offered(&Catalog::build(vec![new, old]));
        assert!(before.iter().all(|row| after.contains(row)), "{before:?} {after:?}");
    }

    #[test]
    fn a_server_that_is_away_keeps_its_names_without_being_listed() {
        let away = server("away", 1, &[("t", "x"), ("only", "x")], false);
        let here = server("here", 2, &[("t", "y")], true);
        let catalog = Catalog::build(vec![away, here]);
        assert_eq!(offered(&catalog), [row("here__t", &["here"])]);
        assert!(catalog.find("only").is_some_and(|entry| !entry.listed));
        assert_eq!(catalog.tool_count(), 1);
    }

    #[test]
    fn tools_taken_over_from_before_a_restart_are_shown_but_only_the_servers_own_ones_count() {
        let a = server("a", 0, &[("t", "x")], true);
        let taken_over = Catalog::build(vec![a.clone()]);
        assert_eq!((offered(&taken_over), taken_over.lists(&a)), (vec![row("t", &["a"])], false));

        a.set_own_offer((*a.offer()).clone());
        assert!(!taken_over.lists(&a), "this view may lack what it has told");
        let own = Catalog::build(vec![a.clone()]);
        assert!(own.lists(&a));
        assert_eq!(own.since(&taken_over).servers.len(), 1, "others are told, though its tools are the same");
    }

    #[test]
    fn the_listing_is_the_same_bytes_whatever_the_order_of_the_servers() {
        let a = server("a", 0, &[("t", "x")], true);
        let b = server("b", 0, &[("t", "x")], true);
        let expected = r#"{"tools":[{"name":"t","inputSchema":{"type":"object","title":"x"},"available_servers":["a","b"],"server_count":2}]}"#;
        assert_eq!(Catalog::build(vec![a.clone(), b.clone()]).listing(), expected);
        let catalog = Catalog::build(vec![b, a.clone()]);
        assert_eq!(catalog.listing(), expected);
        assert_eq!(catalog.listing_of(&a), r#"{"tools":[{"name":"t","inputSchema":{"type":"object","title":"x"}}]}"#);
        assert_eq!(Catalog::default().listing(), r#"{"tools":[]}"#);
    }

    #[test]
    fn servers_are_found_by_name_by_url_and_by_bare_name_where_it_is_clear() {
        let named = |namespace: &str, name: &str| {
            let key = ServerKey::new(namespace, name);
            let spec = Server {
                name: key.public_name("default"),
                key,
                ..Server::from_url(name, &format!("http://{namespace}/"))
            };
            Arc::new(Handle::new(spec, &Metrics::new()))
        };
        let catalog = Catalog::build(vec![
            named("default", "a"),
            named("x", "a"),
            named("x", "b"),
            named("x", "c"),
            named("y", "c"),
        ]);
        let found = |wanted: &str| catalog.server(wanted).map(|server| server.name.clone());
        let cases = [
            ("a", Some("a")),
            ("x/a", Some("x/a")),
            ("b", Some("x/b")),
            ("c", None),
            ("http://y/", Some("y/c")),
            ("", None),
        ];
        for (wanted, expected) in cases {
            assert_eq!(found(wanted).as_deref(), expected, "{wanted}");
        }
    }
}

//! Reads McpViews, and says which items of which servers they hold.
//!
//! Pure. A view that cannot be read whole is not served.

mod read;
mod views;

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::glob;
use crate::mcpaccesspolicy::RequiredHints;
use crate::mcpview::{McpViewSpec, ViewSelection, ViewServers, ViewTool};
use crate::names::ServerKey;
use crate::snapshot::{ReadFrom, Server, revision_of};

pub use read::ReadView;
pub use views::{MAX_VIEWS, Views};

/// Bytes of one view's text form.
pub const MAX_VIEW_BYTES: usize = 64 * 1024;

/// What the gateway needs of a view.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct View {
    /// Its namespace and name.
    pub key: ServerKey,
    /// The name by which callers know it: see [`ServerKey::public_name`].
    pub name: String,
    /// Its spec.
    pub spec: McpViewSpec,
    /// The text that it was read from.
    #[serde(skip)]
    pub read_from: ReadFrom,
}

/// A kind of items, with what a view may ask about one of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViewItem<'a> {
    /// A tool, and its hints: read-only, destructive, idempotent, open to the world.
    Tool(&'a str, [bool; 4]),
    /// A prompt.
    Prompt(&'a str),
    /// A resource, by its URI.
    Resource(&'a str),
    /// A template of URIs, as a pattern in which `*` stands for each expression.
    Template(&'a str),
}

/// The place of an item in the order of a view's selections: earlier ones are listed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ViewPlace {
    /// The entry of `select`.
    pub entry: u32,
    /// The pattern within it.
    pub pattern: u32,
}

/// The part of a server that a view holds: entries of its `select` and `exclude` that speak of the server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerSelection<'a> {
    select: Vec<(u32, &'a ViewSelection)>,
    exclude: Vec<&'a ViewSelection>,
}

impl View {
    /// A view with this spec; `home` is the namespace whose views go by their bare names.
    pub fn new(key: ServerKey, spec: McpViewSpec, home: &str) -> Self {
        Self { name: key.public_name(home), key, spec, read_from: ReadFrom::default() }
    }

    /// The text form: JSON, the same bytes for equal views.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a view holds only strings, numbers and lists")
    }

    /// The revision of the text that the view was read from, else [`revision_of`] its own text.
    pub fn revision(&self) -> String {
        self.read_from.text_revision().map_or_else(|| revision_of(&self.to_text()), ToOwned::to_owned)
    }

    /// What it holds of a server; `None` if it does not select the server.
    pub fn of_server<'a>(&'a self, server: &Server) -> Option<ServerSelection<'a>> {
        self.of_labelled_server(server, &server.labels)
    }

    /// The same for a server with these labels.
    pub fn of_labelled_server<'a>(
        &'a self,
        server: &Server,
        labels: &BTreeMap<String, String>,
    ) -> Option<ServerSelection<'a>> {
        if server.key.namespace != self.key.namespace && !server.allowed_views.allow(&self.key.namespace) {
            return None;
        }
        let entries = self.spec.select.iter().zip(0..);
        let select: Vec<_> = entries
            .filter(|(entry, _)| self.speaks_of(entry.servers.as_ref(), &server.key, labels))
            .map(|(entry, at)| (at, entry))
            .collect();
        if select.is_empty() {
            return None;
        }
        let excludes = |entry: &&ViewSelection| match &entry.servers {
            None => true,
            servers => self.speaks_of(servers.as_ref(), &server.key, labels),
        };
        let exclude: Vec<_> = self.spec.exclude.iter().filter(excludes).collect();
        (!exclude.iter().any(|entry| entry.is_all())).then_some(ServerSelection { select, exclude })
    }

    /// The namespaces of the servers that it may select, its own among them if it does.
    pub fn namespaces(&self) -> impl Iterator<Item = &str> {
        let mut all: Vec<&str> = Vec::new();
        for entry in &self.spec.select {
            match entry.servers.as_ref().and_then(|servers| servers.namespaces.as_ref()) {
                Some(namespaces) => all.extend(namespaces.iter().map(String::as_str)),
                None => all.push(&self.key.namespace),
            }
        }
        all.sort_unstable();
        all.dedup();
        all.into_iter()
    }

    /// Whether it selects servers by their labels.
    pub fn looks_at_labels(&self) -> bool {
        let entries = self.spec.select.iter().chain(&self.spec.exclude);
        entries.filter_map(|entry| entry.servers.as_ref()).any(|servers| servers.selector.is_some())
    }

    /// How a tool of a server looks in this view, where it looks different; the first entry counts.
    pub fn look_of(&self, server: &ServerKey, own_name: &str) -> Option<&ViewTool> {
        let is_it = |named: &str| match named.split_once('/') {
            Some((namespace, name)) => (namespace, name) == (&server.namespace, &server.name),
            None => (self.key.namespace.as_str(), named) == (server.namespace.as_str(), server.name.as_str()),
        };
        self.spec.tools.iter().find(|tool| tool.name == own_name && tool.server.as_deref().is_none_or(is_it))
    }

    fn speaks_of(&self, servers: Option<&ViewServers>, key: &ServerKey, labels: &BTreeMap<String, String>) -> bool {
        let Some(ViewServers { names, selector, namespaces }) = servers else {
            return key.namespace == self.key.namespace;
        };
        let in_namespace = match namespaces {
            None => key.namespace == self.key.namespace,
            Some(namespaces) => namespaces.contains(&key.namespace),
        };
        in_namespace
            && names.as_ref().is_none_or(|names| names.iter().any(|pattern| glob::matches(pattern, &key.name)))
            && selector.as_ref().is_none_or(|selector| selector.selects(labels))
    }
}

impl ServerSelection<'_> {
    /// The place of an item of the server in the view; `None` if it is not there.
    pub fn place_of(&self, item: ViewItem<'_>) -> Option<ViewPlace> {
        let place = |(entry, selection): &(u32, &ViewSelection)| {
            Some(ViewPlace { entry: *entry, pattern: selection.place_of(item)? })
        };
        let found = self.select.iter().find_map(place)?;
        let is_excluded = self.exclude.iter().any(|entry| entry.place_of(item).is_some());
        (!is_excluded).then_some(found)
    }

    /// Whether the view holds everything that the server offers, and what it can read without listing it.
    pub fn is_whole(&self) -> bool {
        self.exclude.is_empty() && self.select.iter().any(|(_, entry)| entry.is_all())
    }
}

impl ViewSelection {
    /// Whether it says nothing about items, and so speaks of all of them.
    pub fn is_all(&self) -> bool {
        self.tools.is_none() && self.hints.is_none() && self.prompts.is_none() && self.resources.is_none()
    }

    /// The patterns of all its lists, with the names of servers.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        let lists = [&self.tools, &self.prompts, &self.resources];
        let names = self.servers.iter().filter_map(|servers| servers.names.as_ref());
        lists.into_iter().flatten().chain(names).flatten().map(String::as_str)
    }

    /// The first pattern that speaks of an item.
    fn place_of(&self, item: ViewItem<'_>) -> Option<u32> {
        if self.is_all() {
            return Some(0);
        }
        let first = |patterns: &Option<Vec<String>>, matches: &dyn Fn(&str) -> bool| {
            patterns.as_ref()?.iter().zip(0..).find(|(pattern, _)| matches(pattern)).map(|(_, at)| at)
        };
        match item {
            ViewItem::Tool(name, hints) => {
                let has_hints = self.hints.is_none_or(|wanted| wanted.hold_for(hints));
                match &self.tools {
                    _ if !has_hints => None,
                    None => self.hints.map(|_| 0),
                    tools => first(tools, &|pattern| glob::matches(pattern, name)),
                }
            }
            ViewItem::Prompt(name) => first(&self.prompts, &|pattern| glob::matches(pattern, name)),
            ViewItem::Resource(uri) => first(&self.resources, &|pattern| glob::matches(pattern, uri)),
            // A template is worth showing if some of its resources may be read.
            ViewItem::Template(template) => first(&self.resources, &|pattern| glob::overlap(pattern, template)),
        }
    }
}

impl RequiredHints {
    /// Whether hints that a tool declares are as required: read-only, destructive, idempotent, open to the world.
    pub fn hold_for(self, declared: [bool; 4]) -> bool {
        let Self { read_only, destructive, idempotent, open_world } = self;
        let wanted = [read_only, destructive, idempotent, open_world];
        wanted.into_iter().zip(declared).all(|(wanted, declared)| wanted.is_none_or(|wanted| wanted == declared))
    }
}

/// The views that a configuration has, sorted by key: each a shared value.
pub type SharedViews = Arc<[Arc<View>]>;

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn view(spec: serde_json::Value) -> View {
        View::new(ServerKey::new("team", "v"), serde_json::from_value(spec).unwrap(), "home")
    }

    fn server(namespace: &str, name: &str, labels: &[(&str, &str)]) -> Server {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Server { key: ServerKey::new(namespace, name), labels, ..Server::from_url(name, "http://a/") }
    }

    const HINTS: [bool; 4] = [false, true, false, true];

    fn tool(view: &View, server: &Server, name: &str) -> Option<(u32, u32)> {
        let place = view.of_server(server)?.place_of(ViewItem::Tool(name, HINTS))?;
        Some((place.entry, place.pattern))
    }

    #[test]
    fn an_item_has_the_place_of_the_first_pattern_that_speaks_of_it() {
        let view = view(json!({
            "select": [
                {"servers": {"names": ["crm"]}, "tools": ["get_*", "list_*"]},
                {"servers": {"selector": {"matchLabels": {"tier": "gold"}}}},
                {"hints": {"readOnly": true}},
            ],
            "exclude": [{"tools": ["*_secret"]}, {"servers": {"names": ["old"]}}],
        }));
        let (crm, gold, old) = (
            server("team", "crm", &[]),
            server("team", "g", &[("tier", "gold")]),
            server("team", "old", &[("tier", "gold")]),
        );
        assert_eq!(tool(&view, &crm, "list_all"), Some((0, 1)));
        assert_eq!(tool(&view, &crm, "delete"), None);
        assert_eq!(tool(&view, &crm, "get_secret"), None);
        assert_eq!(tool(&view, &gold, "delete"), Some((1, 0)));
        assert_eq!(tool(&view, &old, "delete"), None);
        assert!(view.of_server(&old).is_none(), "it is excluded whole");
        let read_only = ViewItem::Tool("look", [true, false, false, true]);
        let place = view.of_server(&crm).unwrap().place_of(read_only);
        assert_eq!(place, Some(ViewPlace { entry: 2, pattern: 0 }));
    }

    #[test]
    fn a_server_of_another_namespace_is_selected_by_name_and_only_if_it_allows_it() {
        let view = view(json!({"select": [{"servers": {"namespaces": ["shared"]}}]}));
        let closed = server("shared", "s", &[]);
        let open = |to: &str| {
            let allowed_views = crate::mcpserver::AllowedViews { namespaces: vec![to.into()] };
            Server { allowed_views, ..closed.clone() }
        };
        assert!(view.of_server(&closed).is_none());
        assert!(view.of_server(&open("other")).is_none());
        assert!(view.of_server(&open("team")).is_some());
        assert!(view.of_server(&open("te*")).is_some());
        assert!(view.of_server(&server("team", "own", &[])).is_none(), "the view's own namespace is not named");
        assert_eq!(view.namespaces().collect::<Vec<_>>(), ["shared"]);
        let elsewhere = self::view(json!({"select": [{}]}));
        assert!(elsewhere.of_server(&open("team")).is_none(), "no entry names its namespace");
    }

    #[test]
    fn a_selection_that_names_a_kind_holds_no_other() {
        let view = view(json!({"select": [{"resources": ["db://*"]}]}));
        let selection = server("team", "a", &[]);
        let selection = view.of_server(&selection).unwrap();
        for (item, is_there) in [
            (ViewItem::Resource("db://x"), true),
            (ViewItem::Resource("file://x"), false),
            (ViewItem::Template("db://*/rows"), true),
            (ViewItem::Template("*://x"), true),
            (ViewItem::Template("file://*"), false),
            (ViewItem::Prompt("p"), false),
            (ViewItem::Tool("t", HINTS), false),
        ] {
            assert_eq!(selection.place_of(item).is_some(), is_there, "{item:?}");
        }
        assert!(!selection.is_whole());
    }

    #[test]
    fn a_tool_looks_as_the_first_entry_about_it_says() {
        let view = view(json!({"select": [{}], "tools": [
            {"server": "other/a", "name": "t", "rename": "one"},
            {"server": "a", "name": "t", "rename": "two"},
            {"name": "t", "description": "three"},
        ]}));
        let look = |namespace: &str, name: &str| {
            let look = view.look_of(&ServerKey::new(namespace, name), "t").unwrap();
            look.rename.clone().or_else(|| look.description.clone())
        };
        assert_eq!(look("other", "a").as_deref(), Some("one"));
        assert_eq!(look("team", "a").as_deref(), Some("two"));
        assert_eq!(look("team", "b").as_deref(), Some("three"));
        assert!(view.look_of(&ServerKey::new("team", "a"), "u").is_none());
    }
}

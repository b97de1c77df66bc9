//! What a number of servers offer together under the names of their view: all of them, or those of one namespace.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde_json::json;

use super::family::Family;
use super::naming::{Naming, qualified_by_server};
use super::reader::Places;
use super::table::{Added, Fit, Table};
use super::{Alone, Entry, Kind, Place};
use crate::handle::Handle;
use crate::item::{Item, Items, digest_of};
use crate::uri_template::UriTemplate;

/// Everything of some servers.
#[derive(Default)]
pub(super) struct View {
    tables: [Table; Kind::ALL.len()],
    /// Resources that tools name, whether they are listed or not.
    links: Table,
    naming: Naming,
    /// Which servers.
    range: Range<usize>,
    places: OnceLock<Places>,
}

/// All servers, sorted by key, with what is known of each in the same order.
#[derive(Clone, Copy)]
pub(super) struct Servers<'a> {
    pub servers: &'a [Arc<Handle>],
    pub alone: &'a [Alone],
    pub families: &'a [Family],
}

/// The pages of a tool and such have this scheme (MCP Apps); frameworks give all of their servers the same.
const PAGE_SCHEME: &str = "ui:";

impl View {
    /// Builds the view of the servers in `range`, and notes in `places`, one for each of these, what became of names.
    ///
    /// A server that is older keeps a contested name, so that adding one never renames what exists.
    pub(super) fn build(all: Servers<'_>, range: Range<usize>, naming: Naming, places: &mut [Place]) -> Self {
        let mut by_age: Vec<usize> = range.clone().collect();
        // Stable: of two of one age the first by key comes first.
        by_age.sort_by_cached_key(|index| all.servers[*index].spec().created);
        let tables = Kind::ALL.map(|kind| {
            let count = all.alone[range.clone()].iter().map(|alone| alone.offer.of(kind).len()).sum();
            Table::with_capacity(count)
        });
        let first = range.start;
        let mut view = Self { tables, links: Table::default(), naming, range, places: OnceLock::new() };
        // What tools name is looked for among resources.
        for kind in [Kind::Resources, Kind::Templates] {
            for index in &by_age {
                for item in in_precedence(kind, all.alone[*index].offer.of(kind)) {
                    let hidden = !view.add_uri(all.added(*index, kind, item));
                    places[index - first].hidden += u32::from(hidden);
                }
            }
        }
        for index in &by_age {
            for tool in all.alone[*index].offer.tools.iter().filter(|tool| !tool.links.is_empty()) {
                view.add_links(all.added(*index, Kind::Tools, tool));
            }
        }
        for kind in [Kind::Tools, Kind::Prompts] {
            for index in &by_age {
                let spaced = view.naming.is_spaced(&all.servers[*index]);
                for item in all.alone[*index].offer.of(kind).iter() {
                    view.add_named(all.added(*index, kind, item), spaced, &mut places[index - first]);
                }
            }
        }
        view
    }

    /// Adds a resource or a template; false if there is no name for it.
    fn add_uri(&mut self, added: Added<'_>) -> bool {
        let Added { kind, server, item, .. } = added;
        let spaced = self.naming.is_spaced(server);
        let table = &mut self.tables[kind as usize];
        let name = self.naming.uri(server, &item.name, spaced);
        let fits = |name: &Arc<str>| table.fit(name, added) == Fit::Fits;
        let by_server = || qualified_by_server(&item.name, &server.key).map(Into::into);
        let is_page = kind == Kind::Resources && item.name.starts_with(PAGE_SCHEME);
        let name = match name {
            Some(name) if fits(&name) => Some(name),
            Some(_) if is_page => by_server().filter(fits),
            Some(_) => None,
            None => by_server().filter(fits),
        };
        name.map(|name| table.add(name, added)).is_some()
    }

    /// Adds what a tool names; what an older server's tool named before stays its. The same tool of another server, by its
    /// name too, is one that shares it.
    fn add_links(&mut self, added: Added<'_>) {
        let spaced = self.naming.is_spaced(added.server);
        let of_tool = |digest: &[u8; 32]| digest_of(&json!([&*added.item.name, digest]));
        for link in &added.item.links {
            let Some(name) = self.naming.uri(added.server, &Arc::from(&*link.uri), spaced) else { continue };
            let (digest, same) = (of_tool(&added.item.digest), of_tool(&added.item.same));
            let item = Arc::new(Item { digest, same, ..Item::unlisted(&link.uri) });
            // As a tool: a resource is the same by less.
            if self.links.fit(&name, Added { item: &item, ..added }) == Fit::Fits {
                self.links.add(name, Added { kind: Kind::Resources, item: &item, ..added });
            }
        }
    }

    /// Adds a tool or a prompt under its first name that is free.
    fn add_named(&mut self, added: Added<'_>, spaced: bool, place: &mut Place) {
        let Added { kind, server, item, .. } = added;
        let mut disagrees = false;
        let table = &self.tables[kind as usize];
        let mut names = self.naming.names(kind, server, item, spaced);
        let found = names.find(|(name, _)| {
            let fit = table.fit(name, added);
            disagrees |= fit == Fit::Disagrees;
            fit == Fit::Fits
        });
        drop(names);
        place.note(kind, found.as_ref().map(|(_, named)| *named), disagrees.then_some(&item.name));
        if let Some((name, _)) = found {
            let relinked = self.relinked(added, &name, spaced).map(Arc::new);
            let item = relinked.as_ref().unwrap_or(item);
            self.tables[kind as usize].add(name, Added { item, ..added });
        }
    }

    /// A tool as it is shown here under this name, if it names a resource that is known here by another URI.
    fn relinked(&self, added: Added<'_>, name: &str, spaced: bool) -> Option<Item> {
        let Added { kind, server, item, .. } = added;
        if item.links.is_empty() {
            return None;
        }
        let shared = self.table(kind).get(name);
        // Who shares the tool shows the same page with it.
        let is_its = |reader: &Handle| reader.key == server.key || shared.is_some_and(|entry| entry.is_of(reader));
        item.relinked(|uri| {
            let name = self.naming.uri(server, &uri.into(), spaced);
            let leads_there = |name: &Arc<str>| self.exact(name).and_then(|entry| entry.first()).is_some_and(is_its);
            match name.filter(leads_there) {
                Some(name) => spaced.then(|| name.as_ref().to_owned()),
                None => qualified_by_server(uri, &server.key),
            }
        })
    }

    pub(super) fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    /// Who lists a resource, or has a tool that names it.
    pub(super) fn exact(&self, uri: &str) -> Option<&Arc<Entry>> {
        match (self.table(Kind::Resources).get(uri), self.links.get(uri)) {
            // Of those who list it only who shares the tool has the page that belongs to it.
            (Some(listed), Some(linked)) if !same_first(listed, linked) => Some(listed),
            (listed, linked) => linked.or(listed),
        }
    }

    /// Where resources lie that nobody lists, of the servers whose URIs stand here as they are.
    pub(super) fn places(&self, all: Servers<'_>) -> &Places {
        self.places.get_or_init(|| {
            let own = self.range.clone().filter(|index| !self.naming.is_spaced(&all.servers[*index]));
            Places::of(own.map(|index| (index, &all.alone[index].offer)))
        })
    }
}

fn same_first(a: &Entry, b: &Entry) -> bool {
    a.first().map(|server| &server.key) == b.first().map(|server| &server.key)
}

impl<'a> Servers<'a> {
    fn added(self, index: usize, kind: Kind, item: &'a Arc<Item>) -> Added<'a> {
        let (server, listed) = (&self.servers[index], self.alone[index].offer.listed);
        Added { kind, server, family: self.families[index], item, listed }
    }
}

/// A server's items in the order of their names; its templates with those first that say more of a URI.
fn in_precedence(kind: Kind, items: &Items) -> impl Iterator<Item = &Arc<Item>> {
    let literals = |item: &Arc<Item>| UriTemplate::parse(&item.name).map_or(0, |template| template.literals());
    let mut templates: Vec<_> = if kind == Kind::Templates { items.iter().collect() } else { Vec::new() };
    templates.sort_by_cached_key(|item| std::cmp::Reverse(literals(item)));
    let others = if kind == Kind::Templates { &[] } else { items.as_slice() };
    templates.into_iter().chain(others)
}

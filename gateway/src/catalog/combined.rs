//! The combined items of several servers under the names of their view: of all servers, or of one namespace.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use serde_json::json;

use super::family::Family;
use super::naming::{Naming, qualified_by_server};
use super::table::{Added, Fit, Table};
use super::{Candidate, Entry, Kind, ServerCatalog, ServerSummary};
use crate::catalog::resolve_uri::UriAuthorities;
use crate::offer::item::{Item, Items, digest_of};
use crate::server::handle::Handle;
use portcullis_mcp::protocol::uri_template::UriTemplate;

/// The items of some servers.
#[derive(Default)]
pub(super) struct CombinedItems {
    tables: [Table; Kind::ALL.len()],
    /// Resources that tools name, whether they are listed or not.
    links: Table,
    naming: Naming,
    /// The servers of the view.
    range: Range<usize>,
    places: OnceLock<UriAuthorities>,
}

/// All servers, sorted by key, with their data in the same order.
#[derive(Clone, Copy)]
pub(super) struct AllServers<'a> {
    pub(crate) servers: &'a [Arc<Handle>],
    pub(crate) alone: &'a [ServerCatalog],
    pub(crate) families: &'a [Family],
    /// A view whose names are taken.
    pub(crate) beneath: Option<&'a CombinedItems>,
}

/// The scheme of tool UIs and similar pages (MCP Apps); frameworks use the same URIs for all of their servers.
const PAGE_SCHEME: &str = "ui:";

impl CombinedItems {
    /// Builds the view of the servers in `range`, and records in `places`, one for each of these, how names changed.
    ///
    /// The older server keeps a contested name, so that an added server never renames existing items.
    pub(super) fn build(
        all: AllServers<'_>,
        range: Range<usize>,
        naming: Naming,
        places: &mut [ServerSummary],
    ) -> Self {
        let mut by_age: Vec<usize> = range.clone().collect();
        // Stable: servers of equal age are ordered by key.
        by_age.sort_by_cached_key(|index| all.servers[*index].spec().created);
        let tables = Kind::ALL.map(|kind| {
            let count = all.alone[range.clone()].iter().map(|alone| alone.offer.of(kind).len()).sum();
            Table::with_capacity(count)
        });
        let first = range.start;
        let mut view = Self { tables, links: Table::default(), naming, range, places: OnceLock::new() };
        // Resources that tools name are looked up among the listed ones.
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

    /// Adds a resource or a template; false if no name is left for it.
    fn add_uri(&mut self, added: Added<'_>) -> bool {
        let Added { kind, server, item, .. } = added;
        let spaced = self.naming.is_spaced(server);
        let table = &mut self.tables[kind as usize];
        let name = self.naming.uri(server, &item.name, spaced);
        let fits = |name: &Arc<str>| !added.is_beneath(kind, name) && table.fit(name, added) == Fit::Fits;
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

    /// Adds the resources that a tool names; those that an older server's tool named before stay with it. The same tool
    /// of another server, under the same name too, shares it.
    fn add_links(&mut self, added: Added<'_>) {
        let spaced = self.naming.is_spaced(added.server);
        let of_tool = |digest: &[u8; 32]| digest_of(&json!([&*added.item.name, digest]));
        for link in &added.item.links {
            let Some(name) = self.naming.uri(added.server, &Arc::from(&*link.uri), spaced) else { continue };
            let (digest, same) = (of_tool(&added.item.digest), of_tool(&added.item.same));
            let item = Arc::new(Item { digest, same, ..Item::unlisted(&link.uri) });
            // As a tool: the criteria for equal resources are weaker.
            let is_free = !added.is_beneath(Kind::Resources, &name);
            if is_free && self.links.fit(&name, Added { item: &item, ..added }) == Fit::Fits {
                self.links.add(name, Added { kind: Kind::Resources, item: &item, ..added });
            }
        }
    }

    /// Adds a tool or a prompt under its first free name.
    fn add_named(&mut self, added: Added<'_>, spaced: bool, place: &mut ServerSummary) {
        let Added { kind, server, item, .. } = added;
        let mut disagrees = false;
        let table = &self.tables[kind as usize];
        let mut names = self.naming.names(kind, server, item, spaced);
        let found = names.find(|(name, _)| {
            let fit = if added.is_beneath(kind, name) { Fit::Taken } else { table.fit(name, added) };
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

    /// A tool as listed here under this name, if it names a resource that has another URI here.
    fn relinked(&self, added: Added<'_>, name: &str, spaced: bool) -> Option<Item> {
        let Added { kind, server, item, .. } = added;
        if item.links.is_empty() {
            return None;
        }
        let shared = self.table(kind).get(name);
        // Servers that share the tool show the same page with it.
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

    /// The items that `permit` leaves, for lists alone.
    pub(super) fn narrowed(&self, range: Range<usize>, permit: impl Fn(Kind, &Candidate) -> bool) -> Self {
        let tables = Kind::ALL.map(|kind| self.table(kind).narrowed(|candidate| permit(kind, candidate)));
        Self { tables, range, ..Self::default() }
    }

    /// The name of a tool or a prompt of a server; `None` if other servers have all of its names.
    pub(super) fn name_of(&self, kind: Kind, server: &Arc<Handle>, item: &Item) -> Option<Arc<str>> {
        let is_it =
            |candidate: &Candidate| Arc::ptr_eq(&candidate.server, server) && candidate.item.own_name == item.own_name;
        let has = |name: &Arc<str>| self.table(kind).get(name).is_some_and(|entry| entry.candidates.iter().any(is_it));
        let spaced = self.naming.is_spaced(server);
        self.naming.names(kind, server, item, spaced).map(|(name, _)| name).find(has)
    }

    pub(super) fn table(&self, kind: Kind) -> &Table {
        &self.tables[kind as usize]
    }

    /// The servers that list a resource, or have a tool that names it.
    pub(super) fn exact(&self, uri: &str) -> Option<&Arc<Entry>> {
        match (self.table(Kind::Resources).get(uri), self.links.get(uri)) {
            // Of the servers that list it, only those that share the tool have its page.
            (Some(listed), Some(linked)) if !same_first(listed, linked) => Some(listed),
            (listed, linked) => linked.or(listed),
        }
    }

    /// The authorities of unlisted resources, for servers whose URIs are unchanged here.
    pub(super) fn places(&self, all: AllServers<'_>) -> &UriAuthorities {
        self.places.get_or_init(|| {
            let own = self.range.clone().filter(|index| !self.naming.is_spaced(&all.servers[*index]));
            UriAuthorities::of(own.map(|index| (index, &all.alone[index].offer)))
        })
    }
}

fn same_first(a: &Entry, b: &Entry) -> bool {
    a.first().map(|server| &server.key) == b.first().map(|server| &server.key)
}

impl<'a> AllServers<'a> {
    fn added(self, index: usize, kind: Kind, item: &'a Arc<Item>) -> Added<'a> {
        let (server, listed) = (&self.servers[index], self.alone[index].offer.listed);
        Added { kind, server, family: self.families[index], item, listed, beneath: self.beneath }
    }
}

impl Added<'_> {
    /// Whether a view beneath has an item of this name.
    fn is_beneath(&self, kind: Kind, name: &str) -> bool {
        self.beneath.is_some_and(|view| match kind {
            Kind::Resources => view.exact(name).is_some(),
            kind => view.table(kind).get(name).is_some(),
        })
    }
}

/// A server's items in order of their names; templates in order of specificity.
fn in_precedence(kind: Kind, items: &Items) -> impl Iterator<Item = &Arc<Item>> {
    let literals = |item: &Arc<Item>| UriTemplate::parse(&item.name).map_or(0, |template| template.literals());
    let mut templates: Vec<_> = if kind == Kind::Templates { items.iter().collect() } else { Vec::new() };
    templates.sort_by_cached_key(|item| std::cmp::Reverse(literals(item)));
    let others = if kind == Kind::Templates { &[] } else { items.as_slice() };
    templates.into_iter().chain(others)
}

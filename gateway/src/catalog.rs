//! Everything that servers offer under the names callers use, with the servers that offer it.
//!
//! An immutable view: built anew when something changed and swapped in whole, so that a call never sees half a change.

mod family;
mod naming;
mod pages;
mod reader;
mod rest;
mod table;
mod view;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use portcullis_crds::ServerKey;
use smallvec::smallvec;

use self::family::Family;
use self::naming::{Named, Naming};
use self::pages::{Pages, number_of_row};
use self::table::Table;
use self::view::{Servers, View};
use crate::handle::{Handle, Offer, Phase};
use crate::item::Item;
use crate::short::{is_makeable, short_form};

pub use self::naming::{Tenancy, uri_forms};
pub use self::pages::{BadCursor, PAGE};
pub use self::table::{Candidate, Entry};
pub use crate::item::Kind;

/// What a caller looks at.
#[derive(Clone, Copy)]
pub enum Scope<'a> {
    /// Everything, under names that say of other namespaces than the home one whose they are.
    All,
    /// The servers of one namespace, with names of their own.
    Namespace(&'a str),
    /// One server alone, with the names that it offers.
    Server(&'a Arc<Handle>),
}

/// Everything of all servers.
#[derive(Default)]
pub struct Catalog {
    all: View,
    tenancy: Tenancy,
    servers: Vec<Arc<Handle>>,
    /// For each of the servers, in the same order.
    places: Vec<Place>,
    /// For each of the servers, in the same order.
    alone: Vec<Alone>,
    /// For each of the servers, in the same order.
    families: Vec<Family>,
    /// Few namespaces are looked at alone.
    namespaces: OnceLock<HashMap<Box<str>, NamespaceView>>,
    /// Where the server stands that callers mean by a name.
    names: OnceLock<HashMap<Box<str>, usize>>,
    listing: OnceLock<Bytes>,
}

/// The servers of one namespace, and what is shown of them alone.
struct NamespaceView {
    range: Range<usize>,
    view: OnceLock<View>,
}

/// A server's place in the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// What it offers is listed here.
    pub listed: bool,
    /// It is what it has told itself.
    pub own: bool,
    /// So many of its tools have the server's name in theirs because another server has the bare one.
    pub renamed: u32,
    /// So many of its tools go by a short form of their name.
    pub shortened: u32,
    /// So many of its resources and templates are not shown because another server has their URI.
    pub hidden: u32,
    /// Its tools and prompts on which an older server of its pool does not agree, so that they are not shared.
    pub disagreed: Vec<Arc<str>>,
}

/// One server's offer as it was when the view was built, and what is shown of it alone.
struct Alone {
    offer: Arc<Offer>,
    /// Few servers are looked at alone.
    pages: OnceLock<Box<[OnceLock<Pages>; Kind::ALL.len()]>>,
    numbers: OnceLock<Box<[OnceLock<u64>; Kind::ALL.len()]>>,
}

/// What differs between two views.
#[derive(Default)]
pub struct Difference<'a> {
    /// Servers of the newer one that are new or have another place.
    pub servers: Vec<&'a Arc<Handle>>,
    /// Servers of the older one that the newer one has not.
    pub gone: Vec<&'a ServerKey>,
}

impl Catalog {
    /// Builds the view of a cluster whose namespaces belong to different teams. Servers come in any order.
    pub fn build(servers: Vec<Arc<Handle>>) -> Self {
        Self::build_for(Tenancy::Isolated, servers)
    }

    /// Builds the view.
    pub fn build_for(tenancy: Tenancy, mut servers: Vec<Arc<Handle>>) -> Self {
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        let mut places = Vec::with_capacity(servers.len());
        let mut alone = Vec::with_capacity(servers.len());
        for server in &servers {
            // Before the offer, which is then no older.
            let own = server.has_listed();
            let offer = server.offer();
            places.push(Place { listed: offer.listed, own, ..Place::default() });
            alone.push(Alone { offer, pages: OnceLock::new(), numbers: OnceLock::new() });
        }
        let families = Family::of_all(servers.iter().zip(alone.iter().map(|alone| &alone.offer)));
        let (range, naming) = (0..servers.len(), Naming::of_all(tenancy, &servers));
        let given = Servers { servers: &servers, alone: &alone, families: &families };
        let all = View::build(given, range, naming, &mut places);
        let (namespaces, names, listing) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Self { all, tenancy, servers, places, alone, families, namespaces, names, listing }
    }

    fn all_servers(&self) -> Servers<'_> {
        Servers { servers: &self.servers, alone: &self.alone, families: &self.families }
    }

    /// What several servers offer together; none for one alone, or where there is no server.
    fn view(&self, scope: Scope<'_>) -> Option<&View> {
        let namespace = match scope {
            Scope::All => return Some(&self.all),
            Scope::Namespace(namespace) => self.namespaces().get(namespace)?,
            Scope::Server(_) => return None,
        };
        Some(namespace.view.get_or_init(|| {
            let mut places = vec![Place::default(); namespace.range.len()];
            View::build(self.all_servers(), namespace.range.clone(), Naming::default(), &mut places)
        }))
    }

    fn namespaces(&self) -> &HashMap<Box<str>, NamespaceView> {
        self.namespaces.get_or_init(|| {
            let mut all = HashMap::new();
            let mut begin = 0;
            for same in self.servers.chunk_by(|a, b| a.key.namespace == b.key.namespace) {
                let range = begin..begin + same.len();
                begin = range.end;
                let namespace = same.first().map(|server| server.key.namespace.as_str()).unwrap_or_default();
                all.insert(namespace.into(), NamespaceView { range, view: OnceLock::new() });
            }
            all
        })
    }

    /// Whether a server is in this namespace.
    pub fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces().contains_key(namespace)
    }

    // --- what is offered ---

    /// The item of this name, if anybody has it. A tool is found by its full name too where that is shortened.
    pub fn find(&self, kind: Kind, scope: Scope<'_>, name: &str) -> Option<Cow<'_, Arc<Entry>>> {
        let found = |name: &str| match scope {
            Scope::Server(server) => self.find_alone(kind, server, name).map(|entry| Cow::Owned(Arc::new(entry))),
            scope => self.view(scope)?.table(kind).get(name).map(Cow::Borrowed),
        };
        let is_full = || kind == Kind::Tools && !is_makeable(name);
        found(name).or_else(|| is_full().then(|| found(&short_form(name))).flatten())
    }

    fn find_alone(&self, kind: Kind, server: &Arc<Handle>, name: &str) -> Option<Entry> {
        let offer = &self.alone(server)?.offer;
        let items = offer.of(kind);
        let item = &items[items.binary_search_by(|item| (*item.name).cmp(name)).ok()?];
        let candidate = Candidate { server: server.clone(), item: item.clone(), listed: offer.listed };
        Some(Entry { name: item.name.clone(), candidates: smallvec![candidate], listed: offer.listed, in_order: true })
    }

    /// A page of a list as MCP has it: `"tools":[...]`, then `,"nextCursor":"..."` if more follow; no braces.
    ///
    /// Sorted by name, [`PAGE`] items a page; the same bytes as long as nothing changes.
    ///
    /// # Errors
    /// The cursor was never given out.
    pub fn page(&self, kind: Kind, scope: Scope<'_>, cursor: Option<&str>) -> Result<Bytes, BadCursor> {
        let pages = match scope {
            Scope::Server(server) => self.alone(server).map(|alone| alone.pages(kind)),
            scope => self.view(scope).map(|view| view.table(kind).pages(kind)),
        };
        match pages {
            Some(pages) => pages.page(cursor),
            None => Pages::new(kind, Vec::new()).page(cursor),
        }
    }

    /// A number that changes when the pages of a kind do; that of resources also when those of templates do.
    pub fn fingerprint(&self, kind: Kind, scope: Scope<'_>) -> u64 {
        let of = |kind| match scope {
            Scope::Server(server) => self.alone(server).map_or(0, |alone| alone.fingerprint(kind)),
            scope => self.view(scope).map_or(0, |view| view.table(kind).fingerprint()),
        };
        match kind {
            Kind::Resources => of(Kind::Resources).wrapping_add(of(Kind::Templates).rotate_left(1)),
            kind => of(kind),
        }
    }

    /// The listed items of a kind, sorted by name.
    pub fn listed(&self, kind: Kind) -> Vec<&Entry> {
        sorted(self.table(kind))
    }

    /// How many items of a kind are listed.
    pub fn count(&self, kind: Kind) -> usize {
        self.table(kind).listed().count()
    }

    /// Whether a tool of this server goes by this name, here or where it is alone.
    pub fn offers_tool(&self, server: &Handle, name: &str) -> bool {
        let is_its = |entry: &Arc<Entry>| entry.candidates.iter().any(|candidate| candidate.server.key == server.key);
        self.table(Kind::Tools).get(name).is_some_and(is_its) || server.offers_tool(name)
    }

    /// How many items of a kind a server lists here.
    pub fn offered_by(&self, server: &Handle, kind: Kind) -> usize {
        self.alone(server).map_or(0, |alone| alone.shown(kind).len())
    }

    fn table(&self, kind: Kind) -> &Table {
        self.all.table(kind)
    }

    fn alone(&self, server: &Handle) -> Option<&Alone> {
        self.index_of(&server.key).map(|index| &self.alone[index])
    }

    // --- servers ---

    /// Every server, sorted by key.
    pub fn servers(&self) -> &[Arc<Handle>] {
        &self.servers
    }

    /// The server that a caller means: by name, by the URL as configured, or with its namespace. With
    /// [`Tenancy::Isolated`] a URL, like a bare name, means one of the home namespace: else another namespace could take
    /// it. With [`Tenancy::Shared`] a bare name means the only server that has it, too.
    pub fn server(&self, wanted: &str) -> Option<&Arc<Handle>> {
        let named = self.names.get_or_init(|| self.all_names()).get(wanted).map(|at| &self.servers[*at]);
        named.or_else(|| self.server_of(&wanted.split_once('/').map(|(space, name)| ServerKey::new(space, name))?))
    }

    /// Every name by which one of the servers is meant but for that with its namespace; what counts more comes later.
    fn all_names(&self) -> HashMap<Box<str>, usize> {
        // Of two with the same the first counts.
        let is_shared = self.tenancy == Tenancy::Shared;
        let servers = || self.servers.iter().enumerate().rev().filter(|(_, one)| is_shared || one.spec().is_home());
        let mut names: HashMap<Box<str>, usize> = HashMap::with_capacity(self.servers.len());
        let mut twice = HashSet::new();
        for (at, server) in servers() {
            if names.insert(server.key.name.as_str().into(), at).is_some() {
                twice.insert(server.key.name.as_str());
            }
        }
        names.retain(|name, _| !twice.contains(&**name));
        names.extend(servers().map(|(at, server)| (server.spec().url.as_str().into(), at)));
        names.extend(servers().map(|(at, server)| (server.spec().label().into(), at)));
        names.extend(servers().map(|(at, server)| (server.name.as_str().into(), at)));
        names
    }

    /// Whether a server has an open session, and this view shows what it offers: whoever waits until a server is
    /// connected can then call its tools.
    pub fn is_connected(&self, server: &Handle) -> bool {
        server.live().is_some() && (self.lists(server) || !server.offer().listed)
    }

    /// Whether a server is being connected for the first time, so that its tools are not known yet.
    pub fn is_incomplete(&self) -> bool {
        self.servers.iter().any(|server| server.phase() == Phase::Connecting)
    }

    /// The server of this key.
    pub fn server_of(&self, key: &ServerKey) -> Option<&Arc<Handle>> {
        self.index_of(key).map(|index| &self.servers[index])
    }

    /// Whether the tools of this server are listed here, as it has told them since it was started last.
    pub fn lists(&self, server: &Handle) -> bool {
        self.index_of(&server.key).is_some_and(|index| self.places[index].listed && self.places[index].own)
    }

    /// A server's place; that of one that is not here is empty.
    pub fn place(&self, server: &Handle) -> Place {
        self.index_of(&server.key).map(|index| self.places[index].clone()).unwrap_or_default()
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
}

/// The listed items, sorted by name.
fn sorted(table: &Table) -> Vec<&Entry> {
    let mut all: Vec<_> = table.listed().collect();
    all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    all
}

impl Place {
    /// Notes what became of the name of a tool or a prompt; none: there is no other for it.
    fn note(&mut self, kind: Kind, named: Option<Named>, disagreed: Option<&Arc<str>>) {
        if kind == Kind::Tools {
            self.shortened += u32::from(named.is_some_and(|named| named.shortened));
            self.renamed += u32::from(named.is_some_and(|named| named.renamed));
        }
        self.disagreed.extend(disagreed.cloned());
    }
}

impl Alone {
    fn pages(&self, kind: Kind) -> &Pages {
        let all = self.pages.get_or_init(Box::default);
        all[kind as usize].get_or_init(|| {
            let shown = self.shown(kind);
            Pages::new(kind, shown.iter().map(|item| (item.name.clone(), item.clone())).collect())
        })
    }

    fn fingerprint(&self, kind: Kind) -> u64 {
        let all = self.numbers.get_or_init(Box::default);
        *all[kind as usize].get_or_init(|| {
            self.shown(kind).iter().map(|item| number_of_row(&item.name, item)).fold(0, u64::wrapping_add)
        })
    }

    fn shown(&self, kind: Kind) -> &[Arc<Item>] {
        if self.offer.listed { self.offer.of(kind) } else { &[] }
    }
}

#[cfg(test)]
mod tests;

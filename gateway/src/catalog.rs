//! The items of all servers under the names that callers use, with the servers that offer them.
//!
//! An immutable view: rebuilt on changes and swapped in whole, so that a call never sees half a change.

mod announced;
mod basis;
mod caller_part;
mod combined;
mod difference;
mod explained;
mod family;
pub mod figures;
mod governed;
pub mod metrics;
mod naming;
mod pages;
mod resolve_uri;
mod rest_listing;
mod search;
mod seen;
mod skills;
mod table;
mod view_list;
mod views;

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::ops::{Deref, Range};
use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwap;
use bytes::Bytes;
use portcullis_crds::ServerKey;
use portcullis_crds::view::SharedViews;
use smallvec::smallvec;

use self::caller_part::CallerPart;
use self::combined::{AllServers, CombinedItems};
use self::family::Family;
use self::governed::{Governed, ServerRules};
use self::naming::{NameChanges, Naming};
use self::pages::{Pages, number_of_row};
use self::search::ToolIndex;
use self::seen::Narrowed;
use self::skills::ShownSkill;
use self::table::Table;
use self::view_list::ViewList;
use self::views::{ViewFacts, Views};
use crate::offer::item::Item;
use crate::offer::short_names::{is_makeable, short_form};
use crate::server::handle::{Handle, Offer, Phase};
use portcullis_mcp::protocol::extensions::Extensions;

pub(crate) use self::basis::{Basis, OverLimit};
pub(crate) use self::caller_part::{CallerListing, Lacking};
pub(crate) use self::difference::Difference;
pub(crate) use self::explained::{ExplainBounds, ExplainedItem};
pub(crate) use self::governed::{NotAllowed, PolicyDefault, item_kind};
pub(crate) use self::naming::{Tenancy, uri_forms};
pub(crate) use self::pages::BadCursor;
pub(crate) use self::table::{Candidate, Entry};
pub(crate) use crate::offer::item::Kind;

/// The newest catalog, as the pool publishes it.
pub(crate) type PublishedCatalog = Arc<ArcSwap<Catalog>>;

/// The part of the catalog that a caller sees.
#[derive(Clone, Copy)]
pub(crate) enum Scope<'a> {
    /// Everything; names outside the home namespace include their namespace.
    All,
    /// The servers of one namespace, with unprefixed names.
    Namespace(&'a str),
    /// One server alone, with its original names.
    Server(&'a Arc<Handle>),
}

/// The items of all servers, and the policies that decide who may use them.
#[derive(Default)]
pub(crate) struct Catalog {
    merged: Arc<Merged>,
    /// The policies that govern the servers, if there are any.
    governed: Option<Arc<Governed>>,
    /// What servers list for one caller alone.
    of_caller: Option<CallerPart>,
    /// The views; none in a view.
    views: Arc<Views>,
}

/// The items of all servers under the names that callers use. A change of policies alone leaves it as it is.
#[derive(Default)]
pub(crate) struct Merged {
    /// Made on demand where this was narrowed.
    all: OnceLock<CombinedItems>,
    tenancy: Tenancy,
    servers: Vec<Arc<Handle>>,
    /// For each server, in the same order.
    places: Vec<ServerSummary>,
    /// For each server, in the same order.
    alone: Vec<ServerCatalog>,
    /// For each server, in the same order.
    families: Vec<Family>,
    /// Built on demand: few namespaces are viewed alone.
    namespaces: OnceLock<HashMap<Box<str>, NamespaceItems>>,
    /// The index of the server for each name that callers may use.
    names: OnceLock<HashMap<Box<str>, usize>>,
    listing: OnceLock<Bytes>,
    /// The extensions of all servers, collected on demand.
    announced: OnceLock<Extensions>,
    /// The skills of all servers, collected on demand.
    skills: OnceLock<Arc<Vec<ShownSkill>>>,
    /// Of a catalog that was narrowed for a class of callers.
    narrowed: Option<Narrowed>,
    /// Some server has lists of its own for each caller.
    has_caller_lists: bool,
    /// Of what one caller alone is listed: what everybody sees, whose names are taken.
    beneath: Option<Arc<Merged>>,
    /// Of a view.
    view: Option<Arc<ViewFacts>>,
    /// What the list of tools of a view shows.
    list: OnceLock<ViewList>,
    /// The index in which agents search the tools of a view.
    index: OnceLock<ToolIndex>,
}

/// The servers of one namespace, and their own view.
struct NamespaceItems {
    range: Range<usize>,
    items: OnceLock<CombinedItems>,
    /// Their extensions, collected on demand.
    announced: OnceLock<Extensions>,
    /// Their skills, collected on demand.
    skills: OnceLock<Arc<Vec<ShownSkill>>>,
}

/// The place of a server in the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerSummary {
    /// The view lists the server's items.
    pub(crate) listed: bool,
    /// The server itself has reported these items.
    pub(crate) own: bool,
    /// The number of its tools that carry the server's name because another server has the bare name.
    pub(crate) renamed: u32,
    /// The number of its tools under a shortened name.
    pub(crate) shortened: u32,
    /// The number of its resources and templates that are hidden because another server has their URI.
    pub(crate) hidden: u32,
    /// Its tools and prompts that are not shared because an older server of its pool defines them differently.
    pub(crate) disagreed: Vec<Arc<str>>,
}

/// One server's offer at the time the view was built, and its own view.
struct ServerCatalog {
    offer: Arc<Offer>,
    /// What is left of it for a class of callers.
    narrow: OnceLock<Arc<Offer>>,
    /// Built on demand: few servers are viewed alone.
    pages: OnceLock<Box<[OnceLock<Pages>; Kind::ALL.len()]>>,
    numbers: OnceLock<Box<[OnceLock<u64>; Kind::ALL.len()]>>,
}

impl Catalog {
    /// Builds the view of a cluster whose namespaces belong to different teams. Servers may come in any order.
    #[cfg(test)]
    pub(crate) fn build(servers: Vec<Arc<Handle>>) -> Self {
        Self::build_for(Tenancy::Isolated, servers)
    }

    /// Builds the view.
    #[cfg(test)]
    pub(crate) fn build_for(tenancy: Tenancy, servers: Vec<Arc<Handle>>) -> Self {
        Self::build_governed(tenancy, PolicyDefault::default(), servers, &SharedViews::default(), None)
    }

    /// Builds the catalog with the policies that govern the servers, and its views. What `before` has of them is used again.
    pub(crate) fn build_governed(
        tenancy: Tenancy,
        default: PolicyDefault,
        mut servers: Vec<Arc<Handle>>,
        views: &SharedViews,
        before: Option<&Self>,
    ) -> Self {
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        let mut places = Vec::with_capacity(servers.len());
        let mut alone = Vec::with_capacity(servers.len());
        for server in &servers {
            // Read before the offer, which is then at least as new.
            let own = server.has_listed();
            let offer = server.offer();
            places.push(ServerSummary { listed: offer.listed, own, ..ServerSummary::default() });
            alone.push(ServerCatalog::of(offer));
        }
        let families = Family::of_all(servers.iter().zip(alone.iter().map(|alone| &alone.offer)));
        let (range, naming) = (0..servers.len(), Naming::of_all(tenancy, &servers));
        let given = AllServers { servers: &servers, alone: &alone, families: &families, beneath: None };
        let all = CombinedItems::build(given, range, naming, &mut places);
        let all = OnceLock::from(all);
        let governed_before = before.and_then(|before| before.governed.as_deref());
        let governed = Governed::of(&servers, default, governed_before).map(Arc::new);
        let has_caller_lists = servers.iter().any(|server| server.spec().listing.per_caller);
        let merged = Merged { all, tenancy, servers, places, alone, families, has_caller_lists, ..Merged::default() };
        let views = Views::of(views, &merged, governed.as_deref(), before.map(|before| &*before.views));
        Self { merged: Arc::new(merged), governed, of_caller: None, views: Arc::new(views) }
    }

    /// The same items with the policies that govern the servers now, and with these views.
    pub(crate) fn regoverned(&self, default: PolicyDefault, views: &SharedViews) -> Self {
        let governed = Governed::of(&self.merged.servers, default, self.governed.as_deref()).map(Arc::new);
        let views = Views::of(views, &self.merged, governed.as_deref(), Some(&self.views));
        Self { merged: self.merged.clone(), governed, of_caller: None, views: Arc::new(views) }
    }

    /// The difference from an older view.
    pub(crate) fn since<'a>(&'a self, older: &'a Self) -> Difference<'a> {
        if Arc::ptr_eq(&self.merged, &older.merged) {
            return Difference::default();
        }
        self.merged.since(&older.merged)
    }
}

impl Deref for Catalog {
    type Target = Merged;

    fn deref(&self) -> &Merged {
        &self.merged
    }
}

impl Merged {
    fn all_servers<'a>(&'a self, beneath: Option<&'a CombinedItems>) -> AllServers<'a> {
        AllServers { servers: &self.servers, alone: &self.alone, families: &self.families, beneath }
    }

    /// The combined view of several servers; `None` for one server alone, or if there is no server.
    fn combined(&self, scope: Scope<'_>) -> Option<&CombinedItems> {
        let (name, namespace) = match scope {
            Scope::All => return Some(self.all()),
            Scope::Namespace(name) => (name, self.namespaces().get(name)?),
            Scope::Server(_) => return None,
        };
        Some(namespace.items.get_or_init(|| {
            if let Some(narrowed) = &self.narrowed {
                return narrowed.namespace(name);
            }
            let mut places = vec![ServerSummary::default(); namespace.range.len()];
            let beneath = self.beneath.as_ref().and_then(|beneath| beneath.combined(scope));
            CombinedItems::build(self.all_servers(beneath), namespace.range.clone(), Naming::default(), &mut places)
        }))
    }

    /// The view of all servers.
    fn all(&self) -> &CombinedItems {
        self.all.get_or_init(|| self.combined_on_demand())
    }

    /// What a server offers here.
    fn offer(&self, place: usize) -> &Arc<Offer> {
        let alone = &self.alone[place];
        match &self.narrowed {
            None => &alone.offer,
            Some(narrowed) => alone.narrow.get_or_init(|| narrowed.offer(&self.servers[place], &alone.offer)),
        }
    }

    /// Whether this is the part that a class of callers sees.
    fn is_narrow(&self) -> bool {
        self.narrowed.is_some()
    }

    fn namespaces(&self) -> &HashMap<Box<str>, NamespaceItems> {
        self.namespaces.get_or_init(|| {
            let mut all = HashMap::new();
            let mut begin = 0;
            for same in self.servers.chunk_by(|a, b| a.key.namespace == b.key.namespace) {
                let range = begin..begin + same.len();
                begin = range.end;
                let namespace = same.first().map(|server| server.key.namespace.as_str()).unwrap_or_default();
                all.insert(
                    namespace.into(),
                    NamespaceItems {
                        range,
                        items: OnceLock::new(),
                        announced: OnceLock::new(),
                        skills: OnceLock::new(),
                    },
                );
            }
            all
        })
    }

    /// Whether a server is in this namespace.
    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces().contains_key(namespace)
    }

    // --- items ---

    /// The item of this name. A tool with a shortened name is also found by its full name. Nothing is found in what a class
    /// of callers sees: see [`Catalog::find_for`].
    pub(crate) fn find(&self, kind: Kind, scope: Scope<'_>, name: &str) -> Option<Cow<'_, Arc<Entry>>> {
        let found = |name: &str| match scope {
            Scope::Server(server) => self.find_alone(kind, server, name).map(|entry| Cow::Owned(Arc::new(entry))),
            scope => self.combined(scope)?.table(kind).get(name).map(Cow::Borrowed),
        };
        let is_full = || kind == Kind::Tools && !is_makeable(name);
        found(name).or_else(|| is_full().then(|| found(&short_form(name))).flatten())
    }

    fn find_alone(&self, kind: Kind, server: &Arc<Handle>, name: &str) -> Option<Entry> {
        let place = self.index_of(&server.key).filter(|_| !self.is_narrow())?;
        let offer = self.offer(place);
        let items = offer.of(kind);
        let at = items.binary_search_by(|item| (*item.name).cmp(name)).ok()?;
        let item = items[at].clone();
        let candidate = Candidate { server: server.clone(), item: item.clone(), listed: offer.listed, grant: None };
        Some(Entry { name: item.name.clone(), candidates: smallvec![candidate], listed: offer.listed, in_order: true })
    }

    /// A page of a list in MCP's form: `"tools":[...]`, then `,"nextCursor":"..."` if more follow; no braces.
    ///
    /// Sorted by name, [`pages::PAGE`] items a page; the same bytes as long as nothing changes.
    ///
    /// # Errors
    /// The gateway never issued this cursor.
    pub(crate) fn page(&self, kind: Kind, scope: Scope<'_>, cursor: Option<&str>) -> Result<Bytes, BadCursor> {
        let pages = match scope {
            Scope::Server(server) => self.index_of(&server.key).map(|place| self.pages_alone(place, kind)),
            Scope::All if kind == Kind::Tools && self.view.is_some() => self.view_list().map(|list| &list.pages),
            scope => self.combined(scope).map(|items| items.table(kind).pages(kind)),
        };
        match pages {
            Some(pages) => pages.page(cursor),
            None => Pages::new(kind, Vec::new()).page(cursor),
        }
    }

    /// A number that changes with the pages of a kind; that of resources also changes with those of templates.
    pub(crate) fn fingerprint(&self, kind: Kind, scope: Scope<'_>) -> u64 {
        let of = |kind| match scope {
            Scope::Server(server) => self.index_of(&server.key).map_or(0, |place| self.fingerprint_alone(place, kind)),
            Scope::All if kind == Kind::Tools && self.view.is_some() => {
                self.view_list().map_or(0, |list| list.fingerprint)
            }
            scope => self.combined(scope).map_or(0, |view| view.table(kind).fingerprint()),
        };
        let of_all = match kind {
            Kind::Resources => of(Kind::Resources).wrapping_add(of(Kind::Templates).rotate_left(1)),
            kind => of(kind),
        };
        of_all.wrapping_add(self.caller_lists(scope))
    }

    /// The listed items of a kind, sorted by name.
    pub(crate) fn listed(&self, kind: Kind) -> Vec<&Entry> {
        self.table(kind).listed().collect()
    }

    /// The items among which the listed tools are, sorted by name.
    fn listed_sorted(&self) -> &[Arc<Entry>] {
        self.table(Kind::Tools).sorted()
    }

    /// How many items of a kind are listed.
    pub(crate) fn count(&self, kind: Kind) -> usize {
        self.table(kind).listed().count()
    }

    /// Whether this server has a tool of this name, here or in its own view.
    pub(crate) fn offers_tool(&self, server: &Handle, name: &str) -> bool {
        let is_its = |entry: &Arc<Entry>| entry.candidates.iter().any(|candidate| candidate.server.key == server.key);
        self.table(Kind::Tools).get(name).is_some_and(is_its) || server.offers_tool(name)
    }

    /// The number of items of a kind that a server lists here.
    pub(crate) fn offered_by(&self, server: &Handle, kind: Kind) -> usize {
        self.index_of(&server.key).map_or(0, |place| self.shown(place, kind).len())
    }

    fn table(&self, kind: Kind) -> &Table {
        self.all().table(kind)
    }

    fn alone(&self, server: &Handle) -> Option<&ServerCatalog> {
        self.index_of(&server.key).map(|index| &self.alone[index])
    }

    fn pages_alone(&self, place: usize, kind: Kind) -> &Pages {
        let all = self.alone[place].pages.get_or_init(Box::default);
        all[kind as usize].get_or_init(|| {
            let rows = self.shown(place, kind).iter().map(|item| (item.name.clone(), item.clone())).collect();
            if self.is_narrow() { Pages::of_class(kind, rows) } else { Pages::new(kind, rows) }
        })
    }

    fn fingerprint_alone(&self, place: usize, kind: Kind) -> u64 {
        let all = self.alone[place].numbers.get_or_init(Box::default);
        *all[kind as usize].get_or_init(|| {
            self.shown(place, kind).iter().map(|item| number_of_row(&item.name, item)).fold(0, u64::wrapping_add)
        })
    }

    fn shown(&self, place: usize, kind: Kind) -> &[Arc<Item>] {
        let offer = self.offer(place);
        if offer.listed { offer.of(kind) } else { &[] }
    }

    // --- servers ---

    /// Every server, sorted by key.
    pub(crate) fn servers(&self) -> &[Arc<Handle>] {
        &self.servers
    }

    /// Those of a scope.
    pub(crate) fn servers_in(&self, scope: Scope<'_>) -> &[Arc<Handle>] {
        let range = match scope {
            Scope::All => Some(0..self.servers.len()),
            Scope::Namespace(name) => self.namespaces().get(name).map(|namespace| namespace.range.clone()),
            Scope::Server(server) => self.index_of(&server.key).map(|at| at..at + 1),
        };
        range.and_then(|range| self.servers.get(range)).unwrap_or_default()
    }

    /// The server that a caller names: by its name, by its configured URL, or with its namespace. With
    /// [`Tenancy::Isolated`] a URL, like a bare name, selects only from the home namespace: otherwise another namespace
    /// could take it over. With [`Tenancy::Shared`] a bare name also selects the only server that has it.
    pub(crate) fn server(&self, wanted: &str) -> Option<&Arc<Handle>> {
        let named = self.names.get_or_init(|| self.all_names()).get(wanted).map(|at| &self.servers[*at]);
        named.or_else(|| self.server_of(&wanted.split_once('/').map(|(space, name)| ServerKey::new(space, name))?))
    }

    /// Every accepted name of each server except the one with its namespace; later entries override earlier ones.
    fn all_names(&self) -> HashMap<Box<str>, usize> {
        // Of two servers with the same name, the first counts.
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

    /// Whether a server has an open session, and this view shows its items: a caller that waits for the connection can
    /// then call its tools.
    pub(crate) fn is_connected(&self, server: &Handle) -> bool {
        server.live().is_some() && (self.lists(server) || !server.offer().listed)
    }

    /// Whether a server is connecting for the first time, so that its tools are not known yet.
    pub(crate) fn is_incomplete(&self) -> bool {
        self.servers.iter().any(|server| server.phase() == Phase::Connecting)
    }

    /// The server of this key.
    pub(crate) fn server_of(&self, key: &ServerKey) -> Option<&Arc<Handle>> {
        self.index_of(key).map(|index| &self.servers[index])
    }

    /// Whether this view lists the tools of this server, as the server reported them since its last start.
    pub(crate) fn lists(&self, server: &Handle) -> bool {
        self.index_of(&server.key).is_some_and(|index| self.places[index].listed && self.places[index].own)
    }

    /// A server's place; empty for a server that is not here.
    pub(crate) fn place(&self, server: &Handle) -> ServerSummary {
        self.index_of(&server.key).map(|index| self.places[index].clone()).unwrap_or_default()
    }

    fn index_of(&self, key: &ServerKey) -> Option<usize> {
        self.servers.binary_search_by(|server| server.key.cmp(key)).ok()
    }
}

impl ServerSummary {
    /// Records what happened to the name of a tool or a prompt; `None`: no other name is left for it.
    fn note(&mut self, kind: Kind, named: Option<NameChanges>, disagreed: Option<&Arc<str>>) {
        if kind == Kind::Tools {
            self.shortened += u32::from(named.is_some_and(|named| named.shortened));
            self.renamed += u32::from(named.is_some_and(|named| named.renamed));
        }
        self.disagreed.extend(disagreed.cloned());
    }
}

impl ServerCatalog {
    fn of(offer: Arc<Offer>) -> Self {
        Self { offer, narrow: OnceLock::new(), pages: OnceLock::new(), numbers: OnceLock::new() }
    }
}

#[cfg(test)]
mod tests;

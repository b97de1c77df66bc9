//! Views: catalogs of what McpViews select, each at an address of its own.
//!
//! A view is a catalog like any other, with its own names, and is governed by the same policies. What did not change since the
//! catalog before is taken over from there.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use portcullis_crds::mcpview::{ViewSearch, ViewSelection};
use portcullis_crds::report::ViewReport;
use portcullis_crds::view::{ServerSelection, SharedViews, ViewItem};
use portcullis_crds::{Server, ServerKey, View, glob};

use super::combined::{AllServers, CombinedItems};
use super::family::Family;
use super::governed::{Governed, pattern_of};
use super::naming::Naming;
use super::view_list::ViewList;
use super::{Candidate, Catalog, Entry, Kind, Merged, ServerCatalog, ServerSummary};
use smallvec::SmallVec;

use crate::offer::item::Item;
use crate::server::handle::{Handle, Offer};

/// Names and patterns without a match that a report names.
const MAX_UNMATCHED: usize = 16;

/// The catalogs of all views.
#[derive(Default)]
pub(super) struct Views {
    /// What is configured.
    configured: SharedViews,
    /// By the names that callers use: of the home namespace the bare name too.
    by_name: HashMap<Box<str>, Arc<Catalog>>,
}

/// What makes a catalog that of a view.
pub(super) struct ViewFacts {
    pub(super) view: Arc<View>,
    /// The servers that the view could select, sorted by key.
    parts: Vec<ViewPart>,
    /// What the operator is told, collected on demand.
    report: OnceLock<ViewReport>,
}

/// A server that a view could select, and what it selects of it.
#[derive(Clone)]
struct ViewPart {
    server: Arc<Handle>,
    spec: Arc<Server>,
    /// `None` if the view does not select the server: then nothing of its offer is kept.
    selected: Option<SelectedOffer>,
}

/// What a server offers, and what a view holds of it.
#[derive(Clone)]
struct SelectedOffer {
    whole: Arc<Offer>,
    held: Arc<Offer>,
}

impl Views {
    /// The views of a catalog. What is the same in `before` is taken over.
    pub(super) fn of(
        configured: &SharedViews,
        whole: &Merged,
        governed: Option<&Governed>,
        before: Option<&Self>,
    ) -> Self {
        let mut by_name = HashMap::with_capacity(configured.len());
        if configured.is_empty() {
            return Self { configured: configured.clone(), by_name };
        }
        let specs: Vec<Arc<Server>> = whole.servers.iter().map(|server| server.spec()).collect();
        for view in configured.iter() {
            let name = view.key.to_string();
            let known = before.and_then(|before| before.by_name.get(name.as_str()));
            let merged = merged(view, whole, &specs, known.map(|known| &known.merged));
            let governed = governed.map(|governed| Arc::new(governed.of_view(&view.key)));
            let catalog = Arc::new(Catalog { merged, governed, of_caller: None, views: Arc::default() });
            if view.name != name {
                by_name.insert(view.name.as_str().into(), catalog.clone());
            }
            by_name.insert(name.into(), catalog);
        }
        Self { configured: configured.clone(), by_name }
    }

    /// The catalog of the view that a caller names.
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Catalog>> {
        self.by_name.get(name)
    }

    /// All of them, sorted by key.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Arc<Catalog>> {
        self.configured.iter().filter_map(|view| self.by_name.get(view.key.to_string().as_str()))
    }
}

/// The items of a view; those of `before` if nothing of them is different.
fn merged(view: &Arc<View>, whole: &Merged, specs: &[Arc<Server>], before: Option<&Arc<Merged>>) -> Arc<Merged> {
    let known = before.and_then(|before| before.view.as_deref()).filter(|known| is_same(&known.view, view));
    let mut known_parts = known.map_or(&[][..], |known| &known.parts).iter().peekable();
    let (mut parts, mut is_same) = (Vec::new(), known.is_some());
    for namespace in view.namespaces() {
        let begin = whole.servers.partition_point(|server| server.key.namespace.as_str() < namespace);
        let servers = whole.servers[begin..].iter().take_while(|server| server.key.namespace == namespace);
        for (place, server) in (begin..).zip(servers) {
            let (spec, offer) = (&specs[place], &whole.alone[place].offer);
            while known_parts.next_if(|known| known.server.key < server.key).is_some() {
                is_same = false;
            }
            let of_server = known_parts.next_if(|known| Arc::ptr_eq(&known.server, server));
            let part = match of_server.filter(|known| known.speaks_for(spec, offer)) {
                Some(known) => ViewPart { spec: spec.clone(), ..known.clone() },
                None => ViewPart::of(view, server, spec, offer),
            };
            // A server that is not selected changes nothing, however it changes.
            is_same &= match (of_server.and_then(|known| known.selected.as_ref()), &part.selected) {
                (Some(before), Some(now)) => Arc::ptr_eq(&before.held, &now.held),
                (None, None) => true,
                _ => false,
            } && (of_server.is_some() || part.selected.is_none());
            parts.push(part);
        }
    }
    is_same &= known_parts.all(|known| known.selected.is_none());
    if let Some(before) = before.filter(|_| is_same) {
        return before.clone();
    }
    Arc::new(Merged::of_view(view, parts, whole))
}

fn is_same(a: &Arc<View>, b: &Arc<View>) -> bool {
    Arc::ptr_eq(a, b) || a == b
}

impl ViewPart {
    fn of(view: &View, server: &Arc<Handle>, spec: &Arc<Server>, offer: &Arc<Offer>) -> Self {
        let selection = view.of_server(spec);
        let selected = selection.map(|selection| SelectedOffer {
            held: Arc::new(selected(view, &server.key, &selection, offer)),
            whole: offer.clone(),
        });
        Self { server: server.clone(), spec: spec.clone(), selected }
    }

    /// Whether what it selects would be the same for another spec and another offer of its server.
    fn speaks_for(&self, spec: &Arc<Server>, offer: &Arc<Offer>) -> bool {
        let same_spec = Arc::ptr_eq(&self.spec, spec)
            || (self.spec.labels == spec.labels
                && self.spec.allowed_views == spec.allowed_views
                && self.spec.created == spec.created
                && self.spec.pool == spec.pool);
        same_spec && self.selected.as_ref().is_none_or(|selected| Arc::ptr_eq(&selected.whole, offer))
    }
}

/// What a view holds of a server's offer, as the view shows it.
fn selected(view: &View, server: &ServerKey, selection: &ServerSelection<'_>, offer: &Offer) -> Offer {
    let mut selected = Offer::clone(offer);
    let mut pattern = String::new();
    for kind in Kind::ALL {
        let mut items: Vec<Arc<Item>> = Vec::new();
        for item in offer.of(kind).iter() {
            if selection.place_of(item_of(kind, item, &mut pattern)).is_none() {
                continue;
            }
            let look = (kind == Kind::Tools).then(|| view.look_of(server, &item.own_name)).flatten();
            let looks = look.and_then(|look| item.redefined(look.rename.as_deref(), look.description.as_deref()));
            items.push(looks.map_or_else(|| item.clone(), Arc::new));
        }
        items.sort_by(|a, b| a.name.cmp(&b.name));
        // Of two tools that have one name now, the first stays, as in a list of a server.
        items.dedup_by(|later, earlier| later.name == earlier.name);
        *selected.of_mut(kind) = Arc::new(items);
    }
    if !selection.is_whole() {
        selected.skills = Arc::default();
        selected.capabilities.resources = false;
    }
    selected
}

/// An item as views name it.
fn item_of<'a>(kind: Kind, item: &'a Item, pattern: &'a mut String) -> ViewItem<'a> {
    match kind {
        Kind::Tools => ViewItem::Tool(&item.own_name, item.hints),
        Kind::Prompts => ViewItem::Prompt(&item.own_name),
        Kind::Resources => ViewItem::Resource(&item.own_name),
        Kind::Templates => {
            *pattern = pattern_of(&item.own_name);
            ViewItem::Template(pattern)
        }
    }
}

impl Merged {
    /// The items of a view.
    fn of_view(view: &Arc<View>, parts: Vec<ViewPart>, whole: &Self) -> Self {
        let (mut servers, mut alone, mut places) = (Vec::new(), Vec::new(), Vec::new());
        for (part, offer) in parts.iter().filter_map(|part| Some((part, &part.selected.as_ref()?.held))) {
            let own = whole.place(&part.server).own;
            servers.push(part.server.clone());
            places.push(ServerSummary { listed: offer.listed, own, ..ServerSummary::default() });
            alone.push(ServerCatalog::of(offer.clone()));
        }
        let families = Family::of_all(servers.iter().zip(alone.iter().map(|alone| &alone.offer)));
        let (range, naming) = (0..servers.len(), Naming::of_view(view, &servers));
        let given = AllServers { servers: &servers, alone: &alone, families: &families, beneath: None };
        let all = OnceLock::from(CombinedItems::build(given, range, naming, &mut places));
        let facts = ViewFacts { view: view.clone(), parts, report: OnceLock::new() };
        let view = Some(Arc::new(facts));
        Self { all, tenancy: whole.tenancy, servers, places, alone, families, view, ..Self::default() }
    }
}

impl Catalog {
    /// The catalog of the view that a caller names.
    pub(crate) fn view(&self, name: &str) -> Option<&Arc<Self>> {
        self.views.get(name)
    }

    /// What is reported of all views, sorted by key.
    pub(crate) fn view_reports(&self) -> Vec<ViewReport> {
        self.views.iter().filter_map(|catalog| catalog.view_report().cloned()).collect()
    }

    /// What is reported of the view that this catalog is.
    pub(crate) fn view_report(&self) -> Option<&ViewReport> {
        let facts = self.merged.view.as_deref()?;
        Some(facts.report.get_or_init(|| {
            let list = self.merged.view_list();
            ViewReport {
                key: facts.view.key.clone(),
                revision: facts.view.revision(),
                servers: to_u32(self.merged.servers.len()),
                tools: to_u32(self.merged.count(Kind::Tools)),
                hidden: list.map_or(0, |list| to_u32(list.hidden)),
                bytes: list.map_or(0, |list| list.bytes as u64),
                tokens: list.map_or(0, |list| list.tokens as u64),
                unmatched: facts.unmatched(),
            }
        }))
    }
}

fn to_u32(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

impl ViewFacts {
    /// Names and patterns that match nothing, in order.
    fn unmatched(&self) -> Vec<String> {
        let mut unmatched = BTreeSet::new();
        let spec = &self.view.spec;
        let own = |server: &ServerKey| server.namespace == self.view.key.namespace;
        for (entry, is_selection) in
            spec.select.iter().map(|e| (e, true)).chain(spec.exclude.iter().map(|e| (e, false)))
        {
            let names = entry.servers.iter().filter_map(|servers| servers.names.as_ref()).flatten();
            for name in names {
                let matches = |part: &ViewPart| {
                    let wanted = entry.servers.as_ref().and_then(|servers| servers.namespaces.as_ref());
                    let is_there =
                        wanted.map_or_else(|| own(&part.server.key), |all| all.contains(&part.server.key.namespace));
                    is_there && glob::matches(name, &part.server.key.name) && (part.selected.is_some() || !is_selection)
                };
                if !self.parts.iter().any(matches) {
                    unmatched.insert(format!("servers.names: {name}"));
                }
            }
            self.unmatched_items(entry, &mut unmatched);
        }
        for tool in &spec.tools {
            let is_there = |part: &ViewPart| {
                let looks =
                    || self.view.look_of(&part.server.key, &tool.name).is_some_and(|look| std::ptr::eq(look, tool));
                let has = |offer: &SelectedOffer| offer.held.tools.iter().any(|item| *item.own_name == *tool.name);
                part.selected.as_ref().is_some_and(has) && looks()
            };
            if !self.parts.iter().any(is_there) {
                unmatched.insert(format!("tools: {}", tool.name));
            }
        }
        unmatched.into_iter().take(MAX_UNMATCHED).collect()
    }

    fn unmatched_items(&self, entry: &ViewSelection, unmatched: &mut BTreeSet<String>) {
        let offers = || self.parts.iter().filter_map(|part| Some(&part.selected.as_ref()?.whole));
        let has = |kinds: &[Kind], pattern: &str| {
            let mut template = String::new();
            offers().any(|offer| {
                kinds.iter().any(|kind| {
                    offer.of(*kind).iter().any(|item| match item_of(*kind, item, &mut template) {
                        ViewItem::Template(template) => glob::overlap(pattern, template),
                        ViewItem::Tool(name, _) | ViewItem::Prompt(name) | ViewItem::Resource(name) => {
                            glob::matches(pattern, name)
                        }
                    })
                })
            })
        };
        let mut add = |member: &str, patterns: &Option<Vec<String>>, kinds: &[Kind]| {
            let without = patterns.iter().flatten().filter(|pattern| !has(kinds, pattern));
            unmatched.extend(without.map(|pattern| format!("{member}: {pattern}")));
        };
        add("tools", &entry.tools, &[Kind::Tools]);
        add("prompts", &entry.prompts, &[Kind::Prompts]);
        add("resources", &entry.resources, &[Kind::Resources, Kind::Templates]);
    }
}

impl Merged {
    /// What the list of tools of a view shows; `None` if this is no view.
    pub(super) fn view_list(&self) -> Option<&ViewList> {
        let facts = self.view.as_deref()?;
        Some(self.list.get_or_init(|| ViewList::of(&facts.view, self.all().table(Kind::Tools), self.is_narrow())))
    }

    /// Whether agents can search the tools of the view that this is.
    pub(super) fn view_searches(&self) -> bool {
        self.view.as_deref().is_some_and(|facts| facts.view.spec.search != ViewSearch::Never)
    }

    /// The key of the view that this is.
    pub(crate) fn view_key(&self) -> Option<&ServerKey> {
        self.view.as_deref().map(|facts| &facts.view.key)
    }

    /// What clients of the view are told instead of the instructions of the servers.
    pub(crate) fn view_instructions(&self) -> Option<&str> {
        self.view.as_deref()?.view.spec.instructions.as_deref()
    }
}

impl ViewFacts {
    /// What the view lets be read of the servers that can read a resource: one that it selects, or that a tool of it names.
    pub(super) fn readable(&self, entry: Arc<Entry>) -> Option<Arc<Entry>> {
        let is_readable = |candidate: &Candidate| {
            let part = self.parts.binary_search_by(|part| part.server.key.cmp(&candidate.server.key));
            let part = part.ok().map(|at| &self.parts[at]);
            let Some((part, selected)) = part.and_then(|part| Some((part, &part.selected.as_ref()?.held))) else {
                return false;
            };
            let uri = &*candidate.item.own_name;
            selected.tools.iter().flat_map(|tool| tool.links.iter()).any(|link| *link.uri == *uri)
                || self.view.of_server(&part.spec).is_some_and(|selection| {
                    selection.is_whole() || selection.place_of(ViewItem::Resource(uri)).is_some()
                })
        };
        if entry.candidates.iter().all(is_readable) {
            return Some(entry);
        }
        let left: SmallVec<[Candidate; 1]> = entry.candidates.iter().filter(|one| is_readable(one)).cloned().collect();
        (!left.is_empty()).then(|| Arc::new(entry.with(left)))
    }
}

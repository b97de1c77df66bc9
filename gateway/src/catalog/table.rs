//! The items of one kind by name, with the servers that offer them.
//!
//! A name belongs to the server that comes first; another server's item of this name is the same thing, or gets another
//! name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use portcullis_access::Grant;
use smallvec::SmallVec;

use super::combined::CombinedItems;
use super::family::Family;
use super::pages::{PageRow, Pages, number_of_row};
use crate::offer::item::{Item, Kind};
use crate::server::handle::Handle;

/// An item and the servers that offer it, in order of precedence. Shared with the calls to it.
#[derive(Clone)]
pub(crate) struct Entry {
    /// The name under which callers use it.
    pub(crate) name: Arc<str>,
    /// The servers that offer it.
    pub(crate) candidates: SmallVec<[Candidate; 1]>,
    /// At least one of the servers is listed now.
    pub(crate) listed: bool,
    /// Requests go to the first available server, never to another in turn: a resource belongs to one server.
    pub(crate) in_order: bool,
}

/// A server that offers an item.
#[derive(Clone)]
pub(crate) struct Candidate {
    /// The server.
    pub(crate) server: Arc<Handle>,
    /// The item as this server knows it.
    pub(crate) item: Arc<Item>,
    /// The server's offer is listed now.
    pub(crate) listed: bool,
    /// The rules that allow it to the caller; `None` if no policy governs the server.
    pub(crate) grant: Option<Grant>,
}

impl Entry {
    /// The server that reports updates of a resource: the first listed one, else one that was listed before it went
    /// away.
    pub(crate) fn update_source(&self) -> Option<&Candidate> {
        let mut tellers = self.candidates.iter().filter(|c| c.server.offer().capabilities.resources_subscribe);
        let first = tellers.clone().next();
        tellers.find(|candidate| candidate.listed).or(first)
    }

    /// The server with the highest precedence.
    pub(crate) fn first(&self) -> Option<&Handle> {
        self.candidates.first().map(|candidate| &*candidate.server)
    }

    /// Whether this server offers the item.
    pub(crate) fn is_of(&self, server: &Handle) -> bool {
        self.candidates.iter().any(|candidate| candidate.server.key == server.key)
    }
}

/// The result of checking a name for an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// The name is free, or belongs to the same thing.
    Fits,
    /// A server uses the name for another thing.
    Taken,
    /// So does a server of the same declared pool, whose members must agree.
    Disagrees,
}

/// All items of one kind under the names that callers use.
#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<Arc<str>, PlacedEntry>,
    /// All entries by name; built on first use. A table that was narrowed has nothing else.
    sorted: OnceLock<Vec<Arc<Entry>>>,
    /// Only for templates, whose order matters: names in order of precedence.
    order: Vec<Arc<str>>,
    pages: OnceLock<Pages>,
    fingerprint: OnceLock<u64>,
    is_narrow: bool,
}

struct PlacedEntry {
    entry: Arc<Entry>,
    /// The family of the first server.
    family: Family,
}

/// An item of a server that comes after all servers in the table.
#[derive(Clone, Copy)]
pub(super) struct Added<'a> {
    pub(crate) kind: Kind,
    pub(crate) server: &'a Arc<Handle>,
    pub(crate) family: Family,
    pub(crate) item: &'a Arc<Item>,
    pub(crate) listed: bool,
    /// A view whose names are taken.
    pub(crate) beneath: Option<&'a CombinedItems>,
}

impl Table {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { entries: HashMap::with_capacity(count), ..Self::default() }
    }

    /// Whether the item can be added under this name.
    pub(super) fn fit(&self, name: &str, added: Added<'_>) -> Fit {
        let Some(slot) = self.entries.get(name) else { return Fit::Fits };
        let candidates = &slot.entry.candidates;
        let own = candidates.last().is_some_and(|last| Arc::ptr_eq(&last.server, added.server));
        match candidates.first() {
            Some(first) if !own => slot.family.fit(added.family, added.kind, (&first.item, added.item)),
            _ => Fit::Taken,
        }
    }

    /// Adds the item under a name that fits.
    pub(super) fn add(&mut self, name: Arc<str>, added: Added<'_>) {
        let Added { kind, server, family, item, listed, .. } = added;
        let order = (kind == Kind::Templates).then_some(&mut self.order);
        let in_order = matches!(kind, Kind::Resources | Kind::Templates);
        let slot = self.entries.entry(name.clone()).or_insert_with(|| {
            order.into_iter().for_each(|order| order.push(name.clone()));
            PlacedEntry {
                entry: Arc::new(Entry { name, candidates: SmallVec::new(), listed: false, in_order }),
                family,
            }
        });
        let entry = Arc::make_mut(&mut slot.entry);
        entry.listed |= listed;
        entry.candidates.push(Candidate { server: server.clone(), item: item.clone(), listed, grant: None });
    }

    /// The items that `permit` leaves, for lists alone: nothing is found by its name in it.
    pub(super) fn narrowed(&self, permit: impl Fn(&Candidate) -> bool) -> Self {
        let narrow = |entry: &Arc<Entry>| {
            let left = || entry.candidates.iter().filter(|candidate| permit(candidate));
            match left().count() {
                0 => None,
                count if count == entry.candidates.len() => Some(entry.clone()),
                _ => Some(Arc::new(entry.with(left().cloned().collect()))),
            }
        };
        let sorted = OnceLock::from(self.sorted().iter().filter_map(narrow).collect::<Vec<_>>());
        Self { sorted, is_narrow: true, ..Self::default() }
    }

    /// All entries, sorted by name.
    pub(super) fn sorted(&self) -> &[Arc<Entry>] {
        self.sorted.get_or_init(|| {
            let mut all: Vec<Arc<Entry>> = self.entries.values().map(|slot| slot.entry.clone()).collect();
            all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
            all
        })
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name).map(|slot| &slot.entry)
    }

    /// Names of templates in order of precedence.
    pub(super) fn in_order(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.order.iter()
    }

    /// The listed entries, sorted by name.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Entry> {
        self.sorted().iter().map(|entry| &**entry).filter(|entry| entry.listed)
    }

    pub(super) fn rows(&self) -> Vec<PageRow> {
        self.listed().filter_map(Entry::row).collect()
    }

    pub(super) fn pages(&self, kind: Kind) -> &Pages {
        self.pages.get_or_init(|| {
            let rows = self.rows();
            if self.is_narrow { Pages::of_class(kind, rows) } else { Pages::new(kind, rows) }
        })
    }

    /// A number that changes with the pages.
    pub(super) fn fingerprint(&self) -> u64 {
        let numbers = || self.listed().filter_map(Entry::shown).map(|(name, item)| number_of_row(name, item));
        *self.fingerprint.get_or_init(|| numbers().fold(0, u64::wrapping_add))
    }
}

impl Entry {
    /// The same with some of its servers.
    pub(super) fn with(&self, candidates: SmallVec<[Candidate; 1]>) -> Self {
        let listed = candidates.iter().any(|candidate| candidate.listed);
        Self { name: self.name.clone(), candidates, listed, in_order: self.in_order }
    }

    /// The server whose definition is listed.
    pub(super) fn shown_by(&self) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.listed)
    }

    /// The listed name and definition.
    fn shown(&self) -> Option<(&Arc<str>, &Arc<Item>)> {
        Some((&self.name, &self.shown_by()?.item))
    }

    pub(super) fn row(&self) -> Option<PageRow> {
        self.shown().map(|(name, item)| (name.clone(), item.clone()))
    }
}

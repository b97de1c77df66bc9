//! One kind of what servers offer: who has which name.
//!
//! A name belongs to the server that comes first; what another has under it is the same thing, or goes by another name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use smallvec::SmallVec;

use super::family::Family;
use super::pages::{Pages, Row, number_of_row};
use crate::handle::Handle;
use crate::item::{Item, Kind};

/// An item and who offers it, in the order of precedence. Shared with the calls that are made of it.
#[derive(Clone)]
pub struct Entry {
    /// The name it is offered under.
    pub name: Arc<str>,
    /// The servers that offer it.
    pub candidates: SmallVec<[Candidate; 1]>,
    /// At least one of them is listed now.
    pub listed: bool,
    /// The first that is there is asked, never another in turn: a resource is that of one server.
    pub in_order: bool,
}

/// A server that offers an item.
#[derive(Clone)]
pub struct Candidate {
    /// The server.
    pub server: Arc<Handle>,
    /// The item as this server knows it.
    pub item: Arc<Item>,
    /// What it offers is listed now.
    pub listed: bool,
}

impl Entry {
    /// Who tells of changes of a resource: the first that is listed, else one that did before it went away.
    pub fn teller(&self) -> Option<&Candidate> {
        let mut tellers = self.candidates.iter().filter(|c| c.server.offer().capabilities.resources_subscribe);
        let first = tellers.clone().next();
        tellers.find(|candidate| candidate.listed).or(first)
    }

    /// The server that comes first.
    pub fn first(&self) -> Option<&Handle> {
        self.candidates.first().map(|candidate| &*candidate.server)
    }

    /// Whether this server is one of those that offer it.
    pub fn is_of(&self, server: &Handle) -> bool {
        self.candidates.iter().any(|candidate| candidate.server.key == server.key)
    }
}

/// Whether an item can have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Nobody has it, or a server has it for the same thing.
    Fits,
    /// A server has it for another thing.
    Taken,
    /// So does a server of the same declared pool, whose members must agree.
    Disagrees,
}

/// All items of one kind under the names callers use.
#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<Arc<str>, Slot>,
    /// Of templates alone, whose order matters: names in the order of precedence.
    order: Vec<Arc<str>>,
    pages: OnceLock<Pages>,
    fingerprint: OnceLock<u64>,
}

struct Slot {
    entry: Arc<Entry>,
    /// That of the first server.
    family: Family,
}

/// An item of a server that comes after all those whose items are in the table.
#[derive(Clone, Copy)]
pub(super) struct Added<'a> {
    pub kind: Kind,
    pub server: &'a Arc<Handle>,
    pub family: Family,
    pub item: &'a Arc<Item>,
    pub listed: bool,
}

impl Table {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { entries: HashMap::with_capacity(count), ..Self::default() }
    }

    /// Whether it can be added under this name.
    pub(super) fn fit(&self, name: &str, added: Added<'_>) -> Fit {
        let Some(slot) = self.entries.get(name) else { return Fit::Fits };
        let candidates = &slot.entry.candidates;
        let own = candidates.last().is_some_and(|last| Arc::ptr_eq(&last.server, added.server));
        match candidates.first() {
            Some(first) if !own => slot.family.fit(added.family, added.kind, (&first.item, added.item)),
            _ => Fit::Taken,
        }
    }

    /// Adds it under a name that fits.
    pub(super) fn add(&mut self, name: Arc<str>, added: Added<'_>) {
        let Added { kind, server, family, item, listed } = added;
        let order = (kind == Kind::Templates).then_some(&mut self.order);
        let in_order = matches!(kind, Kind::Resources | Kind::Templates);
        let slot = self.entries.entry(name.clone()).or_insert_with(|| {
            order.into_iter().for_each(|order| order.push(name.clone()));
            Slot { entry: Arc::new(Entry { name, candidates: SmallVec::new(), listed: false, in_order }), family }
        });
        let entry = Arc::make_mut(&mut slot.entry);
        entry.listed |= listed;
        entry.candidates.push(Candidate { server: server.clone(), item: item.clone(), listed });
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name).map(|slot| &slot.entry)
    }

    /// Names of templates in the order of precedence.
    pub(super) fn in_order(&self) -> impl ExactSizeIterator<Item = &Arc<str>> {
        self.order.iter()
    }

    /// The listed ones, in no order.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|slot| &*slot.entry).filter(|entry| entry.listed)
    }

    pub(super) fn pages(&self, kind: Kind) -> &Pages {
        self.pages.get_or_init(|| {
            let mut rows: Vec<Row> = self.listed().filter_map(Entry::row).collect();
            rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Pages::new(kind, rows)
        })
    }

    /// A number that changes when the pages do.
    pub(super) fn fingerprint(&self) -> u64 {
        let numbers = || self.listed().filter_map(Entry::shown).map(|(name, item)| number_of_row(name, item));
        *self.fingerprint.get_or_init(|| numbers().fold(0, u64::wrapping_add))
    }
}

impl Entry {
    /// The name and the definition that are shown of it.
    fn shown(&self) -> Option<(&Arc<str>, &Arc<Item>)> {
        let shown = self.candidates.iter().find(|candidate| candidate.listed)?;
        Some((&self.name, &shown.item))
    }

    fn row(&self) -> Option<Row> {
        self.shown().map(|(name, item)| (name.clone(), item.clone()))
    }
}

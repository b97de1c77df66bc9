//! One kind of what servers offer: who has which name.
//!
//! A name belongs to the server that comes first; what another has under it is the same thing, or goes by another name.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use portcullis_crds::names::TOOL_NAME_JOINER;
use smallvec::SmallVec;

use super::pages::{Pages, Row, number_of_row};
use crate::handle::Handle;
use crate::item::{Item, Kind};
use crate::short::{is_short, short_form};

/// An item and who offers it, in the order of precedence. Shared with the calls that are made of it.
#[derive(Clone)]
pub struct Entry {
    /// The name it is offered under.
    pub name: Arc<str>,
    /// The servers that offer it.
    pub candidates: SmallVec<[Candidate; 1]>,
    /// At least one of them is listed now.
    pub listed: bool,
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
}

/// What became of an item's name.
pub(super) enum Named {
    /// It is the item's own.
    Kept,
    /// Another server has that name, so it goes by `server__name`.
    Renamed,
    /// So it does, but by the short form of that.
    RenamedShort,
    /// Another server has that name, and there is no other for it.
    Hidden,
}

/// All items of one kind under the names callers use.
#[derive(Default)]
pub(super) struct Table {
    entries: HashMap<Arc<str>, Arc<Entry>>,
    /// Of templates alone, whose order matters: names in the order of precedence.
    order: Vec<Arc<str>>,
    pages: OnceLock<Pages>,
    fingerprint: OnceLock<u64>,
}

impl Table {
    pub(super) fn with_capacity(count: usize) -> Self {
        Self { entries: HashMap::with_capacity(count), ..Self::default() }
    }

    /// Adds an item of a server that comes after all those whose items are there.
    pub(super) fn add(&mut self, kind: Kind, server: &Arc<Handle>, item: &Arc<Item>, listed: bool) -> Named {
        let Some((name, named)) = self.free_name(kind, server, item) else { return Named::Hidden };
        let order = (kind == Kind::Templates).then_some(&mut self.order);
        let entry = self.entries.entry(name.clone()).or_insert_with(|| {
            order.into_iter().for_each(|order| order.push(name.clone()));
            Arc::new(Entry { name, candidates: SmallVec::new(), listed: false })
        });
        let entry = Arc::make_mut(entry);
        entry.listed |= listed;
        entry.candidates.push(Candidate { server: server.clone(), item: item.clone(), listed });
        named
    }

    /// The name under which an item is offered: its own, unless somebody before has it for another thing.
    fn free_name(&self, kind: Kind, server: &Handle, item: &Item) -> Option<(Arc<str>, Named)> {
        let fits = |name: &str| self.get(name).is_none_or(|entry| entry.candidates[0].item.digest == item.digest);
        if fits(&item.name) {
            return Some((item.name.clone(), Named::Kept));
        }
        if !matches!(kind, Kind::Tools | Kind::Prompts) {
            return None;
        }
        let key = &server.key;
        let prefixes = [key.name.clone(), format!("{}.{}", key.namespace, key.name)];
        let full = prefixes.into_iter().map(|prefix| format!("{prefix}{TOOL_NAME_JOINER}{}", item.full_name()));
        let mut names = full.map(|full| match kind {
            Kind::Tools if !is_short(&full) => (short_form(&full), Named::RenamedShort),
            _ => (full, Named::Renamed),
        });
        names.find(|(name, _)| fits(name)).map(|(name, named)| (name.into(), named))
    }

    pub(super) fn get(&self, name: &str) -> Option<&Arc<Entry>> {
        self.entries.get(name)
    }

    /// Names of templates in the order of precedence.
    pub(super) fn in_order(&self) -> impl Iterator<Item = &Arc<str>> {
        self.order.iter()
    }

    /// The listed ones, in no order.
    pub(super) fn listed(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values().map(|entry| &**entry).filter(|entry| entry.listed)
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

//! The part of a catalog that a class of callers sees: for lists, each part made on first use.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use portcullis_access::{Class, Reach};

use super::combined::CombinedItems;
use super::governed::{Governed, ListedServer, ServerRules};
use super::{Catalog, Kind, Merged, Scope, ServerCatalog};
use crate::auth::Identity;
use crate::offer::item::Item;
use crate::server::handle::{Handle, Offer};

/// Classes of callers whose views of one catalog are kept. Beyond, another goes for one that is built.
const MAX_SEEN: usize = 256;

impl Catalog {
    /// The catalog as this caller sees it: for lists. Calls use [`Catalog::find_for`], which tells what is denied from what
    /// does not exist.
    pub(crate) fn seen_by(self: &Arc<Self>, identity: &Identity) -> Arc<Self> {
        let Some(governed) = &self.governed else { return self.clone() };
        let class = governed.class_of(identity);
        let seen = self.seen_by_class(governed, class.clone(), identity);
        match &self.of_caller {
            None => seen,
            Some(part) => {
                let of_caller = Some(part.narrowed(&governed.rules, class, identity));
                Arc::new(Self { merged: seen.merged.clone(), governed: None, of_caller, views: Arc::default() })
            }
        }
    }

    fn seen_by_class(&self, governed: &Governed, class: Arc<Class>, identity: &Identity) -> Arc<Self> {
        if let Some(seen) = governed.seen.read().get(&class.number) {
            return seen.clone();
        }
        let (number, narrowed) = (class.number, Narrowed::of(&self.merged, &governed.rules, class, identity));
        let narrowed =
            Arc::new(Self { merged: Arc::new(narrowed), governed: None, of_caller: None, views: Arc::default() });
        let mut seen = governed.seen.write();
        if seen.len() >= MAX_SEEN
            && let Some(other) = seen.keys().next().copied()
        {
            seen.remove(&other);
        }
        seen.entry(number).or_insert(narrowed).clone()
    }
}

/// What a narrowed catalog is made from.
pub(super) struct Narrowed {
    whole: Arc<Merged>,
    rules: Arc<ServerRules>,
    class: Arc<Class>,
    /// One of the class: rules say the same of all of them.
    identity: Identity,
}

impl Narrowed {
    /// What a class sees of a catalog. `identity` is one of it.
    pub(super) fn of(whole: &Arc<Merged>, rules: &Arc<ServerRules>, class: Arc<Class>, identity: &Identity) -> Merged {
        let (view, has_caller_lists) = (whole.view.clone(), whole.has_caller_lists);
        let mut narrow = Merged { tenancy: whole.tenancy, view, has_caller_lists, ..Merged::default() };
        for (place, server) in whole.servers.iter().enumerate() {
            let is_open = |at| !matches!(rules.reach(at, &class), Reach::Closed);
            if rules.place(server).is_some_and(is_open) {
                narrow.servers.push(server.clone());
                narrow.places.push(whole.places[place].clone());
                narrow.alone.push(ServerCatalog::of(whole.alone[place].offer.clone()));
            }
        }
        let (whole, rules, identity) = (whole.clone(), rules.clone(), identity.clone());
        narrow.narrowed = Some(Self { whole, rules, class, identity });
        narrow
    }

    /// The view of all servers.
    pub(super) fn all(&self) -> CombinedItems {
        self.view(self.whole.all(), 0..self.whole.servers.len())
    }

    /// The view of one namespace.
    pub(super) fn namespace(&self, name: &str) -> CombinedItems {
        let whole = self.whole.combined(Scope::Namespace(name));
        let range = self.whole.namespaces().get(name).map(|namespace| namespace.range.clone());
        whole.zip(range).map(|(whole, range)| self.view(whole, range)).unwrap_or_default()
    }

    fn view(&self, whole: &CombinedItems, range: Range<usize>) -> CombinedItems {
        let (caller, first) = (self.identity.caller(), range.start);
        // The rules have places of their own for the servers of a view.
        let listed = |place: usize| {
            let of_rules = self.rules.place(&self.whole.servers[place])?;
            Some(self.rules.to_list(of_rules, &self.class, &self.whole.alone[place].offer))
        };
        let listed: Vec<Option<ListedServer<'_>>> = range.clone().map(listed).collect();
        // The items of a server mostly follow each other.
        let last: Cell<Option<(*const Handle, usize)>> = Cell::new(None);
        let place_of = |server: &Arc<Handle>| {
            let known = last.get().filter(|(known, _)| *known == Arc::as_ptr(server)).map(|(_, place)| place);
            let place = known.or_else(|| self.whole.index_of(&server.key))?;
            last.set(Some((Arc::as_ptr(server), place)));
            Some(place)
        };
        whole.narrowed(range, |kind, candidate| {
            let place = place_of(&candidate.server).and_then(|place| place.checked_sub(first));
            let of_server = place.and_then(|place| listed.get(place)?.as_ref());
            let item = (&*candidate.server, &*candidate.item);
            of_server.is_some_and(|of_server| self.rules.shows(of_server, &caller, kind, item))
        })
    }

    /// What is left of a server's offer.
    pub(super) fn offer(&self, server: &Arc<Handle>, offer: &Arc<Offer>) -> Arc<Offer> {
        let Some(place) = self.rules.place(server) else { return Arc::default() };
        let (caller, listed) = (self.identity.caller(), self.rules.to_list(place, &self.class, offer));
        let mut narrow = Offer::clone(offer);
        for kind in Kind::ALL {
            let is_left = |item: &&Arc<Item>| self.rules.shows(&listed, &caller, kind, (server, item));
            let left: Vec<_> = offer.of(kind).iter().filter(is_left).cloned().collect();
            if left.len() < offer.of(kind).len() {
                *narrow.of_mut(kind) = Arc::new(left);
            }
        }
        Arc::new(narrow)
    }
}

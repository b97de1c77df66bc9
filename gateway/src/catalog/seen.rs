//! The part of a catalog that a class of callers sees: for lists, each part made on first use.

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use portcullis_access::{Class, Reach};

use super::governed::{ListedServer, ServerRules};
use super::view::View;
use super::{Kind, Merged, Scope, ServerCatalog};
use crate::auth::Identity;
use crate::offer::item::Item;
use crate::server::handle::{Handle, Offer};

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
        let mut narrow = Merged { tenancy: whole.tenancy, ..Merged::default() };
        for (place, server) in whole.servers.iter().enumerate() {
            if !matches!(rules.reach(place, &class), Reach::Closed) {
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
    pub(super) fn all(&self) -> View {
        self.view(self.whole.all(), 0..self.whole.servers.len())
    }

    /// The view of one namespace.
    pub(super) fn namespace(&self, name: &str) -> View {
        let whole = self.whole.view(Scope::Namespace(name));
        let range = self.whole.namespaces().get(name).map(|namespace| namespace.range.clone());
        whole.zip(range).map(|(whole, range)| self.view(whole, range)).unwrap_or_default()
    }

    fn view(&self, whole: &View, range: Range<usize>) -> View {
        let (caller, first) = (self.identity.caller(), range.start);
        let listed = |place: usize| self.rules.to_list(place, &self.class, &self.whole.alone[place].offer);
        let listed: Vec<ListedServer<'_>> = range.clone().map(listed).collect();
        // The items of a server mostly follow each other.
        let last: Cell<Option<(*const Handle, usize)>> = Cell::new(None);
        let place_of = |server: &Arc<Handle>| {
            let known = last.get().filter(|(known, _)| *known == Arc::as_ptr(server)).map(|(_, place)| place);
            let place = known.or_else(|| self.rules.place(server))?;
            last.set(Some((Arc::as_ptr(server), place)));
            Some(place)
        };
        whole.narrowed(range, |kind, candidate| {
            let place = place_of(&candidate.server).and_then(|place| place.checked_sub(first));
            let of_server = place.and_then(|place| listed.get(place));
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

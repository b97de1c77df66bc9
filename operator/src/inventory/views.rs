//! Keeps the McpViews, puts those that are served into their slots, and shows them the labels of servers.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_crds::view::MAX_VIEWS;
use portcullis_crds::{ReadView, Reason, ServerKey, SpecRefusal};
use tokio::time::Instant;

use super::{Affected, Inventory};
use crate::object_key::ObjectKey;
use crate::share::EntryText;

/// What becomes of a view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ViewVerdict {
    /// It is in its slot, or left out of it, with this revision.
    Served(String),
    /// It is not served.
    Refused(SpecRefusal),
}

impl Inventory {
    /// Adds or replaces a view of this key; none removes it.
    pub(crate) fn put_view(&mut self, key: &ServerKey, view: Option<ReadView>, now: Instant) -> Affected {
        match view {
            Some(view) => self.read_views.insert(key.clone(), view),
            None => self.read_views.remove(key),
        };
        self.serve_view(key, now)
    }

    /// The verdict on a view; none: there is no such view.
    pub(crate) fn view_verdict(&self, key: &ServerKey) -> Option<ViewVerdict> {
        let read = self.read_views.get(key)?;
        let refused = |reason, message| Some(ViewVerdict::Refused(SpecRefusal { reason, message }));
        if let Some(message) = self.unselected(&key.namespace) {
            return refused(Reason::NamespaceNotSelected, message);
        }
        if let Err(problems) = &read.view {
            return refused(Reason::Invalid, problems.join("; "));
        }
        match self.views.served(key) {
            Some(view) => Some(ViewVerdict::Served(view.revision())),
            None => {
                let message =
                    format!("the namespace has more than {MAX_VIEWS} McpViews, and the oldest are served: remove some");
                refused(Reason::TooMany, message)
            }
        }
    }

    /// Serves the views of a namespace that is newly served, or no longer.
    pub(super) fn serve_views_of(&mut self, namespace: &str, now: Instant) -> Affected {
        let from = self.read_views.range(ServerKey::new(namespace, "")..);
        let keys: Vec<ServerKey> =
            from.map(|(key, _)| key.clone()).take_while(|key| key.namespace == namespace).collect();
        let mut affected = Affected::default();
        for key in keys {
            affected.add(self.serve_view(&key, now));
        }
        affected
    }

    fn serve_view(&mut self, key: &ServerKey, now: Instant) -> Affected {
        let view = self.read_views.get(key).filter(|_| self.unselected(&key.namespace).is_none()).cloned();
        let before = self.views.get(key).cloned();
        let mut affected = Affected { views: self.views.put(key, view), ..Affected::default() };
        let after = affected.views.iter().filter_map(|key| self.views.get(key));
        let looks = before.iter().chain(after).filter_map(|read| read.view.as_ref().ok());
        let looks = looks.filter(|view| view.looks_at_labels());
        let namespaces: BTreeSet<String> = looks.flat_map(|view| view.namespaces()).map(ToOwned::to_owned).collect();
        for changed in &affected.views {
            let (index, of) = (self.slot_of(changed), ObjectKey::view(changed));
            let created = self.views.get(changed).map_or(0, |read| read.created);
            let text = self.views.served(changed).map(|view| EntryText {
                text: view.to_text(),
                created,
                policies: BTreeMap::new(),
            });
            let slot = &mut self.slots[index];
            let was = match text.clone() {
                Some(text) => slot.insert(of, text),
                None => slot.remove(&of),
            };
            if was != text {
                affected.slots.insert(index);
            }
        }
        affected.views.insert(key.clone());
        let servers = namespaces.iter().flat_map(|namespace| self.newly_seen(namespace)).collect();
        affected.add(self.judge_again(servers, now));
        affected
    }

    /// The servers of a namespace whose labels views look at now and did not before, or the other way round.
    fn newly_seen(&self, namespace: &str) -> Vec<ServerKey> {
        let servers = self.in_namespace(namespace).filter(|(key, entry)| {
            let sees = |allowed| self.views.look_at_labels_of(key, allowed);
            entry.object.content.as_ref().is_ok_and(|it| sees(&it.spec.allowed_views) != entry.seen_by_labels)
        });
        servers.map(|(key, _)| key.clone()).collect()
    }
}

//! What the controller does with McpViews: keeps them, and derives and writes their statuses.

use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use portcullis_crds::mcpview::McpViewStatus;
use portcullis_crds::{ConditionType, ServerKey};
use tokio::time::Instant;

use super::{Controller, known_version};
use crate::inventory::{Affected, ViewVerdict};
use crate::object_key::ObjectKey;
use crate::status::view::ViewInForce;
use crate::status::{self, StatusChange};
use crate::statuses::{NewStatus, WriteResult};
use crate::views;
use crate::watch::{ListingStep, key_of};

impl Controller {
    /// Takes an event of the McpView watch `number`.
    pub(super) fn view(&mut self, number: usize, event: Event<DynamicObject>, now: Instant) {
        let mut affected = Affected::default();
        match self.listings.view(number, event) {
            ListingStep::Wait => {}
            ListingStep::Put(object) => {
                let key = key_of(&object);
                let (read, entry) = views::read(&object, self.inventory.home());
                let busy = self.statuses.is_busy(&ObjectKey::view(&key));
                self.views.put(key.clone(), entry, busy);
                affected = self.inventory.put_view(&key, Some(read), now);
            }
            ListingStep::Gone(keys) => {
                for key in keys {
                    self.views.remove(&key);
                    self.statuses.remove(&ObjectKey::view(&key));
                    affected.add(self.inventory.put_view(&key, None, now));
                }
            }
        }
        self.refresh_affected(affected, now);
    }

    /// Notes that the statuses of the policies and views of a namespace are to be derived again; none: of all namespaces.
    pub(super) fn mark_around(&mut self, namespace: Option<&str>, now: Instant) {
        self.policies.mark_all(namespace, now);
        self.views.mark_all(namespace, now);
    }

    /// Queues the statuses of views that something has changed for.
    pub(super) fn refresh_views(&mut self, now: Instant) {
        for key in self.views.take_due(now) {
            let of = ObjectKey::view(&key);
            match self.desired_view_status(&key, now) {
                Some((old, new, settled)) => {
                    self.statuses.wanted(&of, status::view::change(&old, &new), settled, now);
                }
                None => self.statuses.forget(&of),
            }
        }
    }

    /// Writes the status of a view that is due.
    pub(super) fn write_view_status(&mut self, key: &ServerKey, now: Instant) {
        let Some((old, new, _)) = self.desired_view_status(key, now) else { return };
        let Some(entry) = self.views.get(key) else { return };
        if status::view::change(&old, &new) != StatusChange::None {
            // A status that another writer has changed meanwhile is looked at first.
            let (uid, version) = (entry.uid.clone(), known_version(entry.version));
            self.statuses.write(ObjectKey::view(key), uid, NewStatus::View(new), version, now);
        }
    }

    /// Takes the end of a write of a view's status.
    pub(super) fn finish_view_write(
        &mut self,
        key: &ServerKey,
        uid: &str,
        new: McpViewStatus,
        outcome: WriteResult,
        now: Instant,
    ) {
        let Some(entry) = self.views.get_mut(key).filter(|entry| entry.uid == uid) else { return };
        let written = match outcome {
            WriteResult::Done(version) => Some((new, version.unwrap_or(0))),
            WriteResult::Gone | WriteResult::Conflict | WriteResult::Failed => None,
        };
        if let Some((old, new)) = entry.finish_write(written) {
            let kinds = [ConditionType::Accepted, ConditionType::Programmed];
            let conditions = (&*old.conditions, &*new.conditions);
            self.events.record_transitions(&ObjectKey::view(key), uid, &kinds, conditions);
        }
        if outcome != WriteResult::Failed {
            self.views.mark([key.clone()], now);
        }
    }

    /// The present and the desired status of a view, and whether the desired one is final.
    fn desired_view_status(&self, key: &ServerKey, now: Instant) -> Option<(McpViewStatus, McpViewStatus, bool)> {
        let entry = self.views.get(key).filter(|_| self.may_write() && self.is_ours(&key.namespace))?;
        let verdict = self.inventory.view_verdict(key)?;
        let in_force = match &verdict {
            ViewVerdict::Refused(_) => ViewInForce::default(),
            ViewVerdict::Served(revision) => {
                let (fleet, report) = self.replicas.view_of_view(key, revision, now);
                let left_out = self.slots.is_left_out(self.inventory.slot_of(key), &ObjectKey::view(key));
                ViewInForce { fleet, report, left_out }
            }
        };
        let new = status::view::desired(entry, &verdict, &in_force, &status::this_second());
        let settled = status::view::is_settled(&new, &in_force.fleet);
        Some((entry.status.clone(), new, settled))
    }
}

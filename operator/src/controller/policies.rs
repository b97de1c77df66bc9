//! What the controller does with McpAccessPolicies: keeps them, and derives and writes their statuses.

use kube::core::DynamicObject;
use kube::runtime::watcher::Event;
use portcullis_crds::mcpaccesspolicy::McpAccessPolicyStatus;
use portcullis_crds::{ConditionType, ReadPolicy, ServerKey};
use tokio::time::Instant;

use super::{Controller, known_version};
use crate::audit_counts::AuditCounts;
use crate::inventory::Affected;
use crate::object_key::ObjectKey;
use crate::policies;
use crate::status::{self, StatusChange};
use crate::statuses::{NewStatus, WriteResult};
use crate::watch::{ListingStep, key_of};

impl Controller {
    /// Takes an event of the McpAccessPolicy watch `number`.
    pub(super) fn policy(&mut self, number: usize, event: Event<DynamicObject>, now: Instant) {
        let listed = matches!(event, Event::InitDone);
        let mut affected = Affected::default();
        match self.listings.policy(number, event) {
            ListingStep::Wait => {}
            ListingStep::Put(object) => {
                let key = key_of(&object);
                let (read, entry) = policies::read(&object);
                let busy = self.statuses.is_busy(&ObjectKey::policy(&key));
                match &entry.facts.audited {
                    Some(revision) => self.audit_counts.begin(&key, revision, entry.known_count()),
                    None => self.audit_counts.end(&key),
                }
                self.policies.put(key.clone(), entry, busy);
                affected = self.inventory.put_policy(&key, Some(read), now);
            }
            ListingStep::Gone(keys) => {
                for key in keys {
                    self.policies.remove(&key);
                    self.audit_counts.end(&key);
                    self.statuses.remove(&ObjectKey::policy(&key));
                    affected.add(self.inventory.put_policy(&key, None, now));
                }
            }
        }
        // Whatever could not be read is known now, and counts before the namespace opens.
        if let Some(namespace) = self.listings.namespace_watched(number).filter(|_| listed) {
            affected.add(self.inventory.put_policy(&policies::unreadable(namespace), None, now));
        }
        self.refresh_affected(affected, now);
    }

    /// Closes the servers of a namespace whose policies cannot be read.
    pub(super) fn close(&mut self, namespace: &str, now: Instant) {
        let key = policies::unreadable(namespace);
        let affected = self.inventory.put_policy(&key, Some(ReadPolicy::closed(key.clone())), now);
        self.refresh_affected(affected, now);
    }

    /// Counts from what the statuses say now: another operator may have written them meanwhile.
    pub(super) fn restart_counts(&mut self) {
        self.audit_counts = AuditCounts::default();
        for (key, entry) in self.policies.iter() {
            if let Some(revision) = &entry.facts.audited {
                self.audit_counts.begin(key, revision, entry.known_count());
            }
        }
    }

    /// Queues the statuses of policies that something has changed for.
    pub(super) fn refresh_policies(&mut self, now: Instant) {
        let counted: Vec<ServerKey> = self.audit_counts.due(now).cloned().collect();
        self.policies.mark(counted, now);
        for key in self.policies.take_due(now) {
            let of = ObjectKey::policy(&key);
            match self.desired_policy_status(&key, now) {
                Some((old, new, settled)) => {
                    self.statuses.wanted(&of, status::policy::change(&old, &new), settled, now);
                }
                None => self.statuses.forget(&of),
            }
        }
    }

    /// Writes the status of a policy that is due.
    pub(super) fn write_policy_status(&mut self, key: &ServerKey, now: Instant) {
        let Some((old, new, _)) = self.desired_policy_status(key, now) else { return };
        let Some(entry) = self.policies.get(key) else { return };
        if status::policy::change(&old, &new) != StatusChange::None {
            // A status that another writer has changed meanwhile is looked at first.
            let (uid, version) = (entry.uid.clone(), known_version(entry.version));
            self.statuses.write(ObjectKey::policy(key), uid, NewStatus::Policy(new), version, now);
        }
    }

    /// Takes the end of a write of a policy's status.
    pub(super) fn finish_policy_write(
        &mut self,
        key: &ServerKey,
        uid: &str,
        new: McpAccessPolicyStatus,
        outcome: WriteResult,
        now: Instant,
    ) {
        let Some(entry) = self.policies.get_mut(key).filter(|entry| entry.uid == uid) else { return };
        let written = match outcome {
            WriteResult::Done(version) => Some((new, version.unwrap_or(0))),
            WriteResult::Gone | WriteResult::Conflict | WriteResult::Failed => None,
        };
        if let Some((old, new)) = entry.finish_write(written) {
            let count = new.would_deny.and_then(|count| u64::try_from(count).ok());
            self.audit_counts.published(key, count, now);
            let conditions = (&*old.conditions, &*new.conditions);
            self.events.record_transitions(&ObjectKey::policy(key), uid, &[ConditionType::Accepted], conditions);
        }
        if outcome != WriteResult::Failed {
            self.policies.mark([key.clone()], now);
        }
    }

    /// The present and the desired status of a policy, and whether the desired one is final.
    fn desired_policy_status(
        &self,
        key: &ServerKey,
        now: Instant,
    ) -> Option<(McpAccessPolicyStatus, McpAccessPolicyStatus, bool)> {
        let entry = self.policies.get(key).filter(|_| self.may_write() && self.is_ours(&key.namespace))?;
        let governed = || self.inventory.governed(key);
        // What no gateway gets is open to nobody.
        let given =
            governed().filter(|(key, _)| !self.slots.is_left_out(self.inventory.slot_of(key), &ObjectKey::server(key)));
        let wanted: Vec<_> =
            given.filter_map(|(key, server)| Some((key, server.verdict.revision.as_deref()?))).collect();
        let view = self.replicas.view_of_all(&wanted, now);
        let count = self.audit_counts.publishable(key, now);
        let new = status::policy::desired(entry, governed().count(), count, &view, &status::this_second());
        let settled = status::policy::is_settled(&new, &view);
        Some((entry.status.clone(), new, settled))
    }

    /// Whether this installation writes the statuses of the policies and views of a namespace. All installations that watch it agree:
    /// it is the one that serves its first server.
    pub(super) fn is_ours(&self, namespace: &str) -> bool {
        let first = self.inventory.in_namespace(namespace).next();
        first.is_none_or(|(key, _)| self.ownership.other(key).is_none() && !self.ownership.has_left(key))
    }
}

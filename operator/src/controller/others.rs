//! What the controller does about other installations: leaves them what they serve, and takes over what they left.

use portcullis_crds::ServerKey;
use portcullis_crds::mcpserver::McpServerStatus;
use tokio::time::Instant;
use tracing::warn;

use super::{Controller, known_version};
use crate::object_key::ObjectKey;
use crate::ownership::Ownership;
use crate::statuses::NewStatus;

impl Controller {
    /// Takes the status of a server, which tells who serves it and so who writes the statuses of its namespace's policies and
    /// views.
    pub(super) fn see_owner(&mut self, key: &ServerKey, status: &McpServerStatus, now: Instant) {
        let is_ours = |all: &Ownership| all.other(key).is_none() && !all.has_left(key);
        let before = is_ours(&self.ownership);
        self.ownership.see(key, status, now);
        if is_ours(&self.ownership) != before || self.inventory.get(key).is_none() {
            self.mark_around(Some(&key.namespace), now);
        }
    }

    /// Leaves the status of a server to another installation, and records that once.
    pub(super) fn leave_to(&mut self, key: &ServerKey, owner: &str) {
        let me = self.ownership.me();
        if self.announced_installations.insert(owner.to_owned()) {
            warn!(
                installation = me,
                other = owner,
                "another installation serves McpServers of this watch and writes their statuses: give the installations disjoint watch.namespaces"
            );
        }
        if self.announced_servers.insert(key.clone()) {
            let uid = self.inventory.get(key).map(|entry| entry.object.uid.clone()).unwrap_or_default();
            let note = format!(
                "installation {owner} serves it and writes its status, so installation {me} does not: give them disjoint \
                 watch.namespaces"
            );
            self.events.record(&ObjectKey::server(key), &uid, (true, "ServedByAnother".into(), note));
        }
    }

    /// Asks other installations whether they still run, and takes over from those that do not.
    pub(super) fn check_other_installations(&mut self, now: Instant) {
        let due = self.ownership.due(now);
        for key in due.ask {
            let Some(entry) = self.inventory.get(&key) else { continue };
            let (object, me) = (&entry.object, self.ownership.me().to_owned());
            if object.status.contender.is_none() {
                let asking = McpServerStatus { contender: Some(me), ..object.status.clone() };
                let (uid, version) = (object.uid.clone(), known_version(object.version));
                self.statuses.write(ObjectKey::server(&key), uid, NewStatus::Server(Box::new(asking)), version, now);
            }
        }
        for (installation, servers) in due.gone {
            warn!(
                installation,
                servers = servers.len(),
                "the other installation does not answer; this one takes over its McpServers"
            );
            self.announced_installations.remove(&installation);
            for key in servers {
                self.announced_servers.remove(&key);
                self.refresh(&key, now);
            }
            self.mark_around(None, now);
        }
        self.metrics.others.set(i64::try_from(self.ownership.count()).unwrap_or(i64::MAX));
    }
}

//! Keeps the McpAccessPolicies as the API server has them, and those whose statuses are to be derived again.
//!
//! Pure: the caller passes the time. The inventory knows what the policies govern.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kube::core::DynamicObject;
use portcullis_access::CompiledPolicy;
use portcullis_crds::mcpaccesspolicy::{McpAccessPolicyStatus, PolicyMode};
use portcullis_crds::{ReadPolicy, ServerKey};
use tokio::time::Instant;

use crate::publish::version;

/// The statuses of policies are derived this long after a change, because each depends on many servers.
const GATHER_DELAY: Duration = Duration::from_millis(50);

/// Name of the policy that stands for those of a namespace that cannot be read. No object can have it.
const UNREADABLE: &str = "(unreadable)";

/// All McpAccessPolicies.
#[derive(Debug, Default)]
pub(crate) struct AccessPolicies {
    entries: BTreeMap<ServerKey, PolicyEntry>,
    stale: BTreeSet<ServerKey>,
    /// When those that are stale are due.
    due: Option<Instant>,
}

/// One McpAccessPolicy.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PolicyEntry {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`.
    pub(crate) generation: i64,
    /// `metadata.resourceVersion`, where it is a number.
    pub(crate) version: u64,
    /// Its status at the API server.
    pub(crate) status: McpAccessPolicyStatus,
    /// The revision of its text form, in `Audit` mode.
    pub(crate) audited: Option<String>,
    /// What of it cannot be used, one sentence each.
    pub(crate) problems: Vec<String>,
    /// A status that arrived during a write, with the version of its object.
    pub(crate) later: Option<(u64, McpAccessPolicyStatus)>,
}

/// The key of the policy that stands for those of a namespace that cannot be read.
pub(crate) fn unreadable(namespace: &str) -> ServerKey {
    ServerKey::new(namespace, UNREADABLE)
}

/// Reads an object; one that cannot be read whole governs all the same.
pub(crate) fn read(object: &DynamicObject) -> (ReadPolicy, PolicyEntry) {
    let value = serde_json::to_value(object).unwrap_or_default();
    let read = ReadPolicy::of(&value);
    let problems = CompiledPolicy::problems_of(&read);
    let entry = PolicyEntry {
        uid: object.metadata.uid.clone().unwrap_or_default(),
        generation: read.generation,
        version: version(&object.metadata).unwrap_or(0),
        status: serde_json::from_value(value["status"].clone()).unwrap_or_default(),
        audited: (read.policy.mode == PolicyMode::Audit).then(|| read.text.revision.as_ref().to_owned()),
        problems,
        later: None,
    };
    (read, entry)
}

impl AccessPolicies {
    /// One policy.
    pub(crate) fn get(&self, key: &ServerKey) -> Option<&PolicyEntry> {
        self.entries.get(key)
    }

    /// All policies.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&ServerKey, &PolicyEntry)> {
        self.entries.iter()
    }

    /// One policy, to update its written status.
    pub(crate) fn get_mut(&mut self, key: &ServerKey) -> Option<&mut PolicyEntry> {
        self.entries.get_mut(key)
    }

    /// Adds or replaces a policy. `busy`: a write of its status is under way.
    pub(crate) fn put(&mut self, key: ServerKey, mut entry: PolicyEntry, busy: bool) {
        if let Some(known) = self.entries.get(&key).filter(|known| known.uid == entry.uid)
            && (busy || entry.version < known.version)
        {
            // The status is ours or another writer's: the end of the write shows which.
            let later = busy.then(|| (entry.version, entry.status.clone()));
            entry.later = later.or_else(|| known.later.clone());
            entry.status = known.status.clone();
            entry.version = entry.version.max(known.version);
        }
        self.entries.insert(key, entry);
    }

    /// Removes a policy.
    pub(crate) fn remove(&mut self, key: &ServerKey) {
        self.entries.remove(key);
        self.stale.remove(key);
    }

    /// Notes that the statuses of these policies are to be derived again.
    pub(crate) fn mark(&mut self, keys: impl IntoIterator<Item = ServerKey>, now: Instant) {
        let entries = &self.entries;
        self.stale.extend(keys.into_iter().filter(|key| entries.contains_key(key)));
        if !self.stale.is_empty() {
            self.due.get_or_insert(now + GATHER_DELAY);
        }
    }

    /// The same for all policies of a namespace; none: of all namespaces.
    pub(crate) fn mark_all(&mut self, namespace: Option<&str>, now: Instant) {
        let keys = self.entries.keys().filter(|key| namespace.is_none_or(|namespace| key.namespace == namespace));
        let keys: Vec<ServerKey> = keys.cloned().collect();
        self.mark(keys, now);
    }

    /// When the next statuses are to be derived.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.due
    }

    /// The policies whose statuses are to be derived now.
    pub(crate) fn take_due(&mut self, now: Instant) -> BTreeSet<ServerKey> {
        if self.due.is_none_or(|due| due > now) {
            return BTreeSet::new();
        }
        self.due = None;
        std::mem::take(&mut self.stale)
    }
}

impl PolicyEntry {
    /// The count of calls that would have been denied that its status has for this generation.
    pub(crate) fn known_count(&self) -> Option<u64> {
        let is_current = self.status.observed_generation == Some(self.generation);
        self.status.would_deny.filter(|_| is_current).and_then(|count| u64::try_from(count).ok())
    }

    /// Takes the end of a write. `written`: the status and the version of its object, if it succeeded. Returns the status
    /// before and the one that was written.
    pub(crate) fn finish_write(
        &mut self,
        written: Option<(McpAccessPolicyStatus, u64)>,
    ) -> Option<(McpAccessPolicyStatus, McpAccessPolicyStatus)> {
        let mut at = 0;
        let change = written.map(|(status, version)| {
            at = version;
            self.version = self.version.max(version);
            let old = std::mem::replace(&mut self.status, status.clone());
            (old, status)
        });
        if let Some((_, newer)) = self.later.take().filter(|(version, _)| *version > at) {
            self.status = newer;
        }
        change
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(generation: i64) -> McpAccessPolicyStatus {
        McpAccessPolicyStatus { observed_generation: Some(generation), ..Default::default() }
    }

    fn entry(version: u64, generation: i64) -> PolicyEntry {
        PolicyEntry { uid: "u".into(), version, status: status(generation), ..Default::default() }
    }

    #[test]
    fn an_object_that_cannot_be_read_is_read_as_far_as_possible() {
        let object: DynamicObject = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpAccessPolicy",
            "metadata": {"namespace": "n", "name": "p", "uid": "u", "generation": 7, "resourceVersion": "9"},
            "spec": {"rules": [
                {"name": "good", "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}]},
                {"name": "bad", "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}], "when": "1 +"},
                {"name": "worse"},
            ]},
            "status": {"observedGeneration": 6},
        }))
        .unwrap();
        let (read, entry) = read(&object);
        assert_eq!((read.policy.rules.len(), entry.problems.len()), (2, 2));
        assert_eq!((entry.uid.as_str(), entry.generation, entry.version), ("u", 7, 9));
        assert_eq!(entry.status, status(6));
    }

    #[test]
    fn an_older_object_does_not_bring_back_an_older_status() {
        let (mut all, key) = (AccessPolicies::default(), ServerKey::new("n", "p"));
        let seen = |all: &AccessPolicies| all.get(&key).map(|entry| (entry.version, entry.status.observed_generation));
        all.put(key.clone(), entry(5, 1), false);
        all.put(key.clone(), entry(4, 0), false);
        assert_eq!(seen(&all), Some((5, Some(1))));
        // During a write, what arrives waits for the end of the write.
        all.put(key.clone(), entry(6, 2), true);
        assert_eq!(seen(&all), Some((6, Some(1))));
        all.get_mut(&key).unwrap().finish_write(Some((status(3), 7)));
        assert_eq!(seen(&all), Some((7, Some(3))));
        all.put(key.clone(), entry(9, 4), true);
        assert_eq!(all.get_mut(&key).unwrap().finish_write(None), None);
        assert_eq!(seen(&all), Some((9, Some(4))));
    }

    #[test]
    fn changes_of_many_servers_make_one_derivation() {
        let (mut all, key, now) = (AccessPolicies::default(), ServerKey::new("n", "p"), Instant::now());
        all.put(key.clone(), entry(1, 1), false);
        all.mark([ServerKey::new("n", "other")], now);
        assert_eq!(all.next(), None);
        all.mark([key.clone()], now);
        all.mark_all(Some("n"), now + GATHER_DELAY / 2);
        assert_eq!((all.next(), all.take_due(now)), (Some(now + GATHER_DELAY), BTreeSet::new()));
        assert_eq!(all.take_due(now + GATHER_DELAY), BTreeSet::from([key]));
        assert_eq!(all.next(), None);
    }
}

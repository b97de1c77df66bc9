//! Reads the McpAccessPolicies that the API server has.
//!
//! Pure. The inventory knows what the policies govern.

use kube::core::DynamicObject;
use portcullis_access::CompiledPolicy;
use portcullis_crds::mcpaccesspolicy::{McpAccessPolicyStatus, PolicyMode};
use portcullis_crds::{ReadPolicy, ServerKey};

use crate::entries::{Entries, Entry};
use crate::publish::version;

/// Name of the policy that stands for those of a namespace that cannot be read. No object can have it.
const UNREADABLE: &str = "(unreadable)";

/// All McpAccessPolicies.
pub(crate) type AccessPolicies = Entries<McpAccessPolicyStatus, PolicyFacts>;

/// One McpAccessPolicy.
pub(crate) type PolicyEntry = Entry<McpAccessPolicyStatus, PolicyFacts>;

/// What is known of a policy besides its status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct PolicyFacts {
    /// The revision of its text form, in `Audit` mode.
    pub(crate) audited: Option<String>,
    /// What of it cannot be used, one sentence each.
    pub(crate) problems: Vec<String>,
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
        facts: PolicyFacts {
            audited: (read.policy.mode == PolicyMode::Audit).then(|| read.text.revision.as_ref().to_owned()),
            problems,
        },
        later: None,
    };
    (read, entry)
}

impl PolicyEntry {
    /// The count of calls that would have been denied that its status has for this generation.
    pub(crate) fn known_count(&self) -> Option<u64> {
        let is_current = self.status.observed_generation == Some(self.generation);
        self.status.would_deny.filter(|_| is_current).and_then(|count| u64::try_from(count).ok())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(generation: i64) -> McpAccessPolicyStatus {
        McpAccessPolicyStatus { observed_generation: Some(generation), ..Default::default() }
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
        assert_eq!((read.policy.rules.len(), entry.facts.problems.len()), (2, 2));
        assert_eq!((entry.uid.as_str(), entry.generation, entry.version), ("u", 7, 9));
        assert_eq!(entry.status, status(6));
    }
}

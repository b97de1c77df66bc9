//! Derives the status of an McpAccessPolicy from what of it can be used, and from what the gateway replicas have applied.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use portcullis_crds::mcpaccesspolicy::McpAccessPolicyStatus;
use portcullis_crds::{ConditionType, Reason};
use serde_json::Value;

use super::conditions::{ConditionDraft, by_replicas};
use super::{StatusChange, are_settled, change_of, condition, conditions_in_short, merge_patch};
use crate::fleet::FleetView;
use crate::policies::PolicyEntry;

/// The status that the operator should write for a policy that governs this many servers. `view` tells the replicas that
/// have applied the newest revision of all of them; `count` the calls that it would have denied, in `Audit` mode.
pub(crate) fn desired(
    entry: &PolicyEntry,
    servers: usize,
    count: Option<u64>,
    view: &FleetView,
    now: &Time,
) -> McpAccessPolicyStatus {
    let programmed = if servers == 0 {
        ConditionDraft::new("True", Reason::Programmed, "It governs no server.")
    } else {
        by_replicas(view)
    };
    let of = |kind, draft| condition(kind, draft, entry.generation, &entry.status.conditions, now);
    McpAccessPolicyStatus {
        observed_generation: Some(entry.generation),
        server_count: Some(u32::try_from(servers).unwrap_or(u32::MAX)),
        would_deny: count.map(|count| i64::try_from(count).unwrap_or(i64::MAX)),
        conditions: vec![of(ConditionType::Accepted, accepted(entry)), of(ConditionType::Programmed, programmed)],
    }
}

/// `Accepted`: whether all of it can be used. A policy that is not accepted governs all the same.
fn accepted(entry: &PolicyEntry) -> ConditionDraft {
    if entry.facts.problems.is_empty() {
        return ConditionDraft::good(Reason::Accepted);
    }
    let message = format!(
        "Some of it cannot be used and allows nothing; its other rules count. {}",
        entry.facts.problems.join("; ")
    );
    ConditionDraft::new("False", Reason::Invalid, message)
}

/// The kind of difference between `old` and `new`.
pub(crate) fn change(old: &McpAccessPolicyStatus, new: &McpAccessPolicyStatus) -> StatusChange {
    change_of(old, new, |status| {
        let conditions = conditions_in_short(&status.conditions);
        (status.observed_generation, status.server_count, conditions)
    })
}

/// Whether a status is final, rather than a step on the way.
pub(crate) fn is_settled(status: &McpAccessPolicyStatus, view: &FleetView) -> bool {
    are_settled(&status.conditions, view)
}

/// A JSON merge patch that replaces the status.
pub(crate) fn patch(new: &McpAccessPolicyStatus, version: Option<u64>) -> Value {
    merge_patch(new, &["observedGeneration", "serverCount", "wouldDeny"], version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policies::PolicyFacts;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    fn words(status: &McpAccessPolicyStatus) -> Vec<String> {
        let of = |c: &Condition| format!("{}={}/{}: {}", c.type_, c.status, c.reason, c.message);
        status.conditions.iter().map(of).collect()
    }

    #[test]
    fn a_policy_says_what_of_it_counts_and_where_it_is_in_force() {
        let view = |applied: u32, silent: u32, total: u32| FleetView { applied, silent, total, ..Default::default() };
        let good = PolicyEntry { generation: 3, ..Default::default() };
        let bad = PolicyEntry {
            facts: PolicyFacts { problems: vec!["rules[0]: a".into(), "rule \"b\": c".into()], ..Default::default() },
            ..good.clone()
        };
        let (accepted, rest) = (
            "Accepted=True/Accepted: ",
            "Accepted=False/Invalid: Some of it cannot be used and allows nothing; its other rules count. rules[0]: a; rule \"b\": c",
        );
        let cases = [
            (&good, 0, view(0, 0, 0), accepted, "True/Programmed: It governs no server."),
            (
                &good,
                2,
                view(3, 0, 3),
                accepted,
                "True/Programmed: 3 of 3 gateway replicas have applied this generation",
            ),
            (&bad, 2, view(1, 0, 3), rest, "False/Pending: 1 of 3 gateway replicas have applied this generation"),
            (&bad, 1, view(0, 0, 0), rest, "Unknown/NoGateway: No gateway replica is ready."),
            (
                &good,
                1,
                view(2, 1, 3),
                accepted,
                "Unknown/GatewayUnreachable: 2 of 3 gateway replicas have applied this generation; 1 of them cannot be reached",
            ),
        ];
        for (entry, servers, view, accepted, programmed) in cases {
            let status = desired(entry, servers, Some(7), &view, &at(1));
            assert_eq!(words(&status), [accepted.to_owned(), format!("Programmed={programmed}")]);
            assert_eq!((status.observed_generation, status.server_count), (Some(3), u32::try_from(servers).ok()));
            assert_eq!(status.would_deny, Some(7));
            assert_eq!(is_settled(&status, &view), !programmed.contains("Pending"));
        }
    }

    #[test]
    fn a_status_that_says_the_same_is_not_written_again() {
        let view = |applied: u32, total: u32| FleetView { applied, total, ..Default::default() };
        let mut entry = PolicyEntry { generation: 1, ..Default::default() };
        entry.status = desired(&entry, 1, None, &view(2, 2), &at(1));
        let later = |entry: &PolicyEntry, servers, view: FleetView| {
            change(&entry.status, &desired(entry, servers, None, &view, &at(9)))
        };
        assert_eq!(later(&entry, 1, view(2, 2)), StatusChange::None);
        assert_eq!(later(&entry, 1, view(3, 3)), StatusChange::Detail);
        let counted = desired(&entry, 1, Some(1), &view(2, 2), &at(9));
        assert_eq!(change(&entry.status, &counted), StatusChange::Detail);
        assert_eq!(later(&entry, 2, view(2, 2)), StatusChange::Transition);
        assert_eq!(later(&entry, 1, view(1, 2)), StatusChange::Transition);
    }
}

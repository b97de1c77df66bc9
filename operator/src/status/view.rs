//! Derives the status of an McpView from the verdict on it, and from what the gateway replicas report.

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use portcullis_crds::mcpview::McpViewStatus;
use portcullis_crds::{ConditionType, Reason, ViewReport};
use serde_json::Value;

use super::conditions::{ConditionDraft, NO_ROOM, by_replicas};
use super::{StatusChange, are_settled, change_of, condition, conditions_in_short, merge_patch};
use crate::fleet::FleetView;
use crate::inventory::ViewVerdict;
use crate::views::ViewEntry;

/// Patterns that a status names, and the characters of each.
const MAX_UNMATCHED: (usize, usize) = (16, 2048);

/// What the gateway replicas say of the newest revision of a view.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ViewInForce<'a> {
    /// The replicas that have applied it.
    pub(crate) fleet: FleetView,
    /// The report of one of them.
    pub(crate) report: Option<&'a ViewReport>,
    /// Whether its ConfigMap has no room for it.
    pub(crate) left_out: bool,
}

/// The status that the operator should write for a view.
pub(crate) fn desired(
    entry: &ViewEntry,
    verdict: &ViewVerdict,
    in_force: &ViewInForce<'_>,
    now: &Time,
) -> McpViewStatus {
    let (accepted, programmed) = match verdict {
        ViewVerdict::Refused(refusal) => (
            ConditionDraft::new("False", refusal.reason, &refusal.message),
            ConditionDraft::new("False", Reason::NotAccepted, "No gateway gets this view: see the other condition."),
        ),
        ViewVerdict::Served(_) if in_force.left_out => {
            (ConditionDraft::good(Reason::Accepted), ConditionDraft::new("False", Reason::SnapshotTooLarge, NO_ROOM))
        }
        ViewVerdict::Served(_) => (ConditionDraft::good(Reason::Accepted), by_replicas(&in_force.fleet)),
    };
    let of = |kind, draft| condition(kind, draft, entry.generation, &entry.status.conditions, now);
    let conditions = vec![of(ConditionType::Accepted, accepted), of(ConditionType::Programmed, programmed)];
    let base = McpViewStatus { observed_generation: Some(entry.generation), conditions, ..McpViewStatus::default() };
    match in_force.report {
        Some(report) => McpViewStatus {
            server_count: Some(report.servers),
            tool_count: Some(report.tools),
            hidden_by_budget: Some(report.hidden),
            list_bytes: Some(i64::try_from(report.bytes).unwrap_or(i64::MAX)),
            list_tokens: Some(i64::try_from(report.tokens).unwrap_or(i64::MAX)),
            unmatched: named(&report.unmatched),
            ..base
        },
        // The last numbers stay visible until some replica has the newest revision.
        None if matches!(verdict, ViewVerdict::Served(_)) => McpViewStatus {
            observed_generation: base.observed_generation,
            conditions: base.conditions,
            ..entry.status.clone()
        },
        None => base,
    }
}

/// The first patterns, each once and clipped: the API server refuses a status with more.
fn named(unmatched: &[String]) -> Vec<String> {
    let (most, chars) = MAX_UNMATCHED;
    let mut seen = BTreeSet::new();
    let clipped = unmatched.iter().map(|pattern| pattern.chars().take(chars).collect::<String>());
    clipped.filter(|pattern| seen.insert(pattern.clone())).take(most).collect()
}

/// The kind of difference between `old` and `new`.
pub(crate) fn change(old: &McpViewStatus, new: &McpViewStatus) -> StatusChange {
    change_of(old, new, |status| {
        let conditions = conditions_in_short(&status.conditions);
        let facts = (status.server_count, status.tool_count, status.unmatched.clone());
        (status.observed_generation, facts, conditions)
    })
}

/// Whether a status is final, rather than a step on the way.
pub(crate) fn is_settled(status: &McpViewStatus, fleet: &FleetView) -> bool {
    are_settled(&status.conditions, fleet)
}

/// A JSON merge patch that replaces the status.
pub(crate) fn patch(new: &McpViewStatus, version: Option<u64>) -> Value {
    const OPTIONAL: [&str; 7] =
        ["hiddenByBudget", "listBytes", "listTokens", "observedGeneration", "serverCount", "toolCount", "unmatched"];
    merge_patch(new, &OPTIONAL, version)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
    use portcullis_crds::{ServerKey, SpecRefusal};
    use serde_json::json;

    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    fn words(status: &McpViewStatus) -> Vec<String> {
        let of = |c: &Condition| format!("{}={}/{}: {}", c.type_, c.status, c.reason, c.message);
        status.conditions.iter().map(of).collect()
    }

    fn report(tools: u32, unmatched: &[&str]) -> ViewReport {
        ViewReport {
            key: ServerKey::new("n", "v"),
            revision: "1".into(),
            servers: 2,
            tools,
            hidden: 3,
            bytes: 4000,
            tokens: 1000,
            unmatched: unmatched.iter().map(|text| (*text).to_owned()).collect(),
        }
    }

    fn fleet(applied: u32, silent: u32, total: u32) -> FleetView {
        FleetView { applied, silent, total, ..Default::default() }
    }

    #[test]
    fn a_view_says_whether_it_is_served_and_what_it_holds() {
        let entry = ViewEntry { generation: 3, ..Default::default() };
        let served = ViewVerdict::Served("1".into());
        let refused = ViewVerdict::Refused(SpecRefusal { reason: Reason::TooMany, message: "too many".into() });
        let report = report(7, &["a", "a", "b"]);
        let told = |fleet, left_out| ViewInForce { fleet, report: Some(&report), left_out };
        let cases = [
            (
                &served,
                told(fleet(2, 0, 2), false),
                [
                    "Accepted=True/Accepted: ",
                    "Programmed=True/Programmed: 2 of 2 gateway replicas have applied this generation",
                ],
            ),
            (
                &served,
                told(fleet(1, 0, 2), false),
                [
                    "Accepted=True/Accepted: ",
                    "Programmed=False/Pending: 1 of 2 gateway replicas have applied this generation",
                ],
            ),
            (
                &refused,
                ViewInForce::default(),
                [
                    "Accepted=False/TooMany: too many",
                    "Programmed=False/NotAccepted: No gateway gets this view: see the other condition.",
                ],
            ),
            (
                &served,
                told(fleet(0, 0, 2), true),
                ["Accepted=True/Accepted: ", &format!("Programmed=False/SnapshotTooLarge: {NO_ROOM}")],
            ),
        ];
        for (verdict, in_force, expected) in cases {
            let status = desired(&entry, verdict, &in_force, &at(1));
            assert_eq!(words(&status), expected);
            assert_eq!(is_settled(&status, &in_force.fleet), !expected[1].contains("Pending"));
        }
        let status = desired(&entry, &served, &told(fleet(2, 0, 2), false), &at(1));
        let numbers =
            (status.server_count, status.tool_count, status.hidden_by_budget, status.list_bytes, status.list_tokens);
        assert_eq!(numbers, (Some(2), Some(7), Some(3), Some(4000), Some(1000)));
        assert_eq!((status.unmatched, status.observed_generation), (vec!["a".to_owned(), "b".to_owned()], Some(3)));
    }

    #[test]
    fn numbers_stay_until_a_replica_has_the_newest_revision_and_go_with_a_view_that_is_refused() {
        let (served, before) = (ViewVerdict::Served("2".into()), report(7, &["a"]));
        let in_force = ViewInForce { fleet: fleet(1, 0, 1), report: Some(&before), left_out: false };
        let mut entry = ViewEntry { generation: 1, ..Default::default() };
        entry.status = desired(&entry, &served, &in_force, &at(1));
        entry.generation = 2;
        let waiting = ViewInForce { fleet: fleet(0, 0, 1), ..Default::default() };
        let status = desired(&entry, &served, &waiting, &at(9));
        assert_eq!((status.tool_count, status.unmatched.len(), status.observed_generation), (Some(7), 1, Some(2)));
        let refused = ViewVerdict::Refused(SpecRefusal { reason: Reason::Invalid, message: String::new() });
        let status = desired(&entry, &refused, &ViewInForce::default(), &at(9));
        assert_eq!((status.tool_count, &status.unmatched), (None, &vec![]));
        let patch = patch(&status, Some(4));
        assert_eq!((&patch["status"]["toolCount"], &patch["status"]["unmatched"]), (&json!(null), &json!(null)));
    }

    #[test]
    fn a_status_that_says_the_same_is_not_written_again() {
        let served = ViewVerdict::Served("1".into());
        let with = |entry: &ViewEntry, report: &ViewReport, fleet: FleetView| {
            desired(entry, &served, &ViewInForce { fleet, report: Some(report), left_out: false }, &at(9))
        };
        let mut entry = ViewEntry { generation: 1, ..Default::default() };
        entry.status = with(&entry, &report(7, &[]), fleet(2, 0, 2));
        let later = |report: &ViewReport, fleet| change(&entry.status, &with(&entry, report, fleet));
        assert_eq!(later(&report(7, &[]), fleet(2, 0, 2)), StatusChange::None);
        assert_eq!(later(&ViewReport { bytes: 5000, ..report(7, &[]) }, fleet(2, 0, 2)), StatusChange::Detail);
        assert_eq!(later(&report(8, &[]), fleet(2, 0, 2)), StatusChange::Transition);
        assert_eq!(later(&report(7, &["x"]), fleet(2, 0, 2)), StatusChange::Transition);
        assert_eq!(later(&report(7, &[]), fleet(1, 0, 2)), StatusChange::Transition);
    }
}

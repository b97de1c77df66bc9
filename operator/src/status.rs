//! Derives the status of an McpServer from its verdict and from what the gateway replicas report.
//!
//! Pure. Equal inputs give an equal status, so that nothing is written that has not changed.

mod conditions;
pub(crate) mod policy;
pub(crate) mod view;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use portcullis_crds::mcpserver::{GatewayCount, McpServerStatus, ServedBy, ServerIdentity, Transport};
use portcullis_crds::{ConditionType, Reason, ServerReport};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::fleet::FleetView;
use crate::inventory::ServerEntry;
use conditions::ConditionDraft;

/// Policies that a status names.
const MAX_NAMED_POLICIES: usize = 64;

/// Extensions that a status names.
const MAX_NAMED_EXTENSIONS: usize = 32;

/// The longest name of a field manager that Kubernetes takes.
const MAX_MANAGER_CHARS: usize = 128;

/// The kind of difference between two statuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum StatusChange {
    /// The statuses are equal.
    None,
    /// Only counts or messages differ: the write may wait for more of them.
    Detail,
    /// Somebody may be waiting for the change.
    Transition,
}

/// The status that `installation` should write for an object. `left_out`: its ConfigMap has no room for it.
pub(crate) fn desired(
    entry: &ServerEntry,
    view: &FleetView,
    left_out: bool,
    installation: &str,
    now: &Time,
) -> McpServerStatus {
    let old = &entry.object.status;
    let accepted = conditions::accepted(entry);
    let refs = conditions::resolved_refs(entry, view);
    let programmed = conditions::programmed(entry, view, left_out);
    let ready = conditions::ready(entry, view, &refs, &programmed);
    let pooled = conditions::pooled(entry, view);
    let speaks = view.reports.iter().rev().find(|report| report.transport.is_some());
    let last_error = view.reports.iter().find(|report| !report.ready).map(|report| report.message.clone());
    let all = [Some(accepted), Some(refs), Some(programmed), Some(ready), pooled];
    let conditions = ConditionType::ALL.into_iter().zip(all).filter_map(|(kind, draft)| Some((kind, draft?)));
    McpServerStatus {
        observed_generation: Some(entry.object.generation),
        url: entry.url.clone(),
        // The last transport and version stay visible while the server is away.
        transport: speaks.and_then(transport).or(old.transport),
        protocol_version: speaks.and_then(|r| r.protocol_version.clone()).or_else(|| old.protocol_version.clone()),
        server_info: speaks.and_then(server_info).or_else(|| old.server_info.clone()),
        extensions: speaks.map_or_else(|| old.extensions.clone(), extensions),
        tool_count: tool_count(entry, view, old),
        gateways: Some(GatewayCount { applied: view.applied, ready: view.ready, total: view.total }),
        last_error: last_error.filter(|text| !text.is_empty()),
        served_by: Some(ServedBy { installation: installation.to_owned(), until: None }),
        // Removing the contender answers it: this installation is there.
        contender: None,
        policies: entry.governed_by.iter().take(MAX_NAMED_POLICIES).cloned().collect(),
        conditions: conditions
            .map(|(kind, draft)| condition(kind, draft, entry.object.generation, &old.conditions, now))
            .collect(),
    }
}

/// The kind of difference between `old` and `new`.
pub(crate) fn change(old: &McpServerStatus, new: &McpServerStatus) -> StatusChange {
    change_of(old, new, |status| {
        let conditions = conditions_in_short(&status.conditions);
        let facts = (status.url.clone(), status.transport, status.protocol_version.clone(), status.tool_count);
        let owners = (status.served_by.clone(), status.contender.clone(), status.policies.clone());
        (status.observed_generation, conditions, facts, owners)
    })
}

/// The kind of difference between two statuses of any object: a transition if it is one of their `essence`.
fn change_of<S: PartialEq, E: PartialEq>(old: &S, new: &S, essence: impl Fn(&S) -> E) -> StatusChange {
    if old == new {
        StatusChange::None
    } else if essence(old) == essence(new) {
        StatusChange::Detail
    } else {
        StatusChange::Transition
    }
}

/// Conditions without their messages and times.
fn conditions_in_short(conditions: &[Condition]) -> Vec<(String, String, String, Option<i64>)> {
    let of = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.observed_generation);
    conditions.iter().map(of).collect()
}

/// Whether these conditions are final, as far as the replicas go.
fn are_settled(conditions: &[Condition], view: &FleetView) -> bool {
    !view.awaited && !conditions.iter().any(|condition| condition.reason == Reason::Pending.as_str())
}

/// Whether a status is final, rather than a step on the way.
pub(crate) fn is_settled(status: &McpServerStatus, view: &FleetView) -> bool {
    let waiting = [Reason::Pending, Reason::Probing, Reason::NotProgrammed].map(Reason::as_str);
    !view.awaited && !status.conditions.iter().any(|condition| waiting.contains(&condition.reason.as_str()))
}

/// A JSON merge patch that replaces the status; absent fields are null. The API server refuses the patch if the object
/// has another resource version than `version`.
pub(crate) fn patch(new: &McpServerStatus, version: Option<u64>) -> Value {
    const OPTIONAL: [&str; 12] = [
        "contender",
        "extensions",
        "gateways",
        "lastError",
        "observedGeneration",
        "policies",
        "protocolVersion",
        "servedBy",
        "serverInfo",
        "toolCount",
        "transport",
        "url",
    ];
    merge_patch(new, &OPTIONAL, version)
}

/// The same for any status, some of whose fields are optional.
fn merge_patch(new: &impl Serialize, optional: &[&str], version: Option<u64>) -> Value {
    let mut status = match serde_json::to_value(new) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    for name in optional {
        status.entry(*name).or_insert(Value::Null);
    }
    match version {
        Some(version) => {
            serde_json::json!({"metadata": {"resourceVersion": version.to_string()}, "status": status})
        }
        None => serde_json::json!({"status": status}),
    }
}

/// The field manager that writes the statuses of an installation.
pub(crate) fn field_manager(program: &str, installation: &str) -> String {
    format!("{program}:{installation}").chars().take(MAX_MANAGER_CHARS).collect()
}

/// Now, as conditions tell the time.
pub(crate) fn this_second() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

/// The condition of this type, if it is there.
pub(crate) fn find(conditions: &[Condition], kind: ConditionType) -> Option<&Condition> {
    conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

fn condition(kind: ConditionType, draft: ConditionDraft, generation: i64, old: &[Condition], now: &Time) -> Condition {
    let before = find(old, kind).filter(|condition| condition.status == draft.status);
    Condition {
        type_: kind.as_str().into(),
        status: draft.status.into(),
        reason: draft.reason.as_str().into(),
        message: draft.message,
        observed_generation: Some(generation),
        last_transition_time: before.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone()),
    }
}

fn transport(report: &ServerReport) -> Option<Transport> {
    match report.transport.as_deref() {
        Some("sse") => Some(Transport::Sse),
        Some("streamable-http") => Some(Transport::StreamableHttp),
        _ => None,
    }
}

fn server_info(report: &ServerReport) -> Option<ServerIdentity> {
    let name = report.server_name.clone()?;
    Some(ServerIdentity { name, version: report.server_version.clone().unwrap_or_default() })
}

fn extensions(report: &ServerReport) -> Vec<String> {
    report.extensions.iter().take(MAX_NAMED_EXTENSIONS).cloned().collect()
}

fn tool_count(entry: &ServerEntry, view: &FleetView, old: &McpServerStatus) -> Option<u32> {
    entry.verdict.revision.as_ref()?;
    view.reports.iter().map(|report| report.tools).max().or(old.tool_count)
}

#[cfg(test)]
mod tests;

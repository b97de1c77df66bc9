//! Reports one server for `/status`. Pure: translates its state into the words of the contract.

use std::hash::{DefaultHasher, Hasher as _};

use portcullis_access::CompiledPolicy;
use portcullis_crds::conditions::ConditionType;
use portcullis_crds::mcpserver::ServingState;
use portcullis_crds::report::{PolicyReport, ServerReport};
use portcullis_crds::{Reason, Server};

use crate::catalog::{Catalog, Kind};
use crate::server::handle::{Handle, Phase, Status};

/// The limits for the problems of its lists that are written out, and for the characters of each: messages are bounded.
const TOLD: (usize, usize) = (3, 240);
/// The limit for tools named in one report.
const MOST_NAMED: usize = 10;

/// This replica's report of a server.
pub(crate) fn report(catalog: &Catalog, handle: &Handle) -> ServerReport {
    let (spec, status) = (handle.spec(), handle.status());
    let ready = is_ready(catalog, handle, &spec, &status);
    let reason = reason(&spec, &status, ready);
    let (offer, place) = (handle.offer(), catalog.place(handle));
    let listed = |kind| if offer.listed { u32::try_from(offer.of(kind).len()).unwrap_or(u32::MAX) } else { 0 };
    let problems = status.all_problems();
    let (server_name, server_version) = status.server_info.unzip();
    ServerReport {
        key: handle.key.clone(),
        revision: handle.revision(),
        ready,
        reason,
        message: status.last_error.unwrap_or_else(|| reason.meaning().trim().to_owned()),
        transport: status.transport.map(str::to_owned),
        protocol_version: status.protocol_version,
        server_name,
        server_version,
        extensions: offer.extensions.names().map(str::to_owned).collect(),
        tools: listed(Kind::Tools),
        renamed: place.renamed,
        shortened: place.shortened,
        left_out: u32::try_from(status.left_out).unwrap_or(u32::MAX),
        list_problems: problems.count,
        first_list_problems: problems.first.iter().take(TOLD.0).map(|text| clipped(text)).collect(),
        prompts: listed(Kind::Prompts),
        resources: listed(Kind::Resources),
        templates: listed(Kind::Templates),
        hidden: place.hidden,
        disagreed: place.disagreed.iter().take(MOST_NAMED).map(|name| name.to_string()).collect(),
        disagreements: u32::try_from(place.disagreed.len()).unwrap_or(u32::MAX),
    }
}

fn clipped(text: &str) -> String {
    text.chars().take(TOLD.1).collect()
}

/// Whether a call through this replica works: the session is open, the published catalog lists the tools, no check
/// fails.
pub(crate) fn is_ready(catalog: &Catalog, handle: &Handle, spec: &Server, status: &Status) -> bool {
    spec.state == ServingState::Enabled
        && status.phase == Phase::Ready
        && handle.live().is_some()
        && handle.offer().listed
        && catalog.lists(handle)
}

/// The state of a server in one word.
pub(crate) fn state_of(spec: &Server, phase: Phase) -> &'static str {
    match spec.state {
        ServingState::Draining => "draining",
        ServingState::Enabled | ServingState::Disabled => phase.as_str(),
    }
}

fn reason(spec: &Server, status: &Status, ready: bool) -> Reason {
    match (spec.state, status.reason) {
        (ServingState::Disabled, _) => return Reason::Disabled,
        (ServingState::Draining, _) => return Reason::Draining,
        // Its references may be gone while its session lives; but a working server is not unready for such a reason.
        (_, Some(reason)) if !ready || reason.condition() != ConditionType::Ready => return reason,
        _ => {}
    }
    match status.phase {
        Phase::Ready if ready => Reason::Ready,
        // Its tools are about to be listed.
        Phase::Ready | Phase::Connecting => Reason::Probing,
        Phase::Degraded => Reason::Unhealthy,
        Phase::Backoff => Reason::BackendUnreachable,
        Phase::Disabled => Reason::Disabled,
    }
}

/// What a policy in `Audit` mode has counted, if it has.
pub(crate) fn policy_report(policy: &CompiledPolicy) -> Option<PolicyReport> {
    let would_deny = Some(policy.would_deny()).filter(|count| *count > 0 && !policy.enforces())?;
    let revision = policy.policy.to_text().revision.as_ref().to_owned();
    Some(PolicyReport { key: policy.policy.key.clone(), revision, would_deny })
}

/// A number that changes with the report.
pub(crate) fn fingerprint(report: &ServerReport) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&serde_json::to_vec(report).unwrap_or_default());
    hasher.finish()
}

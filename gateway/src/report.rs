//! One server as `/status` tells of it. Pure: what is known of it → the words of the contract.

use std::hash::{DefaultHasher, Hasher as _};

use portcullis_crds::conditions::ConditionType;
use portcullis_crds::mcpserver::State;
use portcullis_crds::report::ServerReport;
use portcullis_crds::{Reason, Server};

use crate::catalog::{Catalog, Kind};
use crate::handle::{Handle, Phase, Status};

/// So many problems of its lists are told in words, and so many characters of each: a message has its bounds.
const TOLD: (usize, usize) = (3, 240);
/// Tools named in one report.
const MOST_NAMED: usize = 10;

/// What this replica tells of a server.
pub fn report(catalog: &Catalog, handle: &Handle) -> ServerReport {
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

/// A call through this replica works: the session is open, the published catalog lists the tools, no check fails.
fn is_ready(catalog: &Catalog, handle: &Handle, spec: &Server, status: &Status) -> bool {
    spec.state == State::Enabled
        && status.phase == Phase::Ready
        && handle.live().is_some()
        && handle.offer().listed
        && catalog.lists(handle)
}

fn reason(spec: &Server, status: &Status, ready: bool) -> Reason {
    match (spec.state, status.reason) {
        (State::Disabled, _) => return Reason::Disabled,
        (State::Draining, _) => return Reason::Draining,
        // What it refers to may be gone while its session lives on; but a good server is not unready for a reason.
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

/// A number that changes when a report does.
pub fn fingerprint(report: &ServerReport) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(&serde_json::to_vec(report).unwrap_or_default());
    hasher.finish()
}

//! Derives the conditions of an McpServer from its verdict and from what the gateway replicas report.

use portcullis_crds::mcpserver::ServingState;
use portcullis_crds::{ConditionType, McpServer, Reason, ServerReport};

use crate::fleet::FleetView;
use crate::inventory::ServerEntry;

/// The longest message of a condition, in characters: enough for people, small enough for 10,000 objects.
const MAX_MESSAGE_CHARS: usize = 512;

/// The message of a server or a view for which its ConfigMap has no room.
pub(super) const NO_ROOM: &str = "Its namespace exceeds its share of the ConfigMap, so no gateway serves it: shorten or \
                       remove servers and views of the namespace, or raise snapshot.slots of the chart.";

/// A condition without its transition time.
pub(super) struct ConditionDraft {
    pub(super) status: &'static str,
    pub(super) reason: Reason,
    pub(super) message: String,
}

impl ConditionDraft {
    pub(super) fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { status, reason, message: message.chars().take(MAX_MESSAGE_CHARS).collect() }
    }

    pub(super) fn good(reason: Reason) -> Self {
        Self::new("True", reason, "")
    }

    fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// `Accepted`: whether the object can be served.
pub(super) fn accepted(entry: &ServerEntry) -> ConditionDraft {
    match &entry.verdict.refusal {
        Some(refusal) if refusal.reason.condition() == ConditionType::Accepted => {
            ConditionDraft::new("False", refusal.reason, &refusal.message)
        }
        _ if entry.object.content.as_ref().is_ok_and(|server| skips_verification(server)) => ConditionDraft::new(
            "True",
            Reason::InsecureSkipVerify,
            "tls.insecureSkipVerify is set: the gateway accepts any certificate.",
        ),
        _ => ConditionDraft::good(Reason::Accepted),
    }
}

fn skips_verification(server: &McpServer) -> bool {
    server.spec.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify)
}

/// `ResolvedRefs`: whether the Service and the Secrets that the object names are there.
pub(super) fn resolved_refs(entry: &ServerEntry, view: &FleetView) -> ConditionDraft {
    if let Some(refusal) = &entry.verdict.refusal {
        return match refusal.reason.condition() {
            ConditionType::ResolvedRefs => ConditionDraft::new("False", refusal.reason, &refusal.message),
            _ => ConditionDraft::new("Unknown", Reason::NotAccepted, "The object is not accepted."),
        };
    }
    let broken = view.reports.iter().find(|report| report.reason.condition() == ConditionType::ResolvedRefs);
    match broken {
        Some(report) => ConditionDraft::new("False", report.reason, &report.message),
        None if view.reports.is_empty()
            && entry.object.content.as_ref().is_ok_and(|server| needs_credentials(server)) =>
        {
            ConditionDraft::new("Unknown", Reason::Pending, "No gateway replica has resolved the references yet.")
        }
        None => ConditionDraft::good(Reason::ResolvedRefs),
    }
}

/// The gateway, not the operator, reads Secrets and gets tokens.
fn needs_credentials(server: &McpServer) -> bool {
    let spec = &server.spec;
    let tls = spec.tls.as_ref().is_some_and(|tls| tls.ca_ref.is_some() || tls.client_cert_ref.is_some());
    let mut headers = spec.headers.iter().chain(&spec.listing.headers);
    tls || spec.identity.is_some() || headers.any(|header| header.secret_ref.is_some())
}

/// `Programmed`: whether every gateway replica has applied this generation.
pub(super) fn programmed(entry: &ServerEntry, view: &FleetView, left_out: bool) -> ConditionDraft {
    if entry.verdict.revision.is_none() {
        return ConditionDraft::new(
            "False",
            Reason::NotAccepted,
            "The gateway does not get this server: see the other conditions.",
        );
    }
    if left_out {
        return ConditionDraft::new("False", Reason::SnapshotTooLarge, NO_ROOM);
    }
    by_replicas(view)
}

/// `Programmed` by the numbers of replicas alone.
pub(super) fn by_replicas(view: &FleetView) -> ConditionDraft {
    let of_all = |verb: &str| format!("{} of {} gateway replicas {verb} this generation", view.applied, view.total);
    if view.total > 0 && view.applied == view.total {
        return ConditionDraft::new("True", Reason::Programmed, of_all("have applied"));
    }
    if view.total == 0 {
        return ConditionDraft::new("Unknown", Reason::NoGateway, "No gateway replica is ready.");
    }
    if view.applied + view.silent == view.total {
        let message = format!("{}; {} of them cannot be reached", of_all("have applied"), view.silent);
        return ConditionDraft::new("Unknown", Reason::GatewayUnreachable, message);
    }
    ConditionDraft::new("False", Reason::Pending, of_all("have applied"))
}

/// `Ready`: whether the tools can be called at every gateway replica.
pub(super) fn ready(
    entry: &ServerEntry,
    view: &FleetView,
    refs: &ConditionDraft,
    programmed: &ConditionDraft,
) -> ConditionDraft {
    if entry.verdict.revision.is_none() {
        let reason = if refs.status == "False" { Reason::RefsNotResolved } else { Reason::NotAccepted };
        return ConditionDraft::new("False", reason, "The gateway does not get this server: see the other conditions.");
    }
    match entry.object.content.as_ref().map(|server| server.spec.state) {
        Ok(ServingState::Disabled) => return ConditionDraft::new("False", Reason::Disabled, "spec.state is Disabled."),
        Ok(ServingState::Draining) => return ConditionDraft::new("False", Reason::Draining, "spec.state is Draining."),
        _ => {}
    }
    if !programmed.is_true() {
        let status = if programmed.status == "Unknown" { "Unknown" } else { "False" };
        return ConditionDraft::new(status, Reason::NotProgrammed, &programmed.message);
    }
    match view.reports.iter().find(|report| !report.ready) {
        None => ConditionDraft::new("True", Reason::Ready, offer_in_words(view)),
        Some(report) => {
            let reason =
                if report.reason.condition() == ConditionType::Ready { report.reason } else { Reason::RefsNotResolved };
            let status = if reason == Reason::Probing { "Unknown" } else { "False" };
            let message = if view.total == 1 {
                report.message.clone()
            } else {
                format!("{} of {} gateway replicas: {}", view.total - view.ready, view.total, report.message)
            };
            ConditionDraft::new(status, reason, message)
        }
    }
}

/// `Pooled`: whether the server agrees with its pool; none without `spec.pool`.
pub(super) fn pooled(entry: &ServerEntry, view: &FleetView) -> Option<ConditionDraft> {
    let pool = entry.object.content.as_ref().ok()?.spec.pool.as_ref()?;
    entry.verdict.revision.as_ref()?;
    if view.reports.is_empty() {
        return Some(ConditionDraft::new(
            "Unknown",
            Reason::NotProgrammed,
            "No gateway replica has applied this generation.",
        ));
    }
    let Some(report) = view.reports.iter().max_by_key(|report| report.disagreements).filter(|r| r.disagreements > 0)
    else {
        return Some(ConditionDraft::new(
            "True",
            Reason::Pooled,
            format!("Its tools agree with those of the pool {pool:?}."),
        ));
    };
    let named = u32::try_from(report.disagreed.len()).unwrap_or(u32::MAX);
    let more = match report.disagreements.saturating_sub(named) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "An older server of the pool {pool:?} has other input schemas for these tools, so the pool does not share \
         them: {}{more}",
        report.disagreed.join(", ")
    );
    Some(ConditionDraft::new("False", Reason::PoolMismatch, message))
}

/// The number of tools, prompts and resources that the replicas offer, and how many were renamed or left out.
fn offer_in_words(view: &FleetView) -> String {
    let most = |count: fn(&ServerReport) -> u32| view.reports.iter().map(count).max().unwrap_or(0);
    let mut text = format!("{} tools", most(|r| r.tools));
    let mut add = |count: u32, words: &dyn Fn(u32) -> String| {
        if count > 0 {
            text.push_str(&words(count));
        }
    };
    add(most(|r| r.renamed), &|n| {
        format!(", {n} of them prefixed with the server's name because another server has the bare name")
    });
    add(most(|r| r.shortened), &|n| {
        format!(", {n} of them under a shortened name because some clients refuse the full one")
    });
    add(most(|r| r.left_out), &|n| format!("; {n} more are invalid, duplicate or too many"));
    add(most(|r| r.prompts), &|n| format!("; {n} prompts"));
    add(most(|r| r.resources), &|n| format!("; {n} resources"));
    add(most(|r| r.templates), &|n| format!("; {n} resource templates"));
    add(most(|r| r.hidden), &|n| {
        format!("; {n} of these can be read only at this server because another one has the URI")
    });
    let told = view.reports.iter().find(|report| !report.first_list_problems.is_empty());
    add(most(|r| r.list_problems), &|n| {
        let first = told.map(|report| report.first_list_problems.join("; ")).unwrap_or_default();
        format!("; {n} problems of its lists, such as: {first}")
    });
    text
}

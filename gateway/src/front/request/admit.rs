//! Admits a call that policies allow: applies limits, counts, and writes the audit log.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use portcullis_access::CompiledRule;
use portcullis_crds::ServerKey;

use crate::auth::Identity;
use crate::call::Called;
use crate::catalog::{Basis, Catalog, Entry, Kind, NotAllowed, OverLimit};
use crate::front::http::audit_log::{AuditLine, Verdict, sha256};
use crate::front::request::app::App;
use crate::front::request::observe::Recorder;
use crate::server::handle::Handle;
use crate::telemetry::metrics::Outcome;

/// The methods whose decisions the audit log has, and that count for limits.
const COUNTED: [&str; 3] = ["tools/call", "prompts/get", "resources/read"];

/// The HTTP status of a call whose caller went away.
const GONE: u16 = 499;

/// What a caller wants to use.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    /// The request.
    pub(crate) recorder: &'a Recorder,
    /// The caller.
    pub(crate) identity: &'a Arc<Identity>,
    /// The method.
    pub(crate) method: &'static str,
    /// The name or the URI of the item, as the caller says it.
    pub(crate) name: &'a str,
    /// The arguments, if there are any.
    pub(crate) args: Option<&'a str>,
}

/// Why a call that policies allow is not made.
#[derive(Clone, Debug)]
pub(crate) enum NotAdmitted {
    /// The limit of every rule that allows it is used up; until then.
    Limited(Duration),
    /// The audit log has no room for it.
    Unaudited,
}

/// An admitted call. [`Admitted::end`] writes its line; dropped before, it counts as cancelled.
pub(crate) struct Admitted(Option<Box<Open>>);

/// The line of the audit log that is to come.
struct Open {
    recorder: Recorder,
    identity: Arc<Identity>,
    method: &'static str,
    name: String,
    args: Option<[u8; 32]>,
    /// The server that has answered.
    server: Option<Arc<Handle>>,
    entry: Arc<Entry>,
    basis: Basis,
    audit: Option<(Vec<ServerKey>, &'static str)>,
    outcome: &'static str,
    status: u16,
}

/// Counts a denial, and writes it to the audit log. `status`: that of the answer.
pub(crate) fn note_denial(wanted: &Wanted<'_>, denied: &NotAllowed, status: u16) {
    if let Some(server) = &denied.server {
        server.count_denial(denied.denial.reason());
    }
    let facts = Refused {
        verdict: Verdict::Denied,
        server: denied.server.as_ref().map(|server| &server.key),
        rule: denied.denial.rule(),
        policies: &denied.policies,
        reason: denied.denial.reason(),
        status,
    };
    wanted.write(&facts);
}

/// Applies the limits of the rules that allow a call. `status`: that of a refusal.
///
/// # Errors
/// The call must not be made.
pub(crate) fn admit(
    wanted: &Wanted<'_>,
    catalog: &Catalog,
    kind: Kind,
    (entry, mut basis): (&mut Arc<Entry>, Basis),
    status: StatusCode,
) -> Result<Admitted, NotAdmitted> {
    let app = wanted.recorder.app();
    if !COUNTED.contains(&wanted.method) {
        return Ok(Admitted(None));
    }
    // Before a limit is asked: a call that is not made takes nothing from it.
    if app.audit.as_ref().is_some_and(|log| !log.begin()) {
        app.metrics.audit_refusals.inc();
        return Err(NotAdmitted::Unaudited);
    }
    if let Err(over) = basis.take(entry, (wanted.identity, kind), &app.quotas, wanted.recorder.began()) {
        over.rule.count_refusal();
        if let Some(log) = &app.audit {
            log.cancel();
        }
        wanted.note_limit(&over, entry, status.as_u16());
        return Err(NotAdmitted::Limited(over.exhausted.retry_after));
    }
    let audit = catalog.would_deny(wanted.identity, kind, entry, wanted.args.unwrap_or("{}"));
    audit.iter().flat_map(|would| &would.policies).for_each(|policy| policy.count_would_deny());
    if app.audit.is_none() {
        return Ok(Admitted(None));
    }
    Ok(Admitted(Some(Box::new(Open {
        recorder: wanted.recorder.clone(),
        identity: wanted.identity.clone(),
        method: wanted.method,
        name: wanted.name.to_owned(),
        args: wanted.args.map(sha256),
        server: None,
        entry: entry.clone(),
        basis,
        audit: audit.map(|would| {
            let policies = would.policies.iter().map(|policy| policy.policy.key.clone()).collect();
            (policies, would.denial.reason())
        }),
        outcome: Outcome::Cancelled.as_str(),
        status: GONE,
    }))))
}

/// What the audit log says of a call that was not made.
struct Refused<'a> {
    verdict: Verdict,
    server: Option<&'a ServerKey>,
    rule: Option<&'a CompiledRule>,
    policies: &'a [ServerKey],
    reason: &'static str,
    status: u16,
}

impl Wanted<'_> {
    fn note_limit(&self, over: &OverLimit, entry: &Entry, status: u16) {
        let (verdict, rule) = (Verdict::Limited, Some(&*over.rule));
        let server = entry.first().map(|server| &server.key);
        self.write(&Refused { verdict, server, rule, policies: &[], reason: "limit", status });
    }

    fn write(&self, refused: &Refused<'_>) {
        let Some(log) = self.recorder.app().audit.as_ref().filter(|_| COUNTED.contains(&self.method)) else { return };
        log.write(&AuditLine {
            arrived: self.recorder.arrived(),
            request_id: self.recorder.request_id(),
            identity: self.identity,
            method: self.method,
            name: self.name,
            args: self.args.map(sha256).as_ref(),
            server: refused.server,
            verdict: refused.verdict,
            rule: refused.rule,
            policies: refused.policies,
            would_deny: false,
            reason: Some(refused.reason),
            status: refused.status,
            outcome: if refused.verdict == Verdict::Limited { "limited" } else { "denied" },
            took: self.recorder.began().elapsed(),
        });
    }
}

impl Admitted {
    /// A call that somebody else makes, who writes its line.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    /// Notes what became of the call.
    pub(crate) fn note(&mut self, called: &Called) {
        let Some(open) = &mut self.0 else { return };
        open.outcome = called.outcome.as_str();
        if called.server.is_some() {
            open.server.clone_from(&called.server);
        }
    }

    /// Writes the line. `status`: that of the answer.
    pub(crate) fn end(self, status: StatusCode) {
        if let Some(mut open) = self.0 {
            open.status = status.as_u16();
        }
    }
}

impl NotAdmitted {
    /// A word for it, as the access log has it.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::Limited(_) => "limited",
            Self::Unaudited => "unavailable",
        }
    }
}

impl App {
    /// Whether a call on this basis has to be admitted: the usual one need not.
    pub(crate) fn admits(&self, catalog: &Catalog, basis: &Basis) -> bool {
        self.audit.is_some() || matches!(basis, Basis::Limited(_)) || catalog.has_audit_policies()
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let app = self.recorder.app();
        let Some(log) = &app.audit else { return };
        let server = self.server.as_deref().or_else(|| self.entry.first());
        let (policies, reason) = self.audit.as_ref().map_or((&[][..], None), |(all, reason)| (all, Some(*reason)));
        log.end(&AuditLine {
            arrived: self.recorder.arrived(),
            request_id: self.recorder.request_id(),
            identity: &self.identity,
            method: self.method,
            name: &self.name,
            args: self.args.as_ref(),
            server: server.map(|server| &server.key),
            verdict: Verdict::Allowed,
            rule: self.basis.rule_of(&self.entry, server).map(|rule| &**rule),
            policies,
            would_deny: self.audit.is_some(),
            reason,
            status: self.status,
            outcome: self.outcome,
            took: self.recorder.began().elapsed(),
        });
    }
}

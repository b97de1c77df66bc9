//! What an McpServer's status should say, from what became of it and what the gateway replicas tell.
//!
//! Pure. Equal inputs give an equal status, so that nothing is written that has not changed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use portcullis_crds::mcpserver::{GatewayCount, McpServerStatus, ServedBy, ServerInfo, State, Transport};
use portcullis_crds::{ConditionType, McpServer, Reason, ServerReport};
use serde_json::{Map, Value};

use crate::fleet::View;
use crate::inventory::Entry;

/// The longest message of a condition, in characters: enough for people, little enough for 10,000 objects.
const MAX_MESSAGE: usize = 512;

/// The longest name of a field manager that Kubernetes takes.
const MAX_MANAGER: usize = 128;

/// What is said of a server for which there is no room.
const NO_ROOM: &str = "Its namespace takes more than its share of the ConfigMap, so no gateway serves it: shorten or \
                       remove servers of the namespace, or raise snapshot.slots of the chart.";

/// How much a status differs from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Not at all.
    None,
    /// In counts and messages: it may wait for the next of these.
    Detail,
    /// Somebody may wait for it.
    Transition,
}

/// One condition before it has a time.
struct Verdict {
    status: &'static str,
    reason: Reason,
    message: String,
}

impl Verdict {
    fn new(status: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        let message: String = message.into();
        Self { status, reason, message: message.chars().take(MAX_MESSAGE).collect() }
    }

    fn good(reason: Reason) -> Self {
        Self::new("True", reason, "")
    }

    fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// The status that an object should have, as `installation` tells it. `left_out`: there is no room for it in its ConfigMap.
pub fn desired(entry: &Entry, view: &View, left_out: bool, installation: &str, now: &Time) -> McpServerStatus {
    let old = &entry.object.status;
    let accepted = accepted(entry);
    let refs = resolved_refs(entry, view);
    let programmed = programmed(entry, view, left_out);
    let ready = ready(entry, view, &refs, &programmed);
    let pooled = pooled(entry, view);
    let speaks = view.reports.iter().rev().find(|report| report.transport.is_some());
    let last_error = view.reports.iter().find(|report| !report.ready).map(|report| report.message.clone());
    let all = [Some(accepted), Some(refs), Some(programmed), Some(ready), pooled];
    let conditions = ConditionType::ALL.into_iter().zip(all).filter_map(|(kind, verdict)| Some((kind, verdict?)));
    McpServerStatus {
        observed_generation: Some(entry.object.generation),
        url: entry.url.clone(),
        // What was spoken last stays to be seen while a server is away.
        transport: speaks.and_then(transport).or(old.transport),
        protocol_version: speaks.and_then(|r| r.protocol_version.clone()).or_else(|| old.protocol_version.clone()),
        server_info: speaks.and_then(server_info).or_else(|| old.server_info.clone()),
        tool_count: tool_count(entry, view, old),
        gateways: Some(GatewayCount { applied: view.applied, ready: view.ready, total: view.total }),
        last_error: last_error.filter(|text| !text.is_empty()),
        served_by: Some(ServedBy { installation: installation.to_owned(), until: None }),
        // Whoever asks whether this installation is there has his answer with this.
        contender: None,
        conditions: conditions
            .map(|(kind, verdict)| condition(kind, verdict, entry.object.generation, old, now))
            .collect(),
    }
}

/// How much `new` differs from `old`.
pub fn change(old: &McpServerStatus, new: &McpServerStatus) -> Change {
    let heart = |status: &McpServerStatus| {
        let of = |c: &Condition| (c.type_.clone(), c.status.clone(), c.reason.clone(), c.observed_generation);
        let conditions: Vec<_> = status.conditions.iter().map(of).collect();
        let facts = (status.url.clone(), status.transport, status.protocol_version.clone(), status.tool_count);
        let owners = (status.served_by.clone(), status.contender.clone());
        (status.observed_generation, conditions, facts, owners)
    };
    if old == new {
        Change::None
    } else if heart(old) == heart(new) {
        Change::Detail
    } else {
        Change::Transition
    }
}

/// Whether a status tells how things ended, rather than that they are under way.
pub fn is_settled(status: &McpServerStatus, view: &View) -> bool {
    let waiting = [Reason::Pending, Reason::Probing, Reason::NotProgrammed].map(Reason::as_str);
    !view.awaited && !status.conditions.iter().any(|condition| waiting.contains(&condition.reason.as_str()))
}

/// What changes an old status into a new one: a JSON merge patch in which what is absent is null. `version`: it is refused
/// if the object is of another one.
pub fn patch(new: &McpServerStatus, version: Option<u64>) -> Value {
    const OPTIONAL: [&str; 10] = [
        "contender",
        "gateways",
        "lastError",
        "observedGeneration",
        "protocolVersion",
        "servedBy",
        "serverInfo",
        "toolCount",
        "transport",
        "url",
    ];
    let mut status = match serde_json::to_value(new) {
        Ok(Value::Object(members)) => members,
        _ => Map::new(),
    };
    for name in OPTIONAL {
        status.entry(name).or_insert(Value::Null);
    }
    match version {
        Some(version) => {
            serde_json::json!({"metadata": {"resourceVersion": version.to_string()}, "status": status})
        }
        None => serde_json::json!({"status": status}),
    }
}

/// Who writes the statuses of an installation.
pub fn field_manager(program: &str, installation: &str) -> String {
    format!("{program}:{installation}").chars().take(MAX_MANAGER).collect()
}

/// The condition of a type, if it is there.
pub fn find(status: &McpServerStatus, kind: ConditionType) -> Option<&Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind.as_str())
}

fn condition(kind: ConditionType, verdict: Verdict, generation: i64, old: &McpServerStatus, now: &Time) -> Condition {
    let before = find(old, kind).filter(|condition| condition.status == verdict.status);
    Condition {
        type_: kind.as_str().into(),
        status: verdict.status.into(),
        reason: verdict.reason.as_str().into(),
        message: verdict.message,
        observed_generation: Some(generation),
        last_transition_time: before.map_or_else(|| now.clone(), |condition| condition.last_transition_time.clone()),
    }
}

fn accepted(entry: &Entry) -> Verdict {
    match &entry.verdict.refusal {
        Some(refusal) if refusal.reason.condition() == ConditionType::Accepted => {
            Verdict::new("False", refusal.reason, &refusal.message)
        }
        _ if entry.object.content.as_ref().is_ok_and(|server| skips_verification(server)) => Verdict::new(
            "True",
            Reason::InsecureSkipVerify,
            "tls.insecureSkipVerify is set: any certificate is accepted.",
        ),
        _ => Verdict::good(Reason::Accepted),
    }
}

fn skips_verification(server: &McpServer) -> bool {
    server.spec.tls.as_ref().is_some_and(|tls| tls.insecure_skip_verify)
}

fn resolved_refs(entry: &Entry, view: &View) -> Verdict {
    if let Some(refusal) = &entry.verdict.refusal {
        return match refusal.reason.condition() {
            ConditionType::ResolvedRefs => Verdict::new("False", refusal.reason, &refusal.message),
            _ => Verdict::new("Unknown", Reason::NotAccepted, "The object is not accepted."),
        };
    }
    let broken = view.reports.iter().find(|report| report.reason.condition() == ConditionType::ResolvedRefs);
    match broken {
        Some(report) => Verdict::new("False", report.reason, &report.message),
        None if view.reports.is_empty() && entry.object.content.as_ref().is_ok_and(|server| names_secrets(server)) => {
            Verdict::new("Unknown", Reason::Pending, "No gateway replica has looked at the references yet.")
        }
        None => Verdict::good(Reason::ResolvedRefs),
    }
}

/// The gateway, not the operator, reads Secrets.
fn names_secrets(server: &McpServer) -> bool {
    let tls = server.spec.tls.as_ref().is_some_and(|tls| tls.ca_ref.is_some() || tls.client_cert_ref.is_some());
    tls || server.spec.headers.iter().any(|header| header.secret_ref.is_some())
}

fn programmed(entry: &Entry, view: &View, left_out: bool) -> Verdict {
    if entry.verdict.revision.is_none() {
        return Verdict::new("False", Reason::NotAccepted, "It is not given to the gateway, see the other conditions.");
    }
    if left_out {
        return Verdict::new("False", Reason::SnapshotTooLarge, NO_ROOM);
    }
    let of_all = |verb: &str| format!("{} of {} gateway replicas {verb} this generation", view.applied, view.total);
    if view.total > 0 && view.applied == view.total {
        return Verdict::new("True", Reason::Programmed, of_all("have applied"));
    }
    if view.total == 0 {
        return Verdict::new("Unknown", Reason::NoGateway, "No gateway replica is ready.");
    }
    if view.applied + view.silent == view.total {
        let message = format!("{}; {} of them cannot be reached", of_all("have applied"), view.silent);
        return Verdict::new("Unknown", Reason::GatewayUnreachable, message);
    }
    Verdict::new("False", Reason::Pending, of_all("have applied"))
}

fn ready(entry: &Entry, view: &View, refs: &Verdict, programmed: &Verdict) -> Verdict {
    if entry.verdict.revision.is_none() {
        let reason = if refs.status == "False" { Reason::RefsNotResolved } else { Reason::NotAccepted };
        return Verdict::new("False", reason, "It is not given to the gateway, see the other conditions.");
    }
    match entry.object.content.as_ref().map(|server| server.spec.state) {
        Ok(State::Disabled) => return Verdict::new("False", Reason::Disabled, "spec.state is Disabled."),
        Ok(State::Draining) => return Verdict::new("False", Reason::Draining, "spec.state is Draining."),
        _ => {}
    }
    if !programmed.is_true() {
        let status = if programmed.status == "Unknown" { "Unknown" } else { "False" };
        return Verdict::new(status, Reason::NotProgrammed, &programmed.message);
    }
    match view.reports.iter().find(|report| !report.ready) {
        None => Verdict::new("True", Reason::Ready, offer_in_words(view)),
        Some(report) => {
            let reason =
                if report.reason.condition() == ConditionType::Ready { report.reason } else { Reason::RefsNotResolved };
            let status = if reason == Reason::Probing { "Unknown" } else { "False" };
            let message = if view.total == 1 {
                report.message.clone()
            } else {
                format!("{} of {} gateway replicas: {}", view.total - view.ready, view.total, report.message)
            };
            Verdict::new(status, reason, message)
        }
    }
}

/// Whether it agrees with its pool; none if it names none.
fn pooled(entry: &Entry, view: &View) -> Option<Verdict> {
    let pool = entry.object.content.as_ref().ok()?.spec.pool.as_ref()?;
    entry.verdict.revision.as_ref()?;
    if view.reports.is_empty() {
        return Some(Verdict::new("Unknown", Reason::NotProgrammed, "No gateway replica has applied this generation."));
    }
    let Some(report) = view.reports.iter().max_by_key(|report| report.disagreements).filter(|r| r.disagreements > 0)
    else {
        return Some(Verdict::new("True", Reason::Pooled, format!("It agrees with the pool {pool:?}.")));
    };
    let named = u32::try_from(report.disagreed.len()).unwrap_or(u32::MAX);
    let more = match report.disagreements.saturating_sub(named) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let message = format!(
        "An older server of the pool {pool:?} has other input schemas under these names, so they are not shared: {}{more}",
        report.disagreed.join(", ")
    );
    Some(Verdict::new("False", Reason::PoolMismatch, message))
}

/// What the replicas offer of it, and what became of its names.
fn offer_in_words(view: &View) -> String {
    let most = |count: fn(&ServerReport) -> u32| view.reports.iter().map(count).max().unwrap_or(0);
    let mut text = format!("{} tools", most(|r| r.tools));
    let mut add = |count: u32, words: &dyn Fn(u32) -> String| {
        if count > 0 {
            text.push_str(&words(count));
        }
    };
    add(most(|r| r.renamed), &|n| {
        format!(", {n} of them with the server's name in theirs because another server has the name")
    });
    add(most(|r| r.shortened), &|n| {
        format!(", {n} of them under a short form because not every client takes the name")
    });
    add(most(|r| r.left_out), &|n| format!("; {n} more are invalid, double or too many"));
    add(most(|r| r.prompts), &|n| format!("; {n} prompts"));
    add(most(|r| r.resources), &|n| format!("; {n} resources"));
    add(most(|r| r.templates), &|n| format!("; {n} resource templates"));
    add(most(|r| r.hidden), &|n| {
        format!("; {n} of these are read at this server alone because another one has the URI")
    });
    let told = view.reports.iter().find(|report| !report.first_list_problems.is_empty());
    add(most(|r| r.list_problems), &|n| {
        let first = told.map(|report| report.first_list_problems.join("; ")).unwrap_or_default();
        format!("; {n} problems of its lists, such as: {first}")
    });
    text
}

fn transport(report: &ServerReport) -> Option<Transport> {
    match report.transport.as_deref() {
        Some("sse") => Some(Transport::Sse),
        Some("streamable-http") => Some(Transport::StreamableHttp),
        _ => None,
    }
}

fn server_info(report: &ServerReport) -> Option<ServerInfo> {
    let name = report.server_name.clone()?;
    Some(ServerInfo { name, version: report.server_version.clone().unwrap_or_default() })
}

fn tool_count(entry: &Entry, view: &View, old: &McpServerStatus) -> Option<u32> {
    entry.verdict.revision.as_ref()?;
    view.reports.iter().map(|report| report.tools).max().or(old.tool_count)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use portcullis_crds::{Refusal, ServerKey};
    use serde_json::json;

    use super::*;
    use crate::inventory::Object;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    fn entry(spec: serde_json::Value, refusal: Option<(Reason, &str)>, given: bool) -> Entry {
        let server: McpServer = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": "a"}, "spec": spec,
        }))
        .unwrap();
        let refusal = refusal.map(|(reason, message)| Refusal { reason, message: message.into() });
        let revision = given.then(|| "1".to_owned());
        Entry {
            object: Object {
                uid: "u".into(),
                generation: 3,
                version: 1,
                status: Default::default(),
                content: Ok(Arc::new(server)),
            },
            verdict: portcullis_crds::Verdict { key: ServerKey::new("n", "a"), generation: 3, refusal, revision },
            url: given.then(|| "http://a/".to_owned()),
        }
    }

    fn plain() -> Entry {
        entry(json!({"url": "http://a/"}), None, true)
    }

    fn report(reason: Reason, message: &str) -> ServerReport {
        ServerReport {
            key: ServerKey::new("n", "a"),
            revision: "1".into(),
            ready: reason == Reason::Ready,
            reason,
            message: message.into(),
            transport: Some("sse".into()),
            protocol_version: Some("2024-11-05".into()),
            server_name: Some("mock".into()),
            server_version: Some("1".into()),
            tools: 2,
            renamed: 0,
            shortened: 0,
            left_out: 0,
            list_problems: 0,
            first_list_problems: Vec::new(),
            prompts: 0,
            resources: 0,
            templates: 0,
            hidden: 0,
            disagreed: vec![],
            disagreements: 0,
        }
    }

    fn view(total: u32, silent: u32, reports: Vec<ServerReport>) -> View {
        let applied = u32::try_from(reports.len()).unwrap();
        let ready = u32::try_from(reports.iter().filter(|r| r.ready).count()).unwrap();
        View { total, silent, applied, ready, reports, awaited: false }
    }

    /// Each condition in one word: its status and its reason.
    fn words(status: &McpServerStatus) -> Vec<String> {
        status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
    }

    #[test]
    fn every_case_has_its_conditions() {
        let with_secret =
            json!({"url": "http://a/", "headers": [{"name": "A", "secretRef": {"name": "s", "key": "k"}}]});
        let ready = || report(Reason::Ready, "");
        let cases = [
            (
                "all is well",
                plain(),
                view(2, 0, vec![ready(), ready()]),
                false,
                "True/Accepted True/ResolvedRefs True/Programmed True/Ready",
            ),
            (
                "just applied",
                plain(),
                view(2, 0, vec![]),
                false,
                "True/Accepted True/ResolvedRefs False/Pending False/NotProgrammed",
            ),
            (
                "half applied",
                plain(),
                view(2, 0, vec![ready()]),
                false,
                "True/Accepted True/ResolvedRefs False/Pending False/NotProgrammed",
            ),
            (
                "no gateway",
                plain(),
                view(0, 0, vec![]),
                false,
                "True/Accepted True/ResolvedRefs Unknown/NoGateway Unknown/NotProgrammed",
            ),
            (
                "one is silent",
                plain(),
                view(2, 1, vec![ready()]),
                false,
                "True/Accepted True/ResolvedRefs Unknown/GatewayUnreachable Unknown/NotProgrammed",
            ),
            (
                "no room",
                plain(),
                view(1, 0, vec![]),
                true,
                "True/Accepted True/ResolvedRefs False/SnapshotTooLarge False/NotProgrammed",
            ),
            (
                "no room any more, and some gateway still has it",
                plain(),
                view(1, 0, vec![ready()]),
                true,
                "True/Accepted True/ResolvedRefs False/SnapshotTooLarge False/NotProgrammed",
            ),
            (
                "first attempt",
                plain(),
                view(1, 0, vec![report(Reason::Probing, "")]),
                false,
                "True/Accepted True/ResolvedRefs True/Programmed Unknown/Probing",
            ),
            (
                "one is away",
                plain(),
                view(2, 0, vec![report(Reason::BackendUnreachable, "no"), ready()]),
                false,
                "True/Accepted True/ResolvedRefs True/Programmed False/BackendUnreachable",
            ),
            (
                "a secret is missing",
                plain(),
                view(1, 0, vec![report(Reason::SecretNotFound, "s")]),
                false,
                "True/Accepted False/SecretNotFound True/Programmed False/RefsNotResolved",
            ),
            (
                "nobody has looked for the secret",
                entry(with_secret, None, true),
                view(1, 0, vec![]),
                false,
                "True/Accepted Unknown/Pending False/Pending False/NotProgrammed",
            ),
            (
                "invalid",
                entry(json!({"url": "x"}), Some((Reason::Invalid, "url")), false),
                view(1, 0, vec![]),
                false,
                "False/Invalid Unknown/NotAccepted False/NotAccepted False/NotAccepted",
            ),
            (
                "no service",
                entry(json!({"url": "x"}), Some((Reason::ServiceNotFound, "s")), false),
                view(1, 0, vec![]),
                false,
                "True/Accepted False/ServiceNotFound False/NotAccepted False/RefsNotResolved",
            ),
            (
                "the service went",
                entry(json!({"url": "x"}), Some((Reason::ServiceNotFound, "s")), true),
                view(1, 0, vec![ready()]),
                false,
                "True/Accepted False/ServiceNotFound True/Programmed True/Ready",
            ),
            (
                "disabled",
                entry(json!({"url": "http://a/", "state": "Disabled"}), None, true),
                view(1, 0, vec![report(Reason::Disabled, "")]),
                false,
                "True/Accepted True/ResolvedRefs True/Programmed False/Disabled",
            ),
            (
                "insecure",
                entry(json!({"url": "https://a/", "tls": {"insecureSkipVerify": true}}), None, true),
                view(1, 0, vec![ready()]),
                false,
                "True/InsecureSkipVerify True/ResolvedRefs True/Programmed True/Ready",
            ),
            (
                "draining",
                entry(json!({"url": "http://a/", "state": "Draining"}), None, true),
                view(1, 0, vec![report(Reason::Draining, "")]),
                false,
                "True/Accepted True/ResolvedRefs True/Programmed False/Draining",
            ),
        ];
        for (what, entry, view, left_out, expected) in cases {
            let status = desired(&entry, &view, left_out, "n/p", &at(1));
            let found: Vec<String> = words(&status)
                .iter()
                .filter_map(|word| word.split_once('='))
                .map(|(_, rest)| rest.to_owned())
                .collect();
            assert_eq!(found.join(" "), expected, "{what}");
            assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)), "{what}");
        }
    }

    #[test]
    fn a_status_says_how_the_server_speaks_and_keeps_it_while_the_server_is_away() {
        let mut entry = plain();
        let status = desired(&entry, &view(1, 0, vec![report(Reason::Ready, "")]), false, "n/p", &at(1));
        let expected = McpServerStatus {
            observed_generation: Some(3),
            url: Some("http://a/".into()),
            transport: Some(Transport::Sse),
            protocol_version: Some("2024-11-05".into()),
            server_info: Some(ServerInfo { name: "mock".into(), version: "1".into() }),
            tool_count: Some(2),
            gateways: Some(GatewayCount { applied: 1, ready: 1, total: 1 }),
            last_error: None,
            served_by: Some(ServedBy { installation: "n/p".into(), until: None }),
            contender: None,
            conditions: status.conditions.clone(),
        };
        assert_eq!(status, expected);
        assert_eq!(find(&status, ConditionType::Ready).unwrap().message, "2 tools");

        entry.object.status = status;
        let away = ServerReport {
            transport: None,
            protocol_version: None,
            server_name: None,
            tools: 0,
            ..report(Reason::BackendUnreachable, "cannot be reached")
        };
        let after = desired(&entry, &view(1, 0, vec![away]), false, "n/p", &at(9));
        assert_eq!((after.transport, after.tool_count), (Some(Transport::Sse), Some(0)));
        assert_eq!(after.last_error.as_deref(), Some("cannot be reached"));
        let times: Vec<i64> = after.conditions.iter().map(|c| c.last_transition_time.0.as_second()).collect();
        assert_eq!(times, [1, 1, 1, 9]);
    }

    #[test]
    fn a_ready_server_says_what_it_offers_and_what_became_of_its_names() {
        let one = ServerReport { renamed: 1, prompts: 3, ..report(Reason::Ready, "") };
        let other = ServerReport { shortened: 2, left_out: 4, resources: 5, templates: 6, hidden: 7, ..one.clone() };
        let other = ServerReport { list_problems: 8, first_list_problems: vec!["p".into(), "q".into()], ..other };
        let status = desired(&plain(), &view(2, 0, vec![one, other]), false, "n/p", &at(1));
        let expected = "2 tools, 1 of them with the server's name in theirs because another server has the name, 2 of \
                        them under a short form because not every client takes the name; 4 more are invalid, double or \
                        too many; 3 prompts; 5 resources; 6 resource templates; 7 of these are read at this server alone \
                        because another one has the URI; 8 problems of its lists, such as: p; q";
        assert_eq!(find(&status, ConditionType::Ready).unwrap().message, expected);
    }

    #[test]
    fn a_server_of_a_pool_says_on_which_tools_an_older_one_does_not_agree() {
        let pooled = || entry(json!({"url": "http://a/", "pool": "p"}), None, true);
        let said = |entry: &Entry, reports: Vec<ServerReport>| {
            let status = desired(entry, &view(1, 0, reports), false, "n/p", &at(1));
            let condition = find(&status, ConditionType::Pooled)?.clone();
            Some((condition.status, condition.reason, condition.message))
        };
        let text = |status: &str, reason: &str, message: &str| Some((status.into(), reason.into(), message.into()));
        let odd = ServerReport {
            disagreed: vec!["pay".into(), "refund".into()],
            disagreements: 5,
            ..report(Reason::Ready, "")
        };
        assert_eq!(said(&plain(), vec![odd.clone()]), None);
        let expected = text("Unknown", "NotProgrammed", "No gateway replica has applied this generation.");
        assert_eq!(said(&pooled(), vec![]), expected);
        let agreed = said(&pooled(), vec![report(Reason::Ready, "")]);
        assert_eq!(agreed, text("True", "Pooled", r#"It agrees with the pool "p"."#));
        let message = r#"An older server of the pool "p" has other input schemas under these names, so they are not shared: pay, refund and 3 more"#;
        assert_eq!(said(&pooled(), vec![odd]), text("False", "PoolMismatch", message));
    }

    #[test]
    fn counts_alone_are_a_detail_and_nothing_new_is_no_change() {
        let mut entry = plain();
        let ready = || report(Reason::Ready, "");
        let one = desired(&entry, &view(1, 0, vec![ready()]), false, "n/p", &at(1));
        entry.object.status = one.clone();
        let again = desired(&entry, &view(1, 0, vec![ready()]), false, "n/p", &at(5));
        let two = desired(&entry, &view(2, 0, vec![ready(), ready()]), false, "n/p", &at(5));
        let away = desired(&entry, &view(1, 0, vec![report(Reason::Unhealthy, "")]), false, "n/p", &at(5));
        let asked = McpServerStatus { contender: Some("m/q".into()), ..one.clone() };
        assert_eq!(change(&asked, &one), Change::Transition);
        assert_eq!(
            [&again, &two, &away].map(|new| change(&one, new)),
            [Change::None, Change::Detail, Change::Transition]
        );
    }

    #[test]
    fn a_patch_takes_away_what_is_no_longer_so() {
        let status = McpServerStatus { tool_count: Some(1), ..Default::default() };
        let mut expected = json!({"status": {
            "contender": null, "gateways": null, "lastError": null, "observedGeneration": null, "protocolVersion": null,
            "servedBy": null, "serverInfo": null, "toolCount": 1, "transport": null, "url": null,
        }});
        assert_eq!(patch(&status, None), expected);
        expected["metadata"] = json!({"resourceVersion": "7"});
        assert_eq!(patch(&status, Some(7)), expected);
    }
}

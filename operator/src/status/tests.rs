use std::sync::Arc;

use portcullis_crds::{McpServer, ServerKey, SpecRefusal};
use serde_json::json;

use super::*;
use crate::inventory::ServerObject;

fn at(seconds: i64) -> Time {
    Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
}

fn entry(spec: serde_json::Value, refusal: Option<(Reason, &str)>, given: bool) -> ServerEntry {
    let server: McpServer = serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer", "metadata": {"name": "a"}, "spec": spec,
    }))
    .unwrap();
    let refusal = refusal.map(|(reason, message)| SpecRefusal { reason, message: message.into() });
    let revision = given.then(|| "1".to_owned());
    ServerEntry {
        object: ServerObject {
            uid: "u".into(),
            generation: 3,
            version: 1,
            status: Default::default(),
            content: Ok(Arc::new(server)),
        },
        verdict: portcullis_crds::ServerVerdict { key: ServerKey::new("n", "a"), generation: 3, refusal, revision },
        url: given.then(|| "http://a/".to_owned()),
        governed_by: Vec::new(),
        seen_by_labels: false,
        changed_at: None,
    }
}

fn plain() -> ServerEntry {
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
        extensions: vec!["io.modelcontextprotocol/ui".into()],
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

fn view(total: u32, silent: u32, reports: Vec<ServerReport>) -> FleetView {
    let applied = u32::try_from(reports.len()).unwrap();
    let ready = u32::try_from(reports.iter().filter(|r| r.ready).count()).unwrap();
    FleetView { total, silent, applied, ready, reports, awaited: false }
}

/// Each condition in one word: its status and its reason.
fn words(status: &McpServerStatus) -> Vec<String> {
    status.conditions.iter().map(|c| format!("{}={}/{}", c.type_, c.status, c.reason)).collect()
}

/// A name, the object, what the replicas report, whether the slot leaves it out, and the conditions.
type ConditionCase = (&'static str, ServerEntry, FleetView, bool, &'static str);

fn check(cases: impl IntoIterator<Item = ConditionCase>) {
    for (what, entry, view, left_out, expected) in cases {
        let status = desired(&entry, &view, left_out, "n/p", &at(1));
        let found: Vec<String> =
            words(&status).iter().filter_map(|word| word.split_once('=')).map(|(_, rest)| rest.to_owned()).collect();
        assert_eq!(found.join(" "), expected, "{what}");
        assert!(status.conditions.iter().all(|c| c.observed_generation == Some(3)), "{what}");
    }
}

fn ready() -> ServerReport {
    report(Reason::Ready, "")
}

#[test]
fn conditions_follow_what_the_gateway_replicas_have_applied() {
    check([
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
    ]);
}

#[test]
fn conditions_follow_the_secrets_and_services_that_an_object_names() {
    let with_secret = json!({"url": "http://a/", "headers": [{"name": "A", "secretRef": {"name": "s", "key": "k"}}]});
    check([
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
    ]);
}

#[test]
fn conditions_follow_the_object_itself() {
    check([
        (
            "invalid",
            entry(json!({"url": "x"}), Some((Reason::Invalid, "url")), false),
            view(1, 0, vec![]),
            false,
            "False/Invalid Unknown/NotAccepted False/NotAccepted False/NotAccepted",
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
    ]);
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
        server_info: Some(ServerIdentity { name: "mock".into(), version: "1".into() }),
        extensions: vec!["io.modelcontextprotocol/ui".into()],
        tool_count: Some(2),
        gateways: Some(GatewayCount { applied: 1, ready: 1, total: 1 }),
        last_error: None,
        served_by: Some(ServedBy { installation: "n/p".into(), until: None }),
        contender: None,
        policies: Vec::new(),
        conditions: status.conditions.clone(),
    };
    assert_eq!(status, expected);
    assert_eq!(find(&status.conditions, ConditionType::Ready).unwrap().message, "2 tools");

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
    let expected = "2 tools, 1 of them prefixed with the server's name because another server has the bare name, 2 of \
                    them under a shortened name because some clients refuse the full one; 4 more are invalid, \
                    duplicate or too many; 3 prompts; 5 resources; 6 resource templates; 7 of these can be read only \
                    at this server because another one has the URI; 8 problems of its lists, such as: p; q";
    assert_eq!(find(&status.conditions, ConditionType::Ready).unwrap().message, expected);
}

#[test]
fn a_server_of_a_pool_says_on_which_tools_an_older_one_does_not_agree() {
    let pooled = || entry(json!({"url": "http://a/", "pool": "p"}), None, true);
    let said = |entry: &ServerEntry, reports: Vec<ServerReport>| {
        let status = desired(entry, &view(1, 0, reports), false, "n/p", &at(1));
        let condition = find(&status.conditions, ConditionType::Pooled)?.clone();
        Some((condition.status, condition.reason, condition.message))
    };
    let text = |status: &str, reason: &str, message: &str| Some((status.into(), reason.into(), message.into()));
    let odd =
        ServerReport { disagreed: vec!["pay".into(), "refund".into()], disagreements: 5, ..report(Reason::Ready, "") };
    assert_eq!(said(&plain(), vec![odd.clone()]), None);
    let expected = text("Unknown", "NotProgrammed", "No gateway replica has applied this generation.");
    assert_eq!(said(&pooled(), vec![]), expected);
    let agreed = said(&pooled(), vec![report(Reason::Ready, "")]);
    assert_eq!(agreed, text("True", "Pooled", r#"Its tools agree with those of the pool "p"."#));
    let message = r#"An older server of the pool "p" has other input schemas for these tools, so the pool does not share them: pay, refund and 3 more"#;
    assert_eq!(said(&pooled(), vec![odd]), text("False", "PoolMismatch", message));
}

#[test]
fn counts_alone_are_a_detail_and_nothing_new_is_no_change() {
    let mut entry = plain();
    let one = desired(&entry, &view(1, 0, vec![ready()]), false, "n/p", &at(1));
    entry.object.status = one.clone();
    let again = desired(&entry, &view(1, 0, vec![ready()]), false, "n/p", &at(5));
    let two = desired(&entry, &view(2, 0, vec![ready(), ready()]), false, "n/p", &at(5));
    let away = desired(&entry, &view(1, 0, vec![report(Reason::Unhealthy, "")]), false, "n/p", &at(5));
    let governed = McpServerStatus { policies: vec!["p".into()], ..one.clone() };
    assert_eq!(change(&one, &governed), StatusChange::Transition);
    let asked = McpServerStatus { contender: Some("m/q".into()), ..one.clone() };
    assert_eq!(change(&asked, &one), StatusChange::Transition);
    assert_eq!(
        [&again, &two, &away].map(|new| change(&one, new)),
        [StatusChange::None, StatusChange::Detail, StatusChange::Transition]
    );
}

#[test]
fn a_patch_takes_away_what_is_no_longer_so() {
    let status = McpServerStatus { tool_count: Some(1), ..Default::default() };
    let mut expected = json!({"status": {
        "contender": null, "extensions": null, "gateways": null, "lastError": null, "observedGeneration": null, "policies": null,
        "protocolVersion": null, "servedBy": null, "serverInfo": null, "toolCount": 1, "transport": null, "url": null,
    }});
    assert_eq!(patch(&status, None), expected);
    expected["metadata"] = json!({"resourceVersion": "7"});
    assert_eq!(patch(&status, Some(7)), expected);
}

#[test]
fn a_server_names_the_policies_that_govern_it_up_to_64() {
    let governed_by: Vec<String> = (0..70).map(|n| format!("p{n:02}")).collect();
    let entry = ServerEntry { governed_by: governed_by.clone(), ..plain() };
    let status = desired(&entry, &view(1, 0, vec![ready()]), false, "n/p", &at(1));
    assert_eq!(status.policies, governed_by[..64]);
}

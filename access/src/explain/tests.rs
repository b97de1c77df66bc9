use portcullis_crds::{ReadPolicy, ServerKey};
use proptest::prelude::*;
use serde_json::{Map, json};

use super::*;
use crate::class::Memo;
use crate::decision::{DEFAULT_HINTS, Item, Permission};

fn table(specs: &[&str]) -> (Arc<Table>, Governance) {
    let policies: Vec<_> = specs
        .iter()
        .enumerate()
        .map(|(at, yaml)| {
            let spec: Value = serde_yaml::from_str(yaml).unwrap();
            let metadata = json!({"namespace": "team-a", "name": format!("p{at}")});
            ReadPolicy::of(&json!({"metadata": metadata, "spec": spec})).policy
        })
        .collect();
    let (table, mut governances) = Table::of([Some(policies.as_slice())].into_iter(), None);
    (table, governances.remove(0))
}

fn claims() -> Map<String, Value> {
    json!({"groups": ["sre"]}).as_object().unwrap().clone()
}

fn caller<'a>(subject: &'a str, claims: &'a Map<String, Value>) -> Caller<'a> {
    Caller { subject, issuer: None, is_of_cluster: false, is_of_only_source: true, claims, view: None }
}

fn target<'a>(server: &'a ServerKey, labels: &'a Map<String, Value>, item: Item<'a>) -> Target<'a> {
    Target { server, labels, item }
}

/// The verdict's sentence, and for each policy its results of rules that speak of the caller.
fn explained(specs: &[&str], is_open: bool, kind: ItemKind, args: Arguments<'_>) -> (String, Vec<Vec<&'static str>>) {
    let (table, governance) = table(specs);
    let (claims, labels, server) = (claims(), Map::new(), ServerKey::new("team-a", "search"));
    let item = Item { kind, name: "get_x", hints: DEFAULT_HINTS };
    let call = Call { args, now: jiff::Timestamp::UNIX_EPOCH };
    let caller = caller("alice", &claims);
    let explanation = table.explain((&governance, is_open), &caller, &target(&server, &labels, item), call);
    let results = |policy: &PolicyExplanation| policy.rules.iter().map(|(_, result)| result.as_str()).collect();
    (explanation.reason(), explanation.policies.iter().map(results).collect())
}

const ALLOWS: &str = "{rules: [{name: r, from: [{subject: alice}], allow: [{tools: ['get_*']}]}]}";

#[test]
fn each_verdict_has_its_reason_and_each_rule_its_result() {
    let when = |condition: &str| {
        format!("{{rules: [{{name: r, from: [{{subject: alice}}], allow: [{{tools: ['*']}}], when: '{condition}'}}]}}")
    };
    let (small, late, broken) = (when("args.n <= 3"), when("now.getHours() >= 8"), when("caller.claims.none == 1"));
    let audit = ALLOWS.replacen('{', "{mode: Audit, ", 1);
    let (three, four, empty) = (json!({"n": 3}), json!({"n": 4}), json!({}));
    let tool = ItemKind::Tool;
    let none: Vec<Vec<&str>> = Vec::new();
    for (specs, is_open, kind, args, reason, results) in [
        (vec![], true, tool, Arguments::Unknown, "no policy restricts the server", none.clone()),
        (vec![], false, tool, Arguments::Unknown, "no policy opens the server, and POLICY_DEFAULT is Deny", none),
        (vec![ALLOWS], true, tool, Arguments::Unknown, "rule r of policy team-a/p0 allows it", vec![vec!["allows"]]),
        (vec![&*audit], true, tool, Arguments::Unknown, "no policy restricts the server", vec![vec!["allows"]]),
        (
            vec![ALLOWS],
            true,
            ItemKind::Prompt,
            Arguments::Unknown,
            "no rule that speaks of this caller allows this prompt",
            vec![vec!["other_items"]],
        ),
        (
            vec!["{rules: [{name: r, from: [{subject: bob}], allow: [{tools: ['*']}]}]}", "{}"],
            true,
            tool,
            Arguments::Unknown,
            "no rule speaks of this caller",
            vec![vec![], vec![]],
        ),
        (
            vec![&*small],
            true,
            tool,
            Arguments::Unknown,
            "rule r of policy team-a/p0 allows it for some arguments only",
            vec![vec!["depends_on_arguments"]],
        ),
        (
            vec![&*small],
            true,
            tool,
            Arguments::Known(&three),
            "rule r of policy team-a/p0 allows it",
            vec![vec!["allows"]],
        ),
        (
            vec![&*small, &*late],
            true,
            tool,
            Arguments::Known(&four),
            "the condition of rule r of policy team-a/p0 does not hold",
            vec![vec!["condition_fails"], vec!["condition_fails"]],
        ),
        (
            vec![&*small],
            true,
            tool,
            Arguments::Known(&empty),
            "the condition of rule r of policy team-a/p0 cannot be evaluated: there is no \"n\"",
            vec![vec!["condition_error"]],
        ),
        (
            vec![&*small],
            true,
            tool,
            Arguments::Unreadable,
            "the condition of rule r of policy team-a/p0 cannot be evaluated: the arguments cannot be read",
            vec![vec!["condition_error"]],
        ),
        (
            vec![&*broken],
            true,
            tool,
            Arguments::Unknown,
            "the condition of rule r of policy team-a/p0 cannot be evaluated: there is no \"none\"",
            vec![vec!["condition_error"]],
        ),
        (
            vec![&*small, ALLOWS],
            true,
            tool,
            Arguments::Unknown,
            "rule r of policy team-a/p1 allows it",
            vec![vec!["depends_on_arguments"], vec!["allows"]],
        ),
    ] {
        let found = explained(&specs, is_open, kind, args);
        assert_eq!(found, (reason.to_owned(), results), "{specs:?} {args:?}");
    }
}

#[test]
fn a_server_whose_policies_are_not_known_is_explained_as_closed_and_lists_none() {
    let (table, _) = table(&[ALLOWS]);
    let (claims, labels, server) = (claims(), Map::new(), ServerKey::new("team-a", "search"));
    let item = Item { kind: ItemKind::Tool, name: "get_x", hints: DEFAULT_HINTS };
    let call = Call { args: Arguments::Unknown, now: jiff::Timestamp::UNIX_EPOCH };
    let caller = caller("alice", &claims);
    let explanation = table.explain((&Governance::Unknown, true), &caller, &target(&server, &labels, item), call);
    assert!(!explanation.is_allowed() && explanation.policies.is_empty());
    assert_eq!(explanation.reason(), "the policies of the server are not known yet, and until then it is closed");
}

#[test]
fn rules_that_speak_of_others_are_only_counted() {
    let (table, governance) = table(&[
        "{rules: [{name: a, from: [{subject: bob}], allow: [{tools: ['*']}]}, {name: b, from: [{subject: alice}], allow: [{tools: ['*']}]}]}",
    ]);
    let (claims, labels, server) = (claims(), Map::new(), ServerKey::new("team-a", "search"));
    let item = Item { kind: ItemKind::Tool, name: "get_x", hints: DEFAULT_HINTS };
    let call = Call { args: Arguments::Unknown, now: jiff::Timestamp::UNIX_EPOCH };
    let caller = caller("alice", &claims);
    let explanation = table.explain((&governance, true), &caller, &target(&server, &labels, item), call);
    let [policy] = &explanation.policies[..] else { panic!("{explanation:?}") };
    let names: Vec<_> = policy.rules.iter().map(|(rule, _)| rule.name.as_str()).collect();
    assert_eq!((names, policy.other_rules), (vec!["b"], 1));
}

fn rule() -> impl Strategy<Value = String> {
    let from = prop::sample::select(vec![
        "{authenticated: true}",
        "{subject: alice}",
        "{subject: 'b*'}",
        "{claims: [{path: groups, values: [sre]}]}",
        "{serviceAccount: {namespace: agents, name: '*'}}",
    ]);
    let allow =
        prop::sample::select(vec!["{tools: ['a*']}", "{tools: [b]}", "{hints: {readOnly: true}}", "{prompts: ['*']}"]);
    let when = prop::sample::select(vec![
        "",
        "caller.subject == \"alice\"",
        "now.getHours() >= 12",
        "args.n > 1",
        "has(args.n) && args.n > 1",
        "has(args.m) || caller.subject == \"bob\"",
        "args.n > 1 || caller.claims.none == 1",
        "caller.claims.none == 1",
        "\"sre\" in caller.claims.groups || args.n == 1",
    ]);
    let limit = prop::sample::select(vec!["", "", ", limit: {calls: 1, per: Day}"]);
    (from, allow, when, limit).prop_map(|(from, allow, when, limit)| {
        let when = if when.is_empty() { String::new() } else { format!(", when: '{when}'") };
        format!("from: [{from}], allow: [{allow}]{when}{limit}")
    })
}

fn policy() -> impl Strategy<Value = String> {
    (prop::collection::vec(rule(), 0..4), prop::sample::select(vec!["Enforce", "Enforce", "Audit"])).prop_map(
        |(rules, mode)| {
            let rules: Vec<String> =
                rules.iter().enumerate().map(|(at, rule)| format!("{{name: r{at}, {rule}}}")).collect();
            format!("{{mode: {mode}, rules: [{}]}}", rules.join(", "))
        },
    )
}

/// The decision of a call, by the way that calls take.
fn decided(
    (table, governance, is_open): (&Table, &Governance, bool),
    caller: &Caller<'_>,
    target: &Target<'_>,
    args: Option<&Value>,
    now: jiff::Timestamp,
) -> (bool, Option<(ServerKey, String)>) {
    let class = table.class_of(caller, &Memo::default());
    match table.permission((governance, is_open), (&class, caller), target, &Budget::new(u32::MAX)) {
        Permission::Open => (true, None),
        Permission::Denied => (false, None),
        Permission::Granted(grant) => match grant.decide(caller, target, args, now) {
            Ok(places) => {
                let rule = &grant.rules()[places[0]];
                (true, Some((rule.policy.clone(), rule.name.clone())))
            }
            Err(_) => (false, None),
        },
    }
}

proptest! {
    #[test]
    fn an_explanation_is_the_decision(
        policies in prop::collection::vec(policy(), 0..4),
        subject in prop::sample::select(vec!["alice", "bob", "system:serviceaccount:agents:x"]),
        groups in prop::sample::select(vec!["sre", "none"]),
        (kind, name, read_only) in (0..2_usize, prop::sample::select(vec!["a1", "b", "c"]), any::<bool>()),
        args in prop::sample::select(vec![json!({}), json!({"n": 1}), json!({"n": 2}), json!({"n": "x"}), json!({"m": null}), json!([])]),
        hour in 0..24_i64,
        is_open: bool,
    ) {
        let specs: Vec<&str> = policies.iter().map(String::as_str).collect();
        let (table, governance) = table(&specs);
        let claims = json!({"groups": [groups]}).as_object().unwrap().clone();
        let caller = Caller { is_of_cluster: subject.starts_with("system:"), ..caller(subject, &claims) };
        let (labels, server) = (Map::new(), ServerKey::new("team-a", "search"));
        let kind = [ItemKind::Tool, ItemKind::Prompt][kind];
        let target = target(&server, &labels, Item { kind, name, hints: [read_only, true, false, true] });
        let now = jiff::Timestamp::from_second(hour * 3600).unwrap();
        let governed = (&*table, &governance, is_open);
        let explain = |args| table.explain((&governance, is_open), &caller, &target, Call { args, now });
        let by = |explanation: &Explanation| {
            let rule = explanation.allowed_by().filter(|_| explanation.is_allowed());
            rule.map(|rule| (rule.policy.clone(), rule.name.clone()))
        };

        let known = explain(Arguments::Known(&args));
        prop_assert_eq!((known.is_allowed(), by(&known)), decided(governed, &caller, &target, Some(&args), now));
        prop_assert!(!known.depends_on_arguments());
        let unreadable = explain(Arguments::Unreadable);
        prop_assert_eq!((unreadable.is_allowed(), by(&unreadable)), decided(governed, &caller, &target, None, now));
        prop_assert!(!unreadable.depends_on_arguments());
        // Whatever the arguments are, the answer is what was said without them, unless it was said to depend on them.
        let unknown = explain(Arguments::Unknown);
        if !unknown.depends_on_arguments() {
            prop_assert_eq!(unknown.is_allowed(), known.is_allowed());
        }
        prop_assert_eq!((unknown.is_allowed(), by(&unknown)), (unreadable.is_allowed(), by(&unreadable)));
    }
}

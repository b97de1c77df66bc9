use std::sync::Arc;

use portcullis_crds::ReadPolicy;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::class::{Governance, Memo, Reach, Table};
use crate::policy::CompiledPolicy;

/// Decides with policies alone, all of which govern the server: what classes and grants do step by step, in one.
///
/// `args` is `None` for a list: allowed then means for some arguments, at some time.
fn decide(
    policies: &[Arc<CompiledPolicy>],
    caller: &Caller<'_>,
    target: &Target<'_>,
    call: Option<(&Value, jiff::Timestamp)>,
) -> Result<Option<Arc<CompiledRule>>, Denial> {
    let enforcing = || policies.iter().filter(|policy| policy.enforces());
    if enforcing().next().is_none() {
        return Ok(None);
    }
    let budget = Budget::new(u32::MAX);
    let rules = enforcing().flat_map(|policy| &policy.rules).filter(|rule| rule.speaks_of(caller, &budget));
    let Some(grant) = grant(rules, caller, target, &budget) else { return Err(Denial::NoRule) };
    let place = match call {
        Some((args, now)) => grant.decide(caller, target, Some(args), now)?[0],
        None => 0,
    };
    Ok(Some(grant.rules()[place].clone()))
}

fn compiled(yaml: &str) -> Arc<CompiledPolicy> {
    let spec: Value = serde_yaml::from_str(yaml).unwrap();
    let read = ReadPolicy::of(&json!({"metadata": {"namespace": "team-a", "name": "p"}, "spec": spec}));
    assert_eq!(read.problems, Vec::<String>::new(), "{yaml}");
    let compiled = CompiledPolicy::of(&read.policy);
    assert_eq!(compiled.problems, Vec::<String>::new(), "{yaml}");
    Arc::new(compiled)
}

fn claims() -> Value {
    json!({
        "sub": "alice",
        "groups": ["sre", "ml-1"],
        "level": 3,
        "admin": true,
        "nothing": null,
        "realm_access": {"roles": ["viewer", "editor"]},
        "orgs": [{"name": "one", "teams": ["x"]}, {"name": "two", "teams": ["y"]}],
        "https://example.com/roles": ["owner"],
        "nested": [["deep"]],
    })
}

fn alice(claims: &Value) -> Caller<'_> {
    Caller {
        subject: "alice",
        issuer: None,
        is_of_cluster: false,
        is_of_only_source: true,
        claims: claims.as_object().unwrap(),
        view: None,
    }
}

/// Whether a caller with these claims may call the tool `get_x` by the one rule with this source.
fn allowed(source: &str, change: impl Fn(&mut Caller<'_>)) -> bool {
    let policy = compiled(&format!("rules: [{{name: r, from: [{source}], allow: [{{tools: ['*']}}]}}]"));
    let claims = claims();
    let mut caller = Caller { issuer: Some("https://idp.example.com"), ..alice(&claims) };
    change(&mut caller);
    decide(&[policy], &caller, &target(ItemKind::Tool, "get_x", DEFAULT_HINTS), None).is_ok()
}

fn target(kind: ItemKind, name: &str, hints: [bool; 4]) -> Target<'_> {
    static LABELS: std::sync::LazyLock<Map<String, Value>> = std::sync::LazyLock::new(Map::new);
    static SERVER: std::sync::LazyLock<ServerKey> = std::sync::LazyLock::new(|| ServerKey::new("team-a", "search"));
    Target { server: &SERVER, labels: &LABELS, item: Item { kind, name, hints } }
}

#[test]
fn a_source_matches_a_caller_by_all_of_its_members() {
    for (source, expected) in [
        ("{authenticated: true}", true),
        ("{subject: alice}", true),
        ("{subject: 'al*'}", true),
        ("{subject: bob}", false),
        ("{issuer: 'https://idp.example.com'}", true),
        ("{issuer: 'https://idp.example.com/'}", false),
        ("{issuer: 'https://*'}", false),
        ("{issuer: 'https://idp.example.com', subject: alice}", true),
        ("{issuer: 'https://idp.example.com', subject: bob}", false),
        ("{claims: [{path: groups, values: [sre]}]}", true),
        ("{claims: [{path: groups, values: ['ml-*']}]}", true),
        ("{claims: [{path: groups, values: [ml]}]}", false),
        ("{claims: [{path: groups, values: [sre]}, {path: level, values: ['3']}]}", true),
        ("{claims: [{path: groups, values: [sre]}, {path: level, values: ['4']}]}", false),
        ("{claims: [{path: admin, values: ['true']}]}", true),
        ("{claims: [{path: nothing, values: ['*']}]}", false),
        ("{claims: [{path: missing, values: ['*']}]}", false),
        ("{claims: [{path: realm_access, values: ['*']}]}", false),
        ("{claims: [{path: realm_access.roles, values: [editor]}]}", true),
        ("{claims: [{path: orgs.name, values: [two]}]}", true),
        ("{claims: [{path: orgs.teams, values: [y]}]}", true),
        ("{claims: [{path: orgs.teams.y, values: ['*']}]}", false),
        ("{claims: [{path: 'https://example.com/roles', values: [owner]}]}", true),
        ("{claims: [{path: nested, values: [deep]}]}", false),
        ("{serviceAccount: {namespace: agents, name: '*'}}", false),
    ] {
        assert_eq!(allowed(source, |_| {}), expected, "{source}");
    }
}

#[test]
fn a_service_account_is_believed_only_if_the_cluster_says_so() {
    let source = "{serviceAccount: {namespace: agents, name: 'agent-*'}}";
    let subject = |subject: &'static str, is_of_cluster: bool| {
        allowed(source, |caller| {
            (caller.subject, caller.is_of_cluster) = (subject, is_of_cluster);
        })
    };
    assert!(subject("system:serviceaccount:agents:agent-1", true));
    assert!(!subject("system:serviceaccount:agents:agent-1", false), "another issuer says the same text");
    assert!(!subject("system:serviceaccount:others:agent-1", true));
    assert!(!subject("system:serviceaccount:agents:other", true));
    assert!(!subject("system:serviceaccount:agents", true));
    assert!(!subject("agents:agent-1", true));
    let with_claim = "{serviceAccount: {namespace: agents, name: '*'}, claims: [{path: groups, values: [sre]}]}";
    let of_cluster = |caller: &mut Caller<'_>| {
        (caller.subject, caller.is_of_cluster) = ("system:serviceaccount:agents:a", true);
    };
    assert!(allowed(with_claim, of_cluster));
    assert!(!allowed(&with_claim.replace("sre", "none"), of_cluster));
}

#[test]
fn a_subject_or_a_claim_without_an_issuer_counts_only_where_there_is_one_source_of_keys() {
    for (source, with_several) in [
        ("{subject: alice}", false),
        ("{claims: [{path: groups, values: [sre]}]}", false),
        ("{issuer: 'https://idp.example.com', subject: alice}", true),
        ("{issuer: 'https://idp.example.com', claims: [{path: groups, values: [sre]}]}", true),
        ("{authenticated: true}", true),
    ] {
        assert!(allowed(source, |_| {}), "{source}");
        assert_eq!(allowed(source, |caller| caller.is_of_only_source = false), with_several, "{source}");
        let unnamed = |caller: &mut Caller<'_>| (caller.is_of_only_source, caller.issuer) = (false, None);
        assert_eq!(allowed(source, unnamed), source.contains("authenticated"), "{source}");
    }
}

#[test]
fn an_entry_allows_items_of_its_kind_by_their_own_names() {
    const SAFE: [bool; 4] = [true, false, true, false];
    for (allow, kind, name, hints, expected) in [
        ("{tools: ['get_*', search]}", ItemKind::Tool, "get_x", DEFAULT_HINTS, true),
        ("{tools: ['get_*', search]}", ItemKind::Tool, "search", DEFAULT_HINTS, true),
        ("{tools: ['get_*', search]}", ItemKind::Tool, "search_all", DEFAULT_HINTS, false),
        ("{tools: ['get_*', search]}", ItemKind::Prompt, "search", DEFAULT_HINTS, false),
        ("{prompts: ['*']}", ItemKind::Prompt, "x", DEFAULT_HINTS, true),
        ("{prompts: ['*']}", ItemKind::Tool, "x", DEFAULT_HINTS, false),
        ("{hints: {readOnly: true}}", ItemKind::Tool, "x", SAFE, true),
        ("{hints: {readOnly: true}}", ItemKind::Tool, "x", DEFAULT_HINTS, false),
        ("{hints: {destructive: false, openWorld: false}}", ItemKind::Tool, "x", SAFE, true),
        ("{tools: ['get_*'], hints: {readOnly: true}}", ItemKind::Tool, "get_x", SAFE, true),
        ("{tools: ['get_*'], hints: {readOnly: true}}", ItemKind::Tool, "set_x", SAFE, false),
        ("{resources: ['file:///public/*']}", ItemKind::Resource, "file:///public/a/b", DEFAULT_HINTS, true),
        ("{resources: ['file:///public/*']}", ItemKind::Resource, "file:///private/a", DEFAULT_HINTS, false),
        ("{resources: ['file:///public/*']}", ItemKind::Template, "file:///*", DEFAULT_HINTS, true),
        ("{resources: ['file:///public/*']}", ItemKind::Template, "file:///private/*", DEFAULT_HINTS, false),
    ] {
        let policy = compiled(&format!("rules: [{{name: r, from: [{{authenticated: true}}], allow: [{allow}]}}]"));
        let claims = claims();
        let caller = alice(&claims);
        let decision = decide(&[policy], &caller, &target(kind, name, hints), None);
        assert_eq!(matches!(decision, Ok(Some(_))), expected, "{allow} {kind:?} {name}");
    }
}

#[test]
fn a_condition_decides_by_the_arguments_and_its_failure_denies() {
    let policy = compiled(
        "rules: [{name: small, from: [{authenticated: true}], allow: [{tools: ['*']}], when: 'args.limit <= 100'}]",
    );
    let claims = claims();
    let caller = alice(&claims);
    let target = target(ItemKind::Tool, "x", DEFAULT_HINTS);
    let now = jiff::Timestamp::UNIX_EPOCH;
    let decided = |args: Value| decide(std::slice::from_ref(&policy), &caller, &target, Some((&args, now)));
    assert!(matches!(decided(json!({"limit": 100})), Ok(Some(rule)) if rule.name == "small"));
    assert!(matches!(decided(json!({"limit": 101})), Err(Denial::Condition(_))));
    assert!(matches!(decided(json!({})), Err(Denial::Failed(_, Failure::Values(_)))));
    assert!(matches!(decided(json!([])), Err(Denial::Failed(..))));
    let listed = decide(std::slice::from_ref(&policy), &caller, &target, None);
    assert!(listed.is_ok(), "it is listed, for some arguments");
}

#[test]
fn what_cannot_be_read_or_compiled_of_a_policy_allows_nothing_and_the_rest_counts() {
    let spec = json!({"rules": [
        {"name": "good", "from": [{"subject": "alice"}], "allow": [{"tools": ["a"]}]},
        {"name": "new", "from": [{"subject": "alice", "device": "x"}], "allow": [{"tools": ["b"]}]},
        {"name": "broken", "from": [{"subject": "alice"}], "allow": [{"tools": ["c"]}], "when": "args.x =="},
        {"name": "none", "from": [], "allow": [{"tools": ["d"]}]},
        {"name": "wrong", "from": [{"subject": "alice"}], "allow": [{"prompts": ["e"]}], "when": "tool.name == 'e'"},
    ]});
    let read = ReadPolicy::of(&json!({"metadata": {"namespace": "team-a", "name": "p"}, "spec": spec}));
    assert_eq!(read.problems.len(), 2, "{:?}", read.problems);
    let compiled = CompiledPolicy::of(&read.policy);
    assert_eq!(compiled.problems.len(), 2, "{:?}", compiled.problems);
    let names: Vec<&str> = compiled.rules.iter().map(|rule| rule.name.as_str()).collect();
    assert_eq!(names, ["good"]);
    let closed =
        ReadPolicy::of(&json!({"metadata": {"name": "p"}, "spec": {"servers": {"labels": {}}, "mode": "Maybe"}}));
    assert!(closed.governs("any", &std::collections::BTreeMap::new()), "{:?}", closed.problems);
    assert!(CompiledPolicy::of(&closed.policy).enforces());
}

fn source() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "{authenticated: true}",
        "{subject: alice}",
        "{subject: 'b*'}",
        "{claims: [{path: groups, values: [sre]}]}",
        "{serviceAccount: {namespace: agents, name: '*'}}",
        "{issuer: i, subject: alice}",
    ])
    .prop_map(str::to_owned)
}

#[test]
fn all_conditions_of_a_call_share_the_steps() {
    let slow = "when: \"args.many.all(a, args.many.all(b, a + b >= 0))\"";
    let rule = |name: usize, when: &str| {
        format!("{{name: r{name}, from: [{{authenticated: true}}], allow: [{{tools: ['*']}}], {when}}}")
    };
    let with = |slow_rules: usize| {
        let rules = (0..slow_rules).map(|at| rule(at, slow)).chain([rule(99, "when: 'args.n == 1'")]);
        compiled(&format!("{{rules: [{}]}}", rules.collect::<Vec<_>>().join(", ")))
    };
    let (claims, args) = (claims(), json!({"many": vec![1; 1_000], "n": 1}));
    let target = target(ItemKind::Tool, "t", DEFAULT_HINTS);
    let call = |slow_rules: usize| {
        let decision = decide(&[with(slow_rules)], &alice(&claims), &target, Some((&args, jiff::Timestamp::now())));
        decision.map(|rule| rule.unwrap().name.clone()).map_err(|denial| denial.reason())
    };
    assert_eq!(call(4), Ok("r99".to_owned()));
    assert_eq!(call(6), Err("condition_failed"));
}

#[test]
fn slow_patterns_of_a_namespace_cost_only_its_own_rules() {
    let slow = |at: usize| {
        let values = vec![format!("'*{}b*'", "a".repeat(100)); 100].join(", ");
        format!(
            "{{name: r{at}, from: [{{issuer: i, claims: [{{path: groups, values: [{values}]}}]}}], allow: [{{tools: [t]}}]}}"
        )
    };
    let last = "{name: last, from: [{subject: alice}], allow: [{tools: [t]}]}";
    let slow_rules: Vec<String> = (0..5).map(slow).collect();
    let read = |namespace: &str, rules: &str| {
        let spec: Value = serde_yaml::from_str(&format!("{{rules: [{rules}]}}")).unwrap();
        let read = ReadPolicy::of(&json!({"metadata": {"namespace": namespace, "name": "p"}, "spec": spec}));
        assert_eq!(read.problems, Vec::<String>::new());
        read.policy
    };
    let slow = [read("slow", &format!("{}, {last}", slow_rules.join(", ")))];
    let other = [read("team-a", last)];
    let (table, governances) = Table::of([Some(&slow[..]), Some(&other[..])].into_iter(), None);
    let sees = |groups: usize| {
        let claims = json!({"groups": vec!["a".repeat(200); groups]});
        let caller = Caller {
            subject: "alice",
            issuer: Some("i"),
            is_of_cluster: false,
            is_of_only_source: true,
            claims: claims.as_object().unwrap(),
            view: None,
        };
        let class = table.class_of(&caller, &Memo::default());
        [0, 1].map(|at| !matches!(table.reach(&governances[at], true, &class), Reach::Closed))
    };
    assert_eq!(sees(1), [true, true]);
    assert_eq!(sees(100), [false, true]);
}

fn policy() -> impl Strategy<Value = String> {
    let allow = prop::sample::select(vec![
        "{tools: ['a*']}",
        "{tools: [b]}",
        "{hints: {readOnly: true}}",
        "{prompts: ['*']}",
        "{resources: ['x:*']}",
    ]);
    let when = prop::sample::select(vec!["", ", when: 'caller.subject == \"alice\"'", ", when: 'now.getHours() >= 0'"]);
    let rule = (source(), allow, when);
    (prop::collection::vec(rule, 0..4), any::<bool>()).prop_map(|(rules, audit)| {
        let rules: Vec<String> = rules
            .iter()
            .enumerate()
            .map(|(at, (from, allow, when))| format!("{{name: r{at}, from: [{from}], allow: [{allow}]{when}}}"))
            .collect();
        format!("{{mode: {}, rules: [{}]}}", if audit { "Audit" } else { "Enforce" }, rules.join(", "))
    })
}

proptest! {
    #[test]
    fn classes_decide_as_the_policies_themselves(
        policies in prop::collection::vec(policy(), 0..4),
        subjects in prop::collection::vec(prop::sample::select(vec!["alice", "bob", "carol", "system:serviceaccount:agents:x"]), 1..4),
        items in prop::collection::vec((0..4_usize, prop::sample::select(vec!["a1", "b", "x:1"]), any::<bool>()), 1..6),
    ) {
        let compiled: Vec<_> = policies.iter().enumerate().map(|(at, yaml)| {
            let spec: Value = serde_yaml::from_str(yaml).unwrap();
            let name = format!("p{at}");
            let read = ReadPolicy::of(&json!({"metadata": {"namespace": "team-a", "name": name}, "spec": spec}));
            Arc::new(CompiledPolicy::of(&read.policy))
        }).collect();
        let raw: Vec<_> = compiled.iter().map(|policy| policy.policy.clone()).collect();
        let all_enforced = raw.iter().map(|policy| {
            let enforced = portcullis_crds::Policy { mode: portcullis_crds::mcpaccesspolicy::PolicyMode::Enforce, ..(**policy).clone() };
            Arc::new(CompiledPolicy::of(&Arc::new(enforced)))
        });
        let all_enforced: Vec<_> = all_enforced.collect();
        let (table, governances) = Table::of([Some(raw.as_slice())].into_iter(), None);
        let governance: &Governance = &governances[0];
        for subject in subjects {
            let claims = json!({"groups": [if subject == "bob" { "sre" } else { "none" }]});
            let caller = Caller {
                subject,
                issuer: Some("i"),
                is_of_cluster: subject.starts_with("system:"),
                is_of_only_source: subject != "carol",
                claims: claims.as_object().unwrap(),
                view: None,
            };
            let memo = Memo::default();
            let class = table.class_of(&caller, &memo);
            prop_assert_eq!(class.number, table.class_of(&caller, &memo).number);
            for (kind, name, read_only) in &items {
                let kind = [ItemKind::Tool, ItemKind::Prompt, ItemKind::Resource, ItemKind::Template][*kind];
                let target = target(kind, name, [*read_only, true, false, true]);
                let permission = table.permission((governance, true), (&class, &caller), &target, &Budget::new(u32::MAX));
                let listed = decide(&compiled, &caller, &target, None);
                prop_assert_eq!(!matches!(permission, Permission::Denied), listed.is_ok());
                let args = json!({});
                let called = match &permission {
                    Permission::Denied => false,
                    Permission::Open => true,
                    Permission::Granted(grant) => {
                        grant.decide(&caller, &target, Some(&args), jiff::Timestamp::now()).is_ok()
                    }
                };
                let expected = decide(&compiled, &caller, &target, Some((&args, jiff::Timestamp::now())));
                prop_assert_eq!(called, expected.is_ok());
                if !compiled.is_empty() {
                    let now = jiff::Timestamp::now();
                    let would = table.would_deny(governance, (&class, &caller), &target, Some(&args), now);
                    let enforced = decide(&all_enforced, &caller, &target, Some((&args, now)));
                    prop_assert_eq!(would.map(|denial| denial.reason()), enforced.err().map(|denial| denial.reason()));
                }
                let reach = table.reach(governance, true, &class);
                prop_assert_eq!(reach.allows(&caller, &target, &Budget::of_call()), !matches!(permission, Permission::Denied));
            }
        }
    }
}

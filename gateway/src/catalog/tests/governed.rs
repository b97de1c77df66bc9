//! What a caller sees of the catalog, and what it may use.

use std::time::SystemTime;

use portcullis_crds::view::SharedViews;
use portcullis_crds::{McpServer, Policies, ReadPolicy, Services, resolve};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::auth::{AccessFacts, Identity, SubjectId};
use crate::offer::prompts_and_resources as plain;

pub(super) fn identity(subject: &str) -> Identity {
    Identity {
        subject: subject.into(),
        issuer: None,
        expires_at: SystemTime::UNIX_EPOCH,
        claims: json!({"sub": subject}).to_string().into(),
        subject_id: SubjectId::new(None, subject),
        access: AccessFacts::of_only_source(),
    }
}

/// Servers as they are resolved with these policies: namespace, name, tools.
pub(super) fn governed(servers: &[(&str, &str, &[&str])], policies: &[(&str, &str, &str)]) -> Vec<Arc<Handle>> {
    let mut all = Policies::default();
    for (namespace, name, spec) in policies {
        let spec: serde_json::Value = serde_yaml::from_str(spec).unwrap();
        let read = ReadPolicy::of(&json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}));
        assert_eq!(read.problems, Vec::<String>::new());
        all.insert(read);
    }
    let objects = servers.iter().map(|(namespace, name, _)| {
        let object = json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"namespace": namespace, "name": name, "labels": {"name": name}},
            "spec": {"url": format!("http://{name}.{namespace}/")},
        });
        serde_json::from_value::<McpServer>(object).unwrap()
    });
    let objects: Vec<McpServer> = objects.collect();
    let resolution = resolve(&objects, &all, "default", Services::Unknown);
    let handles = resolution.snapshot.servers.into_iter().map(|spec| {
        let tools =
            servers.iter().find(|(namespace, name, _)| (*namespace, *name) == (&*spec.key.namespace, &*spec.key.name));
        let texts: Vec<String> =
            tools.map(|(_, _, tools)| tools.iter().map(|tool| definition(tool)).collect()).unwrap();
        let handle = Handle::new(spec, &Metrics::new());
        let tools = read_tools(texts.iter().map(String::as_str), &ToolRules::default()).shared();
        let resources =
            plain::read(Kind::Resources, [r#"{"uri":"x:open","name":"o"}"#, r#"{"uri":"x:shut","name":"s"}"#]).shared();
        let offer = Offer { tools, resources, listed: true, software: software(), ..Offer::default() };
        handle.set_offer(offer);
        Arc::new(handle)
    });
    handles.collect()
}

fn definition(tool: &str) -> String {
    format!(r#"{{"name":"{tool}","inputSchema":{{"type":"object"}}}}"#)
}

fn seen(catalog: &Arc<Catalog>, subject: &str) -> Vec<(String, Vec<String>)> {
    offered(&catalog.seen_by(&identity(subject)))
}

fn may_call(catalog: &Arc<Catalog>, subject: &str, scope: Scope<'_>, tool: &str) -> Option<bool> {
    match catalog.find_for(&identity(subject), Kind::Tools, scope, tool) {
        Ok(found) => found.map(|_| true),
        Err(_) => Some(false),
    }
}

const READERS: &str =
    "{rules: [{name: r, from: [{subject: alice}], allow: [{tools: ['get_*']}, {resources: ['x:open']}]}]}";

#[test]
fn a_caller_sees_and_may_use_what_a_rule_allows_and_is_denied_the_rest_not_told_that_it_is_unknown() {
    let servers =
        governed(&[("default", "a", &["get_x", "set_x"]), ("other", "b", &["get_y"])], &[("default", "p", READERS)]);
    let b = servers[1].clone();
    let a = servers[0].clone();
    let catalog = Arc::new(Catalog::build(servers));
    assert_eq!(seen(&catalog, "alice"), [row("get_x", &["a"]), row("other__get_y", &["other/b"])]);
    assert_eq!(seen(&catalog, "bob"), [row("other__get_y", &["other/b"])]);
    for (subject, scope, tool, expected) in [
        ("alice", Scope::All, "get_x", Some(true)),
        ("alice", Scope::All, "set_x", Some(false)),
        ("alice", Scope::All, "nothing", None),
        ("bob", Scope::All, "get_x", Some(false)),
        ("bob", Scope::All, "other__get_y", Some(true)),
        ("bob", Scope::Server(&a), "get_x", Some(false)),
        ("alice", Scope::Server(&a), "get_x", Some(true)),
        ("alice", Scope::Server(&a), "set_x", Some(false)),
        ("bob", Scope::Server(&b), "get_y", Some(true)),
        ("alice", Scope::Namespace("default"), "get_x", Some(true)),
        ("alice", Scope::Namespace("default"), "set_x", Some(false)),
        ("bob", Scope::Namespace("other"), "get_y", Some(true)),
    ] {
        assert_eq!(may_call(&catalog, subject, scope, tool), expected, "{subject} {tool}");
    }
    let read = |subject: &str, uri: &str| {
        catalog.reader_for(&identity(subject), Scope::Server(&a), uri).map(|entry| entry.is_some()).ok()
    };
    assert_eq!((read("alice", "x:open"), read("alice", "x:shut"), read("bob", "x:open")), (Some(true), None, None));
    let view = catalog.seen_by(&identity("bob"));
    assert_eq!(view.servers().iter().map(|server| &*server.name).collect::<Vec<_>>(), ["other/b"]);
    assert_eq!(view.listing_in("default"), None);
    let page = catalog.seen_by(&identity("alice")).page(Kind::Resources, Scope::Namespace("default"), None).unwrap();
    assert_eq!(page, r#""resources":[{"uri":"x:open","name":"o"}]"#);
}

#[test]
fn a_tool_of_several_servers_is_called_through_those_that_allow_it() {
    let only_b = "{servers: {names: [a]}, rules: []}";
    let servers = governed(&[("default", "a", &["t"]), ("default", "b", &["t"])], &[("default", "p", only_b)]);
    let catalog = Arc::new(Catalog::build(servers));
    assert_eq!(offered(&catalog), [row("t", &["a", "b"])]);
    assert_eq!(seen(&catalog, "alice"), [row("t", &["b"])]);
    let entry = catalog.find_for(&identity("alice"), Kind::Tools, Scope::All, "t").unwrap().unwrap();
    assert_eq!(entry.candidates.iter().map(|c| &*c.server.name).collect::<Vec<_>>(), ["b"]);
}

#[test]
fn a_denied_tool_never_leads_to_another_servers_tool_of_that_name() {
    // `b` has the contested name under its own; a caller that may not use it of `a` must not get there by it.
    let closed = "{servers: {names: [a]}, rules: []}";
    let servers = governed(&[("default", "a", &["t"]), ("other", "b", &["t"])], &[("default", "p", closed)]);
    let a = servers[0].clone();
    let catalog = Arc::new(Catalog::build(servers));
    assert_eq!(may_call(&catalog, "alice", Scope::All, "t"), Some(false));
    assert_eq!(may_call(&catalog, "alice", Scope::Server(&a), "t"), Some(false));
    assert_eq!(may_call(&catalog, "alice", Scope::All, "other__t"), Some(true));
}

#[test]
fn a_policy_that_only_audits_denies_nothing_and_a_server_without_one_follows_the_default() {
    let audit = READERS.replacen('{', "{mode: Audit, ", 1);
    for (policy, default, expected) in [
        (Some(audit.as_str()), PolicyDefault::Allow, Some(true)),
        (Some(audit.as_str()), PolicyDefault::Deny, Some(false)),
        (None, PolicyDefault::Allow, Some(true)),
        (None, PolicyDefault::Deny, Some(false)),
        (Some(READERS), PolicyDefault::Allow, Some(false)),
        (Some(READERS), PolicyDefault::Deny, Some(false)),
    ] {
        let policies: Vec<_> = policy.into_iter().map(|policy| ("default", "p", policy)).collect();
        let servers = governed(&[("default", "a", &["set_x"])], &policies);
        let catalog =
            Arc::new(Catalog::build_governed(Tenancy::Isolated, default, servers, &SharedViews::default(), None));
        assert_eq!(may_call(&catalog, "alice", Scope::All, "set_x"), expected, "{policy:?} {default:?}");
    }
}

#[test]
fn a_server_whose_policy_is_not_known_is_closed() {
    let servers = governed(&[("default", "a", &["get_x"])], &[("default", "p", READERS)]);
    let spec =
        Server { policies: portcullis_crds::snapshot::Governing::default(), ..Server::clone(&servers[0].spec()) };
    servers[0].set_spec(Arc::new(spec));
    let catalog = Arc::new(Catalog::build(servers));
    assert_eq!(may_call(&catalog, "alice", Scope::All, "get_x"), Some(false));
    assert_eq!(seen(&catalog, "alice"), []);
}

#[test]
fn a_condition_on_arguments_is_decided_for_each_call_and_listed_for_some() {
    let small = "{rules: [{name: r, from: [{authenticated: true}], allow: [{tools: ['*']}], when: 'args.n <= 3'}]}";
    let catalog = Arc::new(Catalog::build(governed(&[("default", "a", &["t"])], &[("default", "p", small)])));
    assert_eq!(seen(&catalog, "alice"), [row("t", &["a"])]);
    for (args, expected) in [
        (r#"{"n":3}"#.to_owned(), true),
        (r#"{"n":4}"#.to_owned(), false),
        ("{}".to_owned(), false),
        ("not json".to_owned(), false),
        (format!(r#"{{"n":3,"x":"{}"}}"#, "x".repeat(300_000)), false),
    ] {
        let identity = identity("alice");
        let mut entry = catalog.find_for(&identity, Kind::Tools, Scope::All, "t").unwrap().unwrap();
        assert_eq!(catalog.decide(&identity, Kind::Tools, &mut entry, &args).is_ok(), expected, "{:.40}", args);
    }
}

#[test]
fn a_limited_call_takes_from_the_first_rule_that_has_one_left_and_reaches_only_servers_for_which_that_rule_holds() {
    let rule = |name: &str, more: &str| {
        format!(
            "{{name: {name}, from: [{{subject: alice}}], allow: [{{tools: [t]}}], limit: {{calls: 1, per: Day}}{more}}}"
        )
    };
    let conditional = rule("one", ", when: 'args.n < 10 || server.name == \"a\"'");
    let free = "{name: free, from: [{subject: alice}], allow: [{tools: [t]}], when: 'args.n == 0'}";
    let spec = format!("{{rules: [{conditional}, {}, {free}]}}", rule("two", ""));
    let servers = governed(&[("default", "a", &["t"]), ("default", "b", &["t"])], &[("default", "p", &spec)]);
    let (catalog, alice) = (Arc::new(Catalog::build(servers)), identity("alice"));
    let (quotas, now) = (portcullis_access::Quotas::new(10), std::time::Instant::now());
    let call = |n: u32| {
        let mut entry = catalog.find_for(&alice, Kind::Tools, Scope::All, "t").unwrap().unwrap();
        let mut basis = catalog.decide(&alice, Kind::Tools, &mut entry, &format!("{{\"n\":{n}}}")).unwrap();
        let mut entry = entry.into_owned();
        let taken = basis.take(&mut entry, (&alice, Kind::Tools), &quotas, now);
        taken.map_err(|over| (over.rule.name.clone(), over.exhausted.retry_after.as_secs()))?;
        let servers: Vec<String> = entry.candidates.iter().map(|one| one.server.name.clone()).collect();
        Ok((basis.rule_of(&entry, None).unwrap().name.clone(), servers.join(" ")))
    };
    let passed = |rule: &str, servers: &str| Ok((rule.to_owned(), servers.to_owned()));
    let over = || Err(("one".to_owned(), 86_400));
    assert_eq!(call(0), passed("free", "a b"));
    assert_eq!([call(20), call(20), call(20)], [passed("one", "a"), passed("two", "a b"), over()]);
    assert_eq!([call(5), call(0)], [over(), passed("free", "a b")]);
}

#[test]
fn what_policies_in_audit_mode_would_deny_is_told_of_the_servers_that_they_govern() {
    let audit = |names: &str| {
        format!(
            "{{mode: Audit, servers: {{names: [{names}]}}, rules: [{{name: r, from: [{{subject: bob}}], allow: [{{tools: [t]}}]}}]}}"
        )
    };
    let enforced = "{servers: {names: [a]}, rules: [{name: r, from: [{authenticated: true}], allow: [{tools: [t, u, w]}], when: 'args.n > 0'}]}";
    let open =
        "{mode: Audit, servers: {names: [d]}, rules: [{name: r, from: [{subject: alice}], allow: [{tools: [w]}]}]}";
    let servers = governed(
        &[
            ("default", "a", &["t", "u", "w"]),
            ("default", "b", &["t"]),
            ("default", "c", &["v"]),
            ("default", "d", &["w"]),
        ],
        &[("default", "p", &audit("a")), ("default", "q", enforced), ("default", "s", open)],
    );
    let catalog = Arc::new(Catalog::build(servers));
    let told = |subject: &str, tool: &str| {
        let identity = identity(subject);
        let entry = catalog.find_for(&identity, Kind::Tools, Scope::All, tool).unwrap().unwrap();
        let would = catalog.would_deny(&identity, Kind::Tools, &entry, r#"{"n":0}"#)?;
        let names = would.policies.iter().map(|policy| policy.policy.key.name.clone());
        Some((would.denial.reason(), names.collect::<Vec<_>>().join(" ")))
    };
    // A server that no such policy governs is left for t, and is the only one of v.
    assert_eq!([told("alice", "t"), told("alice", "v"), told("bob", "t")], [None, None, None]);
    // Of two servers that are governed, one that allows it is enough.
    assert_eq!([told("alice", "w"), told("bob", "w")], [None, Some(("condition", "p".into()))]);
    assert_eq!(told("alice", "u"), Some(("condition", "p".into())));
}

#[test]
fn the_rule_of_a_call_is_that_of_the_server_that_answers() {
    let rule = |name: &str| {
        format!(
            "{{servers: {{names: [{name}]}}, rules: [{{name: of-{name}, from: [{{authenticated: true}}], allow: [{{tools: [t]}}]}}]}}"
        )
    };
    let servers = governed(
        &[("default", "a", &["t"]), ("default", "b", &["t"])],
        &[("default", "p", &rule("a")), ("default", "q", &rule("b"))],
    );
    let (b, catalog, alice) = (servers[1].clone(), Arc::new(Catalog::build(servers)), identity("alice"));
    let mut entry = catalog.find_for(&alice, Kind::Tools, Scope::All, "t").unwrap().unwrap();
    let basis = catalog.decide(&alice, Kind::Tools, &mut entry, "{}").unwrap();
    let name = |server| basis.rule_of(&entry, server).map(|rule| rule.name.clone());
    assert_eq!([name(None), name(Some(&*b))], [Some("of-a".to_owned()), Some("of-b".to_owned())]);
}

#[test]
fn a_list_leaves_out_what_is_too_slow_to_decide_and_a_call_is_decided_by_itself() {
    let numbers = (0..40).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let slow = format!("[{numbers}].all(a, [{numbers}].all(b, tool.name != \\\"x\\\"))");
    let spec = format!(
        "{{rules: [{{name: r, from: [{{authenticated: true}}], allow: [{{tools: ['*']}}], when: \"{slow}\"}}]}}"
    );
    let tools: Vec<String> = (0..20).map(|n| format!("t{n}")).chain(["x".to_owned()]).collect();
    let tools: Vec<&str> = tools.iter().map(String::as_str).collect();
    let catalog = Arc::new(Catalog::build(governed(
        &[("default", "a", &tools), ("other", "b", &["y"])],
        &[("default", "p", &spec)],
    )));
    let seen = seen(&catalog, "alice");
    assert!((2..15).contains(&seen.len()), "{seen:?}");
    assert!(seen.contains(&row("other__y", &["other/b"])), "{seen:?}");
    for tool in &tools {
        assert_eq!(may_call(&catalog, "alice", Scope::All, tool), Some(*tool != "x"), "{tool}");
    }
}

#[test]
fn calls_of_more_classes_than_are_kept_are_decided_alike() {
    let spec =
        "{rules: [{name: r, from: [{authenticated: true}], allow: [{tools: [t]}], when: 'caller.subject != \"u7\"'}]}";
    let catalog = Arc::new(Catalog::build(governed(&[("default", "a", &["t", "u"])], &[("default", "p", spec)])));
    let kept = || catalog.governed.as_ref().unwrap().kept_views();
    for n in 0..300 {
        let subject = format!("u{n}");
        let may = ["t", "u"].map(|tool| may_call(&catalog, &subject, Scope::All, tool));
        assert_eq!(may, [Some(n != 7), Some(false)], "{subject}");
    }
    assert_eq!(kept(), 0, "calls need none");
    for n in 0..300 {
        assert_eq!(seen(&catalog, &format!("u{n}")).len(), usize::from(n != 7));
    }
    assert_eq!(kept(), 256);
    assert_eq!(seen(&catalog, "u299"), [row("t", &["a"])]);
    assert_eq!(seen(&catalog, "u7"), []);
    assert_eq!(kept(), 256);
}

#[test]
fn a_list_changes_its_number_only_for_those_whose_view_changes() {
    let before =
        Arc::new(Catalog::build(governed(&[("default", "a", &["get_x", "set_x"])], &[("default", "p", READERS)])));
    let after =
        Arc::new(Catalog::build(governed(&[("default", "a", &["get_x", "set_y"])], &[("default", "p", READERS)])));
    let number = |catalog: &Arc<Catalog>, subject: &str| {
        catalog.seen_by(&identity(subject)).fingerprint(Kind::Tools, Scope::All)
    };
    assert_eq!(number(&before, "alice"), number(&after, "alice"));
    assert_eq!(number(&before, "bob"), number(&after, "bob"));
    assert_ne!(before.fingerprint(Kind::Tools, Scope::All), after.fingerprint(Kind::Tools, Scope::All));
}

#[test]
fn without_policies_every_caller_sees_the_catalog_itself() {
    let catalog = Arc::new(Catalog::build(governed(&[("default", "a", &["t"])], &[])));
    assert!(Arc::ptr_eq(&catalog, &catalog.seen_by(&identity("alice"))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn for_each_caller_the_list_is_the_set_of_what_may_be_called(
        tools in prop::collection::vec(prop::collection::btree_set("[ab][12]", 0..4), 4),
        policies in prop::collection::vec((
            prop::sample::select(vec!["default", "other"]),
            prop::sample::select(vec!["", "servers: {names: ['a']}, ", "servers: {selector: {matchLabels: {name: b}}}, "]),
            prop::sample::select(vec!["authenticated: true", "subject: alice", "subject: 'b*'"]),
            prop::sample::select(vec!["['*']", "['a*']", "[b1]"]),
            prop::sample::select(vec!["", ", when: 'caller.subject.startsWith(\"a\")'", ", when: 'args.x == 1'"]),
        ), 0..4),
        default in prop::sample::select(vec![PolicyDefault::Allow, PolicyDefault::Deny]),
    ) {
        let keys = [("default", "a"), ("default", "b"), ("other", "a"), ("other", "c")];
        let owned: Vec<Vec<&str>> = tools.iter().map(|tools| tools.iter().map(String::as_str).collect()).collect();
        let servers: Vec<(&str, &str, &[&str])> =
            keys.iter().zip(&owned).map(|((namespace, name), tools)| (*namespace, *name, tools.as_slice())).collect();
        let specs: Vec<String> = policies.iter().map(|(_, select, from, allow, when)| {
            format!("{{{select}rules: [{{name: r, from: [{{{from}}}], allow: [{{tools: {allow}}}]{when}}}]}}")
        }).collect();
        let names: Vec<String> = (0..policies.len()).map(|at| format!("p{at}")).collect();
        let policies: Vec<(&str, &str, &str)> =
            policies.iter().zip(names.iter().zip(&specs)).map(|((namespace, ..), (name, spec))| (*namespace, name.as_str(), spec.as_str())).collect();
        let handles = governed(&servers, &policies);
        let catalog = Arc::new(Catalog::build_governed(Tenancy::Isolated, default, handles.clone(), &SharedViews::default(), None));
        let all = |catalog: &Catalog, scope: Scope<'_>| -> Vec<String> {
            let page = catalog.page(Kind::Tools, scope, None).unwrap();
            let page: serde_json::Value = serde_json::from_str(&format!("{{{}}}", std::str::from_utf8(&page).unwrap())).unwrap();
            page["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
        };
        for subject in ["alice", "bob", "carol"] {
            let view = catalog.seen_by(&identity(subject));
            let scopes = [Scope::All, Scope::Namespace("default"), Scope::Namespace("other")];
            let alone = handles.iter().map(Scope::Server);
            for scope in scopes.into_iter().chain(alone) {
                let callable: Vec<String> =
                    all(&catalog, scope).into_iter().filter(|tool| may_call(&catalog, subject, scope, tool) == Some(true)).collect();
                prop_assert_eq!(all(&view, scope), callable, "{}", subject);
            }
            let shown: Vec<String> = view.listed(Kind::Tools).iter().map(|entry| entry.name.to_string()).collect();
            prop_assert_eq!(all(&view, Scope::All), shown);
        }
    }
}

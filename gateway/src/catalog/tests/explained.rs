//! Explanations find an item by all of its names, and say what calls find out.

use std::time::Duration;

use proptest::prelude::*;

use super::governed::{governed, identity};
use super::*;

/// An item in short: server, own name, the name for callers, whether a call by the name that was asked for may go there,
/// and whether it is allowed; `None`: that depends on arguments.
type Row = (String, String, Option<String>, bool, Option<bool>);

const BOUNDS: ExplainBounds = ExplainBounds { items: 64, time: Duration::MAX };

fn explained(catalog: &Catalog, kind: Kind, name: &str, server: Option<&Arc<Handle>>) -> Vec<Row> {
    let identity = identity("alice");
    let (items, count) =
        catalog.explain(&identity.caller(), (kind, name), server, (jiff::Timestamp::UNIX_EPOCH, BOUNDS));
    assert_eq!(items.len(), count.min(BOUNDS.items));
    let row = |item: &ExplainedItem| {
        let allowed = (!item.explanation.depends_on_arguments()).then(|| item.explanation.is_allowed());
        let name = item.name.as_deref().map(str::to_owned);
        (item.server.name.clone(), item.own_name.to_string(), name, item.is_meant, allowed)
    };
    items.iter().map(row).collect()
}

fn found(server: &str, own_name: &str, name: &str, is_meant: bool, allowed: Option<bool>) -> Row {
    (server.into(), own_name.into(), Some(name.into()), is_meant, allowed)
}

#[test]
fn a_tool_is_found_by_the_name_of_callers_and_by_the_own_name_of_each_server() {
    let closed = "{servers: {names: [a]}}";
    let servers = governed(
        &[("default", "a", &["t"]), ("default", "b", &["t"]), ("other", "c", &["t", "u"])],
        &[("default", "p", closed)],
    );
    let (b, c) = (servers[1].clone(), servers[2].clone());
    let catalog = Catalog::build(servers);
    let (a_row, b_row) = (found("a", "t", "t", true, Some(false)), found("b", "t", "t", true, Some(true)));
    let c_row = |is_meant| found("other/c", "t", "other__t", is_meant, Some(true));
    assert_eq!(explained(&catalog, Kind::Tools, "t", None), [a_row, b_row.clone(), c_row(false)]);
    assert_eq!(explained(&catalog, Kind::Tools, "other__t", None), [c_row(true)]);
    assert_eq!(explained(&catalog, Kind::Tools, "t", Some(&b)), [b_row]);
    let alone = [("other/c".to_owned(), "t".to_owned(), Some("other__t".to_owned()), true, Some(true))];
    assert_eq!(explained(&catalog, Kind::Tools, "t", Some(&c)), alone, "its namespace knows it by that name");
    assert_eq!(explained(&catalog, Kind::Tools, "u", None), [found("other/c", "u", "other__u", false, Some(true))]);
    for (name, server) in [("nothing", None), ("u", Some(&b)), ("", None)] {
        assert_eq!(explained(&catalog, Kind::Tools, name, server), [], "{name}");
    }
}

#[test]
fn a_renamed_and_a_shortened_tool_are_found_by_all_of_their_names() {
    let rules: ToolRules =
        serde_yaml::from_str("{prefix: p, overrides: [{name: a, rename: b}, {name: b, rename: c}]}").unwrap();
    let spec = Server { tools: rules.clone(), ..Server::from_url("one", "http://one/") };
    let handle = Handle::new(spec, &Metrics::new());
    let long = "n".repeat(80);
    let texts = ["a", "b", &long].map(|tool| format!(r#"{{"name":"{tool}","inputSchema":{{"type":"object"}}}}"#));
    let tools = read_tools(texts.iter().map(String::as_str), &rules).shared();
    handle.set_offer(Offer { tools, listed: true, ..Offer::default() });
    let plain = server("plain", 1, &[("x", "y"), (&long, "y")], true);
    let catalog = Catalog::build(vec![Arc::new(handle), plain]);
    let of_one = |own: &str, name: &str, is_meant| found("one", own, name, is_meant, Some(true));
    assert_eq!(explained(&catalog, Kind::Tools, "p__b", None), [of_one("a", "p__b", true)]);
    assert_eq!(explained(&catalog, Kind::Tools, "b", None), [of_one("b", "p__c", false)]);
    let [plain, one] = &explained(&catalog, Kind::Tools, &long, None)[..] else { panic!("two") };
    let short = plain.2.clone().unwrap();
    assert_eq!((plain, short.len()), (&found("plain", &long, &short, true, Some(true)), 64));
    assert_eq!((one.0.as_str(), &*one.1, one.3), ("one", &*long, false));
}

#[test]
fn a_resource_is_found_by_each_of_its_uris_whether_it_is_listed_or_not() {
    let policy = "{rules: [{name: r, from: [{authenticated: true}], allow: [{resources: ['x:open']}]}]}";
    let servers =
        governed(&[("default", "a", &[]), ("default", "b", &[]), ("other", "c", &[])], &[("default", "p", policy)]);
    let b = servers[1].clone();
    let catalog = Catalog::build(servers);
    let resource = |name: &str, server| explained(&catalog, Kind::Resources, name, server);
    let rows = |own: &str, allowed| {
        [
            found("a", own, own, true, Some(allowed)),
            found("b", own, own, true, Some(allowed)),
            found("other/c", own, &format!("x:~other/{}", &own[2..]), false, Some(true)),
        ]
    };
    assert_eq!(resource("x:open", None), rows("x:open", true));
    assert_eq!(resource("x:shut", None), rows("x:shut", false));
    assert_eq!(resource("x:~other/open", None), [found("other/c", "x:open", "x:~other/open", true, Some(true))]);
    assert_eq!(resource("x:open", Some(&b)), [found("b", "x:open", "x:open", true, Some(true))]);
    let unlisted = found("b", "x:unlisted", "x:~default.b/unlisted", true, Some(false));
    assert_eq!(resource("x:unlisted", Some(&b)), [unlisted], "it may read it, though nobody lists it");
}

#[test]
fn a_gateway_without_policies_explains_everything_as_open() {
    let catalog = Catalog::build(governed(&[("default", "a", &["t"])], &[]));
    assert_eq!(explained(&catalog, Kind::Tools, "t", None), [found("a", "t", "t", true, Some(true))]);
}

#[test]
fn an_explanation_is_bounded_and_counts_the_rest() {
    let names: Vec<String> = (0..200).map(|at| format!("s{at:03}")).collect();
    let servers: Vec<(&str, &str, &[&str])> = names.iter().map(|name| ("default", name.as_str(), &["t"][..])).collect();
    let catalog = Catalog::build(governed(&servers, &[]));
    let identity = identity("alice");
    let (items, count) =
        catalog.explain(&identity.caller(), (Kind::Tools, "t"), None, (jiff::Timestamp::UNIX_EPOCH, BOUNDS));
    assert_eq!((items.len(), count), (BOUNDS.items, 200));
    let hasty = ExplainBounds { time: Duration::ZERO, ..BOUNDS };
    let (items, count) =
        catalog.explain(&identity.caller(), (Kind::Tools, "t"), None, (jiff::Timestamp::UNIX_EPOCH, hasty));
    assert_eq!((items.len(), count), (1, 200));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn an_explanation_says_what_a_call_finds_out(
        tools in prop::collection::vec(prop::collection::btree_set("[ab][12]", 0..4), 4),
        policies in prop::collection::vec((
            prop::sample::select(vec!["default", "other"]),
            prop::sample::select(vec!["", "mode: Audit, ", "servers: {names: ['a']}, ", "servers: {selector: {matchLabels: {name: b}}}, "]),
            prop::sample::select(vec!["authenticated: true", "subject: alice", "subject: 'b*'"]),
            prop::sample::select(vec!["['*']", "['a*']", "[b1]"]),
            prop::sample::select(vec!["", ", when: 'caller.subject.startsWith(\"a\")'", ", when: 'args.x == 1'", ", when: 'has(args.y)'"]),
        ), 0..4),
        default in prop::sample::select(vec![PolicyDefault::Allow, PolicyDefault::Deny]),
        args in prop::sample::select(vec!["{}", r#"{"x":1}"#, r#"{"y":1}"#, "nonsense"]),
    ) {
        let keys = [("default", "a"), ("default", "b"), ("other", "a"), ("other", "c")];
        let owned: Vec<Vec<&str>> = tools.iter().map(|tools| tools.iter().map(String::as_str).collect()).collect();
        let servers: Vec<(&str, &str, &[&str])> =
            keys.iter().zip(&owned).map(|((namespace, name), tools)| (*namespace, *name, tools.as_slice())).collect();
        let specs: Vec<String> = policies.iter().map(|(_, more, from, allow, when)| {
            format!("{{{more}rules: [{{name: r, from: [{{{from}}}], allow: [{{tools: {allow}}}]{when}}}]}}")
        }).collect();
        let names: Vec<String> = (0..policies.len()).map(|at| format!("p{at}")).collect();
        let policies: Vec<(&str, &str, &str)> = policies.iter().zip(names.iter().zip(&specs))
            .map(|((namespace, ..), (name, spec))| (*namespace, name.as_str(), spec.as_str())).collect();
        let catalog = Arc::new(Catalog::build_governed(Tenancy::Isolated, default, governed(&servers, &policies), &SharedViews::default(), None));
        for subject in ["alice", "bob", "carol"] {
            let identity = identity(subject);
            for entry in catalog.listed(Kind::Tools) {
                let (items, _) = catalog.explain(&identity.caller(), (Kind::Tools, &entry.name), None, (jiff::Timestamp::now(), BOUNDS));
                let meant: Vec<&ExplainedItem> = items.iter().filter(|item| item.is_meant).collect();
                let keys = |wanted: fn(&ExplainedItem) -> bool| -> Vec<ServerKey> {
                    meant.iter().filter(|item| wanted(item)).map(|item| item.server.key.clone()).collect()
                };
                let possible = keys(|item| item.explanation.is_allowed() || item.explanation.depends_on_arguments());
                let sure = keys(|item| item.explanation.is_allowed());
                let candidates = |entry: &Entry| -> Vec<ServerKey> { entry.candidates.iter().map(|one| one.server.key.clone()).collect() };
                prop_assert_eq!(candidates(entry), keys(|_| true));
                let Ok(Some(mut called)) = catalog.find_for(&identity, Kind::Tools, Scope::All, &entry.name) else {
                    prop_assert_eq!(possible, []);
                    continue;
                };
                prop_assert_eq!(candidates(&called), possible.clone());
                let decided = catalog.decide(&identity, Kind::Tools, &mut called, args).map(|_| candidates(&called)).unwrap_or_default();
                prop_assert!(sure.iter().all(|key| decided.contains(key)), "{subject} {} {sure:?} {decided:?}", entry.name);
                prop_assert!(decided.iter().all(|key| possible.contains(key)));
            }
        }
    }
}

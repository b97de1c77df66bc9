use portcullis_crds::Snapshot;
use portcullis_crds::resolve::{KnownPort, key_of};
use portcullis_crds::slots::{join, split};
use proptest::prelude::*;
use serde_json::json;

use super::*;

impl Inventory {
    /// Adds or replaces a readable server.
    fn put(&mut self, server: McpServer) -> Affected {
        let key = key_of(&server);
        self.put_object(key, ServerObject::of(server), Instant::now())
    }
}

fn policy(namespace: &str, name: &str, spec: serde_json::Value) -> ReadPolicy {
    ReadPolicy::of(&json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}))
}

fn server(namespace: &str, name: &str, spec: serde_json::Value) -> McpServer {
    serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1",
        "kind": "McpServer",
        "metadata": {"namespace": namespace, "name": name, "generation": 1, "uid": name},
        "spec": spec,
    }))
    .unwrap()
}

fn touched(keys: &[(&str, &str)], slots: &[usize]) -> Affected {
    let servers = keys.iter().map(|(namespace, name)| ServerKey::new(*namespace, *name)).collect();
    Affected { servers, slots: slots.iter().copied().collect(), policies: BTreeSet::new(), views: BTreeSet::new() }
}

fn urls(inventory: &Inventory) -> Vec<String> {
    let slots = (0..inventory.slots.len()).map(|index| inventory.slot(index).packed.unpack().unwrap());
    join(slots).servers.into_iter().map(|server| server.url).collect()
}

#[test]
fn a_bad_server_is_refused_alone_and_a_status_alone_changes_no_slot() {
    let mut inventory = Inventory::new("n".into(), 1, false);
    let good = server("n", "good", json!({"url": "http://a/"}));
    assert_eq!(inventory.put(good.clone()), touched(&[("n", "good")], &[0]));
    assert_eq!(inventory.put(good), touched(&[("n", "good")], &[]));
    let bad = server("n", "bad", json!({"url": "ftp://b/"}));
    assert_eq!(inventory.put(bad), touched(&[("n", "bad")], &[]));
    let broken = ServerObject {
        uid: "u".into(),
        generation: 1,
        version: 1,
        status: McpServerStatus::default(),
        content: Err("spec.weight is not a number".into()),
    };
    inventory.put_object(ServerKey::new("n", "broken"), broken, Instant::now());
    let reasons: Vec<_> = inventory.entries.values().map(|e| e.verdict.refusal.as_ref().map(|r| r.reason)).collect();
    assert_eq!(reasons, [Some(Reason::Invalid), Some(Reason::Invalid), None]);
    assert_eq!(urls(&inventory), ["http://a/"]);
    assert_eq!(inventory.remove(&ServerKey::new("n", "good")), touched(&[("n", "good")], &[0]));
    assert_eq!(inventory.remove(&ServerKey::new("n", "good")), Affected::default());
    assert_eq!(urls(&inventory), Vec::<String>::new());
}

#[test]
fn a_service_that_comes_changes_those_who_name_it() {
    let mut inventory = Inventory::new("n".into(), 1, false);
    inventory.put(server("n", "s", json!({"service": {"name": "a", "port": "mcp"}})));
    inventory.put(server("m", "s", json!({"service": {"name": "a", "port": "mcp"}})));
    assert_eq!(urls(&inventory), Vec::<String>::new());
    let port = KnownPort { name: Some("mcp".to_owned()), number: 80, connect: Some(80) };
    let ports = Some(KnownService { is_external: false, ports: vec![port] });
    assert_eq!(inventory.put_service("n", "a", ports.clone(), Instant::now()), touched(&[("n", "s")], &[0]));
    assert_eq!(inventory.put_service("n", "a", ports, Instant::now()), Affected::default());
    assert_eq!(urls(&inventory), ["http://a.n.svc:80/mcp"]);
    assert_eq!(inventory.put_service("n", "a", None, Instant::now()), touched(&[("n", "s")], &[0]));
    inventory.put(server("n", "s", json!({"url": "http://b/"})));
    assert_eq!(inventory.put_service("n", "a", Some(KnownService::default()), Instant::now()), Affected::default());
}

#[test]
fn a_namespace_that_is_not_selected_is_told_so() {
    let mut inventory = Inventory::new("n".into(), 1, true);
    let key = ServerKey::new("n", "a");
    inventory.put(server("n", "a", json!({"url": "http://a/"})));
    let reason = |inventory: &Inventory| inventory.get(&key).unwrap().verdict.refusal.as_ref().map(|r| r.reason);
    assert_eq!(reason(&inventory), Some(Reason::NamespaceNotSelected));
    assert_eq!(inventory.select("n", true, Instant::now()), touched(&[("n", "a")], &[0]));
    assert_eq!(reason(&inventory), None);
    assert_eq!(inventory.select("n", true, Instant::now()), Affected::default());
    assert_eq!(inventory.select("n", false, Instant::now()), touched(&[("n", "a")], &[0]));
    assert_eq!(urls(&inventory), Vec::<String>::new());
}

#[test]
fn a_policy_changes_the_servers_that_it_governs_and_no_others() {
    let (mut inventory, now) = (Inventory::new("n".into(), 1, false), Instant::now());
    for name in ["search-a", "search-b", "pay"] {
        inventory.put(server("n", name, json!({"url": "http://a/"})));
    }
    inventory.put(server("m", "search-a", json!({"url": "http://a/"})));
    let (key, spec) = (ServerKey::new("n", "p"), json!({"servers": {"names": ["search-*"]}, "rules": []}));
    let mut expected = touched(&[("n", "search-a"), ("n", "search-b")], &[0]);
    expected.policies.insert(key.clone());
    assert_eq!(inventory.put_policy(&key, Some(policy("n", "p", spec.clone())), now), expected);
    let governed =
        |inventory: &Inventory| inventory.governed(&key).map(|(key, _)| key.name.clone()).collect::<Vec<_>>();
    assert_eq!(governed(&inventory), ["search-a", "search-b"]);
    // The same again changes nothing but, perhaps, its own status.
    let only = Affected { policies: BTreeSet::from([key.clone()]), ..Affected::default() };
    assert_eq!(inventory.put_policy(&key, Some(policy("n", "p", spec)), now), only);
    assert_eq!(inventory.put_policy(&key, None, now), expected);
    assert_eq!(governed(&inventory), Vec::<String>::new());
}

#[test]
fn the_number_of_replicas_stands_in_the_slots_that_have_a_limit_and_changes_no_server() {
    let (slots, now) = (2, Instant::now());
    let mut inventory = Inventory::new("n".into(), slots, false);
    let name = |slot| (0..).map(|n| format!("s{n}")).find(|name| slot_of(&ServerKey::new("n", &**name), slots) == slot);
    let names: Vec<String> = (0..slots).filter_map(name).collect();
    for name in &names {
        inventory.put(server("n", name, json!({"url": "http://a/"})));
    }
    let put = |inventory: &mut Inventory, name: &str, limit: serde_json::Value| {
        let mut rule = json!({"name": "r", "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}]});
        rule["limit"] = limit;
        let spec = json!({"servers": {"names": [name]}, "rules": [rule]});
        let policy = policy("n", &format!("of-{name}"), spec);
        inventory.put_policy(&policy.policy.key.clone(), Some(policy), now);
    };
    put(&mut inventory, &names[0], json!({"calls": 60, "per": "Minute"}));
    put(&mut inventory, &names[1], json!(null));
    let packed = |inventory: &Inventory| [0, 1].map(|index| inventory.slot(index).packed);
    let told = |inventory: &Inventory| packed(inventory).map(|slot| slot.unpack().unwrap().replicas);
    assert_eq!(told(&inventory), [Some(1), None]);
    let (before, revisions) = (packed(&inventory), |inventory: &Inventory| -> Vec<_> {
        inventory.entries.values().map(|entry| entry.verdict.revision.clone()).collect()
    });
    let of_servers = revisions(&inventory);
    assert_eq!(inventory.set_replicas(1), Affected::default());
    assert_eq!(inventory.set_replicas(3), touched(&[], &[0]));
    assert_eq!((told(&inventory), revisions(&inventory)), ([Some(3), None], of_servers));
    let portcullis_crds::slots::Packed::Text(text) = &packed(&inventory)[0] else { panic!("it is small") };
    assert!(text.starts_with(r#"{"version":2,"replicas":3,"servers":[{"#), "{text}");
    assert_eq!(before[1], packed(&inventory)[1]);
    // Without the limit, nothing is shared.
    put(&mut inventory, &names[0], json!(null));
    assert_eq!((told(&inventory), inventory.set_replicas(2)), ([None, None], Affected::default()));
}

#[test]
fn a_new_server_waits_for_its_policy_and_nothing_else_waits() {
    let (mut inventory, now, delay) = (Inventory::new("n".into(), 1, false), Instant::now(), Duration::from_secs(1));
    let put = |inventory: &mut Inventory, name: &str, generation: i64, now: Instant| {
        let mut server = server("n", name, json!({"url": format!("http://{name}{generation}/")}));
        server.metadata.generation = Some(generation);
        inventory.put_object(ServerKey::new("n", name), ServerObject::of(server), now).slots.len()
    };
    let due = |inventory: &mut Inventory, at: Instant| inventory.admit_due(at).slots.len();
    // The first listing.
    assert_eq!((put(&mut inventory, "old", 1, now), inventory.next()), (1, None));
    inventory.hold_new_servers(delay);
    assert_eq!((put(&mut inventory, "old", 2, now), inventory.next()), (1, None));
    assert_eq!((put(&mut inventory, "new", 1, now), inventory.next()), (0, Some(now + delay)));
    assert_eq!((put(&mut inventory, "new", 2, now + delay / 2), inventory.next()), (0, Some(now + delay)));
    assert_eq!((due(&mut inventory, now + delay / 2), urls(&inventory)), (0, vec!["http://old2/".into()]));
    assert_eq!((due(&mut inventory, now + delay), inventory.next()), (1, None));
    assert_eq!(urls(&inventory), ["http://new2/", "http://old2/"]);
    // A policy that reports alone does not protect it; one that denies does.
    assert_eq!(put(&mut inventory, "late", 1, now), 0);
    let (audit, enforce) = (ServerKey::new("n", "audit"), ServerKey::new("n", "enforce"));
    inventory.put_policy(&audit, Some(policy("n", "audit", json!({"mode": "Audit"}))), now);
    assert_eq!((urls(&inventory).len(), inventory.next()), (2, Some(now + delay)));
    inventory.put_policy(&enforce, Some(policy("n", "enforce", json!({}))), now);
    assert_eq!((urls(&inventory).len(), inventory.next()), (3, None));
    assert_eq!((put(&mut inventory, "covered", 1, now), inventory.next()), (1, None));
    // One that goes while it waits does not come back.
    inventory.put_policy(&enforce, None, now);
    assert_eq!(put(&mut inventory, "gone", 1, now), 0);
    inventory.remove(&ServerKey::new("n", "gone"));
    assert_eq!((inventory.next(), due(&mut inventory, now + delay)), (None, 0));
}

#[test]
fn a_server_whose_service_comes_back_does_not_wait_again() {
    let (mut inventory, now, delay) = (Inventory::new("n".into(), 1, false), Instant::now(), Duration::from_secs(1));
    inventory.hold_new_servers(delay);
    let port = KnownPort { name: Some("mcp".to_owned()), number: 80, connect: Some(80) };
    let known = Some(KnownService { is_external: false, ports: vec![port] });
    let by_service = server("n", "s", json!({"service": {"name": "a", "port": "mcp"}}));
    inventory.put_object(ServerKey::new("n", "s"), ServerObject::of(by_service), now);
    assert_eq!(inventory.put_service("n", "a", known.clone(), now + delay / 2).slots.len(), 0);
    assert_eq!((inventory.next(), inventory.admit_due(now + delay).slots.len()), (Some(now + delay), 1));
    assert_eq!(inventory.put_service("n", "a", None, now + delay * 2).slots.len(), 1);
    assert_eq!(inventory.put_service("n", "a", known, now + delay * 2).slots.len(), 1);
}

fn view(namespace: &str, name: &str, spec: serde_json::Value) -> ReadView {
    ReadView::of(&json!({"metadata": {"namespace": namespace, "name": name}, "spec": spec}), "a")
}

fn labelled(namespace: &str, name: &str, allowed: &[&str]) -> McpServer {
    let mut object = server(namespace, name, json!({"url": "http://a/", "allowedViews": {"namespaces": allowed}}));
    object.metadata.labels = Some(BTreeMap::from([("tier".to_owned(), "1".to_owned())]));
    object
}

#[test]
fn a_view_is_in_its_slot_and_rewrites_only_servers_whose_labels_it_may_see() {
    let (mut inventory, now, key) = (Inventory::new("a".into(), 1, true), Instant::now(), ServerKey::new("team", "v"));
    for namespace in ["team", "shared"] {
        inventory.select(namespace, true, now);
    }
    for object in
        [labelled("team", "own", &[]), labelled("shared", "closed", &[]), labelled("shared", "open", &["team"])]
    {
        inventory.put(object);
    }
    let put = |inventory: &mut Inventory, spec: Option<serde_json::Value>| {
        let affected = inventory.put_view(&key, spec.map(|spec| view("team", "v", spec)), now);
        (
            affected.views.len(),
            affected.servers.into_iter().map(|key| key.name).collect::<Vec<_>>(),
            affected.slots.len(),
        )
    };
    let shown = |inventory: &Inventory| {
        let slot = inventory.slot(0).packed.unpack().unwrap();
        let seen = slot.servers.iter().filter(|server| !server.labels.is_empty()).map(|server| server.key.name.clone());
        (slot.views.iter().map(|view| view.name.clone()).collect::<Vec<_>>(), seen.collect::<Vec<_>>())
    };
    let words = |all: &[&str]| all.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    assert_eq!(put(&mut inventory, Some(json!({"select": [{}]}))), (1, vec![], 1));
    assert_eq!(put(&mut inventory, Some(json!({"select": [{}]}))), (1, vec![], 0));
    assert_eq!(shown(&inventory), (words(&["team/v"]), vec![]));
    let by_labels = |namespaces: &[&str]| json!({"select": [{"servers": {"selector": {"matchLabels": {"tier": "1"}}, "namespaces": namespaces}}]});
    assert_eq!(put(&mut inventory, Some(by_labels(&["team", "shared"]))), (1, words(&["open", "own"]), 1));
    assert_eq!(shown(&inventory), (words(&["team/v"]), words(&["open", "own"])));
    assert_eq!(put(&mut inventory, Some(by_labels(&["shared"]))), (1, words(&["own"]), 1));
    // An invalid view is not served, and sees nothing.
    assert_eq!(put(&mut inventory, Some(json!({"select": []}))), (1, words(&["open"]), 1));
    assert_eq!(shown(&inventory), (vec![], vec![]));
    let reason = |inventory: &Inventory| match inventory.view_verdict(&key) {
        Some(ViewVerdict::Refused(refusal)) => Some(refusal.reason),
        _ => None,
    };
    assert_eq!(reason(&inventory), Some(Reason::Invalid));
    assert_eq!(put(&mut inventory, Some(json!({"select": [{}]}))), (1, vec![], 1));
    inventory.select("team", false, now);
    assert_eq!((shown(&inventory), reason(&inventory)), ((vec![], vec![]), Some(Reason::NamespaceNotSelected)));
    inventory.select("team", true, now);
    assert_eq!((shown(&inventory).0, reason(&inventory)), (words(&["team/v"]), None));
    assert_eq!(put(&mut inventory, None), (1, vec![], 1));
    assert_eq!(inventory.view_verdict(&key), None);
}

/// A change of a server, a policy or a view, in the tests.
#[derive(Clone, Debug)]
enum Change {
    Server { namespace: String, name: String, host: Option<String>, tier: String, allowed: Vec<String> },
    Policy { namespace: String, name: String, spec: Option<serde_json::Value> },
    View { namespace: String, name: String, spec: Option<serde_json::Value> },
}

fn change() -> impl Strategy<Value = Change> {
    let allowed = prop::collection::vec("[ab*]", 0..2);
    let server = ("[ab]", "[a-e]", prop::option::weighted(0.8, "[xyz]"), "[12]", allowed)
        .prop_map(|(namespace, name, host, tier, allowed)| Change::Server { namespace, name, host, tier, allowed });
    let view_of = |servers: serde_json::Value| json!({"select": [{"servers": servers}]});
    let spec = prop_oneof![
        Just(json!({"select": [{}]})),
        Just(json!({"select": "nonsense"})),
        ("[ab]", "[12]").prop_map(move |(namespace, tier)| {
            view_of(json!({"selector": {"matchLabels": {"tier": tier}}, "namespaces": [namespace]}))
        }),
        "[12]".prop_map(move |tier| view_of(json!({"selector": {"matchLabels": {"tier": tier}}}))),
    ];
    let view = ("[ab]", "[v-x]", prop::option::weighted(0.8, spec)).prop_map(|(namespace, name, spec)| Change::View {
        namespace,
        name,
        spec,
    });
    let servers = prop_oneof![
        Just(json!(null)),
        "[a-e*]".prop_map(|name| json!({"names": [name]})),
        "[12]".prop_map(|tier| json!({"selector": {"matchLabels": {"tier": tier}}})),
        Just(json!({"unknown": 1})),
    ];
    let rules = prop_oneof![
        Just(json!([])),
        "[a-c]"
            .prop_map(|tool| json!([{"name": "r", "from": [{"authenticated": true}], "allow": [{"tools": [tool]}]}])),
        Just(json!("nonsense")),
    ];
    let policy =
        ("[ab]", "[p-r]", prop::option::weighted(0.8, (servers, rules))).prop_map(|(namespace, name, spec)| {
            let spec = spec.map(|(servers, rules)| json!({"servers": servers, "rules": rules}));
            Change::Policy { namespace, name, spec }
        });
    prop_oneof![2 => server, 1 => policy, 1 => view]
}

proptest! {
    #[test]
    fn after_any_changes_the_slots_are_those_of_a_fresh_start(changes in prop::collection::vec(change(), 0..40)) {
        let (mut inventory, now) = (Inventory::new("a".into(), 3, false), Instant::now());
        let (mut model, mut policies, mut views) = (BTreeMap::new(), Policies::default(), Views::default());
        for change in changes {
            match change {
                Change::Server { namespace, name, host: None, .. } => {
                    let key = ServerKey::new(namespace, name);
                    inventory.remove(&key);
                    model.remove(&key);
                }
                Change::Server { namespace, name, host: Some(host), tier, allowed } => {
                    let mut object = server(&namespace, &name, json!({"url": format!("http://{host}/"), "allowedViews": {"namespaces": allowed}}));
                    object.metadata.labels = Some(BTreeMap::from([("tier".to_owned(), tier)]));
                    inventory.put(object.clone());
                    model.insert(ServerKey::new(namespace, name), object);
                }
                Change::Policy { namespace, name, spec } => {
                    let key = ServerKey::new(&*namespace, &*name);
                    let read = spec.map(|spec| policy(&namespace, &name, spec));
                    inventory.put_policy(&key, read.clone(), now);
                    match read {
                        Some(read) => drop(policies.insert(read)),
                        None => drop(policies.remove(&key)),
                    }
                }
                Change::View { namespace, name, spec } => {
                    let key = ServerKey::new(&*namespace, &*name);
                    let read = spec.map(|spec| view(&namespace, &name, spec));
                    inventory.put_view(&key, read.clone(), now);
                    views.put(&key, read);
                }
            }
        }
        let expected = resolve(model.values(), (&policies, &views), "a", Services::Unknown).snapshot;
        let expected = Snapshot { views: views.all_served().cloned().collect(), ..expected };
        for (index, slot) in split(&expected, 3).iter().enumerate() {
            let packed = inventory.slot(index).packed;
            prop_assert_eq!(&packed, &portcullis_crds::slots::Packed::pack(slot));
            let unpacked: Snapshot = packed.unpack().unwrap();
            prop_assert!(unpacked.servers.iter().all(|server| server.governing().is_some()));
        }
        for (key, entry) in &inventory.entries {
            let server = expected.servers.iter().find(|server| server.key == *key);
            prop_assert_eq!(entry.verdict.revision.clone(), server.map(|server| server.revision()));
            let names: Vec<_> = server.into_iter().flat_map(|server| &server.governed_by).map(|of| &of.name).collect();
            prop_assert_eq!(entry.governed_by.iter().collect::<Vec<_>>(), names);
            for name in &entry.governed_by {
                let policy = ServerKey::new(&*key.namespace, &**name);
                prop_assert!(inventory.governed(&policy).any(|(governed, _)| governed == key));
            }
        }
        let governed: usize = inventory.governed.values().map(BTreeSet::len).sum();
        prop_assert_eq!(governed, inventory.entries.values().map(|entry| entry.governed_by.len()).sum::<usize>());
    }
}

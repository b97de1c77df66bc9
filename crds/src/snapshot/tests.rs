use super::*;
use proptest::prelude::*;

#[test]
fn the_text_form_of_version_1_stays_as_it_is() {
    let server = Server { label: Some("http://a/sse".into()), ..Server::from_url("a", "http://a/sse") };
    let text = Snapshot::new(vec![server]).to_text();
    insta::assert_snapshot!(text, @r#"{"version":1,"servers":[{"key":{"namespace":"default","name":"a"},"name":"a","label":"http://a/sse","generation":0,"created":0,"url":"http://a/sse","transport":"auto","weight":100,"priority":0,"state":"Enabled","timeouts":{"connectSeconds":5,"requestSeconds":60,"idleSeconds":300},"healthCheck":{"mode":"Ping","intervalSeconds":15,"unhealthyThreshold":3,"healthyThreshold":1},"limits":{"maxConcurrentRequests":64},"tools":{}}]}"#);
}

/// The text of a slot with a server and the policy that governs it, whose only rule has these members too.
fn text_with_rule(more: &serde_json::Value) -> String {
    let mut rule = serde_json::json!({"name": "r", "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}]});
    rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let policy = serde_json::json!({"metadata": {"namespace": "default", "name": "p"}, "spec": {"rules": [rule]}});
    let mut policies = crate::Policies::default();
    policies.insert(crate::ReadPolicy::of(&policy));
    let server = policies.govern(Server::from_url("a", "http://a/"), &BTreeMap::new());
    Snapshot::new(vec![server]).to_text()
}

#[test]
fn only_a_policy_that_names_views_needs_version_3_which_older_gateways_refuse() {
    let plain = text_with_rule(&serde_json::json!({}));
    let governed_by = "\"governedBy\":[{\"name\":\"p\",\"revision\":\"";
    assert!(plain.starts_with(r#"{"version":2,"servers":[{"#) && plain.contains(governed_by), "{plain}");
    let policies = r#""policies":[{"key":{"namespace":"default","name":"p"},"mode":"Enforce","rules":[{"name":"r","from":[{"authenticated":true}],"allow":[{"tools":["*"]}]}]}]}"#;
    assert!(plain.ends_with(policies), "{plain}");
    let bound = text_with_rule(&serde_json::json!({"views": ["sales", "other/sales"]}));
    assert!(bound.starts_with(r#"{"version":3,"#), "{bound}");
    let read = Snapshot::parse(&bound).unwrap();
    assert_eq!(read.servers[0].governing().unwrap()[0].rules[0].views, ["sales", "other/sales"]);
    assert_eq!(read.to_text(), bound);
}

#[test]
fn a_newer_version_and_other_texts_are_refused() {
    assert!(matches!(
        Snapshot::parse(r#"{"version":4,"servers":[{"new":1}]}"#),
        Err(SnapshotError::Version { found: 4 })
    ));
    for text in
        ["", "{}", "[]", r#"{"version":1}"#, r#"{"version":"1","servers":[]}"#, r#"{"version":1,"servers":[{}]}"#]
    {
        assert!(matches!(Snapshot::parse(text), Err(SnapshotError::Syntax(_))), "{text}");
    }
}

#[test]
fn a_server_is_named_as_its_writer_names_it_whatever_else_he_knows() {
    let server = Server::from_url("a", "http://a/sse");
    let text = |more: &str| server.to_text().replacen('{', &format!("{{{more}"), 1);
    let read = |text: &str| {
        let snapshot = Snapshot::parse(&format!(r#"{{"version":1,"servers":[{text}]}}"#)).unwrap();
        snapshot.servers.into_iter().next().unwrap()
    };
    let (plain, newer) = (text(""), text(r#""moods":["calm"],"#));
    assert_eq!((read(&plain).revision(), read(&newer).revision()), (server.revision(), revision_of(&newer)));
    assert_eq!((read(&plain), read(&newer)), (server.clone(), server.clone()));
    assert_ne!(read(&plain), read(&newer));
}

/// The text of a slot with these servers, each of which is governed by the policy of its name with this rule.
fn governed(servers: &[(&str, u16, &str)], known: &[&str]) -> String {
    let policy = |(name, _, rule): &(&str, u16, &str)| {
        format!(
            r#"{{"key":{{"namespace":"default","name":"{name}"}},"rules":[{{"name":"{rule}","from":[],"allow":[]}}]}}"#
        )
    };
    let servers_text = servers.iter().map(|one| {
        let governed_by = vec![PolicyRef { name: one.0.to_owned(), revision: revision_of(&policy(one)) }];
        Server { weight: one.1, governed_by, ..Server::from_url(one.0, "http://x/") }.to_text()
    });
    let policies = servers.iter().filter(|one| known.contains(&one.0)).map(policy);
    let policy_text = |text: String| {
        let revision = revision_of(&text).into();
        PolicyText { text: text.into(), revision, is_limited: false, names_views: false }
    };
    let (servers, policies): (Vec<String>, Vec<_>) = (servers_text.collect(), policies.map(policy_text).collect());
    text_of(servers.iter().map(String::as_str), policies.iter(), std::iter::empty(), None)
}

#[test]
fn what_a_text_has_in_common_with_the_one_before_is_the_same_value() {
    let texts = [
        governed(&[("a", 1, "r"), ("b", 1, "r"), ("c", 1, "r")], &["a", "b", "c"]),
        // Another weight of b, another rule for c, no policy of a, and d.
        governed(&[("a", 1, "r"), ("b", 2, "r"), ("c", 1, "s"), ("d", 1, "r")], &["b", "c", "d"]),
        governed(&[("a", 1, "r"), ("b", 2, "r"), ("c", 1, "s")], &["a", "b", "c"]),
    ];
    let mut before = SharedSnapshot::default();
    let mut same = Vec::new();
    for text in &texts {
        let after = SharedSnapshot::parse_after(text, &before.servers, &before.views).unwrap();
        let whole = Snapshot::parse(text).unwrap();
        let known = |server: &Server| server.governing().map(|policies| policies.to_vec());
        let states = |servers: &[Arc<Server>]| -> Vec<_> {
            servers.iter().map(|server| (Server::clone(server), known(server))).collect()
        };
        let expected: Vec<_> = whole.servers.iter().map(|server| (server.clone(), known(server))).collect();
        assert_eq!(states(&after.servers), expected, "{text}");
        let of =
            |snapshot: &SharedSnapshot, name: &str| snapshot.servers.iter().find(|server| server.name == name).cloned();
        let is_same =
            |name: &&str| matches!((of(&before, name), of(&after, name)), (Some(a), Some(b)) if Arc::ptr_eq(&a, &b));
        same.push(["a", "b", "c", "d"].into_iter().filter(is_same).collect::<Vec<_>>());
        before = after;
    }
    assert_eq!(same, [vec![], vec![], vec!["b", "c"]]);
}

fn server() -> impl Strategy<Value = Server> {
    ("[a-z]{1,3}", "[a-z]{1,3}", 0u16..1000, 0u8..10, any::<bool>(), prop::option::of(".{0,9}")).prop_map(
        |(namespace, name, weight, priority, off, description)| Server {
            key: ServerKey::new(namespace, name.clone()),
            weight,
            priority,
            description,
            state: if off { ServingState::Disabled } else { ServingState::Enabled },
            ..Server::from_url(&name, "http://x/")
        },
    )
}

proptest! {
    #[test]
    fn what_is_written_is_read_and_order_does_not_matter(
        servers in prop::collection::vec(server(), 0..6),
        turn in 0usize..6,
    ) {
        let mut servers = servers;
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        servers.dedup_by(|a, b| a.key == b.key);
        let snapshot = Snapshot::new(servers.clone());
        prop_assert_eq!(&Snapshot::parse(&snapshot.to_text()).unwrap(), &snapshot);
        let middle = turn.min(servers.len());
        servers.rotate_left(middle);
        prop_assert_eq!(Snapshot::new(servers).digest(), snapshot.digest());
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,60}") {
        let _ = Snapshot::parse(&text);
    }
}

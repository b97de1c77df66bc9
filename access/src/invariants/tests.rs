use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Conditions that are mostly right.
fn condition() -> BoxedStrategy<String> {
    let leaf = prop::sample::select(vec![
        "args.n",
        "args.text",
        "args.list",
        "args.object.n",
        "args.missing",
        "args",
        "caller.subject",
        "caller.claims.groups",
        "caller.claims.level",
        "caller.claims",
        "tool.name",
        "tool.hints.readOnly",
        "server.labels.tier",
        "now",
        "x",
        "true",
        "false",
        "null",
        "0",
        "3",
        "-1",
        "9223372036854775807",
        "0.5",
        "1e308",
        "'a'",
        "'sre'",
        "[]",
        "['a', 'sre']",
        "[1, 2]",
        "timestamp('2026-12-01T09:30:00Z')",
        "duration('1h')",
    ]);
    let leaf = leaf.prop_map(str::to_owned).boxed();
    leaf.prop_recursive(5, 40, 3, |part| {
        let operator =
            prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "!=", "<", "<=", ">", ">=", "in", "&&", "||"]);
        let test = prop::sample::select(vec!["all", "exists", "exists_one", "map", "filter"]);
        let method = prop::sample::select(vec![
            "size()",
            "lowerAscii()",
            "getHours()",
            "startsWith('a')",
            "contains('r')",
            "matches('^a*b*$')",
        ]);
        let function = prop::sample::select(vec!["size", "int", "double", "string", "timestamp", "duration", "has"]);
        prop_oneof![
            4 => (part.clone(), operator, part.clone()).prop_map(|(a, sign, b)| format!("({a} {sign} {b})")),
            1 => part.clone().prop_map(|a| format!("!{a}")),
            1 => (part.clone(), part.clone(), part.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            2 => (part.clone(), test, part.clone()).prop_map(|(a, test, b)| format!("{a}.{test}(x, {b})")),
            1 => (part.clone(), method).prop_map(|(a, method)| format!("{a}.{method}")),
            1 => (function, part.clone()).prop_map(|(function, a)| format!("{function}({a})")),
            1 => (part.clone(), part.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            1 => prop::collection::vec(part, 0..3).prop_map(|items| format!("[{}]", items.join(", "))),
        ]
    })
    .boxed()
}

fn json_value() -> BoxedStrategy<Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2..4_i64).prop_map(Value::from),
        prop::sample::select(vec!["a", "b", "sre", "ml", "", "*"]).prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |value| {
        prop_oneof![
            prop::collection::vec(value.clone(), 0..4).prop_map(Value::from),
            members(value).prop_map(Value::from)
        ]
    })
    .boxed()
}

fn members(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Map<String, Value>> {
    let names = ["n", "text", "list", "object", "groups", "level", "roles", "groups.n", "", "a.b.c"];
    let name = prop::sample::select(names.to_vec()).prop_map(str::to_owned);
    prop::collection::vec((name, value), 0..5).prop_map(Map::from_iter).boxed()
}

/// Parts of policies, right or wrong.
fn part(texts: &'static [&'static str]) -> BoxedStrategy<Value> {
    let right = prop::sample::select(texts.to_vec()).prop_map(|text| serde_json::from_str(text).expect("JSON"));
    prop_oneof![12 => right, 1 => json_value()].boxed()
}

fn policy() -> BoxedStrategy<Value> {
    let source = part(&[
        r#"{"authenticated":true}"#,
        r#"{"authenticated":false}"#,
        r#"{"subject":"a*"}"#,
        r#"{"subject":"*","issuer":"https://issuer.example"}"#,
        r#"{"issuer":"https://other.example"}"#,
        r#"{"claims":[{"path":"groups","values":["sre","m*"]}]}"#,
        r#"{"claims":[{"path":"object.groups","values":["*"]},{"path":"n","values":["3","true"]}]}"#,
        r#"{"claims":[{"path":"groups.n","values":["a"]}],"issuer":"https://issuer.example"}"#,
        r#"{"claims":[{"path":"list.roles","values":["*"]}],"subject":null}"#,
        r#"{"claims":[]}"#,
        r#"{"serviceAccount":{"namespace":"agents","name":"*"}}"#,
        r#"{"serviceAccount":{"namespace":"*","name":"a*"},"claims":[{"path":"level","values":["*"]}]}"#,
        r#"{"subject":"*","only":"some"}"#,
    ]);
    let items = part(&[
        r#"{"tools":["*"]}"#,
        r#"{"tools":["get_*","b"]}"#,
        r#"{"tools":["*"],"hints":{"readOnly":true}}"#,
        r#"{"hints":{"destructive":true}}"#,
        r#"{"hints":{}}"#,
        r#"{"prompts":["*a"]}"#,
        r#"{"resources":["x:*","*:a*"]}"#,
        r#"{"tools":["*"],"prompts":["*"]}"#,
        r#"{"tools":["*"],"only":["b"]}"#,
    ]);
    let when =
        prop::option::weighted(0.3, prop::sample::select(vec!["args.n <= 3", "caller.subject == 'a'", "nothing"]));
    let rule = (
        prop::sample::select(vec!["r", "s", "t", "R"]),
        prop::collection::vec(source, 0..3),
        prop::collection::vec(items, 0..3),
        when,
        prop::option::weighted(0.1, json_value()),
    );
    let rule = rule.prop_map(|(name, from, allow, when, more)| {
        let mut rule = json!({"name": name, "from": from, "allow": allow});
        when.into_iter().for_each(|when| rule["when"] = when.into());
        more.into_iter().for_each(|more| rule["unlessOnly"] = more);
        rule
    });
    let rule = prop_oneof![12 => rule, 1 => json_value()];
    let mode = part(&["null", "null", r#""Enforce""#, r#""Audit""#, r#""Warn""#]);
    (mode, prop::collection::vec(rule, 0..4), prop::option::weighted(0.1, json_value()))
        .prop_map(|(mode, rules, more)| {
            let mut spec = json!({"mode": mode, "rules": rules});
            more.into_iter().for_each(|more| spec["servers"] = more);
            json!({"metadata": {"namespace": "team-a", "name": "p"}, "spec": spec})
        })
        .boxed()
}

proptest! {
    #[test]
    fn a_condition_keeps_its_bounds_and_a_list_hides_nothing_that_a_call_gets(
        source in condition(),
        args in members(json_value()),
        claims in members(json_value()),
    ) {
        check_condition(&source, &args.into(), &claims);
    }

    #[test]
    fn any_text_is_a_condition_or_is_refused(source in "[\\PC\\n]{0,200}", args in json_value()) {
        check_condition(&source, &args, &Map::new());
    }

    #[test]
    fn a_policy_allows_what_its_rules_say_and_nothing_else(
        object in policy(),
        claims in members(json_value()),
        subject in prop::sample::select(vec!["a", "b", "", "system:serviceaccount:agents:a1", "system:serviceaccount::"]),
        (has_issuer, is_of_cluster) in any::<(bool, bool)>(),
        kind in prop::sample::select(vec![ItemKind::Tool, ItemKind::Prompt, ItemKind::Resource]),
        name in prop::sample::select(vec!["a", "b", "get_x", "x:a", ""]),
    ) {
        check_policy(&object, Call { subject, claims: &claims, has_issuer, is_of_cluster, kind, name });
    }

    #[test]
    fn any_json_is_a_policy_that_allows_what_it_says(object in json_value(), claims in members(json_value())) {
        let call = Call { subject: "a", claims: &claims, has_issuer: false, is_of_cluster: false, kind: ItemKind::Tool, name: "a" };
        check_policy(&object, call);
        check_policy(&json!({"spec": object}), call);
        check_policy(&json!({"spec": {"rules": object}}), call);
    }
}

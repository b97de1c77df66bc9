use serde_json::json;

use super::*;

fn outcome(source: &str, args: Option<&Json>) -> Result<Outcome, Failure> {
    let claims = json!({"team": "sre", "groups": ["sre", "ml"], "level": 3, "realm_access": {"roles": ["admin"]}});
    let labels = json!({"tier": "public"});
    let input = Input {
        subject: "system:serviceaccount:agents:agent-1",
        issuer: Some("https://kubernetes.default.svc"),
        service_account: Some(("agents", "agent-1")),
        claims: claims.as_object(),
        server: ("team-a", "search"),
        labels: labels.as_object(),
        tool: Some(("get_x", [true, false, false, true])),
        args,
        now: args.map(|_| "2026-12-01T09:30:00Z".parse().unwrap()),
    };
    Condition::compile(source).unwrap_or_else(|error| panic!("{source}: {error}")).evaluate(&input, Bounds::default())
}

#[test]
fn conditions_mean_what_cel_means() {
    let args = json!({"limit": 50, "q": "status", "ratio": 0.5, "big": 9_007_199_254_740_993_i64, "tags": ["a", "b"],
        "nested": {"a": [{"b": 1}, {"b": 2}]}, "nothing": null, "empty": []});
    for (source, holds) in [
        ("args.limit <= 100 && caller.claims.team == 'sre'", true),
        ("args.limit > 100 || args.q.startsWith('stat')", true),
        ("args.limit == 50.0", true),
        ("args.big == 9007199254740992.0", false),
        ("args.big > 9007199254740992.0", true),
        ("args.ratio * 2.0 == 1.0", true),
        ("(args.limit + 10) % 7 == 4", true),
        ("-args.limit < 0", true),
        ("args['limit'] == 50 && args.tags[1] == 'b'", true),
        ("'a' in args.tags && !('c' in args.tags)", true),
        ("'limit' in args && has(args.q) && !has(args.missing)", true),
        ("args.nothing == null", true),
        ("args.nested.a.exists(x, x.b == 2)", true),
        ("args.nested.a.all(x, x.b > 0)", true),
        ("args.nested.a.all(x, x.b > 1)", false),
        ("args.tags.exists_one(x, x == 'a')", true),
        ("args.tags.filter(x, x != 'a') == ['b']", true),
        ("args.tags.map(x, x + '!') == ['a!', 'b!']", true),
        ("args.empty.all(x, x == 1)", true),
        ("args.nested.a.all(x, args.tags.exists(y, y == 'a' && x.b > 0))", true),
        ("size(args.tags) == 2 && args.q.size() == 6", true),
        ("args.q.matches('^st.*s$')", true),
        ("args.q.contains('tat') && args.q.endsWith('us')", true),
        ("args.q.upperAscii() == 'STATUS' && 'ABC'.lowerAscii() == 'abc'", true),
        ("int('7') == 7 && double(1) == 1.0 && string(7) == '7'", true),
        ("args.limit > 10 ? caller.claims.level == 3 : false", true),
        ("caller.claims.groups.exists(g, g == 'ml')", true),
        ("'admin' in caller.claims.realm_access.roles", true),
        ("caller.serviceAccount.namespace == 'agents' && caller.serviceAccount.name.startsWith('agent-')", true),
        ("has(caller.serviceAccount) && has(caller.issuer) && has(tool.hints)", true),
        ("server.labels.tier == 'public' && server.namespace == 'team-a' && server.name == 'search'", true),
        ("tool.hints.readOnly && !tool.hints.destructive && tool.name == 'get_x'", true),
        ("now.getHours() >= 9 && now.getHours() < 17 && now.getDayOfWeek() == 2", true),
        (
            "now.getMonth() == 11 && now.getDayOfMonth() == 0 && now.getFullYear() == 2026 && now.getMinutes() == 30",
            true,
        ),
        ("now < timestamp('2027-01-01T00:00:00Z')", true),
        ("now - timestamp('2026-12-01T09:00:00Z') == duration('30m')", true),
        ("now + duration('1h') > now", true),
        // One side decides, even where the other fails.
        ("args.missing == 1 || args.limit == 50", true),
        ("args.limit == 1 && args.missing == 1", false),
    ] {
        let expected = if holds { Outcome::Holds } else { Outcome::Fails };
        assert_eq!(outcome(source, Some(&args)), Ok(expected), "{source}");
    }
}

#[test]
fn what_is_not_known_leaves_a_condition_open_only_where_it_may_still_hold() {
    for (source, expected) in [
        ("args.limit <= 100", Ok(Outcome::Open)),
        ("args.limit <= 100 && caller.claims.team == 'sre'", Ok(Outcome::Open)),
        ("args.limit <= 100 && caller.claims.team == 'ml'", Ok(Outcome::Fails)),
        ("args.limit <= 100 || caller.claims.team == 'sre'", Ok(Outcome::Holds)),
        ("args.tags.all(x, x == 'a') && !(args.q in ['a'])", Ok(Outcome::Open)),
        ("size(args.tags) > 1 ? true : false", Ok(Outcome::Open)),
        ("now.getHours() < 17", Ok(Outcome::Open)),
        ("[args.limit, 1].exists(x, x == 1)", Ok(Outcome::Open)),
        ("args.x == 1 || caller.claims.missing == 1", Ok(Outcome::Open)),
        ("args.x == 1 && caller.claims.missing == 1", Err(())),
        ("has(args.limit)", Ok(Outcome::Open)),
    ] {
        assert_eq!(outcome(source, None).map_err(|_| ()), expected, "{source}");
    }
}

#[test]
fn a_condition_that_fails_for_its_values_has_no_result() {
    let args = json!({"limit": "many", "list": [1], "zero": 0, "max": i64::MAX});
    for source in [
        "args.missing == 1",
        "args.limit <= 100",
        "args.list[1] == 1",
        "args.list[-1] == 1",
        "args.max + 1 > 0",
        "1 / args.zero == 1",
        "1 % args.zero == 1",
        "args.limit",
        "args.list.all(x, x.b == 1)",
        "!args.limit",
        "args.limit && true",
        "caller.claims.team.name == 'a'",
        "timestamp(args.limit) < now",
        "duration(args.limit) < duration('1s')",
        "int(args.limit) == 1",
    ] {
        assert!(matches!(outcome(source, Some(&args)), Err(Failure::Values(_))), "{source}");
    }
}

#[test]
fn a_wrong_expression_is_refused_with_what_is_wrong() {
    for (source, part) in [
        ("", "not valid CEL"),
        ("args.limit <=", "not valid CEL"),
        ("args limit", "not valid CEL"),
        ("foo == 1", "there is no \"foo\": use caller, server, tool, args or now"),
        ("caller.name == 'a'", "caller has no \"name\": use one of subject, issuer, serviceAccount, claims"),
        ("caller.serviceAccount == 'a'", "caller.serviceAccount is not a value: name one of its members"),
        ("tool.hints.safe", "tool.hints has no \"safe\""),
        ("args.limit", ""),
        ("caller.subject", "the condition must be of type bool, not string"),
        ("1 + 1", "the condition must be of type bool, not int"),
        ("caller.subject == 1", "string == int does not fit"),
        ("caller.subject < 1", "string < int does not fit"),
        ("'a' + 1 == 'b'", "string + int does not fit"),
        ("now + 1 == now", "timestamp + int does not fit"),
        ("1 in 'abc'", "int in string does not fit"),
        ("caller.subject && true", "an operand of && must be of type bool, not string"),
        ("!caller.subject", "the operand of ! must be of type bool, not string"),
        ("caller.subject.foo == 1", "string has no members"),
        ("args.q.matches(args.p)", "needs its pattern as a text in quotes"),
        ("args.q.matches('(')", "not a regular expression"),
        ("args.q.matches('(a{1000}){1000}')", "too large"),
        ("args.q.split(',')[0] == 'a'", "there is no function \"split\""),
        ("now.getHours('UTC') == 1", "takes another number of arguments"),
        ("{'a': 1}.a == 1", "maps and messages cannot be written here"),
        ("b'a' == b'a'", "bytes are not supported"),
        ("1u == 1u", "numbers with u are not supported"),
        ("caller.subject.startsWith(1)", "what startsWith() takes must be of type string, not int"),
        ("args.list.all(x, y == 1)", "there is no \"y\""),
    ] {
        match Condition::compile(source) {
            Ok(_) => assert_eq!(part, "", "{source}"),
            Err(error) => assert!(!part.is_empty() && error.to_string().contains(part), "{source}: {error}"),
        }
    }
}

#[test]
fn a_deep_or_long_expression_is_refused_in_a_moment() {
    for source in [
        format!("{}true{}", "(".repeat(2_000), ")".repeat(2_000)),
        "[".repeat(4_000),
        format!("args{} == 1", ".a".repeat(2_000)),
        vec!["true"; 1_000].join(" && "),
        vec!["1"; 200].join(" + ") + " == 1",
        "args.x == 1 || ".repeat(2_000) + "true",
        vec!["1"; 2_000].join(" + ") + " == 1",
    ] {
        let began = Instant::now();
        assert!(Condition::compile(&source).is_err(), "{}", &source[..40]);
        assert!(began.elapsed() < Duration::from_secs(2), "{:?} {}", began.elapsed(), &source[..40]);
    }
}

#[test]
fn an_evaluation_ends_at_its_bounds_whatever_the_expression_does() {
    let many: Vec<u32> = (0..1_000).collect();
    let args = json!({"many": many, "text": "a".repeat(1_000_000), "list": vec!["x"; 200]});
    for source in [
        "args.many.all(a, args.many.all(b, args.many.all(c, a + b + c >= 0)))",
        "args.many.map(a, args.many.map(b, args.many))[0] == []",
        "args.text.matches('a*a*a*a*b')",
        "args.text.contains('ab') || args.text.contains('ac')",
        "args.list.exists(x, args.list.exists(y, args.list.exists(z, x + y + z == 'no')))",
        "args.many.map(a, a + 1).map(a, a + 1).map(a, a + 1).map(a, a + 1).size() == 0",
    ] {
        let began = Instant::now();
        assert_eq!(outcome(source, Some(&args)), Err(Failure::TooLong), "{source}");
        assert!(began.elapsed() < Duration::from_secs(2), "{:?} {source}", began.elapsed());
    }
    let slow = Condition::compile("args.many.all(a, args.many.all(b, a + b >= 0))").unwrap();
    let input = Input { args: Some(&args), ..Input::default() };
    let by_time = Bounds { steps: u32::MAX, time: Duration::from_millis(1) };
    assert_eq!(slow.evaluate(&input, by_time), Err(Failure::TooLong));
}

#[test]
fn a_pattern_of_matches_counts_by_its_size_and_so_do_all_of_an_expression() {
    let args = json!({"text": "ab".repeat(4_000)});
    assert_eq!(outcome("args.text.matches('^(ab)+$')", Some(&args)), Ok(Outcome::Holds));
    assert_eq!(outcome(r"'some_word-x'.matches('^\\w+-[a-z]{1,63}$')", Some(&args)), Ok(Outcome::Holds));
    // Its automaton has so many states that each byte is slow.
    assert_eq!(outcome("args.text.matches('[ab]*a[ab]{900}c')", Some(&args)), Err(Failure::TooLong));
    let many = vec!["args.text.matches('[ab]{400}')"; 20].join(" || ");
    assert_eq!(
        Condition::compile(&many).err(),
        Some(CelError::Check("the patterns of matches() are too large, or too many: write several rules".into()))
    );
}

#[test]
fn the_weight_of_a_value_is_not_counted_beyond_what_is_left() {
    let json = json!([vec![1; 1_000], {"a": vec!["x"; 1_000]}]);
    let value = Value::of_json(&json);
    assert!(value.weight(usize::MAX) > 2_000);
    assert!((10..20).contains(&value.weight(10)), "{}", value.weight(10));
    let list = Value::List(vec![value.clone(); 1_000].into());
    assert!((10..20).contains(&list.weight(10)), "{}", list.weight(10));
}

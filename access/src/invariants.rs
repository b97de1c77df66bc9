//! What holds for conditions and policies whatever they are and whatever a caller sends: for property tests and fuzzing.
//!
//! Each function panics where a rule is broken. What rules allow is judged a second time here, in a way of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_crds::{ReadPolicy, ServerKey};
use serde_json::{Map, Value};

use crate::budget::Budget;
use crate::caller::Caller;
use crate::cel::{Bounds, Condition, Failure, Input, Outcome};
use crate::class::{Memo, Table};
use crate::decision::{Item, ItemKind, Permission, Target};
use crate::policy::CompiledPolicy;

/// All evaluations of one condition, each of which has to end after 20 ms, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(2);

/// The issuer of every caller here.
const ISSUER: &str = "https://issuer.example";

/// Compiles a condition and evaluates it.
///
/// # Panics
/// It takes too long; a result depends on something that the condition does not name; or what a list says is not so for
/// these arguments.
pub fn check_condition(source: &str, args: &Value, claims: &Map<String, Value>) {
    let began = Instant::now();
    let Ok(condition) = Condition::compile(source) else { return };
    let labels = Map::from_iter([("tier".to_owned(), Value::from("public"))]);
    let listed = Input {
        subject: "system:serviceaccount:agents:agent-1",
        issuer: Some(ISSUER),
        service_account: Some(("agents", "agent-1")),
        claims: Some(claims),
        server: ("team-a", "search"),
        labels: Some(&labels),
        tool: Some(("get_x", [true, false, false, true])),
        args: None,
        now: None,
    };
    let now = jiff::Timestamp::from_second(1_800_000_000).ok();
    let called = Input { args: Some(args), now, ..listed };
    let of = |input: &Input<'_>, steps: u32| condition.evaluate(input, Bounds { steps, ..Bounds::default() });
    let steps = Bounds::default().steps;
    let (list, call) = (of(&listed, steps), of(&called, steps));
    assert_ne!(call, Ok(Outcome::Open), "everything is known: {source}");
    // A list may show what no call gets, but it must not hide what some call gets. Both have a bound of their own.
    let hides = matches!(list, Ok(Outcome::Fails) | Err(Failure::Values(_))) && call == Ok(Outcome::Holds);
    let promises = list == Ok(Outcome::Holds) && matches!(call, Ok(Outcome::Fails) | Err(Failure::Values(_)));
    assert!(!hides && !promises, "{source}: {list:?} for a list, {call:?} for the call {args}");
    for fewer in [0, 1, 10, 100, 1_000] {
        let bounded = of(&called, fewer);
        assert!(bounded == Err(Failure::TooLong) || bounded == call, "{source}: {bounded:?} in {fewer} steps");
    }
    // Time is a bound too, so these can end by it where the first did not.
    let is_same = |other: Result<Outcome, Failure>| other == call || other == Err(Failure::TooLong);
    let ended = call == Err(Failure::TooLong);
    if !condition.uses_args {
        assert!(ended || is_same(of(&Input { args: None, ..called }, steps)), "{source} names args");
    }
    if !condition.uses_tool {
        assert!(ended || is_same(of(&Input { tool: None, ..called }, steps)), "{source} names tool");
    }
    if !condition.uses_caller {
        let other = Input { subject: "", issuer: None, service_account: None, claims: None, ..called };
        assert!(ended || is_same(of(&other, steps)), "{source} names caller");
    }
    assert!(began.elapsed() < LIMIT, "{source} took {:?}", began.elapsed());
}

/// Who calls what, in [`check_policy`].
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// The `sub` of the token.
    pub subject: &'a str,
    /// All of its claims.
    pub claims: &'a Map<String, Value>,
    /// Its issuer is known, and there are others.
    pub has_issuer: bool,
    /// The cluster's own issuer says who it is.
    pub is_of_cluster: bool,
    /// The kind of the item.
    pub kind: ItemKind,
    /// Its name.
    pub name: &'a str,
}

/// Reads a policy, which is an object of Kubernetes or anything else, and decides what a caller may use.
///
/// # Panics
/// It allows what none of its rules says, or denies what a rule says that can be read.
pub fn check_policy(object: &Value, call: Call<'_>) {
    let read = ReadPolicy::of(object);
    let problems = CompiledPolicy::problems_of(&read);
    let again: portcullis_crds::Policy = serde_json::from_str(&read.text.text).expect("a policy's own text");
    assert_eq!(again, *read.policy, "{object}");
    let policies = [Arc::clone(&read.policy)];
    let (table, governances) = Table::of([Some(policies.as_slice())].into_iter(), None);
    let caller = Caller {
        subject: call.subject,
        issuer: call.has_issuer.then_some(ISSUER),
        is_of_cluster: call.is_of_cluster,
        is_of_only_source: !call.has_issuer,
        claims: call.claims,
        view: None,
    };
    let class = table.class_of(&caller, &Memo::default());
    let (server, labels) = (ServerKey::new("team-a", "search"), Map::new());
    let item = Item { kind: call.kind, name: call.name, hints: crate::decision::DEFAULT_HINTS };
    let target = Target { server: &server, labels: &labels, item };
    let permission = table.permission((&governances[0], true), (&class, &caller), &target, &Budget::of_call());
    let spec = &object["spec"];
    let is_audit = spec["mode"] == "Audit";
    assert_eq!(matches!(permission, Permission::Open), is_audit, "{object}");
    if is_audit {
        return;
    }
    let rules = spec["rules"].as_array().map_or(&[][..], Vec::as_slice);
    let says = |rule: &Value| {
        says_so(&rule["from"], |one| from(one, &call)) && says_so(&rule["allow"], |one| allows(one, &call))
    };
    let allowed = matches!(permission, Permission::Granted(_));
    let said = rules.iter().any(says);
    assert!(said || !allowed, "no rule says this: {object} {call:?}");
    if problems.is_empty() && rules.iter().all(|rule| rule["when"].is_null()) {
        assert_eq!(allowed, said, "{object} {call:?}");
    }
}

fn says_so(entries: &Value, test: impl FnMut(&Value) -> bool) -> bool {
    entries.as_array().is_some_and(|entries| entries.iter().any(test))
}

fn from(source: &Value, call: &Call<'_>) -> bool {
    let Some(members) = source.as_object() else { return false };
    let is_said = |name: &str| members.get(name).is_some_and(|member| !member.is_null());
    if is_said("authenticated") {
        return source["authenticated"] == true;
    }
    let is_named = is_said("issuer") || is_said("serviceAccount");
    let claims: &[Value] = source["claims"].as_array().map_or(&[], Vec::as_slice);
    if !(is_named || is_said("subject") || !claims.is_empty()) || (call.has_issuer && !is_named) {
        return false;
    }
    let issuer = !is_said("issuer") || (call.has_issuer && source["issuer"] == ISSUER);
    let subject = !is_said("subject") || glob(&source["subject"], call.subject);
    let account = !is_said("serviceAccount") || {
        let mut parts = call.subject.splitn(4, ':');
        let prefix = [parts.next(), parts.next()] == [Some("system"), Some("serviceaccount")];
        let (namespace, name) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        let wanted = &source["serviceAccount"];
        let is_one = prefix && call.is_of_cluster && !namespace.is_empty() && !name.is_empty();
        is_one && glob(&wanted["namespace"], namespace) && glob(&wanted["name"], name)
    };
    let mut known = Vec::new();
    walk(call.claims, None, &mut known);
    let has = |claim: &Value| {
        let values = claim["values"].as_array().map_or(&[][..], Vec::as_slice);
        let fits = |(path, text): &(String, String)| claim["path"] == **path && values.iter().any(|it| glob(it, text));
        known.iter().any(fits)
    };
    issuer && subject && account && claims.iter().all(has)
}

/// All texts that claims hold, with the paths that lead to them. A name with dots leads no further.
fn walk(members: &Map<String, Value>, before: Option<&str>, known: &mut Vec<(String, String)>) {
    for (name, value) in members {
        let path = before.map_or_else(|| name.clone(), |before| format!("{before}.{name}"));
        let own = std::slice::from_ref(value);
        for text in value.as_array().map_or(own, Vec::as_slice).iter().filter_map(text_of) {
            known.push((path.clone(), text));
        }
        if !name.contains('.') {
            enter(value, &path, known);
        }
    }
}

fn enter(value: &Value, path: &str, known: &mut Vec<(String, String)>) {
    match value {
        Value::Object(members) => walk(members, Some(path), known),
        Value::Array(items) => items.iter().for_each(|item| enter(item, path, known)),
        _ => {}
    }
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn allows(items: &Value, call: &Call<'_>) -> bool {
    let list = |name: &str| says_so(&items[name], |pattern| glob(pattern, call.name));
    match call.kind {
        ItemKind::Tool => {
            let defaults = [("readOnly", false), ("destructive", true), ("idempotent", false), ("openWorld", true)];
            let hints = &items["hints"];
            let fits = defaults.iter().all(|(name, is)| hints[*name].is_null() || hints[*name] == *is);
            (!items["tools"].is_null() || !hints.is_null()) && (items["tools"].is_null() || list("tools")) && fits
        }
        ItemKind::Prompt => list("prompts"),
        ItemKind::Resource | ItemKind::Template => list("resources"),
    }
}

/// Whether a text matches a pattern: by a table of both, one row for each byte of the pattern.
fn glob(pattern: &Value, text: &str) -> bool {
    let Some(pattern) = pattern.as_str() else { return false };
    let mut row = vec![false; text.len() + 1];
    row[0] = true;
    for byte in pattern.bytes() {
        let mut next = vec![false; text.len() + 1];
        for at in 0..=text.len() {
            next[at] = match byte {
                b'*' => row[at] || (at > 0 && next[at - 1]),
                byte => at > 0 && row[at - 1] && text.as_bytes()[at - 1] == byte,
            };
        }
        row = next;
    }
    row[text.len()]
}

#[cfg(test)]
mod tests;

//! Reads an McpView from the JSON of its object, as strictly as the API server.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Deserialize as _;
use serde_json::Value;

use super::{MAX_VIEW_BYTES, View};
use crate::mcpaccesspolicy::{LabelSelector, RequiredHints};
use crate::mcpview::{
    MAX_BUDGET_BYTES, MAX_BUDGET_TOKENS, MAX_INSTRUCTIONS_BYTES, MAX_SELECTIONS, MAX_VIEW_PATTERNS, MAX_VIEW_TOOLS,
    McpViewSpec, ViewBudget, ViewSelection, ViewServers, ViewTool,
};
use crate::names::{DEFAULT_NAMESPACE, ServerKey};
use crate::policy::is_object_name;
use crate::rules::{is_dns_label, is_pattern};
use crate::strict::strict;

/// Entries of one list of patterns, and characters of a pattern for names and for URIs.
const PATTERNS: (usize, usize, usize) = (128, 128, 2048);

/// Patterns for names of servers, and namespaces, of one entry.
const SERVERS: (usize, usize) = (64, 16);

/// Requirements and labels of a selector, values of a requirement, and characters of a key and of a value.
const SELECTOR: (usize, usize, usize, usize) = (16, 64, 317, 63);

/// Characters of a tool's new name, and of its description.
const LOOK: (usize, usize) = (64, 4096);

/// A view that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadView {
    /// Its namespace and name.
    pub key: ServerKey,
    /// `metadata.generation`.
    pub generation: i64,
    /// When it was created, in seconds since 1970; 0 where that is not known.
    pub created: i64,
    /// What the gateway needs of it, or what is wrong with it, one sentence each: a view with any problem is not served.
    pub view: Result<Arc<View>, Vec<String>>,
}

impl ReadView {
    /// Reads a view from the JSON of its object. `home` is the namespace whose views go by their bare names.
    pub fn of(object: &Value, home: &str) -> Self {
        let metadata = &object["metadata"];
        let text = |member: &str| metadata[member].as_str().filter(|text| !text.is_empty());
        let key = ServerKey::new(text("namespace").unwrap_or(DEFAULT_NAMESPACE), text("name").unwrap_or_default());
        let created = Time::deserialize(&metadata["creationTimestamp"]).map_or(0, |time| time.0.as_second());
        let mut problems = Vec::new();
        for (field, name) in [("name", &key.name), ("namespace", &key.namespace)] {
            if !is_dns_label(name) {
                problems.push(format!(
                    "metadata.{field} {name:?} is not a DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"
                ));
            }
        }
        let view = match read_spec(&object["spec"], &mut problems) {
            Some(spec) if problems.is_empty() => checked_size(View::new(key.clone(), spec, home)),
            _ => Err(problems),
        };
        Self { key, generation: metadata["generation"].as_i64().unwrap_or(0), created, view: view.map(Arc::new) }
    }
}

fn checked_size(view: View) -> Result<View, Vec<String>> {
    match view.to_text().len() {
        bytes if bytes > MAX_VIEW_BYTES => {
            Err(vec![format!("the view takes {bytes} bytes, more than {MAX_VIEW_BYTES}: split it")])
        }
        _ => Ok(view),
    }
}

fn read_spec(spec: &Value, problems: &mut Vec<String>) -> Option<McpViewSpec> {
    if !spec.is_object() {
        problems.push("spec is missing".into());
        return None;
    }
    let spec = strict::<McpViewSpec>(spec).map_err(|problem| problems.push(problem)).ok()?;
    if spec.select.is_empty() || spec.select.len() > MAX_SELECTIONS {
        problems.push(format!("select takes 1 to {MAX_SELECTIONS} entries"));
    }
    if spec.exclude.len() > MAX_SELECTIONS {
        problems.push(format!("exclude has more than {MAX_SELECTIONS} entries: remove some"));
    }
    for (list, entries) in [("select", &spec.select), ("exclude", &spec.exclude)] {
        for (index, entry) in entries.iter().enumerate() {
            let is_empty = *entry == ViewSelection::default();
            let problem = if list == "exclude" && is_empty {
                Err("it would leave out everything: set servers, tools, hints, prompts or resources".into())
            } else {
                check_selection(entry)
            };
            problems.extend(problem.err().map(|problem| format!("{list}[{index}]: {problem}")));
        }
    }
    let patterns = |entry: &ViewSelection| -> usize {
        [&entry.tools, &entry.prompts, &entry.resources].into_iter().flatten().map(Vec::len).sum()
    };
    if spec.select.iter().chain(&spec.exclude).map(patterns).sum::<usize>() > MAX_VIEW_PATTERNS {
        problems
            .push(format!("the view has more than {MAX_VIEW_PATTERNS} patterns: use * or split it into several views"));
    }
    if spec.tools.len() > MAX_VIEW_TOOLS {
        problems.push(format!("tools has more than {MAX_VIEW_TOOLS} entries: remove some"));
    }
    for (index, tool) in spec.tools.iter().enumerate() {
        problems.extend(check_tool(tool).err().map(|problem| format!("tools[{index}]: {problem}")));
    }
    problems.extend(spec.budget.and_then(|budget| check_budget(budget).err()));
    if spec.instructions.as_ref().is_some_and(|text| text.is_empty() || text.len() > MAX_INSTRUCTIONS_BYTES) {
        problems.push(format!("instructions takes 1 to {MAX_INSTRUCTIONS_BYTES} bytes"));
    }
    Some(spec)
}

fn check_selection(entry: &ViewSelection) -> Result<(), String> {
    if let Some(servers) = &entry.servers {
        check_servers(servers)?;
    }
    let (most, name, uri) = PATTERNS;
    for (list, patterns, chars) in
        [("tools", &entry.tools, name), ("prompts", &entry.prompts, name), ("resources", &entry.resources, uri)]
    {
        let fits = |pattern: &str| (1..=chars).contains(&pattern.chars().count());
        check_list(list, patterns.as_deref(), most, &format!("a pattern takes 1 to {chars} characters"), fits)?;
    }
    let is_empty = entry.hints.is_some_and(|hints| hints == RequiredHints::default());
    if is_empty { Err("hints is empty: set one, or leave hints out".into()) } else { Ok(()) }
}

fn check_servers(servers: &ViewServers) -> Result<(), String> {
    let ViewServers { names, selector, namespaces } = servers;
    if names.is_none() && selector.is_none() && namespaces.is_none() {
        return Err("servers: set names, selector or namespaces, or leave servers out to select all".into());
    }
    let is_name = |name: &str| name.len() <= 63 && is_pattern(name, "-");
    let (most_names, most_namespaces) = SERVERS;
    let letters = "a name holds 1 to 63 of a-z, 0-9, '-' and '*'";
    check_list("servers.names", names.as_deref(), most_names, letters, is_name)?;
    let label = "a namespace is a DNS label, without '*'";
    check_list("servers.namespaces", namespaces.as_deref(), most_namespaces, label, is_dns_label)?;
    selector.as_ref().map_or(Ok(()), check_selector)
}

fn check_selector(selector: &LabelSelector) -> Result<(), String> {
    let (most, most_values, key, value) = SELECTOR;
    if selector.match_labels.len() > most || selector.match_expressions.len() > most {
        return Err(format!("servers.selector: matchLabels and matchExpressions take {most} entries each"));
    }
    if selector.match_expressions.iter().any(|requirement| !requirement.is_complete()) {
        return Err("servers.selector: values belong to the operators In and NotIn, which need at least one".into());
    }
    let fits = selector.match_expressions.iter().all(|requirement| {
        (1..=key).contains(&requirement.key.chars().count())
            && requirement.values.len() <= most_values
            && requirement.values.iter().all(|text| text.chars().count() <= value)
    });
    if fits {
        return Ok(());
    }
    Err(format!(
        "servers.selector: a key has 1 to {key} characters, a value {value}, and a requirement {most_values} values"
    ))
}

/// Checks a list of patterns: absent, or 1 to `most` of them, each once.
fn check_list(
    name: &str,
    list: Option<&[String]>,
    most: usize,
    rule: &str,
    fits: impl Fn(&str) -> bool,
) -> Result<(), String> {
    let Some(list) = list else { return Ok(()) };
    if list.is_empty() || list.len() > most {
        return Err(format!("{name} takes 1 to {most} entries"));
    }
    if !list.iter().all(|text| fits(text)) {
        return Err(format!("{name}: {rule}"));
    }
    let mut seen = BTreeSet::new();
    match list.iter().find(|text| !seen.insert(text.as_str())) {
        Some(twice) => Err(format!("{name}: {twice:?} appears twice: keep one")),
        None => Ok(()),
    }
}

fn check_tool(tool: &ViewTool) -> Result<(), String> {
    let (rename, description) = LOOK;
    let count = |text: &Option<String>| text.as_ref().map_or(0, |text| text.chars().count());
    if tool.rename.is_none() && tool.description.is_none() {
        return Err("set rename or description".into());
    }
    if tool.server.as_deref().is_some_and(|server| !is_object_name(server)) {
        return Err("server: write it as NAME, or as NAMESPACE/NAME, of an McpServer".into());
    }
    if !(1..=PATTERNS.1).contains(&tool.name.chars().count()) {
        return Err(format!("name takes 1 to {} characters", PATTERNS.1));
    }
    let is_name = |name: &String| name.len() <= rename && crate::rules::is_tool_name(name);
    if !tool.rename.as_ref().is_none_or(is_name) {
        return Err(format!("rename to at most {rename} of A-Z a-z 0-9 _ . -"));
    }
    if count(&tool.description) > description {
        return Err(format!("description takes at most {description} characters"));
    }
    Ok(())
}

fn check_budget(budget: ViewBudget) -> Result<(), String> {
    match (budget.bytes, budget.tokens) {
        (Some(bytes), None) if bytes > MAX_BUDGET_BYTES => {
            Err(format!("budget: bytes takes at most {MAX_BUDGET_BYTES}"))
        }
        (None, Some(tokens)) if tokens > MAX_BUDGET_TOKENS => {
            Err(format!("budget: tokens takes at most {MAX_BUDGET_TOKENS}"))
        }
        (Some(_), None) | (None, Some(_)) => Ok(()),
        _ => Err("budget: set exactly one of bytes and tokens".into()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[derive(serde::Deserialize)]
    struct Cases {
        good: Vec<Value>,
        bad: Vec<BadSpec>,
    }

    /// `e2e/tests/control_plane` puts the same cases to a real API server.
    #[derive(serde::Deserialize)]
    struct BadSpec {
        spec: Value,
        rules: String,
    }

    fn read(spec: &Value) -> Result<Arc<View>, Vec<String>> {
        ReadView::of(&json!({"metadata": {"namespace": "n", "name": "v"}, "spec": spec}), "n").view
    }

    fn cases() -> Cases {
        serde_yaml::from_str(include_str!("../../testdata/view-rules.yaml")).unwrap()
    }

    #[test]
    fn good_views_are_read_whole_and_survive_their_text() {
        for spec in cases().good {
            let view = read(&spec).unwrap_or_else(|problems| panic!("{spec} gives {problems:?}"));
            let again: View = serde_json::from_str(&view.to_text()).unwrap();
            assert_eq!((&again, view.name.as_str()), (&*view, "v"));
        }
    }

    #[test]
    fn bad_views_are_told_what_to_do() {
        for BadSpec { spec, rules } in cases().bad {
            let problems = read(&spec).expect_err(&spec.to_string());
            assert!(problems.len() == 1 && problems[0].contains(&rules), "{spec} gives {problems:?}");
        }
    }

    #[test]
    fn a_view_has_a_name_a_spec_and_no_more_than_64_kib() {
        let of = |object: Value| ReadView::of(&object, "n").view.map(|_| ()).unwrap_err();
        assert_eq!(of(json!({"metadata": {"namespace": "n", "name": "v"}})), ["spec is missing"]);
        let named = of(json!({"metadata": {"namespace": "n", "name": "a.b"}, "spec": {"select": [{}]}}));
        assert!(named.len() == 1 && named[0].starts_with("metadata.name \"a.b\" is not a DNS label"), "{named:?}");
        let tool = |n: usize| json!({"name": format!("t{n}"), "description": "d".repeat(4096)});
        let long = of(json!({
            "metadata": {"namespace": "n", "name": "v"},
            "spec": {"select": [{}], "tools": (0..16).map(tool).collect::<Vec<_>>()},
        }));
        assert!(long.len() == 1 && long[0].ends_with(" bytes, more than 65536: split it"), "{long:?}");
    }

    #[test]
    fn its_age_and_generation_are_those_of_the_object() {
        let metadata = json!({
            "namespace": "n", "name": "v", "generation": 7, "creationTimestamp": "1970-01-01T00:01:00Z",
        });
        let read = ReadView::of(&json!({"metadata": metadata, "spec": {"select": [{}]}}), "home");
        assert_eq!((read.generation, read.created), (7, 60));
        assert_eq!(read.view.unwrap().name, "n/v");
    }
}

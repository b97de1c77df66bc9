//! A server's tools: read from `tools/list`, judged, filtered and renamed by the McpServer's rules.
//!
//! Pure. A bad tool is left out and counted, never the whole server. Definitions stay as the server wrote them,
//! but for the members that the rules change, and for those that strict clients would refuse the whole list for.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use portcullis_crds::mcpserver::{ToolHints, ToolOverride, ToolRules};
use portcullis_crds::names::TOOL_NAME_JOINER;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::item::{Found, Item, MAX_ITEMS, Members, add_member, digest_of, number_of};
use crate::short::{MAX_NAME_BYTES, is_short, short_form};
use crate::upstream::message::json_string;
use crate::upstream::params::param_headers;

/// The members of a definition that matter here; everything else is only carried.
struct Definition<'a> {
    name: String,
    description: Option<&'a RawValue>,
    input_schema: &'a RawValue,
    annotations: Option<&'a RawValue>,
    others: Vec<(String, &'a RawValue)>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default)]
    read_only_hint: Option<bool>,
    #[serde(default)]
    idempotent_hint: Option<bool>,
}

/// Reads definitions as they came and applies the rules.
pub fn read_tools<'a>(definitions: impl IntoIterator<Item = &'a str>, rules: &ToolRules) -> Found {
    let mut seen = HashSet::new();
    let mut found = Found::default();
    for text in definitions {
        let Some(definition) = Definition::read(text) else {
            found.left_out += 1;
            continue;
        };
        if !is_offered(&definition.name, rules) {
            continue;
        }
        match definition.into_tool(rules) {
            Some(tool) if found.items.len() < MAX_ITEMS && seen.insert(tool.name.clone()) => found.items.push(tool),
            _ => found.left_out += 1,
        }
    }
    found.items.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn is_offered(name: &str, rules: &ToolRules) -> bool {
    let matches = |patterns: &[String]| patterns.iter().any(|pattern| glob(pattern.as_bytes(), name.as_bytes()));
    (rules.include.is_empty() || matches(&rules.include)) && !matches(&rules.exclude)
}

/// Whether `text` matches `pattern`, in which `*` stands for any characters.
fn glob(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t, mut star) = (0, 0, None);
    while t < text.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p, t));
            p += 1;
        } else if pattern.get(p) == Some(&text[t]) {
            p += 1;
            t += 1;
        } else if let Some((star_p, star_t)) = star {
            p = star_p + 1;
            t = star_t + 1;
            star = Some((star_p, star_t + 1));
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

// === impl Definition ===

impl<'a> Definition<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let members: Members<'a> = serde_json::from_str(text).ok()?;
        let (mut name, mut description, mut input_schema, mut annotations) = (None, None, None, None);
        let mut others = Vec::new();
        for (key, value) in members.0 {
            match key.as_str() {
                // Strict clients would refuse the whole list for one of these.
                _ if value.get() == "null" => {}
                "outputSchema" if !is_of_objects(value) => {}
                "name" => name = serde_json::from_str::<String>(value.get()).ok(),
                "description" => description = Some(value),
                "inputSchema" => input_schema = Some(value),
                "annotations" => annotations = Some(value),
                "available_servers" | "server_count" => {} // ours to say
                _ => others.push((key, value)),
            }
        }
        let name = name.filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()))?;
        Some(Self { name, description, input_schema: input_schema?, annotations, others })
    }

    fn into_tool(self, rules: &ToolRules) -> Option<Item> {
        let change = rules.overrides.iter().find(|change| change.name == self.name);
        let base = change.and_then(|change| change.rename.as_deref()).unwrap_or(&self.name);
        let name = match rules.prefix.as_deref() {
            None | Some("") => base.to_owned(),
            Some(prefix) => format!("{prefix}{TOOL_NAME_JOINER}{base}"),
        };
        let mut schema: Value = serde_json::from_str(self.input_schema.get()).ok()?;
        let kind = schema.as_object_mut()?.entry("type").or_insert_with(|| "object".into());
        if kind != "object" {
            return None;
        }
        let params = param_headers(&schema).ok()?;
        let annotations = self.annotations(change)?;
        let hints: Hints =
            annotations.as_deref().map_or(Some(Hints::default()), |text| serde_json::from_str(text).ok())?;
        let members = self.members(change, annotations.as_deref());
        let own_name: Arc<str> = self.name.into();
        let full: Arc<str> = if *own_name == *name { own_name.clone() } else { name.into() };
        Some(Item {
            own_name_json: json_string(&own_name).into(),
            shown: number_of(&members),
            members: members.into(),
            name: if is_short(&full) { full.clone() } else { short_form(&full).into() },
            full: (!is_short(&full)).then_some(full),
            own_name,
            digest: digest_of(&schema),
            repeatable: hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true),
            params,
        })
    }

    /// The annotations after the override, as JSON; the outer `None` is an annotation that is no object.
    #[expect(clippy::option_option, reason = "invalid and absent are different outcomes")]
    fn annotations(&self, change: Option<&ToolOverride>) -> Option<Option<String>> {
        let Some(hints) = change.and_then(|change| change.annotations) else {
            return Some(self.annotations.map(|raw| raw.get().to_owned()));
        };
        let mut all: serde_json::Map<String, Value> =
            self.annotations.map_or(Some(serde_json::Map::new()), |raw| serde_json::from_str(raw.get()).ok())?;
        let ToolHints { read_only_hint, destructive_hint, idempotent_hint, open_world_hint } = hints;
        let changes = [
            ("readOnlyHint", read_only_hint),
            ("destructiveHint", destructive_hint),
            ("idempotentHint", idempotent_hint),
            ("openWorldHint", open_world_hint),
        ];
        for (key, value) in changes {
            if let Some(value) = value {
                all.insert(key.to_owned(), Value::Bool(value));
            }
        }
        Some(Some(Value::Object(all).to_string()))
    }

    fn members(&self, change: Option<&ToolOverride>, annotations: Option<&str>) -> String {
        let mut text = String::new();
        let mut add = |key: &str, value: &str| add_member(&mut text, key, value);
        match change.and_then(|change| change.description.as_deref()) {
            Some(description) => add("description", &json_string(description)),
            None => {
                if let Some(description) = self.description {
                    add("description", description.get());
                }
            }
        }
        add("inputSchema", &with_type(self.input_schema.get()));
        if let Some(annotations) = annotations {
            add("annotations", annotations);
        }
        for (key, value) in &self.others {
            add(key, value.get());
        }
        text
    }
}

/// Whether a schema says that it is one of objects.
fn is_of_objects(schema: &RawValue) -> bool {
    serde_json::from_str::<Value>(schema.get()).is_ok_and(|schema| schema["type"] == "object")
}

/// A schema of arguments with its `type`, which some servers leave out though it must be there.
fn with_type(schema: &str) -> Cow<'_, str> {
    let has_type = serde_json::from_str::<Value>(schema).is_ok_and(|schema| !schema["type"].is_null());
    match schema.strip_prefix('{') {
        Some(rest) if !has_type => {
            let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
            Cow::Owned(format!(r#"{{"type":"object"{comma}{rest}"#))
        }
        _ => Cow::Borrowed(schema),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::item::MOST_MEMBERS;
    use crate::upstream::params::MOST_MARKS;

    fn names(definitions: &[&str], rules: &ToolRules) -> (Vec<String>, usize) {
        let found = read_tools(definitions.iter().copied(), rules);
        (found.items.into_iter().map(|tool| tool.name.to_string()).collect(), found.left_out)
    }

    fn tool(name: &str) -> String {
        format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#)
    }

    #[test]
    fn a_definition_keeps_every_member_as_it_was_written() {
        let text = r#"{"zzz":{"b":1,"a":1.10},"name":"t","inputSchema":{"type":"object","x":12345678901234567890123},
            "description":"d\u00e9","annotations":{"readOnlyHint":true},"execution":{"taskSupport":"optional"}}"#;
        let found = read_tools([text], &ToolRules::default());
        assert_eq!(found.left_out, 0);
        let tool = &found.items[0];
        assert_eq!(
            &*tool.members,
            r#","description":"d\u00e9","inputSchema":{"type":"object","x":12345678901234567890123},"annotations":{"readOnlyHint":true},"zzz":{"b":1,"a":1.10},"execution":{"taskSupport":"optional"}"#
        );
        assert!(tool.repeatable);
    }

    #[test]
    fn a_definition_with_endless_members_or_marks_is_left_out() {
        let many = |count: usize, one: fn(usize) -> String| (0..count).map(one).collect::<Vec<_>>().join(",");
        let member = |n| format!(r#""m{n}":1"#);
        let mark = |n| format!(r#""p{n}":{{"type":"string","x-mcp-header":"H{n}"}}"#);
        let wide = |count| format!(r#"{{"name":"t","inputSchema":{{}},{}}}"#, many(count, member));
        let marked = |count| format!(r#"{{"name":"t","inputSchema":{{"properties":{{{}}}}}}}"#, many(count, mark));
        for (definition, left_out) in [
            (wide(MOST_MEMBERS - 2), 0),
            (wide(MOST_MEMBERS - 1), 1),
            (wide(500_000), 1),
            (marked(MOST_MARKS), 0),
            (marked(MOST_MARKS + 1), 1),
            (marked(50_000), 1),
        ] {
            let found = names(&[&definition], &ToolRules::default());
            assert_eq!((found.0.len(), found.1), (1 - left_out, left_out), "{}", definition.len());
        }
    }

    #[test]
    fn what_strict_clients_refuse_a_whole_list_for_is_mended_or_left_out() {
        for (definition, members) in [
            (r#""inputSchema":{}"#, r#","inputSchema":{"type":"object"}"#),
            (
                r#""inputSchema":{ "properties":{}},"title":null,"description":null,"annotations":null,"_meta":null"#,
                r#","inputSchema":{"type":"object", "properties":{}}"#,
            ),
            (
                r#""inputSchema":{"type":"object"},"outputSchema":{"type":"array"},"x":1"#,
                r#","inputSchema":{"type":"object"},"x":1"#,
            ),
            (
                r#""inputSchema":{"type":"object"},"outputSchema":{"type":"object"}"#,
                r#","inputSchema":{"type":"object"},"outputSchema":{"type":"object"}"#,
            ),
        ] {
            let text = format!(r#"{{"name":"t",{definition}}}"#);
            let found = read_tools([text.as_str()], &ToolRules::default());
            assert_eq!(&*found.items[0].members, members, "{text}");
        }
        let same = [r#"{"name":"a","inputSchema":{}}"#, r#"{"name":"b","inputSchema":{"type":"object"}}"#];
        let same = read_tools(same, &ToolRules::default()).items;
        assert_eq!(same[0].digest, same[1].digest, "they are one tool");
    }

    #[test]
    fn bad_tools_are_left_out_and_counted() {
        let bad = [
            r#"{"name":"","inputSchema":{}}"#,
            r#"{"name":"a"}"#,
            r#"{"name":"a","inputSchema":[]}"#,
            r#"{"name":"a","inputSchema":null}"#,
            r#"{"name":"a","inputSchema":{"type":"array"}}"#,
            r#"{"name":"a","inputSchema":{"type":["object","null"]}}"#,
            r#"{"name":"a","inputSchema":true}"#,
            r#"{"name":7,"inputSchema":{}}"#,
            r#"{"name":"a","name":"b","inputSchema":{}}"#,
            r#"{"name":"a","inputSchema":{},"annotations":{"readOnlyHint":"yes"}}"#,
            r#"{"name":"a","inputSchema":{"properties":{"p":{"type":"string","x-mcp-header":""}}}}"#,
            "[]",
            "7",
        ];
        assert_eq!(names(&bad, &ToolRules::default()), (vec![], bad.len()));
        assert_eq!(names(&[&tool("a"), &tool("a")], &ToolRules::default()), (vec!["a".to_owned()], 1));
        let long = tool(&"a".repeat(MAX_NAME_BYTES + 1));
        assert_eq!(names(&[&long], &ToolRules::default()), (vec![], 1));
        let many: Vec<String> = (0..1_200).map(|i| tool(&format!("t{i:04}"))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (kept, left_out) = names(&many, &ToolRules::default());
        assert_eq!((kept.len(), left_out, kept.last().map(String::as_str)), (1_000, 200, Some("t0999")));
    }

    #[test]
    fn names_that_not_every_client_takes_are_offered_in_a_short_form() {
        let (long, prefixed) = ("n".repeat(65), "n".repeat(61));
        let all = [tool("has space"), tool(&long), tool("plain"), tool(&prefixed)];
        let rules = ToolRules { prefix: Some("gh".into()), ..ToolRules::default() };
        let found = |rules: &ToolRules| -> Vec<(String, Option<String>, String)> {
            let found = read_tools(all.iter().map(String::as_str), rules);
            assert_eq!(found.left_out, 0);
            let facts = |t: &Item| (t.name.to_string(), t.full.as_deref().map(str::to_owned), t.own_name.to_string());
            found.items.iter().map(facts).collect()
        };
        let row = |offered: &str, own: &str| {
            let short = (!is_short(offered)).then(|| short_form(offered));
            let full = short.as_ref().map(|_| offered.to_owned());
            (short.unwrap_or_else(|| offered.to_owned()), full, own.to_owned())
        };
        let expected = |prefix: &str| {
            let of = |own: &str| row(&format!("{prefix}{own}"), own);
            let mut rows = [of("has space"), of(&long), of("plain"), of(&prefixed)].to_vec();
            rows.sort();
            rows
        };
        assert_eq!(found(&ToolRules::default()), expected(""));
        assert_eq!(found(&rules), expected("gh__"));
        assert_eq!(expected("gh__").iter().filter(|(_, full, _)| full.is_some()).count(), 3);
    }

    #[test]
    fn rules_filter_rename_and_describe() {
        let rules: ToolRules = serde_yaml::from_str(
            "{prefix: gh, include: ['issues_*', search], exclude: ['*_delete'], overrides: [{name: search, rename: find, description: D, annotations: {readOnlyHint: true}}]}",
        )
        .unwrap();
        let all = [tool("issues_list"), tool("issues_delete"), tool("search"), tool("other")];
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let found = read_tools(all, &rules);
        let summary: Vec<_> = found.items.iter().map(|t| (&*t.name, &*t.own_name, t.repeatable)).collect();
        assert_eq!(summary, [("gh__find", "search", true), ("gh__issues_list", "issues_list", false)]);
        assert_eq!(
            &*found.items[0].members,
            r#","description":"D","inputSchema":{"type":"object"},"annotations":{"readOnlyHint":true}"#
        );
    }

    #[test]
    fn globs_match_as_people_expect() {
        for (pattern, text, expected) in [
            ("*", "", true),
            ("*", "abc", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("*_x", "a_x_x", true),
            ("a", "ab", false),
            ("", "", true),
            ("**b*", "aab", true),
            ("a*b*c", "a1b2b3c", true),
        ] {
            assert_eq!(glob(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
        }
    }
}

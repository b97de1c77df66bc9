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

use crate::definition::{self, Shown};
use crate::item::{
    Found, Item, Kind, MAX_ITEMS, Members, SpacedName, add_member, digest_of, digest_of_members, number_of,
};
use crate::links;
use crate::schema::{self, Wrong};
use crate::short::{MAX_NAME_BYTES, is_short, short_form};
use crate::upstream::message::json_string;
use crate::upstream::params::param_headers;

/// A definition as it came.
struct Definition<'a> {
    name: String,
    /// All other members in their order, but for those that are null.
    members: Vec<(String, &'a RawValue)>,
}

/// A definition as it is shown.
#[derive(Default)]
struct Judged<'a> {
    /// Its members in their order.
    members: Vec<(String, Cow<'a, str>)>,
    /// What it is shown without.
    without: Vec<String>,
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
            found.leave_out(Kind::Tools, None, "it has no name, or it is no object with each member once");
            continue;
        };
        let name = definition.name.clone();
        if !is_offered(&name, rules) {
            continue;
        }
        match definition.into_tool(rules) {
            Ok((tool, without)) if found.items.len() < MAX_ITEMS && seen.insert(tool.name.clone()) => {
                without.iter().for_each(|why| found.problems.add(Kind::Tools, Some(&name), "shown without this", why));
                found.items.push(tool);
            }
            Ok(_) => found.leave_out(Kind::Tools, Some(&name), "it is there twice, or there are more than 1,000"),
            Err(why) => found.leave_out(Kind::Tools, Some(&name), &why),
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
        let mut name = None;
        let mut others = Vec::with_capacity(members.0.len());
        for (key, value) in members.0 {
            match key.as_str() {
                // Strict clients would refuse the whole list for one of these.
                _ if value.get() == "null" => {}
                "name" => name = serde_json::from_str::<String>(value.get()).ok(),
                "available_servers" | "server_count" => {} // ours to say
                _ => others.push((key, value)),
            }
        }
        let name = name.filter(|name| (1..=MAX_NAME_BYTES).contains(&name.len()))?;
        Some(Self { name, members: others })
    }

    /// The tool, and what it is shown without.
    fn into_tool(self, rules: &ToolRules) -> Result<(Item, Vec<String>), String> {
        let change = rules.overrides.iter().find(|change| change.name == self.name);
        let base = change.and_then(|change| change.rename.as_deref()).unwrap_or(&self.name);
        let name = match rules.prefix.as_deref() {
            None | Some("") => base.to_owned(),
            Some(prefix) => format!("{prefix}{TOOL_NAME_JOINER}{base}"),
        };
        let mut judged = Judged::of(self.members)?;
        if let Some(change) = change {
            judged.change(change);
        }
        let schema = judged.get("inputSchema").ok_or("inputSchema is missing")?;
        let schema: Value = serde_json::from_str(schema).map_err(|_| "inputSchema is no valid JSON")?;
        if schema["type"] != "object" {
            return Err("inputSchema is not one of objects: its type must be \"object\"".into());
        }
        let params = param_headers(&schema).map_err(|why| format!("inputSchema is wrong: {why}"))?;
        let hints = judged.get("annotations").and_then(|text| serde_json::from_str::<Hints>(text).ok());
        let hints = hints.unwrap_or_default();
        let members = judged.written();
        let own_name: Arc<str> = self.name.into();
        let full: Arc<str> = if *own_name == *name { own_name.clone() } else { name.into() };
        let item = Item {
            own_name_json: json_string(&own_name).into(),
            shown: number_of(&members),
            same: digest_of_members(&members),
            links: links::of_members(&members),
            spaced: SpacedName::default(),
            members: members.into(),
            name: if is_short(&full) { full.clone() } else { short_form(&full).into() },
            full: (!is_short(&full)).then_some(full),
            own_name,
            digest: digest_of(&schema),
            repeatable: hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true),
            params,
        };
        Ok((item, judged.without))
    }
}

// === impl Judged ===

impl<'a> Judged<'a> {
    /// Judges every member as strict clients do.
    fn of(members: Vec<(String, &'a RawValue)>) -> Result<Self, String> {
        let mut judged = Self::default();
        for (key, value) in members {
            if let Some(text) = judged.member(&key, value.get())? {
                judged.members.push((key, text));
            }
        }
        Ok(judged)
    }

    /// As it is shown, if it is.
    fn member(&mut self, key: &str, text: &'a str) -> Result<Option<Cow<'a, str>>, String> {
        let told = |wrong: Wrong| wrong.below(key).to_string();
        match key {
            "inputSchema" => {
                let mended = schema::of_arguments(text).map_err(told)?;
                self.without.extend(mended.without.into_iter().map(told));
                return Ok(Some(with_type(mended.text)));
            }
            "outputSchema" => match schema::of_results(text).map(with_type) {
                Ok(text) if is_of_objects(&text) => return Ok(Some(text)),
                Ok(_) => self.without.push("outputSchema is not one of objects".into()),
                Err(wrong) => self.without.push(format!("outputSchema, in which {}", told(wrong))),
            },
            _ => match definition::shown(key, text) {
                Shown::AsIs => return Ok(Some(Cow::Borrowed(text))),
                Shown::Instead(text, why) => {
                    self.without.push(why);
                    return Ok(Some(Cow::Owned(text)));
                }
                Shown::Not(why) => self.without.push(why),
            },
        }
        Ok(None)
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, text)| &**text)
    }

    fn set(&mut self, key: &str, text: String) {
        match self.members.iter_mut().find(|(name, _)| name == key) {
            Some((_, before)) => *before = text.into(),
            None => self.members.push((key.to_owned(), text.into())),
        }
    }

    /// Applies what the McpServer says of this tool.
    fn change(&mut self, change: &ToolOverride) {
        if let Some(description) = change.description.as_deref() {
            self.set("description", json_string(description));
        }
        let Some(ToolHints { read_only_hint, destructive_hint, idempotent_hint, open_world_hint }) = change.annotations
        else {
            return;
        };
        let changes = [
            ("readOnlyHint", read_only_hint),
            ("destructiveHint", destructive_hint),
            ("idempotentHint", idempotent_hint),
            ("openWorldHint", open_world_hint),
        ];
        let hints = changes.into_iter().filter_map(|(key, value)| Some((key, value?)));
        let text = definition::with_flags(self.get("annotations").unwrap_or("{}"), hints);
        self.set("annotations", text);
    }

    /// As JSON without braces.
    fn written(&self) -> String {
        let mut text = String::new();
        self.members.iter().for_each(|(key, value)| add_member(&mut text, key, value));
        text
    }
}

/// Whether a schema says that it is one of objects.
fn is_of_objects(schema: &str) -> bool {
    serde_json::from_str::<Value>(schema).is_ok_and(|schema| schema["type"] == "object")
}

/// A schema with its `type`, which some servers leave out though it must be there.
fn with_type(schema: Cow<'_, str>) -> Cow<'_, str> {
    let has_type = serde_json::from_str::<Value>(&schema).is_ok_and(|schema| !schema["type"].is_null());
    match schema.strip_prefix('{') {
        Some(rest) if !has_type => {
            let comma = if rest.trim_start().starts_with('}') { "" } else { "," };
            Cow::Owned(format!(r#"{{"type":"object"{comma}{rest}"#))
        }
        _ => schema,
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
            r#","zzz":{"b":1,"a":1.10},"inputSchema":{"type":"object","x":12345678901234567890123},"description":"d\u00e9","annotations":{"readOnlyHint":true},"execution":{"taskSupport":"optional"}"#
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
    fn what_a_tool_is_shown_without_is_told_with_its_path() {
        let text = r#"{"name":"t","title":7,"inputSchema":{"properties":{"a":{"type":"int","description":"A"}}},
            "annotations":{"readOnlyHint":"yes","openWorldHint":false},"x":1.10,
            "outputSchema":{"type":"object","properties":{"v":{"pattern":"(?i)a"}}}}"#;
        let found = read_tools([text, r#"{"name":"u"}"#, "7"], &ToolRules::default());
        assert_eq!(
            &*found.items[0].members,
            r#","inputSchema":{"type":"object","properties":{"a":{"description":"A"}}},"annotations":{"openWorldHint":false},"x":1.10"#
        );
        assert!(!found.items[0].repeatable);
        assert_eq!((found.left_out, found.problems.count), (2, 6));
        assert_eq!(
            found.problems.first,
            [
                r#"tool "t" is shown without this: title is no text"#,
                r#"tool "t" is shown without this: inputSchema.properties.a.type is none of the types of JSON Schema"#,
                r#"tool "t" is shown without this: annotations.readOnlyHint is neither true nor false"#,
                "tool \"t\" is shown without this: outputSchema, in which outputSchema.properties.v.pattern is no regular \
                 expression that clients can compile (ECMAScript)",
                r#"tool "u" is left out: inputSchema is missing"#,
                "a tool is left out: it has no name, or it is no object with each member once",
            ]
        );
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
            r#","inputSchema":{"type":"object"},"description":"D","annotations":{"readOnlyHint":true}"#
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

//! A server's tools: parsed from `tools/list`, checked, then filtered and renamed by the McpServer's rules.
//!
//! Pure. An invalid tool is left out and counted, never the whole server. Definitions stay as the server wrote them,
//! except the members that the rules change, and those for which strict clients would refuse the whole list.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use portcullis_access::decision::DEFAULT_HINTS;
use portcullis_crds::glob;
use portcullis_crds::mcpserver::{OnInvalidSchema, ToolHints, ToolOverride, ToolRules};
use portcullis_crds::names::TOOL_NAME_JOINER;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::offer::definition;
use crate::offer::definition::Shown;
use crate::offer::item::{
    Item, Kind, MAX_ITEMS, ParsedItems, SearchedItem, SpacedName, UniqueMembers, add_member, digest_of,
    digest_of_members, number_of,
};
use crate::offer::links;
use crate::offer::schema;
use crate::offer::schema::SchemaFault;
use crate::offer::short_names::{MAX_NAME_BYTES, is_short, short_form};
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::protocol::param_headers::param_headers;

/// A schema of any arguments.
const ANY_ARGUMENTS: &str = r#"{"type":"object"}"#;

/// A raw definition.
struct Definition<'a> {
    name: String,
    /// All other members in their order, except those that are null.
    members: Vec<(String, &'a RawValue)>,
}

/// The listed form of a definition.
#[derive(Default)]
struct Judged<'a> {
    /// Its members in their order.
    members: Vec<(String, Cow<'a, str>)>,
    /// The removed parts.
    without: Vec<String>,
    /// Why the schema of arguments cannot be used.
    unusable: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hints {
    #[serde(default)]
    read_only_hint: Option<bool>,
    #[serde(default)]
    destructive_hint: Option<bool>,
    #[serde(default)]
    idempotent_hint: Option<bool>,
    #[serde(default)]
    open_world_hint: Option<bool>,
}

impl Hints {
    /// Read-only, destructive, idempotent, open to the world; of those that are absent, what MCP assumes.
    fn or_default(&self) -> [bool; 4] {
        let declared = [self.read_only_hint, self.destructive_hint, self.idempotent_hint, self.open_world_hint];
        std::array::from_fn(|at| declared[at].unwrap_or(DEFAULT_HINTS[at]))
    }
}

/// Parses raw definitions and applies the rules.
pub(crate) fn read_tools<'a>(definitions: impl IntoIterator<Item = &'a str>, rules: &ToolRules) -> ParsedItems {
    let mut seen = HashSet::new();
    let mut found = ParsedItems::default();
    for text in definitions {
        let Some(definition) = Definition::read(text) else {
            found.leave_out(Kind::Tools, None, "it has no name, is not an object, or a member appears twice");
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
            Ok(_) => found.leave_out(Kind::Tools, Some(&name), "it appears twice, or there are more than 1,000"),
            Err(why) => found.leave_out(Kind::Tools, Some(&name), &why),
        }
    }
    found.items.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Whether the rules offer a tool of this own name.
pub(crate) fn is_offered(name: &str, rules: &ToolRules) -> bool {
    let matches = |patterns: &[String]| patterns.iter().any(|pattern| glob::matches(pattern, name));
    (rules.include.is_empty() || matches(&rules.include)) && !matches(&rules.exclude)
}

/// The name that the rules give a tool of this own name; see also [`short_form`].
pub(crate) fn listed_name(own_name: &str, rules: &ToolRules) -> String {
    let base = override_of(own_name, rules).and_then(|change| change.rename.as_deref()).unwrap_or(own_name);
    match rules.prefix.as_deref() {
        None | Some("") => base.to_owned(),
        Some(prefix) => format!("{prefix}{TOOL_NAME_JOINER}{base}"),
    }
}

/// The hints of a tool as its server declares them, read-only first, with those that the rules replace.
pub(crate) fn listed_hints(own_name: &str, declared: [bool; 4], rules: &ToolRules) -> [bool; 4] {
    let changed = override_of(own_name, rules).and_then(|change| change.annotations).unwrap_or_default();
    let ToolHints { read_only_hint, destructive_hint, idempotent_hint, open_world_hint } = changed;
    let changed = [read_only_hint, destructive_hint, idempotent_hint, open_world_hint];
    std::array::from_fn(|at| changed[at].unwrap_or(declared[at]))
}

fn override_of<'a>(own_name: &str, rules: &'a ToolRules) -> Option<&'a ToolOverride> {
    rules.overrides.iter().find(|change| change.name == own_name)
}

// === impl Definition ===

impl<'a> Definition<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let members: UniqueMembers<'a> = serde_json::from_str(text).ok()?;
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

    /// The tool, and the parts that were removed.
    fn into_tool(self, rules: &ToolRules) -> Result<(Item, Vec<String>), String> {
        let (change, name) = (override_of(&self.name, rules), listed_name(&self.name, rules));
        let mut judged = Judged::of(self.members);
        if let Some(change) = change {
            judged.change(change);
        }
        let schema = match (judged.arguments(), rules.on_invalid_schema) {
            (Ok(read), _) => read,
            (Err(why), OnInvalidSchema::LeaveOut) => return Err(why),
            (Err(why), OnInvalidSchema::Offer) => {
                judged.without.push(why);
                judged.unusable = None;
                judged.set("inputSchema", ANY_ARGUMENTS.into());
                judged.arguments()?
            }
        };
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
            searched: SearchedItem::default(),
            members: members.into(),
            name: if is_short(&full) { full.clone() } else { short_form(&full).into() },
            full: (!is_short(&full)).then_some(full),
            own_name,
            digest: digest_of(&schema),
            hints: hints.or_default(),
            repeatable: hints.read_only_hint == Some(true) || hints.idempotent_hint == Some(true),
            params,
        };
        Ok((item, judged.without))
    }
}

// === impl Judged ===

impl<'a> Judged<'a> {
    /// Checks every member as strict clients do.
    fn of(members: Vec<(String, &'a RawValue)>) -> Self {
        let mut judged = Self::default();
        for (key, value) in members {
            if let Some(text) = judged.member(&key, value.get()) {
                judged.members.push((key, text));
            }
        }
        judged
    }

    /// The schema of arguments.
    fn arguments(&self) -> Result<Value, String> {
        if let Some(why) = &self.unusable {
            return Err(why.clone());
        }
        let schema = self.get("inputSchema").ok_or("inputSchema is missing")?;
        let schema: Value = serde_json::from_str(schema).map_err(|_| "inputSchema is not valid JSON")?;
        if schema["type"] != "object" {
            return Err("inputSchema does not describe an object: its type must be \"object\"".into());
        }
        Ok(schema)
    }

    /// The listed form of a member, if it is listed.
    fn member(&mut self, key: &str, text: &'a str) -> Option<Cow<'a, str>> {
        let told = |wrong: SchemaFault| wrong.below(key).to_string();
        match key {
            "inputSchema" => match schema::of_arguments(text) {
                Ok(mended) => {
                    self.without.extend(mended.without.into_iter().map(told));
                    return Some(with_type(mended.text));
                }
                Err(wrong) => self.unusable = Some(told(wrong)),
            },
            "outputSchema" => match schema::of_results(text).map(with_type) {
                Ok(text) if is_of_objects(&text) => return Some(text),
                Ok(_) => self.without.push("outputSchema does not describe an object".into()),
                Err(wrong) => self.without.push(format!("outputSchema, in which {}", told(wrong))),
            },
            _ => match definition::shown(key, text) {
                Shown::AsIs => return Some(Cow::Borrowed(text)),
                Shown::Instead(text, why) => {
                    self.without.push(why);
                    return Some(Cow::Owned(text));
                }
                Shown::Not(why) => self.without.push(why),
            },
        }
        None
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

    /// Applies the McpServer's override of this tool.
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

/// Whether a schema declares objects.
fn is_of_objects(schema: &str) -> bool {
    serde_json::from_str::<Value>(schema).is_ok_and(|schema| schema["type"] == "object")
}

/// A schema with its `type`, which is required but which some servers omit.
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
    use crate::offer::item::MOST_MEMBERS;
    use portcullis_mcp::protocol::param_headers::MOST_MARKS;

    fn names(definitions: &[&str], rules: &ToolRules) -> (Vec<String>, usize) {
        let found = read_tools(definitions.iter().copied(), rules);
        (found.items.into_iter().map(|tool| tool.name.to_string()).collect(), found.left_out)
    }

    fn tool(name: &str) -> String {
        format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#)
    }

    #[test]
    fn a_tool_whose_schema_cannot_be_repaired_is_left_out_or_offered_for_any_arguments() {
        let text = |schema: &str| format!(r#"{{"name":"t"{schema},"description":"d"}}"#);
        let offer = ToolRules { on_invalid_schema: OnInvalidSchema::Offer, ..ToolRules::default() };
        for (schema, why) in [
            ("", "inputSchema is missing"),
            (r#","inputSchema":[]"#, "inputSchema is not an object"),
            (r#","inputSchema":{"type":"string"}"#, "inputSchema does not describe an object"),
        ] {
            assert_eq!(names(&[&text(schema)], &ToolRules::default()), (vec![], 1), "{schema}");
            let found = read_tools([&*text(schema)], &offer);
            assert_eq!((found.items.len(), found.left_out, found.problems.count), (1, 0, 1), "{schema}");
            assert!(found.items[0].members.contains(r#""inputSchema":{"type":"object"}"#), "{schema}");
            let told = &found.problems.first[0];
            assert!(told.starts_with(&format!("tool \"t\" is shown without this: {why}")), "{told}");
        }
        // Clients must not be offered a tool whose marks are wrong.
        let marked =
            text(r#","inputSchema":{"type":"object","properties":{"a":{"type":"object","x-mcp-header":"A"}}}"#);
        assert_eq!(names(&[&marked], &offer), (vec![], 1));
        assert_eq!(names(&[r#"{"inputSchema":7}"#], &offer), (vec![], 1), "without a name");
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
                r#"tool "t" is shown without this: title is not a string"#,
                r#"tool "t" is shown without this: inputSchema.properties.a.type is not a type of JSON Schema"#,
                r#"tool "t" is shown without this: annotations.readOnlyHint is neither true nor false"#,
                "tool \"t\" is shown without this: outputSchema, in which outputSchema.properties.v.pattern is not a regular \
                 expression that clients can compile (ECMAScript)",
                r#"tool "u" is left out: inputSchema is missing"#,
                "a tool is left out: it has no name, is not an object, or a member appears twice",
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
}

//! A server's prompts, resources and resource templates: read from its lists and judged.
//!
//! Pure. A bad one is left out and counted, never the whole server: many clients refuse a whole list for one of them.

use std::collections::HashSet;
use std::sync::Arc;

use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use crate::item::{Found, Item, Kind, MAX_ITEMS, Members, add_member, digest_of, number_of};
use crate::short::MAX_NAME_BYTES;
use crate::upstream::message::json_string;
use crate::uri_template::{MAX_URI_BYTES, UriTemplate};

/// The form that a member must have where it is there.
type Form = fn(&Value) -> bool;

/// The members with a form of their own; all others are carried as they are.
const FORMS: [(&str, Form); 9] = [
    ("name", |value| value.as_str().is_some_and(|name| !name.is_empty())),
    ("title", Value::is_string),
    ("description", Value::is_string),
    ("mimeType", Value::is_string),
    ("arguments", are_arguments),
    ("size", Value::is_number),
    ("annotations", Value::is_object),
    ("icons", Value::is_array),
    ("_meta", Value::is_object),
];

/// Reads definitions of prompts, resources or templates as they came.
pub fn read<'a>(kind: Kind, definitions: impl IntoIterator<Item = &'a str>) -> Found {
    let mut seen = HashSet::new();
    let mut found = Found::default();
    for text in definitions {
        match read_one(kind, text) {
            Some(item) if found.items.len() < MAX_ITEMS && seen.insert(item.name.clone()) => found.items.push(item),
            _ => found.left_out += 1,
        }
    }
    found.items.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn read_one(kind: Kind, text: &str) -> Option<Item> {
    let Members(members) = serde_json::from_str(text).ok()?;
    let (mut own_name, mut kept, mut same) = (None, String::new(), Map::new());
    for (key, value) in &members {
        if key == kind.naming() {
            own_name = serde_json::from_str::<String>(value.get()).ok();
        } else if value.get() != "null" {
            // Null is what some servers write for nothing, and what some clients refuse.
            let value = judged(key, value)?;
            add_member(&mut kept, key, value.0);
            if makes_it_the_same(kind, key) {
                same.insert(key.clone(), value.1.unwrap_or_default());
            }
        }
    }
    let is_named = kind == Kind::Prompts || members.iter().any(|(key, value)| key == "name" && value.get() != "null");
    let name: Arc<str> = own_name.filter(|name| is_named && is_good(kind, name))?.into();
    Some(Item {
        own_name_json: json_string(&name).into(),
        own_name: name.clone(),
        name,
        full: None,
        shown: number_of(&kept),
        members: kept.into(),
        digest: digest_of(&Value::Object(same)),
        repeatable: true,
        params: Vec::new(),
    })
}

/// A member's text, and its value where its form matters; none if it has another form.
fn judged<'a>(key: &str, raw: &'a RawValue) -> Option<(&'a str, Option<Value>)> {
    let Some((_, form)) = FORMS.iter().find(|(name, _)| *name == key) else { return Some((raw.get(), None)) };
    let value: Value = serde_json::from_str(raw.get()).ok()?;
    form(&value).then(|| (raw.get(), Some(value)))
}

/// What people choose by. Sizes and dates differ between replicas of one server.
fn makes_it_the_same(kind: Kind, key: &str) -> bool {
    match kind {
        Kind::Tools => false,
        Kind::Prompts => matches!(key, "arguments" | "description"),
        Kind::Resources | Kind::Templates => matches!(key, "name" | "title" | "description" | "mimeType"),
    }
}

fn is_good(kind: Kind, name: &str) -> bool {
    match kind {
        Kind::Tools | Kind::Prompts => !name.is_empty() && name.len() <= MAX_NAME_BYTES,
        Kind::Resources => name.len() <= MAX_URI_BYTES && Url::parse(name).is_ok(),
        Kind::Templates => UriTemplate::parse(name).is_some(),
    }
}

fn are_arguments(value: &Value) -> bool {
    let is_argument = |value: &Value| {
        let absent_or = |key, form: Form| value.get(key).is_none_or(form);
        value.get("name").is_some_and(Value::is_string)
            && absent_or("description", Value::is_string)
            && absent_or("required", Value::is_boolean)
    };
    value.as_array().is_some_and(|all| all.iter().all(is_argument))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(kind: Kind, definitions: &[&str]) -> (Vec<String>, usize) {
        let found = read(kind, definitions.iter().copied());
        (found.items.into_iter().map(|item| item.name.to_string()).collect(), found.left_out)
    }

    fn only(kind: Kind, text: &str) -> Item {
        let mut found = read(kind, [text]);
        assert_eq!(found.left_out, 0, "{text}");
        found.items.remove(0)
    }

    #[test]
    fn a_definition_keeps_every_member_as_it_was_written() {
        let prompt = only(
            Kind::Prompts,
            r#"{"zzz":{"b":1.10},"name":"Review it","arguments":[{"name":"c\u00f6de","required":true}],"title":null}"#,
        );
        assert_eq!((&*prompt.name, &*prompt.own_name_json, prompt.repeatable), ("Review it", r#""Review it""#, true));
        assert_eq!(&*prompt.members, r#","zzz":{"b":1.10},"arguments":[{"name":"c\u00f6de","required":true}]"#);

        let resource = only(Kind::Resources, r#"{"name":"n","uri":"test://a","size":12345678901234567890123}"#);
        assert_eq!(
            (&*resource.name, &*resource.members),
            ("test://a", r#","name":"n","size":12345678901234567890123"#)
        );

        let template = only(Kind::Templates, r#"{"uriTemplate":"test://{id}","name":"n","uri":7}"#);
        assert_eq!((&*template.name, &*template.members), ("test://{id}", r#","name":"n","uri":7"#));
    }

    #[test]
    fn bad_ones_are_left_out_and_counted() {
        let bad = [
            r#"{"name":""}"#,
            r#"{"name":7}"#,
            r#"{"name":null}"#,
            r#"{"description":"d"}"#,
            r#"{"name":"a","description":7}"#,
            r#"{"name":"a","arguments":{}}"#,
            r#"{"name":"a","arguments":[{"name":7}]}"#,
            r#"{"name":"a","arguments":[{}]}"#,
            r#"{"name":"a","name":"b"}"#,
            "[]",
        ];
        assert_eq!(names(Kind::Prompts, &bad), (vec![], bad.len()));
        assert_eq!(names(Kind::Prompts, &[r#"{"name":"a"}"#, r#"{"name":"a"}"#]), (vec!["a".to_owned()], 1));
        let bad = [
            r#"{"name":"n"}"#,
            r#"{"uri":"test://a"}"#,
            r#"{"uri":"test://a","name":null}"#,
            r#"{"uri":"no uri","name":"n"}"#,
            r#"{"uri":"test://a","name":"n","mimeType":[]}"#,
            r#"{"uri":"test://a","name":"n","size":"1"}"#,
        ];
        assert_eq!(names(Kind::Resources, &bad), (vec![], bad.len()));
        let bad = [r#"{"uriTemplate":"test://{","name":"n"}"#, r#"{"uriTemplate":"test://{a}"}"#];
        assert_eq!(names(Kind::Templates, &bad), (vec![], bad.len()));
        let many: Vec<String> = (0..1_200).map(|i| format!(r#"{{"name":"p{i:04}"}}"#)).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (kept, left_out) = names(Kind::Prompts, &many);
        assert_eq!((kept.len(), left_out, kept.last().map(String::as_str)), (1_000, 200, Some("p0999")));
    }

    #[test]
    fn what_people_choose_by_makes_two_of_them_the_same() {
        let same = |kind, a, b| only(kind, a).digest == only(kind, b).digest;
        let prompt = r#"{"name":"p","description":"d","arguments":[{"name":"a","required":true}],"_meta":{"v":1}}"#;
        assert!(same(
            Kind::Prompts,
            prompt,
            r#"{"arguments":[{"required":true,"name":"a"}],"name":"p","description":"d"}"#
        ));
        assert!(!same(
            Kind::Prompts,
            prompt,
            r#"{"name":"p","description":"e","arguments":[{"name":"a","required":true}]}"#
        ));
        assert!(!same(Kind::Prompts, prompt, r#"{"name":"p","description":"d"}"#));
        let resource = r#"{"uri":"a://b","name":"n","size":1,"annotations":{"lastModified":"2026-01-01T00:00:00Z"}}"#;
        assert!(same(Kind::Resources, resource, r#"{"uri":"a://b","name":"n","size":2}"#));
        assert!(!same(Kind::Resources, resource, r#"{"uri":"a://b","name":"n","mimeType":"text/plain"}"#));
    }
}

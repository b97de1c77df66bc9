//! Parses and checks a server's prompts, resources and resource templates.
//!
//! Pure. An invalid item is left out and counted, never the whole server: many clients refuse a whole list for one of
//! them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use portcullis_access::decision::DEFAULT_HINTS;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use url::Url;

use crate::offer::definition;
use crate::offer::definition::Shown;
use crate::offer::item::{
    Item, Kind, MAX_ITEMS, ParsedItems, SearchedItem, SpacedName, UniqueMembers, add_member, digest_of,
    digest_of_members, number_of,
};
use crate::offer::short_names::MAX_NAME_BYTES;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::protocol::uri_template::{MAX_URI_BYTES, UriTemplate};

/// Parses raw definitions of prompts, resources or templates.
pub(crate) fn read<'a>(kind: Kind, definitions: impl IntoIterator<Item = &'a str>) -> ParsedItems {
    let mut seen = HashSet::new();
    let mut found = ParsedItems::default();
    for text in definitions {
        match read_one(kind, text) {
            Ok((item, without)) if found.items.len() < MAX_ITEMS && seen.insert(item.name.clone()) => {
                without.iter().for_each(|why| found.problems.add(kind, Some(&item.name), "shown without this", why));
                found.items.push(item);
            }
            Ok((item, _)) => {
                found.leave_out(kind, Some(&item.name), "it appears twice, or there are more than 1,000");
            }
            Err((name, why)) => found.leave_out(kind, name.as_deref(), why),
        }
    }
    found.items.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// The reason a definition is left out, and its name if it has one.
type Bad = (Option<String>, &'static str);

/// The item, and the parts that were removed.
fn read_one(kind: Kind, text: &str) -> Result<(Item, Vec<String>), Bad> {
    let UniqueMembers(members) =
        serde_json::from_str(text).map_err(|_| (None, "it is not an object, or a member appears twice"))?;
    let given = |wanted: &str| members.iter().find(|(key, value)| key == wanted && value.get() != "null");
    let text_of = |value: &RawValue| serde_json::from_str::<String>(value.get()).ok();
    let name = given(kind.naming()).and_then(|(_, value)| text_of(value)).filter(|name| is_good(kind, name));
    let name: Arc<str> = name.ok_or((None, "it has no usable name or address"))?.into();
    let bad = |why| (Some(name.to_string()), why);
    if given("name").and_then(|(_, value)| text_of(value)).is_none_or(|name| name.is_empty()) {
        return Err(bad("it has no name"));
    }
    let (mut kept, mut same, mut without) = (String::new(), Map::new(), Vec::new());
    // Some servers write null for an absent value, and some clients refuse it.
    for (key, value) in members.iter().filter(|(key, value)| key != kind.naming() && value.get() != "null") {
        let shown = match &**key {
            "arguments" if kind == Kind::Prompts => definition::arguments(value.get())
                .ok_or_else(|| bad("arguments is not a list of objects with names"))?,
            key => definition::shown(key, value.get()),
        };
        let (text, why) = match shown {
            Shown::AsIs => (Some(Cow::Borrowed(value.get())), None),
            Shown::Instead(text, why) => (Some(Cow::Owned(text)), Some(why)),
            Shown::Not(why) => (None, Some(why)),
        };
        without.extend(why);
        let Some(text) = text else { continue };
        add_member(&mut kept, key, &text);
        if is_relied_on(kind, key) {
            same.insert(key.clone(), serde_json::from_str(&text).unwrap_or_default());
        }
    }
    let item = Item {
        own_name_json: json_string(&name).into(),
        own_name: name.clone(),
        name,
        full: None,
        shown: number_of(&kept),
        same: digest_of_members(&kept),
        links: Box::default(),
        spaced: SpacedName::default(),
        searched: SearchedItem::default(),
        members: kept.into(),
        digest: digest_of(&Value::Object(same)),
        repeatable: true,
        hints: DEFAULT_HINTS,
        params: Vec::new(),
    };
    Ok((item, without))
}

/// Whether callers rely on a member. Sizes and dates of resources differ between replicas of one server.
fn is_relied_on(kind: Kind, key: &str) -> bool {
    match kind {
        Kind::Tools => false,
        Kind::Prompts => key == "arguments",
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
            r#"{"uri":"test://a","name":7}"#,
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
    fn what_clients_would_refuse_a_whole_list_for_is_not_shown_and_told() {
        let prompt = r#"{"name":"p","title":7,"arguments":[{"name":"a","required":null}],"_meta":[]}"#;
        let resource = r#"{"uri":"a://b","name":"n","size":"1","annotations":{"priority":0.5,"lastModified":"today"}}"#;
        for (kind, text, members, problems) in [
            (
                Kind::Prompts,
                prompt,
                r#","arguments":[{"name":"a"}]"#,
                vec![
                    "prompt \"p\" is shown without this: title is not a string",
                    "prompt \"p\" is shown without this: arguments.0.required is null",
                    "prompt \"p\" is shown without this: _meta is not an object",
                ],
            ),
            (
                Kind::Resources,
                resource,
                r#","name":"n","annotations":{"priority":0.5}"#,
                vec![
                    "resource \"a://b\" is shown without this: size is not a number",
                    "resource \"a://b\" is shown without this: annotations.lastModified is not an ISO 8601 time with a zone",
                ],
            ),
        ] {
            let found = read(kind, [text]);
            assert_eq!((&*found.items[0].members, found.left_out), (members, 0), "{text}");
            assert_eq!(found.problems.first, problems, "{text}");
        }
    }

    #[test]
    fn two_are_the_same_if_all_that_is_shown_is_or_for_resources_what_callers_rely_on() {
        let same = |kind, a, b| only(kind, a).same == only(kind, b).same;
        let alike = |kind, a, b| only(kind, a).digest == only(kind, b).digest;
        let prompt = r#"{"name":"p","description":"d","arguments":[{"name":"a","required":true}],"_meta":{"v":1}}"#;
        let turned = r#"{"arguments":[{"required":true,"name":"a"}],"_meta":{"v":1},"name":"p","description":"d"}"#;
        assert!(same(Kind::Prompts, prompt, turned) && alike(Kind::Prompts, prompt, turned));
        for other in [
            r#"{"name":"p","description":"e","arguments":[{"name":"a","required":true}],"_meta":{"v":1}}"#,
            r#"{"name":"p","description":"d","arguments":[{"name":"a","required":true}],"_meta":{"v":2}}"#,
            r#"{"name":"p","title":"P","description":"d","arguments":[{"name":"a","required":true}],"_meta":{"v":1}}"#,
        ] {
            assert!(!same(Kind::Prompts, prompt, other) && alike(Kind::Prompts, prompt, other), "{other}");
        }
        assert!(!alike(Kind::Prompts, prompt, r#"{"name":"p","description":"d","_meta":{"v":1}}"#));
        let resource = r#"{"uri":"a://b","name":"n","size":1,"annotations":{"lastModified":"2026-01-01T00:00:00Z"}}"#;
        assert!(alike(Kind::Resources, resource, r#"{"uri":"a://b","name":"n","size":2}"#));
        assert!(!alike(Kind::Resources, resource, r#"{"uri":"a://b","name":"n","mimeType":"text/plain"}"#));
    }
}

//! Normalizes the members of a definition, of a tool or any other listed item, for strict clients.
//!
//! Pure. A typed client refuses a whole list for one member of an unexpected form. Most members only describe: the
//! definition is listed without such a member.

use crate::offer::item::Kind;
use portcullis_mcp::protocol::json::tree::Tree;

/// The limit for values in one member.
const MOST_VALUES: usize = 10_000;

/// The limits for the stored sentences of one list, and for the characters of one.
const MOST_TOLD: (usize, usize) = (16, 400);

/// The problems of the definitions of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Problems {
    /// The first problems, a sentence each.
    pub(crate) first: Vec<String>,
    /// The number of problems.
    pub(crate) count: u32,
}

impl Problems {
    /// Adds a problem: the effect on this definition, and the reason.
    pub(crate) fn add(&mut self, kind: Kind, name: Option<&str>, what: &str, why: &str) {
        self.count = self.count.saturating_add(1);
        if self.first.len() < MOST_TOLD.0 {
            let name: String = name.unwrap_or_default().chars().take(64).collect();
            let which =
                if name.is_empty() { format!("a {}", kind.word()) } else { format!("{} {name:?}", kind.word()) };
            self.first.push(format!("{which} is {what}: {why}").chars().take(MOST_TOLD.1).collect());
        }
    }

    /// Adds the problems of another list.
    pub(crate) fn extend(&mut self, other: &Self) {
        self.count = self.count.saturating_add(other.count);
        let room = MOST_TOLD.0.saturating_sub(self.first.len());
        self.first.extend(other.first.iter().take(room).cloned());
    }
}

/// The listed form of a member.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Shown {
    /// Verbatim.
    AsIs,
    /// This JSON instead: it lacks a part, which the text names as the rest of a sentence.
    Instead(String, String),
    /// Omitted, which the text explains likewise.
    Not(String),
}

/// A part of an unexpected form: the end of its path and the rest of a sentence.
type FormFault = (String, &'static str);

/// The listed form of a descriptive member. Members of other names stay verbatim.
pub(crate) fn shown(key: &str, text: &str) -> Shown {
    let form: fn(&mut Tree<'_>) -> Result<Option<FormFault>, FormFault> = match key {
        "title" | "description" | "mimeType" => text_form,
        "size" => number_form,
        "_meta" => object_form,
        "icons" => icons_form,
        "annotations" => annotations_form,
        "execution" => execution_form,
        _ => return Shown::AsIs,
    };
    let Some(mut tree) = Tree::read(text, MOST_VALUES) else {
        return Shown::Not(format!("{key} is too large, too deep or not valid JSON"));
    };
    match form(&mut tree) {
        Ok(None) => Shown::AsIs,
        Ok(Some((path, why))) => {
            let mut out = String::with_capacity(text.len());
            tree.write(&mut out);
            Shown::Instead(out, format!("{key}{path} {why}"))
        }
        Err((path, why)) => Shown::Not(format!("{key}{path} {why}")),
    }
}

/// The arguments of a prompt; `None` if they are not a list of named objects.
pub(crate) fn arguments(text: &str) -> Option<Shown> {
    let mut tree = Tree::read(text, MOST_VALUES)?;
    let Tree::Array(arguments) = &mut tree else { return None };
    let mut first = None;
    for (at, argument) in arguments.iter_mut().enumerate() {
        argument.get("name").filter(|name| name.is_text())?;
        let wrong = without(argument, &|key, value| match key {
            "title" | "description" => (!value.is_text()).then_some("is not a string"),
            "required" => (!value.is_flag()).then_some("is neither true nor false"),
            _ => None,
        });
        first = first.or(wrong.map(|(path, why)| format!("arguments.{at}{path} {why}")));
    }
    Some(match first {
        None => Shown::AsIs,
        Some(why) => {
            let mut out = String::with_capacity(text.len());
            tree.write(&mut out);
            Shown::Instead(out, why)
        }
    })
}

/// An object with these flags; any other value is replaced by one.
pub(crate) fn with_flags<'a>(text: &str, flags: impl Iterator<Item = (&'a str, bool)>) -> String {
    let mut members = match Tree::read(text, MOST_VALUES) {
        Some(Tree::Object(members)) => members,
        _ => Vec::new(),
    };
    for (key, flag) in flags {
        let flag = Tree::Scalar(if flag { "true" } else { "false" }.into());
        match members.iter_mut().find(|(name, _)| name == key) {
            Some((_, before)) => *before = flag,
            None => members.push((key.to_owned().into(), flag)),
        }
    }
    let mut out = String::new();
    Tree::Object(members).write(&mut out);
    out
}

/// Removes the invalid members of an object; null counts as absent. Returns the first.
fn without(tree: &mut Tree<'_>, wrong: &dyn Fn(&str, &mut Tree<'_>) -> Option<&'static str>) -> Option<FormFault> {
    let Tree::Object(members) = tree else { return None };
    let mut first = None;
    members.retain_mut(|(key, value)| {
        let found = if value.is("null") { Some("is null") } else { wrong(key, value) };
        if let Some(why) = found {
            first.get_or_insert((format!(".{key}"), why));
        }
        found.is_none()
    });
    first
}

fn text_form(tree: &mut Tree<'_>) -> Result<Option<FormFault>, FormFault> {
    if tree.is_text() { Ok(None) } else { Err((String::new(), "is not a string")) }
}

fn number_form(tree: &mut Tree<'_>) -> Result<Option<FormFault>, FormFault> {
    if is_number(tree) { Ok(None) } else { Err((String::new(), "is not a number")) }
}

fn object_form(tree: &mut Tree<'_>) -> Result<Option<FormFault>, FormFault> {
    match tree {
        Tree::Object(_) => Ok(None),
        Tree::Array(_) | Tree::Scalar(_) => Err((String::new(), "is not an object")),
    }
}

/// Hints of tools, and audience annotations of resources. An invalid hint is removed.
fn annotations_form(tree: &mut Tree<'_>) -> Result<Option<FormFault>, FormFault> {
    object_form(tree)?;
    Ok(without(tree, &|key, value| match key {
        "title" => (!value.is_text()).then_some("is not a string"),
        "readOnlyHint" | "destructiveHint" | "idempotentHint" | "openWorldHint" => {
            (!value.is_flag()).then_some("is neither true nor false")
        }
        "audience" => (!is_audience(value)).then_some("is not a list of \"user\" and \"assistant\""),
        "priority" => (!is_share(value)).then_some("is not a number from 0 to 1"),
        "lastModified" => {
            (!value.text().is_some_and(|time| is_time(&time))).then_some("is not an ISO 8601 time with a zone")
        }
        _ => None,
    }))
}

fn execution_form(tree: &mut Tree<'_>) -> Result<Option<FormFault>, FormFault> {
    object_form(tree)?;
    Ok(without(tree, &|key, value| match key {
        "taskSupport" => {
            let known = value.text().is_some_and(|text| matches!(&*text, "required" | "optional" | "forbidden"));
            (!known).then_some("is not one of required, optional and forbidden")
        }
        _ => None,
    }))
}

fn icons_form(tree: &mut Tree<'_>) -> Result<Option<FormFault>, FormFault> {
    let Tree::Array(icons) = tree else { return Err((String::new(), "is not a list")) };
    let (mut first, mut at) = (None, 0..);
    icons.retain_mut(|icon| {
        let at = at.next().unwrap_or(usize::MAX);
        if !icon.get("src").is_some_and(Tree::is_text) {
            first.get_or_insert((format!(".{at}"), "has no src"));
            return false;
        }
        let wrong = without(icon, &|key, value| match key {
            "mimeType" => (!value.is_text()).then_some("is not a string"),
            "theme" => (!value.text().is_some_and(|theme| matches!(&*theme, "light" | "dark")))
                .then_some("is neither light nor dark"),
            "sizes" => sizes(value),
            _ => None,
        });
        if let Some((path, why)) = wrong {
            first.get_or_insert((format!(".{at}{path}"), why));
        }
        true
    });
    Ok(first)
}

/// A list of texts since 2025-11-25.
fn sizes(value: &Tree<'_>) -> Option<&'static str> {
    match value {
        Tree::Array(sizes) if sizes.iter().all(Tree::is_text) => None,
        _ => Some("is not a list of strings"),
    }
}

fn is_audience(value: &Tree<'_>) -> bool {
    let is_role = |role: &Tree<'_>| role.text().is_some_and(|role| matches!(&*role, "user" | "assistant"));
    matches!(value, Tree::Array(roles) if roles.iter().all(is_role))
}

fn is_number(value: &Tree<'_>) -> bool {
    value.scalar().is_some_and(|text| text.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
}

fn is_share(value: &Tree<'_>) -> bool {
    let number = value.scalar().filter(|_| is_number(value)).and_then(|text| text.parse::<f64>().ok());
    number.is_some_and(|number| (0.0..=1.0).contains(&number))
}

/// `2026-01-31T12:00:00Z`, with fractional seconds or another zone.
fn is_time(text: &str) -> bool {
    let (date, rest) = text.split_at_checked(19).unwrap_or((text, ""));
    let shape = |text: &str, shape: &str| {
        text.len() == shape.len()
            && text.bytes().zip(shape.bytes()).all(|(byte, wanted)| match wanted {
                b'0' => byte.is_ascii_digit(),
                other => byte == other,
            })
    };
    let number = |from: usize| date.get(from..from + 2).and_then(|text| text.parse::<u32>().ok()).unwrap_or(99);
    let is_date = shape(date, "0000-00-00T00:00:00")
        && (1..=12).contains(&number(5))
        && (1..=days(date.get(..4), number(5))).contains(&number(8))
        && number(11) < 24
        && number(14) < 60
        && number(17) < 60;
    let zone = match rest.strip_prefix('.') {
        Some(parts) => parts.trim_start_matches(|c: char| c.is_ascii_digit()),
        None => rest,
    };
    let zone_number = |from: usize| zone.get(from..from + 2).and_then(|text| text.parse::<u32>().ok()).unwrap_or(99);
    let has_parts = !rest.starts_with('.') || zone.len() + 1 < rest.len();
    let offset = (shape(zone, "+00:00") || shape(zone, "-00:00")) && zone_number(1) < 24 && zone_number(4) < 60;
    is_date && has_parts && (zone == "Z" || offset)
}

fn days(year: Option<&str>, month: u32) -> u32 {
    let year: u32 = year.and_then(|year| year.parse().ok()).unwrap_or_default();
    let is_leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instead(key: &str, text: &str) -> (Option<String>, String) {
        match shown(key, text) {
            Shown::AsIs => (Some(text.to_owned()), String::new()),
            Shown::Instead(text, why) => (Some(text), why),
            Shown::Not(why) => (None, why),
        }
    }

    #[test]
    fn members_of_their_form_are_shown_as_they_are() {
        for (key, text) in [
            ("title", r#" "T\u00e9" "#),
            ("size", "12345678901234567890123"),
            ("_meta", r#"{"a": null}"#),
            ("icons", r#"[{"src":"a","mimeType":"b","sizes":["any"],"theme":"dark","x":1}]"#),
            ("annotations", r#"{ "title":"t","readOnlyHint":true,"x":[null]}"#),
            (
                "annotations",
                r#"{"audience":["user","assistant"],"priority":0.5,"lastModified":"2024-02-29T23:59:59.123+05:30"}"#,
            ),
            ("execution", r#"{"taskSupport":"optional"}"#),
            ("anything", "7"),
        ] {
            assert_eq!(shown(key, text), Shown::AsIs, "{key} {text}");
        }
    }

    #[test]
    fn what_has_another_form_is_left_out_and_told() {
        for (key, text, kept, why) in [
            ("title", "7", None, "title is not a string"),
            ("description", "{}", None, "description is not a string"),
            ("size", "\"1\"", None, "size is not a number"),
            ("_meta", "[]", None, "_meta is not an object"),
            ("annotations", "true", None, "annotations is not an object"),
            (
                "annotations",
                r#"{"readOnlyHint":"yes","title":"t"}"#,
                Some(r#"{"title":"t"}"#),
                "annotations.readOnlyHint is neither true nor false",
            ),
            (
                "annotations",
                r#"{"title":null,"idempotentHint":true}"#,
                Some(r#"{"idempotentHint":true}"#),
                "annotations.title is null",
            ),
            ("annotations", r#"{"priority":2}"#, Some("{}"), "annotations.priority is not a number from 0 to 1"),
            (
                "annotations",
                r#"{"lastModified":"2025-01-01"}"#,
                Some("{}"),
                "annotations.lastModified is not an ISO 8601 time with a zone",
            ),
            (
                "annotations",
                r#"{"audience":["all"]}"#,
                Some("{}"),
                "annotations.audience is not a list of \"user\" and \"assistant\"",
            ),
            (
                "execution",
                r#"{"taskSupport":true}"#,
                Some("{}"),
                "execution.taskSupport is not one of required, optional and forbidden",
            ),
            ("icons", r#""a.png""#, None, "icons is not a list"),
            (
                "icons",
                r#"["a",{"src":"b","sizes":"48x48","theme":"blue"}]"#,
                Some(r#"[{"src":"b"}]"#),
                "icons.0 has no src",
            ),
        ] {
            assert_eq!(instead(key, text), (kept.map(str::to_owned), why.to_owned()), "{key} {text}");
        }
    }

    #[test]
    fn arguments_of_prompts_are_a_list_of_things_with_names() {
        assert_eq!(arguments(r#"[{"name":"a","required":true}]"#), Some(Shown::AsIs));
        let expected =
            Shown::Instead(r#"[{"name":"a"}]"#.into(), "arguments.0.required is neither true nor false".into());
        assert_eq!(arguments(r#"[{"name":"a","required":"yes","description":7}]"#), Some(expected));
        for text in ["{}", "7", "[7]", "[{}]", r#"[{"name":7}]"#] {
            assert_eq!(arguments(text), None, "{text}");
        }
    }

    #[test]
    fn times_have_a_date_a_time_and_a_zone() {
        for text in ["2026-01-31T12:00:00Z", "2000-02-29T00:00:00.1-00:00", "2026-12-31T23:59:59+14:00"] {
            assert!(is_time(text), "{text}");
        }
        for text in [
            "",
            "2026-01-31",
            "2026-01-31T12:00:00",
            "2026-01-31 12:00:00Z",
            "2026-13-01T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2026-04-31T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T12:00:00.Z",
            "2026-01-31T12:00:00+5:00",
            "2026-01-31T12:00:00z",
            "2026-01-31T12:00:00+99:00",
        ] {
            assert!(!is_time(text), "{text}");
        }
    }
}

//! A server's skills (SEP-2640): the entries of `skills/list`, with the places of their URIs, so that those can be replaced.
//!
//! Pure. All else in an entry stays as the server wrote it: hosts compare it with the files.

use std::collections::HashSet;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::offer::item::MAX_ITEMS;
use crate::offer::links::{self, Link};
use portcullis_mcp::protocol::uri_template::MAX_URI_BYTES;

/// The limit for the files of one skill: twice what servers should have at most.
const MAX_FILES: usize = 1_024;

/// One skill.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Skill {
    /// The URI of its `SKILL.md`, as its server knows it.
    pub(crate) uri: Box<str>,
    /// Its entry, as JSON.
    text: Box<str>,
    /// The URIs of its `SKILL.md` and its files in the entry.
    links: Box<[Link]>,
}

/// The skills of a server, sorted by URI; shared by every catalog that lists them.
pub(crate) type Skills = Arc<Vec<Skill>>;

/// An entry, or a result that names files in the same way.
#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    /// A list of files, or a word.
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
    #[serde(borrow)]
    skill: Option<&'a RawValue>,
}

/// Reads the entries of a list. Those without a usable URI, or beyond the limits, are left out.
pub(crate) fn read<'a>(entries: impl IntoIterator<Item = &'a str>) -> Vec<Skill> {
    let mut seen = HashSet::new();
    let mut found: Vec<Skill> = entries.into_iter().filter_map(Skill::read).collect();
    found.retain(|skill| seen.insert(skill.uri.clone()));
    found.truncate(MAX_ITEMS);
    found.sort_by(|a, b| a.uri.cmp(&b.uri));
    found
}

/// The same result of `skills/get` or `resources/directory/read` with the URIs that `rename` returns.
pub(crate) fn renamed(result: &str, rename: impl Fn(&str) -> Option<String>) -> Option<String> {
    let mut links = Vec::new();
    collect(result, result, &mut links)?;
    links::renamed(result, &links, rename)
}

impl Skill {
    fn read(text: &str) -> Option<Self> {
        let mut links = Vec::new();
        collect(text, text, &mut links)?;
        let uri = serde_json::from_str::<Named<'_>>(text).ok()?.uri?;
        let uri = serde_json::from_str::<String>(uri.get()).ok()?;
        let fits = links.len() <= MAX_FILES + 1 && links.iter().all(|link| link.uri.len() <= MAX_URI_BYTES);
        (fits && uri.contains(':')).then(|| Self { uri: uri.into(), text: text.into(), links: links.into() })
    }

    /// The URIs of its files, `SKILL.md` among them.
    pub(crate) fn files(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| &*link.uri)
    }

    /// Its entry with the URIs that `rename` returns.
    pub(crate) fn shown(&self, rename: impl Fn(&str) -> Option<String>) -> String {
        links::renamed(&self.text, &self.links, rename).unwrap_or_else(|| self.text.to_string())
    }
}

/// Collects the URIs in one object of a text, in their order; `None` if it is none.
fn collect(whole: &str, object: &str, links: &mut Vec<Link>) -> Option<()> {
    let named: Named<'_> = serde_json::from_str(object).ok()?;
    let mut add = |raw: &RawValue| {
        let uri: String = serde_json::from_str(raw.get()).ok()?;
        let at = raw.get().as_ptr().addr() - whole.as_ptr().addr();
        links.push(Link { at: at..at + raw.get().len(), uri: uri.into() });
        Some(())
    };
    if let Some(uri) = named.uri {
        add(uri)?;
    }
    if let Some(files) = named.resources.filter(|raw| raw.get().starts_with('[')) {
        for file in serde_json::from_str::<Vec<Named<'_>>>(files.get()).ok()? {
            add(file.uri?)?;
        }
    }
    if let Some(skill) = named.skill {
        collect(whole, skill.get(), links)?;
    }
    links.sort_by_key(|link| link.at.start);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: &str = r#"{"resources":[{"uri":"skill://a/SKILL.md","size":1.0},{"digest":"x","uri" : "skill://a/b.md"}],"frontmatter":{"name":"a","uri":"no"},"uri":"skill://a/SKILL.md"}"#;

    #[test]
    fn an_entry_is_shown_as_it_is_but_for_its_uris() {
        let skills = read([ENTRY]);
        assert_eq!(
            skills[0].files().collect::<Vec<_>>(),
            ["skill://a/SKILL.md", "skill://a/b.md", "skill://a/SKILL.md"]
        );
        assert_eq!(skills[0].shown(|_| None), ENTRY);
        let shown = skills[0].shown(|uri| Some(uri.replace("skill://", "skill://~n/")));
        assert_eq!(shown, ENTRY.replace("skill://", "skill://~n/"));
    }

    #[test]
    fn entries_that_cannot_be_used_are_left_out() {
        let dynamic = r#"{"uri":"skill://b/SKILL.md","resources":"dynamic"}"#;
        let many: Vec<String> = (0..2000).map(|at| format!(r#"{{"uri":"a:{at}"}}"#)).collect();
        let many = format!(r#"{{"uri":"a:b","resources":[{}]}}"#, many.join(","));
        let given = [
            "7",
            "{}",
            r#"{"uri":7}"#,
            r#"{"uri":"x"}"#,
            r#"{"uri":"a:b","resources":[7]}"#,
            &many,
            dynamic,
            dynamic,
            ENTRY,
        ];
        let uris: Vec<String> = read(given).iter().map(|skill| skill.uri.to_string()).collect();
        assert_eq!(uris, ["skill://a/SKILL.md", "skill://b/SKILL.md"]);
    }

    #[test]
    fn results_name_files_likewise() {
        let rename = |uri: &str| Some(format!("{uri}!"));
        let one = format!(r#"{{"skill":{ENTRY},"ttlMs":0}}"#);
        let expected = one.replace(r#"SKILL.md""#, r#"SKILL.md!""#).replace(r#"b.md""#, r#"b.md!""#);
        assert_eq!(renamed(&one, rename), Some(expected));
        let folder = r#"{"resources":[{"uri":"skill://a/b","name":"b"}]}"#;
        assert_eq!(renamed(folder, rename), Some(folder.replace(r#"a/b""#, r#"a/b!""#)));
        assert_eq!(renamed(folder, |_| None), None);
    }
}

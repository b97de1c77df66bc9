//! Finds the resources that a text names: the page of a tool in its definition, links and embedded resources in a
//! result.
//!
//! Pure. Records the position of each, so that one can be replaced while every other byte stays.

use std::ops::Range;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use portcullis_mcp::protocol::json::json_string;

/// The limit for links from one text.
const MOST: usize = 1_000;

/// A resource that a text names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    /// The position of its URI in the text, as a JSON string.
    pub(crate) at: Range<usize>,
    /// Its URI.
    pub(crate) uri: Box<str>,
}

/// Any object on the path to a link. No two kinds give a member of the same name another meaning.
#[derive(Default, Deserialize)]
struct LinkObject<'a> {
    // In a result of `tools/call` or of `prompts/get`, and in a message.
    #[serde(borrow, rename = "_meta")]
    meta: RawMember<'a>,
    #[serde(borrow)]
    content: RawMember<'a>,
    #[serde(borrow)]
    messages: RawMember<'a>,
    // In an item of content, and in an embedded resource.
    #[serde(borrow, rename = "type")]
    kind: RawMember<'a>,
    #[serde(borrow)]
    uri: RawMember<'a>,
    #[serde(borrow)]
    resource: RawMember<'a>,
    // In `_meta`, which names the page of a tool in three ways: MCP Apps, its older form, and the OpenAI Apps SDK.
    #[serde(borrow)]
    ui: RawMember<'a>,
    #[serde(borrow, rename = "ui/resourceUri")]
    page: RawMember<'a>,
    #[serde(borrow, rename = "openai/outputTemplate")]
    template: RawMember<'a>,
    // In `ui`.
    #[serde(borrow, rename = "resourceUri")]
    resource_uri: RawMember<'a>,
}

type RawMember<'a> = Option<&'a RawValue>;

/// Collects links of one text.
struct Links<'a> {
    whole: &'a str,
    found: Vec<Link>,
}

/// Links in a definition in the form of members, each after a comma.
pub(crate) fn of_members(members: &str) -> Box<[Link]> {
    if !may_name(members) {
        return Box::default();
    }
    // A brace replaces the first comma, so that the positions behind it stay the same.
    let object = format!("{{{}}}", members.strip_prefix(',').unwrap_or(members));
    let mut links = Links { whole: &object, found: Vec::new() };
    links.meta(read::<LinkObject<'_>>(&object).unwrap_or_default().meta);
    links.found.into()
}

/// Links in a result.
pub(crate) fn of_result(result: &str) -> Vec<Link> {
    let mut links = Links { whole: result, found: Vec::new() };
    if !may_name(result) {
        return links.found;
    }
    let LinkObject { content, messages, meta, .. } = read(result).unwrap_or_default();
    links.contents(content);
    let messages: Vec<LinkObject<'_>> = messages.and_then(|raw| read(raw.get())).unwrap_or_default();
    messages.into_iter().for_each(|message| links.contents(message.content));
    links.meta(meta);
    links.found.sort_by_key(|link| link.at.start);
    links.found
}

/// The text with the URIs that `rename` returns; `None` if it returns none. Links are sorted by position.
pub(crate) fn renamed(text: &str, links: &[Link], rename: impl Fn(&str) -> Option<String>) -> Option<String> {
    let (mut new, mut done, mut changed) = (String::new(), 0, false);
    for link in links {
        let Some(uri) = rename(&link.uri) else { continue };
        new.push_str(text.get(done..link.at.start)?);
        new.push_str(&json_string(&uri));
        (done, changed) = (link.at.end, true);
    }
    new.push_str(text.get(done..)?);
    changed.then_some(new)
}

/// Most texts name no resource, and need no parsing.
fn may_name(text: &str) -> bool {
    let has = |part: &str| memmem::find(text.as_bytes(), part.as_bytes()).is_some();
    has(r#"ri""#) || has("outputTemplate")
}

/// Clients fetch web addresses themselves, and data URIs need no server.
fn is_read_from_servers(uri: &str) -> bool {
    const ELSEWHERE: [&str; 3] = ["http", "https", "data"];
    uri.split_once(':').is_some_and(|(scheme, _)| ELSEWHERE.iter().all(|other| !scheme.eq_ignore_ascii_case(other)))
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text).ok()
}

impl<'a> LinkObject<'a> {
    /// Without members if the value is not an object.
    fn of(raw: RawMember<'a>) -> Self {
        raw.and_then(|raw| read(raw.get())).unwrap_or_default()
    }
}

impl<'a> Links<'a> {
    fn meta(&mut self, meta: RawMember<'a>) {
        let LinkObject { ui, page, template, .. } = LinkObject::of(meta);
        let mut all = [LinkObject::of(ui).resource_uri, page, template];
        all.sort_by_key(|raw| raw.map(|raw| raw.get().as_ptr()));
        all.into_iter().for_each(|raw| self.add(raw));
    }

    /// One item of content, or several.
    fn contents(&mut self, contents: RawMember<'a>) {
        let Some(text) = contents.map(RawValue::get) else { return };
        let all: Vec<&RawValue> = read(text).or_else(|| read(text).map(|one| vec![one])).unwrap_or_default();
        for content in all {
            let LinkObject { kind, uri, resource, .. } = LinkObject::of(Some(content));
            if kind.is_some_and(|kind| kind.get() == r#""resource_link""#) {
                self.add(uri);
            }
            self.add(LinkObject::of(resource).uri);
        }
    }

    fn add(&mut self, raw: RawMember<'a>) {
        let Some(raw) = raw.filter(|_| self.found.len() < MOST) else { return };
        let begin = raw.get().as_ptr().addr().wrapping_sub(self.whole.as_ptr().addr());
        if let Some(uri) = read::<String>(raw.get()).filter(|uri| is_read_from_servers(uri)) {
            self.found.push(Link { at: begin..begin + raw.get().len(), uri: uri.into() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(text: &str, links: &[Link]) -> Option<String> {
        renamed(text, links, |uri| Some(format!("<{uri}>")))
    }

    #[test]
    fn a_definition_names_its_page_in_three_ways() {
        let members = r#","inputSchema":{"uri":"a:1"},"_meta":{ "openai/outputTemplate":"ui://o", "ui/resourceUri" : "ui://\u0061","ui":{"resourceUri":"ui://m","x":"ui://no"}},"z":1"#;
        let links = of_members(members);
        assert_eq!(links.iter().map(|link| &*link.uri).collect::<Vec<_>>(), ["ui://o", "ui://a", "ui://m"]);
        assert_eq!(
            marked(members, &links).as_deref(),
            Some(
                r#","inputSchema":{"uri":"a:1"},"_meta":{ "openai/outputTemplate":"<ui://o>", "ui/resourceUri" : "<ui://a>","ui":{"resourceUri":"<ui://m>","x":"ui://no"}},"z":1"#
            )
        );
        assert_eq!(renamed(members, &links, |_| None), None);
        for none in ["", r#","_meta":{"ui":{"resourceUri":7}}"#, r#","_meta":{"ui":"ui://x"},"uri":"a:1""#] {
            assert_eq!(of_members(none).len(), 0, "{none}");
        }
    }

    #[test]
    fn a_result_names_what_it_links_and_embeds_and_its_page_but_nothing_else() {
        let result = r#"{"_meta":{"ui":{"resourceUri":"ui://p"}},"content":[{"type":"text","text":"{\"uri\":\"a:no\"}"},{"uri":"a:1","type":"resource_link"},{"type":"resource","resource":{"text":"t","uri":"a:2"}},{"type":"audio","uri":"a:no"},{"type":"resource_link","uri":"https://no"},{"type":"resource_link","uri":"data:no"}],"structuredContent":{"uri":"a:no"}}"#;
        let links = of_result(result);
        assert_eq!(links.iter().map(|link| &*link.uri).collect::<Vec<_>>(), ["ui://p", "a:1", "a:2"]);
        let expected = result.replace("ui://p", "<ui://p>").replace("a:1", "<a:1>").replace("a:2", "<a:2>");
        assert_eq!(marked(result, &links), Some(expected));
        let prompt =
            r#"{"messages":[{"role":"user","content":{"type":"resource_link","uri":"a:1"}},{"content":[]},{"x":1}]}"#;
        assert_eq!(of_result(prompt).len(), 1);
        for none in ["[]", "{", r#"{"contents":[{"uri":"a:1"}]}"#, r#"{"content":[{"type":"resource_link","uri":7}]}"#]
        {
            assert_eq!(of_result(none), [], "{none}");
        }
    }
}

//! Resources that a text names: the page of a tool in its definition, links and embedded resources in a result.
//!
//! Pure. Where each stands in the text is kept, so that one can be replaced while every other byte stays.

use std::ops::Range;

use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::upstream::message::json_string;

/// Links taken from one text.
const MOST: usize = 1_000;

/// A resource that a text names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Where in the text its URI stands, as a JSON string.
    pub at: Range<usize>,
    /// Its URI.
    pub uri: Box<str>,
}

/// `_meta`, as far as it names the page of a tool: MCP Apps, its older form, and that of the OpenAI Apps SDK.
#[derive(Deserialize)]
struct Meta<'a> {
    #[serde(borrow)]
    ui: Option<&'a RawValue>,
    #[serde(borrow, rename = "ui/resourceUri")]
    page: Option<&'a RawValue>,
    #[serde(borrow, rename = "openai/outputTemplate")]
    template: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Ui<'a> {
    #[serde(borrow)]
    resource_uri: Option<&'a RawValue>,
}

/// A result of `tools/call` or of `prompts/get`.
#[derive(Deserialize)]
struct Naming<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: Option<&'a RawValue>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    #[serde(borrow)]
    messages: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    content: Option<&'a RawValue>,
}

/// One item of content.
#[derive(Deserialize)]
struct Content<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow)]
    resource: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Embedded<'a> {
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
}

/// Collects links of one text.
struct Links<'a> {
    whole: &'a str,
    found: Vec<Link>,
}

/// Links in a definition that is written as members, each after a comma.
pub fn of_members(members: &str) -> Box<[Link]> {
    if !may_name(members) {
        return Box::default();
    }
    // A brace in place of the first comma: what stands behind it stays where it is.
    let object = format!("{{{}}}", members.strip_prefix(',').unwrap_or(members));
    let mut links = Links { whole: &object, found: Vec::new() };
    if let Some(result) = read::<Naming<'_>>(&object) {
        links.meta(result.meta);
    }
    links.found.into()
}

/// Links in a result.
pub fn of_result(result: &str) -> Vec<Link> {
    let mut links = Links { whole: result, found: Vec::new() };
    let Some(read) = Some(result).filter(|text| may_name(text)).and_then(read::<Naming<'_>>) else {
        return links.found;
    };
    links.contents(read.content);
    let messages: Vec<Message<'_>> = read.messages.and_then(|raw| self::read(raw.get())).unwrap_or_default();
    messages.into_iter().for_each(|message| links.contents(message.content));
    links.meta(read.meta);
    links.found.sort_by_key(|link| link.at.start);
    links.found
}

/// The text with other URIs where `rename` gives one; none if it gives none. Links are sorted by their places.
pub fn renamed(text: &str, links: &[Link], rename: impl Fn(&str) -> Option<String>) -> Option<String> {
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

/// Most texts name nothing, and need not be taken apart.
fn may_name(text: &str) -> bool {
    let has = |part: &str| memmem::find(text.as_bytes(), part.as_bytes()).is_some();
    has(r#"ri""#) || has("outputTemplate")
}

/// What is on the web clients get there, and what is in the URI itself needs nobody.
fn is_read_from_servers(uri: &str) -> bool {
    const ELSEWHERE: [&str; 3] = ["http", "https", "data"];
    uri.split_once(':').is_some_and(|(scheme, _)| ELSEWHERE.iter().all(|other| !scheme.eq_ignore_ascii_case(other)))
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    serde_json::from_str(text).ok()
}

impl<'a> Links<'a> {
    fn meta(&mut self, meta: Option<&'a RawValue>) {
        let Some(meta) = meta.and_then(|raw| read::<Meta<'_>>(raw.get())) else { return };
        let ui = meta.ui.and_then(|raw| read::<Ui<'_>>(raw.get()));
        let mut all = [ui.and_then(|ui| ui.resource_uri), meta.page, meta.template];
        all.sort_by_key(|raw| raw.map(|raw| raw.get().as_ptr()));
        all.into_iter().for_each(|raw| self.add(raw));
    }

    /// One item of content, or several.
    fn contents(&mut self, contents: Option<&'a RawValue>) {
        let Some(text) = contents.map(RawValue::get) else { return };
        let all: Vec<&RawValue> = read(text).or_else(|| read(text).map(|one| vec![one])).unwrap_or_default();
        for content in all.into_iter().filter_map(|raw| read::<Content<'_>>(raw.get())) {
            if content.kind.is_some_and(|kind| kind.get() == r#""resource_link""#) {
                self.add(content.uri);
            }
            let embedded = content.resource.and_then(|raw| read::<Embedded<'_>>(raw.get()));
            self.add(embedded.and_then(|resource| resource.uri));
        }
    }

    fn add(&mut self, raw: Option<&'a RawValue>) {
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

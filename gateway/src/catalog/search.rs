//! Searches the tools of a view for its callers, each of whom finds what it may use alone.

use std::sync::Arc;

use portcullis_mcp::protocol::json::{Members, json_string};
use portcullis_search::{Document, Index, IndexedTool};

use super::{Catalog, Kind, Merged};
use crate::auth::Identity;
use crate::catalog::Entry;
use crate::offer::item::Item;

/// Bytes of a tool's description in an answer to a search: the whole is one `describe_tool` away.
const MAX_DESCRIPTION_BYTES: usize = 400;

/// The tools of a view, by their positions in the list of all of them.
pub(super) struct ToolIndex {
    names: Vec<Arc<str>>,
    index: Index,
}

impl ToolIndex {
    fn of(tools: &Merged) -> Self {
        let listed: Vec<&Entry> = tools.listed(Kind::Tools);
        let indexed = listed.iter().filter_map(|entry| {
            let shown = entry.shown_by()?;
            Some(shown.item.indexed(&shown.server.key.name))
        });
        Self { index: Index::new(indexed), names: listed.iter().map(|entry| entry.name.clone()).collect() }
    }
}

impl Catalog {
    /// Whether agents can search this catalog: it is that of a view with `search`.
    pub(crate) fn is_searchable(&self) -> bool {
        self.merged.view_searches()
    }

    /// The tools that fit a query best, of those that a caller may use: a JSON array of their names, titles, descriptions and
    /// servers. Empty where nothing can be searched.
    pub(crate) fn search(self: &Arc<Self>, identity: &Identity, query: &str, limit: usize) -> String {
        let tools = self.merged.index.get_or_init(|| ToolIndex::of(&self.merged));
        let seen = self.seen_by(identity);
        let seen = seen.merged.listed_sorted();
        let entry = |at: usize| {
            let name = &tools.names[at];
            seen.binary_search_by(|entry| entry.name.cmp(name)).ok().map(|place| &seen[place]).filter(|one| one.listed)
        };
        let hits = tools.index.search(query, limit, |at| entry(at).is_some());
        let found = hits.into_iter().filter_map(|hit| found(entry(hit.at)?));
        format!("[{}]", found.collect::<Vec<_>>().join(","))
    }

    /// The definition of a tool that a caller may use, as it would be listed; `None` if there is no such tool.
    pub(crate) fn describe(self: &Arc<Self>, identity: &Identity, name: &str) -> Option<String> {
        let seen = self.seen_by(identity);
        let seen = seen.merged.listed_sorted();
        let place = seen.binary_search_by(|entry| (*entry.name).cmp(name)).ok()?;
        let (name, item) = seen[place].row()?;
        Some(format!(r#"{{"name":{}{}}}"#, json_string(&name), item.members))
    }
}

/// A tool in an answer to a search.
fn found(entry: &Entry) -> Option<String> {
    let shown = entry.shown_by()?;
    let object = shown.item.members_as_object();
    let members = Members::read(&object).ok();
    let text = |member: &str| members.as_ref().and_then(|members| members.text(member).map(|text| text.into_owned()));
    let mut found = format!(r#"{{"name":{}"#, json_string(&entry.name));
    if let Some(title) = text("title") {
        found.push_str(&format!(r#","title":{}"#, json_string(&title)));
    }
    if let Some(description) = text("description") {
        found.push_str(&format!(r#","description":{}"#, json_string(&clipped(&description))));
    }
    found.push_str(&format!(r#","server":{}}}"#, json_string(&shown.server.name)));
    Some(found)
}

/// The beginning of a text, up to the end of a word.
fn clipped(text: &str) -> String {
    if text.len() <= MAX_DESCRIPTION_BYTES {
        return text.to_owned();
    }
    let mut end = MAX_DESCRIPTION_BYTES;
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let cut = text[..end].rfind(char::is_whitespace).unwrap_or(end);
    format!("{} ...", text[..cut].trim_end())
}

impl Item {
    /// The tool as it is searched; read once.
    fn indexed(&self, server: &str) -> Arc<IndexedTool> {
        let read = || {
            let object = self.members_as_object();
            let members = Members::read(&object).ok();
            let text = |member: &str| members.as_ref().and_then(|all| all.text(member).map(|text| text.into_owned()));
            let (title, description) = (text("title"), text("description"));
            let schema = members.as_ref().and_then(|members| members.get("inputSchema")).map(|schema| schema.get());
            Arc::new(IndexedTool::new(&Document {
                // A view may have renamed it: that name is what its owner finds apt.
                name: self.full_name(),
                title: title.as_deref(),
                description: description.as_deref(),
                input_schema: schema,
                server,
            }))
        };
        self.searched.0.get_or_init(read).clone()
    }
}

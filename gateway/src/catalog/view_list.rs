//! The list of a view's tools: those that fit its budget, and the tools for searching.
//!
//! Which tools are listed depends on the view and on what the caller may use alone: every replica lists the same bytes.

use std::sync::Arc;

use portcullis_crds::View;
use portcullis_crds::mcpview::{ViewBudget, ViewSearch};
use portcullis_crds::view::{ViewItem, ViewPlace};
use portcullis_mcp::protocol::json::json_string;

use super::pages::{PageRow, Pages, number_of_row};
use super::table::{Entry, Table};
use crate::offer::item::{Item, Kind};
use crate::offer::search_tools::search_tools;

/// What the list of tools of a view shows.
pub(super) struct ViewList {
    /// Its pages.
    pub(super) pages: Pages,
    /// A number that changes with them.
    pub(super) fingerprint: u64,
    /// Tools that it does not show because the budget has no room for them.
    pub(super) hidden: usize,
    /// Whether it shows the tools for searching.
    pub(super) is_searched: bool,
    /// Its bytes: of the array of tools.
    pub(super) bytes: usize,
    /// Its tokens, as estimated.
    pub(super) tokens: usize,
    /// The names that it shows, sorted; `None`: all.
    shown: Option<Box<[Arc<str>]>>,
}

/// A size in the unit of a budget, or in bytes.
#[derive(Clone, Copy)]
enum Unit {
    Bytes,
    Tokens,
}

/// A tool that could be listed.
struct ListedTool<'a> {
    entry: &'a Entry,
    row: PageRow,
    size: usize,
}

impl ViewList {
    /// The list of these tools. `is_narrow`: for a class of callers.
    pub(super) fn of(view: &View, tools: &Table, is_narrow: bool) -> Self {
        let (unit, limit) = match view.spec.budget {
            Some(ViewBudget { tokens: Some(tokens), .. }) => (Unit::Tokens, tokens as usize),
            Some(ViewBudget { bytes: Some(bytes), .. }) => (Unit::Bytes, bytes as usize),
            _ => (Unit::Bytes, usize::MAX),
        };
        let sized = |entry: &'_ Entry| entry.row().map(|row| (unit.of(&row), row));
        let listed = tools.listed().filter_map(|entry| sized(entry).map(|(size, row)| ListedTool { entry, row, size }));
        let mut listed: Vec<ListedTool<'_>> = listed.collect();
        let total: usize = listed.iter().map(|tool| tool.size).sum();
        let is_searched = match view.spec.search {
            ViewSearch::Never => false,
            ViewSearch::Auto => total > limit,
            ViewSearch::Always => true,
        };
        let of_search: Vec<PageRow> = if is_searched { search_tools().to_vec() } else { Vec::new() };
        let room = limit.saturating_sub(of_search.iter().map(|row| unit.of(row)).sum());
        let count = listed.len();
        if total > room {
            let mut left = room;
            listed.sort_by_cached_key(|tool| (place_of(view, tool.entry), tool.row.0.clone()));
            listed.retain(|tool| match left.checked_sub(tool.size) {
                Some(rest) => {
                    left = rest;
                    true
                }
                None => false,
            });
        }
        let hidden = count - listed.len();
        let mut rows: Vec<PageRow> = listed.into_iter().map(|tool| tool.row).chain(of_search).collect();
        rows.sort_by(|a, b| a.0.cmp(&b.0));
        let shown = (hidden > 0).then(|| rows.iter().map(|(name, _)| name.clone()).collect());
        let sum = |unit: Unit| rows.iter().map(|row| unit.of(row)).sum::<usize>();
        Self {
            hidden,
            is_searched,
            // The brackets, and one comma less than there are tools.
            bytes: sum(Unit::Bytes) + if rows.is_empty() { 2 } else { 1 },
            tokens: sum(Unit::Tokens),
            fingerprint: rows.iter().map(|(name, item)| number_of_row(name, item)).fold(0, u64::wrapping_add),
            shown,
            pages: if is_narrow { Pages::of_class(Kind::Tools, rows) } else { Pages::new(Kind::Tools, rows) },
        }
    }

    /// Whether it shows a tool of this name.
    pub(super) fn shows(&self, name: &str) -> bool {
        self.shown.as_ref().is_none_or(|shown| shown.binary_search_by(|one| (**one).cmp(name)).is_ok())
    }
}

impl Unit {
    /// The size of a tool in a list, with the comma after it.
    fn of(self, (name, item): &PageRow) -> usize {
        match self {
            // {"name":NAME...},
            Self::Bytes => json_string(name).len() + item.members.len() + r#"{"name":},"#.len(),
            Self::Tokens => item.tokens(name),
        }
    }
}

/// The place of a tool in the order of the view's selections.
fn place_of(view: &View, entry: &Entry) -> Option<ViewPlace> {
    let shown = entry.shown_by()?;
    let item: &Item = &shown.item;
    view.of_server(&shown.server.spec())?.place_of(ViewItem::Tool(&item.own_name, item.hints))
}

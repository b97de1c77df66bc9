//! The pages of MCP's four lists: written on demand and cached.
//!
//! The cursor is the last name of the previous page, so it is valid for later lists and for other replicas too.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use thiserror::Error;

use crate::offer::item::{Item, Kind};
use portcullis_mcp::protocol::json::json_string;

/// The limit for items on one page.
pub(crate) const PAGE: usize = 1_000;

/// Rows of the lists of a class of callers that are cached: about 64 KiB.
pub(super) const MAX_KEPT_ROWS: usize = 256;

/// The gateway did not issue this cursor.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the cursor is not from this gateway: leave it out to list from the start")]
pub(crate) struct BadCursor;

/// A name and the definition that is listed under it.
pub(super) type PageRow = (Arc<str>, Arc<Item>);

/// A number for a listed item: sums of it do not depend on the order.
pub(super) fn number_of_row(name: &str, item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.write_u64(item.shown);
    hasher.finish()
}

/// An immutable list.
pub(super) struct Pages {
    kind: Kind,
    rows: Vec<PageRow>,
    /// The cached pages; none where they are written for each list.
    kept: Vec<OnceLock<Bytes>>,
}

impl Pages {
    /// `rows` are sorted by name.
    pub(super) fn new(kind: Kind, rows: Vec<PageRow>) -> Self {
        let kept = (0..=rows.len() / PAGE).map(|_| OnceLock::new()).collect();
        Self { kind, rows, kept }
    }

    /// The same for a class of callers, of which there are many: only short lists are cached.
    pub(super) fn of_class(kind: Kind, rows: Vec<PageRow>) -> Self {
        let is_short = rows.len() <= MAX_KEPT_ROWS;
        let pages = Self::new(kind, rows);
        if is_short { pages } else { Self { kept: Vec::new(), ..pages } }
    }

    /// The page after a cursor, or the first: members of a result, without braces.
    pub(super) fn page(&self, cursor: Option<&str>) -> Result<Bytes, BadCursor> {
        let start = match cursor.map(read_cursor).transpose()? {
            None => 0,
            Some(last) => self.rows.partition_point(|(name, _)| **name <= *last),
        };
        match self.kept.get(start / PAGE).filter(|_| start.is_multiple_of(PAGE)) {
            Some(kept) => Ok(kept.get_or_init(|| self.write(start)).clone()),
            None => Ok(self.write(start)),
        }
    }

    fn write(&self, start: usize) -> Bytes {
        let rest = &self.rows[start..];
        let shown = &rest[..rest.len().min(PAGE)];
        let size: usize = shown.iter().map(|(name, item)| name.len() + item.members.len() + 24).sum();
        let mut text = String::with_capacity(size + 128);
        text.push_str(&format!(r#""{}":["#, self.kind.member()));
        for (at, (name, item)) in shown.iter().enumerate() {
            if at > 0 {
                text.push(',');
            }
            text.push_str(&format!(r#"{{"{}":{}"#, self.kind.naming(), json_string(name)));
            text.push_str(&item.members);
            text.push('}');
        }
        text.push(']');
        if let (true, Some((last, _))) = (rest.len() > PAGE, shown.last()) {
            text.push_str(&format!(r#","nextCursor":"{}""#, URL_SAFE_NO_PAD.encode(last.as_bytes())));
        }
        text.into()
    }
}

fn read_cursor(cursor: &str) -> Result<String, BadCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(cursor).map_err(|_| BadCursor)?;
    String::from_utf8(bytes).map_err(|_| BadCursor)
}

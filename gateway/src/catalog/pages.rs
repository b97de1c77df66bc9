//! What the four lists of MCP show: pages of definitions, written when somebody asks and kept.
//!
//! The cursor is the last name of the page before, so it is good for later lists and for those of other replicas too.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use thiserror::Error;

use crate::item::{Item, Kind};
use crate::upstream::message::json_string;

/// Items on one page.
pub const PAGE: usize = 1_000;

/// A cursor is none of ours.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
#[error("the cursor is not one of this server: leave it out to begin anew")]
pub struct BadCursor;

/// A name and the definition that is shown under it.
pub(super) type Row = (Arc<str>, Arc<Item>);

/// A number for what is shown of an item: sums of it do not depend on an order.
pub(super) fn number_of_row(name: &str, item: &Item) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.write_u64(item.shown);
    hasher.finish()
}

/// A list that does not change.
pub(super) struct Pages {
    kind: Kind,
    rows: Vec<Row>,
    /// Those that begin where a page ends.
    kept: Vec<OnceLock<Bytes>>,
}

impl Pages {
    /// `rows` are sorted by name.
    pub(super) fn new(kind: Kind, rows: Vec<Row>) -> Self {
        let kept = (0..=rows.len() / PAGE).map(|_| OnceLock::new()).collect();
        Self { kind, rows, kept }
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

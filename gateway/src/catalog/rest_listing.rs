//! The bodies of `GET /tools/list`: every tool with the servers that offer it.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::pages::MAX_KEPT_ROWS;
use super::{Candidate, Entry, Kind, Merged, Scope};
use crate::server::handle::Handle;
use portcullis_mcp::protocol::json::json_string;

impl Merged {
    /// The body of `GET /tools/list`; the same bytes as long as nothing changes.
    pub(super) fn listing(&self) -> Bytes {
        let entries = self.table(Kind::Tools).sorted();
        // Classes of callers are many, and their lists may be long.
        if self.is_narrow() && entries.len() > MAX_KEPT_ROWS {
            return write_listing(entries, None);
        }
        self.listing.get_or_init(|| write_listing(entries, None)).clone()
    }

    /// The body of `GET /tools/list?server=...`.
    pub(super) fn listing_of(&self, server: &Handle) -> Bytes {
        write_listing(self.table(Kind::Tools).sorted(), Some(server))
    }

    /// The body of `GET /tools/list?namespace=...`; `None` if no server is in that namespace.
    pub(super) fn listing_in(&self, namespace: &str) -> Option<Bytes> {
        Some(write_listing(self.view(Scope::Namespace(namespace))?.table(Kind::Tools).sorted(), None))
    }
}

/// Bytes that a tool takes in a list: what is longer than usual makes the text grow.
const USUAL_BYTES: usize = 256;

pub(super) fn write_listing(entries: &[Arc<Entry>], only: Option<&Handle>) -> Bytes {
    let mut text = String::with_capacity(entries.len() * USUAL_BYTES + 64);
    text.push_str(r#"{"tools":["#);
    let mut first = true;
    let mut last: Option<(&Handle, String)> = None;
    for entry in entries.iter().filter(|entry| entry.listed) {
        let wanted = |c: &&Candidate| c.listed && only.is_none_or(|server| server.key == c.server.key);
        let Some(shown) = entry.candidates.iter().find(wanted) else { continue };
        if !std::mem::take(&mut first) {
            text.push(',');
        }
        text.push_str(r#"{"name":"#);
        text.push_str(&json_string(&entry.name));
        text.push_str(&shown.item.members);
        if only.is_none() {
            text.push_str(r#","available_servers":["#);
            let mut count = 0_usize;
            for candidate in entry.candidates.iter().filter(|candidate| candidate.listed) {
                text.push_str(if count > 0 { "," } else { "" });
                count += 1;
                // The tools of a server mostly follow each other.
                let label = match &last {
                    Some((server, label)) if std::ptr::eq(*server, &*candidate.server) => label,
                    _ => &last.insert((&candidate.server, json_string(candidate.server.spec().label()))).1,
                };
                text.push_str(label);
            }
            let _ = write!(text, r#"],"server_count":{count}"#);
        }
        text.push('}');
    }
    text.push_str("]}");
    text.into()
}

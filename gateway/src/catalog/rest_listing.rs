//! The bodies of `GET /tools/list`: every tool with the servers that offer it.

use std::fmt::Write as _;
use std::sync::Arc;

use bytes::Bytes;

use super::pages::MAX_KEPT_ROWS;
use super::view_list::ViewList;
use super::{Candidate, Entry, Kind, Merged, Scope};
use crate::offer::search_tools::search_tools;
use crate::server::handle::Handle;
use portcullis_mcp::protocol::json::json_string;

impl Merged {
    /// The body of `GET /tools/list`; the same bytes as long as nothing changes.
    pub(super) fn listing(&self) -> Bytes {
        let entries = self.table(Kind::Tools).sorted();
        let write = || write_listing(entries, None, self.view_list());
        // Classes of callers are many, and their lists may be long.
        if self.is_narrow() && entries.len() > MAX_KEPT_ROWS {
            return write();
        }
        self.listing.get_or_init(write).clone()
    }

    /// The body of `GET /tools/list?server=...`.
    pub(super) fn listing_of(&self, server: &Handle) -> Bytes {
        write_listing(self.table(Kind::Tools).sorted(), Some(server), None)
    }

    /// The body of `GET /tools/list?namespace=...`; `None` if no server is in that namespace.
    pub(super) fn listing_in(&self, namespace: &str) -> Option<Bytes> {
        Some(write_listing(self.combined(Scope::Namespace(namespace))?.table(Kind::Tools).sorted(), None, None))
    }
}

/// Bytes that a tool takes in a list: what is longer than usual makes the text grow.
const USUAL_BYTES: usize = 256;

/// `view` leaves out what its budget hides, and adds the tools for searching.
pub(super) fn write_listing(entries: &[Arc<Entry>], only: Option<&Handle>, view: Option<&ViewList>) -> Bytes {
    let mut text = String::with_capacity(entries.len() * USUAL_BYTES + 64);
    text.push_str(r#"{"tools":["#);
    let mut first = true;
    let mut last: Option<(&Handle, String)> = None;
    for entry in entries.iter().filter(|entry| entry.listed && view.is_none_or(|view| view.shows(&entry.name))) {
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
    for (name, item) in view.iter().filter(|view| view.is_searched).flat_map(|_| search_tools()) {
        text.push_str(if std::mem::take(&mut first) { "" } else { "," });
        let _ =
            write!(text, r#"{{"name":{}{},"available_servers":[],"server_count":0}}"#, json_string(name), item.members);
    }
    text.push_str("]}");
    text.into()
}

//! The bodies of `GET /tools/list`: every tool with the servers that offer it.

use bytes::Bytes;

use super::{Candidate, Catalog, Entry, Kind, Scope, sorted};
use crate::handle::Handle;
use crate::upstream::message::json_string;

impl Catalog {
    /// The body of `GET /tools/list`; the same bytes as long as nothing changes.
    pub fn listing(&self) -> Bytes {
        self.listing.get_or_init(|| write_listing(self.listed(Kind::Tools), None)).clone()
    }

    /// The body of `GET /tools/list?server=...`.
    pub fn listing_of(&self, server: &Handle) -> Bytes {
        write_listing(self.listed(Kind::Tools), Some(server))
    }

    /// The body of `GET /tools/list?namespace=...`; none if no server is in that namespace.
    pub fn listing_in(&self, namespace: &str) -> Option<Bytes> {
        Some(write_listing(sorted(self.view(Scope::Namespace(namespace))?.table(Kind::Tools)), None))
    }
}

fn write_listing(entries: Vec<&Entry>, only: Option<&Handle>) -> Bytes {
    let mut text = String::from(r#"{"tools":["#);
    let mut first = true;
    for entry in entries {
        let wanted = |c: &&Candidate| c.listed && only.is_none_or(|server| server.key == c.server.key);
        let Some(shown) = entry.candidates.iter().find(wanted) else { continue };
        if !std::mem::take(&mut first) {
            text.push(',');
        }
        text.push_str(r#"{"name":"#);
        text.push_str(&json_string(&entry.name));
        text.push_str(&shown.item.members);
        if only.is_none() {
            let listed = entry.candidates.iter().filter(|c| c.listed);
            let servers: Vec<String> = listed.map(|c| json_string(c.server.spec().label())).collect();
            text.push_str(&format!(r#","available_servers":[{}],"server_count":{}"#, servers.join(","), servers.len()));
        }
        text.push('}');
    }
    text.push_str("]}");
    text.into()
}

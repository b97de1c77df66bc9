//! The bodies of `GET /tools/list`: every tool with the servers that offer it.

use bytes::Bytes;

use super::{Candidate, Catalog, Kind};
use crate::handle::Handle;
use crate::upstream::message::json_string;

impl Catalog {
    /// The body of `GET /tools/list`; the same bytes as long as nothing changes.
    pub fn listing(&self) -> Bytes {
        self.listing.get_or_init(|| self.write_listing(None)).clone()
    }

    /// The body of `GET /tools/list?server=...`.
    pub fn listing_of(&self, server: &Handle) -> Bytes {
        self.write_listing(Some(server))
    }

    fn write_listing(&self, only: Option<&Handle>) -> Bytes {
        let mut text = String::from(r#"{"tools":["#);
        let mut first = true;
        for entry in self.listed(Kind::Tools) {
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
                text.push_str(&format!(
                    r#","available_servers":[{}],"server_count":{}"#,
                    servers.join(","),
                    servers.len()
                ));
            }
            text.push('}');
        }
        text.push_str("]}");
        text.into()
    }
}

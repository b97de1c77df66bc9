//! The extensions that are announced to clients: of one server all, of several those whose messages the gateway can route.

use std::sync::Arc;

use portcullis_crds::ServerKey;
use portcullis_mcp::protocol::extensions::{Extensions, SKILLS, is_routed};
use serde_json::Value;
use smallvec::{SmallVec, smallvec};

use super::{Candidate, Entry, Kind, Merged, Scope};
use crate::offer::item::Item;
use crate::server::handle::Handle;

/// The setting of skills that one server of several may have: directories can be listed.
const DIRECTORY_READ: &str = "directoryRead";

impl Merged {
    /// The extensions of a part of the catalog; those of several servers are collected once.
    pub(crate) fn announced(&self, scope: Scope<'_>) -> Extensions {
        let collected = match scope {
            Scope::Server(server) => {
                return self.index_of(&server.key).map_or_else(Extensions::default, |place| self.own(place).clone());
            }
            Scope::All => Some((&self.announced, 0..self.servers.len())),
            Scope::Namespace(name) => self.namespaces().get(name).map(|one| (&one.announced, one.range.clone())),
        };
        let Some((kept, range)) = collected else { return Extensions::default() };
        kept.get_or_init(|| together(range.map(|place| self.own(place)))).clone()
    }

    /// The tool that a server itself calls so, at that server alone; none in what a class of callers sees. Who names a tool of
    /// a server with lists for each caller has been listed it.
    pub(crate) fn own_tool(&self, server: &ServerKey, own_name: &str) -> Option<Arc<Entry>> {
        let place = self.index_of(server).filter(|_| !self.is_narrow())?;
        if self.servers[place].spec().listing.per_caller {
            return Some(Arc::new(Entry::custom(&self.servers[place], own_name)));
        }
        let offer = self.offer(place);
        let item = offer.tools.iter().find(|item| *item.own_name == *own_name)?;
        self.find_alone(Kind::Tools, &self.servers[place], &item.name).map(Arc::new)
    }

    fn own(&self, place: usize) -> &Extensions {
        &self.alone[place].offer.extensions
    }
}

impl Entry {
    /// What no server is asked for.
    pub(crate) fn nobody(name: &str) -> Self {
        Self { name: name.into(), candidates: SmallVec::new(), listed: false, in_order: true }
    }

    /// A request that the gateway does not know, for one server. Nothing says that it may be repeated.
    pub(crate) fn custom(server: &Arc<Handle>, method: &str) -> Self {
        let item = Arc::new(Item { repeatable: false, ..Item::unlisted(method) });
        let candidate = Candidate { server: server.clone(), item: item.clone(), listed: true, grant: None };
        Self { name: item.name.clone(), candidates: smallvec![candidate], listed: true, in_order: true }
    }
}

/// What several servers have together. Their settings are their own; a client learns here what the gateway passes on.
fn together<'a>(servers: impl Iterator<Item = &'a Extensions> + Clone) -> Extensions {
    let names = servers.clone().flat_map(Extensions::names).filter(|name| is_routed(name));
    let lists_directories = servers.clone().filter_map(|one| one.settings(SKILLS)).any(|settings| {
        let settings = serde_json::from_str::<Value>(settings).unwrap_or_default();
        settings.get(DIRECTORY_READ) == Some(&Value::Bool(true))
    });
    names.fold(Extensions::default(), |all, name| {
        let settings = if name == SKILLS && lists_directories { r#"{"directoryRead":true}"# } else { "{}" };
        all.with(name, settings)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_servers_have_together_what_can_be_routed() {
        let given = [
            r#"{"io.modelcontextprotocol/ui":{"x":1},"a/b":{}}"#,
            r#"{"io.modelcontextprotocol/skills":{"directoryRead":true},"io.modelcontextprotocol/ui":{}}"#,
            r#"{"io.modelcontextprotocol/skills":{}}"#,
        ];
        let all = given.map(Extensions::from_json);
        let expected = r#"{"io.modelcontextprotocol/skills":{"directoryRead":true},"io.modelcontextprotocol/ui":{}}"#;
        assert_eq!(together(all.iter()).to_json(), expected);
        assert_eq!(together(all[2..].iter()).to_json(), r#"{"io.modelcontextprotocol/skills":{}}"#);
        assert_eq!(together(all[..0].iter()), Extensions::default());
    }
}

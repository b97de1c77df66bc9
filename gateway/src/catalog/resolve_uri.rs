//! Resolves the URI of a resource to servers: by a list, by a tool that names it, by a template, or by its scheme and
//! authority.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use portcullis_crds::ServerKey;
use smallvec::SmallVec;

use super::combined::CombinedItems;
use super::naming::{Qualified, uri_forms};
use super::{Candidate, Entry, Kind, Merged, Scope};
use crate::offer::item::Item;
use crate::offer::skills::Skill;
use crate::server::handle::{Handle, Offer};
use portcullis_mcp::protocol::uri_template;

/// The index for URIs that no server lists; built on first use.
#[derive(Default)]
pub(super) struct UriAuthorities {
    /// The only server for each scheme and authority; `None` if several have it.
    by_place: HashMap<String, Option<usize>>,
    /// The only server with resources.
    only: Option<usize>,
}

impl UriAuthorities {
    /// Indexes these servers, by their numbers.
    pub(super) fn of<'a>(offers: impl Iterator<Item = (usize, &'a Arc<Offer>)>) -> Self {
        let (mut by_place, mut owners) = (HashMap::new(), Vec::new());
        for (index, offer) in offers {
            let listed = offer.resources.iter().chain(offer.templates.iter()).map(|item| &*item.name);
            for uri in listed.chain(offer.skills.iter().flat_map(Skill::files)) {
                let Some(place) = place_of(uri) else { continue };
                let owner = by_place.entry(place).or_insert(Some(index));
                *owner = owner.filter(|owner| *owner == index);
            }
            if owners.len() < 2 && offer.has_resources() {
                owners.push(index);
            }
        }
        Self { by_place, only: if let [only] = owners[..] { Some(only) } else { None } }
    }
}

impl Merged {
    /// Resolves a resource URI to servers: those that list it, or whose tool names it; else those whose template
    /// matches, by precedence; else the only server whose other resources have the same scheme and authority; else the
    /// only server with resources. A URI that names its namespace or server leads only there; one that names none leads
    /// to no server whose URIs do.
    ///
    /// The items of an entry that was not found in a list are the URI itself as its server knows it, ready to be
    /// requested.
    pub(crate) fn reader(&self, scope: Scope<'_>, uri: &str) -> Option<Arc<Entry>> {
        let found = self.reader_anywhere(scope, uri)?;
        match &self.view {
            Some(view) => view.readable(found),
            None => Some(found),
        }
    }

    fn reader_anywhere(&self, scope: Scope<'_>, uri: &str) -> Option<Arc<Entry>> {
        let view = match scope {
            Scope::Server(server) => return self.reader_alone(server, uri),
            scope => self.combined(scope)?,
        };
        if let Some(entry) = view.exact(uri) {
            return Some(entry.clone());
        }
        match (Qualified::read(uri), scope) {
            (Some(Qualified { namespace, server: Some(name), own }), scope) => {
                let inside = !matches!(scope, Scope::Namespace(scope) if scope != namespace);
                let server = self.server_of(&ServerKey::new(namespace, name)).filter(|_| inside)?;
                return self.reader_alone(server, &own);
            }
            // As in the view of its namespace alone: no template of another namespace may match it.
            (Some(whose), Scope::All) => return self.reader(Scope::Namespace(whose.namespace), &whose.own),
            (Some(_), _) => return None,
            (None, _) => {}
        }
        if let Some(entry) = by_template(view, uri) {
            return Some(entry);
        }
        let places = view.places(self.all_servers(None));
        let one = place_of(uri).and_then(|place| places.by_place.get(&place).copied().flatten()).or(places.only)?;
        let (server, offer) = (&self.servers[one], &self.alone[one].offer);
        Some(Entry::unlisted(uri, [(server.clone(), offer.listed)]))
    }

    /// The same, only by what servers list.
    pub(super) fn listed_reader(&self, scope: Scope<'_>, uri: &str) -> Option<Arc<Entry>> {
        if let Scope::Server(_) = scope {
            return self.find(Kind::Resources, scope, uri).map(Cow::into_owned);
        }
        let view = self.combined(scope)?;
        view.exact(uri).cloned().or_else(|| by_template(view, uri).filter(|_| Qualified::read(uri).is_none()))
    }

    fn reader_alone(&self, server: &Arc<Handle>, uri: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.find(Kind::Resources, Scope::Server(server), uri) {
            return Some(entry.into_owned());
        }
        let offer = &self.alone(server)?.offer;
        offer.has_resources().then(|| Entry::unlisted(uri, [(server.clone(), offer.listed)]))
    }

    /// How many templates a URI may have to be matched against.
    pub(crate) fn templates(&self, scope: Scope<'_>) -> usize {
        self.combined(scope).map_or(0, |view| view.table(Kind::Templates).in_order().len())
    }

    /// The URI under which callers can read a resource that this server named in a result of `tool`; `None` if it is
    /// the same.
    pub(crate) fn link(&self, scope: Scope<'_>, (server, tool): (&Handle, &Entry), uri: &str) -> Option<String> {
        // Servers that share the tool may read it as well.
        let is_its = |reader: &Handle| reader.key == server.key || tool.is_of(reader);
        let leads_there = |uri: &str| self.reader(scope, uri).is_some_and(|entry| entry.first().is_some_and(is_its));
        if matches!(scope, Scope::Server(_)) || leads_there(uri) {
            return None;
        }
        let [by_namespace, by_server] = uri_forms(&server.key, uri);
        by_namespace.filter(|uri| leads_there(uri)).or(by_server)
    }
}

/// The servers whose template stands for a URI.
fn by_template(view: &CombinedItems, uri: &str) -> Option<Arc<Entry>> {
    let templates = view.table(Kind::Templates);
    let template = templates.in_order().find(|name| uri_template::matches(name, uri));
    let entry = template.and_then(|name| templates.get(name))?;
    Some(Entry::unlisted(uri, entry.candidates.iter().map(|c| (c.server.clone(), c.listed))))
}

impl Entry {
    fn unlisted(uri: &str, servers: impl IntoIterator<Item = (Arc<Handle>, bool)>) -> Arc<Self> {
        let item = Arc::new(Item::unlisted(uri));
        let candidates: SmallVec<[Candidate; 1]> = servers
            .into_iter()
            .map(|(server, listed)| Candidate { server, item: item.clone(), listed, grant: None })
            .collect();
        let listed = candidates.iter().any(|candidate| candidate.listed);
        Arc::new(Self { name: item.name.clone(), listed, candidates, in_order: true })
    }
}

/// Scheme and authority of a URI or template; `None` if they contain an expression.
fn place_of(uri: &str) -> Option<String> {
    let (scheme, rest) = uri.split_once(':')?;
    let length = rest.strip_prefix("//").map_or(0, |rest| 2 + rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let place = &uri[..scheme.len() + 1 + length];
    (!place.contains('{')).then(|| place.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_place_of_a_uri_is_its_scheme_and_authority() {
        let cases = [
            ("test://Host:1/a/b", Some("test://host:1")),
            ("test://host", Some("test://host")),
            ("test://host?q", Some("test://host")),
            ("file:///a", Some("file://")),
            ("urn:isbn:1", Some("urn:")),
            ("test://{id}/a", None),
            ("{+any}", None),
            ("test://a/{id}", Some("test://a")),
            ("none", None),
        ];
        for (uri, expected) in cases {
            assert_eq!(place_of(uri).as_deref(), expected, "{uri}");
        }
    }
}

//! Resolves the URI of a resource to servers: by a list, by a tool that names it, by a template, or by its scheme and
//! authority.

use std::collections::HashMap;
use std::sync::Arc;

use portcullis_crds::ServerKey;
use smallvec::SmallVec;

use super::naming::{Qualified, uri_forms};
use super::{Candidate, Catalog, Entry, Kind, Scope};
use crate::handle::{Handle, Offer};
use crate::item::Item;
use crate::uri_template;

/// What is looked through when nobody lists a URI; made when it is first needed.
#[derive(Default)]
pub(super) struct Places {
    /// Of each scheme and authority the one server that has it; none where several do.
    by_place: HashMap<String, Option<usize>>,
    /// The only server with resources.
    only: Option<usize>,
}

impl Places {
    /// Of these servers, by their numbers.
    pub(super) fn of<'a>(offers: impl Iterator<Item = (usize, &'a Arc<Offer>)>) -> Self {
        let (mut by_place, mut owners) = (HashMap::new(), Vec::new());
        for (index, offer) in offers {
            for item in offer.resources.iter().chain(offer.templates.iter()) {
                let Some(place) = place_of(&item.name) else { continue };
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

impl Catalog {
    /// Who reads a resource: those who list its URI, or whose tool names it; else those whose template stands for it, by
    /// precedence; else the one server whose other resources have the same scheme and authority; else the only server
    /// with resources. A URI that says its namespace, or its server, leads to that one alone; one that says none leads to
    /// no server whose URIs say theirs.
    ///
    /// The items of an entry that was not found in a list are the URI itself as its server knows it, ready to be asked for.
    pub fn reader(&self, scope: Scope<'_>, uri: &str) -> Option<Arc<Entry>> {
        let view = match scope {
            Scope::Server(server) => return self.reader_alone(server, uri),
            scope => self.view(scope)?,
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
            // As it stands in the view of its namespace alone: no template of another may stand for it.
            (Some(whose), Scope::All) => return self.reader(Scope::Namespace(whose.namespace), &whose.own),
            (Some(_), _) => return None,
            (None, _) => {}
        }
        let templates = view.table(Kind::Templates);
        let template = templates.in_order().find(|name| uri_template::matches(name, uri));
        if let Some(entry) = template.and_then(|name| templates.get(name)) {
            return Some(Entry::unlisted(uri, entry.candidates.iter().map(|c| (c.server.clone(), c.listed))));
        }
        let places = view.places(self.all_servers());
        let one = place_of(uri).and_then(|place| places.by_place.get(&place).copied().flatten()).or(places.only)?;
        let (server, offer) = (&self.servers[one], &self.alone[one].offer);
        Some(Entry::unlisted(uri, [(server.clone(), offer.listed)]))
    }

    fn reader_alone(&self, server: &Arc<Handle>, uri: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.find(Kind::Resources, Scope::Server(server), uri) {
            return Some(entry.into_owned());
        }
        let offer = &self.alone(server)?.offer;
        offer.has_resources().then(|| Entry::unlisted(uri, [(server.clone(), offer.listed)]))
    }

    /// How many templates a URI may have to be compared with.
    pub fn templates(&self, scope: Scope<'_>) -> usize {
        self.view(scope).map_or(0, |view| view.table(Kind::Templates).in_order().len())
    }

    /// By which URI a resource is read that this server has named in a result of `tool`; none if that is the one by which
    /// it did.
    pub fn link(&self, scope: Scope<'_>, (server, tool): (&Handle, &Entry), uri: &str) -> Option<String> {
        // Who shares the tool may read it as well.
        let is_its = |reader: &Handle| reader.key == server.key || tool.is_of(reader);
        let leads_there = |uri: &str| self.reader(scope, uri).is_some_and(|entry| entry.first().is_some_and(is_its));
        if matches!(scope, Scope::Server(_)) || leads_there(uri) {
            return None;
        }
        let [by_namespace, by_server] = uri_forms(&server.key, uri);
        by_namespace.filter(|uri| leads_there(uri)).or(by_server)
    }
}

impl Entry {
    fn unlisted(uri: &str, servers: impl IntoIterator<Item = (Arc<Handle>, bool)>) -> Arc<Self> {
        let item = Arc::new(Item::unlisted(uri));
        let candidates: SmallVec<[Candidate; 1]> =
            servers.into_iter().map(|(server, listed)| Candidate { server, item: item.clone(), listed }).collect();
        let listed = candidates.iter().any(|candidate| candidate.listed);
        Arc::new(Self { name: item.name.clone(), listed, candidates, in_order: true })
    }
}

/// Scheme and authority of a URI or template; none if it holds an expression within them.
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

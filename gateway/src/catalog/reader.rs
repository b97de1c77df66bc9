//! Who reads a URI: whoever lists it, whose template stands for it, or whose others are of the same place.

use std::collections::HashMap;
use std::sync::Arc;

use smallvec::SmallVec;

use super::{Candidate, Catalog, Entry, Kind, Scope};
use crate::handle::Offer;
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
    pub(super) fn of<'a>(offers: impl Iterator<Item = &'a Arc<Offer>>) -> Self {
        let (mut by_place, mut owners) = (HashMap::new(), Vec::new());
        for (index, offer) in offers.enumerate() {
            for item in offer.resources.iter().chain(offer.templates.iter()) {
                let Some(place) = place_of(&item.name) else { continue };
                let owner = by_place.entry(place).or_insert(Some(index));
                *owner = owner.filter(|owner| *owner == index);
            }
            if owners.len() < 2 && has_resources(offer) {
                owners.push(index);
            }
        }
        Self { by_place, only: if let [only] = owners[..] { Some(only) } else { None } }
    }
}

impl Catalog {
    /// Who reads a resource: those who list its URI; else those whose template stands for it, by precedence; else the
    /// one server whose other resources have the same scheme and authority; else the only server with resources.
    ///
    /// The items of an entry that was not found in a list are the URI itself, ready to be asked for.
    pub fn reader(&self, scope: Scope<'_>, uri: &str) -> Option<Arc<Entry>> {
        if let Some(entry) = self.find(Kind::Resources, scope, uri) {
            return Some(entry.into_owned());
        }
        let Some(server) = scope else {
            let template = self.table(Kind::Templates).in_order().find(|name| uri_template::matches(name, uri));
            if let Some(entry) = template.and_then(|name| self.table(Kind::Templates).get(name)) {
                return Some(Entry::unlisted(uri, entry.candidates.iter().map(|c| (c.server.clone(), c.listed))));
            }
            let places = self.resource_places.get_or_init(|| Places::of(self.alone.iter().map(|alone| &alone.offer)));
            let one = place_of(uri).and_then(|place| places.by_place.get(&place).copied().flatten()).or(places.only)?;
            let (server, offer) = (&self.servers[one], &self.alone[one].offer);
            return Some(Entry::unlisted(uri, [(server.clone(), offer.listed)]));
        };
        let offer = &self.alone(server)?.offer;
        has_resources(offer).then(|| Entry::unlisted(uri, [(server.clone(), offer.listed)]))
    }
}

impl Entry {
    fn unlisted(uri: &str, servers: impl IntoIterator<Item = (Arc<crate::handle::Handle>, bool)>) -> Arc<Self> {
        let item = Arc::new(Item::unlisted(uri));
        let candidates: SmallVec<[Candidate; 1]> =
            servers.into_iter().map(|(server, listed)| Candidate { server, item: item.clone(), listed }).collect();
        let listed = candidates.iter().any(|candidate| candidate.listed);
        Arc::new(Self { name: item.name.clone(), listed, candidates })
    }
}

fn has_resources(offer: &Offer) -> bool {
    offer.capabilities.resources || !offer.resources.is_empty() || !offer.templates.is_empty()
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

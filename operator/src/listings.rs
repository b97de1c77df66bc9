//! Tracks what the watches have listed, and the namespaces that the API server refuses to list.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt as _;
use kube::core::{DeserializeGuard, DynamicObject};
use kube::runtime::watcher::{self, Event};
use portcullis_crds::{McpServer, ServerKey};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::WatchScope;
use crate::metrics::OperatorMetrics;
use crate::scopes::{NamespacedKind, RefusedWatches};
use crate::watch::{self, Listing, ListingStep, WatchedResource, key_of};

/// The listings of all watches but those of the slots.
pub(crate) struct Listings {
    /// The namespace of each watch of McpServers, Services, McpAccessPolicies and McpViews; none: all namespaces.
    namespaces_watched: Vec<Option<String>>,
    refused: RefusedWatches,
    servers: Vec<Listing<ServerKey>>,
    services: Vec<Listing<ServerKey>>,
    policies: Vec<Listing<ServerKey>>,
    views: Vec<Listing<ServerKey>>,
    /// The definitions of which the log says that they are not installed.
    undefined: BTreeSet<NamespacedKind>,
    /// None: namespaces are not selected by label.
    namespaces: Option<Listing<String>>,
    slices: Listing<String>,
    metrics: OperatorMetrics,
}

/// What follows from namespaces that count as empty.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct GivenUp {
    /// McpServers that are gone.
    pub(crate) servers: Vec<ServerKey>,
    /// Namespaces whose policies were never known, so that nobody may use their servers.
    pub(crate) closed: Vec<String>,
}

impl Listings {
    /// Empty listings for the watches of `scope`.
    pub(crate) fn new(scope: &WatchScope, metrics: OperatorMetrics) -> Self {
        let namespaces_watched = watch::scopes(scope);
        Self {
            servers: namespaces_watched.iter().map(|_| Listing::default()).collect(),
            services: namespaces_watched.iter().map(|_| Listing::default()).collect(),
            policies: namespaces_watched.iter().map(|_| Listing::default()).collect(),
            views: namespaces_watched.iter().map(|_| Listing::default()).collect(),
            undefined: BTreeSet::new(),
            namespaces_watched,
            refused: RefusedWatches::default(),
            namespaces: matches!(scope, WatchScope::Selector(_)).then(Listing::default),
            slices: Listing::default(),
            metrics,
        }
    }

    /// Takes an event of the McpServer watch `number`.
    pub(crate) fn server(
        &mut self,
        number: usize,
        event: Event<DeserializeGuard<McpServer>>,
    ) -> ListingStep<ServerKey, DeserializeGuard<McpServer>> {
        self.note_listed(NamespacedKind::Servers, number, &event);
        self.servers.get_mut(number).map_or(ListingStep::Wait, |listing| listing.step(event, key_of))
    }

    /// Takes an event of the Service watch `number`.
    pub(crate) fn service(&mut self, number: usize, event: Event<Service>) -> ListingStep<ServerKey, Service> {
        self.note_listed(NamespacedKind::Services, number, &event);
        self.services.get_mut(number).map_or(ListingStep::Wait, |listing| listing.step(event, key_of))
    }

    /// Takes an event of the McpAccessPolicy watch `number`.
    pub(crate) fn policy(
        &mut self,
        number: usize,
        event: Event<DynamicObject>,
    ) -> ListingStep<ServerKey, DynamicObject> {
        self.note_listed(NamespacedKind::Policies, number, &event);
        self.policies.get_mut(number).map_or(ListingStep::Wait, |listing| listing.step(event, key_of))
    }

    /// Takes an event of the McpView watch `number`.
    pub(crate) fn view(&mut self, number: usize, event: Event<DynamicObject>) -> ListingStep<ServerKey, DynamicObject> {
        self.note_listed(NamespacedKind::Views, number, &event);
        self.views.get_mut(number).map_or(ListingStep::Wait, |listing| listing.step(event, key_of))
    }

    /// The namespace of the watches of this number, if it is only one.
    pub(crate) fn namespace_watched(&self, number: usize) -> Option<&str> {
        self.namespaces_watched.get(number)?.as_deref()
    }

    /// Takes an event of the watch of selected namespaces.
    pub(crate) fn namespace(&mut self, event: Event<Namespace>) -> ListingStep<String, Namespace> {
        let Some(listing) = &mut self.namespaces else { return ListingStep::Wait };
        listing.step(event, Namespace::name_any)
    }

    /// Takes an event of the watch of the gateway's EndpointSlices.
    pub(crate) fn slice(&mut self, event: Event<EndpointSlice>) -> ListingStep<String, EndpointSlice> {
        self.slices.step(event, EndpointSlice::name_any)
    }

    /// Counts a watch that broke, and remembers a namespace that the API server refuses.
    pub(crate) fn broken(&mut self, watch: WatchedResource, error: &watcher::Error, now: Instant) {
        let kind = watch.resource();
        if let WatchedResource::Place(kind @ (NamespacedKind::Policies | NamespacedKind::Views), number) = watch
            && watch::is_undefined(error)
        {
            return self.without_definition(kind, number);
        }
        self.metrics.watch_errors.with_label_values(&[kind]).inc();
        warn!(kind, %error, "a watch broke; it restarts");
        if let WatchedResource::Place(kind, number) = watch
            // Without the right to list views, which an older release did not need, the rest must go on everywhere.
            && (kind == NamespacedKind::Views || self.namespaces_watched.get(number).is_some_and(Option::is_some))
            && watch::is_refused(error)
        {
            self.refused.refused(kind, number, now);
        }
    }

    /// Goes on without policies or views, as long as their definition is not installed. Those that are known stay known.
    fn without_definition(&mut self, kind: NamespacedKind, number: usize) {
        let (listings, effect) = match kind {
            NamespacedKind::Views => {
                (&mut self.views, "the definition of McpView is not installed, so there are no views")
            }
            _ => (
                &mut self.policies,
                "the definition of McpAccessPolicy is not installed, so there are no policies: every valid token may use every server unless the gateway's default is Deny",
            ),
        };
        listings.get_mut(number).map(Listing::go_on);
        if self.undefined.insert(kind) {
            warn!("{effect}");
        }
    }

    /// Lets namespaces that have been refused for a while count as empty. None: no namespace was due.
    pub(crate) fn give_up_refused(&mut self, now: Instant) -> Option<GivenUp> {
        let due = self.refused.due(now);
        if due.is_empty() {
            return None;
        }
        let mut given_up = GivenUp::default();
        for (kind, number) in due {
            let namespace = self.namespace_of(number).to_owned();
            let resource = WatchedResource::Place(kind, number).resource();
            let listing = match kind {
                NamespacedKind::Servers => self.servers.get_mut(number),
                NamespacedKind::Services => self.services.get_mut(number),
                NamespacedKind::Policies => self.policies.get_mut(number),
                NamespacedKind::Views => self.views.get_mut(number),
            };
            let Some(listing) = listing else { continue };
            if kind == NamespacedKind::Policies {
                let known = listing.go_on();
                warn!(
                    namespace,
                    resource,
                    known,
                    "the API server refuses to list the policies of this namespace; those that are known count on, and if none ever was, nobody may use its servers: check that the namespace exists and has the Role"
                );
                given_up.closed.extend((!known).then_some(namespace));
                continue;
            }
            if kind == NamespacedKind::Views {
                listing.go_on();
                warn!(
                    namespace,
                    resource,
                    "the API server refuses to list the views; those that are known stay: give the operator the right to get, list and watch them"
                );
                continue;
            }
            warn!(
                namespace,
                resource,
                "the API server refuses to list this namespace; it counts as empty: check that the namespace exists and has the Role"
            );
            let gone = listing.give_up();
            // Services that are gone change no server that names one by its port.
            if kind == NamespacedKind::Servers {
                given_up.servers.extend(gone);
            }
        }
        self.count_unreadable();
        Some(given_up)
    }

    /// When the next refused namespace will count as empty.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.refused.next()
    }

    /// Whether every watch has listed everything at least once.
    pub(crate) fn is_complete(&self) -> bool {
        self.servers.iter().all(Listing::is_complete)
            && self.services.iter().all(Listing::is_complete)
            && self.policies.iter().all(Listing::is_complete)
            && self.views.iter().all(Listing::is_complete)
            && self.namespaces.as_ref().is_none_or(Listing::is_complete)
    }

    /// The namespaces whose McpServers cannot be read.
    pub(crate) fn unreadable(&self) -> Vec<String> {
        let numbers = 0..self.namespaces_watched.len();
        let unreadable = numbers.filter(|number| self.refused.is_given_up(NamespacedKind::Servers, *number));
        unreadable.map(|number| self.namespace_of(number).to_owned()).collect()
    }

    /// Notes that a namespace can be read again, once its whole list has come.
    fn note_listed<K>(&mut self, kind: NamespacedKind, number: usize, event: &Event<K>) {
        if !matches!(event, Event::InitDone) {
            return;
        }
        self.undefined.remove(&kind);
        if self.refused.listed(kind, number) {
            info!(
                namespace = self.namespace_of(number),
                resource = WatchedResource::Place(kind, number).resource(),
                "the namespace can be listed again"
            );
            self.count_unreadable();
        }
    }

    fn count_unreadable(&self) {
        for (number, namespace) in self.namespaces_watched.iter().enumerate() {
            let Some(namespace) = namespace else { continue };
            let kinds =
                [NamespacedKind::Servers, NamespacedKind::Services, NamespacedKind::Policies, NamespacedKind::Views];
            let unreadable = kinds.iter().any(|kind| self.refused.is_given_up(*kind, number));
            self.metrics.unreadable.with_label_values(&[namespace]).set(i64::from(unreadable));
        }
    }

    fn namespace_of(&self, number: usize) -> &str {
        self.namespaces_watched.get(number).and_then(Option::as_deref).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;
    use crate::scopes::REFUSAL_GRACE;

    fn error(code: u16) -> watcher::Error {
        watcher::Error::InitialListFailed(kube::Error::Api(Box::new(Status::failure("no", "No").with_code(code))))
    }

    fn listings() -> Listings {
        let scope = WatchScope::Namespaces(vec!["a".into(), "b".into()]);
        let mut listings = Listings::new(&scope, OperatorMetrics::new());
        for number in 0..2 {
            listings.server(number, Event::InitDone);
            listings.service(number, Event::InitDone);
            listings.view(number, Event::InitDone);
        }
        listings
    }

    #[test]
    fn a_namespace_whose_policies_were_never_known_is_closed() {
        let (mut listings, now) = (listings(), Instant::now());
        let policies = |number| WatchedResource::Place(NamespacedKind::Policies, number);
        listings.policy(1, Event::InitDone);
        for number in 0..2 {
            listings.broken(policies(number), &error(403), now);
        }
        assert_eq!((listings.is_complete(), listings.give_up_refused(now)), (false, None));
        let closed = GivenUp { servers: Vec::new(), closed: vec!["a".into()] };
        assert_eq!(listings.give_up_refused(now + REFUSAL_GRACE), Some(closed));
        assert!(listings.is_complete());
        assert_eq!(listings.namespace_watched(0), Some("a"));
    }

    #[test]
    fn without_the_definition_of_policies_there_are_none_and_nothing_waits() {
        let (mut listings, now) = (listings(), Instant::now());
        for number in 0..2 {
            assert!(!listings.is_complete());
            listings.broken(WatchedResource::Place(NamespacedKind::Policies, number), &error(404), now);
        }
        assert_eq!((listings.is_complete(), listings.next()), (true, None));
        // A refusal later closes the namespace, because its policies were never known.
        listings.broken(WatchedResource::Place(NamespacedKind::Policies, 1), &error(403), now);
        let closed = GivenUp { servers: Vec::new(), closed: vec!["b".into()] };
        assert_eq!(listings.give_up_refused(now + REFUSAL_GRACE), Some(closed));
    }
}

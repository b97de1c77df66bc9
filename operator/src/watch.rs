//! Watches the API server, and merges all watches into one stream for the controller.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _, once, select_all, unfold};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::{ApiResource, DeserializeGuard, DynamicObject};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use portcullis_crds::{McpAccessPolicy, McpServer, McpView, ServerKey};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::config::{Gateways, OperatorConfig, WatchScope};
use crate::scopes::NamespacedKind;

/// Duration of a watch, so that a dead connection is noticed soon after.
const WATCH_SECONDS: u32 = 60;

/// Delay between two attempts at a refused watch.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// One event of a watch.
#[expect(clippy::large_enum_variant, reason = "most are of servers, and each is soon taken apart")]
pub(crate) enum ClusterNews {
    /// From the McpServer watch of this number.
    Server(usize, Event<DeserializeGuard<McpServer>>),
    /// From the Service watch of this number.
    Service(usize, Event<Service>),
    /// From the McpAccessPolicy watch of this number. Untyped, because one that cannot be read governs all the same.
    Policy(usize, Event<DynamicObject>),
    /// From the McpView watch of this number. Untyped, because one that cannot be read has a status too.
    View(usize, Event<DynamicObject>),
    /// From the watch of selected namespaces.
    Namespace(Event<Namespace>),
    /// From the watch of the slot of this number.
    Slot(usize, Event<ConfigMap>),
    /// From the watch of the gateway's pods.
    Endpoints(Event<EndpointSlice>),
    /// A watch broke; it restarts by itself.
    Broken(WatchedResource, watcher::Error),
}

/// A watched resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WatchedResource {
    /// McpServers, Services, McpAccessPolicies or McpViews, by the number of the watch.
    Place(NamespacedKind, usize),
    /// Namespaces.
    Namespaces,
    /// Slots.
    Slots,
    /// The gateway's pods.
    Endpoints,
}

impl WatchedResource {
    /// The plural name of the resource.
    pub(crate) fn resource(self) -> &'static str {
        match self {
            Self::Place(NamespacedKind::Servers, _) => "mcpservers",
            Self::Place(NamespacedKind::Services, _) => "services",
            Self::Place(NamespacedKind::Policies, _) => "mcpaccesspolicies",
            Self::Place(NamespacedKind::Views, _) => "mcpviews",
            Self::Namespaces => "namespaces",
            Self::Slots => "configmaps",
            Self::Endpoints => "endpointslices",
        }
    }
}

/// An endless stream of news.
pub(crate) type NewsStream = Pin<Box<dyn Stream<Item = ClusterNews> + Send>>;

/// Opens all watches of the configuration. `namespace` is the operator's own.
pub(crate) fn all(client: &Client, config: &OperatorConfig, namespace: &str) -> NewsStream {
    let mut streams: Vec<NewsStream> = Vec::new();
    for (number, scope) in scopes(&config.scope).into_iter().enumerate() {
        let servers: Api<DeserializeGuard<McpServer>> = api(client, scope.as_deref());
        let watch = WatchedResource::Place(NamespacedKind::Servers, number);
        streams.push(follow(servers, plain(), watch, move |event| ClusterNews::Server(number, event)));
        let services: Api<Service> = api(client, scope.as_deref());
        let watch = WatchedResource::Place(NamespacedKind::Services, number);
        streams.push(follow(services, plain(), watch, move |event| ClusterNews::Service(number, event)));
        let policies = untyped::<McpAccessPolicy>(client, scope.as_deref());
        let watch = WatchedResource::Place(NamespacedKind::Policies, number);
        streams.push(follow(policies, plain(), watch, move |event| ClusterNews::Policy(number, event)));
        let views = untyped::<McpView>(client, scope.as_deref());
        let watch = WatchedResource::Place(NamespacedKind::Views, number);
        streams.push(follow(views, plain(), watch, move |event| ClusterNews::View(number, event)));
    }
    if let WatchScope::Selector(selector) = &config.scope {
        streams.push(follow(
            Api::all(client.clone()),
            plain().labels(selector),
            WatchedResource::Namespaces,
            ClusterNews::Namespace,
        ));
    }
    for (index, name) in config.slots.iter().enumerate() {
        let one = plain().fields(&format!("metadata.name={name}"));
        let slots = Api::namespaced(client.clone(), namespace);
        streams.push(follow(slots, one, WatchedResource::Slots, move |event| ClusterNews::Slot(index, event)));
    }
    if let Gateways::Service(service) = &config.gateways {
        let of_service = plain().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = Api::namespaced(client.clone(), namespace);
        streams.push(follow(slices, of_service, WatchedResource::Endpoints, ClusterNews::Endpoints));
    }
    Box::pin(select_all(streams))
}

/// The namespace of each watch of McpServers; none: all namespaces.
pub(crate) fn scopes(scope: &WatchScope) -> Vec<Option<String>> {
    match scope {
        WatchScope::All | WatchScope::Selector(_) => vec![None],
        WatchScope::Namespaces(names) => names.iter().cloned().map(Some).collect(),
    }
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope>,
    K::DynamicType: Default,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn untyped<K: Resource<DynamicType = ()>>(client: &Client, namespace: Option<&str>) -> Api<DynamicObject> {
    let resource = ApiResource::erase::<K>(&());
    match namespace {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    }
}

fn plain() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    watch: WatchedResource,
    news: impl Fn(Event<K>) -> ClusterNews + Send + 'static,
) -> NewsStream
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let open = move |wait: Duration| {
        let (api, config) = (api.clone(), config.clone());
        let opened =
            once(sleep(wait)).map(move |()| watcher(api.clone(), config.clone()).default_backoff().modify(trim));
        Box::pin(opened.flatten())
    };
    // A refused watch restarts with a list, so that the end of the refusal shows even without a change; so does one of a
    // resource that is not defined.
    Box::pin(
        unfold((open(Duration::ZERO), open), move |(mut stream, open)| async move {
            let item = stream.next().await?;
            let refused = item.as_ref().is_err_and(|error| is_refused(error) || is_undefined(error));
            Some((item, (if refused { open(REFUSED_PAUSE) } else { stream }, open)))
        })
        .map(move |item| match item {
            Ok(event) => news(event),
            Err(error) => ClusterNews::Broken(watch, error),
        }),
    )
}

/// Whether the API server does not allow a watch.
pub(crate) fn is_refused(error: &watcher::Error) -> bool {
    code(error) == Some(403)
}

/// Whether the API server does not know the resource: its definition is not installed.
pub(crate) fn is_undefined(error: &watcher::Error) -> bool {
    code(error) == Some(404)
}

/// The status code of the API server's answer.
fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => Some(status.code),
        WatchError(status) => Some(status.code),
        _ => None,
    }
}

/// Drops the metadata that nobody reads, which would be most of the memory.
fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.retain(|name, _| name.starts_with(portcullis_crds::names::GROUP));
    }
}

/// The objects that a watch has listed since it restarted, to notice those that are gone.
#[derive(Debug)]
pub(crate) struct Listing<K> {
    listed: BTreeSet<K>,
    known: BTreeSet<K>,
    complete: bool,
    was_listed: bool,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { listed: BTreeSet::new(), known: BTreeSet::new(), complete: false, was_listed: false }
    }
}

/// The meaning of a watch event.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum ListingStep<K, T> {
    /// The object is new or has changed.
    Put(T),
    /// The objects with these keys are gone.
    Gone(Vec<K>),
    /// Nothing yet.
    Wait,
}

impl<K: Ord + Clone> Listing<K> {
    /// Takes an event; `key` names its object.
    pub(crate) fn step<T>(&mut self, event: Event<T>, key: impl Fn(&T) -> K) -> ListingStep<K, T> {
        match event {
            Event::Init => {
                self.listed = BTreeSet::new();
                ListingStep::Wait
            }
            Event::InitApply(object) => {
                self.listed.insert(key(&object));
                self.known.insert(key(&object));
                ListingStep::Put(object)
            }
            Event::InitDone => {
                (self.complete, self.was_listed) = (true, true);
                let gone = self.known.difference(&self.listed).cloned().collect();
                self.known = std::mem::take(&mut self.listed);
                ListingStep::Gone(gone)
            }
            Event::Apply(object) => {
                self.known.insert(key(&object));
                ListingStep::Put(object)
            }
            Event::Delete(object) => {
                self.known.remove(&key(&object));
                ListingStep::Gone(vec![key(&object)])
            }
        }
    }

    /// Counts as empty, because nothing can be listed. Returns the objects that are gone with that.
    pub(crate) fn give_up(&mut self) -> Vec<K> {
        self.complete = true;
        self.listed = BTreeSet::new();
        std::mem::take(&mut self.known).into_iter().collect()
    }

    /// Goes on with what is known, because nothing can be listed. Returns whether anything was ever listed.
    pub(crate) fn go_on(&mut self) -> bool {
        self.complete = true;
        self.was_listed
    }

    /// Whether the watch has listed everything at least once.
    pub(crate) fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Key of a namespaced object.
pub(crate) fn key_of<K: Resource>(object: &K) -> ServerKey {
    ServerKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut listing = Listing::default();
        let mut step = |event: Event<&'static str>| listing.step(event, |name| *name);
        assert_eq!(step(Event::Init), ListingStep::Wait);
        assert_eq!(step(Event::InitApply("a")), ListingStep::Put("a"));
        assert_eq!(step(Event::InitApply("b")), ListingStep::Put("b"));
        assert_eq!(step(Event::InitDone), ListingStep::Gone(vec![]));
        assert_eq!(step(Event::Apply("c")), ListingStep::Put("c"));
        assert_eq!(step(Event::Delete("a")), ListingStep::Gone(vec!["a"]));
        assert_eq!(step(Event::Init), ListingStep::Wait);
        assert_eq!(step(Event::InitApply("c")), ListingStep::Put("c"));
        assert_eq!(step(Event::InitDone), ListingStep::Gone(vec!["b"]));
        assert!(listing.is_complete());
    }

    #[test]
    fn what_cannot_be_listed_counts_as_empty() {
        let mut listing: Listing<&'static str> = Listing::default();
        assert_eq!((listing.give_up(), listing.is_complete()), (vec![], true));
        listing.step(Event::Apply("a"), |name| *name);
        assert_eq!(listing.give_up(), ["a"]);
        assert!(!listing.go_on());
        listing.step(Event::Init, |name: &&str| *name);
        assert_eq!(listing.step(Event::InitApply("a"), |name| *name), ListingStep::Put("a"));
        assert_eq!(listing.step(Event::InitDone, |name: &&str| *name), ListingStep::Gone(vec![]));
        assert!(listing.go_on());
    }
}

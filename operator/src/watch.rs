//! What the API server tells, as one stream of events for the controller.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::pin::Pin;
use std::time::Duration;

use futures_util::stream::{Stream, StreamExt as _, once, select_all, unfold};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::core::DeserializeGuard;
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource, ResourceExt as _};
use portcullis_crds::{McpServer, ServerKey};
use serde::de::DeserializeOwned;
use tokio::time::sleep;

use crate::config::{Config, Gateways, Scope};
use crate::scopes::Kind;

/// After so long a watch is asked for anew, so that a connection that has died in silence is noticed soon after.
const WATCH_SECONDS: u32 = 60;

/// Between two attempts at a watch that the API server refuses.
const REFUSED_PAUSE: Duration = Duration::from_secs(5);

/// One piece of news.
#[expect(clippy::large_enum_variant, reason = "most are of servers, and each is soon taken apart")]
pub enum News {
    /// Of McpServers, from the watch of this number.
    Server(usize, Event<DeserializeGuard<McpServer>>),
    /// Of Services, from the watch of this number.
    Service(usize, Event<Service>),
    /// Of selected namespaces.
    Namespace(Event<Namespace>),
    /// Of the slot of this number.
    Slot(usize, Event<ConfigMap>),
    /// Of the gateway's pods.
    Endpoints(Event<EndpointSlice>),
    /// A watch broke; it goes on by itself.
    Broken(Watch, watcher::Error),
}

/// What is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Watch {
    /// McpServers or Services, by the number of the watch.
    Place(Kind, usize),
    /// Namespaces.
    Namespaces,
    /// Slots.
    Slots,
    /// The gateway's pods.
    Endpoints,
}

impl Watch {
    /// The resource.
    pub fn resource(self) -> &'static str {
        match self {
            Self::Place(Kind::Servers, _) => "mcpservers",
            Self::Place(Kind::Services, _) => "services",
            Self::Namespaces => "namespaces",
            Self::Slots => "configmaps",
            Self::Endpoints => "endpointslices",
        }
    }
}

/// All news, for ever.
pub type Stories = Pin<Box<dyn Stream<Item = News> + Send>>;

/// Watches everything that the configuration names. `namespace` is the operator's own.
pub fn all(client: &Client, config: &Config, namespace: &str) -> Stories {
    let mut streams: Vec<Stories> = Vec::new();
    for (number, scope) in scopes(&config.scope).into_iter().enumerate() {
        let servers: Api<DeserializeGuard<McpServer>> = api(client, scope.as_deref());
        let watch = Watch::Place(Kind::Servers, number);
        streams.push(follow(servers, plain(), watch, move |event| News::Server(number, event)));
        let services: Api<Service> = api(client, scope.as_deref());
        let watch = Watch::Place(Kind::Services, number);
        streams.push(follow(services, plain(), watch, move |event| News::Service(number, event)));
    }
    if let Scope::Selector(selector) = &config.scope {
        streams.push(follow(Api::all(client.clone()), plain().labels(selector), Watch::Namespaces, News::Namespace));
    }
    for (index, name) in config.slots.iter().enumerate() {
        let one = plain().fields(&format!("metadata.name={name}"));
        let slots = Api::namespaced(client.clone(), namespace);
        streams.push(follow(slots, one, Watch::Slots, move |event| News::Slot(index, event)));
    }
    if let Gateways::Service(service) = &config.gateways {
        let of_service = plain().labels(&format!("kubernetes.io/service-name={service}"));
        let slices = Api::namespaced(client.clone(), namespace);
        streams.push(follow(slices, of_service, Watch::Endpoints, News::Endpoints));
    }
    Box::pin(select_all(streams))
}

/// The namespace of each watch of McpServers; none: all.
pub fn scopes(scope: &Scope) -> Vec<Option<String>> {
    match scope {
        Scope::All | Scope::Selector(_) => vec![None],
        Scope::Namespaces(names) => names.iter().cloned().map(Some).collect(),
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

fn plain() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

fn follow<K>(
    api: Api<K>,
    config: watcher::Config,
    watch: Watch,
    news: impl Fn(Event<K>) -> News + Send + 'static,
) -> Stories
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + 'static,
{
    let open = move |wait: Duration| {
        let (api, config) = (api.clone(), config.clone());
        let opened =
            once(sleep(wait)).map(move |()| watcher(api.clone(), config.clone()).default_backoff().modify(trim));
        Box::pin(opened.flatten())
    };
    // One that was refused begins anew with a list, so that its end is seen even if nothing changes afterwards.
    Box::pin(
        unfold((open(Duration::ZERO), open), move |(mut stream, open)| async move {
            let item = stream.next().await?;
            let refused = item.as_ref().is_err_and(is_refused);
            Some((item, (if refused { open(REFUSED_PAUSE) } else { stream }, open)))
        })
        .map(move |item| match item {
            Ok(event) => news(event),
            Err(error) => News::Broken(watch, error),
        }),
    )
}

/// Whether the API server does not allow a watch.
pub fn is_refused(error: &watcher::Error) -> bool {
    use watcher::Error::{InitialListFailed, WatchError, WatchFailed, WatchStartFailed};
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status)) => status.code == 403,
        WatchError(status) => status.code == 403,
        _ => false,
    }
}

/// What nobody looks at would be most of the memory.
fn trim<K: Resource>(object: &mut K) {
    object.meta_mut().managed_fields = None;
    if let Some(annotations) = &mut object.meta_mut().annotations {
        annotations.retain(|name, _| name.starts_with(portcullis_crds::names::GROUP));
    }
}

/// Which objects a watch has listed since it began anew, so that those that are gone are noticed.
#[derive(Debug)]
pub struct Listing<K> {
    listed: BTreeSet<K>,
    known: BTreeSet<K>,
    complete: bool,
}

impl<K> Default for Listing<K> {
    fn default() -> Self {
        Self { listed: BTreeSet::new(), known: BTreeSet::new(), complete: false }
    }
}

/// What an event of a watch means.
#[derive(Debug, PartialEq, Eq)]
pub enum Step<K, T> {
    /// It is new or has changed.
    Put(T),
    /// These are gone.
    Gone(Vec<K>),
    /// Nothing yet.
    Wait,
}

impl<K: Ord + Clone> Listing<K> {
    /// Takes an event; `key` names its object.
    pub fn step<T>(&mut self, event: Event<T>, key: impl Fn(&T) -> K) -> Step<K, T> {
        match event {
            Event::Init => {
                self.listed = BTreeSet::new();
                Step::Wait
            }
            Event::InitApply(object) => {
                self.listed.insert(key(&object));
                self.known.insert(key(&object));
                Step::Put(object)
            }
            Event::InitDone => {
                self.complete = true;
                let gone = self.known.difference(&self.listed).cloned().collect();
                self.known = std::mem::take(&mut self.listed);
                Step::Gone(gone)
            }
            Event::Apply(object) => {
                self.known.insert(key(&object));
                Step::Put(object)
            }
            Event::Delete(object) => {
                self.known.remove(&key(&object));
                Step::Gone(vec![key(&object)])
            }
        }
    }

    /// Nothing can be listed: that counts as nothing being there. Returns what is gone with that.
    pub fn give_up(&mut self) -> Vec<K> {
        self.complete = true;
        self.listed = BTreeSet::new();
        std::mem::take(&mut self.known).into_iter().collect()
    }

    /// Whether it has listed everything at least once.
    pub fn is_complete(&self) -> bool {
        self.complete
    }
}

/// Key of a namespaced object.
pub fn key_of<K: Resource>(object: &K) -> ServerKey {
    ServerKey::new(object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_new_list_lacks_is_gone() {
        let mut listing = Listing::default();
        let mut step = |event: Event<&'static str>| listing.step(event, |name| *name);
        assert_eq!(step(Event::Init), Step::Wait);
        assert_eq!(step(Event::InitApply("a")), Step::Put("a"));
        assert_eq!(step(Event::InitApply("b")), Step::Put("b"));
        assert_eq!(step(Event::InitDone), Step::Gone(vec![]));
        assert_eq!(step(Event::Apply("c")), Step::Put("c"));
        assert_eq!(step(Event::Delete("a")), Step::Gone(vec!["a"]));
        assert_eq!(step(Event::Init), Step::Wait);
        assert_eq!(step(Event::InitApply("c")), Step::Put("c"));
        assert_eq!(step(Event::InitDone), Step::Gone(vec!["b"]));
        assert!(listing.is_complete());
    }

    #[test]
    fn what_cannot_be_listed_counts_as_empty() {
        let mut listing: Listing<&'static str> = Listing::default();
        assert_eq!((listing.give_up(), listing.is_complete()), (vec![], true));
        listing.step(Event::Apply("a"), |name| *name);
        assert_eq!(listing.give_up(), ["a"]);
        listing.step(Event::Init, |name: &&str| *name);
        assert_eq!(listing.step(Event::InitApply("a"), |name| *name), Step::Put("a"));
        assert_eq!(listing.step(Event::InitDone, |name: &&str| *name), Step::Gone(vec![]));
    }
}

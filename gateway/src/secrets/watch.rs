//! Keeps the store informed: watches labelled Secrets and ConfigMaps, and looks for those that servers miss.
//!
//! While the API server is away, what is known stays. Errors are told by their kind: their texts could quote an answer.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::{NamespaceResourceScope, serde::de::DeserializeOwned};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client, Resource};
use portcullis_crds::names::{CREDENTIALS_LABEL, CREDENTIALS_VALUE, ORIGIN_ANNOTATION};
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

use super::cluster::{Found, Object, Scope, Store, origins};
use super::{Kind, Namespaces, ObjectKey};
use crate::cluster::WATCH_SECONDS;

/// For one look at an object's metadata.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// Looks at the same time.
const LOOKS: usize = 8;

/// An object that holds values.
trait Holder:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static
{
    const KIND: Kind;

    fn data(self) -> BTreeMap<String, Vec<u8>>;
}

impl Holder for Secret {
    const KIND: Kind = Kind::Secret;

    fn data(self) -> BTreeMap<String, Vec<u8>> {
        self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }
}

impl Holder for ConfigMap {
    const KIND: Kind = Kind::ConfigMap;

    fn data(self) -> BTreeMap<String, Vec<u8>> {
        let text = self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let binary = self.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        text.chain(binary).collect()
    }
}

/// Follows the cluster until `stop` says so.
pub async fn follow(store: &Store, client: Client, stop: impl Future<Output = ()>) {
    let namespaces: Vec<Option<String>> = match store.namespaces() {
        Namespaces::All => vec![None],
        Namespaces::Listed(names) => names.iter().cloned().map(Some).collect(),
    };
    let secrets = join_all(namespaces.iter().map(|namespace| watch::<Secret>(store, &client, namespace.as_deref())));
    let maps = join_all(namespaces.iter().map(|namespace| watch::<ConfigMap>(store, &client, namespace.as_deref())));
    let following = async { tokio::join!(secrets, maps, look(store, &client)) };
    tokio::select! {
        _ = following => {}
        () = stop => {}
    }
}

async fn watch<K: Holder>(store: &Store, client: &Client, namespace: Option<&str>) {
    let api: Api<K> = match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    };
    let scope = Scope { kind: K::KIND, namespace: namespace.map(str::to_owned) };
    let labelled = format!("{CREDENTIALS_LABEL}={CREDENTIALS_VALUE}");
    let config = watcher::Config::default().labels(&labelled).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let (mut fresh, mut troubled) = (HashMap::new(), false);
    let place = namespace.unwrap_or("all namespaces");
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut troubled) {
                    info!(kind = K::KIND.as_str(), namespace = place, "credentials can be watched again");
                }
                take(store, &scope, event, &mut fresh);
            }
            // The past is forgotten now and then; the list is read anew.
            Err(watcher::Error::WatchError(status)) if status.code == 410 => {}
            Err(error) => {
                if code(&error) == Some(403) {
                    store.change(|state| state.refuse(&scope));
                }
                if !std::mem::replace(&mut troubled, true) {
                    let problem = problem(&error);
                    warn!(
                        kind = K::KIND.as_str(),
                        namespace = place,
                        problem,
                        "credentials cannot be watched, what is known stays"
                    );
                }
            }
        }
    }
}

/// Takes over one event; the objects of a list are gathered in `fresh` until it is whole.
fn take<K: Holder>(store: &Store, scope: &Scope, event: Event<K>, fresh: &mut HashMap<ObjectKey, Object>) {
    match event {
        Event::Init => fresh.clear(),
        Event::InitApply(object) => {
            let (key, object) = trimmed(object);
            fresh.insert(key, object);
        }
        Event::InitDone => store.change(|state| state.replace(scope, std::mem::take(fresh))),
        Event::Apply(object) => {
            let (key, object) = trimmed(object);
            store.change(|state| state.put(key, object));
        }
        Event::Delete(object) => store.change(|state| state.remove(&trimmed(object).0)),
    }
}

/// Keeps of an object what is needed; other annotations often repeat the data.
fn trimmed<K: Holder>(object: K) -> (ObjectKey, Object) {
    let meta: &ObjectMeta = object.meta();
    let key = ObjectKey {
        kind: K::KIND,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    };
    let annotation = meta.annotations.as_ref().and_then(|all| all.get(ORIGIN_ANNOTATION));
    let origins = annotation.map(|text| origins(text)).unwrap_or_default();
    (key, Object { origins, data: object.data() })
}

/// Looks for what servers miss. Only metadata is asked for: the data of an unlabelled object is never read.
async fn look(store: &Store, client: &Client) {
    loop {
        store.missed.notified().await;
        stream::iter(store.take_wanted())
            .for_each_concurrent(LOOKS, |key| async move {
                let found = match key.kind {
                    Kind::Secret => look_at::<Secret>(client, &key).await,
                    Kind::ConfigMap => look_at::<ConfigMap>(client, &key).await,
                };
                store.change(|state| state.looked(&key, found, Instant::now()));
            })
            .await;
    }
}

async fn look_at<K: Holder>(client: &Client, key: &ObjectKey) -> Option<Found> {
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let found = timeout(LOOK_LIMIT, api.get_metadata_opt(&key.name)).await.ok()?.ok()?;
    let Some(object) = found else { return Some(Found::Absent) };
    let labels = object.metadata.labels.unwrap_or_default();
    let labelled = labels.get(CREDENTIALS_LABEL).is_some_and(|value| value == CREDENTIALS_VALUE);
    Some(if labelled { Found::Labelled } else { Found::Unlabelled })
}

fn problem(error: &watcher::Error) -> String {
    match code(error) {
        None => "the API server cannot be reached or answers nonsense".to_owned(),
        Some(status @ (401 | 403)) => format!(
            "the API server refuses (HTTP status {status}): give the gateway's service account get, list and watch on \
             secrets and configmaps there"
        ),
        Some(status) => format!("the API server answers with HTTP status {status}"),
    }
}

/// The HTTP status of the API server's answer.
fn code(error: &watcher::Error) -> Option<u16> {
    use watcher::Error::*;
    match error {
        InitialListFailed(kube::Error::Api(status))
        | WatchStartFailed(kube::Error::Api(status))
        | WatchFailed(kube::Error::Api(status))
        | WatchError(status) => Some(status.code),
        _ => None,
    }
}

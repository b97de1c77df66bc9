//! Updates the store: watches labelled Secrets and ConfigMaps, and looks up those that servers miss.
//!
//! While the API server is unreachable, known objects stay. Errors are reported by kind: their texts could quote an
//! answer.

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

use super::cluster::{ListScope, LookupResult, Store, WatchedObject, origins};
use super::{Namespaces, ObjectKey, ObjectKind};
use crate::kubernetes::WATCH_SECONDS;

/// The limit for one lookup of an object's metadata.
const LOOK_LIMIT: Duration = Duration::from_secs(5);

/// The limit for concurrent lookups.
const LOOKS: usize = 8;

/// The kind of object that contains values.
trait Holder:
    Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug + Send + 'static
{
    const KIND: ObjectKind;

    fn data(self) -> BTreeMap<String, Vec<u8>>;
}

impl Holder for Secret {
    const KIND: ObjectKind = ObjectKind::Secret;

    fn data(self) -> BTreeMap<String, Vec<u8>> {
        self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0)).collect()
    }
}

impl Holder for ConfigMap {
    const KIND: ObjectKind = ObjectKind::ConfigMap;

    fn data(self) -> BTreeMap<String, Vec<u8>> {
        let text = self.data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.into_bytes()));
        let binary = self.binary_data.unwrap_or_default().into_iter().map(|(key, value)| (key, value.0));
        text.chain(binary).collect()
    }
}

/// Watches the cluster until `stop`.
pub(crate) async fn follow(store: &Store, client: Client, stop: impl Future<Output = ()>) {
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
    let scope = ListScope { kind: K::KIND, namespace: namespace.map(str::to_owned) };
    let labelled = format!("{CREDENTIALS_LABEL}={CREDENTIALS_VALUE}");
    let config = watcher::Config::default().labels(&labelled).timeout(WATCH_SECONDS);
    let mut events = std::pin::pin!(watcher(api, config).default_backoff());
    let (mut fresh, mut troubled) = (HashMap::new(), false);
    let place = namespace.unwrap_or("all namespaces");
    while let Some(event) = events.next().await {
        match event {
            Ok(event) => {
                if std::mem::take(&mut troubled) {
                    info!(kind = K::KIND.as_str(), namespace = place, "the watch of credentials works again");
                }
                take(store, &scope, event, &mut fresh);
            }
            // The API server has dropped old events; the list is read again.
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
                        "cannot watch credentials; the known ones stay in use"
                    );
                }
            }
        }
    }
}

/// Applies one event; the objects of a list are collected in `fresh` until it is complete.
fn take<K: Holder>(store: &Store, scope: &ListScope, event: Event<K>, fresh: &mut HashMap<ObjectKey, WatchedObject>) {
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

/// Keeps only the needed parts of an object; other annotations often repeat the data.
fn trimmed<K: Holder>(object: K) -> (ObjectKey, WatchedObject) {
    let meta: &ObjectMeta = object.meta();
    let key = ObjectKey {
        kind: K::KIND,
        namespace: meta.namespace.clone().unwrap_or_default(),
        name: meta.name.clone().unwrap_or_default(),
    };
    let annotation = meta.annotations.as_ref().and_then(|all| all.get(ORIGIN_ANNOTATION));
    let origins = annotation.map(|text| origins(text)).unwrap_or_default();
    (key, WatchedObject { origins, data: object.data() })
}

/// Looks up what servers miss. Requests only metadata: the data of an unlabelled object is never read.
async fn look(store: &Store, client: &Client) {
    loop {
        store.missed.notified().await;
        stream::iter(store.take_wanted())
            .for_each_concurrent(LOOKS, |key| async move {
                let found = match key.kind {
                    ObjectKind::Secret => look_at::<Secret>(client, &key).await,
                    ObjectKind::ConfigMap => look_at::<ConfigMap>(client, &key).await,
                };
                store.change(|state| state.looked(&key, found, Instant::now()));
            })
            .await;
    }
}

async fn look_at<K: Holder>(client: &Client, key: &ObjectKey) -> Option<LookupResult> {
    let api: Api<K> = Api::namespaced(client.clone(), &key.namespace);
    let found = timeout(LOOK_LIMIT, api.get_metadata_opt(&key.name)).await.ok()?.ok()?;
    let Some(object) = found else { return Some(LookupResult::Absent) };
    let labels = object.metadata.labels.unwrap_or_default();
    let labelled = labels.get(CREDENTIALS_LABEL).is_some_and(|value| value == CREDENTIALS_VALUE);
    Some(if labelled { LookupResult::Labelled } else { LookupResult::Unlabelled })
}

fn problem(error: &watcher::Error) -> String {
    match code(error) {
        None => "the API server cannot be reached, or its answer is invalid".to_owned(),
        Some(status @ (401 | 403)) => format!(
            "the API server refuses (HTTP status {status}): give the gateway's service account get, list and watch on \
             secrets and configmaps there"
        ),
        Some(status) => format!("the API server answers with HTTP status {status}"),
    }
}

/// The HTTP status of the API server's response.
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

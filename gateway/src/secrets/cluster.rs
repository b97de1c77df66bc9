//! Values from labelled Secrets and ConfigMaps of a cluster: the known objects, and the result for a server.
//!
//! An object is used only if a user with write access has labelled it, and a Secret is sent only to the origins in its
//! annotation. Otherwise any author of an McpServer could have any Secret of the namespace sent anywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use url::{Origin, Url};

use super::{Namespaces, ObjectKey, ObjectKind, Reference, SecretError};

/// The minimum interval between lookups of a needed object that is not among the labelled ones.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// An object that was not needed for this long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// The labelled objects of the namespaces that the gateway may read.
pub(crate) struct Store {
    namespaces: Namespaces,
    state: RwLock<SecretsState>,
    /// A server needs an object that is not among them.
    pub(super) missed: Notify,
    changes: watch::Sender<u64>,
}

/// The known state. Pure except for the time that is passed in.
#[derive(Default)]
pub(super) struct SecretsState {
    /// The lists that have been read completely.
    listed: HashSet<ListScope>,
    /// The lists that the API server has always refused.
    refused: HashSet<ListScope>,
    objects: HashMap<ObjectKey, WatchedObject>,
    looked_for: HashMap<ObjectKey, Lookup>,
}

/// The scope of one watch; without a namespace: all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ListScope {
    pub(super) kind: ObjectKind,
    pub(super) namespace: Option<String>,
}

/// A labelled object. It has no printable form.
#[derive(Default, PartialEq)]
pub(super) struct WatchedObject {
    pub(super) origins: Vec<Origin>,
    pub(super) data: BTreeMap<String, Vec<u8>>,
}

/// The lookup of an object that is not among the labelled ones.
#[derive(Clone, Copy)]
struct Lookup {
    /// A server needs it and no lookup has run since.
    wanted: bool,
    found: Option<LookupResult>,
    at: Instant,
}

/// The result of looking up the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LookupResult {
    Absent,
    Unlabelled,
    /// Labelled: its watch will deliver it any moment.
    Labelled,
}

// === impl Store ===

impl Store {
    /// Creates an empty store.
    pub(crate) fn new(namespaces: Namespaces) -> Self {
        Self { namespaces, state: RwLock::default(), missed: Notify::new(), changes: watch::Sender::new(0) }
    }

    /// Counts the changes of the results of [`Store::read`].
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The value of a reference.
    ///
    /// # Errors
    /// The reason there is none. A missing object is looked up, and a change is counted once more is known.
    pub(crate) fn read(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
        if !self.namespaces.cover(&reference.object.namespace) {
            return Err(SecretError::Namespace(reference.object.clone()));
        }
        let now = Instant::now();
        let (value, missed) = {
            let state = self.known();
            (state.value(reference), state.should_look(&reference.object, now))
        };
        if missed {
            self.known_mut().want(&reference.object, now);
            self.missed.notify_one();
        }
        value
    }

    pub(super) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// Applies the result of a watch or a lookup, and counts a change if there is one.
    pub(super) fn change(&self, change: impl FnOnce(&mut SecretsState) -> bool) {
        if change(&mut self.known_mut()) {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The objects to look up now.
    pub(super) fn take_wanted(&self) -> Vec<ObjectKey> {
        self.known_mut().take_wanted(Instant::now())
    }

    fn known(&self) -> RwLockReadGuard<'_, SecretsState> {
        self.state.read()
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, SecretsState> {
        self.state.write()
    }
}

// === impl State ===

impl SecretsState {
    /// The value of a reference, or the reason there is none.
    fn value(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
        let key = &reference.object;
        let Some(object) = self.objects.get(key) else {
            return Err(match self.looked_for.get(key).and_then(|look| look.found) {
                _ if !self.is_listed(key) && self.is_refused(key) => SecretError::Refused(key.clone()),
                _ if !self.is_listed(key) => SecretError::Pending(key.clone()),
                None | Some(LookupResult::Labelled) => SecretError::Pending(key.clone()),
                Some(LookupResult::Unlabelled) => SecretError::NotLabelled(key.clone()),
                Some(LookupResult::Absent) => {
                    SecretError::NotFound { object: key.clone(), authority: reference.origin.is_none() }
                }
            });
        };
        if let Some(origin) = &reference.origin
            && !object.origins.contains(origin)
        {
            return Err(SecretError::Origin { object: key.clone(), origin: origin.ascii_serialization() });
        }
        let missing = || SecretError::KeyMissing { object: key.clone(), key: reference.key.clone() };
        object.data.get(&reference.key).cloned().ok_or_else(missing)
    }

    fn is_listed(&self, key: &ObjectKey) -> bool {
        let scope = |namespace| ListScope { kind: key.kind, namespace };
        self.listed.contains(&scope(None)) || self.listed.contains(&scope(Some(key.namespace.clone())))
    }

    fn is_refused(&self, key: &ObjectKey) -> bool {
        self.refused.iter().any(|scope| scope.covers(key))
    }

    /// Records that the API server refuses a list. Known objects stay.
    pub(super) fn refuse(&mut self, scope: &ListScope) -> bool {
        !self.listed.contains(scope) && self.refused.insert(scope.clone())
    }

    fn should_look(&self, key: &ObjectKey, now: Instant) -> bool {
        let fresh = |look: &Lookup| look.wanted || now.duration_since(look.at) < LOOK_AGAIN;
        self.is_listed(key) && !self.objects.contains_key(key) && !self.looked_for.get(key).is_some_and(fresh)
    }

    fn want(&mut self, key: &ObjectKey, now: Instant) {
        self.looked_for.entry(key.clone()).or_insert(Lookup { wanted: true, found: None, at: now }).wanted = true;
    }

    fn take_wanted(&mut self, now: Instant) -> Vec<ObjectKey> {
        self.looked_for.retain(|_, look| look.wanted || now.duration_since(look.at) < FORGET);
        let mut wanted = Vec::new();
        for (key, look) in &mut self.looked_for {
            if std::mem::take(&mut look.wanted) {
                look.at = now;
                wanted.push(key.clone());
            }
        }
        wanted
    }

    /// Records the result of a lookup; `None`: it failed, and the previous result stays valid.
    pub(super) fn looked(&mut self, key: &ObjectKey, found: Option<LookupResult>, now: Instant) -> bool {
        let Some(look) = self.looked_for.get_mut(key) else { return false };
        look.at = now;
        let found = found.or(look.found).or(Some(LookupResult::Absent));
        std::mem::replace(&mut look.found, found) != found
    }

    /// Records a new or changed object.
    pub(super) fn put(&mut self, key: ObjectKey, object: WatchedObject) -> bool {
        self.looked_for.remove(&key);
        let changed = self.objects.get(&key) != Some(&object);
        self.objects.insert(key, object);
        changed
    }

    /// Records that an object was deleted, or lost its label.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        self.looked_for.remove(key);
        self.objects.remove(key).is_some()
    }

    /// Replaces all objects of a scope.
    pub(super) fn replace(&mut self, scope: &ListScope, objects: HashMap<ObjectKey, WatchedObject>) -> bool {
        self.refused.remove(scope);
        let mut changed = self.listed.insert(scope.clone());
        let gone: Vec<ObjectKey> =
            self.objects.keys().filter(|key| scope.covers(key) && !objects.contains_key(key)).cloned().collect();
        for key in gone {
            changed |= self.remove(&key);
        }
        for (key, object) in objects {
            changed |= self.put(key, object);
        }
        changed
    }
}

impl ListScope {
    fn covers(&self, key: &ObjectKey) -> bool {
        self.kind == key.kind && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// The origins of an annotation, separated by commas or spaces. Entries that are not exactly an origin are ignored.
pub(super) fn origins(annotation: &str) -> Vec<Origin> {
    let parts = annotation.split([',', ' ', '\n', '\t']).filter(|part| !part.is_empty());
    parts.filter_map(one_origin).collect()
}

fn one_origin(text: &str) -> Option<Origin> {
    let url = Url::parse(text).ok()?;
    let plain = matches!(url.scheme(), "http" | "https")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    plain.then(|| url.origin())
}

/// Test helpers that feed the store like a watch.
#[cfg(test)]
pub(super) mod given {
    use super::*;

    pub(in crate::secrets) fn test_object(annotation: &str, data: &[(&str, &str)]) -> WatchedObject {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        WatchedObject { origins: origins(annotation), data }
    }

    impl Store {
        pub(in crate::secrets) fn list(&self, kind: ObjectKind, namespace: &str, objects: Vec<(&str, WatchedObject)>) {
            let objects = objects.into_iter().map(|(name, object)| (namespace, name, object)).collect();
            self.list_scope(&ListScope { kind, namespace: Some(namespace.to_owned()) }, objects);
        }

        pub(in crate::secrets) fn list_all(&self, kind: ObjectKind, objects: Vec<(&str, &str, WatchedObject)>) {
            self.list_scope(&ListScope { kind, namespace: None }, objects);
        }

        fn list_scope(&self, scope: &ListScope, objects: Vec<(&str, &str, WatchedObject)>) {
            let kind = scope.kind;
            let key = |namespace: &str, name: &str| ObjectKey {
                kind,
                namespace: namespace.to_owned(),
                name: name.to_owned(),
            };
            let objects = objects.into_iter().map(|(namespace, name, object)| (key(namespace, name), object)).collect();
            self.change(|state| state.replace(scope, objects));
        }
    }
}

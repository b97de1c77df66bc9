//! Values from labelled Secrets and ConfigMaps of a cluster: what is known of them, and what follows for a server.
//!
//! An object is used only if somebody who may change it has labelled it, and a Secret is sent only to the origins that
//! its annotation names. Otherwise whoever may write an McpServer could have any Secret of the namespace sent anywhere.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use url::{Origin, Url};

use super::{Kind, Namespaces, ObjectKey, Reference, SecretError};

/// An object that is not among the labelled ones is looked for at most so often, while somebody needs it.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

/// What nobody has asked for so long is forgotten.
const FORGET: Duration = Duration::from_secs(600);

/// The labelled objects of the namespaces that the gateway may read.
pub struct Store {
    namespaces: Namespaces,
    state: RwLock<State>,
    /// Somebody needs an object that is not among them.
    pub(super) missed: Notify,
    changes: watch::Sender<u64>,
}

/// What is known. Pure but for the time it is told.
#[derive(Default)]
pub(super) struct State {
    /// Which lists have been read whole.
    listed: HashSet<Scope>,
    /// Which lists the API server has refused, and never given.
    refused: HashSet<Scope>,
    objects: HashMap<ObjectKey, Object>,
    looked_for: HashMap<ObjectKey, Look>,
}

/// What one watch covers; no namespace: all.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Scope {
    pub(super) kind: Kind,
    pub(super) namespace: Option<String>,
}

/// A labelled object. It cannot be shown.
#[derive(Default, PartialEq)]
pub(super) struct Object {
    pub(super) origins: Vec<Origin>,
    pub(super) data: BTreeMap<String, Vec<u8>>,
}

/// The search for an object that is not among the labelled ones.
#[derive(Clone, Copy)]
struct Look {
    /// Somebody asked and nobody has looked since.
    wanted: bool,
    found: Option<Found>,
    at: Instant,
}

/// What a look at the metadata tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Absent,
    Unlabelled,
    /// Its watch will tell any moment.
    Labelled,
}

// === impl Store ===

impl Store {
    /// A store that knows nothing yet.
    pub fn new(namespaces: Namespaces) -> Self {
        Self { namespaces, state: RwLock::default(), missed: Notify::new(), changes: watch::Sender::new(0) }
    }

    /// Counts the changes of what [`Store::read`] answers.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// The value that a reference stands for.
    ///
    /// # Errors
    /// Why it cannot be had. What is missing is looked for, and a change is counted when more is known.
    pub fn read(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
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

    /// Takes over what a watch or a look told, and counts it if it makes a difference.
    pub(super) fn change(&self, change: impl FnOnce(&mut State) -> bool) {
        if change(&mut self.known_mut()) {
            self.changes.send_modify(|count| *count += 1);
        }
    }

    /// The objects to look for now.
    pub(super) fn take_wanted(&self) -> Vec<ObjectKey> {
        self.known_mut().take_wanted(Instant::now())
    }

    fn known(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn known_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl State ===

impl State {
    /// The value of a reference, or why there is none.
    fn value(&self, reference: &Reference) -> Result<Vec<u8>, SecretError> {
        let key = &reference.object;
        let Some(object) = self.objects.get(key) else {
            return Err(match self.looked_for.get(key).and_then(|look| look.found) {
                _ if !self.is_listed(key) && self.is_refused(key) => SecretError::Refused(key.clone()),
                _ if !self.is_listed(key) => SecretError::Pending(key.clone()),
                None | Some(Found::Labelled) => SecretError::Pending(key.clone()),
                Some(Found::Unlabelled) => SecretError::NotLabelled(key.clone()),
                Some(Found::Absent) => {
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
        let scope = |namespace| Scope { kind: key.kind, namespace };
        self.listed.contains(&scope(None)) || self.listed.contains(&scope(Some(key.namespace.clone())))
    }

    fn is_refused(&self, key: &ObjectKey) -> bool {
        self.refused.iter().any(|scope| scope.covers(key))
    }

    /// The API server refuses a list. What was known before stays.
    pub(super) fn refuse(&mut self, scope: &Scope) -> bool {
        !self.listed.contains(scope) && self.refused.insert(scope.clone())
    }

    fn should_look(&self, key: &ObjectKey, now: Instant) -> bool {
        let fresh = |look: &Look| look.wanted || now.duration_since(look.at) < LOOK_AGAIN;
        self.is_listed(key) && !self.objects.contains_key(key) && !self.looked_for.get(key).is_some_and(fresh)
    }

    fn want(&mut self, key: &ObjectKey, now: Instant) {
        self.looked_for.entry(key.clone()).or_insert(Look { wanted: true, found: None, at: now }).wanted = true;
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

    /// What a look found; `None`: it failed, and what was found before stays true.
    pub(super) fn looked(&mut self, key: &ObjectKey, found: Option<Found>, now: Instant) -> bool {
        let Some(look) = self.looked_for.get_mut(key) else { return false };
        look.at = now;
        let found = found.or(look.found).or(Some(Found::Absent));
        std::mem::replace(&mut look.found, found) != found
    }

    /// An object is there, or has changed.
    pub(super) fn put(&mut self, key: ObjectKey, object: Object) -> bool {
        self.looked_for.remove(&key);
        let changed = self.objects.get(&key) != Some(&object);
        self.objects.insert(key, object);
        changed
    }

    /// An object is gone, or has lost its label.
    pub(super) fn remove(&mut self, key: &ObjectKey) -> bool {
        self.looked_for.remove(key);
        self.objects.remove(key).is_some()
    }

    /// All objects of a scope.
    pub(super) fn replace(&mut self, scope: &Scope, objects: HashMap<ObjectKey, Object>) -> bool {
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

impl Scope {
    fn covers(&self, key: &ObjectKey) -> bool {
        self.kind == key.kind && self.namespace.as_ref().is_none_or(|namespace| *namespace == key.namespace)
    }
}

/// The origins of an annotation, separated by commas or spaces. What is more or less than an origin counts for nothing.
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

/// What tests put in, as a watch would.
#[cfg(test)]
pub(super) mod given {
    use super::*;

    pub(in crate::secrets) fn test_object(annotation: &str, data: &[(&str, &str)]) -> Object {
        let data = data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
        Object { origins: origins(annotation), data }
    }

    impl Store {
        pub(in crate::secrets) fn list(&self, kind: Kind, namespace: &str, objects: Vec<(&str, Object)>) {
            let objects = objects.into_iter().map(|(name, object)| (namespace, name, object)).collect();
            self.list_scope(&Scope { kind, namespace: Some(namespace.to_owned()) }, objects);
        }

        pub(in crate::secrets) fn list_all(&self, kind: Kind, objects: Vec<(&str, &str, Object)>) {
            self.list_scope(&Scope { kind, namespace: None }, objects);
        }

        fn list_scope(&self, scope: &Scope, objects: Vec<(&str, &str, Object)>) {
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

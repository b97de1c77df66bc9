//! Keeps all McpServers with their verdicts, the policies that govern them, the McpViews, and the content of each slot.
//!
//! Pure: the caller passes the time. A change of a server touches one server and one slot, so its cost does not grow with
//! the number of servers; a change of a policy touches the servers that it governs.

mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::mcpaccesspolicy::PolicyMode;
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::resolve::{KnownService, KnownServices, labels_of};
use portcullis_crds::slots::slot_of;
use portcullis_crds::snapshot::revision_of;
use portcullis_crds::{
    McpServer, Policies, ReadPolicy, ReadView, Reason, ServerKey, ServerVerdict, Services, SpecRefusal, Views, resolve,
};
use tokio::time::Instant;

use crate::newcomers::Newcomers;
use crate::object_key::ObjectKey;
use crate::share::{self, EntryText, SlotContent, SlotTexts};

pub(crate) use views::ViewVerdict;

/// All McpServers and their verdicts.
#[derive(Debug)]
pub(crate) struct Inventory {
    home: String,
    policies: Policies,
    /// The servers that each policy governs, accepted or not.
    governed: BTreeMap<ServerKey, BTreeSet<ServerKey>>,
    /// All views.
    read_views: BTreeMap<ServerKey, ReadView>,
    /// Those of the served namespaces.
    views: Views,
    selected: Option<BTreeSet<String>>,
    entries: BTreeMap<ServerKey, ServerEntry>,
    services: KnownServices,
    /// The servers that name each Service.
    users: BTreeMap<(String, String), BTreeSet<ServerKey>>,
    slots: Vec<SlotTexts>,
    /// Gateway replicas that share the limits of policies.
    replicas: u32,
    /// Time for which a new server waits for its policies; none: it does not wait.
    delay: Option<Duration>,
    newcomers: Newcomers,
}

/// One McpServer.
#[derive(Clone, Debug)]
pub(crate) struct ServerEntry {
    /// The object; of an unreadable one, its metadata and the problem.
    pub(crate) object: ServerObject,
    /// The verdict on it.
    pub(crate) verdict: ServerVerdict,
    /// Its URL, if it has one.
    pub(crate) url: Option<String>,
    /// Names of the policies that govern it, sorted.
    pub(crate) governed_by: Vec<String>,
    /// Whether a view that may select it looks at its labels.
    pub(crate) seen_by_labels: bool,
    /// When its newest generation came; none: before new servers had to wait.
    pub(crate) changed_at: Option<Instant>,
}

/// An McpServer as the API server has it.
#[derive(Clone, Debug)]
pub(crate) struct ServerObject {
    /// `metadata.uid`.
    pub(crate) uid: String,
    /// `metadata.generation`.
    pub(crate) generation: i64,
    /// `metadata.resourceVersion`, where it is a number.
    pub(crate) version: u64,
    /// Its status at the API server.
    pub(crate) status: McpServerStatus,
    /// The whole object, or why it cannot be read.
    pub(crate) content: Result<Arc<McpServer>, String>,
}

/// The servers and slots that a change affects.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Affected {
    /// Servers whose verdict, generation or status may have changed.
    pub(crate) servers: BTreeSet<ServerKey>,
    /// Slots whose content has changed.
    pub(crate) slots: BTreeSet<usize>,
    /// Policies that govern other servers than before, or in another form.
    pub(crate) policies: BTreeSet<ServerKey>,
    /// Views that are served newly, no longer, or in another form.
    pub(crate) views: BTreeSet<ServerKey>,
}

/// What becomes of an object.
struct Judged {
    verdict: ServerVerdict,
    text: Option<EntryText>,
    url: Option<String>,
    governed_by: Vec<String>,
    /// Whether a policy denies what no rule allows.
    enforced: bool,
    seen_by_labels: bool,
}

impl Affected {
    /// Adds what another change affects.
    pub(crate) fn add(&mut self, more: Self) {
        self.servers.extend(more.servers);
        self.policies.extend(more.policies);
        self.views.extend(more.views);
        self.slots.extend(more.slots);
    }
}

impl ServerObject {
    /// A readable object.
    pub(crate) fn of(mut server: McpServer) -> Self {
        let status = server.status.take().unwrap_or_default();
        Self {
            uid: server.metadata.uid.clone().unwrap_or_default(),
            generation: server.metadata.generation.unwrap_or(0),
            version: crate::publish::version(&server.metadata).unwrap_or(0),
            status,
            content: Ok(Arc::new(server)),
        }
    }
}

impl Inventory {
    /// An empty inventory. `selective`: it serves only namespaces that [`Inventory::select`] names.
    pub(crate) fn new(home: String, slots: usize, selective: bool) -> Self {
        Self {
            home,
            policies: Policies::default(),
            governed: BTreeMap::new(),
            read_views: BTreeMap::new(),
            views: Views::default(),
            selected: selective.then(BTreeSet::new),
            entries: BTreeMap::new(),
            services: KnownServices::new(),
            users: BTreeMap::new(),
            slots: vec![SlotTexts::new(); slots],
            replicas: 1,
            delay: None,
            newcomers: Newcomers::default(),
        }
    }

    /// From now on, a server that is new waits so long for a policy that is applied together with it. A duration of 0: it
    /// does not wait.
    pub(crate) fn hold_new_servers(&mut self, delay: Duration) {
        self.delay = Some(delay).filter(|delay| !delay.is_zero());
    }

    /// The namespace whose servers and views go by their bare names.
    pub(crate) fn home(&self) -> &str {
        &self.home
    }

    /// One server.
    pub(crate) fn get(&self, key: &ServerKey) -> Option<&ServerEntry> {
        self.entries.get(key)
    }

    /// One server, to update its written status.
    pub(crate) fn get_mut(&mut self, key: &ServerKey) -> Option<&mut ServerEntry> {
        self.entries.get_mut(key)
    }

    /// The number of servers.
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// The keys of all servers.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ServerKey> {
        self.entries.keys()
    }

    /// The content of a slot, as it should be written.
    pub(crate) fn slot(&self, index: usize) -> SlotContent {
        let none = SlotTexts::new();
        share::content(self.slots.get(index).unwrap_or(&none), self.replicas)
    }

    /// From now on, so many gateway replicas share the limits of policies.
    pub(crate) fn set_replicas(&mut self, replicas: u32) -> Affected {
        if std::mem::replace(&mut self.replicas, replicas) == replicas {
            return Affected::default();
        }
        let limited = (0..self.slots.len()).filter(|index| share::is_limited(self.slots[*index].values()));
        Affected { slots: limited.collect(), ..Affected::default() }
    }

    /// The slot of a server or a view.
    pub(crate) fn slot_of(&self, key: &ServerKey) -> usize {
        slot_of(key, self.slots.len())
    }

    /// The servers that a policy governs, accepted or not.
    pub(crate) fn governed(&self, policy: &ServerKey) -> impl Iterator<Item = (&ServerKey, &ServerEntry)> {
        let keys = self.governed.get(policy).into_iter().flatten();
        keys.filter_map(|key| self.entries.get_key_value(key))
    }

    /// The servers of a namespace, sorted by name.
    pub(crate) fn in_namespace<'a>(
        &'a self,
        namespace: &'a str,
    ) -> impl Iterator<Item = (&'a ServerKey, &'a ServerEntry)> {
        let from = self.entries.range(ServerKey::new(namespace, "")..);
        from.take_while(move |(key, _)| key.namespace == namespace)
    }

    /// Adds or replaces a server, readable or not.
    pub(crate) fn put_object(&mut self, key: ServerKey, object: ServerObject, now: Instant) -> Affected {
        self.forget_user(&key);
        if let Some(service) = service_of(&key, &object) {
            self.users.entry(service).or_default().insert(key.clone());
        }
        let known = self.entries.get(&key);
        let same =
            known.filter(|known| (&known.object.uid, known.object.generation) == (&object.uid, object.generation));
        let changed_at = same.map_or(self.delay.map(|_| now), |known| known.changed_at);
        self.judge(key, object, changed_at, now)
    }

    /// Adds or replaces a policy of this key; none removes it.
    pub(crate) fn put_policy(&mut self, key: &ServerKey, policy: Option<ReadPolicy>, now: Instant) -> Affected {
        let before = match policy {
            Some(policy) => self.policies.insert(policy),
            None => self.policies.remove(key),
        };
        let after = self.policies.get(key);
        let mut touched = Vec::new();
        for (key, entry) in self.in_namespace(&key.namespace) {
            let Ok(server) = &entry.object.content else { continue };
            let form = |policy: Option<&ReadPolicy>| {
                let governing = policy.filter(|policy| policy.governs(&key.name, labels_of(server)));
                governing.map(|policy| policy.text.revision.clone())
            };
            if form(before.as_ref()) != form(after) {
                touched.push(key.clone());
            }
        }
        let mut affected = self.judge_again(touched, now);
        affected.policies.insert(key.clone());
        affected
    }

    /// Removes a server.
    pub(crate) fn remove(&mut self, key: &ServerKey) -> Affected {
        self.forget_user(key);
        let mut touched = Affected::default();
        if self.entries.contains_key(key) {
            touched.servers.insert(key.clone());
            touched.policies = self.govern(key, &[]);
            self.entries.remove(key);
        }
        self.newcomers.release(key);
        let index = self.slot_of(key);
        if self.slots[index].remove(&ObjectKey::server(key)).is_some() {
            touched.slots.insert(index);
        }
        touched
    }

    /// Adds or replaces a Service; none removes it.
    pub(crate) fn put_service(
        &mut self,
        namespace: &str,
        name: &str,
        known: Option<KnownService>,
        now: Instant,
    ) -> Affected {
        let service = (namespace.to_owned(), name.to_owned());
        let before = match known.clone() {
            Some(known) => self.services.insert(service.clone(), known),
            None => self.services.remove(&service),
        };
        if before == known {
            return Affected::default();
        }
        let users: Vec<ServerKey> = self.users.get(&service).into_iter().flatten().cloned().collect();
        self.judge_again(users, now)
    }

    /// Adds a namespace to the served ones, or removes it.
    pub(crate) fn select(&mut self, namespace: &str, selected: bool, now: Instant) -> Affected {
        let Some(all) = &mut self.selected else { return Affected::default() };
        let changed = if selected { all.insert(namespace.to_owned()) } else { all.remove(namespace) };
        if !changed {
            return Affected::default();
        }
        let keys = self.in_namespace(namespace).map(|(key, _)| key.clone()).collect();
        let mut affected = self.judge_again(keys, now);
        affected.add(self.serve_views_of(namespace, now));
        affected
    }

    /// Whether a new server waits: nothing can be said of it yet.
    pub(crate) fn is_held(&self, key: &ServerKey) -> bool {
        self.newcomers.holds(key)
    }

    /// When the next new server has waited long enough.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.newcomers.next()
    }

    /// Puts the servers that have waited long enough into their slots.
    pub(crate) fn admit_due(&mut self, now: Instant) -> Affected {
        let mut affected = Affected::default();
        while let Some((key, text)) = self.newcomers.take_due(now) {
            let index = self.slot_of(&key);
            self.slots[index].insert(ObjectKey::server(&key), text);
            affected.slots.insert(index);
            affected.servers.insert(key);
        }
        affected
    }

    fn judge_again(&mut self, keys: Vec<ServerKey>, now: Instant) -> Affected {
        let mut touched = Affected::default();
        for key in keys {
            if let Some(entry) = self.entries.get(&key) {
                let (object, changed_at) = (entry.object.clone(), entry.changed_at);
                touched.add(self.judge(key, object, changed_at, now));
            }
        }
        touched
    }

    fn judge(&mut self, key: ServerKey, object: ServerObject, changed_at: Option<Instant>, now: Instant) -> Affected {
        let Judged { verdict, text, url, governed_by, enforced, seen_by_labels } = self.verdict(&key, &object);
        let mut touched = Affected { servers: BTreeSet::from([key.clone()]), ..Affected::default() };
        touched.policies = self.govern(&key, &governed_by);
        let (index, of) = (self.slot_of(&key), ObjectKey::server(&key));
        // Who is allowed by one policy that denies the rest is at most allowed more by others.
        let wait = self.delay.filter(|_| !enforced && !self.slots[index].contains_key(&of));
        let until = wait.zip(changed_at).map(|(delay, at)| at + delay);
        let text = match (text, until) {
            (Some(text), Some(until)) => self.newcomers.hold(&key, text, until, now),
            (text, _) => {
                self.newcomers.release(&key);
                text
            }
        };
        let slot = &mut self.slots[index];
        let before = match text.clone() {
            Some(text) => slot.insert(of, text),
            None => slot.remove(&of),
        };
        if before != text {
            touched.slots.insert(index);
        }
        self.entries.insert(key, ServerEntry { object, verdict, url, governed_by, seen_by_labels, changed_at });
        touched
    }

    /// Notes the policies that govern a server from now on. Returns those that govern it newly, or no longer.
    fn govern(&mut self, key: &ServerKey, names: &[String]) -> BTreeSet<ServerKey> {
        let before: BTreeSet<&str> =
            self.entries.get(key).into_iter().flat_map(|entry| &entry.governed_by).map(String::as_str).collect();
        let after: BTreeSet<&str> = names.iter().map(String::as_str).collect();
        let policy = |name: &&str| ServerKey::new(&*key.namespace, *name);
        let changed = before.symmetric_difference(&after).map(policy).collect();
        for policy in before.difference(&after).map(policy) {
            if let Some(servers) = self.governed.get_mut(&policy) {
                servers.remove(key);
                if servers.is_empty() {
                    self.governed.remove(&policy);
                }
            }
        }
        for policy in after.difference(&before).map(policy) {
            self.governed.entry(policy).or_default().insert(key.clone());
        }
        changed
    }

    fn verdict(&self, key: &ServerKey, object: &ServerObject) -> Judged {
        let content = object.content.as_ref();
        let governing: Vec<&ReadPolicy> =
            content.map(|server| self.policies.governing(key, labels_of(server)).collect()).unwrap_or_default();
        let name = |policy: &&ReadPolicy| policy.policy.key.name.clone();
        let governed_by: Vec<String> = governing.iter().map(name).collect();
        let enforced = governing.iter().any(|policy| policy.policy.mode == PolicyMode::Enforce);
        let allowed = content.as_ref().ok().map(|server| &server.spec.allowed_views);
        let seen_by_labels = allowed.is_some_and(|allowed| self.views.look_at_labels_of(key, allowed));
        let refused = |reason: Reason, message: String| {
            let refusal = Some(SpecRefusal { reason, message });
            let verdict = ServerVerdict { key: key.clone(), generation: object.generation, refusal, revision: None };
            Judged { verdict, text: None, url: None, governed_by: governed_by.clone(), enforced, seen_by_labels }
        };
        if let Some(message) = self.unselected(&key.namespace) {
            return refused(Reason::NamespaceNotSelected, message);
        }
        let server = match content {
            Ok(server) => server,
            Err(problem) => return refused(Reason::Invalid, problem.clone()),
        };
        let mut resolution =
            resolve([&**server], (&self.policies, &self.views), &self.home, Services::Known(&self.services));
        let Some(mut verdict) = resolution.verdicts.pop() else {
            return refused(Reason::Invalid, "the object has no metadata.name".into());
        };
        let server = resolution.snapshot.servers.pop();
        let text = server.as_ref().map(|server| EntryText {
            text: server.to_text(),
            created: server.created,
            policies: governing.iter().map(|policy| (name(policy), policy.text.clone())).collect(),
        });
        verdict.revision = text.as_ref().map(|text| revision_of(&text.text));
        Judged { verdict, text, url: server.map(|server| server.url), governed_by, enforced, seen_by_labels }
    }

    /// Why a namespace is not served, if it is not.
    fn unselected(&self, namespace: &str) -> Option<String> {
        let selected = self.selected.as_ref().filter(|selected| !selected.contains(namespace));
        selected.map(|_| {
            format!("the operator does not serve namespace {namespace:?}: give it the labels that it asks for")
        })
    }

    fn forget_user(&mut self, key: &ServerKey) {
        let Some(service) = self.entries.get(key).and_then(|entry| service_of(key, &entry.object)) else { return };
        if let Some(users) = self.users.get_mut(&service) {
            users.remove(key);
            if users.is_empty() {
                self.users.remove(&service);
            }
        }
    }
}

fn service_of(key: &ServerKey, object: &ServerObject) -> Option<(String, String)> {
    let service = object.content.as_ref().ok()?.spec.service.as_ref()?;
    Some((key.namespace.clone(), service.name.clone()))
}

#[cfg(test)]
mod tests;

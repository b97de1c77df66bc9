//! What every McpServer has become: the one place that knows all of them.
//!
//! Pure. A change touches one server and one slot, so its cost does not grow with the number of servers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::resolve::{KnownService, KnownServices, key_of};
use portcullis_crds::slots::slot_of;
use portcullis_crds::snapshot::revision_of;
use portcullis_crds::{McpServer, Reason, Refusal, ServerKey, Services, Verdict, resolve};

use crate::share::{self, Content, Text, Texts};

/// All McpServers, and what they became.
#[derive(Debug)]
pub struct Inventory {
    home: String,
    selected: Option<BTreeSet<String>>,
    entries: BTreeMap<ServerKey, Entry>,
    services: KnownServices,
    /// Which servers name a Service.
    users: BTreeMap<(String, String), BTreeSet<ServerKey>>,
    slots: Vec<Texts>,
}

/// One McpServer.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The object, or what can be told of one that cannot be read.
    pub object: Object,
    /// What became of it.
    pub verdict: Verdict,
    /// Its URL, if it has one.
    pub url: Option<String>,
}

/// An McpServer of the API server.
#[derive(Clone, Debug)]
pub struct Object {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// `metadata.resourceVersion`, where it is a number.
    pub version: u64,
    /// Its status there.
    pub status: McpServerStatus,
    /// The whole object, or why it cannot be read.
    pub content: Result<Arc<McpServer>, String>,
}

/// What a change touched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Servers whose verdict, generation or status may be another.
    pub servers: BTreeSet<ServerKey>,
    /// Slots whose content is another.
    pub slots: BTreeSet<usize>,
}

impl Touched {
    /// Adds what another change touched.
    pub fn add(&mut self, more: Self) {
        self.servers.extend(more.servers);
        self.slots.extend(more.slots);
    }
}

impl Object {
    /// An object that could be read.
    pub fn of(mut server: McpServer) -> Self {
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
    /// Nothing yet. `selective`: only namespaces that [`Inventory::select`] names are served.
    pub fn new(home: String, slots: usize, selective: bool) -> Self {
        Self {
            home,
            selected: selective.then(BTreeSet::new),
            entries: BTreeMap::new(),
            services: KnownServices::new(),
            users: BTreeMap::new(),
            slots: vec![Texts::new(); slots],
        }
    }

    /// One server.
    pub fn get(&self, key: &ServerKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// One server, to note what was written of it.
    pub fn get_mut(&mut self, key: &ServerKey) -> Option<&mut Entry> {
        self.entries.get_mut(key)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &ServerKey> {
        self.entries.keys()
    }

    /// The content of a slot, as it should be written.
    pub fn slot(&self, index: usize) -> Content {
        self.slots.get(index).map_or_else(|| share::content(&Texts::new()), share::content)
    }

    /// Which slot a server is in.
    pub fn slot_of(&self, key: &ServerKey) -> usize {
        slot_of(key, self.slots.len())
    }

    /// A server is new or has changed.
    pub fn put(&mut self, server: McpServer) -> Touched {
        let key = key_of(&server);
        self.put_object(key, Object::of(server))
    }

    /// A server is new or has changed, readable or not.
    pub fn put_object(&mut self, key: ServerKey, object: Object) -> Touched {
        self.forget_user(&key);
        if let Some(service) = service_of(&key, &object) {
            self.users.entry(service).or_default().insert(key.clone());
        }
        self.judge(key, object)
    }

    /// A server is gone.
    pub fn remove(&mut self, key: &ServerKey) -> Touched {
        self.forget_user(key);
        let mut touched = Touched::default();
        if self.entries.remove(key).is_some() {
            touched.servers.insert(key.clone());
        }
        let index = self.slot_of(key);
        if self.slots[index].remove(key).is_some() {
            touched.slots.insert(index);
        }
        touched
    }

    /// A Service is new or has changed, or, where nothing is known of it, is gone.
    pub fn put_service(&mut self, namespace: &str, name: &str, known: Option<KnownService>) -> Touched {
        let service = (namespace.to_owned(), name.to_owned());
        let before = match known.clone() {
            Some(known) => self.services.insert(service.clone(), known),
            None => self.services.remove(&service),
        };
        if before == known {
            return Touched::default();
        }
        let users: Vec<ServerKey> = self.users.get(&service).into_iter().flatten().cloned().collect();
        self.judge_again(users)
    }

    /// A namespace is, or is no longer, among those that are served.
    pub fn select(&mut self, namespace: &str, selected: bool) -> Touched {
        let Some(all) = &mut self.selected else { return Touched::default() };
        let changed = if selected { all.insert(namespace.to_owned()) } else { all.remove(namespace) };
        if !changed {
            return Touched::default();
        }
        let keys = self.entries.keys().filter(|key| key.namespace == namespace).cloned().collect();
        self.judge_again(keys)
    }

    fn judge_again(&mut self, keys: Vec<ServerKey>) -> Touched {
        let mut touched = Touched::default();
        for key in keys {
            if let Some(entry) = self.entries.remove(&key) {
                touched.add(self.judge(key, entry.object));
            }
        }
        touched
    }

    fn judge(&mut self, key: ServerKey, object: Object) -> Touched {
        let (verdict, text, url) = self.verdict(&key, &object);
        let mut touched = Touched { servers: BTreeSet::from([key.clone()]), slots: BTreeSet::new() };
        let index = self.slot_of(&key);
        let slot = &mut self.slots[index];
        let before = match text.clone() {
            Some(text) => slot.insert(key.clone(), text),
            None => slot.remove(&key),
        };
        if before != text {
            touched.slots.insert(index);
        }
        self.entries.insert(key, Entry { object, verdict, url });
        touched
    }

    /// What becomes of an object: the verdict, its text in the slot, and its URL.
    fn verdict(&self, key: &ServerKey, object: &Object) -> (Verdict, Option<Text>, Option<String>) {
        let refused = |reason: Reason, message: String| {
            let refusal = Some(Refusal { reason, message });
            (Verdict { key: key.clone(), generation: object.generation, refusal, revision: None }, None, None)
        };
        if self.selected.as_ref().is_some_and(|selected| !selected.contains(&key.namespace)) {
            let message = format!(
                "the operator does not serve namespace {:?}: give it the labels that it asks for",
                key.namespace
            );
            return refused(Reason::NamespaceNotSelected, message);
        }
        let server = match &object.content {
            Ok(server) => server,
            Err(problem) => return refused(Reason::Invalid, problem.clone()),
        };
        let mut resolution = resolve([&**server], &self.home, Services::Known(&self.services));
        let Some(mut verdict) = resolution.verdicts.pop() else {
            return refused(Reason::Invalid, "the object has no name".into());
        };
        let server = resolution.snapshot.servers.pop();
        let text = server.as_ref().map(|server| Text { text: server.to_text(), created: server.created });
        verdict.revision = text.as_ref().map(|text| revision_of(&text.text));
        (verdict, text, server.map(|server| server.url))
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

fn service_of(key: &ServerKey, object: &Object) -> Option<(String, String)> {
    let service = object.content.as_ref().ok()?.spec.service.as_ref()?;
    Some((key.namespace.clone(), service.name.clone()))
}

#[cfg(test)]
mod tests {
    use portcullis_crds::Snapshot;
    use portcullis_crds::resolve::KnownPort;
    use portcullis_crds::slots::{join, split};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn server(namespace: &str, name: &str, spec: serde_json::Value) -> McpServer {
        serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1",
            "kind": "McpServer",
            "metadata": {"namespace": namespace, "name": name, "generation": 1, "uid": name},
            "spec": spec,
        }))
        .unwrap()
    }

    fn touched(keys: &[(&str, &str)], slots: &[usize]) -> Touched {
        let servers = keys.iter().map(|(namespace, name)| ServerKey::new(*namespace, *name)).collect();
        Touched { servers, slots: slots.iter().copied().collect() }
    }

    fn urls(inventory: &Inventory) -> Vec<String> {
        let slots = (0..inventory.slots.len()).map(|index| inventory.slot(index).packed.unpack().unwrap());
        join(slots).servers.into_iter().map(|server| server.url).collect()
    }

    #[test]
    fn a_bad_server_is_refused_alone_and_a_status_alone_changes_no_slot() {
        let mut inventory = Inventory::new("n".into(), 1, false);
        let good = server("n", "good", json!({"url": "http://a/"}));
        assert_eq!(inventory.put(good.clone()), touched(&[("n", "good")], &[0]));
        assert_eq!(inventory.put(good), touched(&[("n", "good")], &[]));
        let bad = server("n", "bad", json!({"url": "ftp://b/"}));
        assert_eq!(inventory.put(bad), touched(&[("n", "bad")], &[]));
        let broken = Object {
            uid: "u".into(),
            generation: 1,
            version: 1,
            status: McpServerStatus::default(),
            content: Err("spec.weight is no number".into()),
        };
        inventory.put_object(ServerKey::new("n", "broken"), broken);
        let reasons: Vec<_> =
            inventory.entries.values().map(|e| e.verdict.refusal.as_ref().map(|r| r.reason)).collect();
        assert_eq!(reasons, [Some(Reason::Invalid), Some(Reason::Invalid), None]);
        assert_eq!(urls(&inventory), ["http://a/"]);
        assert_eq!(inventory.remove(&ServerKey::new("n", "good")), touched(&[("n", "good")], &[0]));
        assert_eq!(inventory.remove(&ServerKey::new("n", "good")), Touched::default());
        assert_eq!(urls(&inventory), Vec::<String>::new());
    }

    #[test]
    fn a_service_that_comes_changes_those_who_name_it() {
        let mut inventory = Inventory::new("n".into(), 1, false);
        inventory.put(server("n", "s", json!({"service": {"name": "a", "port": "mcp"}})));
        inventory.put(server("m", "s", json!({"service": {"name": "a", "port": "mcp"}})));
        assert_eq!(urls(&inventory), Vec::<String>::new());
        let port = KnownPort { name: Some("mcp".to_owned()), number: 80, connect: Some(80) };
        let ports = Some(KnownService { is_external: false, ports: vec![port] });
        assert_eq!(inventory.put_service("n", "a", ports.clone()), touched(&[("n", "s")], &[0]));
        assert_eq!(inventory.put_service("n", "a", ports), Touched::default());
        assert_eq!(urls(&inventory), ["http://a.n.svc:80/mcp"]);
        assert_eq!(inventory.put_service("n", "a", None), touched(&[("n", "s")], &[0]));
        inventory.put(server("n", "s", json!({"url": "http://b/"})));
        assert_eq!(inventory.put_service("n", "a", Some(KnownService::default())), Touched::default());
    }

    #[test]
    fn a_namespace_that_is_not_selected_is_told_so() {
        let mut inventory = Inventory::new("n".into(), 1, true);
        let key = ServerKey::new("n", "a");
        inventory.put(server("n", "a", json!({"url": "http://a/"})));
        let reason = |inventory: &Inventory| inventory.get(&key).unwrap().verdict.refusal.as_ref().map(|r| r.reason);
        assert_eq!(reason(&inventory), Some(Reason::NamespaceNotSelected));
        assert_eq!(inventory.select("n", true), touched(&[("n", "a")], &[0]));
        assert_eq!(reason(&inventory), None);
        assert_eq!(inventory.select("n", true), Touched::default());
        assert_eq!(inventory.select("n", false), touched(&[("n", "a")], &[0]));
        assert_eq!(urls(&inventory), Vec::<String>::new());
    }

    proptest! {
        #[test]
        fn after_any_changes_the_slots_are_those_of_a_fresh_start(
            changes in prop::collection::vec(("[ab]", "[a-e]", "[xyz]", any::<bool>()), 0..30),
        ) {
            let mut inventory = Inventory::new("a".into(), 3, false);
            let mut model = BTreeMap::new();
            for (namespace, name, host, remove) in changes {
                let key = ServerKey::new(namespace.clone(), name.clone());
                if remove {
                    inventory.remove(&key);
                    model.remove(&key);
                } else {
                    let object = server(&namespace, &name, json!({"url": format!("http://{host}/")}));
                    inventory.put(object.clone());
                    model.insert(key, object);
                }
            }
            let expected = resolve(model.values(), "a", Services::Unknown).snapshot;
            let slots: Vec<Snapshot> = (0..3).map(|index| inventory.slot(index).packed.unpack().unwrap()).collect();
            prop_assert_eq!(slots, split(&expected, 3));
            for (key, entry) in &inventory.entries {
                let server = expected.servers.iter().find(|server| server.key == *key);
                prop_assert_eq!(entry.verdict.revision.clone(), server.map(|server| server.revision()));
            }
        }
    }
}

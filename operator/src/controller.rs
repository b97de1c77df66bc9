//! The one controller: takes all news, keeps everything that is known, and writes what differs.
//!
//! It alone owns the state, so nothing is locked; every write is a task of its own set, whose end is news as well.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt as _};
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::{ConditionType, McpServer, ServerKey, rules};
use portcullis_runtime::{Latch, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::config::{Config, Gateways, Scope};
use crate::events::Teller;
use crate::inventory::{Inventory, Object, Touched};
use crate::metrics::Metrics;
use crate::poll::Told;
use crate::publish::{Slots, version};
use crate::replicas::Replicas;
use crate::status;
use crate::statuses::{Outcome, Statuses, Wrote};
use crate::watch::{self as watches, Listing, News, Step, key_of};

/// Everything that is known, and everything that is under way.
pub struct Controller {
    inventory: Inventory,
    slots: Slots,
    statuses: Statuses,
    replicas: Replicas,
    servers: Vec<Listing<ServerKey>>,
    services: Vec<Listing<ServerKey>>,
    namespaces: Option<Listing<String>>,
    slices: Listing<String>,
    teller: Teller,
    metrics: Metrics,
    /// How many servers there are by the status of their condition `Ready`.
    counts: BTreeMap<&'static str, i64>,
    leads: bool,
    complete: Option<Latch>,
}

impl Controller {
    /// A controller that knows nothing yet. `complete` is released when everything has been listed.
    pub fn new(
        client: &Client,
        config: &Config,
        namespace: &str,
        teller: Teller,
        metrics: Metrics,
        complete: Latch,
    ) -> Self {
        let selective = matches!(config.scope, Scope::Selector(_));
        let scopes = watches::scope_count(&config.scope);
        Self {
            inventory: Inventory::new(config.home.clone(), config.slots.len(), selective),
            slots: Slots::new(client, namespace, &config.slots, metrics.clone()),
            statuses: Statuses::new(client.clone(), config.status_writes_per_second, metrics.clone()),
            replicas: Replicas::new(metrics.clone()),
            servers: (0..scopes).map(|_| Listing::default()).collect(),
            services: (0..scopes).map(|_| Listing::default()).collect(),
            namespaces: selective.then(Listing::default),
            slices: Listing::default(),
            teller,
            metrics,
            counts: BTreeMap::new(),
            leads: false,
            complete: Some(complete),
        }
    }

    /// Runs until the process stops, then lets writes under way finish.
    pub async fn run(
        mut self,
        client: Client,
        config: &Config,
        namespace: &str,
        mut leads: watch::Receiver<bool>,
        stop: Shutdown,
    ) {
        let mut news = watches::all(&client, config, namespace);
        if let Gateways::Fixed(addresses) = &config.gateways {
            self.replicas.fixed(addresses.clone(), Instant::now());
        }
        let (sender, mut told) = mpsc::channel(64);
        self.replicas.report_to(sender);
        loop {
            let wake = self.next_wake(Instant::now());
            tokio::select! {
                biased;
                () = stop.requested() => break,
                Ok(()) = leads.changed() => {
                    let leads = *leads.borrow_and_update();
                    self.lead(leads);
                }
                written = self.slots.finished() => self.slots.note(written, Instant::now()),
                wrote = self.statuses.finished() => self.wrote(wrote),
                Some(told) = told.recv() => self.told(told),
                Some(news) = news.next() => self.hear(news),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            self.work();
        }
        self.slots.drain().await;
        self.statuses.drain().await;
    }

    // --- news ---

    fn hear(&mut self, news: News) {
        let now = Instant::now();
        match news {
            News::Server(scope, event) => {
                let Some(listing) = self.servers.get_mut(scope) else { return };
                let step = listing.step(event, key_of);
                self.server(step, now);
            }
            News::Service(scope, event) => self.service(scope, event, now),
            News::Namespace(event) => self.namespace(event, now),
            News::Slot(index, event) => self.slots.seen(index, event),
            News::Endpoints(event) => self.endpoints(event, now),
            News::Broken(kind, error) => {
                self.metrics.watch_errors.with_label_values(&[kind]).inc();
                warn!(kind, %error, "a watch broke, it is opened anew");
            }
        }
        self.look_whether_complete();
    }

    fn server(&mut self, step: Step<ServerKey, DeserializeGuard<McpServer>>, now: Instant) {
        let touched = match step {
            Step::Wait => return,
            Step::Put(object) => {
                let key = key_of(&object);
                let object = self.with_known_status(&key, object_of(object));
                self.count(
                    self.inventory.get(&key).map(|entry| entry.object.status.clone()).as_ref(),
                    Some(&object.status),
                );
                self.inventory.put_object(key, object)
            }
            Step::Gone(keys) => {
                let mut touched = Touched::default();
                for key in keys {
                    self.count(self.inventory.get(&key).map(|entry| entry.object.status.clone()).as_ref(), None);
                    touched.add(self.inventory.remove(&key));
                    self.statuses.remove(&key);
                }
                touched
            }
        };
        self.touched(touched, now);
    }

    /// What we wrote ourselves is newer than what is seen of the time before.
    fn with_known_status(&self, key: &ServerKey, mut object: Object) -> Object {
        let known = self.inventory.get(key).map(|entry| &entry.object).filter(|known| known.uid == object.uid);
        if let Some(known) = known.filter(|known| self.statuses.is_busy(key) || object.version < known.version) {
            object.status = known.status.clone();
            object.version = object.version.max(known.version);
        }
        object
    }

    fn service(&mut self, scope: usize, event: Event<Service>, now: Instant) {
        let Some(listing) = self.services.get_mut(scope) else { return };
        let mut touched = Touched::default();
        match listing.step(event, key_of) {
            Step::Wait => {}
            Step::Put(service) => {
                let key = key_of(&service);
                touched = self.inventory.put_service(&key.namespace, &key.name, Some(ports_of(&service)));
            }
            Step::Gone(keys) => {
                for key in keys {
                    touched.add(self.inventory.put_service(&key.namespace, &key.name, None));
                }
            }
        }
        self.touched(touched, now);
    }

    fn namespace(&mut self, event: Event<Namespace>, now: Instant) {
        let Some(listing) = &mut self.namespaces else { return };
        let mut touched = Touched::default();
        match listing.step(event, kube::ResourceExt::name_any) {
            Step::Wait => {}
            Step::Put(namespace) => touched = self.inventory.select(&namespace.name_any(), true),
            Step::Gone(names) => {
                for name in names {
                    touched.add(self.inventory.select(&name, false));
                }
            }
        }
        self.touched(touched, now);
    }

    fn endpoints(&mut self, event: Event<EndpointSlice>, now: Instant) {
        let changed = match self.slices.step(event, kube::ResourceExt::name_any) {
            Step::Wait => false,
            Step::Put(slice) => self.replicas.slice(slice.name_any(), addresses_of(&slice), now),
            Step::Gone(names) => {
                let changed: Vec<bool> =
                    names.into_iter().map(|name| self.replicas.slice(name, Vec::new(), now)).collect();
                changed.contains(&true)
            }
        };
        if changed {
            self.touch_all(now);
        }
    }

    fn told(&mut self, told: Told) {
        let now = Instant::now();
        for key in self.replicas.told(told, now) {
            self.touch(&key, now);
        }
    }

    fn lead(&mut self, leads: bool) {
        self.leads = leads;
        self.metrics.leader.set(i64::from(leads));
        let now = Instant::now();
        self.replicas.ask(leads, now);
        self.touch_all(now);
    }

    fn look_whether_complete(&mut self) {
        let all = self.servers.iter().all(Listing::is_complete)
            && self.services.iter().all(Listing::is_complete)
            && self.namespaces.as_ref().is_none_or(Listing::is_complete)
            && self.slots.is_complete();
        if all && let Some(complete) = self.complete.take() {
            complete.release();
            info!(servers = self.inventory.keys().count(), "everything has been listed");
            self.touch_all(Instant::now());
        }
    }

    // --- what follows ---

    fn touched(&mut self, touched: Touched, now: Instant) {
        for index in touched.slots {
            self.slots.changed(index, now);
        }
        for key in &touched.servers {
            self.touch(key, now);
        }
    }

    fn touch_all(&mut self, now: Instant) {
        let keys: Vec<ServerKey> = self.inventory.keys().cloned().collect();
        for key in keys {
            self.touch(&key, now);
        }
    }

    fn touch(&mut self, key: &ServerKey, now: Instant) {
        if !self.may_write() {
            return self.statuses.forget(key);
        }
        match self.wanted(key, now) {
            Some((old, new, settled)) => self.statuses.wanted(key, status::change(&old, &new), settled, now),
            None => self.statuses.remove(key),
        }
    }

    /// The status of a server as it is and as it should be, and whether that is how things ended.
    fn wanted(&self, key: &ServerKey, now: Instant) -> Option<(McpServerStatus, McpServerStatus, bool)> {
        let entry = self.inventory.get(key)?;
        let view = self.replicas.view(key, entry.verdict.revision.as_deref(), now);
        let left_out = self.slots.is_left_out(self.inventory.slot_of(key), key);
        let new = status::desired(entry, &view, left_out, &this_second());
        let settled = status::is_settled(&new, &view);
        Some((entry.object.status.clone(), new, settled))
    }

    /// Before everything was listed, what is known is not what is there.
    fn may_write(&self) -> bool {
        self.leads && self.complete.is_none()
    }

    fn work(&mut self) {
        let now = Instant::now();
        if self.replicas.count_silent(now) {
            self.touch_all(now);
        }
        if !self.may_write() {
            return;
        }
        for key in self.slots.write_due(&self.inventory, now) {
            self.touch(&key, now);
        }
        while let Some(key) = self.statuses.take_due(now) {
            let Some((old, new, _)) = self.wanted(&key, now) else { continue };
            if status::change(&old, &new) != status::Change::None {
                let uid = self.inventory.get(&key).map(|entry| entry.object.uid.clone()).unwrap_or_default();
                self.statuses.write(key, uid, new, now);
            }
        }
    }

    fn wrote(&mut self, wrote: Wrote) {
        let now = Instant::now();
        let Wrote { key, uid, status, outcome } = wrote;
        self.statuses.note(&key, outcome, now);
        // Deleted and made anew meanwhile: what the new one holds, its own news tell.
        let entry = self.inventory.get_mut(&key).filter(|entry| entry.object.uid == uid);
        if let (Outcome::Done(version), Some(entry)) = (outcome, entry) {
            let old = std::mem::replace(&mut entry.object.status, status.clone());
            entry.object.version = version.unwrap_or(0).max(entry.object.version);
            self.teller.tell(&key, &entry.object.uid, &old, &status);
            self.count(Some(&old), Some(&status));
        }
        if outcome != Outcome::Failed {
            self.touch(&key, now);
        }
    }

    fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let silent = self.replicas.next_change(now);
        if !self.may_write() {
            return silent;
        }
        [silent, self.slots.next(now), self.statuses.next(now)].into_iter().flatten().min()
    }

    fn count(&mut self, old: Option<&McpServerStatus>, new: Option<&McpServerStatus>) {
        for (status, step) in [(old, -1), (new, 1)] {
            let Some(status) = status else { continue };
            let word = ready_word(status);
            let count = self.counts.entry(word).or_insert(0);
            *count += step;
            self.metrics.servers.with_label_values(&[word]).set(*count);
        }
    }
}

fn ready_word(status: &McpServerStatus) -> &'static str {
    match status::find(status, ConditionType::Ready).map(|condition| condition.status.as_str()) {
        Some("True") => "true",
        Some("False") => "false",
        _ => "unknown",
    }
}

fn this_second() -> Time {
    let now = Timestamp::now();
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn object_of(object: DeserializeGuard<McpServer>) -> Object {
    match object.0 {
        Ok(server) => Object::of(server),
        Err(problem) => {
            let metadata = problem.metadata;
            Object {
                uid: metadata.uid.clone().unwrap_or_default(),
                generation: metadata.generation.unwrap_or(0),
                version: version(&metadata).unwrap_or(0),
                status: McpServerStatus::default(),
                content: Err(format!("the object cannot be read: {}", rules::without_values(&problem.error))),
            }
        }
    }
}

fn ports_of(service: &Service) -> Vec<(Option<String>, u16)> {
    let ports = service.spec.as_ref().and_then(|spec| spec.ports.as_ref());
    let port =
        |port: &k8s_openapi::api::core::v1::ServicePort| Some((port.name.clone(), u16::try_from(port.port).ok()?));
    ports.into_iter().flatten().filter_map(port).collect()
}

/// Admin ports of the pods that take traffic.
fn addresses_of(slice: &EndpointSlice) -> Vec<SocketAddr> {
    let ports = slice.ports.iter().flatten();
    let port = ports.filter(|port| port.name.as_deref() == Some("admin")).find_map(|port| port.port);
    let Some(port) = port.and_then(|port| u16::try_from(port).ok()) else { return Vec::new() };
    let is_ready = |ready: Option<bool>| ready.unwrap_or(true);
    let endpoints = slice.endpoints.iter();
    let ready = endpoints.filter(|endpoint| is_ready(endpoint.conditions.as_ref().and_then(|c| c.ready)));
    // All addresses of one endpoint are the same pod.
    ready.filter_map(|endpoint| Some(SocketAddr::new(endpoint.addresses.first()?.parse().ok()?, port))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_ready_pods_are_asked_at_their_admin_port() {
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv4",
            "metadata": {"name": "a"},
            "ports": [{"name": "http", "port": 80}, {"name": "admin", "port": 9090}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": true}},
                {"addresses": ["10.0.0.2"], "conditions": {"ready": false, "serving": true, "terminating": true}},
                {"addresses": ["10.0.0.3"]},
                {"addresses": ["nowhere"]},
            ],
        }))
        .unwrap();
        let expected: Vec<SocketAddr> = ["10.0.0.1:9090", "10.0.0.3:9090"].map(|a| a.parse().unwrap()).into();
        assert_eq!(addresses_of(&slice), expected);
        let slice: EndpointSlice = serde_json::from_value(json!({
            "addressType": "IPv6", "metadata": {"name": "b"}, "ports": [{"name": "admin", "port": 9090}],
            "endpoints": [{"addresses": ["fd00::1"]}],
        }))
        .unwrap();
        let expected: Vec<SocketAddr> = vec!["[fd00::1]:9090".parse().unwrap()];
        assert_eq!(addresses_of(&slice), expected);
    }

    #[test]
    fn a_value_of_an_object_that_cannot_be_read_is_not_repeated() {
        let object: DeserializeGuard<McpServer> = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"name": "a", "generation": 2},
            "spec": {"url": "http://a/", "weight": "s3cret"},
        }))
        .unwrap();
        let object = object_of(object);
        let problem = object.content.unwrap_err();
        assert!(
            object.generation == 2 && problem.contains("cannot be read") && !problem.contains("s3cret"),
            "{problem}"
        );
    }
    #[tokio::test]
    async fn a_server_that_was_made_anew_has_not_the_status_of_the_one_before() {
        let config = kube::Config::new("http://127.0.0.1:9".parse().unwrap());
        let (client, metrics) = (Client::try_from(config).unwrap(), Metrics::new());
        let given = |text: &str| Some(text.to_owned());
        let options = crate::Options { configmaps: given("a"), gateways: given("127.0.0.1:9"), ..Default::default() };
        let (config, complete) = (options.check("host").unwrap(), portcullis_runtime::Readiness::default().latch("a"));
        let (teller, _stories) = crate::events::channel(metrics.clone());
        let mut controller = Controller::new(&client, &config, "n", teller, metrics, complete);
        let object = serde_json::from_value(json!({
            "apiVersion": "portcullis.dev/v1alpha1", "kind": "McpServer",
            "metadata": {"namespace": "n", "name": "a", "uid": "new", "resourceVersion": "9"},
            "spec": {"url": "http://a/"},
        }));
        controller.hear(News::Server(0, Event::Apply(object.unwrap())));
        let key = ServerKey::new("n", "a");
        let written = McpServerStatus { observed_generation: Some(1), ..McpServerStatus::default() };
        for (uid, expected) in [("old", McpServerStatus::default()), ("new", written.clone())] {
            let (key, status) = (key.clone(), written.clone());
            controller.wrote(Wrote { key, uid: uid.into(), status, outcome: Outcome::Done(Some(10)) });
            assert_eq!(controller.inventory.get(&ServerKey::new("n", "a")).unwrap().object.status, expected);
        }
    }
}

//! The one controller: takes all news, keeps everything that is known, and writes what differs.
//!
//! It alone owns the state, so nothing is locked; every write is a task of its own set, whose end is news as well.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Service, ServicePort};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt as _};
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::resolve::{KnownPort, KnownService};
use portcullis_crds::{ConditionType, McpServer, ServerKey, rules};
use portcullis_runtime::{Latch, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::config::{Config, Gateways, Scope};
use crate::events::Teller;
use crate::inventory::{Inventory, Object, Touched};
use crate::metrics::Metrics;
use crate::ownership::{Ownership, owner_of};
use crate::poll::Told;
use crate::publish::{Slots, version};
use crate::replicas::Replicas;
use crate::report::Report;
use crate::scopes::{Kind, Refused};
use crate::status;
use crate::statuses::{Outcome, Statuses, Wrote};
use crate::watch::{self as watches, Listing, News, Step, Watch, key_of};

/// Everything that is known, and everything that is under way.
pub struct Controller {
    inventory: Inventory,
    slots: Slots,
    statuses: Statuses,
    replicas: Replicas,
    /// The namespace of each watch of servers; none: all.
    places: Vec<Option<String>>,
    refused: Refused,
    servers: Vec<Listing<ServerKey>>,
    services: Vec<Listing<ServerKey>>,
    namespaces: Option<Listing<String>>,
    slices: Listing<String>,
    ownership: Ownership,
    /// Statuses that were seen while another was written, with the versions of their objects.
    seen: BTreeMap<ServerKey, (u64, McpServerStatus)>,
    /// Servers, and installations, of which was told that they are, and serve, another's.
    told_of: (BTreeSet<ServerKey>, BTreeSet<String>),
    teller: Teller,
    metrics: Metrics,
    /// How many servers there are by the status of their condition `Ready`.
    counts: BTreeMap<&'static str, i64>,
    reports: watch::Sender<Report>,
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
        let places = watches::scopes(&config.scope);
        let installation = config.installation(namespace);
        Self {
            inventory: Inventory::new(config.home.clone(), config.slots.len(), selective),
            slots: Slots::new(client, namespace, config, metrics.clone()),
            statuses: Statuses::new(client.clone(), &installation, config.status_writes_per_second, metrics.clone()),
            replicas: Replicas::new(metrics.clone()),
            servers: places.iter().map(|_| Listing::default()).collect(),
            services: places.iter().map(|_| Listing::default()).collect(),
            places,
            refused: Refused::default(),
            namespaces: selective.then(Listing::default),
            slices: Listing::default(),
            ownership: Ownership::new(installation, config.takeover, Timestamp::now()),
            seen: BTreeMap::new(),
            told_of: Default::default(),
            teller,
            metrics,
            counts: BTreeMap::new(),
            reports: watch::Sender::default(),
            leads: false,
            complete: Some(complete),
        }
    }

    /// What is told at `/status` of the admin port.
    pub fn reports(&self) -> watch::Receiver<Report> {
        self.reports.subscribe()
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
                self.look_whether_listed(Kind::Servers, scope, &event);
                let Some(listing) = self.servers.get_mut(scope) else { return };
                let step = listing.step(event, key_of);
                self.server(step, now);
            }
            News::Service(scope, event) => {
                self.look_whether_listed(Kind::Services, scope, &event);
                self.service(scope, event, now);
            }
            News::Namespace(event) => self.namespace(event, now),
            News::Slot(index, event) => self.slots.seen(index, event),
            News::Endpoints(event) => self.endpoints(event, now),
            News::Broken(watch, error) => {
                let kind = watch.resource();
                self.metrics.watch_errors.with_label_values(&[kind]).inc();
                warn!(kind, %error, "a watch broke, it is opened anew");
                if let Watch::Place(kind, number) = watch
                    && self.places.get(number).is_some_and(Option::is_some)
                    && watches::is_refused(&error)
                {
                    self.refused.refused(kind, number, now);
                }
            }
        }
        self.look_whether_complete();
    }

    /// Notes that a namespace can be read again, when the whole list of it has come.
    fn look_whether_listed<K>(&mut self, kind: Kind, number: usize, event: &Event<K>) {
        if matches!(event, Event::InitDone) && self.refused.listed(kind, number) {
            info!(
                namespace = self.place(number),
                resource = Watch::Place(kind, number).resource(),
                "it can be read again"
            );
            self.count_unreadable();
        }
    }

    /// Lets namespaces that have been refused for a while count as empty.
    fn give_up_refused(&mut self, now: Instant) {
        let due = self.refused.due(now);
        if due.is_empty() {
            return;
        }
        for (kind, number) in due {
            warn!(
                namespace = self.place(number),
                resource = Watch::Place(kind, number).resource(),
                "the API server does not let it be read: the namespace is gone, or the Role is missing in it; it counts as empty"
            );
            match kind {
                Kind::Servers => {
                    let gone = self.servers.get_mut(number).map(Listing::give_up).unwrap_or_default();
                    self.server(Step::Gone(gone), now);
                }
                // Servers that name a Service by its port are not changed by that.
                Kind::Services => drop(self.services.get_mut(number).map(Listing::give_up)),
            }
        }
        self.count_unreadable();
        self.look_whether_complete();
    }

    fn count_unreadable(&self) {
        for (number, place) in self.places.iter().enumerate() {
            let Some(namespace) = place else { continue };
            let unreadable = [Kind::Servers, Kind::Services].iter().any(|kind| self.refused.is_given_up(*kind, number));
            self.metrics.unreadable.with_label_values(&[namespace]).set(i64::from(unreadable));
        }
    }

    fn place(&self, number: usize) -> &str {
        self.places.get(number).and_then(Option::as_deref).unwrap_or_default()
    }

    /// What is told at `/status` of the admin port.
    fn report(&self) -> Report {
        let unreadable = |number: &usize| self.refused.is_given_up(Kind::Servers, *number);
        let numbers = (0..self.places.len()).filter(unreadable);
        Report {
            installation: self.ownership.me().to_owned(),
            leads: self.leads,
            listed: self.complete.is_none(),
            servers: self.inventory.len(),
            servers_of_others: self.ownership.count(),
            unreadable_namespaces: numbers.map(|number| self.place(number).to_owned()).collect(),
        }
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
                self.ownership.see(&key, &object.status, now);
                self.inventory.put_object(key, object)
            }
            Step::Gone(keys) => {
                let mut touched = Touched::default();
                for key in keys {
                    self.count(self.inventory.get(&key).map(|entry| entry.object.status.clone()).as_ref(), None);
                    touched.add(self.inventory.remove(&key));
                    self.statuses.remove(&key);
                    self.ownership.forget(&key, now);
                    self.seen.remove(&key);
                    self.told_of.0.remove(&key);
                }
                touched
            }
        };
        self.touched(touched, now);
    }

    /// What we wrote ourselves is newer than what is seen of the time before.
    fn with_known_status(&mut self, key: &ServerKey, mut object: Object) -> Object {
        if self.statuses.is_busy(key) {
            // Ours, or of somebody else who was faster: that shows when the write has ended.
            self.seen.insert(key.clone(), (object.version, object.status.clone()));
        }
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
                touched = self.inventory.put_service(&key.namespace, &key.name, Some(known_of(&service)));
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
        if let Some(owner) = self.ownership.other(key).map(str::to_owned) {
            self.stand_back(key, &owner);
            return self.statuses.forget(key);
        }
        if self.ownership.has_left(key) {
            return self.statuses.forget(key);
        }
        match self.wanted(key, now) {
            Some((old, new, settled)) => self.statuses.wanted(key, status::change(&old, &new), settled, now),
            None => self.statuses.remove(key),
        }
    }

    /// Says once that the status of a server is left to another installation.
    fn stand_back(&mut self, key: &ServerKey, owner: &str) {
        let me = self.ownership.me();
        if self.told_of.1.insert(owner.to_owned()) {
            warn!(
                installation = me,
                other = owner,
                "another installation serves McpServers that are watched here too: it writes their statuses"
            );
        }
        if self.told_of.0.insert(key.clone()) {
            let uid = self.inventory.get(key).map(|entry| entry.object.uid.clone()).unwrap_or_default();
            let note = format!(
                "installation {owner} serves it and writes its status, so installation {me} does not: give them disjoint \
                 watch.namespaces"
            );
            self.teller.story(key, &uid, (true, "ServedByAnother".into(), note));
        }
    }

    /// Asks other installations whether they are there, and takes over from those that are not.
    fn look_at_others(&mut self, now: Instant) {
        let due = self.ownership.due(now);
        for key in due.ask {
            let Some(entry) = self.inventory.get(&key) else { continue };
            let (object, me) = (&entry.object, self.ownership.me().to_owned());
            if object.status.contender.is_none() {
                let asking = McpServerStatus { contender: Some(me), ..object.status.clone() };
                self.statuses.write(key, object.uid.clone(), asking, known(object.version), now);
            }
        }
        for (installation, servers) in due.gone {
            warn!(
                installation,
                servers = servers.len(),
                "this installation does not answer, its McpServers are taken over"
            );
            self.told_of.1.remove(&installation);
            for key in servers {
                self.told_of.0.remove(&key);
                self.touch(&key, now);
            }
        }
        self.metrics.others.set(i64::try_from(self.ownership.count()).unwrap_or(i64::MAX));
    }

    /// The status of a server as it is and as it should be, and whether that is how things ended.
    fn wanted(&self, key: &ServerKey, now: Instant) -> Option<(McpServerStatus, McpServerStatus, bool)> {
        let is_ours = self.ownership.other(key).is_none() && !self.ownership.has_left(key);
        let entry = self.inventory.get(key).filter(|_| is_ours)?;
        let view = self.replicas.view(key, entry.verdict.revision.as_deref(), now);
        let left_out = self.slots.is_left_out(self.inventory.slot_of(key), key);
        let new = status::desired(entry, &view, left_out, self.ownership.me(), &this_second());
        let settled = status::is_settled(&new, &view);
        Some((entry.object.status.clone(), new, settled))
    }

    /// Before everything was listed, what is known is not what is there.
    fn may_write(&self) -> bool {
        self.leads && self.complete.is_none()
    }

    fn work(&mut self) {
        let now = Instant::now();
        self.give_up_refused(now);
        self.look_at_slots_and_statuses(now);
        let report = self.report();
        self.reports.send_if_modified(|told| {
            let differs = *told != report;
            *told = report;
            differs
        });
    }

    fn look_at_slots_and_statuses(&mut self, now: Instant) {
        if self.replicas.count_silent(now) {
            self.touch_all(now);
        }
        if !self.may_write() {
            return;
        }
        for key in self.slots.write_due(&self.inventory, now) {
            self.touch(&key, now);
        }
        self.look_at_others(now);
        while let Some(key) = self.statuses.take_due(now) {
            let Some((old, new, _)) = self.wanted(&key, now) else { continue };
            let Some(entry) = self.inventory.get(&key) else { continue };
            if status::change(&old, &new) != status::Change::None {
                // Of two that take it at the same time, one is refused, and sees that the other has it.
                let takes = owner_of(&old) != Some(self.ownership.me());
                let version = known(entry.object.version).filter(|_| takes);
                self.statuses.write(key, entry.object.uid.clone(), new, version, now);
            }
        }
    }

    fn wrote(&mut self, wrote: Wrote) {
        let now = Instant::now();
        let Wrote { key, uid, status, outcome } = wrote;
        self.statuses.note(&key, outcome, now);
        let seen = self.seen.remove(&key);
        if status.contender.is_some() && !matches!(outcome, Outcome::Done(_)) {
            self.ownership.not_asked(&key, now);
        }
        // Deleted and made anew meanwhile: what the new one holds, its own news tell.
        let Some(entry) = self.inventory.get_mut(&key).filter(|entry| entry.object.uid == uid) else { return };
        let old = entry.object.status.clone();
        let mut written = 0;
        if let Outcome::Done(version) = outcome {
            written = version.unwrap_or(0);
            entry.object.status = status;
            entry.object.version = written.max(entry.object.version);
            self.teller.tell(&key, &entry.object.uid, &old, &entry.object.status);
        }
        if let Some((_, newer)) = seen.filter(|(version, _)| *version > written) {
            entry.object.status = newer;
        }
        let new = entry.object.status.clone();
        self.ownership.see(&key, &new, now);
        self.count(Some(&old), Some(&new));
        if outcome != Outcome::Failed {
            self.touch(&key, now);
        }
    }

    fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let silent = [self.replicas.next_change(now), self.refused.next()].into_iter().flatten().min();
        if !self.may_write() {
            return silent;
        }
        [silent, self.slots.next(now), self.statuses.next(now), self.ownership.next()].into_iter().flatten().min()
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

/// The version of an object, if it is a number.
fn known(version: u64) -> Option<u64> {
    Some(version).filter(|version| *version > 0)
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

/// What has to be known of a Service. Behind one without a cluster IP, its name leads to the pods themselves.
fn known_of(service: &Service) -> KnownService {
    let Some(spec) = &service.spec else { return KnownService::default() };
    let is_headless = spec.cluster_ip.as_deref() == Some("None");
    let port = |port: &ServicePort| {
        let number = u16::try_from(port.port).ok()?;
        let connect = match &port.target_port {
            Some(IntOrString::Int(target)) if is_headless => u16::try_from(*target).ok(),
            Some(IntOrString::String(_)) if is_headless => None,
            _ => Some(number),
        };
        Some(KnownPort { name: port.name.clone(), number, connect })
    };
    KnownService {
        is_external: spec.type_.as_deref() == Some("ExternalName"),
        ports: spec.ports.iter().flatten().filter_map(port).collect(),
    }
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
    fn behind_a_headless_service_the_pods_own_port_counts() {
        let service = |spec: serde_json::Value| -> Service { serde_json::from_value(json!({"spec": spec})).unwrap() };
        let ports = json!([
            {"name": "a", "port": 80, "targetPort": 8000},
            {"name": "b", "port": 81, "targetPort": "http"},
            {"name": "c", "port": 82},
        ]);
        let connects = |spec: serde_json::Value| -> Vec<Option<u16>> {
            known_of(&service(spec)).ports.into_iter().map(|port| port.connect).collect()
        };
        assert_eq!(connects(json!({"clusterIP": "10.0.0.1", "ports": ports})), [Some(80), Some(81), Some(82)]);
        assert_eq!(connects(json!({"clusterIP": "None", "ports": ports})), [Some(8000), None, Some(82)]);
        assert!(known_of(&service(json!({"type": "ExternalName", "externalName": "a.example"}))).is_external);
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

//! Runs the reconcile loop: takes all news, keeps the state, and writes the differences.
//!
//! The controller alone owns the state, so nothing is locked; each write is a task whose end is news as well.

mod others;
mod policies;
mod replicas;
mod views;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::jiff::Timestamp;
use kube::core::DeserializeGuard;
use kube::runtime::watcher::Event;
use kube::{Client, ResourceExt as _};
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::{ConditionType, McpServer, ServerKey};
use portcullis_runtime::{Latch, Shutdown};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tracing::info;

use crate::audit_counts::AuditCounts;
use crate::config::{Gateways, OperatorConfig, WatchScope};
use crate::events::EventSink;
use crate::inventory::{Affected, Inventory, ServerObject};
use crate::listings::{GivenUp, Listings};
use crate::metrics::OperatorMetrics;
use crate::object_key::{ObjectKey, ObjectKind};
use crate::objects::{known_service, server_object};
use crate::ownership::{Ownership, owner_of};
use crate::policies::AccessPolicies;
use crate::publish::{SlotPublisher, replicas_in};
use crate::ready_counts::ReadyCounts;
use crate::replicas::GatewayReplicas;
use crate::report::OperatorStatus;
use crate::status;
use crate::statuses::{NewStatus, Statuses, WriteOutcome, WriteResult};
use crate::views::ViewEntries;
use crate::watch::{self as watches, ClusterNews, ListingStep, key_of};

/// The state of the operator, and the writes under way.
pub(crate) struct Controller {
    inventory: Inventory,
    policies: AccessPolicies,
    views: ViewEntries,
    audit_counts: AuditCounts,
    slots: SlotPublisher,
    statuses: Statuses,
    replicas: GatewayReplicas,
    listings: Listings,
    ownership: Ownership,
    /// Statuses that arrived during a write of the same object, with the versions of their objects.
    seen: BTreeMap<ServerKey, (u64, McpServerStatus)>,
    /// Servers whose Event names the other installation that serves them.
    announced_servers: BTreeSet<ServerKey>,
    /// Other installations that the log has named.
    announced_installations: BTreeSet<String>,
    events: EventSink,
    metrics: OperatorMetrics,
    ready_counts: ReadyCounts,
    reports: watch::Sender<OperatorStatus>,
    leads: bool,
    complete: Option<Latch>,
    /// Time for which a new server waits for its policies.
    new_server_delay: Duration,
    /// Slots are written from this time on: what was listed first may be a server whose policy is yet to come, and what
    /// another replica has published stays.
    publishes_from: Option<Instant>,
}

impl Controller {
    /// A controller with an empty state. It releases `complete` when every watch has listed everything.
    pub(crate) fn new(
        client: &Client,
        config: &OperatorConfig,
        namespace: &str,
        events: EventSink,
        metrics: OperatorMetrics,
        complete: Latch,
    ) -> Self {
        let selective = matches!(config.scope, WatchScope::Selector(_));
        let installation = config.installation(namespace);
        Self {
            inventory: Inventory::new(config.home.clone(), config.slots.len(), selective),
            policies: AccessPolicies::default(),
            views: ViewEntries::default(),
            audit_counts: AuditCounts::default(),
            slots: SlotPublisher::new(client, namespace, config, metrics.clone()),
            statuses: Statuses::new(client.clone(), &installation, config.status_writes_per_second, metrics.clone()),
            replicas: GatewayReplicas::new(metrics.clone()),
            listings: Listings::new(&config.scope, metrics.clone()),
            ownership: Ownership::new(installation, config.takeover, Timestamp::now()),
            seen: BTreeMap::new(),
            announced_servers: BTreeSet::new(),
            announced_installations: BTreeSet::new(),
            events,
            ready_counts: ReadyCounts::new(metrics.clone()),
            metrics,
            reports: watch::Sender::default(),
            leads: false,
            complete: Some(complete),
            new_server_delay: config.new_server_delay,
            publishes_from: None,
        }
    }

    /// The report at `/status` of the admin port.
    pub(crate) fn reports(&self) -> watch::Receiver<OperatorStatus> {
        self.reports.subscribe()
    }

    /// Runs until the process stops, then lets writes under way finish.
    pub(crate) async fn run(
        mut self,
        client: Client,
        config: &OperatorConfig,
        namespace: &str,
        mut leads: watch::Receiver<bool>,
        stop: Shutdown,
    ) {
        let mut news = watches::all(&client, config, namespace);
        if let Gateways::Fixed(addresses) = &config.gateways {
            self.replicas.fixed(addresses.clone(), Instant::now());
        }
        let (sender, mut replica_reports) = mpsc::channel(64);
        self.replicas.report_to(sender);
        loop {
            let wake = self.next_wake(Instant::now());
            tokio::select! {
                biased;
                () = stop.requested() => break,
                Ok(()) = leads.changed() => {
                    let leads = *leads.borrow_and_update();
                    self.set_leading(leads);
                }
                write = self.slots.finished() => self.slots.note(write, Instant::now()),
                write = self.statuses.finished() => self.finish_status_write(write),
                Some(report) = replica_reports.recv() => self.handle_report(report),
                Some(news) = news.next() => self.handle_news(news),
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {}
            }
            self.write_due();
        }
        self.slots.drain().await;
        self.statuses.drain().await;
    }

    // --- news ---

    fn handle_news(&mut self, news: ClusterNews) {
        let now = Instant::now();
        match news {
            ClusterNews::Server(number, event) => {
                let step = self.listings.server(number, event);
                self.server(step, now);
            }
            ClusterNews::Service(number, event) => self.service(number, event, now),
            ClusterNews::Policy(number, event) => self.policy(number, event, now),
            ClusterNews::View(number, event) => self.view(number, event, now),
            ClusterNews::Namespace(event) => self.namespace(event, now),
            ClusterNews::Slot(index, event) => {
                if self.replicas.sharing().is_unknown() {
                    replicas_in(&event).into_iter().for_each(|number| self.replicas.sharing().assume(number));
                }
                self.slots.seen(index, event);
            }
            ClusterNews::Endpoints(event) => self.endpoints(event, now),
            ClusterNews::Broken(watch, error) => self.listings.broken(watch, &error, now),
        }
        self.release_when_complete();
    }

    /// Lets namespaces that have been refused for a while count as empty, or closed.
    fn give_up_refused(&mut self, now: Instant) {
        let Some(GivenUp { servers, closed }) = self.listings.give_up_refused(now) else { return };
        closed.iter().for_each(|namespace| self.close(namespace, now));
        self.server(ListingStep::Gone(servers), now);
        self.release_when_complete();
    }

    /// The report at `/status` of the admin port.
    fn report(&self) -> OperatorStatus {
        OperatorStatus {
            installation: self.ownership.me().to_owned(),
            leads: self.leads,
            listed: self.complete.is_none(),
            servers: self.inventory.len(),
            servers_of_others: self.ownership.count(),
            unreadable_namespaces: self.listings.unreadable(),
        }
    }

    fn server(&mut self, step: ListingStep<ServerKey, DeserializeGuard<McpServer>>, now: Instant) {
        let affected = match step {
            ListingStep::Wait => return,
            ListingStep::Put(object) => {
                let key = key_of(&object);
                let object = self.with_known_status(&key, server_object(object));
                let known = self.inventory.get(&key).is_some_and(|known| known.object.uid == object.uid);
                // During a write the status is the one before it, which would pass for an answer to a question that is
                // just being asked; the end of the write shows what is there.
                let is_news = !known || !self.statuses.is_busy(&ObjectKey::server(&key));
                self.ready_counts.replace(
                    self.inventory.get(&key).map(|entry| entry.object.status.clone()).as_ref(),
                    Some(&object.status),
                );
                if is_news {
                    self.see_owner(&key, &object.status, now);
                }
                self.inventory.put_object(key, object, now)
            }
            ListingStep::Gone(keys) => {
                let mut affected = Affected::default();
                for key in keys {
                    self.ready_counts
                        .replace(self.inventory.get(&key).map(|entry| entry.object.status.clone()).as_ref(), None);
                    affected.add(self.inventory.remove(&key));
                    self.statuses.remove(&ObjectKey::server(&key));
                    self.ownership.forget(&key, now);
                    self.mark_around(Some(&key.namespace), now);
                    self.seen.remove(&key);
                    self.announced_servers.remove(&key);
                }
                affected
            }
        };
        self.refresh_affected(affected, now);
    }

    /// Keeps our own newer status when an older version of the object arrives.
    fn with_known_status(&mut self, key: &ServerKey, mut object: ServerObject) -> ServerObject {
        let busy = self.statuses.is_busy(&ObjectKey::server(key));
        if busy {
            // The status is ours or another writer's: the end of the write shows which.
            self.seen.insert(key.clone(), (object.version, object.status.clone()));
        }
        let known = self.inventory.get(key).map(|entry| &entry.object).filter(|known| known.uid == object.uid);
        if let Some(known) = known.filter(|known| busy || object.version < known.version) {
            object.status = known.status.clone();
            object.version = object.version.max(known.version);
        }
        object
    }

    fn service(&mut self, number: usize, event: Event<Service>, now: Instant) {
        let mut affected = Affected::default();
        match self.listings.service(number, event) {
            ListingStep::Wait => {}
            ListingStep::Put(service) => {
                let key = key_of(&service);
                let known = Some(known_service(&service));
                affected = self.inventory.put_service(&key.namespace, &key.name, known, now);
            }
            ListingStep::Gone(keys) => {
                for key in keys {
                    affected.add(self.inventory.put_service(&key.namespace, &key.name, None, now));
                }
            }
        }
        self.refresh_affected(affected, now);
    }

    fn namespace(&mut self, event: Event<Namespace>, now: Instant) {
        let mut affected = Affected::default();
        match self.listings.namespace(event) {
            ListingStep::Wait => {}
            ListingStep::Put(namespace) => affected = self.inventory.select(&namespace.name_any(), true, now),
            ListingStep::Gone(names) => {
                for name in names {
                    affected.add(self.inventory.select(&name, false, now));
                }
            }
        }
        self.refresh_affected(affected, now);
    }

    fn set_leading(&mut self, leads: bool) {
        self.leads = leads;
        self.metrics.leader.set(i64::from(leads));
        let now = Instant::now();
        self.publishes_from = Some(now + self.new_server_delay);
        self.replicas.ask(leads, now);
        self.restart_counts();
        self.refresh_all(now);
    }

    fn release_when_complete(&mut self) {
        let all = self.listings.is_complete() && self.slots.is_complete();
        if all && let Some(complete) = self.complete.take() {
            complete.release();
            info!(servers = self.inventory.keys().count(), "all watches have listed their objects");
            let now = Instant::now();
            self.inventory.hold_new_servers(self.new_server_delay);
            self.publishes_from = Some(now + self.new_server_delay);
            self.refresh_all(now);
        }
    }

    // --- consequences ---

    fn refresh_affected(&mut self, affected: Affected, now: Instant) {
        for index in affected.slots {
            self.slots.changed(index, now);
        }
        self.policies.mark(affected.policies, now);
        self.views.mark(affected.views, now);
        for key in &affected.servers {
            self.refresh(key, now);
        }
    }

    fn refresh_all(&mut self, now: Instant) {
        let keys: Vec<ServerKey> = self.inventory.keys().cloned().collect();
        for key in keys {
            self.refresh(&key, now);
        }
        self.mark_around(None, now);
    }

    /// Queues the status of a server or of a view.
    fn refresh_object(&mut self, of: &ObjectKey, now: Instant) {
        match of.kind {
            ObjectKind::View => self.views.mark([of.key.clone()], now),
            ObjectKind::Server | ObjectKind::Policy => self.refresh(&of.key, now),
        }
    }

    fn refresh(&mut self, key: &ServerKey, now: Instant) {
        if let Some(entry) = self.inventory.get(key) {
            let policies = entry.governed_by.iter().map(|name| ServerKey::new(&*key.namespace, &**name));
            self.policies.mark(policies, now);
        }
        let of = ObjectKey::server(key);
        if !self.may_write() {
            return self.statuses.forget(&of);
        }
        if let Some(owner) = self.ownership.other(key).map(str::to_owned) {
            self.leave_to(key, &owner);
            return self.statuses.forget(&of);
        }
        if self.ownership.has_left(key) || self.inventory.is_held(key) {
            return self.statuses.forget(&of);
        }
        match self.desired_status(key, now) {
            Some((old, new, settled)) => self.statuses.wanted(&of, status::change(&old, &new), settled, now),
            None => self.statuses.remove(&of),
        }
    }

    /// The present and the desired status of a server, and whether the desired one is final.
    fn desired_status(&self, key: &ServerKey, now: Instant) -> Option<(McpServerStatus, McpServerStatus, bool)> {
        let is_ours = self.ownership.other(key).is_none() && !self.ownership.has_left(key);
        let entry = self.inventory.get(key).filter(|_| is_ours)?;
        let view = self.replicas.view(key, entry.verdict.revision.as_deref(), now);
        let left_out = self.slots.is_left_out(self.inventory.slot_of(key), &ObjectKey::server(key));
        let new = status::desired(entry, &view, left_out, self.ownership.me(), &status::this_second());
        let settled = status::is_settled(&new, &view);
        Some((entry.object.status.clone(), new, settled))
    }

    /// Before every watch has listed everything, the state is incomplete.
    fn may_write(&self) -> bool {
        self.leads && self.complete.is_none()
    }

    fn write_due(&mut self) {
        let now = Instant::now();
        self.give_up_refused(now);
        let mut affected = self.inventory.admit_due(now);
        affected.add(self.inventory.set_replicas(self.replicas.sharing().at(now)));
        self.refresh_affected(affected, now);
        self.write_slots_and_statuses(now);
        let report = self.report();
        self.reports.send_if_modified(|last| {
            let differs = *last != report;
            *last = report;
            differs
        });
    }

    fn write_slots_and_statuses(&mut self, now: Instant) {
        if self.replicas.count_silent(now) {
            self.refresh_all(now);
        }
        if !self.may_write() {
            return;
        }
        if self.publishes_from.is_none_or(|from| from <= now) {
            for of in self.slots.write_due(&self.inventory, now) {
                self.refresh_object(&of, now);
            }
        }
        self.check_other_installations(now);
        self.refresh_policies(now);
        self.refresh_views(now);
        while let Some(of) = self.statuses.take_due(now) {
            match of.kind {
                ObjectKind::Server => self.write_status(&of, now),
                ObjectKind::Policy => self.write_policy_status(&of.key, now),
                ObjectKind::View => self.write_view_status(&of.key, now),
            }
        }
    }

    fn write_status(&mut self, of: &ObjectKey, now: Instant) {
        let Some((old, new, _)) = self.desired_status(&of.key, now) else { return };
        let Some(entry) = self.inventory.get(&of.key) else { return };
        if status::change(&old, &new) != status::StatusChange::None {
            // If two installations take a server at once, the API server refuses one, which then sees the other.
            let takes = owner_of(&old) != Some(self.ownership.me());
            let version = known_version(entry.object.version).filter(|_| takes);
            let (uid, new) = (entry.object.uid.clone(), NewStatus::Server(Box::new(new)));
            self.statuses.write(of.clone(), uid, new, version, now);
        }
    }

    fn finish_status_write(&mut self, write: WriteOutcome) {
        let now = Instant::now();
        let WriteOutcome { key: of, uid, status, outcome } = write;
        self.statuses.note(&of, outcome, now);
        let key = of.key.clone();
        let status = match status {
            NewStatus::Server(status) => *status,
            NewStatus::Policy(status) => return self.finish_policy_write(&key, &uid, status, outcome, now),
            NewStatus::View(status) => return self.finish_view_write(&key, &uid, status, outcome, now),
        };
        let seen = self.seen.remove(&key);
        if status.contender.is_some() && !matches!(outcome, WriteResult::Done(_)) {
            self.ownership.not_asked(&key, now);
        }
        // The object was recreated meanwhile: its own news brings the new status.
        let Some(entry) = self.inventory.get_mut(&key).filter(|entry| entry.object.uid == uid) else { return };
        let old = entry.object.status.clone();
        let mut written = 0;
        if let WriteResult::Done(version) = outcome {
            written = version.unwrap_or(0);
            entry.object.status = status;
            entry.object.version = written.max(entry.object.version);
            let conditions = (&*old.conditions, &*entry.object.status.conditions);
            self.events.record_transitions(&of, &entry.object.uid, &ConditionType::ALL, conditions);
        }
        if let Some((_, newer)) = seen.filter(|(version, _)| *version > written) {
            entry.object.status = newer;
        }
        let new = entry.object.status.clone();
        self.ownership.see(&key, &new, now);
        self.ready_counts.replace(Some(&old), Some(&new));
        if outcome != WriteResult::Failed {
            self.refresh(&key, now);
        }
    }

    fn next_wake(&mut self, now: Instant) -> Option<Instant> {
        let replicas = [self.replicas.next_change(now), self.replicas.sharing().next()];
        let always = replicas.into_iter().chain([self.listings.next(), self.inventory.next()]);
        let always = always.flatten().min();
        if !self.may_write() {
            return always;
        }
        let slots = self.slots.next(now).map(|at| self.publishes_from.map_or(at, |from| from.max(at)));
        let derived = [self.policies.next(), self.views.next(), self.audit_counts.next(now)];
        let writes = [slots, self.statuses.next(now), self.ownership.next()].into_iter().chain(derived);
        writes.flatten().chain(always).min()
    }
}

/// The resource version of an object, if it is known.
fn known_version(version: u64) -> Option<u64> {
    Some(version).filter(|version| *version > 0)
}

#[cfg(test)]
mod tests;

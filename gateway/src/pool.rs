//! Owns all servers: applies snapshots and publishes the catalog.
//!
//! A change touches only the servers that changed. A removed server leaves the catalog at once and finishes its calls;
//! an added one appears when its tools are listed.
//! one appears when its tools are listed.

pub(crate) mod plan;
use std::collections::{BTreeMap, HashSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use portcullis_crds::report::SlotReport;
use portcullis_crds::view::SharedViews;
use portcullis_crds::{Server, ServerKey};
use portcullis_runtime::{Latch, Workers};
use tokio::sync::{mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until, timeout_at};
use tracing::{error, info};

use crate::catalog::{Catalog, PolicyDefault, PublishedCatalog, Tenancy};
use crate::client_sessions::Clients;
use crate::pool::plan::{Plan, plan};
use crate::server::handle::Handle;
use crate::server::{self, FirstAttempt, ServerCommand, ServerContext, TIDY};
use crate::source::{Configuration, Servers, Slot};
use crate::status::feed::Board;

/// The minimum interval between catalogs while tools keep changing: changes within it are combined.
const GATHER: Duration = Duration::from_millis(5);

/// Building catalogs takes one part in this many of the time when thousands of servers arrive one by one.
const BUILD_SHARE: u32 = 4;

/// A single change is not delayed: catalogs may be this far ahead of the two limits above.
const AHEAD: Duration = Duration::from_millis(100);

/// The time for a new process to open its first sessions; after it, the process takes traffic anyway.
const FIRST_SESSIONS: Duration = Duration::from_secs(10);

/// The time for the servers' tasks to stop at the end.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// All servers.
pub(crate) struct Pool {
    shared: Arc<ServerContext>,
    published: PublishedCatalog,
    board: Arc<Board>,
    members: BTreeMap<ServerKey, RunningServer>,
    tasks: JoinSet<()>,
    workers: Workers,
    tenancy: Tenancy,
    policy_default: PolicyDefault,
    owners: BTreeMap<Id, ServerKey>,
    /// The last applied servers.
    servers: Option<Servers>,
    /// The last applied views.
    views: SharedViews,
    slots: Vec<Slot>,
    /// Passed to the servers of the first configuration.
    trying: Option<FirstAttempt>,
    /// The due time of the next catalog, if none had been ahead of time.
    due: Instant,
}

/// The conditions for this process to take traffic.
pub(crate) struct Latches {
    /// The first configuration is applied.
    pub(crate) configuration: Latch,
    /// Each of its servers was tried, or the time for it is over.
    pub(crate) sessions: Latch,
}

/// Counters of changes of credentials.
pub(crate) struct CredentialChanges {
    /// Of Secrets.
    pub(crate) secrets: watch::Receiver<u64>,
    /// Of the gateway's own tokens.
    pub(crate) tokens: watch::Receiver<u64>,
}

struct RunningServer {
    spec: Arc<Server>,
    handle: Arc<Handle>,
    orders: watch::Sender<ServerCommand>,
    task: Id,
}

/// The first attempts of the servers of the first configuration.
struct First {
    latch: Option<Latch>,
    attempts: mpsc::Receiver<Infallible>,
    until: Instant,
}

impl First {
    /// Ends when all attempts are over, or the time for them is.
    async fn over(&mut self) {
        let _ = timeout_at(self.until, self.attempts.recv()).await;
    }
}

impl Pool {
    /// Creates a pool without servers.
    pub(crate) fn new(shared: Arc<ServerContext>, published: PublishedCatalog, board: Arc<Board>) -> Self {
        Self {
            shared,
            published,
            board,
            members: BTreeMap::new(),
            tasks: JoinSet::new(),
            workers: Workers::default(),
            tenancy: Tenancy::default(),
            policy_default: PolicyDefault::default(),
            owners: BTreeMap::new(),
            servers: None,
            views: SharedViews::default(),
            slots: Vec::new(),
            trying: None,
            due: Instant::now(),
        }
    }

    /// The same, with the tasks of servers on these threads.
    #[must_use]
    pub(crate) fn with_workers(self, workers: Workers) -> Self {
        Self { workers, ..self }
    }

    /// The same, for namespaces of one team or of several.
    #[must_use]
    pub(crate) fn with_tenancy(self, tenancy: Tenancy) -> Self {
        Self { tenancy, ..self }
    }

    /// The same, for servers that no policy governs.
    #[must_use]
    pub(crate) fn with_policy_default(self, policy_default: PolicyDefault) -> Self {
        Self { policy_default, ..self }
    }

    /// Applies configurations until `stop`.
    pub(crate) async fn run(
        mut self,
        mut configurations: watch::Receiver<Arc<Configuration>>,
        mut credentials: CredentialChanges,
        latches: Latches,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        let Some(mut first) = self.begin(&mut configurations, latches, &mut stop).await else { return };
        let mut build_at: Option<Instant> = None;
        let mut tidy_at = interval(TIDY);
        tidy_at.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                changed = configurations.changed() => {
                    if changed.is_err() {
                        (&mut stop).await;
                        break;
                    }
                    let newest = configurations.borrow_and_update().clone();
                    self.take(&newest).await;
                }
                Ok(()) = credentials.secrets.changed() => self.tell_all(),
                Ok(()) = credentials.tokens.changed() => self.tell_all(),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = self.shared.dirty.notified() => build_at = Some(self.due.checked_sub(AHEAD).unwrap_or(self.due)),
                () = sleep_until(build_at.unwrap_or_else(Instant::now)), if build_at.is_some() => {
                    build_at = None;
                    self.publish();
                }
                _ = tidy_at.tick() => self.tidy(),
                () = first.over(), if first.latch.is_some() => {
                    // The discovered items are callable before callers arrive.
                    self.publish();
                    first.latch.take().into_iter().for_each(Latch::release);
                }
            }
        }
        self.stop_all().await;
    }

    /// Waits for the first configuration and applies it; `None` if `stop` comes first.
    async fn begin(
        &mut self,
        configurations: &mut watch::Receiver<Arc<Configuration>>,
        latches: Latches,
        stop: &mut (impl Future<Output = ()> + Unpin),
    ) -> Option<First> {
        let (trying, attempts) = mpsc::channel(1);
        self.trying = Some(trying);
        loop {
            let newest = configurations.borrow_and_update().clone();
            self.take(&newest).await;
            if self.servers.is_some() {
                break;
            }
            tokio::select! {
                () = &mut *stop => return None,
                changed = configurations.changed() => if changed.is_err() {
                    stop.await;
                    return None;
                }
            }
        }
        self.trying = None;
        latches.configuration.release();
        Some(First { latch: Some(latches.sessions), attempts, until: Instant::now() + FIRST_SESSIONS })
    }

    /// Applies the changes of a configuration.
    async fn take(&mut self, configuration: &Configuration) {
        if let Some(servers) = &configuration.servers {
            self.shared.quotas.set_replicas(configuration.replicas());
            let has_other_views = !Arc::ptr_eq(&self.views, &configuration.views);
            self.views = configuration.views.clone();
            if !self.servers.as_ref().is_some_and(|old| Arc::ptr_eq(old, servers)) {
                self.apply(servers, has_other_views).await;
                self.servers = Some(servers.clone());
            } else if has_other_views {
                self.publish_policies();
            }
            self.note_delays(&configuration.slots);
            self.slots.clone_from(&configuration.slots);
        }
        let applied = configuration.servers.is_some();
        let told = configuration.slots.iter().map(|slot| slot.report.clone());
        // Nothing is applied while one of them is missing.
        let told = told.map(|slot| if applied { slot } else { SlotReport { revision: String::new(), ..slot } });
        self.board.set_slots(told.collect());
    }

    /// Records the age of the changed slots. Slots written before this process watched them say nothing about it.
    fn note_delays(&self, slots: &[Slot]) {
        for (old, new) in self.slots.iter().zip(slots) {
            let followed = old.report.origin == "api" && old.report.revision != new.report.revision;
            if let (true, Some(written)) = (followed, new.written) {
                let delay = SystemTime::now().duration_since(written).unwrap_or_default();
                self.shared.metrics.snapshot_delay.observe(delay.as_secs_f64());
            }
        }
    }

    async fn apply(&mut self, wanted: &[Arc<Server>], has_other_views: bool) {
        let began = Instant::now();
        let Plan { start, stop, restart, update } = plan(self.members.values().map(|member| &member.spec), wanted);
        self.prepare(restart.iter().chain(&update)).await;
        let (starts, stops, restarts, updates) = (start.len(), stop.len(), restart.len(), update.len());
        let stopped: Vec<_> = stop.iter().filter_map(|key| self.stop(key)).collect();
        // Their tools keep their names and stay listed for a while, so that no list flaps and no name changes its
        // server.
        let restarted: Vec<_> = restart.iter().filter_map(|spec| self.stop(&spec.key)).collect();
        let names: HashSet<&str> = stopped.iter().chain(&restarted).map(|handle| handle.name.as_str()).collect();
        self.shared.metrics.forget(&names);
        for spec in start {
            self.start(spec, None);
        }
        for (spec, before) in restart.into_iter().zip(&restarted) {
            self.start(spec, Some(before));
        }
        let shown: Vec<Shown> = update.iter().map(|spec| self.update(spec)).collect();
        let changed = shown.iter().filter(|shown| **shown != Shown::Nothing).count();
        if starts + stops + restarts > 0 || shown.contains(&Shown::Items) {
            self.publish();
        } else if changed > 0 || has_other_views {
            self.publish_policies();
        }
        for spec in update {
            self.members.get(&spec.key).into_iter().for_each(|member| member.handle.note_published(&spec));
        }
        self.shared.metrics.applied(began.elapsed());
        info!(
            started = starts,
            stopped = stops,
            restarted = restarts,
            updated = updates,
            servers = self.members.len(),
            "configuration applied"
        );
    }

    /// Applies new rules to long lists of tools in advance: that takes time, and calls continue meanwhile.
    async fn prepare(&self, changed: impl Iterator<Item = &Arc<Server>>) {
        let handle = |spec: &Arc<Server>| self.members.get(&spec.key).map(|member| member.handle.clone());
        let long =
            |(handle, spec): &(Arc<Handle>, &Arc<Server>)| handle.has_many_tools() && handle.spec().tools != spec.tools;
        let long = changed.filter_map(|spec| Some((handle(spec)?, spec))).filter(long);
        let long: Vec<_> = long.map(|(handle, spec)| (handle, spec.clone())).collect();
        if !long.is_empty() {
            let reading = move || long.iter().for_each(|(handle, spec)| handle.prepare(&spec.tools));
            let _ = tokio::task::spawn_blocking(reading).await;
        }
    }

    /// Starts a server, which replaces `before`.
    fn start(&mut self, spec: Arc<Server>, before: Option<&Arc<Handle>>) {
        let handle = Handle::new(spec.clone(), &self.shared.metrics).telling(self.shared.touched.clone());
        let clients = (!spec.session.is_shared()).then(|| Arc::new(Clients::new(self.shared.inbox.clone())));
        if let (Some(clients), Some(old)) = (&clients, before.and_then(|before| before.clients())) {
            clients.succeed(old);
        }
        let handle = Arc::new(clients.into_iter().fold(handle, Handle::with_clients));
        before.into_iter().for_each(|before| handle.succeed(before));
        let orders = watch::Sender::new(ServerCommand::default());
        let running = server::run(handle.clone(), self.shared.clone(), orders.subscribe(), self.trying.clone());
        let task = match self.workers.seat() {
            None => self.tasks.spawn(running),
            Some(seat) => seat.spawn(&mut self.tasks, running),
        };
        let task = task.id();
        self.owners.insert(task, spec.key.clone());
        self.members.insert(spec.key.clone(), RunningServer { spec, handle, orders, task });
    }

    /// Tells a server to finish its calls and end. The caller removes its series.
    fn stop(&mut self, key: &ServerKey) -> Option<Arc<Handle>> {
        let member = self.members.remove(key)?;
        member.orders.send_modify(|order| order.stop = true);
        self.owners.remove(&member.task);
        member.handle.retire();
        Some(member.handle)
    }

    /// Updates a server in place, and says what of it the catalog shows differently.
    fn update(&mut self, spec: &Arc<Server>) -> Shown {
        let Some(member) = self.members.get_mut(&spec.key) else { return Shown::Nothing };
        let before = std::mem::replace(&mut member.spec, spec.clone());
        let offers = member.handle.set_spec(spec.clone());
        member.orders.send_modify(|order| order.changes += 1);
        let (before, after) = (shown_by_the_catalog(&before), shown_by_the_catalog(spec));
        match () {
            () if offers => Shown::Items,
            () if before == after => Shown::Nothing,
            () if without_policies(before) == without_policies(after) => Shown::Policies,
            () => Shown::Items,
        }
    }

    /// Notifies every server's task of changed Secrets: each checks whether they are its own.
    fn tell_all(&self) {
        self.members.values().for_each(|member| member.orders.send_modify(|order| order.changes += 1));
    }

    /// Closes connections of uncalled servers that are too old to be used.
    fn tidy(&self) {
        self.members.values().filter_map(|member| member.handle.live()).for_each(|live| live.session.tidy());
    }

    /// A task that ends without being told to is a bug; its server gets a new one.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(key) = self.owners.remove(&id) else { return };
        error!(server = %key, panicked = ended.is_err(), "the task of a server ended unexpectedly; the gateway starts it again");
        if let Some(member) = self.members.remove(&key) {
            // No task drives its session any more: calls must not wait there for answers.
            member.handle.shut();
            self.start(member.spec, Some(&member.handle));
            self.shared.dirty.notify_one();
        }
    }

    fn publish(&mut self) {
        let began = Instant::now();
        let servers = self.members.values().map(|member| member.handle.clone()).collect();
        let before = self.published.load_full();
        let catalog = Catalog::build_governed(self.tenancy, self.policy_default, servers, &self.views, Some(&before));
        self.replace(catalog);
        let now = Instant::now();
        self.due = self.due.max(now) + GATHER.max((now - began) * BUILD_SHARE);
    }

    /// Publishes the same items under changed policies and in changed views, which takes a fraction of the time.
    fn publish_policies(&mut self) {
        let catalog = self.published.load().regoverned(self.policy_default, &self.views);
        self.replace(catalog);
    }

    fn replace(&self, catalog: Catalog) {
        let catalog = Arc::new(catalog);
        let before = self.published.swap(catalog.clone());
        self.shared.published.notify_one();
        self.board.published(&catalog.since(&before));
        // Beside the calls, which have the new catalog already: the lists of changed views are made here.
        self.board.set_views(catalog.view_reports());
    }

    async fn stop_all(mut self) {
        self.members.values().for_each(|member| member.orders.send_modify(|order| order.stop = true));
        let all = async { while self.tasks.join_next().await.is_some() {} };
        tokio::select! {
            () = all => {}
            () = sleep(STOP_LIMIT) => {}
        }
    }
}

/// What the catalog shows differently after an update of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    Nothing,
    /// Who may use its items.
    Policies,
    /// Its items.
    Items,
}

/// A configuration without what says who may use the server.
fn without_policies(server: Server) -> Server {
    Server { labels: BTreeMap::new(), governed_by: Vec::new(), ..server }
}

/// A configuration without the parts that the catalog does not show: those are read by each call, or in each session.
/// The items of servers are compared separately.
fn shown_by_the_catalog(server: &Server) -> Server {
    let plain = Server::from_url("", "");
    Server {
        generation: 0,
        weight: plain.weight,
        priority: plain.priority,
        display_name: None,
        description: None,
        headers: Vec::new(),
        forward_headers: Vec::new(),
        timeouts: plain.timeouts,
        health_check: plain.health_check,
        limits: plain.limits,
        client_sessions: plain.client_sessions,
        tools: plain.tools,
        read_from: plain.read_from,
        ..server.clone()
    }
}

#[cfg(test)]
mod tests;

//! The single owner of all servers: carries snapshots out and publishes the catalog.
//!
//! A change touches only what changed. A removed server leaves the catalog at once and finishes its calls; an added
//! one appears when its tools are listed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use portcullis_crds::mcpserver::State;
use portcullis_crds::{Server, ServerKey, Snapshot};
use tokio::sync::watch;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{error, info};

use crate::catalog::Catalog;
use crate::handle::{Handle, Offer};
use crate::plan::{Plan, plan};
use crate::server::{self, Order, Shared};

/// Changes of tools that come together are built into one catalog.
const GATHER: Duration = Duration::from_millis(5);

/// How long the servers' tasks are waited for at the end.
const STOP_LIMIT: Duration = Duration::from_secs(3);

/// What the pool publishes.
pub type Published = Arc<ArcSwap<Catalog>>;

/// All servers.
pub struct Pool {
    shared: Arc<Shared>,
    published: Published,
    members: BTreeMap<ServerKey, Member>,
    tasks: JoinSet<()>,
    owners: BTreeMap<Id, ServerKey>,
}

struct Member {
    spec: Server,
    handle: Arc<Handle>,
    orders: watch::Sender<Order>,
    task: Id,
}

impl Pool {
    /// A pool without servers.
    pub fn new(shared: Arc<Shared>, published: Published) -> Self {
        Self { shared, published, members: BTreeMap::new(), tasks: JoinSet::new(), owners: BTreeMap::new() }
    }

    /// Follows the snapshots until `stop` says so. `secrets` counts changes of Secrets.
    pub async fn run(
        mut self,
        mut snapshots: watch::Receiver<Arc<Snapshot>>,
        mut secrets: watch::Receiver<u64>,
        stop: impl Future<Output = ()>,
    ) {
        let mut stop = std::pin::pin!(stop);
        self.apply(&snapshots.borrow_and_update().clone());
        let mut build_at: Option<Instant> = None;
        loop {
            tokio::select! {
                biased;
                () = &mut stop => break,
                changed = snapshots.changed() => {
                    if changed.is_err() {
                        (&mut stop).await;
                        break;
                    }
                    self.apply(&snapshots.borrow_and_update().clone());
                }
                Ok(()) = secrets.changed() => self.tell_all(),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                () = self.shared.dirty.notified() => build_at = build_at.or_else(|| Some(Instant::now() + GATHER)),
                () = sleep_until(build_at.unwrap_or_else(Instant::now)), if build_at.is_some() => {
                    build_at = None;
                    self.publish();
                }
            }
        }
        self.stop_all().await;
    }

    fn apply(&mut self, wanted: &Snapshot) {
        let began = Instant::now();
        let running = self.members.iter().map(|(key, member)| (key, &member.spec)).collect();
        let Plan { start, stop, restart, update } = plan(&running, wanted);
        let counts = (start.len(), stop.len(), restart.len(), update.len());
        for key in stop.iter().chain(restart.iter().map(|server| &server.key)) {
            self.stop(key);
        }
        for spec in start.into_iter().chain(restart) {
            self.start(spec);
        }
        for spec in update {
            self.update(spec);
        }
        self.publish();
        self.shared.metrics.applied(began.elapsed());
        let (started, stopped, restarted, updated) = counts;
        info!(started, stopped, restarted, updated, servers = self.members.len(), "configuration applied");
    }

    fn start(&mut self, spec: Server) {
        let handle = Arc::new(Handle::new(spec.clone(), &self.shared.metrics));
        self.shared.metrics.server_up.with_label_values(&[&handle.name]).set(0);
        let orders = watch::Sender::new(Order::default());
        let running = server::run(handle.clone(), self.shared.clone(), orders.subscribe());
        let task = self.tasks.spawn(running).id();
        self.owners.insert(task, spec.key.clone());
        self.members.insert(spec.key.clone(), Member { spec, handle, orders, task });
    }

    fn stop(&mut self, key: &ServerKey) {
        let Some(member) = self.members.remove(key) else { return };
        member.orders.send_modify(|order| order.stop = true);
        self.owners.remove(&member.task);
        member.handle.retire();
        let tools = self.published.load();
        let names = tools.names_of(&member.handle).into_iter().map(str::to_owned).collect::<Vec<_>>();
        self.shared.metrics.forget(&member.handle.name, names);
    }

    fn update(&mut self, spec: Server) {
        let Some(member) = self.members.get_mut(&spec.key) else { return };
        member.spec = spec.clone();
        let enabled = spec.state == State::Enabled;
        member.handle.set_spec(spec);
        let offer = member.handle.offer();
        if offer.listed && !enabled {
            member.handle.set_offer(Offer { tools: offer.tools.clone(), listed: false });
        }
        member.orders.send_modify(|order| order.changes += 1);
    }

    /// Secrets have changed: each server's task looks whether that is its own.
    fn tell_all(&self) {
        self.members.values().for_each(|member| member.orders.send_modify(|order| order.changes += 1));
    }

    /// A task that ends without being told to is a bug; its server goes on with a new one.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let id = ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id);
        let Some(key) = self.owners.remove(&id) else { return };
        error!(server = %key, panicked = ended.is_err(), "the task of a server ended unasked; it is started again");
        if let Some(member) = self.members.remove(&key) {
            self.start(member.spec);
        }
    }

    fn publish(&self) {
        let catalog = Catalog::build(self.members.values().map(|member| member.handle.clone()).collect());
        for (server, count) in catalog.renamed() {
            self.shared.metrics.tools_renamed.with_label_values(&[&server.name]).set(*count);
        }
        self.published.store(Arc::new(catalog));
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

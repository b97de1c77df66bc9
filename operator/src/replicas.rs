//! The gateway replicas: which there are, a task for each that asks it, and what they told.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portcullis_crds::ServerKey;
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::fleet::{Fleet, View};
use crate::metrics::Metrics;
use crate::poll::{self, Told};

/// All replicas.
pub struct Replicas {
    fleet: Fleet,
    /// Addresses by the EndpointSlice that names them.
    slices: BTreeMap<String, Vec<SocketAddr>>,
    tasks: JoinSet<()>,
    asked: BTreeMap<SocketAddr, AbortHandle>,
    told: Option<mpsc::Sender<Told>>,
    asking: bool,
    silent: usize,
    failing: BTreeSet<SocketAddr>,
    metrics: Metrics,
}

impl Replicas {
    /// None yet.
    pub fn new(metrics: Metrics) -> Self {
        Self {
            fleet: Fleet::default(),
            slices: BTreeMap::new(),
            tasks: JoinSet::new(),
            asked: BTreeMap::new(),
            told: None,
            asking: false,
            silent: 0,
            failing: BTreeSet::new(),
            metrics,
        }
    }

    /// Where what they tell goes.
    pub fn report_to(&mut self, told: mpsc::Sender<Told>) {
        self.told = Some(told);
    }

    /// These addresses, whatever the cluster says.
    pub fn fixed(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.slice(String::new(), addresses, now);
    }

    /// An EndpointSlice names these addresses now. Returns whether the set of replicas has changed.
    pub fn slice(&mut self, name: String, addresses: Vec<SocketAddr>, now: Instant) -> bool {
        if addresses.is_empty() {
            self.slices.remove(&name);
        } else {
            self.slices.insert(name, addresses);
        }
        let all: BTreeSet<SocketAddr> = self.slices.values().flatten().copied().collect();
        let changed = self.fleet.set(&all, now);
        if changed {
            info!(replicas = all.len(), "gateway replicas that take traffic");
            self.failing.retain(|address| all.contains(address));
            self.sync(&all);
            self.count(now);
        }
        changed
    }

    /// Begins, or ends, to ask them: only who writes needs to know.
    pub fn ask(&mut self, asking: bool) {
        self.asking = asking;
        let all: BTreeSet<SocketAddr> = self.fleet.addresses().copied().collect();
        self.sync(&all);
    }

    /// A replica told something, or did not answer. Returns the servers of which something is new.
    pub fn told(&mut self, told: Told, now: Instant) -> BTreeSet<ServerKey> {
        let Told { address, report } = told;
        let touched = match report {
            Ok(report) => {
                if self.failing.remove(&address) {
                    info!(%address, "a gateway replica answers again");
                }
                self.fleet.told(address, report)
            }
            Err(problem) => {
                if self.asked.contains_key(&address) && self.failing.insert(address) {
                    warn!(%address, %problem, "a gateway replica does not answer");
                }
                self.fleet.failed(address, now);
                BTreeSet::new()
            }
        };
        self.count(now);
        touched
    }

    /// Counts the silent ones anew; true if that changes what is said of all servers.
    pub fn count_silent(&mut self, now: Instant) -> bool {
        let before = self.silent;
        self.count(now);
        self.silent != before
    }

    /// When the next one will count as silent.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.fleet.next_change(now)
    }

    /// What all of them say of one server.
    pub fn view(&self, key: &ServerKey, revision: Option<&str>, now: Instant) -> View {
        self.fleet.view(key, revision, now)
    }

    fn sync(&mut self, all: &BTreeSet<SocketAddr>) {
        let wanted = |address: &SocketAddr| self.asking && all.contains(address);
        self.asked.retain(|address, task| {
            let keep = wanted(address);
            if !keep {
                task.abort();
            }
            keep
        });
        let Some(told) = self.told.clone().filter(|_| self.asking) else { return };
        for address in all {
            if !self.asked.contains_key(address) {
                let task = self.tasks.spawn(poll::run(*address, told.clone()));
                self.asked.insert(*address, task);
            }
        }
        // The ends of aborted ones are of no interest.
        while self.tasks.try_join_next().is_some() {}
    }

    fn count(&mut self, now: Instant) {
        let (total, silent) = self.fleet.counts(now);
        self.silent = silent;
        let as_i64 = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.gateways.with_label_values(&["answering"]).set(as_i64(total - silent));
        self.metrics.gateways.with_label_values(&["silent"]).set(as_i64(silent));
    }
}

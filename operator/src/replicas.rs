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

    /// Begins, or ends, to ask them: only who writes needs to know. What was told before is old.
    pub fn ask(&mut self, asking: bool, now: Instant) {
        if asking != self.asking {
            self.asking = asking;
            self.failing.clear();
            self.fleet.forget(now);
        }
        let all: BTreeSet<SocketAddr> = self.fleet.addresses().copied().collect();
        self.sync(&all);
        self.count(now);
    }

    /// A replica told something, or did not answer. Returns the servers of which something is new; whether another
    /// number of replicas is silent now, [`Replicas::count_silent`] tells.
    pub fn told(&mut self, told: Told, now: Instant) -> BTreeSet<ServerKey> {
        let Told { address, report } = told;
        match report {
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
        }
    }

    /// Counts the silent ones anew; true if that changes what is said of all servers.
    pub fn count_silent(&mut self, now: Instant) -> bool {
        let before = self.silent;
        self.count(now);
        self.silent != before
    }

    /// When the next one will count as silent.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.fleet.next_change(now).filter(|_| self.asking)
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
        // Who is not asked is not silent.
        let (total, silent) = if self.asking { self.fleet.counts(now) } else { (0, 0) };
        self.silent = silent;
        let as_i64 = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        self.metrics.gateways.with_label_values(&["answering"]).set(as_i64(total - silent));
        self.metrics.gateways.with_label_values(&["silent"]).set(as_i64(silent));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use portcullis_crds::Report;

    use super::*;
    use crate::fleet::FIRST_ANSWER;

    #[tokio::test(start_paused = true)]
    async fn who_begins_to_write_waits_for_the_replicas_and_believes_nothing_old() {
        let metrics = Metrics::new();
        let mut replicas = Replicas::new(metrics.clone());
        let gauges = || ["answering", "silent"].map(|state| metrics.gateways.with_label_values(&[state]).get());
        let (address, key) = (SocketAddr::from(([127, 0, 0, 1], 9)), ServerKey::new("n", "a"));
        let now = Instant::now();
        replicas.fixed(vec![address], now);
        let later = now + Duration::from_secs(3600);
        assert!(!replicas.count_silent(later));
        assert_eq!((gauges(), replicas.next_change(now)), ([0, 0], None));

        replicas.ask(true, later);
        let view = replicas.view(&key, Some("1"), later);
        assert_eq!((view.silent, view.awaited, gauges()), (0, true, [1, 0]));
        assert_eq!(replicas.next_change(later), Some(later + FIRST_ANSWER));

        let server = serde_json::json!(
            {"key": {"namespace": "n", "name": "a"}, "revision": "1", "ready": true, "reason": "Ready"}
        );
        let servers = vec![serde_json::from_value(server).unwrap()];
        let report = Report { instance: "i".into(), complete: true, servers, ..Report::default() };
        replicas.told(Told { address, report: Ok(report) }, later);
        assert_eq!(replicas.view(&key, Some("1"), later).ready, 1);

        replicas.told(Told { address, report: Err(crate::poll::PollError::Lost) }, later);
        let much_later = later + Duration::from_secs(60);
        assert!(replicas.count_silent(much_later));
        // It is back, and knows nothing: that is said of every server.
        replicas.told(Told { address, report: Ok(Report { complete: true, ..Report::default() }) }, much_later);
        assert!(replicas.count_silent(much_later));

        replicas.ask(false, later);
        replicas.ask(true, later);
        let view = replicas.view(&key, Some("1"), later);
        assert_eq!((view.ready, view.awaited), (0, true));
    }
}

//! Polls every gateway replica in a task of its own, and keeps their reports.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use portcullis_crds::{ServerKey, ViewReport};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::fleet::{Fleet, FleetView, Touched};
use crate::metrics::OperatorMetrics;
use crate::poll::{self, ReplicaReport};
use crate::replica_count::ReplicaCount;

/// The replicas, and the tasks that poll them.
pub(crate) struct GatewayReplicas {
    fleet: Fleet,
    /// Those that share the limits of policies.
    sharing: ReplicaCount,
    /// Addresses by the EndpointSlice that names them.
    slices: BTreeMap<String, Vec<SocketAddr>>,
    tasks: JoinSet<()>,
    asked: BTreeMap<SocketAddr, AbortHandle>,
    told: Option<mpsc::Sender<ReplicaReport>>,
    asking: bool,
    silent: usize,
    failing: BTreeSet<SocketAddr>,
    metrics: OperatorMetrics,
}

impl GatewayReplicas {
    /// No replicas.
    pub(crate) fn new(metrics: OperatorMetrics) -> Self {
        Self {
            fleet: Fleet::default(),
            sharing: ReplicaCount::default(),
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

    /// Sets the channel that takes the reports.
    pub(crate) fn report_to(&mut self, told: mpsc::Sender<ReplicaReport>) {
        self.told = Some(told);
    }

    /// Uses these addresses instead of the cluster's.
    pub(crate) fn fixed(&mut self, addresses: Vec<SocketAddr>, now: Instant) {
        self.slice(String::new(), addresses, now);
    }

    /// Replaces the addresses of an EndpointSlice. Returns whether the set of replicas has changed.
    pub(crate) fn slice(&mut self, name: String, addresses: Vec<SocketAddr>, now: Instant) -> bool {
        if addresses.is_empty() {
            self.slices.remove(&name);
        } else {
            self.slices.insert(name, addresses);
        }
        let all: BTreeSet<SocketAddr> = self.slices.values().flatten().copied().collect();
        let changed = self.fleet.set(&all, now);
        self.sharing.see(u32::try_from(all.len()).unwrap_or(u32::MAX), now);
        if changed {
            info!(replicas = all.len(), "gateway replicas that take traffic");
            self.failing.retain(|address| all.contains(address));
            self.sync(&all);
            self.count(now);
        }
        changed
    }

    /// The replicas that share the limits of policies.
    pub(crate) fn sharing(&mut self) -> &mut ReplicaCount {
        &mut self.sharing
    }

    /// Starts or stops polling: only the writer needs reports. Earlier reports are forgotten.
    pub(crate) fn ask(&mut self, asking: bool, now: Instant) {
        if asking != self.asking {
            self.asking = asking;
            self.failing.clear();
            self.fleet.forget(now);
        }
        let all: BTreeSet<SocketAddr> = self.fleet.addresses().copied().collect();
        self.sync(&all);
        self.count(now);
    }

    /// Takes a report or a failure. Returns the servers and views whose reports have changed;
    /// [`GatewayReplicas::count_silent`] tells whether the number of silent replicas has changed.
    pub(crate) fn told(&mut self, told: ReplicaReport, now: Instant) -> Touched {
        let ReplicaReport { address, report } = told;
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
                Touched::default()
            }
        }
    }

    /// Recounts the silent replicas. Returns whether the number has changed, which affects all servers.
    pub(crate) fn count_silent(&mut self, now: Instant) -> bool {
        let before = self.silent;
        self.count(now);
        self.silent != before
    }

    /// When the next replica will count as silent.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        self.fleet.next_change(now).filter(|_| self.asking)
    }

    /// The combined reports about one server.
    pub(crate) fn view(&self, key: &ServerKey, revision: Option<&str>, now: Instant) -> FleetView {
        self.fleet.view(key, revision, now)
    }

    /// The numbers of replicas that have applied the wanted revisions of all these servers.
    pub(crate) fn view_of_all(&self, wanted: &[(&ServerKey, &str)], now: Instant) -> FleetView {
        self.fleet.view_of_all(wanted, now)
    }

    /// The numbers of replicas that have applied this revision of a view, and the report of one of them.
    pub(crate) fn view_of_view(
        &self,
        key: &ServerKey,
        revision: &str,
        now: Instant,
    ) -> (FleetView, Option<&ViewReport>) {
        self.fleet.view_of_view(key, revision, now)
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
        // Nobody needs the results of aborted tasks.
        while self.tasks.try_join_next().is_some() {}
    }

    fn count(&mut self, now: Instant) {
        // A replica that is not polled is not silent.
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
    use crate::fleet::FIRST_ANSWER_LIMIT;

    #[tokio::test(start_paused = true)]
    async fn who_begins_to_write_waits_for_the_replicas_and_believes_nothing_old() {
        let metrics = OperatorMetrics::new();
        let mut replicas = GatewayReplicas::new(metrics.clone());
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
        assert_eq!(replicas.next_change(later), Some(later + FIRST_ANSWER_LIMIT));

        let server = serde_json::json!(
            {"key": {"namespace": "n", "name": "a"}, "revision": "1", "ready": true, "reason": "Ready"}
        );
        let servers = vec![serde_json::from_value(server).unwrap()];
        let report = Report { instance: "i".into(), complete: true, servers, ..Report::default() };
        replicas.told(ReplicaReport { address, report: Ok(report) }, later);
        assert_eq!(replicas.view(&key, Some("1"), later).ready, 1);

        replicas.told(ReplicaReport { address, report: Err(crate::poll::PollError::Lost) }, later);
        let much_later = later + Duration::from_secs(60);
        assert!(replicas.count_silent(much_later));
        // It is back, and knows nothing: that is said of every server.
        replicas
            .told(ReplicaReport { address, report: Ok(Report { complete: true, ..Report::default() }) }, much_later);
        assert!(replicas.count_silent(much_later));

        replicas.ask(false, later);
        replicas.ask(true, later);
        let view = replicas.view(&key, Some("1"), later);
        assert_eq!((view.ready, view.awaited), (0, true));
    }
}

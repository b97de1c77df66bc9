//! Keeps the last report of each gateway replica: what it has applied, and what it can call.
//!
//! Pure: the caller passes the time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_crds::{Reason, Report, ServerKey, ServerReport, ViewReport};
use tokio::time::Instant;

/// A new replica counts as silent after this time without an answer.
pub(crate) const FIRST_ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// A replica that fails to answer keeps its last report for this time, and then counts as silent.
pub(crate) const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// The replicas that take traffic.
#[derive(Debug, Default)]
pub(crate) struct Fleet {
    replicas: BTreeMap<SocketAddr, ReplicaState>,
}

#[derive(Debug)]
struct ReplicaState {
    since: Instant,
    instance: Option<String>,
    failing_since: Option<Instant>,
    servers: BTreeMap<ServerKey, ServerReport>,
    views: BTreeMap<ServerKey, ViewReport>,
}

/// The servers and views whose reports have changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Keys of servers.
    pub(crate) servers: BTreeSet<ServerKey>,
    /// Keys of views.
    pub(crate) views: BTreeSet<ServerKey>,
}

/// The combined reports of all replicas about one server.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct FleetView {
    /// Replicas that take traffic.
    pub(crate) total: u32,
    /// Replicas that do not answer.
    pub(crate) silent: u32,
    /// Replicas that have applied the wanted revision.
    pub(crate) applied: u32,
    /// Replicas that have applied it and can call its tools.
    pub(crate) ready: u32,
    /// The reports of replicas that have applied it, in a fixed order; those that are not ready come first.
    pub(crate) reports: Vec<ServerReport>,
    /// Whether a new replica has not reported yet.
    pub(crate) awaited: bool,
}

impl Fleet {
    /// Replaces the set of replicas that take traffic. Returns whether the set has changed.
    pub(crate) fn set(&mut self, addresses: &BTreeSet<SocketAddr>, now: Instant) -> bool {
        let before = self.replicas.len();
        self.replicas.retain(|address, _| addresses.contains(address));
        let mut changed = self.replicas.len() != before;
        for address in addresses {
            self.replicas.entry(*address).or_insert_with(|| {
                changed = true;
                ReplicaState::new(now)
            });
        }
        changed
    }

    /// Forgets all reports after a time without questions. Each replica gets as long as a new one to answer.
    pub(crate) fn forget(&mut self, now: Instant) {
        for replica in self.replicas.values_mut() {
            *replica = ReplicaState::new(now);
        }
    }

    /// The addresses of all replicas.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &SocketAddr> {
        self.replicas.keys()
    }

    /// Takes the report of a replica. Returns the servers and views whose reports have changed.
    pub(crate) fn told(&mut self, address: SocketAddr, report: Report) -> Touched {
        let Some(replica) = self.replicas.get_mut(&address) else { return Touched::default() };
        let first = replica.instance.is_none() || replica.failing_since.is_some();
        let mut touched = BTreeSet::new();
        if report.complete {
            let told: BTreeSet<&ServerKey> = report.servers.iter().map(|server| &server.key).collect();
            touched.extend(replica.servers.keys().filter(|key| !told.contains(key)).cloned());
            replica.servers.retain(|key, _| told.contains(key));
        }
        for key in report.gone {
            replica.servers.remove(&key);
            touched.insert(key);
        }
        for server in report.servers {
            let key = server.key.clone();
            if replica.servers.get(&key) != Some(&server) {
                replica.servers.insert(key.clone(), server);
                touched.insert(key);
            }
        }
        replica.instance = Some(report.instance);
        replica.failing_since = None;
        let mut views = replica.take_views(report.views);
        if first {
            touched.extend(replica.servers.keys().cloned());
            views.extend(replica.views.keys().cloned());
        }
        Touched { servers: touched, views }
    }

    /// The numbers of replicas that have applied this revision of a view, and the report of the first of them. Replicas agree,
    /// so while they do not for a moment, always the same one is believed.
    pub(crate) fn view_of_view(
        &self,
        key: &ServerKey,
        revision: &str,
        now: Instant,
    ) -> (FleetView, Option<&ViewReport>) {
        let mut view = FleetView { total: count(self.replicas.len()), ..FleetView::default() };
        let mut first = None;
        for replica in self.replicas.values() {
            if replica.is_silent(now) {
                view.silent += 1;
                continue;
            }
            view.awaited |= replica.instance.is_none();
            let report = replica.views.get(key).filter(|report| report.revision == revision);
            view.applied += u32::from(report.is_some());
            first = first.or(report);
        }
        (view, first)
    }

    /// Notes that a replica did not answer.
    pub(crate) fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(replica) = self.replicas.get_mut(&address) {
            replica.failing_since.get_or_insert(now);
        }
    }

    /// When the next replica will count as silent, unless it answers.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        self.replicas.values().filter_map(ReplicaState::silent_from).filter(|at| *at > now).min()
    }

    /// The number of replicas, and of silent ones.
    pub(crate) fn counts(&self, now: Instant) -> (usize, usize) {
        (self.replicas.len(), self.replicas.values().filter(|replica| replica.is_silent(now)).count())
    }

    /// The combined reports about one server, of which `revision` is wanted.
    pub(crate) fn view(&self, key: &ServerKey, revision: Option<&str>, now: Instant) -> FleetView {
        let mut view = FleetView { total: count(self.replicas.len()), ..FleetView::default() };
        for replica in self.replicas.values() {
            if replica.is_silent(now) {
                view.silent += 1;
            } else if replica.instance.is_none() {
                view.awaited = true;
            }
            let applied = replica.servers.get(key).filter(|report| Some(report.revision.as_str()) == revision);
            if let Some(report) = applied.filter(|_| !replica.is_silent(now)) {
                view.applied += 1;
                view.ready += u32::from(report.ready);
                view.reports.push(report.clone());
            }
        }
        view.reports.sort_by_key(|report| (report.ready, report.reason == Reason::Probing));
        view
    }

    /// The numbers of replicas that have applied the wanted revisions of all these servers; without their reports.
    pub(crate) fn view_of_all(&self, wanted: &[(&ServerKey, &str)], now: Instant) -> FleetView {
        let mut view = FleetView { total: count(self.replicas.len()), ..FleetView::default() };
        for replica in self.replicas.values() {
            if replica.is_silent(now) {
                view.silent += 1;
                continue;
            }
            view.awaited |= replica.instance.is_none();
            let has = |(key, revision): &(&ServerKey, &str)| {
                replica.servers.get(*key).is_some_and(|report| report.revision == *revision)
            };
            view.applied += u32::from(replica.instance.is_some() && wanted.iter().all(has));
        }
        view
    }
}

impl ReplicaState {
    fn new(now: Instant) -> Self {
        Self { since: now, instance: None, failing_since: None, servers: BTreeMap::new(), views: BTreeMap::new() }
    }

    /// Takes all of its views. Returns those whose reports have changed.
    fn take_views(&mut self, views: Vec<ViewReport>) -> BTreeSet<ServerKey> {
        let views: BTreeMap<ServerKey, ViewReport> = views.into_iter().map(|view| (view.key.clone(), view)).collect();
        let before = std::mem::replace(&mut self.views, views);
        let keys = before.keys().chain(self.views.keys());
        keys.filter(|key| before.get(*key) != self.views.get(*key)).cloned().collect()
    }

    fn silent_from(&self) -> Option<Instant> {
        match (&self.instance, self.failing_since) {
            (None, _) => Some(self.since + FIRST_ANSWER_LIMIT),
            (Some(_), Some(since)) => Some(since + SILENCE_LIMIT),
            (Some(_), None) => None,
        }
    }

    fn is_silent(&self, now: Instant) -> bool {
        self.silent_from().is_some_and(|from| from <= now)
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn server(name: &str, revision: &str, ready: bool) -> ServerReport {
        ServerReport {
            key: ServerKey::new("n", name),
            revision: revision.into(),
            ready,
            reason: if ready { Reason::Ready } else { Reason::Probing },
            message: String::new(),
            transport: None,
            protocol_version: None,
            server_name: None,
            server_version: None,
            extensions: vec![],
            tools: 1,
            renamed: 0,
            shortened: 0,
            left_out: 0,
            list_problems: 0,
            first_list_problems: Vec::new(),
            prompts: 0,
            resources: 0,
            templates: 0,
            hidden: 0,
            disagreed: vec![],
            disagreements: 0,
        }
    }

    fn report(complete: bool, servers: Vec<ServerReport>, gone: &[&str]) -> Report {
        let gone = gone.iter().map(|name| ServerKey::new("n", *name)).collect();
        Report { instance: "i".into(), change: 1, complete, servers, gone, ..Report::default() }
    }

    fn names(touched: Touched) -> Vec<String> {
        touched.servers.into_iter().map(|key| key.name).collect()
    }

    fn counts(view: &FleetView) -> (u32, u32, u32, u32, bool) {
        (view.total, view.silent, view.applied, view.ready, view.awaited)
    }

    #[test]
    fn only_what_is_new_is_touched() {
        let now = Instant::now();
        let mut fleet = Fleet::default();
        assert!(fleet.set(&BTreeSet::from([address(1)]), now));
        assert!(!fleet.set(&BTreeSet::from([address(1)]), now));
        let both = vec![server("a", "1", true), server("b", "1", true)];
        assert_eq!(names(fleet.told(address(1), report(true, both.clone(), &[]))), ["a", "b"]);
        assert_eq!(names(fleet.told(address(1), report(true, both, &[]))), Vec::<String>::new());
        assert_eq!(names(fleet.told(address(1), report(false, vec![server("b", "2", true)], &[]))), ["b"]);
        assert_eq!(names(fleet.told(address(1), report(false, vec![], &["a"]))), ["a"]);
        assert_eq!(names(fleet.told(address(1), report(true, vec![], &[]))), ["b"]);
        assert_eq!(fleet.told(address(2), report(true, vec![], &[])), Touched::default());
    }

    #[test]
    fn replicas_are_counted_by_what_they_applied_and_by_whether_they_answer() {
        let now = Instant::now();
        let mut fleet = Fleet::default();
        let key = ServerKey::new("n", "a");
        fleet.set(&BTreeSet::from([address(1), address(2)]), now);
        assert_eq!(counts(&fleet.view(&key, Some("2"), now)), (2, 0, 0, 0, true));
        fleet.told(address(1), report(true, vec![server("a", "2", true)], &[]));
        fleet.told(address(2), report(true, vec![server("a", "1", true)], &[]));
        assert_eq!(counts(&fleet.view(&key, Some("2"), now)), (2, 0, 1, 1, false));
        fleet.told(address(2), report(false, vec![server("a", "2", false)], &[]));
        let view = fleet.view(&key, Some("2"), now);
        assert_eq!(counts(&view), (2, 0, 2, 1, false));
        assert!(!view.reports[0].ready && view.reports[1].ready);

        let other = ServerKey::new("n", "b");
        let of_all = |wanted: &[(&ServerKey, &str)]| fleet.view_of_all(wanted, now).applied;
        assert_eq!([of_all(&[]), of_all(&[(&key, "2")]), of_all(&[(&key, "2"), (&other, "1")])], [2, 2, 0]);

        fleet.failed(address(1), now);
        assert_eq!(counts(&fleet.view(&key, Some("2"), now)), (2, 0, 2, 1, false));
        assert_eq!(fleet.next_change(now), Some(now + SILENCE_LIMIT));
        assert_eq!(counts(&fleet.view(&key, Some("2"), now + SILENCE_LIMIT)), (2, 1, 1, 0, false));
        fleet.told(address(1), report(false, vec![], &[]));
        assert_eq!((fleet.next_change(now), fleet.counts(now + SILENCE_LIMIT)), (None, (2, 0)));
    }

    #[test]
    fn a_view_is_counted_by_its_revision_and_told_by_the_first_replica_that_has_the_newest() {
        let (mut fleet, now, key) = (Fleet::default(), Instant::now(), ServerKey::new("n", "v"));
        let view = |revision: &str, tools: u32| ViewReport {
            key: key.clone(),
            revision: revision.into(),
            servers: 1,
            tools,
            hidden: 0,
            bytes: 0,
            tokens: 0,
            unmatched: vec![],
        };
        let told = |views: &[ViewReport]| Report { views: views.to_vec(), ..report(false, vec![], &[]) };
        let counted = |fleet: &Fleet, at: Instant| {
            let (view, report) = fleet.view_of_view(&key, "2", at);
            (view.applied, view.silent, view.total, view.awaited, report.map(|report| report.tools))
        };
        fleet.set(&BTreeSet::from([address(1), address(2)]), now);
        assert_eq!(counted(&fleet, now), (0, 0, 2, true, None));
        assert_eq!(fleet.told(address(1), told(&[view("1", 7)])).views, BTreeSet::from([key.clone()]));
        assert_eq!(fleet.told(address(1), told(&[view("1", 7)])).views, BTreeSet::new());
        fleet.told(address(2), told(&[view("2", 8)]));
        assert_eq!(counted(&fleet, now), (1, 0, 2, false, Some(8)));
        fleet.told(address(1), told(&[view("2", 9)]));
        assert_eq!(counted(&fleet, now), (2, 0, 2, false, Some(9)));
        fleet.failed(address(1), now);
        assert_eq!(counted(&fleet, now + SILENCE_LIMIT), (1, 1, 2, false, Some(8)));
        // A report always holds all views.
        assert_eq!(fleet.told(address(2), told(&[])).views, BTreeSet::from([key.clone()]));
        assert_eq!(counted(&fleet, now), (1, 0, 2, false, Some(9)));
    }
}

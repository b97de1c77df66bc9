//! What the gateway replicas have told: who they are, what each has applied, what each can call.
//!
//! Pure. Time is given from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_crds::{Reason, Report, ServerKey, ServerReport};
use tokio::time::Instant;

/// A replica that has just come is waited for so long before it counts as silent.
pub const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// A replica that fails to answer counts as before for so long.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// All replicas that take traffic.
#[derive(Debug, Default)]
pub struct Fleet {
    replicas: BTreeMap<SocketAddr, Replica>,
}

#[derive(Debug)]
struct Replica {
    since: Instant,
    instance: Option<String>,
    failing_since: Option<Instant>,
    servers: BTreeMap<ServerKey, ServerReport>,
}

/// What all replicas together say of one server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct View {
    /// Replicas that take traffic.
    pub total: u32,
    /// Of these, those that do not answer.
    pub silent: u32,
    /// Those that have applied the wanted revision.
    pub applied: u32,
    /// Of these, those that can call its tools.
    pub ready: u32,
    /// What replicas that have applied it say, in a fixed order; the ones that are not ready first.
    pub reports: Vec<ServerReport>,
    /// A replica has just come and has not told anything yet.
    pub awaited: bool,
}

impl Fleet {
    /// These replicas take traffic now. Returns whether that is another set than before.
    pub fn set(&mut self, addresses: &BTreeSet<SocketAddr>, now: Instant) -> bool {
        let before = self.replicas.len();
        self.replicas.retain(|address, _| addresses.contains(address));
        let mut changed = self.replicas.len() != before;
        for address in addresses {
            self.replicas.entry(*address).or_insert_with(|| {
                changed = true;
                Replica::new(now)
            });
        }
        changed
    }

    /// What was told is forgotten: nobody has asked meanwhile. Each replica has as long as a new one to answer.
    pub fn forget(&mut self, now: Instant) {
        for replica in self.replicas.values_mut() {
            *replica = Replica::new(now);
        }
    }

    /// Every replica.
    pub fn addresses(&self) -> impl Iterator<Item = &SocketAddr> {
        self.replicas.keys()
    }

    /// A replica has told something. Returns the servers of which something is new.
    pub fn told(&mut self, address: SocketAddr, report: Report) -> BTreeSet<ServerKey> {
        let Some(replica) = self.replicas.get_mut(&address) else { return BTreeSet::new() };
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
        if first {
            touched.extend(replica.servers.keys().cloned());
        }
        touched
    }

    /// A replica did not answer.
    pub fn failed(&mut self, address: SocketAddr, now: Instant) {
        if let Some(replica) = self.replicas.get_mut(&address) {
            replica.failing_since.get_or_insert(now);
        }
    }

    /// When the next replica will count as silent, if none tells anything until then.
    pub fn next_change(&self, now: Instant) -> Option<Instant> {
        self.replicas.values().filter_map(Replica::silent_from).filter(|at| *at > now).min()
    }

    /// How many replicas there are, and how many of them are silent.
    pub fn counts(&self, now: Instant) -> (usize, usize) {
        (self.replicas.len(), self.replicas.values().filter(|replica| replica.is_silent(now)).count())
    }

    /// What all replicas together say of one server, of which `revision` is wanted.
    pub fn view(&self, key: &ServerKey, revision: Option<&str>, now: Instant) -> View {
        let mut view = View { total: count(self.replicas.len()), ..View::default() };
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
}

impl Replica {
    fn new(now: Instant) -> Self {
        Self { since: now, instance: None, failing_since: None, servers: BTreeMap::new() }
    }

    fn silent_from(&self) -> Option<Instant> {
        match (&self.instance, self.failing_since) {
            (None, _) => Some(self.since + FIRST_ANSWER),
            (Some(_), Some(since)) => Some(since + PATIENCE),
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
        Report { instance: "i".into(), change: 1, complete, slots: vec![], servers, gone }
    }

    fn names(keys: BTreeSet<ServerKey>) -> Vec<String> {
        keys.into_iter().map(|key| key.name).collect()
    }

    fn counts(view: &View) -> (u32, u32, u32, u32, bool) {
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
        assert_eq!(fleet.told(address(2), report(true, vec![], &[])), BTreeSet::new());
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

        fleet.failed(address(1), now);
        assert_eq!(counts(&fleet.view(&key, Some("2"), now)), (2, 0, 2, 1, false));
        assert_eq!(fleet.next_change(now), Some(now + PATIENCE));
        assert_eq!(counts(&fleet.view(&key, Some("2"), now + PATIENCE)), (2, 1, 1, 0, false));
        fleet.told(address(1), report(false, vec![], &[]));
        assert_eq!((fleet.next_change(now), fleet.counts(now + PATIENCE)), (None, (2, 0)));
    }
}

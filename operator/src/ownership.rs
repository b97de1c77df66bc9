//! Tracks which McpServers another installation serves, and whether that installation still runs.
//!
//! Pure. Of two installations that watch the same McpServer, the first writes its status and its Events, and says so in
//! `status.servedBy`; the other stands back. It asks now and then, at one server for each installation, by putting its name
//! into `status.contender`: a running installation removes it with its next write of the status. One that does not is
//! gone, and all of its servers are taken over. So nothing is written while nothing changes, but for that question.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use k8s_openapi::jiff::Timestamp;
use portcullis_crds::ServerKey;
use portcullis_crds::mcpserver::McpServerStatus;
use tokio::time::Instant;

/// Time until an installation that has answered is asked again.
pub(crate) const ASK_INTERVAL: Duration = Duration::from_secs(600);

/// Delay after a question that could not be written.
const RETRY_DELAY: Duration = Duration::from_secs(10);

/// The other installations, and the servers that they serve.
#[derive(Debug)]
pub(crate) struct Ownership {
    me: String,
    /// An installation that does not answer within this time is gone.
    answer: Duration,
    others: BTreeMap<String, OtherInstallation>,
    /// Servers that this installation was told to leave since this process started.
    left: BTreeSet<ServerKey>,
    started: Timestamp,
    owners: BTreeMap<ServerKey, String>,
}

#[derive(Debug)]
struct OtherInstallation {
    servers: BTreeSet<ServerKey>,
    state: ContenderState,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum ContenderState {
    /// The installation will be asked at this time.
    Ask(Instant),
    /// The installation was asked at this server.
    Asked(ServerKey, Instant),
    /// The installation has not answered.
    Gone,
}

/// The work that is due.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct OwnershipDue {
    /// Servers at which to ask whether their installation still runs.
    pub(crate) ask: Vec<ServerKey>,
    /// Installations that are gone, with the servers to take over.
    pub(crate) gone: Vec<(String, Vec<ServerKey>)>,
}

/// The installation that serves a server, if its status names one.
pub(crate) fn owner_of(status: &McpServerStatus) -> Option<&str> {
    let served = status.served_by.as_ref().filter(|served| served.until.is_none());
    served.map(|served| served.installation.as_str())
}

impl Ownership {
    /// An empty record. `me` is this installation; another one that does not answer within `answer` is gone.
    /// `started` is when this process began: a retirement after that binds it.
    pub(crate) fn new(me: String, answer: Duration, started: Timestamp) -> Self {
        Self { me, answer, others: BTreeMap::new(), left: BTreeSet::new(), started, owners: BTreeMap::new() }
    }

    /// This installation.
    pub(crate) fn me(&self) -> &str {
        &self.me
    }

    /// The number of servers that other installations serve.
    pub(crate) fn count(&self) -> usize {
        self.others.values().filter(|other| other.state != ContenderState::Gone).map(|other| other.servers.len()).sum()
    }

    /// The other installation that serves a server.
    pub(crate) fn other(&self, key: &ServerKey) -> Option<&str> {
        let owner = self.owners.get(key)?;
        self.others.get(owner).filter(|other| other.state != ContenderState::Gone).map(|_| owner.as_str())
    }

    /// Whether this installation was told to leave this server.
    pub(crate) fn has_left(&self, key: &ServerKey) -> bool {
        self.left.contains(key)
    }

    /// Takes the status of a server.
    pub(crate) fn see(&mut self, key: &ServerKey, status: &McpServerStatus, now: Instant) {
        if self.ended(status) {
            self.left.insert(key.clone());
        } else {
            self.left.remove(key);
        }
        let owner = owner_of(status).filter(|owner| *owner != self.me);
        let before = self.owners.get(key).map(String::as_str);
        if before != owner {
            self.remove(key, now);
        }
        let Some(owner) = owner else { return };
        let other = self
            .others
            .entry(owner.to_owned())
            .or_insert_with(|| OtherInstallation { servers: BTreeSet::new(), state: ContenderState::Ask(now) });
        if other.servers.insert(key.clone()) {
            self.owners.insert(key.clone(), owner.to_owned());
            // The installation has taken a new server, so it runs again.
            if other.state == ContenderState::Gone {
                other.state = ContenderState::Ask(now + ASK_INTERVAL);
            }
        }
        let answered = matches!(&other.state, ContenderState::Asked(at, _) if at == key) && status.contender.is_none();
        if answered {
            other.state = ContenderState::Ask(now + ASK_INTERVAL);
        }
    }

    fn ended(&self, status: &McpServerStatus) -> bool {
        let own = status.served_by.as_ref().filter(|served| served.installation == self.me);
        own.and_then(|served| served.until.as_ref()).is_some_and(|until| until.0 >= self.started)
    }

    /// A server is gone.
    pub(crate) fn forget(&mut self, key: &ServerKey, now: Instant) {
        self.left.remove(key);
        self.remove(key, now);
    }

    fn remove(&mut self, key: &ServerKey, now: Instant) {
        let Some(owner) = self.owners.remove(key) else { return };
        let Some(other) = self.others.get_mut(&owner) else { return };
        other.servers.remove(key);
        if matches!(&other.state, ContenderState::Asked(at, _) if at == key) {
            other.state = ContenderState::Ask(now);
        }
        if other.servers.is_empty() {
            self.others.remove(&owner);
        }
    }

    /// Notes that a question could not be written.
    pub(crate) fn not_asked(&mut self, key: &ServerKey, now: Instant) {
        let Some(other) = self.owners.get(key).and_then(|owner| self.others.get_mut(owner)) else { return };
        if matches!(&other.state, ContenderState::Asked(at, _) if at == key) {
            other.state = ContenderState::Ask(now + RETRY_DELAY);
        }
    }

    /// When the next work is due.
    pub(crate) fn next(&self) -> Option<Instant> {
        let at = |other: &OtherInstallation| match other.state {
            ContenderState::Ask(at) => Some(at),
            ContenderState::Asked(_, since) => Some(since + self.answer),
            ContenderState::Gone => None,
        };
        self.others.values().filter_map(at).min()
    }

    /// Takes the work that is due now.
    pub(crate) fn due(&mut self, now: Instant) -> OwnershipDue {
        let (mut due, answer) = (OwnershipDue::default(), self.answer);
        for (name, other) in &mut self.others {
            match &other.state {
                ContenderState::Ask(at) if *at <= now => {
                    let Some(key) = other.servers.first().cloned() else { continue };
                    due.ask.push(key.clone());
                    other.state = ContenderState::Asked(key, now);
                }
                ContenderState::Asked(_, since) if *since + answer <= now => {
                    other.state = ContenderState::Gone;
                    due.gone.push((name.clone(), other.servers.iter().cloned().collect()));
                }
                _ => {}
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use portcullis_crds::mcpserver::ServedBy;

    use super::*;

    const ANSWER_LIMIT: Duration = Duration::from_secs(120);

    fn key(name: &str) -> ServerKey {
        ServerKey::new("n", name)
    }

    fn of(owner: &str, contender: Option<&str>) -> McpServerStatus {
        let served_by = Some(ServedBy { installation: owner.into(), until: None });
        McpServerStatus { served_by, contender: contender.map(Into::into), ..Default::default() }
    }

    fn started() -> Timestamp {
        Timestamp::from_second(1000).unwrap()
    }

    fn until(owner: &str, second: i64) -> McpServerStatus {
        let until = Some(Time(Timestamp::from_second(second).unwrap()));
        McpServerStatus { served_by: Some(ServedBy { installation: owner.into(), until }), ..Default::default() }
    }

    fn asking(names: &[&str]) -> OwnershipDue {
        OwnershipDue { ask: names.iter().map(|name| key(name)).collect(), gone: vec![] }
    }

    #[test]
    fn one_server_of_each_other_installation_is_asked_and_an_answer_lasts() {
        let now = Instant::now();
        let mut all = Ownership::new("me".into(), ANSWER_LIMIT, started());
        for (name, owner) in [("a", "me"), ("b", "first"), ("c", "first"), ("d", "second")] {
            all.see(&key(name), &of(owner, None), now);
        }
        all.see(&key("e"), &McpServerStatus::default(), now);
        assert_eq!(["a", "b", "d", "e"].map(|name| all.other(&key(name))), [None, Some("first"), Some("second"), None]);
        assert_eq!((all.count(), all.due(now)), (3, asking(&["b", "d"])));
        assert_eq!((all.next(), all.due(now)), (Some(now + ANSWER_LIMIT), OwnershipDue::default()));
        all.see(&key("b"), &of("first", Some("me")), now);
        all.see(&key("b"), &of("first", None), now);
        all.see(&key("d"), &of("second", None), now);
        assert_eq!(all.next(), Some(now + ASK_INTERVAL));
        assert_eq!(all.due(now + ANSWER_LIMIT), OwnershipDue::default());
        assert_eq!(all.due(now + ASK_INTERVAL), asking(&["b", "d"]));
    }

    #[test]
    fn one_that_does_not_answer_is_gone_until_it_takes_a_server_again() {
        let now = Instant::now();
        let mut all = Ownership::new("me".into(), ANSWER_LIMIT, started());
        for name in ["a", "b"] {
            all.see(&key(name), &of("first", None), now);
        }
        assert_eq!(all.due(now), asking(&["a"]));
        all.see(&key("a"), &of("first", Some("me")), now);
        let due = all.due(now + ANSWER_LIMIT);
        assert_eq!(due, OwnershipDue { ask: vec![], gone: vec![("first".into(), vec![key("a"), key("b")])] });
        assert_eq!((all.other(&key("a")), all.count(), all.next()), (None, 0, None));
        all.see(&key("a"), &of("me", None), now + ANSWER_LIMIT);
        assert_eq!((all.other(&key("a")), all.other(&key("b"))), (None, None));
        all.see(&key("a"), &of("first", None), now + ANSWER_LIMIT);
        assert_eq!((all.other(&key("a")), all.other(&key("b"))), (Some("first"), Some("first")));
        assert_eq!(all.next(), Some(now + ANSWER_LIMIT + ASK_INTERVAL));
    }

    #[test]
    fn a_server_at_which_was_asked_may_go_or_be_written_by_somebody_else() {
        let now = Instant::now();
        let mut all = Ownership::new("me".into(), ANSWER_LIMIT, started());
        for name in ["a", "b", "c"] {
            all.see(&key(name), &of("first", None), now);
        }
        assert_eq!(all.due(now), asking(&["a"]));
        all.forget(&key("a"), now);
        assert_eq!(all.due(now), asking(&["b"]));
        all.not_asked(&key("b"), now);
        assert_eq!(all.next(), Some(now + RETRY_DELAY));
        assert_eq!(all.due(now + RETRY_DELAY), asking(&["b"]));
        let ended = until("first", 0);
        all.see(&key("b"), &ended, now);
        assert_eq!((all.other(&key("b")), all.other(&key("c"))), (None, Some("first")));
        all.forget(&key("c"), now);
        assert_eq!((all.count(), all.next()), (0, None));
    }

    #[test]
    fn what_was_to_be_left_stays_left_until_a_new_process() {
        let now = Instant::now();
        let mut all = Ownership::new("me".into(), ANSWER_LIMIT, started());
        for (name, status) in [("a", until("me", 999)), ("b", until("me", 1000)), ("c", until("first", 1000))] {
            all.see(&key(name), &status, now);
        }
        assert_eq!(["a", "b", "c"].map(|name| all.has_left(&key(name))), [false, true, false]);
        assert_eq!((all.count(), all.next()), (0, None));
        all.see(&key("b"), &of("me", None), now);
        assert!(!all.has_left(&key("b")));
    }
}

//! Writes statuses: only what has changed, at a bounded rate, each server's changes gathered.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::resume_unwind;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::core::DeserializeGuard;
use kube::{Api, Client, Resource as _};
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::{McpServer, ServerKey};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::bucket::Bucket;
use crate::metrics::Metrics;
use crate::publish::{FIELD_MANAGER, REQUEST_LIMIT};
use crate::status::{self, Change};

/// Requests at the same time.
const AT_ONCE: usize = 16;

/// What is under way is given so long to end: most servers are ready soon, and then one write tells all.
const GATHER: Duration = Duration::from_millis(400);

/// For each status that waits already, so much longer: while many servers come at once, each is soon better known.
const GATHER_EACH: Duration = Duration::from_millis(3);

/// But no longer than this.
const GATHER_MOST: Duration = Duration::from_secs(10);

/// Counts and messages wait so long for more of them.
const DETAIL: Duration = Duration::from_secs(10);

/// Between two writes of one server's status, so that one that comes and goes costs little.
const SPACING: Duration = Duration::from_secs(1);

/// Before a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// The queue of statuses, and the writes under way.
pub struct Statuses {
    client: Client,
    queue: BTreeSet<(Instant, ServerKey)>,
    due: BTreeMap<ServerKey, Instant>,
    written: BTreeMap<ServerKey, Instant>,
    busy: HashSet<ServerKey>,
    writes: JoinSet<Wrote>,
    bucket: Bucket,
    /// Who writes: the field manager.
    manager: String,
    metrics: Metrics,
}

/// The end of a write.
pub struct Wrote {
    /// Whose status.
    pub key: ServerKey,
    /// `metadata.uid` of the object that it was made for.
    pub uid: String,
    /// What was written.
    pub status: McpServerStatus,
    /// The `metadata.resourceVersion` it got, or that it failed.
    pub outcome: Outcome,
}

/// How a write ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is written; the object's version, where it is a number.
    Done(Option<u64>),
    /// The object is gone.
    Gone,
    /// Somebody else has written it meanwhile.
    Conflict,
    /// It is to be tried again.
    Failed,
}

impl Statuses {
    /// An empty queue. `installation` is whose statuses these are.
    pub fn new(client: Client, installation: &str, per_second: u32, metrics: Metrics) -> Self {
        Self {
            client,
            queue: BTreeSet::new(),
            due: BTreeMap::new(),
            written: BTreeMap::new(),
            busy: HashSet::new(),
            writes: JoinSet::new(),
            bucket: Bucket::new(per_second, per_second, Instant::now()),
            manager: status::field_manager(FIELD_MANAGER, installation),
            metrics,
        }
    }

    /// A status should be another. `settled`: it tells how things ended, not that they are under way.
    pub fn wanted(&mut self, key: &ServerKey, change: Change, settled: bool, now: Instant) {
        let wait = match change {
            Change::None => return self.forget(key),
            Change::Detail => DETAIL,
            Change::Transition if settled => Duration::ZERO,
            Change::Transition => {
                let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
                GATHER.max(GATHER_EACH.saturating_mul(waiting).min(GATHER_MOST))
            }
        };
        let earliest = self.written.get(key).map_or(now, |at| *at + SPACING);
        let at = (now + wait).max(earliest);
        // What waits already does not wait anew.
        let at = self.due.get(key).map_or(at, |before| at.min(*before));
        self.put(key, at);
    }

    /// A server is gone, or its status is as it should be.
    pub fn forget(&mut self, key: &ServerKey) {
        if let Some(at) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
        self.count();
    }

    /// A server is gone for good.
    pub fn remove(&mut self, key: &ServerKey) {
        self.forget(key);
        self.written.remove(key);
    }

    /// When something is to be written next.
    pub fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.writes.len() >= AT_ONCE {
            return None;
        }
        let (first, _) = self.queue.first()?;
        Some((*first).max(self.bucket.next(now)))
    }

    /// The next server whose status is due, if it may be written now.
    pub fn take_due(&mut self, now: Instant) -> Option<ServerKey> {
        loop {
            let (at, key) = self.queue.first()?.clone();
            if at > now || self.writes.len() >= AT_ONCE {
                return None;
            }
            if self.busy.contains(&key) {
                // The end of the write under way looks at it again.
                self.forget(&key);
                continue;
            }
            if !self.bucket.take(now) {
                return None;
            }
            self.forget(&key);
            return Some(key);
        }
    }

    /// Whether a write of this status is under way: what is seen meanwhile may be older.
    pub fn is_busy(&self, key: &ServerKey) -> bool {
        self.busy.contains(key)
    }

    /// Starts to write. `version`: only if the object is still of this version, for else somebody might be overwritten.
    pub fn write(&mut self, key: ServerKey, uid: String, status: McpServerStatus, version: Option<u64>, now: Instant) {
        self.busy.insert(key.clone());
        self.written.insert(key.clone(), now);
        // Guarded: an object that cannot be read has a status too, and its content must not come into the log.
        let api: Api<DeserializeGuard<McpServer>> = Api::namespaced(self.client.clone(), &key.namespace);
        let manager = self.manager.clone();
        self.writes.spawn(async move {
            let parameters = PatchParams { field_manager: Some(manager), ..PatchParams::default() };
            let patch = Patch::Merge(status::patch(&status, version));
            let outcome = match timeout(REQUEST_LIMIT, api.patch_status(&key.name, &parameters, &patch)).await {
                Ok(Ok(object)) => Outcome::Done(crate::publish::version(object.meta())),
                Ok(Err(kube::Error::Api(problem))) if problem.code == 404 => Outcome::Gone,
                Ok(Err(kube::Error::Api(problem))) if problem.code == 409 => Outcome::Conflict,
                Ok(Err(error)) => {
                    warn!(server = %key, %error, "the status could not be written");
                    Outcome::Failed
                }
                Err(_) => {
                    warn!(server = %key, "the status could not be written: the API server did not answer in time");
                    Outcome::Failed
                }
            };
            Wrote { key, uid, status, outcome }
        });
    }

    /// Waits for the end of a write; for ever while none is under way.
    pub async fn finished(&mut self) -> Wrote {
        loop {
            match self.writes.join_next().await {
                Some(Ok(wrote)) => return wrote,
                // The server would never be looked at again: the process ends, and begins anew.
                Some(Err(error)) => resume_unwind(error.into_panic()),
                None => std::future::pending().await,
            }
        }
    }

    /// Takes the end of a write into account.
    pub fn note(&mut self, key: &ServerKey, outcome: Outcome, now: Instant) {
        self.busy.remove(key);
        let word = match outcome {
            Outcome::Done(_) => "ok",
            Outcome::Gone => "gone",
            Outcome::Conflict => "conflict",
            Outcome::Failed => "error",
        };
        self.metrics.status_writes.with_label_values(&[word]).inc();
        if outcome == Outcome::Failed {
            self.put(key, now + AGAIN);
        }
    }

    /// Lets writes under way finish.
    pub async fn drain(mut self) {
        while self.writes.join_next().await.is_some() {}
    }

    fn put(&mut self, key: &ServerKey, at: Instant) {
        if let Some(before) = self.due.insert(key.clone(), at) {
            self.queue.remove(&(before, key.clone()));
        }
        self.queue.insert((at, key.clone()));
        self.count();
    }

    fn count(&self) {
        self.metrics.status_queue.set(i64::try_from(self.queue.len()).unwrap_or(i64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statuses(per_second: u32) -> Statuses {
        let config = kube::Config::new("http://127.0.0.1:9".parse().expect("a URI"));
        Statuses::new(Client::try_from(config).expect("a client"), "n/p", per_second, Metrics::new())
    }

    fn key(name: &str) -> ServerKey {
        ServerKey::new("n", name)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_settled_goes_first_and_details_wait() {
        let mut statuses = statuses(100);
        let now = Instant::now();
        statuses.wanted(&key("detail"), Change::Detail, true, now);
        statuses.wanted(&key("waiting"), Change::Transition, false, now);
        statuses.wanted(&key("settled"), Change::Transition, true, now);
        statuses.wanted(&key("nothing"), Change::None, true, now);
        assert_eq!((statuses.take_due(now), statuses.take_due(now)), (Some(key("settled")), None));
        assert_eq!(statuses.next(now), Some(now + GATHER));
        // It has settled before its time.
        statuses.wanted(&key("waiting"), Change::Transition, true, now);
        assert_eq!(statuses.take_due(now), Some(key("waiting")));
        assert_eq!(statuses.next(now), Some(now + DETAIL));
        statuses.wanted(&key("detail"), Change::None, true, now);
        assert_eq!(statuses.next(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_waits_longer_while_many_wait() {
        let mut statuses = statuses(100);
        let now = Instant::now();
        for n in 0..5000 {
            statuses.wanted(&key(&n.to_string()), Change::Transition, false, now);
        }
        let at = |name: &str| statuses.due[&key(name)] - now;
        assert_eq!([at("0"), at("100"), at("1000"), at("4999")], [400, 400, 3000, 10_000].map(Duration::from_millis));
    }

    #[tokio::test(start_paused = true)]
    async fn writes_of_one_server_keep_their_distance_and_all_keep_to_the_rate() {
        let mut statuses = statuses(1);
        let now = Instant::now();
        statuses.written.insert(key("a"), now);
        statuses.wanted(&key("a"), Change::Transition, true, now);
        assert_eq!(statuses.next(now), Some(now + SPACING));
        statuses.remove(&key("a"));
        statuses.wanted(&key("b"), Change::Transition, true, now);
        statuses.wanted(&key("c"), Change::Transition, true, now);
        assert_eq!((statuses.take_due(now), statuses.take_due(now)), (Some(key("b")), None));
        let next = statuses.next(now).expect("c waits");
        assert_eq!(((next - now).as_millis(), statuses.take_due(next)), (1000, Some(key("c"))));
    }
}

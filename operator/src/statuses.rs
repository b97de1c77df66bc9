//! Writes changed statuses at a bounded rate, and gathers the changes of each object.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::resume_unwind;
use std::time::Duration;

use kube::api::{Patch, PatchParams};
use kube::core::DynamicObject;
use kube::{Api, Client};
use portcullis_crds::mcpaccesspolicy::McpAccessPolicyStatus;
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::mcpview::McpViewStatus;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tracing::warn;

use crate::bucket::Bucket;
use crate::metrics::OperatorMetrics;
use crate::object_key::ObjectKey;
use crate::publish::{FIELD_MANAGER, REQUEST_LIMIT};
use crate::status::{self, StatusChange};

/// Concurrent writes.
const MAX_CONCURRENT_WRITES: usize = 16;

/// An unfinished change waits this long for its end: most servers are ready soon, and then one write suffices.
const GATHER_DELAY: Duration = Duration::from_millis(400);

/// Each waiting status adds this to the delay: while many servers arrive at once, each soon has a later status.
const GATHER_DELAY_PER_STATUS: Duration = Duration::from_millis(3);

/// Longest delay of an unfinished change.
const MAX_GATHER_DELAY: Duration = Duration::from_secs(10);

/// Changes of counts and messages wait this long for more.
const DETAIL_DELAY: Duration = Duration::from_secs(10);

/// Time between two writes of one object's status, so that a flapping server costs little.
const WRITE_SPACING: Duration = Duration::from_secs(1);

/// Delay after a failed write.
const RETRY_DELAY: Duration = Duration::from_secs(2);

/// The queue of statuses, and the writes under way.
pub(crate) struct Statuses {
    client: Client,
    queue: BTreeSet<(Instant, ObjectKey)>,
    due: BTreeMap<ObjectKey, Instant>,
    written: BTreeMap<ObjectKey, Instant>,
    busy: HashSet<ObjectKey>,
    writes: JoinSet<WriteOutcome>,
    bucket: Bucket,
    /// The field manager.
    manager: String,
    metrics: OperatorMetrics,
}

/// The end of a write.
pub(crate) struct WriteOutcome {
    /// The object.
    pub(crate) key: ObjectKey,
    /// `metadata.uid` of the object that the status was made for.
    pub(crate) uid: String,
    /// The status of the write.
    pub(crate) status: NewStatus,
    /// The result of the write.
    pub(crate) outcome: WriteResult,
}

/// A status to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum NewStatus {
    /// Of an McpServer.
    Server(Box<McpServerStatus>),
    /// Of an McpAccessPolicy.
    Policy(McpAccessPolicyStatus),
    /// Of an McpView.
    View(McpViewStatus),
}

/// The result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteResult {
    /// The status is written; the object's resource version, if it is a number.
    Done(Option<u64>),
    /// The object is gone.
    Gone,
    /// Another writer was faster.
    Conflict,
    /// The write failed and will be retried.
    Failed,
}

impl NewStatus {
    fn patch(&self, version: Option<u64>) -> Value {
        match self {
            Self::Server(status) => status::patch(status, version),
            Self::Policy(status) => status::policy::patch(status, version),
            Self::View(status) => status::view::patch(status, version),
        }
    }
}

impl Statuses {
    /// An empty queue of the statuses of `installation`.
    pub(crate) fn new(client: Client, installation: &str, per_second: u32, metrics: OperatorMetrics) -> Self {
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

    /// Queues the change of a status. `settled`: the new status is final, not a step on the way.
    pub(crate) fn wanted(&mut self, key: &ObjectKey, change: StatusChange, settled: bool, now: Instant) {
        let wait = match change {
            StatusChange::None => return self.forget(key),
            StatusChange::Detail => DETAIL_DELAY,
            StatusChange::Transition if settled => Duration::ZERO,
            StatusChange::Transition => {
                let waiting = u32::try_from(self.queue.len()).unwrap_or(u32::MAX);
                GATHER_DELAY.max(GATHER_DELAY_PER_STATUS.saturating_mul(waiting).min(MAX_GATHER_DELAY))
            }
        };
        let earliest = self.written.get(key).map_or(now, |at| *at + WRITE_SPACING);
        let at = (now + wait).max(earliest);
        // A waiting status keeps its earlier time.
        let at = self.due.get(key).map_or(at, |before| at.min(*before));
        self.put(key, at);
    }

    /// Removes a status from the queue.
    pub(crate) fn forget(&mut self, key: &ObjectKey) {
        if let Some(at) = self.due.remove(key) {
            self.queue.remove(&(at, key.clone()));
        }
        self.count();
    }

    /// Removes all records of a deleted object.
    pub(crate) fn remove(&mut self, key: &ObjectKey) {
        self.forget(key);
        self.written.remove(key);
    }

    /// When the next write is due.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Instant> {
        if self.writes.len() >= MAX_CONCURRENT_WRITES {
            return None;
        }
        let (first, _) = self.queue.first()?;
        Some((*first).max(self.bucket.next(now)))
    }

    /// The next object whose status is due, if it may be written now.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<ObjectKey> {
        loop {
            let (at, key) = self.queue.first()?.clone();
            if at > now || self.writes.len() >= MAX_CONCURRENT_WRITES {
                return None;
            }
            if self.busy.contains(&key) {
                // The end of the write under way checks it again.
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

    /// Whether a write of this status is under way: events that arrive meanwhile may be older.
    pub(crate) fn is_busy(&self, key: &ObjectKey) -> bool {
        self.busy.contains(key)
    }

    /// Starts a write. `version`: the write succeeds only if the object still has it, so that it overwrites nobody.
    pub(crate) fn write(&mut self, key: ObjectKey, uid: String, status: NewStatus, version: Option<u64>, now: Instant) {
        self.busy.insert(key.clone());
        self.written.insert(key.clone(), now);
        // Untyped: an unreadable object has a status too, and its content must not reach the log.
        let api: Api<DynamicObject> =
            Api::namespaced_with(self.client.clone(), &key.key.namespace, &key.kind.resource());
        let manager = self.manager.clone();
        self.writes.spawn(async move {
            let parameters = PatchParams { field_manager: Some(manager), ..PatchParams::default() };
            let patch = Patch::Merge(status.patch(version));
            let outcome = match timeout(REQUEST_LIMIT, api.patch_status(&key.key.name, &parameters, &patch)).await {
                Ok(Ok(object)) => WriteResult::Done(crate::publish::version(&object.metadata)),
                Ok(Err(kube::Error::Api(problem))) if problem.code == 404 => WriteResult::Gone,
                Ok(Err(kube::Error::Api(problem))) if problem.code == 409 => WriteResult::Conflict,
                Ok(Err(error)) => {
                    warn!(object = %key, %error, "cannot write the status");
                    WriteResult::Failed
                }
                Err(_) => {
                    warn!(object = %key, "cannot write the status: the API server did not answer in time");
                    WriteResult::Failed
                }
            };
            WriteOutcome { key, uid, status, outcome }
        });
    }

    /// Waits for the end of a write; forever while there is none.
    pub(crate) async fn finished(&mut self) -> WriteOutcome {
        loop {
            match self.writes.join_next().await {
                Some(Ok(wrote)) => return wrote,
                // The object would never be checked again: the process ends and restarts.
                Some(Err(error)) => resume_unwind(error.into_panic()),
                None => std::future::pending().await,
            }
        }
    }

    /// Notes the end of a write.
    pub(crate) fn note(&mut self, key: &ObjectKey, outcome: WriteResult, now: Instant) {
        self.busy.remove(key);
        let word = match outcome {
            WriteResult::Done(_) => "ok",
            WriteResult::Gone => "gone",
            WriteResult::Conflict => "conflict",
            WriteResult::Failed => "error",
        };
        self.metrics.status_writes.with_label_values(&[word]).inc();
        if outcome == WriteResult::Failed {
            self.put(key, now + RETRY_DELAY);
        }
    }

    /// Lets writes under way finish.
    pub(crate) async fn drain(mut self) {
        while self.writes.join_next().await.is_some() {}
    }

    fn put(&mut self, key: &ObjectKey, at: Instant) {
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
    use portcullis_crds::ServerKey;

    use super::*;

    fn statuses(per_second: u32) -> Statuses {
        let config = kube::Config::new("http://127.0.0.1:9".parse().expect("a URI"));
        Statuses::new(Client::try_from(config).expect("a client"), "n/p", per_second, OperatorMetrics::new())
    }

    fn key(name: &str) -> ObjectKey {
        ObjectKey::server(&ServerKey::new("n", name))
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_settled_goes_first_and_details_wait() {
        let mut statuses = statuses(100);
        let now = Instant::now();
        statuses.wanted(&key("detail"), StatusChange::Detail, true, now);
        statuses.wanted(&key("waiting"), StatusChange::Transition, false, now);
        statuses.wanted(&key("settled"), StatusChange::Transition, true, now);
        statuses.wanted(&key("nothing"), StatusChange::None, true, now);
        assert_eq!((statuses.take_due(now), statuses.take_due(now)), (Some(key("settled")), None));
        assert_eq!(statuses.next(now), Some(now + GATHER_DELAY));
        // It has settled before its time.
        statuses.wanted(&key("waiting"), StatusChange::Transition, true, now);
        assert_eq!(statuses.take_due(now), Some(key("waiting")));
        assert_eq!(statuses.next(now), Some(now + DETAIL_DELAY));
        statuses.wanted(&key("detail"), StatusChange::None, true, now);
        assert_eq!(statuses.next(now), None);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_waits_longer_while_many_wait() {
        let mut statuses = statuses(100);
        let now = Instant::now();
        for n in 0..5000 {
            statuses.wanted(&key(&n.to_string()), StatusChange::Transition, false, now);
        }
        let at = |name: &str| statuses.due[&key(name)] - now;
        assert_eq!([at("0"), at("100"), at("1000"), at("4999")], [400, 400, 3000, 10_000].map(Duration::from_millis));
    }

    #[tokio::test(start_paused = true)]
    async fn writes_of_one_server_keep_their_distance_and_all_keep_to_the_rate() {
        let mut statuses = statuses(1);
        let now = Instant::now();
        statuses.written.insert(key("a"), now);
        statuses.wanted(&key("a"), StatusChange::Transition, true, now);
        assert_eq!(statuses.next(now), Some(now + WRITE_SPACING));
        statuses.remove(&key("a"));
        statuses.wanted(&key("b"), StatusChange::Transition, true, now);
        statuses.wanted(&key("c"), StatusChange::Transition, true, now);
        assert_eq!((statuses.take_due(now), statuses.take_due(now)), (Some(key("b")), None));
        let next = statuses.next(now).expect("c waits");
        assert_eq!(((next - now).as_millis(), statuses.take_due(next)), (1000, Some(key("c"))));
    }
}

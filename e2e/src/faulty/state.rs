//! The state that the connections of one faulty server share.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::JoinSet;

use super::FaultyMode;
use super::balance::BalancedReplica;
use super::fault::Behaviour;
use super::pipe::BodyPipe;
use super::seen::SeenTraffic;
use super::tool::Tool;

#[derive(Debug)]
pub(super) struct FaultyState {
    pub(super) mode: FaultyMode,
    pub(super) address: SocketAddr,
    behaviour: Mutex<Behaviour>,
    tools: Mutex<Vec<Tool>>,
    seen: Mutex<SeenTraffic>,
    /// Session id → its event stream, if it has one.
    sessions: Mutex<HashMap<String, Option<BodyPipe>>>,
    /// Session id → the replica that keeps it, where there are several.
    homes: Mutex<HashMap<String, BalancedReplica>>,
    /// Streams of forgotten sessions, which stay open: a stream ends with its last pipe.
    orphans: Mutex<Vec<BodyPipe>>,
    /// Raw id of a `subscriptions/listen` → its event stream.
    listens: Mutex<Vec<(String, BodyPipe)>>,
    /// Calls in flight.
    running: Mutex<HashMap<CallKey, Arc<Notify>>>,
    /// Connections, and calls that outlive their POST.
    work: Mutex<JoinSet<()>>,
    next: AtomicU64,
}

/// Tells one call from another: session, raw id, and a number, since ids may be used twice.
pub(super) type CallKey = (String, String, u64);

/// A call in flight; unless it is settled, its end counts as abandoned by the caller.
pub(super) struct RunningCall {
    state: Arc<FaultyState>,
    key: CallKey,
    /// Woken by a cancellation.
    pub(super) stop: Arc<Notify>,
}

impl FaultyState {
    pub(super) fn new(mode: FaultyMode, address: SocketAddr, tools: Vec<Tool>) -> Self {
        Self {
            mode,
            address,
            behaviour: Mutex::default(),
            tools: Mutex::new(tools),
            seen: Mutex::default(),
            sessions: Mutex::default(),
            homes: Mutex::default(),
            orphans: Mutex::default(),
            listens: Mutex::default(),
            running: Mutex::default(),
            work: Mutex::default(),
            next: AtomicU64::new(1),
        }
    }

    pub(super) fn behaviour(&self) -> Behaviour {
        locked(&self.behaviour).clone()
    }

    pub(super) fn behave(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut locked(&self.behaviour));
    }

    pub(super) fn tools(&self) -> MutexGuard<'_, Vec<Tool>> {
        locked(&self.tools)
    }

    pub(super) fn seen(&self) -> MutexGuard<'_, SeenTraffic> {
        locked(&self.seen)
    }

    /// Remembers a session. A session of legacy SSE ends with its stream, so those that ended are forgotten here.
    pub(super) fn add_session(&self, pipe: Option<BodyPipe>, replica: Option<&BalancedReplica>) -> String {
        let id = format!("session-{}", self.number());
        if let Some(replica) = replica {
            locked(&self.homes).insert(id.clone(), *replica);
        }
        let mut sessions = locked(&self.sessions);
        if self.mode == FaultyMode::Sse {
            sessions.retain(|_, pipe| !pipe.as_ref().is_some_and(BodyPipe::is_closed));
        }
        sessions.insert(id.clone(), pipe);
        id
    }

    /// A session and its stream, if somebody reads that; `None` when the session is unknown.
    pub(super) fn session(&self, id: &str) -> Option<Option<BodyPipe>> {
        let pipe = locked(&self.sessions).get(id).cloned()?;
        Some(pipe.filter(|pipe| !pipe.is_closed()))
    }

    /// Whether a request for this session has come to another replica than the one that keeps it.
    pub(super) fn is_elsewhere(&self, id: &str, replica: Option<&BalancedReplica>) -> bool {
        replica.is_some() && locked(&self.homes).get(id).is_some_and(|home| Some(home) != replica)
    }

    /// Gives a session its stream.
    pub(super) fn attach(&self, id: &str, pipe: &BodyPipe) {
        locked(&self.sessions).insert(id.to_owned(), Some(pipe.clone()));
    }

    pub(super) fn remove_session(&self, id: &str) {
        locked(&self.sessions).remove(id);
    }

    pub(super) fn forget_sessions(&self) {
        let streams = locked(&self.sessions).drain().filter_map(|(_, pipe)| pipe).collect::<Vec<_>>();
        locked(&self.orphans).extend(streams);
    }

    pub(super) fn add_listen(&self, id: &str, pipe: &BodyPipe) {
        let mut listens = locked(&self.listens);
        listens.retain(|(_, pipe)| !pipe.is_closed());
        listens.push((id.to_owned(), pipe.clone()));
    }

    /// The streams of sessions, forgotten ones too, that somebody reads.
    pub(super) fn pipes(&self) -> Vec<BodyPipe> {
        let mut pipes: Vec<_> = locked(&self.sessions).values().flatten().cloned().collect();
        pipes.extend(locked(&self.orphans).iter().cloned());
        pipes.retain(|pipe| !pipe.is_closed());
        pipes
    }

    /// The streams of `subscriptions/listen` that somebody reads, with their ids.
    pub(super) fn listens(&self) -> Vec<(String, BodyPipe)> {
        locked(&self.listens).iter().filter(|(_, pipe)| !pipe.is_closed()).cloned().collect()
    }

    /// Registers a call in flight.
    pub(super) fn run(self: &Arc<Self>, session: &str, id: &str) -> RunningCall {
        let key = (session.to_owned(), id.to_owned(), self.number());
        let stop = Arc::new(Notify::new());
        locked(&self.running).insert(key.clone(), Arc::clone(&stop));
        RunningCall { state: Arc::clone(self), key, stop }
    }

    pub(super) fn running(&self) -> usize {
        locked(&self.running).len()
    }

    /// The raw id of a call in flight, other than this one.
    pub(super) fn other_id(&self, id: &str) -> Option<String> {
        locked(&self.running).keys().map(|key| key.1.clone()).find(|other| other != id)
    }

    /// Stops the calls of a session with this raw id.
    pub(super) fn cancel(&self, session: &str, id: &str) {
        let running = locked(&self.running);
        running.iter().filter(|(key, _)| key.0 == session && key.1 == id).for_each(|(_, stop)| stop.notify_one());
    }

    /// Owns a task until it ends or the server is killed.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut work = locked(&self.work);
        while work.try_join_next().is_some() {}
        work.spawn(task);
    }

    /// Hands over all tasks, and forgets what they were for.
    pub(super) fn take_work(&self) -> JoinSet<()> {
        locked(&self.running).clear();
        locked(&self.sessions).clear();
        locked(&self.orphans).clear();
        locked(&self.listens).clear();
        std::mem::take(&mut locked(&self.work))
    }

    pub(super) fn number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

impl RunningCall {
    /// Marks the call as ended by the server.
    pub(super) fn settle(&self) {
        locked(&self.state.running).remove(&self.key);
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        if locked(&self.state.running).remove(&self.key).is_some() {
            self.state.seen().abandoned += 1;
        }
    }
}

/// A test that panics elsewhere must not hide its reason behind a poisoned lock.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

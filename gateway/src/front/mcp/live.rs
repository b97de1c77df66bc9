//! What this replica remembers of sessions while they need it: running requests, log levels.
//!
//! A session that needs none of these is not here at all: its id says everything.

use std::collections::hash_map::Entry;
use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use smallvec::SmallVec;

use crate::random_keys::RandomKeyMap;

/// Sessions with a log level of their own; of more, the one that was quiet longest is forgotten.
const MOST_KEPT: usize = 20_000;

/// Requests of one session that may run at the same time.
const MOST_RUNNING: usize = 1_000;

/// A session that was quiet so long is forgotten.
const QUIET: Duration = Duration::from_secs(24 * 3600);

/// The id of a session.
pub type SessionKey = [u8; 12];

/// Sessions that were ended by their clients; of more, the one that was ended first is forgotten.
const MOST_ENDED: usize = 20_000;

/// What is remembered of all sessions.
#[derive(Default)]
pub struct Live {
    sessions: Mutex<RandomKeyMap<SessionKey, Remembered>>,
    ended: Mutex<Ended>,
    /// How many have ended, so that most requests need not look.
    ends: AtomicUsize,
    /// Whether any has ever wanted a log level of its own: the same.
    levels: AtomicBool,
}

#[derive(Default)]
struct Ended {
    all: HashSet<SessionKey>,
    order: VecDeque<SessionKey>,
}

#[derive(Default)]
struct Remembered {
    /// Few, most of the time one.
    running: SmallVec<[Arc<Cancel>; 1]>,
    level: Option<usize>,
    used: Option<Instant>,
}

impl Remembered {
    fn is_empty(&self) -> bool {
        self.running.is_empty() && self.level.is_none()
    }
}

/// A request that runs; it can be cancelled until this is dropped.
pub struct Running<'a> {
    live: &'a Live,
    session: SessionKey,
    request: Arc<Cancel>,
}

/// By which a request is cancelled.
struct Cancel {
    id: Box<str>,
    is_cancelled: AtomicBool,
    waits: AtomicWaker,
}

/// Why a request cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotRun {
    /// One with this id runs already.
    SameId,
    /// There are as many as there may be.
    TooMany,
}

impl Live {
    /// Notes that a request runs.
    ///
    /// # Errors
    /// [`CannotRun`].
    pub fn run(&self, session: SessionKey, id: &str) -> Result<Running<'_>, CannotRun> {
        let mut all = self.lock();
        let running = &mut all.entry(session).or_default().running;
        if running.iter().any(|request| *request.id == *id) {
            return Err(CannotRun::SameId);
        }
        if running.len() >= MOST_RUNNING {
            return Err(CannotRun::TooMany);
        }
        let request =
            Arc::new(Cancel { id: id.into(), is_cancelled: AtomicBool::new(false), waits: AtomicWaker::new() });
        running.push(request.clone());
        drop(all);
        Ok(Running { live: self, session, request })
    }

    /// Cancels the request of this id; false if it does not run here.
    pub fn cancel(&self, session: SessionKey, id: &str) -> bool {
        let all = self.lock();
        let running = all.get(&session).and_then(|known| known.running.iter().find(|request| *request.id == *id));
        running.inspect(|request| request.cancel()).is_some()
    }

    /// Remembers the log level that a session wants.
    pub fn set_level(&self, session: SessionKey, level: usize) {
        self.levels.store(true, Ordering::Release);
        self.keep(session, |known| known.level = Some(level));
    }

    /// The log level that a session wants, if it has said so here.
    pub fn level(&self, session: &SessionKey) -> Option<usize> {
        if self.levels.load(Ordering::Acquire) { self.lock().get(session)?.level } else { None }
    }

    /// Ends a session for good.
    pub fn end(&self, session: SessionKey) {
        let mut ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        if ended.all.insert(session) {
            ended.order.push_back(session);
        }
        if ended.order.len() > MOST_ENDED
            && let Some(first) = ended.order.pop_front()
        {
            ended.all.remove(&first);
        }
        self.ends.store(ended.all.len(), Ordering::Release);
        drop(ended);
        if let Some(known) = self.lock().remove(&session) {
            known.running.iter().for_each(|request| request.cancel());
        }
    }

    /// Whether its client has ended it here.
    pub fn has_ended(&self, session: &SessionKey) -> bool {
        self.ends.load(Ordering::Acquire) > 0
            && self.ended.lock().unwrap_or_else(PoisonError::into_inner).all.contains(session)
    }

    fn keep<T>(&self, session: SessionKey, change: impl FnOnce(&mut Remembered) -> T) -> T {
        let mut all = self.lock();
        if all.len() >= MOST_KEPT && !all.contains_key(&session) {
            let now = Instant::now();
            all.retain(|_, known| known.used.is_none_or(|used| now.duration_since(used) < QUIET));
            let quietest = all.iter().filter(|(_, known)| known.running.is_empty()).min_by_key(|(_, known)| known.used);
            if let Some(quietest) = quietest.map(|(session, _)| *session).filter(|_| all.len() >= MOST_KEPT) {
                all.remove(&quietest);
            }
        }
        let known = all.entry(session).or_default();
        known.used = Some(Instant::now());
        let outcome = change(known);
        if known.is_empty() {
            all.remove(&session);
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, RandomKeyMap<SessionKey, Remembered>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Cancel {
    fn cancel(&self) {
        self.is_cancelled.store(true, Ordering::Release);
        self.waits.wake();
    }
}

impl Running<'_> {
    /// Ready once the client has taken the request back.
    pub fn poll_cancelled(&self, cx: &mut Context<'_>) -> Poll<()> {
        // First, so that one who cancels in between wakes.
        self.request.waits.register(cx.waker());
        if self.request.is_cancelled.load(Ordering::Acquire) { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut all = self.live.lock();
        if let Entry::Occupied(mut known) = all.entry(self.session) {
            known.get_mut().running.retain(|request| !Arc::ptr_eq(request, &self.request));
            if known.get().is_empty() {
                known.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test]
    async fn a_running_request_can_be_cancelled_by_its_own_session_alone_and_leaves_nothing_behind() {
        let live = Live::default();
        let running = live.run([1; 12], "7").unwrap();
        assert_eq!(live.run([1; 12], "7").err(), Some(CannotRun::SameId));
        let other = live.run([2; 12], "7").unwrap();
        assert!(live.cancel([1; 12], "7") && !live.cancel([3; 12], "7"));
        poll_fn(|cx| running.poll_cancelled(cx)).await;
        assert!(poll_fn(|cx| Poll::Ready(other.poll_cancelled(cx))).await.is_pending());
        drop((running, other));
        assert!(live.lock().is_empty());
    }

    #[tokio::test]
    async fn who_waits_for_a_request_to_be_taken_back_is_woken() {
        let live = Live::default();
        let running = live.run([1; 12], "7").unwrap();
        let (cancelled, ()) = tokio::join!(poll_fn(|cx| running.poll_cancelled(cx).map(|()| true)), async {
            tokio::task::yield_now().await;
            live.end([1; 12]);
        });
        assert!(cancelled);
    }

    #[test]
    fn a_level_lasts_until_its_session_is_over() {
        let live = Live::default();
        live.set_level([1; 12], 4);
        drop(live.run([1; 12], "1"));
        assert_eq!((live.level(&[1; 12]), live.level(&[2; 12])), (Some(4), None));
        assert!(!live.has_ended(&[1; 12]));
        live.end([1; 12]);
        assert!(live.has_ended(&[1; 12]) && !live.has_ended(&[2; 12]));
        assert!(live.lock().is_empty());
    }
}

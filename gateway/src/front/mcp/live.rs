//! What this replica remembers of sessions while they need it: running requests, log levels.
//!
//! A session that needs none of these is not here at all: its id says everything.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use smallvec::SmallVec;

use crate::random_keys::RandomKeyMap;
use crate::upstream::Mailbox;

/// Sessions with a log level of their own; of more, the one whose level was set first is forgotten.
const MOST_KEPT: usize = 20_000;

/// Requests of one session that may run at the same time.
const MOST_RUNNING: usize = 1_000;

/// A level that was set so long ago is forgotten when there are too many.
const OLD: Duration = Duration::from_secs(24 * 3600);

/// The id of a session.
pub type SessionKey = [u8; 12];

/// Sessions that were ended by their clients; of more, the one that was ended first is forgotten.
const MOST_ENDED: usize = 20_000;

/// Lists of running requests, so many that each is short and threads seldom meet at one.
const STRIPES: usize = 64;

/// A list that was longer gives its memory back when it is empty.
const KEPT: usize = 64;

/// What is remembered of all sessions.
pub struct Live {
    /// By the last byte of the session's id. Most requests are alone in their list: no map would be faster.
    running: [Stripe; STRIPES],
    levels: Mutex<RandomKeyMap<SessionKey, Level>>,
    /// Whether any has ever wanted a level of its own, so that most requests need not look.
    any_level: AtomicBool,
    ended: Mutex<Ended>,
    /// How many have ended: the same.
    ends: AtomicUsize,
}

type Stripe = Mutex<Vec<Noted>>;

/// A request that runs, and by which it is cancelled.
struct Noted {
    session: SessionKey,
    id: SmallVec<[u8; 24]>,
    mailbox: Mailbox,
}

struct Level {
    level: usize,
    set: Instant,
}

#[derive(Default)]
struct Ended {
    all: HashSet<SessionKey>,
    order: VecDeque<SessionKey>,
}

/// A request that runs; it can be cancelled until this is dropped.
pub struct Running<'a> {
    stripe: &'a Stripe,
    mailbox: &'a Mailbox,
}

/// Why a request cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CannotRun {
    /// One with this id runs already.
    SameId,
    /// There are as many as there may be.
    TooMany,
}

impl Default for Live {
    fn default() -> Self {
        Self {
            running: std::array::from_fn(|_| Stripe::default()),
            levels: Mutex::default(),
            any_level: AtomicBool::default(),
            ended: Mutex::default(),
            ends: AtomicUsize::default(),
        }
    }
}

impl Live {
    /// Notes that a request runs. Its mailbox, which no other has, learns that it is cancelled.
    ///
    /// # Errors
    /// [`CannotRun`].
    pub fn run<'a>(&'a self, session: SessionKey, id: &str, mailbox: &'a Mailbox) -> Result<Running<'a>, CannotRun> {
        let stripe = self.stripe(&session);
        let mut all = lock(stripe);
        let mut of_session = 0;
        for request in all.iter().filter(|request| request.session == session) {
            if *request.id == *id.as_bytes() {
                return Err(CannotRun::SameId);
            }
            of_session += 1;
        }
        if of_session >= MOST_RUNNING {
            return Err(CannotRun::TooMany);
        }
        all.push(Noted { session, id: SmallVec::from_slice(id.as_bytes()), mailbox: mailbox.clone() });
        drop(all);
        Ok(Running { stripe, mailbox })
    }

    /// Cancels the request of this id; false if it does not run here.
    pub fn cancel(&self, session: SessionKey, id: &str) -> bool {
        let all = lock(self.stripe(&session));
        let found = all.iter().find(|request| request.session == session && *request.id == *id.as_bytes());
        found.inspect(|request| request.mailbox.cancel()).is_some()
    }

    fn stripe(&self, session: &SessionKey) -> &Stripe {
        &self.running[usize::from(session[session.len() - 1]) % STRIPES]
    }

    /// Remembers the log level that a session wants.
    pub fn set_level(&self, session: SessionKey, level: usize) {
        let set = Instant::now();
        let mut all = lock(&self.levels);
        if all.len() >= MOST_KEPT && !all.contains_key(&session) {
            all.retain(|_, level| set.duration_since(level.set) < OLD);
            let oldest = all.iter().min_by_key(|(_, level)| level.set).map(|(session, _)| *session);
            if let Some(oldest) = oldest.filter(|_| all.len() >= MOST_KEPT) {
                all.remove(&oldest);
            }
        }
        all.insert(session, Level { level, set });
        self.any_level.store(true, Ordering::Release);
    }

    /// The log level that a session wants, if it has said so here.
    pub fn level(&self, session: &SessionKey) -> Option<usize> {
        let any = self.any_level.load(Ordering::Acquire);
        any.then(|| lock(&self.levels).get(session).map(|level| level.level)).flatten()
    }

    /// Ends a session for good.
    pub fn end(&self, session: SessionKey) {
        let mut ended = lock(&self.ended);
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
        lock(&self.levels).remove(&session);
        let running = lock(self.stripe(&session));
        running.iter().filter(|request| request.session == session).for_each(|request| request.mailbox.cancel());
    }

    /// Whether its client has ended it here.
    pub fn has_ended(&self, session: &SessionKey) -> bool {
        self.ends.load(Ordering::Acquire) > 0 && lock(&self.ended).all.contains(session)
    }
}

/// What is kept is whole between any two steps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let mut all = lock(self.stripe);
        let place = all.iter().position(|request| request.mailbox.is(self.mailbox));
        let over = place.map(|place| all.swap_remove(place));
        if all.is_empty() && all.capacity() > KEPT {
            *all = Vec::new();
        }
        drop(all);
        drop(over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::ClientCapabilities;

    fn mailbox() -> Mailbox {
        Mailbox::new(ClientCapabilities::NONE)
    }

    #[test]
    fn a_running_request_can_be_cancelled_by_its_own_session_alone_and_leaves_nothing_behind() {
        let (live, one, two) = (Live::default(), mailbox(), mailbox());
        let running = live.run([1; 12], "7", &one).unwrap();
        assert_eq!(live.run([1; 12], "7", &two).err(), Some(CannotRun::SameId));
        let other = live.run([2; 12], "7", &two).unwrap();
        assert!(live.cancel([1; 12], "7") && !live.cancel([3; 12], "7"));
        assert_eq!([one.is_cancelled(), two.is_cancelled()], [true, false]);
        live.end([2; 12]);
        assert!(two.is_cancelled());
        drop((running, other));
        assert!(live.running.iter().all(|stripe| lock(stripe).is_empty()));
    }

    #[test]
    fn a_session_runs_as_many_requests_as_it_may_and_keeps_no_others_from_running() {
        let (live, mailboxes, one_more) = (Live::default(), [(); MOST_RUNNING].map(|()| mailbox()), mailbox());
        let run = |(id, mailbox)| live.run([1; 12], &usize::to_string(&id), mailbox).unwrap();
        let all: Vec<_> = mailboxes.iter().enumerate().map(run).collect();
        assert_eq!(live.run([1; 12], "one more", &one_more).err(), Some(CannotRun::TooMany));
        let mut neighbour = [2; 12];
        neighbour[11] = 1;
        assert!(live.run(neighbour, "7", &one_more).is_ok(), "it is in the same list");
        drop(all);
        assert!(live.run([1; 12], "one more", &one_more).is_ok());
        assert!(live.running.iter().all(|stripe| lock(stripe).capacity() <= KEPT));
    }

    #[test]
    fn of_too_many_levels_the_oldest_is_forgotten() {
        let live = Live::default();
        let session = |number: usize| std::array::from_fn(|at| number.to_be_bytes().get(at).copied().unwrap_or(7));
        (0..=MOST_KEPT).for_each(|number| live.set_level(session(number), 4));
        assert_eq!([0, 1, MOST_KEPT].map(|number| live.level(&session(number))), [None, Some(4), Some(4)]);
    }

    #[test]
    fn a_level_lasts_until_its_session_is_over() {
        let live = Live::default();
        live.set_level([1; 12], 4);
        drop(live.run([1; 12], "1", &mailbox()));
        assert_eq!((live.level(&[1; 12]), live.level(&[2; 12])), (Some(4), None));
        assert!(!live.has_ended(&[1; 12]));
        live.end([1; 12]);
        assert!(live.has_ended(&[1; 12]) && !live.has_ended(&[2; 12]));
        assert_eq!(live.level(&[1; 12]), None);
        assert!(lock(&live.levels).is_empty());
    }
}

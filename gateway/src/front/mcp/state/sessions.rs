//! Stores what sessions need at this replica: running requests, log levels, and which have ended.
//!
//! A session that needs none of these is not here at all: its id says everything.

use std::collections::{HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use portcullis_mcp::upstream::Mailbox;
use smallvec::SmallVec;

use crate::seal::SessionKey;
use crate::util::random_keys::RandomKeyMap;

/// Sessions with a log level of their own; of more, the one whose level was set first is forgotten.
const MAX_LEVELS: usize = 20_000;

/// Requests of one session that may run at the same time.
const MAX_RUNNING_OF_SESSION: usize = 1_000;

/// The life of a level where there are too many.
const LEVEL_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Sessions that were ended by their clients; of more, the one that was ended first is forgotten.
const MAX_ENDED: usize = 20_000;

/// Lists of running requests: each is short, and threads seldom meet at one.
const STRIPES: usize = 64;

/// A list that was longer gives its memory back when it is empty.
const MAX_IDLE_CAPACITY: usize = 64;

/// The state of all sessions.
pub(crate) struct SessionStore {
    /// By the last byte of the session's id. Most requests are alone in their list: no map would be faster.
    running: [Stripe; STRIPES],
    levels: Mutex<RandomKeyMap<SessionKey, SessionLevel>>,
    /// Whether any has ever wanted a level of its own, so that most requests need not look.
    any_level: AtomicBool,
    ended: Mutex<EndedSessions>,
    /// The number of those, for the same purpose.
    ends: AtomicUsize,
}

type Stripe = Mutex<Vec<RunningRequest>>;

/// A request that runs, and by which it is cancelled.
struct RunningRequest {
    session: SessionKey,
    id: SmallVec<[u8; 24]>,
    mailbox: Mailbox,
}

struct SessionLevel {
    level: usize,
    set: Instant,
}

#[derive(Default)]
struct EndedSessions {
    all: HashSet<SessionKey>,
    order: VecDeque<SessionKey>,
}

/// A request that runs; it can be cancelled until this is dropped.
pub(crate) struct RunningGuard<'a> {
    stripe: &'a Stripe,
    mailbox: &'a Mailbox,
}

/// The reason why a request cannot run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CannotRun {
    /// One with this id runs already.
    SameId,
    /// There are as many as there may be.
    TooMany,
}

impl Default for SessionStore {
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

impl SessionStore {
    /// Notes that a request runs. Its mailbox, which no other has, learns that it is cancelled.
    ///
    /// # Errors
    /// [`CannotRun`].
    pub(crate) fn run<'a>(
        &'a self,
        session: SessionKey,
        id: &str,
        mailbox: &'a Mailbox,
    ) -> Result<RunningGuard<'a>, CannotRun> {
        let stripe = self.stripe(&session);
        let mut all = stripe.lock();
        let mut of_session = 0;
        for request in all.iter().filter(|request| request.session == session) {
            if *request.id == *id.as_bytes() {
                return Err(CannotRun::SameId);
            }
            of_session += 1;
        }
        if of_session >= MAX_RUNNING_OF_SESSION {
            return Err(CannotRun::TooMany);
        }
        all.push(RunningRequest { session, id: SmallVec::from_slice(id.as_bytes()), mailbox: mailbox.clone() });
        drop(all);
        Ok(RunningGuard { stripe, mailbox })
    }

    /// Cancels the request of this id; false if it does not run here.
    pub(crate) fn cancel(&self, session: SessionKey, id: &str) -> bool {
        let all = self.stripe(&session).lock();
        let found = all.iter().find(|request| request.session == session && *request.id == *id.as_bytes());
        found.inspect(|request| request.mailbox.cancel()).is_some()
    }

    fn stripe(&self, session: &SessionKey) -> &Stripe {
        &self.running[usize::from(session[session.len() - 1]) % STRIPES]
    }

    /// Remembers the log level that a session wants.
    pub(crate) fn set_level(&self, session: SessionKey, level: usize) {
        let set = Instant::now();
        let mut all = self.levels.lock();
        if all.len() >= MAX_LEVELS && !all.contains_key(&session) {
            all.retain(|_, level| set.duration_since(level.set) < LEVEL_LIFE);
            let oldest = all.iter().min_by_key(|(_, level)| level.set).map(|(session, _)| *session);
            if let Some(oldest) = oldest.filter(|_| all.len() >= MAX_LEVELS) {
                all.remove(&oldest);
            }
        }
        all.insert(session, SessionLevel { level, set });
        self.any_level.store(true, Ordering::Release);
    }

    /// The log level that a session wants, if it has said so here.
    pub(crate) fn level(&self, session: &SessionKey) -> Option<usize> {
        let any = self.any_level.load(Ordering::Acquire);
        any.then(|| self.levels.lock().get(session).map(|level| level.level)).flatten()
    }

    /// Ends a session for good.
    pub(crate) fn end(&self, session: SessionKey) {
        let mut ended = self.ended.lock();
        if ended.all.insert(session) {
            ended.order.push_back(session);
        }
        if ended.order.len() > MAX_ENDED
            && let Some(first) = ended.order.pop_front()
        {
            ended.all.remove(&first);
        }
        self.ends.store(ended.all.len(), Ordering::Release);
        drop(ended);
        self.levels.lock().remove(&session);
        let running = self.stripe(&session).lock();
        running.iter().filter(|request| request.session == session).for_each(|request| request.mailbox.cancel());
    }

    /// Whether its client has ended it here.
    pub(crate) fn has_ended(&self, session: &SessionKey) -> bool {
        self.ends.load(Ordering::Acquire) > 0 && self.ended.lock().all.contains(session)
    }
}

impl Drop for RunningGuard<'_> {
    fn drop(&mut self) {
        let mut all = self.stripe.lock();
        let place = all.iter().position(|request| request.mailbox.is(self.mailbox));
        let over = place.map(|place| all.swap_remove(place));
        if all.is_empty() && all.capacity() > MAX_IDLE_CAPACITY {
            *all = Vec::new();
        }
        drop(all);
        drop(over);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;

    fn mailbox() -> Mailbox {
        Mailbox::new(ClientCapabilities::NONE)
    }

    #[test]
    fn a_running_request_can_be_cancelled_by_its_own_session_alone_and_leaves_nothing_behind() {
        let (sessions, one, two) = (SessionStore::default(), mailbox(), mailbox());
        let running = sessions.run([1; 12], "7", &one).unwrap();
        assert_eq!(sessions.run([1; 12], "7", &two).err(), Some(CannotRun::SameId));
        let other = sessions.run([2; 12], "7", &two).unwrap();
        assert!(sessions.cancel([1; 12], "7") && !sessions.cancel([3; 12], "7"));
        assert_eq!([one.is_cancelled(), two.is_cancelled()], [true, false]);
        sessions.end([2; 12]);
        assert!(two.is_cancelled());
        drop((running, other));
        assert!(sessions.running.iter().all(|stripe| stripe.lock().is_empty()));
    }

    #[test]
    fn a_session_runs_as_many_requests_as_it_may_and_keeps_no_others_from_running() {
        let (sessions, mailboxes, one_more) =
            (SessionStore::default(), [(); MAX_RUNNING_OF_SESSION].map(|()| mailbox()), mailbox());
        let run = |(id, mailbox)| sessions.run([1; 12], &usize::to_string(&id), mailbox).unwrap();
        let all: Vec<_> = mailboxes.iter().enumerate().map(run).collect();
        assert_eq!(sessions.run([1; 12], "one more", &one_more).err(), Some(CannotRun::TooMany));
        let mut neighbour = [2; 12];
        neighbour[11] = 1;
        assert!(sessions.run(neighbour, "7", &one_more).is_ok(), "it is in the same list");
        drop(all);
        assert!(sessions.run([1; 12], "one more", &one_more).is_ok());
        assert!(sessions.running.iter().all(|stripe| stripe.lock().capacity() <= MAX_IDLE_CAPACITY));
    }

    #[test]
    fn of_too_many_levels_the_oldest_is_forgotten() {
        let sessions = SessionStore::default();
        let session = |number: usize| std::array::from_fn(|at| number.to_be_bytes().get(at).copied().unwrap_or(7));
        (0..=MAX_LEVELS).for_each(|number| sessions.set_level(session(number), 4));
        assert_eq!([0, 1, MAX_LEVELS].map(|number| sessions.level(&session(number))), [None, Some(4), Some(4)]);
    }

    #[test]
    fn a_level_lasts_until_its_session_is_over() {
        let sessions = SessionStore::default();
        sessions.set_level([1; 12], 4);
        drop(sessions.run([1; 12], "1", &mailbox()));
        assert_eq!((sessions.level(&[1; 12]), sessions.level(&[2; 12])), (Some(4), None));
        assert!(!sessions.has_ended(&[1; 12]));
        sessions.end([1; 12]);
        assert!(sessions.has_ended(&[1; 12]) && !sessions.has_ended(&[2; 12]));
        assert_eq!(sessions.level(&[1; 12]), None);
        assert!(sessions.levels.lock().is_empty());
    }
}

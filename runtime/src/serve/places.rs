//! The open connections of one listener: which of them wait for their clients, and who has to go when there is no room.
//!
//! A connection can be ended while it waits for its client: for a request, or in the middle of one. Those without a request
//! under way go first, of these those that have shown no good token, of these the one that waits longest. Who works is left
//! alone.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use crate::memory::{Account, CONNECTION, Held, Relief, account};

/// Whoever takes nothing of an answer for so long may be ended to make room.
const STALLED: Duration = Duration::from_secs(1);

/// Of the connections that are looked through, one of so many is noted to go next: looking takes longer than going.
const NOTED: usize = 64;

/// Times are counted from here: long ago, so that none is before it.
static BEGAN: LazyLock<std::time::Instant> = LazyLock::new(|| {
    let now = std::time::Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// It works: nobody waits for its client.
const WORKS: u64 = 0;
/// It has to go.
const EVICTED: u64 = u64::MAX;

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Places {
    account: &'static Account,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: HashMap<u64, Arc<Place>>,
    next: u64,
    /// Those that go next, the longest waiting first, as they were when somebody looked.
    noted: VecDeque<(u64, Arc<Place>)>,
}

/// One open connection, as its listener and whoever answers its requests see it.
#[derive(Debug)]
pub struct Place {
    /// Since when it waits for its client; [`WORKS`], [`EVICTED`].
    since: AtomicU64,
    /// It waits for the rest of a request, or for an answer to be taken, rather than for a request.
    is_busy: AtomicBool,
    /// A request on it has brought a good token.
    is_trusted: AtomicBool,
    /// It has one of the places that are kept for probes.
    is_kept: bool,
    task: OnceLock<Waker>,
    held: Mutex<Held>,
}

/// What has to be freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A connection, whosever it is.
    Connection,
    /// Memory of those who have shown no good token.
    Strangers,
    /// A connection that is kept for probes.
    Kept,
}

/// A place among the open connections, for as long as it lives.
#[derive(Debug)]
pub(super) struct Seated {
    places: Arc<Places>,
    number: u64,
    pub(super) place: Arc<Place>,
}

/// Ends those who take nothing of their answers.
#[derive(Debug)]
struct Stalls(Weak<Places>);

// === impl Places ===

impl Places {
    pub(super) fn new(account: &'static Account) -> Arc<Self> {
        let places = Arc::new(Self { account, open: Mutex::default() });
        account.add_relief(Box::new(Stalls(Arc::downgrade(&places))));
        places
    }

    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Seats a connection. `counts` says whether it counts as a stranger's until it is trusted.
    pub(super) fn seat(self: &Arc<Self>, counts: bool, is_kept: bool, held: Held) -> Seated {
        let place = Arc::new(Place {
            // Until its task has looked, what it waits for may be here.
            since: AtomicU64::new(WORKS),
            is_busy: AtomicBool::new(false),
            is_trusted: AtomicBool::new(!counts),
            is_kept,
            task: OnceLock::new(),
            held: Mutex::new(held),
        });
        let mut open = self.lock();
        let number = open.next;
        open.next += 1;
        open.all.insert(number, place.clone());
        drop(open);
        Seated { places: self.clone(), number, place }
    }

    /// Memory for a connection of a stranger, if there is room.
    pub(super) fn stranger(&self) -> Option<Held> {
        Held::of(&self.account.strangers, CONNECTION)
    }

    /// Ends the connection that has waited longest for its client, of those that `wanted` concerns; none that has waited
    /// for less than `least`. False if there is none.
    pub(super) fn evict(&self, wanted: Wanted, least: Duration) -> bool {
        let before = now().saturating_sub(millis(least));
        let mut open = self.lock();
        for looked in [false, true] {
            if looked {
                open.note(wanted);
            }
            while let Some((since, place)) = open.noted.pop_front() {
                if since > before {
                    open.noted.clear();
                } else if wanted.concerns(&place) && place.evict_since(since) {
                    return true;
                }
            }
        }
        false
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    /// Looks for those that go next.
    fn note(&mut self, wanted: Wanted) {
        let stalled = now().saturating_sub(millis(STALLED));
        let waiting = |place: &Arc<Place>| {
            let since = place.since.load(Ordering::Relaxed);
            let is_busy = place.is_busy.load(Ordering::Relaxed);
            let waits = since != WORKS && since != EVICTED && (!is_busy || since <= stalled);
            (waits && wanted.concerns(place)).then(|| ((is_busy, place.is_trusted(), since), place.clone()))
        };
        let mut found: Vec<_> = self.all.values().filter_map(waiting).collect();
        let count = found.len().div_ceil(NOTED);
        if count > 0 && count < found.len() {
            found.select_nth_unstable_by_key(count - 1, |(order, _)| *order);
            found.truncate(count);
        }
        found.sort_unstable_by_key(|(order, _)| *order);
        self.noted = found.into_iter().map(|((_, _, since), place)| (since, place)).collect();
    }
}

impl Wanted {
    fn concerns(self, place: &Place) -> bool {
        match self {
            Self::Connection => !place.is_kept,
            Self::Strangers => !place.is_kept && !place.is_trusted(),
            Self::Kept => place.is_kept,
        }
    }
}

impl Relief for Stalls {
    fn relieve(&self) -> bool {
        let Some(places) = self.0.upgrade() else { return false };
        let before = now().saturating_sub(millis(STALLED));
        let open = places.lock();
        let stalled = open.all.values().filter(|place| place.is_busy.load(Ordering::Relaxed)).filter_map(|place| {
            let since = place.since.load(Ordering::Relaxed);
            (since != WORKS && since != EVICTED && since <= before).then_some((since, place))
        });
        stalled.min_by_key(|(since, _)| *since).is_some_and(|(since, place)| place.evict_since(since))
    }
}

impl Seated {
    /// Ends another connection to make room.
    pub(super) fn evict(&self, wanted: Wanted) -> bool {
        self.places.evict(wanted, Duration::ZERO)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        // Whoever has noted it must not take its end for room that was made.
        self.place.since.store(EVICTED, Ordering::Relaxed);
        let mut open = self.places.lock();
        open.all.remove(&self.number);
    }
}

// === impl Place ===

impl Place {
    /// One of a connection that no listener has, for tests and servers of another kind.
    pub fn lone() -> Arc<Self> {
        Arc::new(Self {
            since: AtomicU64::new(WORKS),
            is_busy: AtomicBool::new(false),
            is_trusted: AtomicBool::new(true),
            is_kept: false,
            task: OnceLock::new(),
            held: Mutex::new(Held::none(&account().callers)),
        })
    }

    /// A request has brought a good token: the connection no longer counts as a stranger's, if there is room for it.
    pub fn trust(&self) {
        if !self.is_trusted() {
            let moved = self.lock().move_to(&account().callers);
            self.is_trusted.store(moved, Ordering::Relaxed);
        }
    }

    /// Whether a request on it has brought a good token.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted.load(Ordering::Relaxed)
    }

    /// Whether it is there for probes alone.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Whom to wake when it has to go.
    pub(super) fn is_of(&self, task: &Waker) {
        let _ = self.task.set(task.clone());
    }

    /// Whether it has to go.
    pub(super) fn is_evicted(&self) -> bool {
        self.since.load(Ordering::Relaxed) == EVICTED
    }

    /// Since then it waits for the next request of its client; false if it has to go.
    pub(super) fn waits(&self, since: Instant) -> bool {
        self.is_busy.store(false, Ordering::Relaxed);
        self.turn(at(since))
    }

    /// Its client has sent nothing more: it waits from now on, unless it did so before.
    pub(super) fn idles(&self) {
        if self.since.load(Ordering::Relaxed) == WORKS {
            self.since.store(now(), Ordering::Relaxed);
        }
    }

    /// It waits for its client in the middle of a request, unless it did so before; false if it has to go.
    pub(super) fn stalls(&self) -> bool {
        if self.since.load(Ordering::Relaxed) == WORKS {
            self.is_busy.store(true, Ordering::Relaxed);
            self.since.store(now(), Ordering::Relaxed);
        }
        !self.is_evicted()
    }

    /// From now on it works; false if it has to go.
    pub(super) fn works(&self) -> bool {
        self.turn(WORKS)
    }

    /// A request has come, and from now on it works. If it had to go, but the request was faster, it may stay as long as
    /// there is some room to spare.
    pub(super) fn is_asked(&self) -> bool {
        let strangers = &account().strangers;
        let has_room = || strangers.held() < strangers.limit() / 8 * 9;
        if self.since.swap(WORKS, Ordering::Relaxed) != EVICTED || has_room() {
            return true;
        }
        self.since.store(EVICTED, Ordering::Relaxed);
        false
    }

    fn turn(&self, state: u64) -> bool {
        let goes = self.since.swap(state, Ordering::Relaxed) == EVICTED;
        if goes {
            self.since.store(EVICTED, Ordering::Relaxed);
        }
        !goes
    }

    /// Ends it, if it still waits since then.
    fn evict_since(&self, since: u64) -> bool {
        let evicted = self.since.compare_exchange(since, EVICTED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if evicted && let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
        evicted
    }

    /// Counts so many bytes more of what its client sends, before it is known; false if there is no room.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        self.lock().grow(bytes)
    }

    /// Counts so many bytes more, whether there is room or not.
    pub(super) fn force(&self, bytes: usize) {
        self.lock().force(bytes);
    }

    /// Counts the connection alone from now on.
    pub(super) fn shrink(&self) {
        let mut held = self.lock();
        if held.bytes() > CONNECTION {
            held.set(CONNECTION);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> u64 {
    at(Instant::now())
}

/// Milliseconds, never [`WORKS`].
fn at(instant: Instant) -> u64 {
    1 + millis(instant.into_std().saturating_duration_since(*BEGAN))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX - 1)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    /// One that waits for its client.
    fn seat(places: &Arc<Places>, counts: bool, is_kept: bool) -> Seated {
        let seated = places.seat(counts, is_kept, Held::none(&account().strangers));
        seated.place.idles();
        seated
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_go_before_callers_and_each_in_the_order_in_which_they_began_to_wait() {
        let places = Places::new(account());
        let mut all = Vec::new();
        for kind in ["caller", "stranger", "works", "stranger", "caller", "kept"] {
            let seated = seat(&places, true, kind == "kept");
            advance(Duration::from_millis(10)).await;
            if kind == "caller" {
                seated.place.trust();
            }
            if kind == "works" {
                assert!(seated.place.works());
            }
            all.push(seated);
        }
        let evicted = || all.iter().map(|seated| seated.place.is_evicted()).collect::<Vec<_>>();
        let order = [1, 3, 0, 4].map(|next| {
            let before = evicted();
            let wanted = if next % 2 == 1 { Wanted::Strangers } else { Wanted::Connection };
            assert!(places.evict(wanted, Duration::ZERO));
            let after = evicted();
            (0..all.len()).find(|index| before[*index] != after[*index])
        });
        assert_eq!(order, [Some(1), Some(3), Some(0), Some(4)]);
        assert!(!places.evict(Wanted::Connection, Duration::ZERO), "one works, one is kept");
        assert!(places.evict(Wanted::Kept, Duration::ZERO) && all[5].place.is_evicted());
        assert!(!all[1].place.works() && !all[1].place.waits(Instant::now()), "it has to go, whatever comes");
        drop(all);
        assert_eq!(places.len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_ended_makes_no_room() {
        let places = Places::new(account());
        let mut all: Vec<_> = (0..NOTED + 2).map(|_| seat(&places, true, false)).collect();
        advance(Duration::from_millis(10)).await;
        assert!(places.evict(Wanted::Strangers, Duration::ZERO), "and another one is noted");
        all.clear();
        assert!(!places.evict(Wanted::Strangers, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_just_come_is_left_alone_for_a_moment() {
        let places = Places::new(account());
        let _seated = seat(&places, true, false);
        advance(Duration::from_millis(50)).await;
        assert!(!places.evict(Wanted::Strangers, Duration::from_millis(100)));
        advance(Duration::from_millis(50)).await;
        assert!(places.evict(Wanted::Strangers, Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_which_nobody_has_looked_yet_stays_and_so_does_one_whose_request_was_faster() {
        let places = Places::new(account());
        let seated = places.seat(true, false, Held::none(&account().strangers));
        assert!(!places.evict(Wanted::Strangers, Duration::ZERO), "its request may be here");
        seated.place.idles();
        assert!(places.evict(Wanted::Strangers, Duration::ZERO) && seated.place.is_evicted());
        assert!(seated.place.is_asked() && !seated.place.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_takes_nothing_of_an_answer_for_a_second_is_ended_to_make_room() {
        let places = Places::new(account());
        let (stalls, seated) = (Stalls(Arc::downgrade(&places)), seat(&places, false, false));
        advance(2 * STALLED).await;
        assert!(!stalls.relieve(), "it waits for a request");
        assert!(seated.place.works() && seated.place.stalls() && !stalls.relieve());
        advance(STALLED).await;
        assert!(stalls.relieve() && seated.place.is_evicted() && !stalls.relieve());
    }
}

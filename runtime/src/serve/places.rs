//! The open connections of one listener: which of them wait for their clients, and which is closed if there is no
//! space.
//!
//! A connection can be closed while it waits for its client: for a request, or in the middle of one. Those without a
//! running request come first, of these those without a valid token, of these the one that has waited longest. Working
//! connections are never closed.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, OnceLock, Weak};
use std::task::Waker;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;

use crate::memory::{Account, CONNECTION, Held, Relief, account};

/// A client that reads nothing of an answer for this long may be closed to make space.
const STALLED: Duration = Duration::from_secs(1);

/// Of the examined connections, one in this many is noted to be closed next: examining takes longer than closing.
const NOTED: usize = 64;

/// The origin of times: long ago, so that no time is before it.
static BEGAN: LazyLock<std::time::Instant> = LazyLock::new(|| {
    let now = std::time::Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

/// The connection works: nothing waits for its client.
const WORKS: u64 = 0;
/// The connection must close.
const EVICTED: u64 = u64::MAX;

/// The connections of one listener.
#[derive(Debug)]
pub(super) struct Places {
    account: &'static Account,
    /// Bytes that a connection counts by itself.
    each: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    all: HashMap<u64, Arc<Place>>,
    next: u64,
    /// The connections to be closed next, the longest waiting first, as of the last examination.
    noted: VecDeque<(u64, Arc<Place>)>,
}

/// One open connection, as its listener and its service see it.
#[derive(Debug)]
pub struct Place {
    /// Since when the connection waits for its client; [`WORKS`], [`EVICTED`].
    since: AtomicU64,
    /// The connection waits for the rest of a request, or for an answer to be read, rather than for a request.
    is_busy: AtomicBool,
    /// A request on the connection had a valid token.
    is_trusted: AtomicBool,
    /// The connection has one of the places that are reserved for probes.
    is_kept: bool,
    /// Bytes that it counts by itself.
    own: usize,
    task: OnceLock<Waker>,
    held: Mutex<Held>,
}

/// The resource to free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// A connection of any kind.
    Connection,
    /// Memory of clients without a valid token.
    Strangers,
    /// A connection that is reserved for probes.
    Kept,
}

/// A place among the open connections, for as long as it lives.
#[derive(Debug)]
pub(super) struct Seated {
    places: Arc<Places>,
    number: u64,
    pub(super) place: Arc<Place>,
}

/// Closes connections whose clients read nothing of their answers.
#[derive(Debug)]
struct Stalls(Weak<Places>);

// === impl Places ===

impl Places {
    /// `each`: the bytes that a connection counts by itself.
    pub(super) fn new(account: &'static Account, each: usize) -> Arc<Self> {
        let places = Arc::new(Self { account, each, open: Mutex::default() });
        account.add_relief(Box::new(Stalls(Arc::downgrade(&places))));
        places
    }

    pub(super) fn len(&self) -> usize {
        self.lock().all.len()
    }

    /// Seats a connection. `counts`: whether it counts as a stranger's until it is trusted.
    pub(super) fn seat(self: &Arc<Self>, counts: bool, is_kept: bool, held: Held) -> Seated {
        let place = Arc::new(Place {
            // Until its task has checked, its request may have arrived.
            since: AtomicU64::new(WORKS),
            is_busy: AtomicBool::new(false),
            is_trusted: AtomicBool::new(!counts),
            is_kept,
            own: self.each,
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
        Held::of(&self.account.strangers, self.each)
    }

    /// The same without asking whether there is room, in the callers' part or the strangers'.
    pub(super) fn forced(&self, is_caller: bool) -> Held {
        Held::forced(if is_caller { &self.account.callers } else { &self.account.strangers }, self.each)
    }

    /// Closes the connection that has waited longest for its client, among those that `wanted` includes, but none that
    /// has waited less than `least`. False if there is none.
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
        self.open.lock()
    }
}

impl Open {
    /// Notes the connections to be closed next.
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
    /// Closes another connection to make space.
    pub(super) fn evict(&self, wanted: Wanted) -> bool {
        self.places.evict(wanted, Duration::ZERO)
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        // A listener that has noted this connection must not count its end as space that was made.
        self.place.since.store(EVICTED, Ordering::Relaxed);
        let mut open = self.places.lock();
        open.all.remove(&self.number);
    }
}

// === impl Place ===

impl Place {
    /// The place of a connection without a listener, for tests and servers of another kind.
    pub fn lone() -> Arc<Self> {
        Arc::new(Self {
            since: AtomicU64::new(WORKS),
            is_busy: AtomicBool::new(false),
            is_trusted: AtomicBool::new(true),
            is_kept: false,
            own: CONNECTION,
            task: OnceLock::new(),
            held: Mutex::new(Held::none(&account().callers)),
        })
    }

    /// Records a valid token: the connection no longer counts as a stranger's, if there is space for it.
    pub fn trust(&self) {
        if !self.is_trusted() {
            let moved = self.lock().move_to(&account().callers);
            self.is_trusted.store(moved, Ordering::Relaxed);
        }
    }

    /// Whether a request on it had a valid token.
    pub fn is_trusted(&self) -> bool {
        self.is_trusted.load(Ordering::Relaxed)
    }

    /// Whether it is reserved for probes.
    pub(super) fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// Registers the task to wake when the connection must close.
    pub(super) fn is_of(&self, task: &Waker) {
        let _ = self.task.set(task.clone());
    }

    /// Whether the connection must close.
    pub(super) fn is_evicted(&self) -> bool {
        self.since.load(Ordering::Relaxed) == EVICTED
    }

    /// Records that it waits since then for the next request of its client; false if it must close.
    pub(super) fn waits(&self, since: Instant) -> bool {
        self.is_busy.store(false, Ordering::Relaxed);
        self.turn(at(since))
    }

    /// Records that its client has sent nothing more: it waits from now on, unless it already did.
    pub(super) fn idles(&self) {
        if self.since.load(Ordering::Relaxed) == WORKS {
            self.since.store(now(), Ordering::Relaxed);
        }
    }

    /// Records that it waits for its client in the middle of a request, unless it already did; false if it must close.
    pub(super) fn stalls(&self) -> bool {
        if self.since.load(Ordering::Relaxed) == WORKS {
            self.is_busy.store(true, Ordering::Relaxed);
            self.since.store(now(), Ordering::Relaxed);
        }
        !self.is_evicted()
    }

    /// Records that it works from now on; false if it must close.
    pub(super) fn works(&self) -> bool {
        self.turn(WORKS)
    }

    /// Records that a request has arrived, and that it works from now on. If it was to close, but the request was
    /// faster, it may stay as long as there is some space left.
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

    /// Closes it, if it still waits since then.
    fn evict_since(&self, since: u64) -> bool {
        let evicted = self.since.compare_exchange(since, EVICTED, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        if evicted && let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
        evicted
    }

    /// Counts this many bytes more from its client, before the client is known; false if there is no space.
    pub(super) fn grow(&self, bytes: usize) -> bool {
        self.lock().grow(bytes)
    }

    /// Counts this many bytes more, even without space.
    pub(super) fn force(&self, bytes: usize) {
        self.lock().force(bytes);
    }

    /// Counts only the connection from now on.
    pub(super) fn shrink(&self) {
        let mut held = self.lock();
        if held.bytes() > self.own {
            held.set(self.own);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock()
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
        let places = Places::new(account(), CONNECTION);
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
            // Strangers are closed first, even for a place of any kind.
            let wanted = if next == 3 { Wanted::Strangers } else { Wanted::Connection };
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
        let places = Places::new(account(), CONNECTION);
        let mut all: Vec<_> = (0..NOTED + 2).map(|_| seat(&places, true, false)).collect();
        advance(Duration::from_millis(10)).await;
        assert!(places.evict(Wanted::Strangers, Duration::ZERO), "and another one is noted");
        all.clear();
        assert!(!places.evict(Wanted::Strangers, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_has_just_come_is_left_alone_for_a_moment() {
        let places = Places::new(account(), CONNECTION);
        let _seated = seat(&places, true, false);
        advance(Duration::from_millis(50)).await;
        assert!(!places.evict(Wanted::Strangers, Duration::from_millis(100)));
        advance(Duration::from_millis(50)).await;
        assert!(places.evict(Wanted::Strangers, Duration::from_millis(100)));
    }

    #[tokio::test(start_paused = true)]
    async fn one_at_which_nobody_has_looked_yet_stays_and_so_does_one_whose_request_was_faster() {
        let places = Places::new(account(), CONNECTION);
        let seated = places.seat(true, false, Held::none(&account().strangers));
        assert!(!places.evict(Wanted::Strangers, Duration::ZERO), "its request may be here");
        seated.place.idles();
        assert!(places.evict(Wanted::Strangers, Duration::ZERO) && seated.place.is_evicted());
        assert!(seated.place.is_asked() && !seated.place.is_evicted());
    }

    #[tokio::test(start_paused = true)]
    async fn only_who_takes_nothing_of_an_answer_for_a_second_is_ended_to_make_room() {
        let places = Places::new(account(), CONNECTION);
        let (stalls, seated) = (Stalls(Arc::downgrade(&places)), seat(&places, false, false));
        advance(2 * STALLED).await;
        assert!(!stalls.relieve(), "it waits for a request");
        assert!(seated.place.works() && seated.place.stalls() && !stalls.relieve());
        advance(STALLED).await;
        assert!(stalls.relieve() && seated.place.is_evicted() && !stalls.relieve());
    }
}

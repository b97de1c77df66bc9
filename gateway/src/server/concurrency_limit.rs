//! Limits a server's concurrent calls, and queues further ones.
//!
//! Every call takes and returns a permit, on any thread: one atomic operation each while no call waits. Waiting calls
//! get permits in turn, but callers alternate first: one that sends a thousand calls delays no other.

mod queue;

use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout_at};

use self::queue::{Queue, Tell};

/// Waiting calls for each permit, and at least this many: a burst of a whole fleet of agents. A waiting call holds its
/// body, which has a separate limit, and a few kilobytes.
const WAITING_PER_SLOT: u32 = 4;
const LEAST_WAITING: u32 = 1000;

/// The permits of one server. Separate in memory from data that is only read.
#[repr(align(128))]
pub(crate) struct ConcurrencyLimit {
    taken: AtomicU32,
    /// The number of calls that wait or are about to.
    waiting: AtomicU32,
    limit: AtomicU32,
    /// The waiting calls. A notified call has a permit.
    queue: Mutex<Queue>,
    idle: Notify,
}

/// A permit, returned on drop.
pub(crate) struct Permit<'a>(&'a ConcurrencyLimit);

impl Permit<'_> {
    /// Keeps the permit, to be returned by [`ConcurrencyLimit::leave`].
    pub(crate) fn keep(self) {
        std::mem::forget(self);
    }
}

/// A turn in the queue, which may receive a permit even after its call has left.
struct QueuedTurn<'a> {
    slots: &'a ConcurrencyLimit,
    told: oneshot::Receiver<()>,
}

/// Counts one waiting call.
struct WaitingCount<'a>(&'a AtomicU32);

impl ConcurrencyLimit {
    /// Creates this many permits, all free.
    pub(crate) fn new(limit: u32) -> Self {
        Self {
            taken: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            limit: AtomicU32::new(limit),
            queue: Mutex::default(),
            idle: Notify::new(),
        }
    }

    /// Sets the number of permits. Calls that hold a permit keep it.
    pub(crate) fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::SeqCst);
        self.serve(&mut self.queue());
    }

    /// The number of permits in use.
    pub(crate) fn taken(&self) -> u32 {
        self.taken.load(Ordering::Relaxed)
    }

    /// A permit, if one is free and no call waits for it.
    pub(crate) fn take(&self) -> Option<Permit<'_>> {
        (self.waiting.load(Ordering::SeqCst) == 0 && self.try_take()).then(|| Permit(self))
    }

    /// Waits for a permit for this caller; `None` after `until`, and at once if too many calls wait already.
    pub(crate) async fn wait(&self, caller: u64, until: Instant) -> Option<Permit<'_>> {
        let _waiting = WaitingCount::one(&self.waiting);
        let mut turn = {
            let (tell, told) = oneshot::channel();
            let mut queue = self.queue();
            if !queue.push(caller, tell, self.most_waiting()) {
                return None;
            }
            self.serve(&mut queue);
            QueuedTurn { slots: self, told }
        };
        timeout_at(until, &mut turn.told).await.ok()?.ok()?;
        Some(Permit(self))
    }

    fn most_waiting(&self) -> usize {
        match self.limit.load(Ordering::Relaxed) {
            0 => 0,
            limit => limit.saturating_mul(WAITING_PER_SLOT).max(LEAST_WAITING) as usize,
        }
    }

    /// Returns a permit that was [kept](Permit::keep).
    pub(crate) fn leave(&self) {
        self.free();
    }

    /// Waits until all permits are free.
    pub(crate) async fn unused(&self) {
        loop {
            let idle = self.idle.notified();
            if self.taken() == 0 {
                return;
            }
            idle.await;
        }
    }

    fn try_take(&self) -> bool {
        let limit = self.limit.load(Ordering::SeqCst);
        let more = |taken: u32| (taken < limit).then_some(taken + 1);
        self.taken.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more).is_ok()
    }

    /// A call counts as waiting before it tries to take a permit, so it is seen here or sees the free permit.
    fn free(&self) {
        let before = self.taken.fetch_sub(1, Ordering::SeqCst);
        if self.waiting.load(Ordering::SeqCst) > 0 {
            self.serve(&mut self.queue());
        }
        if before == 1 {
            self.idle.notify_waiters();
        }
    }

    /// Gives free permits to waiting calls.
    fn serve(&self, queue: &mut Queue) {
        while !queue.is_empty() && self.try_take() {
            let told = std::iter::from_fn(|| queue.pop()).any(|next: Tell| next.send(()).is_ok());
            if !told {
                self.taken.fetch_sub(1, Ordering::SeqCst);
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock()
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.free();
    }
}

impl Drop for QueuedTurn<'_> {
    fn drop(&mut self) {
        self.told.close();
        // The notification came too late, and the permit was not taken.
        if self.told.try_recv().is_ok() {
            self.slots.free();
        }
    }
}

impl<'a> WaitingCount<'a> {
    fn one(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for WaitingCount<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use tokio::time::sleep;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    /// This many waiting calls, the first in front.
    fn who_wait(slots: &ConcurrencyLimit, count: u32) -> Vec<Pin<Box<impl Future<Output = Option<Permit<'_>>>>>> {
        let mut all: Vec<_> = (0..count).map(|_| Box::pin(slots.wait(0, soon()))).collect();
        all.iter_mut().for_each(|one| assert!(one.now_or_never().is_none()));
        all
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_as_many_places_as_the_limit_says() {
        let slots = ConcurrencyLimit::new(2);
        let (one, two) = (slots.take(), slots.take());
        assert!(one.is_some() && two.is_some() && slots.take().is_none());
        drop(one);
        assert_eq!((slots.taken(), slots.take().is_some()), (1, true));
        assert!(ConcurrencyLimit::new(0).wait(0, soon()).await.is_none(), "without places nobody may wait");
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_gets_a_place_in_turn_and_before_who_comes_later() {
        let slots = ConcurrencyLimit::new(1);
        let held = slots.take();
        let mut waiting = who_wait(&slots, 2);
        let (mut second, first) = (waiting.remove(1), waiting.remove(0));
        drop(held);
        assert!(slots.take().is_none(), "it is given to the first who waits");
        assert!((&mut second).now_or_never().is_none());
        let got = first.now_or_never().flatten();
        assert!(got.is_some() && (&mut second).now_or_never().is_none());
        drop(got);
        assert!(second.now_or_never().flatten().is_some());
        assert_eq!(slots.taken(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_longer_than_asked_or_behind_too_many() {
        let slots = ConcurrencyLimit::new(1);
        let _held = slots.take();
        let began = Instant::now();
        assert!(slots.wait(0, began + Duration::from_millis(300)).await.is_none());
        assert_eq!(began.elapsed(), Duration::from_millis(300));
        let mut crowd = who_wait(&slots, LEAST_WAITING);
        assert!(slots.wait(0, soon()).now_or_never().expect("at once").is_none());
        crowd.pop();
        assert!(slots.wait(0, soon()).now_or_never().is_none(), "there is room again in the queue");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_take_turns_and_who_has_the_most_gives_way_when_all_are_full() {
        let slots = ConcurrencyLimit::new(1);
        let mut held = slots.take();
        let mut greedy: Vec<_> = (0..LEAST_WAITING).map(|_| Box::pin(slots.wait(1, soon()))).collect();
        greedy.iter_mut().for_each(|one| assert!(one.now_or_never().is_none()));
        let mut other = Box::pin(slots.wait(2, soon()));
        assert!((&mut other).now_or_never().is_none(), "it waits instead of the last of the other");
        assert!(greedy.pop().and_then(|last| last.now_or_never()).expect("at once").is_none());
        drop(held.take());
        let first = greedy.remove(0).now_or_never().flatten();
        assert!(first.is_some());
        drop(first);
        assert!(other.now_or_never().flatten().is_some(), "it does not wait for all others");
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_given_to_who_has_gone_away_is_the_next_ones() {
        let slots = ConcurrencyLimit::new(1);
        let held = slots.take();
        let mut turns = who_wait(&slots, 3);
        // The first is gone before there is a place, the second after it was given to it.
        drop(turns.remove(0));
        drop(held);
        drop(turns.remove(0));
        assert!(turns.remove(0).now_or_never().flatten().is_some());
        assert_eq!((slots.taken(), slots.take().is_some()), (0, true));
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_given_up_is_in_nobodys_way() {
        let slots = ConcurrencyLimit::new(1);
        let held = slots.take();
        for number_of_caller in 0..3 * u64::from(LEAST_WAITING) {
            assert!(slots.wait(number_of_caller % 7, Instant::now()).await.is_none());
        }
        assert!(slots.queue().len() <= LEAST_WAITING as usize);
        drop(held);
        // Another call is about to wait, so that the next one may not just take the free permit.
        let _other = WaitingCount::one(&slots.waiting);
        assert!(slots.take().is_none());
        assert!(slots.wait(0, soon()).now_or_never().flatten().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn a_higher_limit_lets_in_who_waits_and_a_lower_one_takes_nothing_away() {
        let slots = ConcurrencyLimit::new(1);
        let held = slots.take();
        let mut waiting = who_wait(&slots, 3);
        slots.set_limit(3);
        let got: Vec<_> = waiting.iter_mut().map(|one| one.now_or_never().flatten()).collect();
        assert_eq!(got.iter().map(Option::is_some).collect::<Vec<_>>(), [true, true, false]);
        slots.set_limit(1);
        drop(got);
        assert!(slots.take().is_none(), "one place is held");
        drop(held);
        assert!(waiting.pop().and_then(|last| last.now_or_never().flatten()).is_some());
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn no_place_is_lost_or_made_by_many_threads() {
        let (slots, most) = (Arc::new(ConcurrencyLimit::new(3)), Arc::new(AtomicU32::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..32_u64 {
            let (slots, most) = (slots.clone(), most.clone());
            tasks.spawn(async move {
                let mut got = 0_u32;
                for round in 0..300 {
                    let slot = match slots.take() {
                        Some(slot) => Some(slot),
                        // Some give up while they wait.
                        None => {
                            slots.wait(number % 5, Instant::now() + Duration::from_micros(number * 37 + round)).await
                        }
                    };
                    most.fetch_max(slots.taken(), Ordering::Relaxed);
                    tokio::task::yield_now().await;
                    got += u32::from(slot.is_some());
                }
                got
            });
        }
        let got: u32 = tasks.join_all().await.into_iter().sum();
        assert!(got > 0 && most.load(Ordering::Relaxed) <= 3, "{got}");
        assert_eq!((slots.taken(), slots.queue().open()), (0, 0));
        assert!(slots.take().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_all_to_leave_hears_of_the_last() {
        let slots = ConcurrencyLimit::new(2);
        let (one, two) = (slots.take(), slots.take());
        let mut unused = Box::pin(slots.unused());
        assert!((&mut unused).now_or_never().is_none());
        drop(one);
        assert!((&mut unused).now_or_never().is_none());
        drop(two);
        sleep(Duration::from_millis(1)).await;
        assert!(unused.now_or_never().is_some());
    }
}

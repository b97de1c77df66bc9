//! One account of the bytes that this process holds for others: it never holds more than it may, whoever sends what.
//!
//! The account has three parts, so that one cannot take the room of another: connections that have not shown a good
//! token, connections of callers with their small requests, and everything that is large. What is held is told by a
//! [`Held`], which gives its bytes back when it is dropped. Only what the process cannot bound otherwise is counted:
//! servers, catalogs and keys are not.

mod limit;

use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

pub use self::limit::{Limit, LimitSource, available, follow};
use crate::workers::Parts;

/// What an open connection takes: its task, its first buffer, and what the system keeps for it.
pub const CONNECTION: usize = 12 * 1024;

/// What a request under way takes besides, as long as nothing of it is large.
pub const REQUEST: usize = 12 * 1024;

/// Bodies, results and events up to so many bytes are in the allowance of their request.
pub const SMALL: usize = 8 * 1024;

/// A worker takes so much at a time for its small requests.
const BATCH: usize = 64 * 1024;

/// Something large waits so long for room before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// Until somebody sets another limit, as in tests: so much that it does not count.
const UNSET: usize = 1 << 40;

/// Shares of the account, in percent.
const STRANGERS: usize = 15;
const CALLERS: usize = 45;

static ACCOUNT: LazyLock<Account> = LazyLock::new(|| Account::new(UNSET));

/// The account of this process.
pub fn account() -> &'static Account {
    &ACCOUNT
}

/// What a process holds, in parts.
#[derive(Debug)]
pub struct Account {
    /// Connections that have not shown a good token, and what they send.
    pub strangers: Part,
    /// Connections that have, and their small requests.
    pub callers: Part,
    /// Bodies, results and events that are not small.
    pub large: Part,
    /// Room for small requests that each worker has taken from `callers`.
    spare: Parts<Spare>,
    relief: Mutex<Vec<Box<dyn Relief>>>,
}

/// Somebody who can make room: lets go of what holds memory and does not move.
pub trait Relief: Send + std::fmt::Debug {
    /// Ends whoever has taken nothing of a long answer for longest; false if there is none.
    fn relieve(&self) -> bool;
}

#[derive(Debug, Default)]
struct Spare(AtomicIsize);

/// One part of the account.
#[derive(Debug)]
#[repr(align(128))]
pub struct Part {
    limit: AtomicUsize,
    held: AtomicUsize,
    refused: AtomicU64,
    /// Who waits for room.
    waiting: AtomicUsize,
    room: Notify,
}

/// Bytes that count in a part until this is dropped.
#[derive(Debug)]
pub struct Held {
    part: &'static Part,
    bytes: usize,
}

/// The allowance of one small request.
#[derive(Debug)]
pub struct Allowance(&'static Account);

/// There is no room left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory of the gateway is full")]
pub struct Full;

/// Bytes that count as long as any piece of them is there.
struct Counted {
    bytes: Bytes,
    _held: Held,
}

// === impl Account ===

impl Account {
    fn new(limit: usize) -> Self {
        let account = Self {
            strangers: Part::new(),
            callers: Part::new(),
            large: Part::new(),
            spare: Parts::default(),
            relief: Mutex::default(),
        };
        account.set_limit(limit);
        account
    }

    /// Changes the limit of all parts together. What is held already stays.
    pub fn set_limit(&self, limit: usize) {
        let share = |percent: usize| limit / 100 * percent;
        self.strangers.set_limit(share(STRANGERS));
        self.callers.set_limit(share(CALLERS));
        self.large.set_limit(share(100 - STRANGERS - CALLERS));
    }

    /// The parts with their names, for metrics.
    pub fn parts(&self) -> [(&'static str, &Part); 3] {
        [("strangers", &self.strangers), ("callers", &self.callers), ("large", &self.large)]
    }

    /// Bytes held in all parts.
    pub fn held(&self) -> usize {
        self.parts().iter().map(|(_, part)| part.held()).sum()
    }

    /// Adds somebody who can make room.
    pub fn add_relief(&self, relief: Box<dyn Relief>) {
        self.relief.lock().unwrap_or_else(PoisonError::into_inner).push(relief);
    }

    /// The allowance of a small request; none if the callers' part is full. Usually touches only what this worker has.
    pub fn allowance(&'static self) -> Option<Allowance> {
        let spare = &self.spare.own().0;
        if spare.fetch_sub(REQUEST.cast_signed(), Ordering::Relaxed) >= REQUEST.cast_signed() {
            return Some(Allowance(self));
        }
        if self.callers.try_take(BATCH) {
            spare.fetch_add(BATCH.cast_signed(), Ordering::Relaxed);
            return Some(Allowance(self));
        }
        spare.fetch_add(REQUEST.cast_signed(), Ordering::Relaxed);
        self.callers.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    fn give_back(&self) {
        let spare = &self.spare.own().0;
        let now = spare.fetch_add(REQUEST.cast_signed(), Ordering::Relaxed) + REQUEST.cast_signed();
        if now > 2 * BATCH.cast_signed() {
            spare.fetch_sub(BATCH.cast_signed(), Ordering::Relaxed);
            self.callers.give(BATCH);
        }
    }

    /// Ends whoever has taken nothing of a long answer for longest; false if there is none.
    pub fn relieve(&self) -> bool {
        self.relief.lock().unwrap_or_else(PoisonError::into_inner).iter().any(|one| one.relieve())
    }

    /// Waits until `held` may count so many bytes more among what is large, and counts them. Meanwhile, who takes
    /// nothing of a long answer is let go.
    ///
    /// # Errors
    /// [`Full`]: there was no room for a second.
    pub async fn room(&'static self, held: &mut Held, bytes: usize) -> Result<(), Full> {
        if bytes == 0 || held.grow(bytes) {
            return Ok(());
        }
        // In a box, so that what usually has room does not carry that for waiting.
        Box::pin(self.wait_for_room(held, bytes)).await
    }

    async fn wait_for_room(&'static self, held: &mut Held, bytes: usize) -> Result<(), Full> {
        let _waiting = Waiting::in_part(held.part);
        let until = Instant::now() + PATIENCE;
        loop {
            let freed = held.part.room.notified();
            if held.grow(bytes) {
                return Ok(());
            }
            self.relieve();
            if timeout_at(until, freed).await.is_err() {
                held.part.refused.fetch_add(1, Ordering::Relaxed);
                return Err(Full);
            }
        }
    }

    /// Waits until there is room for anything large; for what is counted only when it has come.
    ///
    /// # Errors
    /// [`Full`]: there was none for a second.
    pub async fn any_room(&'static self) -> Result<(), Full> {
        if self.large.has_room() {
            return Ok(());
        }
        let mut none = Held::none(&self.large);
        self.room(&mut none, 1).await
    }

    /// Counts bytes that are there already, unless they are small: no copy of them counts again.
    pub fn kept(&'static self, bytes: impl Into<Bytes>) -> Bytes {
        let bytes = bytes.into();
        if bytes.len() <= SMALL {
            return bytes;
        }
        let held = Held::forced(&self.large, bytes.len());
        held.keeping(bytes)
    }
}

impl Drop for Allowance {
    fn drop(&mut self) {
        self.0.give_back();
    }
}

// === impl Part ===

impl Part {
    const fn new() -> Self {
        Self {
            limit: AtomicUsize::new(0),
            held: AtomicUsize::new(0),
            refused: AtomicU64::new(0),
            waiting: AtomicUsize::new(0),
            room: Notify::const_new(),
        }
    }

    fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.tell_of_room();
    }

    /// Bytes that it may hold.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// Bytes that it holds.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How often there was no room.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn has_room(&self) -> bool {
        self.held() < self.limit()
    }

    fn try_take(&self, bytes: usize) -> bool {
        let limit = self.limit();
        let more = |held: usize| held.checked_add(bytes).filter(|held| *held <= limit);
        self.held.fetch_update(Ordering::AcqRel, Ordering::Relaxed, more).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::AcqRel);
        self.tell_of_room();
    }

    fn tell_of_room(&self) {
        if self.waiting.load(Ordering::Acquire) > 0 {
            self.room.notify_waiters();
        }
    }
}

/// Counts one who waits for room.
struct Waiting(&'static Part);

impl Waiting {
    fn in_part(part: &'static Part) -> Self {
        part.waiting.fetch_add(1, Ordering::AcqRel);
        Self(part)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

// === impl Held ===

impl Held {
    /// Nothing yet.
    pub const fn none(part: &'static Part) -> Self {
        Self { part, bytes: 0 }
    }

    /// So many bytes, if there is room.
    pub fn of(part: &'static Part, bytes: usize) -> Option<Self> {
        if part.try_take(bytes) {
            return Some(Self { part, bytes });
        }
        part.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// So many bytes, whether there is room or not: for what is there already, or about to be made room for.
    pub fn forced(part: &'static Part, bytes: usize) -> Self {
        part.held.fetch_add(bytes, Ordering::AcqRel);
        Self { part, bytes }
    }

    /// Counts so many more, if there is room.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let grown = self.part.try_take(bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Counts so many more, whether there is room or not.
    pub fn force(&mut self, bytes: usize) {
        self.part.held.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
    }

    /// Counts exactly so many from now on, whether there is room or not.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.force(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.part.give(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    /// The same bytes in another part, if there is room.
    pub fn move_to(&mut self, part: &'static Part) -> bool {
        let moved = part.try_take(self.bytes);
        if moved {
            let before = std::mem::replace(&mut self.part, part);
            before.give(self.bytes);
        }
        moved
    }

    /// How many it counts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// These bytes, which count what this holds as long as any piece of them is there.
    pub fn keeping(self, bytes: Bytes) -> Bytes {
        if self.bytes == 0 { bytes } else { Bytes::from_owner(Counted { bytes, _held: self }) }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.part.give(self.bytes);
        }
    }
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests;

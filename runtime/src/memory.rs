//! One account of the bytes that this process holds for others: it never exceeds its limit, whoever sends what.
//!
//! The account has three parts, so that none can take the space of another: connections without a valid token,
//! connections of callers with their small requests, and everything large. A [`Held`] counts bytes, and returns them
//! when it is dropped. Only bytes without another limit are counted: servers, catalogs and keys are not.

mod limit;

use std::sync::LazyLock;
use std::sync::atomic::{AtomicIsize, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

pub use self::limit::{Limit, LimitSource, available, follow};
use crate::workers::Parts;

/// The cost of an open connection: its task, its first buffer, and the system's buffers for it.
pub const CONNECTION: usize = 12 * 1024;

/// The additional cost of a TLS connection: its keys, and its buffers for records.
pub const TLS: usize = 12 * 1024;

/// The additional cost of a running request while no part of it is large.
pub const REQUEST: usize = 12 * 1024;

/// Bodies, results and events up to this size are covered by the allowance of their request.
pub const SMALL: usize = 8 * 1024;

/// A worker reserves this much at a time for its small requests.
const BATCH: usize = 64 * 1024;

/// How long something large waits for space before it is refused.
const PATIENCE: Duration = Duration::from_secs(1);

/// The limit until another is set, as in tests: effectively none.
const UNSET: usize = 1 << 40;

/// Shares of the account, in percent.
const STRANGERS: usize = 15;
const CALLERS: usize = 45;

static ACCOUNT: LazyLock<Account> = LazyLock::new(|| Account::new(UNSET));

/// The account of this process.
pub fn account() -> &'static Account {
    &ACCOUNT
}

/// The bytes that a process holds, in parts.
#[derive(Debug)]
pub struct Account {
    /// Connections without a valid token, and what they send.
    pub strangers: Part,
    /// Connections with a valid token, and their small requests.
    pub callers: Part,
    /// Large bodies, results and events.
    pub large: Part,
    /// Space for small requests that each worker has reserved from `callers`.
    spare: Parts<Spare>,
    relief: Mutex<Vec<Box<dyn Relief>>>,
}

/// Can free memory: closes connections that hold memory and make no progress.
pub trait Relief: Send + std::fmt::Debug {
    /// Closes the connection that has gone longest without reading its long answer; false if there is none.
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
    /// The number of tasks that wait for space.
    waiting: AtomicUsize,
    room: Notify,
}

/// Counts bytes in a part until it is dropped.
#[derive(Debug)]
pub struct Held {
    part: &'static Part,
    bytes: usize,
}

/// The allowance of one small request.
#[derive(Debug)]
pub struct Allowance(&'static Account);

/// There is no space left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the memory of the gateway is full")]
pub struct Full;

/// Bytes that count as long as any piece of them exists.
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

    /// Changes the limit of all parts together. Held bytes stay.
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

    /// Registers a relief.
    pub fn add_relief(&self, relief: Box<dyn Relief>) {
        self.relief.lock().push(relief);
    }

    /// The allowance of a small request; `None` if the callers' part is full. Usually touches only this worker's
    /// reserve.
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

    /// Closes the connection that has gone longest without reading its long answer; false if there is none.
    pub fn relieve(&self) -> bool {
        self.relief.lock().iter().any(|one| one.relieve())
    }

    /// Waits until `held` may count this many more large bytes, and counts them. Meanwhile, closes connections that
    /// read nothing of a long answer.
    ///
    /// # Errors
    /// [`Full`]: there was no space for a second.
    pub async fn room(&'static self, held: &mut Held, bytes: usize) -> Result<(), Full> {
        if bytes == 0 || held.grow(bytes) {
            return Ok(());
        }
        // Boxed, so that the usual future does not include the wait.
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

    /// Waits until there is space for anything large; for data that is counted only once it has arrived.
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

    /// Counts existing bytes, unless they are small: no copy of them counts again.
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

    /// The limit in bytes.
    pub fn limit(&self) -> usize {
        self.limit.load(Ordering::Relaxed)
    }

    /// The held bytes.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// How often there was no space.
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

/// Counts one task that waits for space.
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
    /// Counts nothing yet.
    pub const fn none(part: &'static Part) -> Self {
        Self { part, bytes: 0 }
    }

    /// Counts this many bytes, if there is space.
    pub fn of(part: &'static Part, bytes: usize) -> Option<Self> {
        if part.try_take(bytes) {
            return Some(Self { part, bytes });
        }
        part.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Counts this many bytes, even without space: for bytes that exist already, or for which space is about to be
    /// freed.
    pub fn forced(part: &'static Part, bytes: usize) -> Self {
        part.held.fetch_add(bytes, Ordering::AcqRel);
        Self { part, bytes }
    }

    /// Counts this many more, if there is space.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let grown = self.part.try_take(bytes);
        if grown {
            self.bytes += bytes;
        }
        grown
    }

    /// Counts this many more, even without space.
    pub fn force(&mut self, bytes: usize) {
        self.part.held.fetch_add(bytes, Ordering::AcqRel);
        self.bytes += bytes;
    }

    /// Sets the count, even without space.
    pub fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.force(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.part.give(self.bytes - bytes);
            self.bytes = bytes;
        }
    }

    /// Sets the count, or zero if the bytes are small. False, without a change, if it would grow and there is no space.
    pub fn count(&mut self, bytes: usize) -> bool {
        let now = if bytes > SMALL { bytes } else { 0 };
        if now > self.bytes {
            return self.grow(now - self.bytes);
        }
        self.set(now);
        true
    }

    /// Moves the bytes to another part, if it has space.
    pub fn move_to(&mut self, part: &'static Part) -> bool {
        let moved = part.try_take(self.bytes);
        if moved {
            let before = std::mem::replace(&mut self.part, part);
            before.give(self.bytes);
        }
        moved
    }

    /// The number of counted bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Attaches the count to these bytes, as long as any piece of them exists.
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

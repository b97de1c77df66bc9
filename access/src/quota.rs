//! Counts calls against the limits of rules, in memory that is bounded however many callers there are.
//!
//! Pure: the caller passes the time. Each limit has token buckets, for each caller, each item or both. A bucket is kept as
//! the moment at which it is full again, which needs no timer, and stays right when the number of replicas changes: what was
//! half full is half full.

use std::fmt;
use std::hash::Hash as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use hashlink::LruCache;
use parking_lot::Mutex;
use portcullis_crds::ServerKey;
use portcullis_crds::mcpaccesspolicy::{CallLimit, LimitPeriod, LimitScope};
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use thiserror::Error;

use crate::decision::ItemKind;
use crate::policy::CompiledRule;

/// Buckets that a gateway keeps. Beyond, those go first that were not used for the longest time.
pub const MAX_BUCKETS: usize = 100_000;

/// Parts with a lock of their own.
const SHARDS: usize = 16;

/// Fewer buckets are kept in one part, and so in exact order.
const MIN_SHARDED: usize = 10_000;

/// Replicas beyond this number do not make the share of each smaller.
const MAX_REPLICAS: u32 = 10_000;

/// The issuer and the subject of a caller.
pub type CallerId<'a> = (Option<&'a str>, &'a str);

/// What is called: the server, and the kind and own name of its item.
pub type CalledItem<'a> = (&'a ServerKey, ItemKind, &'a str);

/// The buckets of all limits. Shared by all threads.
pub struct Quotas {
    began: Instant,
    /// With a key that only this process knows: nobody finds two subjects that share a bucket.
    hasher: SipHasher24,
    replicas: AtomicU32,
    shards: Box<[Mutex<LruCache<u128, FullAt>>]>,
}

/// When a bucket is full, in nanoseconds since [`Quotas::began`].
type FullAt = u64;

/// A limit is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the limit of {} calls per {} is used up: retry in {} s", .limit.calls, .limit.per.as_str(), self.retry_after_seconds())]
pub struct Exhausted {
    /// The limit.
    pub limit: CallLimit,
    /// Time until a call is possible again.
    pub retry_after: Duration,
    /// Time until as many calls are possible at once as ever.
    pub reset: Duration,
}

/// The state of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuotaState {
    /// Calls of the limit in each period, in all replicas together.
    pub calls: u32,
    /// The period.
    pub per: LimitPeriod,
    /// Calls that this replica allows at once.
    pub remaining: u32,
    /// Time until a call is possible again; zero while one is.
    pub retry_after: Duration,
    /// Time until it allows as many at once as ever.
    pub reset: Duration,
}

/// A replica's share of a limit, in nanoseconds.
#[derive(Clone, Copy)]
struct Share {
    /// Time in which one token comes.
    interval: u64,
    /// Time in which an empty bucket fills.
    window: u64,
}

impl Exhausted {
    /// [`Exhausted::retry_after`] in whole seconds, rounded up, as `Retry-After` takes it.
    pub fn retry_after_seconds(&self) -> u64 {
        whole_seconds(self.retry_after).max(1)
    }

    /// [`Exhausted::reset`] in whole seconds, rounded up.
    pub fn reset_seconds(&self) -> u64 {
        whole_seconds(self.reset).max(1)
    }
}

fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

impl Share {
    /// One of `replicas` shares of a limit.
    fn of(limit: CallLimit, replicas: u32) -> Self {
        let (calls, replicas) = (u128::from(limit.calls.max(1)), u128::from(replicas));
        // Rounded up: a share is never larger than it may be.
        let interval = (limit.per.duration().as_nanos() * replicas).div_ceil(calls);
        // A bucket smaller than one token would never allow anything.
        let window = (interval * calls / replicas).max(interval);
        Self { interval: nanoseconds(interval), window: nanoseconds(window) }
    }

    /// Time until a bucket is full, which may have been used with another share.
    fn missing(self, full_at: FullAt, now: u64) -> u64 {
        full_at.saturating_sub(now).min(self.window)
    }

    /// When a bucket is full after one token was taken from it; the time until there is one, if there is none.
    fn take(self, full_at: FullAt, now: u64) -> Result<FullAt, u64> {
        let after = self.missing(full_at, now) + self.interval;
        if after > self.window { Err(after - self.window) } else { Ok(now + after) }
    }
}

fn nanoseconds(time: u128) -> u64 {
    // Half of what fits, so that sums fit too: 292 years.
    u64::try_from(time).unwrap_or(u64::MAX).min(u64::MAX / 2)
}

impl Default for Quotas {
    fn default() -> Self {
        Self::new(MAX_BUCKETS)
    }
}

impl Quotas {
    /// No buckets yet, and at most `capacity`. The gateway counts as the only replica.
    pub fn new(capacity: usize) -> Self {
        let mut key = [0; 16];
        aws_lc_rs::rand::fill(&mut key).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        let shards = if capacity < MIN_SHARDED { 1 } else { SHARDS };
        // Keys do not spread evenly over the parts: each holds some more than its share.
        let each = if shards == 1 { capacity } else { capacity.div_ceil(shards) + capacity / shards / 16 };
        Self {
            began: Instant::now(),
            hasher: SipHasher24::new_with_key(&key),
            replicas: AtomicU32::new(1),
            shards: (0..shards).map(|_| Mutex::new(LruCache::new(each.max(1)))).collect(),
        }
    }

    /// Shares all limits among so many replicas; 0 counts as 1.
    pub fn set_replicas(&self, replicas: u32) {
        self.replicas.store(replicas.clamp(1, MAX_REPLICAS), Ordering::Relaxed);
    }

    /// The replicas that share the limits.
    pub fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::Relaxed)
    }

    /// Takes a token from the limit of a rule, if it has one.
    ///
    /// # Errors
    /// The limit is used up.
    pub fn take(
        &self,
        rule: &CompiledRule,
        who: CallerId<'_>,
        what: CalledItem<'_>,
        now: Instant,
    ) -> Result<(), Exhausted> {
        let Some(limit) = rule.limit else { return Ok(()) };
        let (share, key, now) = (Share::of(limit, self.replicas()), self.key(rule, limit, who, what), self.since(now));
        let mut buckets = self.shard(key).lock();
        let full_at = buckets.get(&key).copied().unwrap_or(0);
        match share.take(full_at, now) {
            Ok(full_at) => {
                buckets.insert(key, full_at);
                Ok(())
            }
            Err(wait) => {
                let reset = Duration::from_nanos(share.missing(full_at, now));
                Err(Exhausted { limit, retry_after: Duration::from_nanos(wait), reset })
            }
        }
    }

    /// What is left of the limit of a rule; `None` without a limit. Takes nothing, and keeps no bucket from going.
    pub fn peek(
        &self,
        rule: &CompiledRule,
        who: CallerId<'_>,
        what: CalledItem<'_>,
        now: Instant,
    ) -> Option<QuotaState> {
        let limit = rule.limit?;
        let (share, key) = (Share::of(limit, self.replicas()), self.key(rule, limit, who, what));
        let full_at = self.shard(key).lock().peek(&key).copied().unwrap_or(0);
        let now = self.since(now);
        let (missing, wait) = (share.missing(full_at, now), share.take(full_at, now).err().unwrap_or(0));
        let remaining = (share.window - missing) / share.interval;
        let remaining = u32::try_from(remaining).unwrap_or(u32::MAX);
        let (retry_after, reset) = (Duration::from_nanos(wait), Duration::from_nanos(missing));
        Some(QuotaState { calls: limit.calls, per: limit.per, remaining, retry_after, reset })
    }

    /// The number of buckets.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Whether nothing was counted yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The key of a bucket. The limit is part of it: a changed one begins anew.
    fn key(&self, rule: &CompiledRule, limit: CallLimit, who: CallerId<'_>, what: CalledItem<'_>) -> u128 {
        let (who, what) = match limit.by {
            LimitScope::Subject => (Some(who), None),
            LimitScope::Tool => (None, Some(what)),
            LimitScope::Both => (Some(who), Some(what)),
        };
        let mut hasher = self.hasher;
        (&rule.policy, &rule.name, limit, who, what).hash(&mut hasher);
        hasher.finish128().as_u128()
    }

    fn shard(&self, key: u128) -> &Mutex<LruCache<u128, FullAt>> {
        let at = usize::try_from(key % self.shards.len() as u128).unwrap_or(0);
        &self.shards[at]
    }

    fn since(&self, now: Instant) -> u64 {
        nanoseconds(now.saturating_duration_since(self.began).as_nanos())
    }
}

impl fmt::Debug for Quotas {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Quotas").field("replicas", &self.replicas()).field("buckets", &self.len()).finish()
    }
}

#[cfg(test)]
mod tests;

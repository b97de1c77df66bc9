//! A token bucket: bounds a burst and a rate per second.
//!
//! Pure: the caller passes the time, so that tests can use a paused clock.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back with time.
#[derive(Debug)]
pub(crate) struct Bucket {
    burst: f64,
    per_second: f64,
    tokens: f64,
    counted: Instant,
}

impl Bucket {
    /// A full bucket.
    pub(crate) fn new(burst: u32, per_second: u32, now: Instant) -> Self {
        Self { burst: burst.into(), per_second: per_second.into(), tokens: burst.into(), counted: now }
    }

    /// Takes a token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        self.count(now);
        let there = self.tokens >= 1.0;
        if there {
            self.tokens -= 1.0;
        }
        there
    }

    /// When the next token is available.
    pub(crate) fn next(&mut self, now: Instant) -> Instant {
        self.count(now);
        let missing = (1.0 - self.tokens).max(0.0);
        // A little more, so that rounding wakes nobody too early.
        let wait = if missing > 0.0 { missing / self.per_second + 0.000_1 } else { 0.0 };
        now + Duration::from_secs_f64(wait)
    }

    fn count(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.counted).as_secs_f64();
        self.tokens = (self.tokens + passed * self.per_second).min(self.burst);
        self.counted = self.counted.max(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_with_time_and_never_more_than_fit() {
        let start = Instant::now();
        let mut bucket = Bucket::new(2, 10, start);
        assert_eq!([bucket.take(start), bucket.take(start), bucket.take(start)], [true, true, false]);
        let next = bucket.next(start);
        assert!((100..102).contains(&(next - start).as_millis()), "{:?}", next - start);
        assert_eq!((bucket.take(next), bucket.take(next)), (true, false));
        let later = start + Duration::from_secs(60);
        assert_eq!([bucket.take(later), bucket.take(later), bucket.take(later)], [true, true, false]);
    }
}

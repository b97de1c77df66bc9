//! Computes the pause before the next attempt to connect.
//!
//! Pure except for the random number that is passed in.

use std::time::Duration;

/// Cap of the first real pause.
const FIRST: Duration = Duration::from_millis(500);

/// Cap of every pause: a dead server is tried at least twice a minute.
const LONGEST: Duration = Duration::from_secs(30);

/// Cap of the pauses after the first ones: a server that returns after seconds is soon used again.
const DENSE: Duration = Duration::from_millis(1_500);

/// Later pauses are this part of the outage's duration.
const PART: u32 = 15;

/// Added to the cap for each unavailable server: however many there are, there are no more than some hundred attempts a
/// second.
const FOR_EACH_AWAY: Duration = Duration::from_millis(10);

/// The minimum lifetime of a session that resets the count of attempts: a server that dies at once after each handshake
/// must not be hammered.
pub(crate) const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Pause before attempt number `attempt` (0 is the first after a session ended; it comes almost at once).
///
/// Full jitter: anything from zero to the cap, by `random` in 0..1. Source: M. Brooker, "Exponential Backoff And
/// Jitter", 2015.
pub(crate) fn pause(attempt: u32, random: f64) -> Duration {
    let cap = match attempt {
        0 => Duration::from_millis(50),
        n => (FIRST * 2u32.pow((n - 1).min(10))).min(LONGEST),
    };
    cap.mul_f64(random.clamp(0.0, 1.0))
}

/// The inputs for the pause before an attempt to connect to a server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Outage {
    /// The number of the attempt; 0 is the first after a session ended, and comes almost at once.
    pub(crate) attempt: u32,
    /// The duration of the outage.
    pub(crate) lasts: Duration,
    /// The number of unavailable servers.
    pub(crate) away: u32,
}

/// The pause before an attempt to connect to a server, by `random` in 0..1.
///
/// The first pauses are those of [`pause`]. Later ones last at least half of their cap: a server that was down for
/// seconds is soon used again, and one that is gone is tried less and less.
pub(crate) fn reconnect(outage: Outage, random: f64) -> Duration {
    if outage.attempt < 3 {
        return pause(outage.attempt, random);
    }
    let crowd = FOR_EACH_AWAY.saturating_mul(outage.away);
    let cap = (outage.lasts / PART).max(crowd).clamp(DENSE, LONGEST);
    cap.mul_f64((1.0 + random.clamp(0.0, 1.0)) / 2.0)
}

/// A number in 0..1.
pub(crate) fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// `base` plus or minus a fifth.
pub(crate) fn jittered(base: Duration) -> Duration {
    base.mul_f64(0.8 + 0.4 * random())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn longest(attempt: u32, lasts: u64, away: u32) -> u64 {
        let outage = Outage { attempt, lasts: Duration::from_secs(lasts), away };
        assert!(reconnect(outage, 0.0) <= reconnect(outage, 1.0) / 2);
        u64::try_from(reconnect(outage, 1.0).as_millis()).unwrap()
    }

    #[test]
    fn pauses_double_up_to_the_cap() {
        let longest: Vec<u64> = (0..9).map(|n| u64::try_from(pause(n, 1.0).as_millis()).unwrap()).collect();
        assert_eq!(longest, [50, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST);
        assert_eq!(pause(5, 0.0), Duration::ZERO);
    }

    #[test]
    fn pauses_are_short_at_first_and_grow_with_the_outage_up_to_the_cap() {
        let at = [(0, 0), (1, 0), (2, 1), (3, 2), (20, 20), (30, 60), (50, 300), (70, 3_600), (u32::MAX, 1 << 40)];
        let found = at.map(|(attempt, lasts)| longest(attempt, lasts, 1));
        assert_eq!(found, [50, 500, 1_000, 1_500, 1_500, 4_000, 20_000, 30_000, 30_000]);
    }

    #[test]
    fn however_many_servers_are_away_few_attempts_are_made_in_all() {
        for away in [1, 100, 1_000, 3_000] {
            let each = f64::from(u32::try_from(longest(5, 10, away)).unwrap()) / 1_000.0 * 0.75;
            let all = f64::from(away) / each;
            assert!(all <= 140.0, "{away}: {all} attempts a second");
        }
        assert_eq!((longest(5, 10, 1_000), longest(5, 10, 1_000_000)), (10_000, 30_000));
    }
}

//! How long to wait before the next attempt to connect.
//!
//! Pure but for the random number it is given.

use std::time::Duration;

/// Cap of the first waited pause.
const FIRST: Duration = Duration::from_millis(500);

/// Cap of every pause: a dead server is tried at least twice a minute.
const LONGEST: Duration = Duration::from_secs(30);

/// A session must have lived so long for the count of attempts to begin anew: a server that dies at once after each
/// handshake must not be hammered.
pub const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// Pause before attempt number `attempt` (0 is the first after a session ended; it comes almost at once).
///
/// Full jitter: anything from nothing to the cap, by `random` in 0..1.
/// Source: M. Brooker, "Exponential Backoff And Jitter", 2015.
pub fn pause(attempt: u32, random: f64) -> Duration {
    let cap = match attempt {
        0 => Duration::from_millis(50),
        n => (FIRST * 2u32.pow((n - 1).min(10))).min(LONGEST),
    };
    cap.mul_f64(random.clamp(0.0, 1.0))
}

/// A number in 0..1.
pub fn random() -> f64 {
    let mut bytes = [0; 4];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}

/// `base` give or take a fifth.
pub fn jittered(base: Duration) -> Duration {
    base.mul_f64(0.8 + 0.4 * random())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_cap() {
        let longest: Vec<u64> = (0..9).map(|n| u64::try_from(pause(n, 1.0).as_millis()).unwrap()).collect();
        assert_eq!(longest, [50, 500, 1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000]);
        assert_eq!(pause(u32::MAX, 1.0), LONGEST);
        assert_eq!(pause(5, 0.0), Duration::ZERO);
    }
}

//! How far apart the two processors are: the time in which a value goes from one to the other and back.
//!
//! A virtual machine's processors may share a cache at one time and none at another. What two processors are good for
//! depends on it, more for programs whose threads write the same memory.

use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::processor::bind;

/// Turns for one measurement: some hundredths of a second.
const TURNS: u32 = 200_000;

/// Alone in its line of the cache.
#[repr(align(128))]
struct Turn(AtomicU32);

/// Lets two threads on processors 0 and 1 take turns; tells the time of one turn of both.
///
/// # Errors
/// There are no such processors for us.
pub fn round_trip() -> anyhow::Result<Duration> {
    let turn = Turn(AtomicU32::new(0));
    thread::scope(|scope| {
        let there = scope.spawn(|| {
            let bound = bind(1);
            // Takes its turns also where it is not bound, or the other would wait for ever.
            take_turns(&turn, 1, TURNS);
            bound
        });
        let here = scope.spawn(|| {
            let bound = bind(0);
            let began = Instant::now();
            take_turns(&turn, 0, TURNS);
            bound.map(|()| began.elapsed() / TURNS)
        });
        let ended = |_| anyhow::anyhow!("a thread has panicked");
        there.join().map_err(ended)??;
        here.join().map_err(ended)?
    })
}

/// Whoever has the turns of this remainder makes the number one greater.
fn take_turns(turn: &Turn, remainder: u32, turns: u32) {
    for number in 0..turns {
        let own = 2 * number + remainder;
        while turn.0.load(Ordering::Acquire) != own {
            std::hint::spin_loop();
        }
        turn.0.store(own + 1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_threads_take_all_of_their_turns() {
        let turn = Turn(AtomicU32::new(0));
        thread::scope(|scope| {
            scope.spawn(|| take_turns(&turn, 0, 100));
            scope.spawn(|| take_turns(&turn, 1, 100));
        });
        assert_eq!(turn.0.into_inner(), 200);
    }
}

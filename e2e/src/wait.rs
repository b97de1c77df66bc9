//! Waits for a state, with a bound: never a sleep that hopes.

use std::fmt::Debug;
use std::future::Future;
use std::panic::Location;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

/// Time between two looks at a state.
const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// The result of one look at a state: the awaited value, or the present state.
pub trait Observation {
    /// The awaited value.
    type Value;

    /// The value, or else a text of the state for the failure message.
    fn settle(self) -> Result<Self::Value, String>;
}

impl<T> Observation for Option<T> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.ok_or_else(|| "nothing".into())
    }
}

impl<T, E: Debug> Observation for Result<T, E> {
    type Value = T;

    fn settle(self) -> Result<T, String> {
        self.map_err(|state| format!("{state:?}"))
    }
}

impl Observation for bool {
    type Value = ();

    fn settle(self) -> Result<(), String> {
        if self { Ok(()) } else { Err("false".into()) }
    }
}

/// Looks every 10 ms until the look gives a value (`Some`, `Ok`, `true`); panics after `limit` with `what`, the last
/// state and the place of the caller. A look that hangs is cut at the limit as well.
#[track_caller]
pub fn wait_for<L, F, Fut>(what: &str, limit: Duration, mut look: F) -> impl Future<Output = L::Value>
where
    L: Observation,
    F: FnMut() -> Fut,
    Fut: Future<Output = L>,
{
    let caller = Location::caller();
    async move {
        let end = Instant::now() + limit;
        let mut last = String::from("not looked at yet");
        loop {
            match timeout_at(end, look()).await.map(Observation::settle) {
                Ok(Ok(value)) => return value,
                Ok(Err(state)) => last = state,
                Err(_) => panic!("{caller}: waited {limit:?} for {what}; the last look hung; before it: {last}"),
            }
            assert!(Instant::now() + POLL_INTERVAL < end, "{caller}: waited {limit:?} for {what}; last state: {last}");
            sleep(POLL_INTERVAL).await;
        }
    }
}

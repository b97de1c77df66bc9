//! Takes log lines without ever making the caller wait, and writes them from a thread of its own.
//!
//! Callers append under a short lock; the thread gathers for a moment and writes all of it with one call. When
//! the reader of the log is too slow, lines are dropped and counted: a request matters more than its log line.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::LogError;

/// Bytes that may wait to be written.
const BOUND: usize = 1 << 20;
/// Bytes of buffer that are kept when there is little to write.
const KEPT: usize = 64 * 1024;
/// How long lines are gathered before they are written together.
const GATHER: Duration = Duration::from_millis(10);
/// How long a [`LogGuard`] waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// Where log lines go. Cheap to clone; clones share one buffer.
#[derive(Clone, Debug)]
pub struct LogSink {
    shared: Arc<Shared>,
}

/// Owns the writing thread: dropping it writes what is left, for at most two seconds, and ends the thread.
///
/// Lines that come later are counted as dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Tells the thread that there is something to do.
    filled: Condvar,
    /// Tells who flushes that something was written.
    emptied: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes taken since the start, and those of them that were written.
    taken: u64,
    written: u64,
    closed: bool,
    ended: bool,
}

// === impl LogSink ===

impl LogSink {
    /// Starts a thread that writes to standard output.
    ///
    /// # Errors
    /// [`LogError::Thread`] if the system has no thread for us.
    pub fn stdout() -> Result<(Self, LogGuard), LogError> {
        Self::to(io::stdout())
    }

    /// Starts a thread that writes to `out`; what it fails to write is counted as dropped.
    ///
    /// # Errors
    /// [`LogError::Thread`] if the system has no thread for us.
    pub fn to(out: impl Write + Send + 'static) -> Result<(Self, LogGuard), LogError> {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        let thread =
            thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(out)).map_err(LogError::Thread)?;
        Ok((Self { shared: shared.clone() }, LogGuard { shared, thread: Some(thread) }))
    }

    /// Takes one whole line, its line feed included, or drops it if 1 MiB is already waiting. Never blocks on I/O.
    pub fn append(&self, line: &[u8]) {
        let mut state = self.shared.lock();
        if state.closed || state.waiting.len() + line.len() > BOUND {
            drop(state);
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let was_empty = state.waiting.is_empty();
        state.waiting.extend_from_slice(line);
        state.taken += line.len() as u64;
        drop(state);
        if was_empty {
            self.shared.filled.notify_one();
        }
    }

    /// Tells how many lines were lost since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Waits until every line taken so far is written; tells whether that happened within `timeout`.
    ///
    /// Blocks the thread: for the end of a process and for tests.
    pub fn flush(&self, timeout: Duration) -> bool {
        let state = self.shared.lock();
        let goal = state.taken;
        self.shared.wait_until(state, timeout, |state| state.written >= goal)
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, state: MutexGuard<'_, State>, timeout: Duration, done: impl Fn(&State) -> bool) -> bool {
        let waited = self.emptied.wait_timeout_while(state, timeout, |state| !done(state));
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    /// The life of the thread.
    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::with_capacity(KEPT);
        while self.gather(&mut lines) {
            if out.write_all(&lines).and_then(|()| out.flush()).is_err() {
                let lost = lines.iter().filter(|byte| **byte == b'\n').count();
                self.dropped.fetch_add(lost as u64, Ordering::Relaxed);
            }
            self.lock().written += lines.len() as u64;
            self.emptied.notify_all();
            lines.clear();
            lines.shrink_to(KEPT);
        }
        self.lock().ended = true;
        self.emptied.notify_all();
    }

    /// Swaps what is waiting into the empty `lines`; false when the log is closed and nothing is left.
    fn gather(&self, lines: &mut Vec<u8>) -> bool {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.filled.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let waited = self.filled.wait_timeout_while(state, GATHER, |state| !state.closed);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, lines);
        !lines.is_empty()
    }
}

// === impl LogGuard ===

impl Drop for LogGuard {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.filled.notify_one();
        let ended = self.shared.wait_until(state, LAST_LINES, |state| state.ended);
        if let Some(thread) = self.thread.take()
            && ended
        {
            // A panic in there has already printed itself.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
pub(super) mod tests;

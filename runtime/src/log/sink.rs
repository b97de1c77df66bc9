//! Accepts log lines without ever making the caller wait, and writes them from a separate thread.
//!
//! Callers append under a short lock; the thread collects lines for a moment and writes them with one call. If the
//! reader of the log is too slow, lines are dropped and counted: a request matters more than its log line.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::LogError;

/// The limit for bytes that wait to be written, for a log that may lose lines.
const BOUND: usize = 1 << 20;
/// The same for a log that must not.
const BOUND_OF_KEPT: usize = 16 << 20;
/// The pause before a failed write is tried again, in a log that must not lose lines.
const RETRY: Duration = Duration::from_secs(1);
/// The size to which an idle buffer shrinks.
const KEPT: usize = 64 * 1024;
/// How long lines are collected before they are written together.
const GATHER: Duration = Duration::from_millis(10);
/// How long a [`LogGuard`] waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(2);

/// The destination of log lines. Cheap to clone; clones share one buffer.
#[derive(Clone, Debug)]
pub struct LogSink {
    shared: Arc<Shared>,
    bound: usize,
}

/// Owns the writing thread: dropping it writes the remaining lines, for at most two seconds, and ends the thread.
///
/// Later lines are counted as dropped.
#[derive(Debug)]
#[must_use = "dropping it ends the log"]
pub struct LogGuard {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// Notifies the thread of work.
    filled: Condvar,
    /// Notifies flushing callers of a write.
    emptied: Condvar,
    dropped: AtomicU64,
    /// The last write has failed.
    failing: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    waiting: Vec<u8>,
    /// Bytes accepted since the start, and those of them that were written.
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
    /// [`LogError::Thread`] if the system cannot create a thread.
    pub fn stdout() -> Result<(Self, LogGuard), LogError> {
        Self::to(io::stdout())
    }

    /// Starts a thread that writes to `out`; lines that it fails to write are counted as dropped.
    ///
    /// # Errors
    /// [`LogError::Thread`] if the system cannot create a thread.
    pub fn to(out: impl Write + Send + 'static) -> Result<(Self, LogGuard), LogError> {
        Self::start("log", BOUND, |writer| writer.run(out))
    }

    /// The same for a log whose lines count: up to 16 MiB of them wait, and a failed write is tried again every second.
    ///
    /// # Errors
    /// [`LogError::Thread`] if the system cannot create a thread.
    pub fn keeping(out: impl Write + Send + 'static) -> Result<(Self, LogGuard), LogError> {
        Self::start("kept log", BOUND_OF_KEPT, |writer| writer.run(Kept { out, log: writer }))
    }

    fn start(
        name: &str,
        bound: usize,
        run: impl FnOnce(&Shared) + Send + 'static,
    ) -> Result<(Self, LogGuard), LogError> {
        let shared = Arc::new(Shared::default());
        let writer = shared.clone();
        let thread = thread::Builder::new().name(name.to_owned()).spawn(move || run(&writer));
        let thread = thread.map_err(LogError::Thread)?;
        Ok((Self { shared: shared.clone(), bound }, LogGuard { shared, thread: Some(thread) }))
    }

    /// Accepts one whole line, its line feed included, or drops it if too much is already waiting. Never blocks on I/O.
    pub fn append(&self, line: &[u8]) {
        self.append_leaving(line, 0);
    }

    /// The same, but leaves so much room for other lines.
    pub fn append_leaving(&self, line: &[u8], room: usize) {
        let mut state = self.shared.lock();
        let unwritten = if room == 0 { state.waiting.len() } else { state.unwritten() };
        if state.closed || unwritten.saturating_add(line.len()).saturating_add(room) > self.bound {
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

    /// The number of lines lost since the start.
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Whether so many more bytes may be accepted now.
    pub fn has_room(&self, bytes: usize) -> bool {
        self.shared.lock().unwritten().saturating_add(bytes) <= self.bound
    }

    /// Whether the last write has failed.
    pub fn is_failing(&self) -> bool {
        self.shared.failing.load(Ordering::Relaxed)
    }

    /// Waits until every accepted line is written; returns whether that happened within `timeout`.
    ///
    /// Blocks the thread: for the end of a process and for tests.
    pub fn flush(&self, timeout: Duration) -> bool {
        let state = self.shared.lock();
        let goal = state.taken;
        self.shared.wait_until(state, timeout, |state| state.written >= goal)
    }
}

impl State {
    /// Bytes that are not written yet: those that wait, and those that are being written.
    fn unwritten(&self) -> usize {
        usize::try_from(self.taken - self.written).unwrap_or(usize::MAX)
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

    /// The main loop of the thread.
    fn run(&self, mut out: impl Write) {
        let mut lines = Vec::with_capacity(KEPT);
        while self.gather(&mut lines) {
            let written = out.write_all(&lines).and_then(|()| out.flush());
            self.failing.store(written.is_err(), Ordering::Relaxed);
            if written.is_err() {
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

    /// Swaps the waiting lines into the empty `lines`; false once the log is closed and nothing is left.
    fn gather(&self, lines: &mut Vec<u8>) -> bool {
        let idle = |state: &mut State| state.waiting.is_empty() && !state.closed;
        let state = self.filled.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner);
        let waited = self.filled.wait_timeout_while(state, GATHER, |state| !state.closed);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut state.waiting, lines);
        !lines.is_empty()
    }
}

// === impl Kept ===

/// Writes what it is given until that succeeds, or until the log is closed.
struct Kept<'a, W> {
    out: W,
    log: &'a Shared,
}

impl<W: Write> Write for Kept<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.out.write(bytes) {
                Ok(0) if !bytes.is_empty() => {}
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => {}
            }
            self.log.failing.store(true, Ordering::Relaxed);
            let waited = self.log.filled.wait_timeout_while(self.log.lock(), RETRY, |state| !state.closed);
            let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if state.closed {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
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
            // A panic in the thread has already been printed.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
pub(super) mod tests;

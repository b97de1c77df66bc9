//! One connection: sends calls and measures their latencies.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mcp_load::http::{Conn, Url};

use crate::args::{LoadArgs, LoadMode};
use crate::requests::{Requests, prepare};

/// The state that the workers and the measuring thread share.
pub(crate) struct LoadState {
    pub(crate) measuring: AtomicBool,
    pub(crate) stop: AtomicBool,
    pub(crate) ready: AtomicU64,
    pub(crate) failed: AtomicU64,
}

/// The calls that one worker measured.
pub(crate) struct WorkerTally {
    pub(crate) latency: Histogram<u64>,
    pub(crate) ok: u64,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
}

impl WorkerTally {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds are valid");
        Self { latency, ok: 0, errors: 0, first_error: None }
    }

    /// Counts an error, and keeps the first one.
    fn error(&mut self, error: String) {
        self.errors += 1;
        self.first_error.get_or_insert(error);
    }
}

/// Opens one connection and sends its calls until the run stops.
pub(crate) async fn worker(index: usize, url: Url, args: LoadArgs, state: Arc<LoadState>) -> WorkerTally {
    let mut tally = WorkerTally::new();
    let opened = async {
        let mut conn = Conn::open(&url).await.map_err(|e| e.to_string())?;
        let requests = prepare(&mut conn, &url, &args).await?;
        Ok::<_, String>((conn, requests))
    };
    let opened = tokio::time::timeout(Duration::from_secs_f64(args.timeout.max(30.0)), opened)
        .await
        .unwrap_or_else(|_| Err("timed out opening the session".into()));
    let (conn, requests) = match opened {
        Ok(x) => x,
        Err(e) => {
            tally.error(e);
            state.failed.fetch_add(1, Ordering::Relaxed);
            return tally;
        }
    };
    state.ready.fetch_add(1, Ordering::Relaxed);
    if matches!(args.mode, LoadMode::Idle | LoadMode::Listen) {
        while !state.stop.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        tally.ok += 1;
        return tally;
    }
    drive(index, conn, requests, &url, &args, &state, tally).await
}

/// Sends one call after the other, at the rate of the run if it has one.
async fn drive(
    index: usize,
    mut conn: Conn,
    mut requests: Requests,
    url: &Url,
    args: &LoadArgs,
    state: &LoadState,
    mut tally: WorkerTally,
) -> WorkerTally {
    let mut pace = Pace::new(index, args);
    let limit = Duration::from_secs_f64(args.timeout);
    let mut turn = index;
    while !state.stop.load(Ordering::Relaxed) {
        let start = pace.next().await;
        if conn.closed {
            match Conn::open(url).await {
                Ok(c) => conn = c,
                Err(e) => {
                    tally.error(e.to_string());
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            }
        }
        let outcome = call(&mut conn, &mut requests, turn, limit, args.least_bytes).await;
        turn += 1;
        if state.measuring.load(Ordering::Relaxed) {
            match outcome {
                Ok(()) => {
                    tally.ok += 1;
                    let us = start.elapsed().as_nanos() as u64 / 100;
                    tally.latency.saturating_record(us.max(1));
                }
                Err(e) => tally.error(e),
            }
        } else if let Err(e) = outcome {
            tally.first_error.get_or_insert(e);
        }
    }
    tally
}

/// When a connection sends its calls: at once in a closed loop, at fixed times in an open one.
struct Pace {
    is_open_loop: bool,
    interval: Duration,
    due: Instant,
}

impl Pace {
    fn new(index: usize, args: &LoadArgs) -> Self {
        let is_open_loop = args.rate > 0.0;
        let interval =
            if is_open_loop { Duration::from_secs_f64(args.concurrency as f64 / args.rate) } else { Duration::ZERO };
        let due = Instant::now() + interval.mul_f64(index as f64 / args.concurrency as f64);
        Self { is_open_loop, interval, due }
    }

    /// Waits for the next call. Returns when it started.
    async fn next(&mut self) -> Instant {
        let mut start = Instant::now();
        if self.is_open_loop {
            if self.due > start {
                tokio::time::sleep_until(self.due.into()).await;
                // The timer's own lateness is not the server's.
                start = Instant::now();
            } else {
                // Behind: the wait counts.
                start = self.due;
            }
            self.due += self.interval;
        }
        start
    }
}

/// Sends the call of this turn and checks its answer.
async fn call(
    conn: &mut Conn,
    requests: &mut Requests,
    turn: usize,
    limit: Duration,
    least_bytes: usize,
) -> Result<(), String> {
    let request = &requests.calls[turn % requests.calls.len()];
    let answer = async {
        match &mut requests.legacy {
            Some(l) => l.call(conn, request).await.map(|r| (r, 0)),
            None => conn.call(request).await.map(|r| ((r.status, String::new()), r.length)),
        }
    };
    match tokio::time::timeout(limit, answer).await {
        Ok(Ok(((status, event), length))) => {
            let body = if requests.legacy.is_some() { event.as_bytes() } else { conn.body() };
            if status / 100 == 2 && length >= least_bytes && contains(body, &requests.expect) {
                Ok(())
            } else {
                let body = String::from_utf8_lossy(body);
                Err(format!("status {status}: {body:.200}"))
            }
        }
        Ok(Err(e)) => {
            conn.closed = true;
            Err(e.to_string())
        }
        Err(_) => {
            conn.closed = true;
            Err("timed out".into())
        }
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    if needle.is_empty() {
        return true;
    }
    let mut from = 0;
    while let Some(i) = haystack[from..].iter().position(|b| *b == needle[0]) {
        let at = from + i;
        if haystack.len() - at < needle.len() {
            return false;
        }
        if &haystack[at..at + needle.len()] == needle {
            return true;
        }
        // A run of equal bytes is the usual message: step past its first byte.
        from = at + 1;
    }
    false
}

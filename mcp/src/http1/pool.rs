//! Manages the connections to one origin: opens them, keeps unused ones, and sends requests over them.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use parking_lot::{Mutex, MutexGuard};
use portcullis_runtime::workers::Parts;
use tokio::time::{Instant, timeout};

use super::HttpError;
use super::connection::{Connection, is_open, is_quiet};
use super::exchange::Exchange;
use super::habit::Habit;
use super::request::Outgoing;
use crate::guard::Guard;
use crate::http1::dial::dial;
use crate::http1::stream::{Stream, TlsTarget};

/// Unused connections that one worker keeps for one origin; excess ones are closed after use.
const MAX_IDLE: usize = 256;

/// Servers in Node and Python close an unused connection after 5 s; the pool keeps it for slightly less.
const DEFAULT_IDLE: Duration = Duration::from_millis(4_500);

/// How long a response may take to end after the caller has what it waited for.
const MAX_LINGER: Duration = Duration::from_secs(2);

/// The target of requests, and the settings of its connections.
pub struct Origin {
    /// Host without brackets.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Value of the `Host` header.
    pub authority: http::HeaderValue,
    /// Decides which addresses the origin may have.
    pub guard: Arc<Guard>,
    /// TLS, for https.
    pub tls: Option<TlsTarget>,
    /// Limit for the TCP handshake and for the TLS handshake, unless a caller sets another.
    pub connect_timeout: Duration,
    /// How long an unused connection is kept, likewise; less if the server announces less.
    pub idle_timeout: Duration,
}

/// Pooled connections to one origin.
pub struct HttpPool {
    origin: Origin,
    limits: Arc<Limits>,
    parts: Parts<Arc<WorkerConnections>>,
}

/// Limits of the pool, in milliseconds.
struct Limits {
    connect: AtomicU64,
    idle: AtomicU64,
}

/// The connections that one worker has opened.
#[repr(align(128))]
pub(super) struct WorkerConnections {
    limits: Arc<Limits>,
    /// What all workers observed of the server's idle connections.
    habit: Arc<Habit>,
    /// Oldest first; the newest is used first.
    idle: Mutex<VecDeque<Idle>>,
    /// Responses whose last bytes no caller reads; once they have arrived, the connection is reusable.
    lingering: Mutex<Vec<(Exchange, Instant)>>,
}

struct Idle {
    stream: Stream,
    /// When its last response ended, or earlier.
    since: Instant,
    until: Instant,
    /// The server announced how long it keeps the connection.
    announced: bool,
}

/// An unused connection, and how long it has been unused.
type Unused = (Stream, Duration);

impl HttpPool {
    /// Creates a pool without connections; they are opened on demand.
    pub fn new(origin: Origin) -> Arc<Self> {
        let limits = Arc::new(Limits { connect: AtomicU64::new(0), idle: AtomicU64::new(0) });
        limits.set(origin.connect_timeout, origin.idle_timeout);
        let (of_part, habit) = (limits.clone(), Arc::<Habit>::default());
        let part = move || {
            let (limits, habit) = (of_part.clone(), habit.clone());
            Arc::new(WorkerConnections { limits, habit, idle: Mutex::default(), lingering: Mutex::default() })
        };
        Arc::new(Self { origin, limits, parts: Parts::new(part) })
    }

    /// Replaces the limits for opening a connection and for keeping an unused one.
    pub fn set_limits(&self, connect: Duration, idle: Duration) {
        if self.limits.set(connect, idle) {
            self.parts.iter().for_each(|part| part.shorten(idle));
        }
    }

    /// Value of the `Host` header.
    pub(crate) fn authority(&self) -> &http::HeaderValue {
        &self.origin.authority
    }

    /// Host without brackets.
    pub(crate) fn host(&self) -> &str {
        &self.origin.host
    }

    /// Whether the origin uses TLS.
    pub(crate) fn is_secure(&self) -> bool {
        self.origin.tls.is_some()
    }

    /// Sends a request and waits for the head of its response. The caller sets the deadline. Not for HEAD and CONNECT,
    /// whose responses end differently.
    ///
    /// # Errors
    /// [`HttpError::Connect`], [`HttpError::Blocked`] and [`HttpError::NotSent`] prove that the server never got the request.
    pub async fn send(
        &self,
        method: Method,
        path: &Uri,
        headers: &HeaderMap,
        body: Bytes,
    ) -> Result<Exchange, HttpError> {
        self.exchange(Outgoing::new(&method, path, &self.origin.authority, headers, body)).await
    }

    /// Sends a serialized request and waits for the head of its response. The caller sets the deadline.
    ///
    /// # Errors
    /// [`HttpError::Connect`], [`HttpError::Blocked`] and [`HttpError::NotSent`] prove that the server never got the request.
    pub(crate) async fn exchange(&self, mut outgoing: Outgoing) -> Result<Exchange, HttpError> {
        loop {
            let (stream, age) = match self.checkout() {
                Some((stream, age)) => (stream, Some(age)),
                // Boxed, so that the future of the usual request does not include handshakes.
                None => (Box::pin(self.connect()).await?, None),
            };
            let mut connection = Connection::new(stream, outgoing);
            match poll_fn(|cx| connection.poll_head(cx)).await {
                Ok((head, body)) => return Ok(Exchange::new(head, body, connection, Arc::downgrade(self.parts.own()))),
                Err(problem) => outgoing = self.unsent(problem, connection, age)?,
            }
        }
    }

    /// The same on a new connection.
    ///
    /// # Errors
    /// [`HttpError::Connect`], [`HttpError::Blocked`] and [`HttpError::NotSent`] prove that the server never got the request.
    pub(crate) async fn exchange_anew(&self, outgoing: Outgoing) -> Result<Exchange, HttpError> {
        let stream = Box::pin(self.connect()).await?;
        let mut connection = Connection::new(stream, outgoing);
        let (head, body) = poll_fn(|cx| connection.poll_head(cx)).await?;
        Ok(Exchange::new(head, body, connection, Arc::downgrade(self.parts.own())))
    }

    /// The request of a failed connection, if the connection was reused and no byte was written.
    #[cold]
    fn unsent(&self, problem: HttpError, connection: Connection, age: Option<Duration>) -> Result<Outgoing, HttpError> {
        let Some(age) = age else { return Err(problem) };
        let is_stale = !connection.has_heard();
        if is_stale {
            self.parts.own().habit.saw_closed(age);
        }
        connection.unsent().ok_or(if is_stale { HttpError::Stale } else { problem })
    }

    /// An unused connection that the server has not closed; that of another worker is better than none.
    fn checkout(&self) -> Option<Unused> {
        if let Some(unused) = self.parts.own().take() {
            return Some(unused);
        }
        let moved = |(mut stream, age): Unused| stream.move_here().is_ok().then_some((stream, age));
        self.parts.others().find_map(|part| std::iter::from_fn(|| part.take()).find_map(moved))
    }

    async fn connect(&self) -> Result<Stream, HttpError> {
        let origin = &self.origin;
        let limit = self.limits.connect();
        let until = Instant::now() + limit;
        let tcp = dial(&origin.host, origin.port, &origin.guard, until).await?;
        tcp.set_nodelay(true).map_err(|_| HttpError::Connect("the connection closed at once"))?;
        match &origin.tls {
            None => Ok(Stream::Tcp(tcp)),
            Some(tls) => timeout(limit, tls.handshake(tcp))
                .await
                .map_err(|_| HttpError::Connect("no TLS handshake in time"))?
                .map_err(HttpError::Connect),
        }
    }

    /// Closes unused connections that are too old or closed by the server, and drops responses that linger too long.
    /// Without a sweep, both happen with the next request.
    pub fn sweep(&self) {
        self.parts.iter().for_each(|part| part.sweep());
    }

    #[cfg(test)]
    pub(super) fn unused(&self) -> usize {
        self.parts.iter().map(|part| part.idle().len()).sum()
    }

    /// How long the oldest unused connection has been unused.
    #[cfg(test)]
    pub(super) fn unused_for(&self) -> Duration {
        let oldest = |part: &Arc<WorkerConnections>| part.idle().front().map(|idle| idle.since.elapsed());
        self.parts.iter().filter_map(oldest).max().unwrap_or_default()
    }
}

/// The result of checking an unused connection.
enum Looked {
    Usable(Unused),
    Over,
    /// Open a new connection instead.
    NotNow,
}

impl Limits {
    /// Sets both limits; true if one of them changed.
    fn set(&self, connect: Duration, idle: Duration) -> bool {
        let set = |place: &AtomicU64, limit: Duration| {
            let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            place.swap(limit, Ordering::Relaxed) != limit
        };
        set(&self.connect, connect) | set(&self.idle, idle)
    }

    fn connect(&self) -> Duration {
        Duration::from_millis(self.connect.load(Ordering::Relaxed))
    }

    fn idle(&self) -> Duration {
        Duration::from_millis(self.idle.load(Ordering::Relaxed))
    }
}

impl WorkerConnections {
    /// The newest usable connection.
    fn take(&self) -> Option<Unused> {
        loop {
            let popped = self.idle().pop_back();
            let Some(mut idle) = popped else { if self.reap() { continue } else { return None } };
            let now = Instant::now();
            let age = now.saturating_duration_since(idle.since);
            if !self.habit.is_young(age) {
                match self.looked_at_twice(idle, age, now) {
                    Looked::Usable(unused) => return Some(unused),
                    Looked::Over => continue,
                    Looked::NotNow => return None,
                }
            }
            if !is_quiet(&mut idle.stream) {
                self.habit.saw_closed(age);
            } else if idle.until > now {
                return Some((idle.stream, age));
            }
        }
    }

    /// Asks the system about this connection and about the oldest one: what is known of the server's habit decides
    /// whether this one is used.
    #[cold]
    fn looked_at_twice(&self, mut idle: Idle, age: Duration, now: Instant) -> Looked {
        self.learn(now);
        if !self.habit_of(&mut idle, now) || idle.until <= now {
            return Looked::Over;
        }
        if self.habit.allows(age, idle.announced) {
            return Looked::Usable((idle.stream, age));
        }
        // The ones before it are older. It stays, so that the pool learns from it.
        self.idle().push_back(idle);
        Looked::NotNow
    }

    /// Checks the oldest connections up to the first open one.
    fn learn(&self, now: Instant) {
        let mut all = self.idle();
        while let Some(oldest) = all.front_mut() {
            if self.habit_of(oldest, now) {
                return;
            }
            all.pop_front();
        }
    }

    /// Checks whether a connection is still open, and records the result.
    fn habit_of(&self, idle: &mut Idle, now: Instant) -> bool {
        let age = now.saturating_duration_since(idle.since);
        let is_open = is_open(&mut idle.stream);
        if is_open {
            self.habit.saw_open(age)
        } else {
            self.habit.saw_closed(age)
        }
        is_open
    }

    /// Returns the connections of ended lingering responses to the pool; true if there was one.
    fn reap(&self) -> bool {
        let mut all = self.lingering();
        let (before, now) = (all.len(), Instant::now());
        let mut found = false;
        all.retain_mut(|(exchange, until)| match exchange.ended_now() {
            Some(ended) => {
                found |= ended;
                false
            }
            None => *until > now,
        });
        before > 0 && found
    }

    pub(super) fn linger(&self, exchange: Exchange) {
        let mut all = self.lingering();
        let now = Instant::now();
        all.retain(|(_, until)| *until > now);
        if all.len() < MAX_IDLE {
            all.push((exchange, now + MAX_LINGER));
        }
    }

    /// Keeps a connection whose last response ended at `since` or later.
    pub(super) fn put_back(&self, stream: Stream, announced: Option<Duration>, since: Option<Instant>) {
        let limit = self.limits.idle().min(announced.unwrap_or(DEFAULT_IDLE));
        let now = Instant::now();
        let since = since.unwrap_or(now);
        let announced = announced.is_some();
        // One connection is enough to learn from if none will be used.
        let is_useless = !self.habit.keeps_any();
        let mut idle = self.idle();
        while idle.len() >= MAX_IDLE || idle.front().is_some_and(|oldest| oldest.until <= now) {
            idle.pop_front();
        }
        if !is_useless || idle.is_empty() {
            idle.push_back(Idle { stream, since, until: since + limit, announced });
        }
    }

    /// From now on, no unused connection is kept for longer than this.
    fn shorten(&self, limit: Duration) {
        let latest = Instant::now() + limit;
        self.idle().iter_mut().for_each(|idle| idle.until = idle.until.min(latest));
    }

    fn sweep(&self) {
        self.reap();
        let now = Instant::now();
        let mut idle = self.idle();
        idle.retain_mut(|idle| self.habit_of(idle, now) && idle.until > now);
        idle.shrink_to_fit();
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock()
    }

    fn lingering(&self) -> MutexGuard<'_, Vec<(Exchange, Instant)>> {
        self.lingering.lock()
    }
}

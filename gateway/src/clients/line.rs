//! One session of one client with one server, and the calls that use it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::voice::Voice;
use super::{ClientKey, Clients};
use crate::front::mcp::asking::Asking;
use crate::upstream::timing::Timing;
use crate::upstream::{Call, CallError, ConnectError, Mailbox, Session, Unasked};

/// For a server to take note of a log level.
const LEVEL_LIMIT: Duration = Duration::from_secs(5);

/// One session.
pub struct Line {
    /// Whose.
    pub key: ClientKey,
    number: u64,
    state: watch::Sender<State>,
    voice: Arc<Voice>,
    used: Mutex<Used>,
    /// The server has answered a call, and so may keep something for the next.
    served: AtomicBool,
    closing: Notify,
    /// What is configured for it has changed.
    again: Notify,
    /// A call had no answer.
    suspect: Notify,
    /// The log level that the server was told, as JSON.
    level: Mutex<Option<String>>,
}

#[derive(Clone)]
enum State {
    /// With headers that have changed meanwhile, if they have.
    Opening(Option<HeaderMap>),
    Open {
        session: Arc<Session>,
        logs: bool,
    },
    Over(CallError),
}

struct Used {
    running: u32,
    last: Instant,
}

impl Line {
    pub(super) fn new(key: ClientKey, number: u64, asking: Arc<Asking>) -> Self {
        Self {
            key,
            number,
            state: watch::Sender::new(State::Opening(None)),
            voice: Arc::new(Voice::new(key, asking)),
            used: Mutex::new(Used { running: 0, last: Instant::now() }),
            served: AtomicBool::new(false),
            closing: Notify::new(),
            again: Notify::new(),
            suspect: Notify::new(),
            level: Mutex::default(),
        }
    }

    /// Takes what the server says outside calls.
    pub(super) fn unasked(&self) -> Box<dyn Unasked> {
        Box::new(self.voice.clone())
    }

    pub(super) fn opened(&self, session: Arc<Session>, logs: bool) {
        self.state.send_modify(|state| {
            if let State::Opening(Some(headers)) = state {
                session.set_headers(std::mem::take(headers));
            }
            *state = State::Open { session, logs };
        });
    }

    /// Replaces the configured headers of its session, also of one that is still being opened.
    pub(super) fn set_headers(&self, headers: &HeaderMap) {
        self.state.send_if_modified(|state| {
            match state {
                State::Opening(changed) => {
                    *changed = Some(headers.clone());
                    self.again.notify_one();
                }
                State::Open { session, .. } => session.set_headers(headers.clone()),
                State::Over(_) => {}
            }
            false
        });
    }

    /// What its headers have changed to while it is being opened.
    pub(super) fn changed_headers(&self) -> Option<HeaderMap> {
        match &*self.state.borrow() {
            State::Opening(changed) => changed.clone(),
            State::Open { .. } | State::Over(_) => None,
        }
    }

    pub(super) fn over(&self, error: CallError) {
        self.state.send_replace(State::Over(error));
    }

    /// The session, if it is open.
    pub fn session(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Open { session, .. } => Some(session.clone()),
            State::Opening(_) | State::Over(_) => None,
        }
    }

    /// Whether a client with a session of its own may believe that the server keeps something for it here.
    pub(super) fn holds_state(&self) -> bool {
        self.key.session.is_some() && self.served.load(Ordering::Relaxed)
    }

    pub(super) fn answered(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// How long no call has used it; none while one does.
    pub(super) fn idle_for(&self) -> Option<Duration> {
        let used = self.used();
        (used.running == 0).then(|| used.last.elapsed())
    }

    /// When it may have been unused for so long.
    pub(super) fn idle_at(&self, idle: Duration) -> Instant {
        self.idle_for().map_or(Instant::now() + idle, |time| Instant::now() + idle.saturating_sub(time))
    }

    pub(super) fn close(&self) {
        self.closing.notify_one();
    }

    pub(super) async fn closed(&self) {
        self.closing.notified().await;
    }

    /// It may be idle for longer or shorter than before.
    pub(super) fn look_again(&self) {
        self.again.notify_one();
    }

    pub(super) async fn looked_at_again(&self) {
        self.again.notified().await;
    }

    /// Something went wrong: look whether the server still answers in it.
    pub(super) fn suspect(&self) {
        self.suspect.notify_one();
    }

    pub(super) async fn suspected(&self) {
        self.suspect.notified().await;
    }

    /// A call listens, as long as what is returned lives.
    pub(super) fn listens(&self, mailbox: &Mailbox) -> super::voice::Listening<'_> {
        self.voice.listens(mailbox)
    }

    /// Tells the server the log level that the client wants, as JSON, unless it knows. It is no matter if it fails.
    pub async fn tell_level(&self, level: &str) {
        let State::Open { session, logs: true } = self.state.borrow().clone() else { return };
        {
            let mut told = self.level.lock().unwrap_or_else(PoisonError::into_inner);
            if told.as_deref() == Some(level) {
                return;
            }
            *told = Some(level.to_owned());
        }
        let (none, params) = (HeaderMap::new(), format!(r#""level":{level}"#));
        let params = [params.as_str()];
        let call = Call::of_our_own("logging/setLevel", &params, &none);
        let _ = timeout(LEVEL_LIMIT, session.call(&call, &Arc::new(Timing::new(LEVEL_LIMIT)))).await;
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call's hold on a session: meanwhile it is not idle.
pub struct Lease {
    /// The session.
    pub line: Arc<Line>,
    clients: Arc<Clients>,
}

impl Lease {
    pub(super) fn new(clients: &Arc<Clients>, line: &Arc<Line>) -> Self {
        line.used().running += 1;
        Self { line: line.clone(), clients: clients.clone() }
    }

    /// Waits until it is open.
    pub(super) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, CallError> {
        const SLOW: CallError = CallError::NotSent("a session for this client was not opened in time");
        let mut state = self.line.state.subscribe();
        let settled = timeout_at(deadline, state.wait_for(|state| !matches!(state, State::Opening(_))));
        match settled.await.map_err(|_| SLOW)?.map(|state| state.clone()) {
            Ok(State::Open { session, .. }) => Ok(session),
            Ok(State::Over(error)) => Err(error),
            Ok(State::Opening(_)) | Err(_) => Err(SLOW),
        }
    }

    /// The server has forgotten it. Its client hears of it from this call, if there is something to hear.
    pub(super) fn forgotten(&self) {
        self.clients.remove(&self.line, false);
        if self.line.holds_state() {
            // Its task may have noted it already.
            self.clients.told(&self.line.key);
        }
        self.line.close();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut used = self.line.used();
        used.running -= 1;
        used.last = Instant::now();
    }
}

/// Why a client's session could not be opened, as its call is told.
pub(super) fn as_call_error(error: &ConnectError) -> CallError {
    match error {
        ConnectError::Unreachable(why) => CallError::NotSent(why),
        ConnectError::Blocked(refusal) => CallError::Blocked(*refusal),
        ConnectError::Unauthorized(status, _) | ConnectError::Status(status) => CallError::Refused(*status),
        ConnectError::Refused(refusal) if let Some(status) = refusal.status => CallError::Refused(status),
        _ => CallError::NotSent("it did not open a session for this client"),
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Line").field(&self.number).finish()
    }
}

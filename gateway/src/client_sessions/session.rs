//! One session of one client with one server, and the calls that use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderMap;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout, timeout_at};

use super::{ClientInbox, ClientKey, Clients};
use crate::client_sessions::unsolicited::UnsolicitedRouter;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::timing::Timing;
use portcullis_mcp::upstream::{Call, CallError, ConnectError, Mailbox, Session, SessionHeaders, Unsolicited};

/// The limit for setting a log level at a server.
const LEVEL_LIMIT: Duration = Duration::from_secs(5);

/// One session.
pub(crate) struct ClientSession {
    /// The owner of the session.
    pub(crate) key: ClientKey,
    extensions: Extensions,
    number: u64,
    state: watch::Sender<State>,
    router: Arc<UnsolicitedRouter>,
    used: Mutex<Used>,
    /// The server has answered a call, and so may hold state for the next.
    served: AtomicBool,
    closing: Notify,
    /// The configuration of the session has changed.
    again: Notify,
    /// A call had no answer.
    suspect: Notify,
    /// The log level that was sent to the server, as JSON.
    level: Mutex<Option<String>>,
}

#[derive(Clone)]
enum State {
    /// With the headers that have replaced the first ones meanwhile, if any.
    Opening(Option<SessionHeaders>),
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

impl ClientSession {
    pub(crate) fn new((key, extensions): (ClientKey, Extensions), number: u64, inbox: Arc<dyn ClientInbox>) -> Self {
        Self {
            key,
            extensions,
            number,
            state: watch::Sender::new(State::Opening(None)),
            router: Arc::new(UnsolicitedRouter::new(key, inbox)),
            used: Mutex::new(Used { running: 0, last: Instant::now() }),
            served: AtomicBool::new(false),
            closing: Notify::new(),
            again: Notify::new(),
            suspect: Notify::new(),
            level: Mutex::default(),
        }
    }

    /// The client's extensions.
    pub(crate) fn extensions(&self) -> &Extensions {
        &self.extensions
    }

    /// Receives the server's messages outside calls.
    pub(crate) fn unsolicited(&self) -> Box<dyn Unsolicited> {
        Box::new(self.router.clone())
    }

    pub(crate) fn opened(&self, session: Arc<Session>, logs: bool) {
        self.state.send_modify(|state| {
            if let State::Opening(Some(headers)) = state {
                session.set_headers(std::mem::take(headers));
            }
            *state = State::Open { session, logs };
        });
    }

    /// Replaces the configured headers of the session, even if it is still opening.
    pub(crate) fn set_headers(&self, headers: &SessionHeaders) {
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

    /// The headers that have changed while the session is opening.
    pub(crate) fn changed_headers(&self) -> Option<SessionHeaders> {
        match &*self.state.borrow() {
            State::Opening(changed) => changed.clone(),
            State::Open { .. } | State::Over(_) => None,
        }
    }

    pub(crate) fn over(&self, error: CallError) {
        self.state.send_replace(State::Over(error));
    }

    /// The session, if it is open.
    pub(crate) fn session(&self) -> Option<Arc<Session>> {
        match &*self.state.borrow() {
            State::Open { session, .. } => Some(session.clone()),
            State::Opening(_) | State::Over(_) => None,
        }
    }

    /// Whether a client with a session of its own may expect the server to hold state for it here.
    pub(crate) fn holds_state(&self) -> bool {
        self.key.session.is_some() && self.served.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) {
        self.served.store(true, Ordering::Relaxed);
    }

    /// How long no call has used the session; `None` while one does.
    pub(crate) fn idle_for(&self) -> Option<Duration> {
        let used = self.used();
        (used.running == 0).then(|| used.last.elapsed())
    }

    /// When the session may have been idle for `idle`.
    pub(crate) fn idle_at(&self, idle: Duration) -> Instant {
        self.idle_for().map_or(Instant::now() + idle, |time| Instant::now() + idle.saturating_sub(time))
    }

    pub(crate) fn close(&self) {
        self.closing.notify_one();
    }

    pub(crate) async fn closed(&self) {
        self.closing.notified().await;
    }

    /// Notifies the task that the allowed idle time has changed.
    pub(crate) fn look_again(&self) {
        self.again.notify_one();
    }

    pub(crate) async fn looked_at_again(&self) {
        self.again.notified().await;
    }

    /// Something went wrong: check whether the server still answers in this session.
    pub(crate) fn suspect(&self) {
        self.suspect.notify_one();
    }

    pub(crate) async fn suspected(&self) {
        self.suspect.notified().await;
    }

    /// Registers a listening call until the returned value is dropped.
    pub(crate) fn listens(&self, mailbox: &Mailbox) -> crate::client_sessions::unsolicited::Listening<'_> {
        self.router.listens(mailbox)
    }

    /// Sends the client's log level to the server, as JSON, unless the server has it. A failure does not matter.
    pub(crate) async fn tell_level(&self, level: &str) {
        let State::Open { session, logs: true } = self.state.borrow().clone() else { return };
        {
            let mut told = self.level.lock();
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
        self.used.lock()
    }
}

/// A call's hold on a session, which is not idle meanwhile.
pub(crate) struct Lease {
    /// The session.
    pub(crate) client_session: Arc<ClientSession>,
    clients: Arc<Clients>,
}

impl Lease {
    pub(crate) fn new(clients: &Arc<Clients>, client_session: &Arc<ClientSession>) -> Self {
        client_session.used().running += 1;
        Self { client_session: client_session.clone(), clients: clients.clone() }
    }

    /// Waits until the session is open.
    pub(crate) async fn session(&self, deadline: Instant) -> Result<Arc<Session>, CallError> {
        const SLOW: CallError = CallError::NotSent("a session for this client was not opened in time");
        let mut state = self.client_session.state.subscribe();
        let settled = timeout_at(deadline, state.wait_for(|state| !matches!(state, State::Opening(_))));
        match settled.await.map_err(|_| SLOW)?.map(|state| state.clone()) {
            Ok(State::Open { session, .. }) => Ok(session),
            Ok(State::Over(error)) => Err(error),
            Ok(State::Opening(_)) | Err(_) => Err(SLOW),
        }
    }

    /// Records that the server has forgotten the session. If state is lost, the client learns of it from this call.
    pub(crate) fn forgotten(&self) {
        self.clients.remove(&self.client_session, false);
        if self.client_session.holds_state() {
            // The session's task may have recorded it already.
            self.clients.told(&self.client_session.key);
        }
        self.client_session.close();
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut used = self.client_session.used();
        used.running -= 1;
        used.last = Instant::now();
    }
}

/// The reason a client's session could not be opened, as the error of its call.
pub(crate) fn as_call_error(error: &ConnectError) -> CallError {
    match error {
        ConnectError::Unreachable(why) => CallError::NotSent(why),
        ConnectError::Blocked(refusal) => CallError::Blocked(*refusal),
        ConnectError::Unauthorized(status, _) | ConnectError::Status(status) => CallError::Refused(*status),
        ConnectError::Refused(refusal) if let Some(status) = refusal.status => CallError::Refused(status),
        _ => CallError::NotSent("it did not open a session for this client"),
    }
}

impl std::fmt::Debug for ClientSession {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("ClientSession").field(&self.number).finish()
    }
}

//! The sessions that one server keeps for single clients: looked up, limited, and remembered when they are lost.
//!
//! Calls lease them here; the server's task opens and closes them.

pub(crate) mod session;
pub(crate) mod unsolicited;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::mcpserver::ClientSessions;
use tokio::sync::mpsc;

use crate::auth::Identity;
use crate::auth::SubjectId;
use crate::seal::SealedSession;
use crate::seal::SessionKey;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::connect::Spoken;

pub(crate) use crate::client_sessions::session::as_call_error;
pub(crate) use crate::client_sessions::session::{ClientSession, Lease};
pub(crate) use crate::client_sessions::unsolicited::ClientInbox;
#[cfg(test)]
pub(crate) use crate::client_sessions::unsolicited::NobodyListens;

/// The limit for sessions that wait to be opened.
const OPENINGS: usize = 1_024;

/// The limit for lost sessions that are remembered until their clients learn of the loss; beyond it, the oldest are
/// forgotten.
const MOST_LOST: usize = 10_000;

/// The owner of a session with a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClientKey {
    /// The client's own session; `None`: it has none, so its subject and capabilities identify it.
    pub(crate) session: Option<SessionKey>,
    /// The client's subject.
    pub(crate) subject: SubjectId,
    /// The client's capabilities.
    pub(crate) capabilities: ClientCapabilities,
    /// The [`Extensions::number`] of its extensions.
    pub(crate) extensions: u64,
}

impl ClientKey {
    /// The key of a client with a session.
    pub(crate) fn of_session(session: &SealedSession) -> Self {
        let extensions = session.extensions.number();
        Self { session: Some(session.id), subject: session.subject, capabilities: session.capabilities, extensions }
    }
}

/// The recipient of a server's request: a session and its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SessionOwner {
    /// The session.
    pub(crate) session: SessionKey,
    /// The owner's subject.
    pub(crate) subject: SubjectId,
}

impl SessionOwner {
    /// The client of a session.
    pub(crate) fn of_session(session: &SealedSession) -> Self {
        Self { session: session.id, subject: session.subject }
    }
}

/// The caller.
#[derive(Clone, Copy)]
pub(crate) enum Client<'a> {
    /// A REST caller, which has no session and no capabilities.
    Identity(&'a Identity),
    /// An MCP client.
    Key(ClientKey),
}

impl Client<'_> {
    /// The key of the session that the caller needs.
    pub(crate) fn key(&self) -> ClientKey {
        match self {
            Self::Key(key) => *key,
            Self::Identity(identity) => {
                let (subject, capabilities) = (SubjectId::of(identity), ClientCapabilities::NONE);
                ClientKey { session: None, subject, capabilities, extensions: 0 }
            }
        }
    }
}

/// The sessions of one server.
pub(crate) struct Clients {
    sessions: Mutex<Sessions>,
    openings: mpsc::Sender<Arc<ClientSession>>,
    /// Received by the server's task.
    to_open: Mutex<Option<mpsc::Receiver<Arc<ClientSession>>>>,
    spoken: Mutex<Option<Spoken>>,
    inbox: Arc<dyn ClientInbox>,
    next: AtomicU64,
}

#[derive(Default)]
struct Sessions {
    open: HashMap<ClientKey, Arc<ClientSession>>,
    by_caller: HashMap<SubjectId, u32>,
    lost: Lost,
    shut: bool,
}

/// Sessions of clients that expect the server to hold state for them: looked up for every call; the oldest are
/// forgotten first. In time the limit is reached, because most clients leave without ending their session.
#[derive(Default)]
struct Lost {
    numbers: HashMap<SessionKey, u64>,
    by_age: BTreeMap<u64, SessionKey>,
    next: u64,
}

/// The reason a call gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The client's session and its state are gone. Reported once.
    Lost,
    /// The limit for sessions is reached.
    Full,
    /// The server is being removed.
    Shut,
}

impl Clients {
    /// Creates an empty registry.
    pub(crate) fn new(inbox: Arc<dyn ClientInbox>) -> Self {
        let (openings, to_open) = mpsc::channel(OPENINGS);
        Self {
            sessions: Mutex::default(),
            openings,
            to_open: Mutex::new(Some(to_open)),
            spoken: Mutex::default(),
            inbox,
            next: AtomicU64::new(0),
        }
    }

    /// The client's session, which is opened if it has none.
    ///
    /// # Errors
    /// [`Refused`].
    pub(crate) fn lease(
        self: &Arc<Self>,
        (key, extensions): (&ClientKey, &Extensions),
        limits: ClientSessions,
    ) -> Result<Lease, Refused> {
        let mut sessions = self.lock();
        if sessions.shut {
            return Err(Refused::Shut);
        }
        if let Some(client_session) = sessions.open.get(key) {
            return Ok(Lease::new(self, client_session));
        }
        if key.session.is_some_and(|session| sessions.lost.take(&session)) {
            return Err(Refused::Lost);
        }
        let of_caller = sessions.by_caller.get(&key.subject).copied().unwrap_or_default();
        if sessions.open.len() >= limits.max as usize || of_caller >= limits.max_per_caller {
            return Err(Refused::Full);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let client_session = Arc::new(ClientSession::new((*key, extensions.clone()), number, self.inbox.clone()));
        if self.openings.try_send(client_session.clone()).is_err() {
            return Err(Refused::Full);
        }
        sessions.open.insert(*key, client_session.clone());
        sessions.by_caller.insert(key.subject, of_caller + 1);
        Ok(Lease::new(self, &client_session))
    }

    /// Whether the client has a session here, or expects one.
    pub(crate) fn has(&self, key: &ClientKey) -> bool {
        let sessions = self.lock();
        sessions.open.contains_key(key)
            || key.session.is_some_and(|session| sessions.lost.numbers.contains_key(&session))
    }

    /// The number of sessions.
    pub(crate) fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// The client's session, if it has one.
    pub(crate) fn get(&self, key: &ClientKey) -> Option<Arc<ClientSession>> {
        self.lock().open.get(key).cloned()
    }

    /// Ends this session, because the client's own session has ended.
    pub(crate) fn end(&self, session: &SessionKey) {
        for client_session in self.all().iter().filter(|one| one.key.session.as_ref() == Some(session)) {
            self.remove(client_session, false);
            client_session.close();
        }
        self.lock().lost.take(session);
    }

    /// Removes a session, so that the next call opens another. `lost`: its client does not know yet.
    pub(crate) fn remove(&self, client_session: &Arc<ClientSession>, lost: bool) {
        self.lock().remove(client_session, lost);
    }

    /// Records that the client knows of the loss of its session.
    fn told(&self, key: &ClientKey) {
        if let Some(session) = &key.session {
            self.lock().lost.take(session);
        }
    }

    /// Removes a session that no call has used for this long.
    pub(crate) fn remove_idle(&self, client_session: &Arc<ClientSession>, idle: Duration) -> bool {
        // A call that leases the session needs this lock.
        let mut sessions = self.lock();
        let unused = client_session.idle_for().is_some_and(|time| time >= idle);
        if unused {
            sessions.remove(client_session, true);
        }
        unused
    }

    /// The sessions that calls wait for, to be opened by the server's task, which takes the receiver once.
    pub(crate) fn to_open(&self) -> Option<mpsc::Receiver<Arc<ClientSession>>> {
        self.to_open.lock().take()
    }

    /// Refuses all further leases.
    pub(crate) fn shut(&self) {
        self.lock().shut = true;
    }

    /// All sessions.
    pub(crate) fn all(&self) -> Vec<Arc<ClientSession>> {
        self.lock().open.values().cloned().collect()
    }

    /// Marks the sessions of the previous configuration as lost here: their clients must learn of it.
    pub(crate) fn succeed(&self, before: &Self) {
        let mut sessions = self.lock();
        let old = before.lock();
        let open = old.open.values().filter(|one| one.holds_state()).filter_map(|one| one.key.session);
        old.lost.by_age.values().copied().chain(open).for_each(|session| sessions.lost.note(session));
    }

    /// Records the last detected transport of the server.
    pub(crate) fn note_spoken(&self, spoken: Option<Spoken>) {
        *self.spoken.lock() = spoken;
    }

    /// The last detected transport of the server.
    pub(crate) fn spoken(&self) -> Option<Spoken> {
        *self.spoken.lock()
    }

    fn lock(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock()
    }
}

impl Sessions {
    fn remove(&mut self, client_session: &Arc<ClientSession>, lost: bool) {
        let key = client_session.key;
        if !self.open.get(&key).is_some_and(|there| Arc::ptr_eq(there, client_session)) {
            return;
        }
        self.open.remove(&key);
        match self.by_caller.get_mut(&key.subject) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_caller.remove(&key.subject)),
        }
        if let Some(session) = key.session.filter(|_| lost && client_session.holds_state()) {
            self.lost.note(session);
        }
    }
}

impl Lost {
    fn note(&mut self, session: SessionKey) {
        self.take(&session);
        self.numbers.insert(session, self.next);
        self.by_age.insert(self.next, session);
        self.next += 1;
        if self.by_age.len() > MOST_LOST
            && let Some((_, oldest)) = self.by_age.pop_first()
        {
            self.numbers.remove(&oldest);
        }
    }

    /// Forgets a session; returns whether it was there.
    fn take(&mut self, session: &SessionKey) -> bool {
        let number = self.numbers.remove(session);
        number.is_some_and(|number| self.by_age.remove(&number).is_some())
    }
}

#[cfg(test)]
mod tests;

//! Sessions with one server that its clients have for themselves: found, bounded, and remembered when they are lost.
//!
//! Calls take them from here; the server's task opens and closes them (`keep`).

mod call;
pub mod keep;
mod line;
mod voice;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_crds::mcpserver::ClientSessions;
use tokio::sync::mpsc;

use crate::auth::Identity;
use crate::capabilities::ClientCapabilities;
use crate::front::mcp::asking::Asking;
use crate::front::mcp::live::SessionKey;
use crate::seal::{Session, SubjectId};
use crate::upstream::connect::Spoken;

pub use call::attempt;
pub use line::{Lease, Line};

/// Sessions that wait to be opened.
const OPENINGS: usize = 1_024;

/// Lost sessions that are remembered until their clients are told; of more, the oldest are forgotten.
const MOST_LOST: usize = 10_000;

/// Whose session with a server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClientKey {
    /// The client's own session; none: it has none, so its subject and what it can be asked tell it from others.
    pub session: Option<SessionKey>,
    /// Its subject.
    pub subject: SubjectId,
    /// What it can be asked.
    pub capabilities: ClientCapabilities,
}

impl ClientKey {
    /// Of a client with a session.
    pub fn of_session(session: &Session) -> Self {
        Self { session: Some(session.id), subject: session.subject, capabilities: session.capabilities }
    }
}

/// Who makes a call.
#[derive(Clone, Copy)]
pub enum Client<'a> {
    /// Of REST, who has no session and can be asked nothing.
    Identity(&'a Identity),
    /// Of MCP.
    Key(ClientKey),
}

impl Client<'_> {
    /// Whose session it needs.
    pub fn key(&self) -> ClientKey {
        match self {
            Self::Key(key) => *key,
            Self::Identity(identity) => {
                ClientKey { session: None, subject: SubjectId::of(identity), capabilities: ClientCapabilities::NONE }
            }
        }
    }
}

/// The sessions of one server.
pub struct Clients {
    lines: Mutex<Lines>,
    openings: mpsc::Sender<Arc<Line>>,
    /// Taken by the server's task.
    to_open: Mutex<Option<mpsc::Receiver<Arc<Line>>>>,
    spoken: Mutex<Option<Spoken>>,
    asking: Arc<Asking>,
    next: AtomicU64,
}

#[derive(Default)]
struct Lines {
    open: HashMap<ClientKey, Arc<Line>>,
    by_caller: HashMap<SubjectId, u32>,
    lost: Lost,
    shut: bool,
}

/// Sessions of clients that keep state here, they believe: looked up for every call, and the oldest forgotten first.
/// After some time there are as many as may be, because most clients go away without a word.
#[derive(Default)]
struct Lost {
    numbers: HashMap<SessionKey, u64>,
    by_age: BTreeMap<u64, SessionKey>,
    next: u64,
}

/// Why a call gets no session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It had one with state in it, which is gone. It is told once.
    Lost,
    /// There are as many as there may be.
    Full,
    /// The server is going away.
    Shut,
}

impl Clients {
    /// None yet.
    pub fn new(asking: Arc<Asking>) -> Self {
        let (openings, to_open) = mpsc::channel(OPENINGS);
        Self {
            lines: Mutex::default(),
            openings,
            to_open: Mutex::new(Some(to_open)),
            spoken: Mutex::default(),
            asking,
            next: AtomicU64::new(0),
        }
    }

    /// The client's session, opened if it has none.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn lease(self: &Arc<Self>, key: &ClientKey, limits: ClientSessions) -> Result<Lease, Refused> {
        let mut lines = self.lock();
        if lines.shut {
            return Err(Refused::Shut);
        }
        if let Some(line) = lines.open.get(key) {
            return Ok(Lease::new(self, line));
        }
        if key.session.is_some_and(|session| lines.lost.take(&session)) {
            return Err(Refused::Lost);
        }
        let of_caller = lines.by_caller.get(&key.subject).copied().unwrap_or_default();
        if lines.open.len() >= limits.max as usize || of_caller >= limits.max_per_caller {
            return Err(Refused::Full);
        }
        let line = Arc::new(Line::new(*key, self.next.fetch_add(1, Ordering::Relaxed), self.asking.clone()));
        if self.openings.try_send(line.clone()).is_err() {
            return Err(Refused::Full);
        }
        lines.open.insert(*key, line.clone());
        lines.by_caller.insert(key.subject, of_caller + 1);
        Ok(Lease::new(self, &line))
    }

    /// Whether the client has a session here, or believes so.
    pub fn has(&self, key: &ClientKey) -> bool {
        let lines = self.lock();
        lines.open.contains_key(key) || key.session.is_some_and(|session| lines.lost.numbers.contains_key(&session))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.lock().open.len()
    }

    /// The client's session, if it has one.
    pub fn get(&self, key: &ClientKey) -> Option<Arc<Line>> {
        self.lock().open.get(key).cloned()
    }

    /// The client's own session is over, and with it this one.
    pub fn end(&self, session: &SessionKey) {
        for line in self.all().iter().filter(|line| line.key.session.as_ref() == Some(session)) {
            self.remove(line, false);
            line.close();
        }
        self.lock().lost.take(session);
    }

    /// Takes a session out, so that the next call opens another. `lost`: its client has not been told.
    fn remove(&self, line: &Arc<Line>, lost: bool) {
        self.lock().remove(line, lost);
    }

    /// The client has been told that its session is lost.
    fn told(&self, key: &ClientKey) {
        if let Some(session) = &key.session {
            self.lock().lost.take(session);
        }
    }

    /// Takes it out if no call has used it for so long.
    fn remove_idle(&self, line: &Arc<Line>, idle: Duration) -> bool {
        // A call that takes it needs this lock.
        let mut lines = self.lock();
        let unused = line.idle_for().is_some_and(|time| time >= idle);
        if unused {
            lines.remove(line, true);
        }
        unused
    }

    /// No call gets one any more.
    fn shut(&self) {
        self.lock().shut = true;
    }

    fn all(&self) -> Vec<Arc<Line>> {
        self.lock().open.values().cloned().collect()
    }

    /// Clients of the server before it was configured anew keep nothing in this one: they are to be told.
    pub fn succeed(&self, before: &Self) {
        let mut lines = self.lock();
        let old = before.lock();
        let open = old.open.values().filter(|line| line.holds_state()).filter_map(|line| line.key.session);
        old.lost.by_age.values().copied().chain(open).for_each(|session| lines.lost.note(session));
    }

    /// How the server spoke the last time.
    pub fn note_spoken(&self, spoken: Option<Spoken>) {
        *self.spoken.lock().unwrap_or_else(PoisonError::into_inner) = spoken;
    }

    fn spoken(&self) -> Option<Spoken> {
        *self.spoken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, Lines> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn remove(&mut self, line: &Arc<Line>, lost: bool) {
        let key = line.key;
        if !self.open.get(&key).is_some_and(|there| Arc::ptr_eq(there, line)) {
            return;
        }
        self.open.remove(&key);
        match self.by_caller.get_mut(&key.subject) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.by_caller.remove(&key.subject)),
        }
        if let Some(session) = key.session.filter(|_| lost && line.holds_state()) {
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

    /// Forgets it; whether it was there.
    fn take(&mut self, session: &SessionKey) -> bool {
        let number = self.numbers.remove(session);
        number.is_some_and(|number| self.by_age.remove(&number).is_some())
    }
}

#[cfg(test)]
mod tests;

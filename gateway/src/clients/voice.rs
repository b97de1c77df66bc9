//! Where goes what a server says in a client's session without saying to which call it belongs.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ClientKey;
use crate::front::mcp::asking::{Asking, Whom};
use crate::upstream::{Mailbox, Told, Unasked};

/// The listeners of one client's session with one server.
pub(super) struct Voice {
    key: ClientKey,
    asking: Arc<Asking>,
    running: Mutex<Vec<(u64, Mailbox)>>,
    next: AtomicU64,
}

/// A call that listens until this is dropped.
pub(super) struct Listening<'a> {
    voice: &'a Voice,
    number: u64,
}

impl Voice {
    pub(super) fn new(key: ClientKey, asking: Arc<Asking>) -> Self {
        Self { key, asking, running: Mutex::default(), next: AtomicU64::new(0) }
    }

    pub(super) fn listens(&self, mailbox: &Mailbox) -> Listening<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.running().push((number, mailbox.clone()));
        Listening { voice: self, number }
    }

    fn running(&self) -> MutexGuard<'_, Vec<(u64, Mailbox)>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Unasked for Arc<Voice> {
    /// The only call that runs is the one that is meant. Of several none is known to be: then the stream on which the
    /// session listens is right for all, and without one the newest call's.
    fn take(&self, mut told: Told) -> Result<(), Told> {
        let (count, newest) = {
            let running = self.running();
            (running.len(), running.last().map(|(_, mailbox)| mailbox.clone()))
        };
        if let (1, Some(mailbox)) = (count, &newest) {
            match mailbox.put(told) {
                Ok(()) => return Ok(()),
                Err(back) => told = back,
            }
        }
        if let Some(session) = self.key.session {
            let whom = Whom { session, subject: self.key.subject };
            match self.asking.tell(whom, self.key.capabilities, told) {
                Ok(()) => return Ok(()),
                Err(back) => told = back,
            }
        }
        match newest.filter(|_| count > 1) {
            Some(mailbox) => mailbox.put(told),
            None => Err(told),
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.voice.running().retain(|(number, _)| *number != self.number);
    }
}

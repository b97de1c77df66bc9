//! Routes server messages that belong to no call: to the client's stream, or to its only running call.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::ClientKey;
use crate::client_sessions::SessionOwner;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::upstream::{Mailbox, ServerMessage, Unsolicited};

/// Reaches clients outside any call.
pub(crate) trait ClientInbox: Send + Sync {
    /// Sends a message to the client of a session, on its listening stream. `able` are the client's capabilities.
    ///
    /// # Errors
    /// The client does not listen, or does not want the message, which is returned.
    fn deliver(
        &self,
        owner: SessionOwner,
        able: ClientCapabilities,
        message: ServerMessage,
    ) -> Result<(), ServerMessage>;
}

/// The listening calls of one client's session with one server.
pub(crate) struct UnsolicitedRouter {
    key: ClientKey,
    inbox: Arc<dyn ClientInbox>,
    running: Mutex<Vec<(u64, Mailbox)>>,
    next: AtomicU64,
}

/// A call that listens until this is dropped.
pub(crate) struct Listening<'a> {
    router: &'a UnsolicitedRouter,
    number: u64,
}

impl UnsolicitedRouter {
    pub(crate) fn new(key: ClientKey, inbox: Arc<dyn ClientInbox>) -> Self {
        Self { key, inbox, running: Mutex::default(), next: AtomicU64::new(0) }
    }

    pub(crate) fn listens(&self, mailbox: &Mailbox) -> Listening<'_> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.running().push((number, mailbox.clone()));
        Listening { router: self, number }
    }

    fn running(&self) -> MutexGuard<'_, Vec<(u64, Mailbox)>> {
        self.running.lock()
    }
}

impl Unsolicited for UnsolicitedRouter {
    /// If a single call runs, the message belongs to it. With several the call is unknown: then the session's listening
    /// stream suits all of them, and without one the newest call's.
    fn take(&self, mut message: ServerMessage) -> Result<(), ServerMessage> {
        let (count, newest) = {
            let running = self.running();
            (running.len(), running.last().map(|(_, mailbox)| mailbox.clone()))
        };
        if let (1, Some(mailbox)) = (count, &newest) {
            match mailbox.put(message) {
                Ok(()) => return Ok(()),
                Err(back) => message = back,
            }
        }
        if let Some(session) = self.key.session {
            let owner = SessionOwner { session, subject: self.key.subject };
            match self.inbox.deliver(owner, self.key.capabilities, message) {
                Ok(()) => return Ok(()),
                Err(back) => message = back,
            }
        }
        match newest.filter(|_| count > 1) {
            Some(mailbox) => mailbox.put(message),
            None => Err(message),
        }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        self.router.running().retain(|(number, _)| *number != self.number);
    }
}

/// A client that never listens, for tests.
#[cfg(test)]
pub(crate) struct NobodyListens;

#[cfg(test)]
impl ClientInbox for NobodyListens {
    fn deliver(&self, _: SessionOwner, _: ClientCapabilities, message: ServerMessage) -> Result<(), ServerMessage> {
        Err(message)
    }
}

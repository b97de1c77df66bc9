//! Which servers may look different to whoever asks for the status: marked on the spot, looked at by the board later.

use std::sync::{Mutex, MutexGuard, PoisonError};

use portcullis_crds::ServerKey;
use tokio::sync::Notify;

/// What may have changed. A server that is marked already is not marked twice, so it stays as short as the list of
/// servers.
#[derive(Debug, Default)]
pub struct Touched {
    marks: Mutex<Marks>,
    wake: Notify,
}

/// What was marked.
#[derive(Debug, Default)]
pub struct Marks {
    /// Servers that may look different.
    pub servers: Vec<ServerKey>,
    /// Servers that are no longer known.
    pub gone: Vec<ServerKey>,
    /// The slots look different.
    pub slots: bool,
}

impl Touched {
    /// Marks something.
    pub fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut self.lock());
        self.wake.notify_one();
    }

    /// Takes all marks.
    pub fn take(&self) -> Marks {
        std::mem::take(&mut self.lock())
    }

    /// Waits until something is marked.
    pub async fn any(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

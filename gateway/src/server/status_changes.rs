//! The servers whose status may have changed: marked at once, examined by the board later.

use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::ServerKey;
use tokio::sync::Notify;

/// The marks. A marked server is not marked twice, so the list is never longer than that of the servers.
#[derive(Debug, Default)]
pub(crate) struct StatusChanges {
    marks: Mutex<Marks>,
    wake: Notify,
}

/// The marked items.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    /// Servers whose status may have changed.
    pub(crate) servers: Vec<ServerKey>,
    /// Servers that were removed.
    pub(crate) gone: Vec<ServerKey>,
    /// The slots have changed.
    pub(crate) slots: bool,
    /// The views have changed.
    pub(crate) views: bool,
}

impl StatusChanges {
    /// Adds a mark.
    pub(crate) fn mark(&self, mark: impl FnOnce(&mut Marks)) {
        mark(&mut self.lock());
        self.wake.notify_one();
    }

    /// Takes all marks.
    pub(crate) fn take(&self) -> Marks {
        std::mem::take(&mut self.lock())
    }

    /// Waits until there is a mark.
    pub(crate) async fn any(&self) {
        self.wake.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock()
    }
}

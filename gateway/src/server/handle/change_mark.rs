//! Tracks whether a server's status may differ from the reported one, and when it last changed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use portcullis_crds::ServerKey;

use crate::server::status_changes::StatusChanges;

/// The reported status of a server, and the list in which to mark changes.
#[derive(Default)]
pub(crate) struct ChangeMark {
    changes: Arc<StatusChanges>,
    is_marked: AtomicBool,
    /// Number of the last visible change.
    stamp: AtomicU64,
    fingerprint: AtomicU64,
}

impl ChangeMark {
    /// A mark that registers its server in `changes`.
    pub(super) fn of(changes: Arc<StatusChanges>) -> Self {
        Self { changes, ..Self::default() }
    }

    /// Marks that the server's status may have changed.
    pub(super) fn mark(&self, server: &ServerKey) {
        if !self.is_marked.swap(true, Ordering::AcqRel) {
            self.changes.mark(|marks| marks.servers.push(server.clone()));
        }
    }

    /// Clears the mark before the server is examined: later changes count as new ones.
    pub(crate) fn unmark(&self) {
        self.is_marked.store(false, Ordering::Release);
    }

    /// The number of the last visible change.
    pub(crate) fn stamped(&self) -> u64 {
        self.stamp.load(Ordering::Acquire)
    }

    /// Records the server's status in change number `change`; true if it differs from the one before.
    pub(crate) fn stamp(&self, fingerprint: u64, change: u64) -> bool {
        let differs = self.fingerprint.swap(fingerprint, Ordering::AcqRel) != fingerprint;
        if differs {
            self.stamp.store(change, Ordering::Release);
        }
        differs
    }
}

//! Serves `/status`, in full or as the changes since an earlier answer.
//!
//! Changes have numbers. Each server remembers the number of its last visible change, so an answer to a client that
//! knows everything up to a number costs a look at each server, and is as short as the changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::ServerKey;
use portcullis_crds::report::{Report, SlotReport, ViewReport};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::catalog::Difference;
use crate::catalog::PublishedCatalog;
use crate::server::status_changes::StatusChanges;
use crate::status::report::{fingerprint, policy_report, report};

/// Changes within this time are reported together.
const GATHER: Duration = Duration::from_millis(20);

/// The limit for remembered removed servers; a client that needs older ones gets everything.
const REMEMBERED: usize = 4096;

/// Servers examined before other tasks run.
const AT_ONCE: usize = 256;

/// The reported status of all servers.
pub(crate) struct Board {
    instance: String,
    published: PublishedCatalog,
    touched: Arc<StatusChanges>,
    change: watch::Sender<u64>,
    memory: Mutex<FeedHistory>,
}

#[derive(Default)]
struct FeedHistory {
    slots: Vec<SlotReport>,
    views: Vec<ViewReport>,
    /// Removed servers and the change that removed them, the oldest first.
    gone: VecDeque<(u64, ServerKey)>,
    /// The newest change whose removed server is no longer remembered.
    forgotten: u64,
}

impl Board {
    /// A board of the published catalog.
    pub(crate) fn new(published: PublishedCatalog, touched: Arc<StatusChanges>) -> Self {
        let mut bytes = [0; 8];
        // Need not be secret, only different from earlier ones.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        let instance = format!("{:016x}", u64::from_be_bytes(bytes));
        Self { instance, published, touched, change: watch::Sender::new(0), memory: Mutex::default() }
    }

    /// Identifies this start of the process.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// The number of the newest change, and all later ones.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.change.subscribe()
    }

    /// Sets the applied slots.
    pub(crate) fn set_slots(&self, slots: Vec<SlotReport>) {
        let mut memory = self.memory();
        if memory.slots != slots {
            memory.slots = slots;
            self.touched.mark(|marks| marks.slots = true);
        }
    }

    /// Sets the applied views, sorted by key: all of them. One that differs is a change.
    pub(crate) fn set_views(&self, views: Vec<ViewReport>) {
        let mut memory = self.memory();
        if memory.views != views {
            memory.views = views;
            self.touched.mark(|marks| marks.views = true);
        }
    }

    /// Records that another catalog was published.
    pub(crate) fn published(&self, difference: &Difference<'_>) {
        for server in &difference.servers {
            // An earlier mark may have been taken when no catalog had the server yet: it does not count.
            server.change().unmark();
            server.touch();
        }
        if !difference.gone.is_empty() {
            self.touched.mark(|marks| marks.gone.extend(difference.gone.iter().map(|key| (*key).clone())));
        }
    }

    /// Numbers changes forever.
    pub(crate) async fn follow(&self) {
        loop {
            self.touched.any().await;
            sleep(GATHER).await;
            self.gather().await;
        }
    }

    /// Numbers the visible changes.
    async fn gather(&self) {
        let marks = self.touched.take();
        let next = *self.change.borrow() + 1;
        let mut changed = marks.slots || marks.views || !marks.gone.is_empty();
        for servers in marks.servers.chunks(AT_ONCE) {
            let catalog = self.published.load_full();
            for server in servers.iter().filter_map(|key| catalog.server_of(key)) {
                server.change().unmark();
                changed |= server.change().stamp(fingerprint(&report(&catalog, server)), next);
            }
            tokio::task::yield_now().await;
        }
        self.memory().forget(marks.gone, next);
        if changed {
            self.change.send_replace(next);
        }
    }

    /// The report to a client that knows everything up to `since` of this instance; everything to any other.
    pub(crate) fn report(&self, since: Option<u64>) -> Report {
        // First, so that a concurrent change is reported again rather than never.
        let change = *self.change.borrow();
        let catalog = self.published.load_full();
        let (since, slots, mut gone) = self.memory().since(since, change);
        // The server may be back.
        gone.retain(|key| catalog.server_of(key).is_none());
        let servers =
            catalog.servers().iter().filter(|server| since.is_none_or(|since| server.change().stamped() > since));
        Report {
            instance: self.instance.clone(),
            change,
            complete: since.is_none(),
            slots,
            servers: servers.map(|server| report(&catalog, server)).collect(),
            gone,
            policies: catalog.policies().iter().filter_map(|policy| policy_report(policy)).collect(),
            views: self.memory().views.clone(),
        }
    }

    fn memory(&self) -> MutexGuard<'_, FeedHistory> {
        self.memory.lock()
    }
}

impl FeedHistory {
    /// `since`, if all later removals are remembered; the slots; and the removed servers.
    fn since(&self, since: Option<u64>, change: u64) -> (Option<u64>, Vec<SlotReport>, Vec<ServerKey>) {
        let since = since.filter(|since| (self.forgotten..=change).contains(since));
        let gone = self.gone.iter().filter(|(at, _)| since.is_some_and(|since| *at > since));
        (since, self.slots.clone(), gone.map(|(_, key)| key.clone()).collect())
    }

    fn forget(&mut self, gone: Vec<ServerKey>, change: u64) {
        self.gone.extend(gone.into_iter().map(|key| (change, key)));
        while self.gone.len() > REMEMBERED {
            self.forgotten = self.gone.pop_front().map_or(self.forgotten, |(at, _)| at);
        }
    }
}

#[cfg(test)]
mod tests;

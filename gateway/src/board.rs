//! What `/status` tells, and which part of it is new to somebody who has asked before.
//!
//! Changes have numbers. Each server remembers the number of its last visible change, so an answer to somebody who
//! knows everything up to a number costs a look at each server, and is as short as what has changed.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_crds::ServerKey;
use portcullis_crds::report::{Report, SlotReport};
use tokio::sync::watch;
use tokio::time::sleep;

use crate::catalog::Difference;
use crate::pool::Published;
use crate::report::{fingerprint, report};
use crate::touched::Touched;

/// Changes that come together are told together.
const GATHER: Duration = Duration::from_millis(20);

/// Removed servers that are remembered; whoever asks for older ones is told everything.
const REMEMBERED: usize = 4096;

/// Servers looked at before other tasks get their turn.
const AT_ONCE: usize = 256;

/// What is told of all servers.
pub struct Board {
    instance: String,
    published: Published,
    touched: Arc<Touched>,
    change: watch::Sender<u64>,
    memory: Mutex<Memory>,
}

#[derive(Default)]
struct Memory {
    slots: Vec<SlotReport>,
    /// Removed servers and the change that removed them, the oldest first.
    gone: VecDeque<(u64, ServerKey)>,
    /// The newest change that removed one that is no longer remembered.
    forgotten: u64,
}

impl Board {
    /// A board of what is published here.
    pub fn new(published: Published, touched: Arc<Touched>) -> Self {
        let mut bytes = [0; 8];
        // It need not be secret, only another one than before.
        let _ = aws_lc_rs::rand::fill(&mut bytes);
        let instance = format!("{:016x}", u64::from_be_bytes(bytes));
        Self { instance, published, touched, change: watch::Sender::new(0), memory: Mutex::default() }
    }

    /// Which start of the process this is.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The newest change, and all that follow.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.change.subscribe()
    }

    /// The slots that are applied.
    pub fn set_slots(&self, slots: Vec<SlotReport>) {
        let mut memory = self.memory();
        if memory.slots != slots {
            memory.slots = slots;
            self.touched.mark(|marks| marks.slots = true);
        }
    }

    /// Another catalog was published.
    pub fn published(&self, difference: &Difference<'_>) {
        for server in &difference.servers {
            // A mark of before may have been taken when no catalog had the server yet: it counts for nothing.
            server.untouch();
            server.touch();
        }
        if !difference.gone.is_empty() {
            self.touched.mark(|marks| marks.gone.extend(difference.gone.iter().map(|key| (*key).clone())));
        }
    }

    /// Numbers changes for ever.
    pub async fn follow(&self) {
        loop {
            self.touched.any().await;
            sleep(GATHER).await;
            self.gather().await;
        }
    }

    /// Numbers what has visibly changed.
    async fn gather(&self) {
        let marks = self.touched.take();
        let next = *self.change.borrow() + 1;
        let mut changed = marks.slots || !marks.gone.is_empty();
        for servers in marks.servers.chunks(AT_ONCE) {
            let catalog = self.published.load_full();
            for server in servers.iter().filter_map(|key| catalog.server_of(key)) {
                server.untouch();
                changed |= server.stamp(fingerprint(&report(&catalog, server)), next);
            }
            tokio::task::yield_now().await;
        }
        self.memory().forget(marks.gone, next);
        if changed {
            self.change.send_replace(next);
        }
    }

    /// What is told to somebody who knows everything up to `since` of this instance; everything to anybody else.
    pub fn report(&self, since: Option<u64>) -> Report {
        // First, so that what changes meanwhile is told again rather than never.
        let change = *self.change.borrow();
        let catalog = self.published.load_full();
        let (since, slots, mut gone) = self.memory().since(since, change);
        // It may be back.
        gone.retain(|key| catalog.server_of(key).is_none());
        let servers = catalog.servers().iter().filter(|server| since.is_none_or(|since| server.stamped() > since));
        Report {
            instance: self.instance.clone(),
            change,
            complete: since.is_none(),
            slots,
            servers: servers.map(|server| report(&catalog, server)).collect(),
            gone,
        }
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Memory {
    /// `since`, if all that was removed since is remembered; the slots; and what was removed.
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

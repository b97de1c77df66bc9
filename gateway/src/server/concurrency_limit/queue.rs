//! Queues the calls that wait for a permit: callers alternate, and the calls of each are served in order of arrival.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// Notifies a waiting call that it has a permit.
pub(super) type Tell = oneshot::Sender<()>;

/// The waiting calls, by caller: the caller that is served next is in front.
#[derive(Default)]
pub(super) struct Queue {
    lanes: VecDeque<(u64, VecDeque<Tell>)>,
    count: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds a call; false if the queue is full. A full queue drops a call of the caller with the most waiting calls, in
    /// favour of a caller with fewer.
    pub(super) fn push(&mut self, caller: u64, tell: Tell, most: usize) -> bool {
        if self.count >= most {
            // Calls that have given up leave senders behind.
            self.sweep();
        }
        let own = self.lanes.iter().position(|(other, _)| *other == caller);
        if self.count >= most && !self.makes_room(own.map_or(0, |lane| self.lanes[lane].1.len())) {
            return false;
        }
        // Dropping a call never removes a lane with one call.
        match self.lanes.iter_mut().find(|(other, _)| *other == caller) {
            Some((_, lane)) => lane.push_back(tell),
            None => self.lanes.push_back((caller, VecDeque::from([tell]))),
        }
        self.count += 1;
        true
    }

    /// Takes the next call.
    pub(super) fn pop(&mut self) -> Option<Tell> {
        let (caller, mut lane) = self.lanes.pop_front()?;
        let next = lane.pop_front();
        if !lane.is_empty() {
            self.lanes.push_back((caller, lane));
        }
        self.count -= usize::from(next.is_some());
        next
    }

    /// Drops the last call of the caller with the most waiting calls, if that caller still has at least as many as this
    /// one then.
    fn makes_room(&mut self, own: usize) -> bool {
        let longest = self.lanes.iter_mut().max_by_key(|(_, lane)| lane.len());
        let Some((_, lane)) = longest.filter(|(_, lane)| lane.len() > own + 1) else { return false };
        let sent_away = lane.pop_back().is_some();
        self.count -= usize::from(sent_away);
        sent_away
    }

    fn sweep(&mut self) {
        self.lanes.iter_mut().for_each(|(_, lane)| lane.retain(|one| !one.is_closed()));
        self.lanes.retain(|(_, lane)| !lane.is_empty());
        self.count = self.lanes.iter().map(|(_, lane)| lane.len()).sum();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.count
    }

    /// The number of calls that still wait.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.lanes.iter().flat_map(|(_, lane)| lane).filter(|one| !one.is_closed()).count()
    }
}

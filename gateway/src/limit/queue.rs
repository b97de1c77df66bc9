//! Who waits for a place: callers take turns, and the calls of each are served in the order in which they came.

use std::collections::VecDeque;

use tokio::sync::oneshot;

/// Tells one who waits that it has a place.
pub(super) type Tell = oneshot::Sender<()>;

/// Those who wait, by caller: the one that is served next is in front.
#[derive(Default)]
pub(super) struct Queue {
    lanes: VecDeque<(u64, VecDeque<Tell>)>,
    count: usize,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Adds one; false if there is no room for it. Where there is none left, the caller that waits most often gives way to
    /// one that waits less often.
    pub(super) fn push(&mut self, caller: u64, tell: Tell, most: usize) -> bool {
        if self.count >= most {
            // Who has given up leaves a sender behind.
            self.sweep();
        }
        let own = self.lanes.iter().position(|(other, _)| *other == caller);
        if self.count >= most && !self.makes_room(own.map_or(0, |lane| self.lanes[lane].1.len())) {
            return false;
        }
        // A lane with one in it is not taken away by making room.
        match self.lanes.iter_mut().find(|(other, _)| *other == caller) {
            Some((_, lane)) => lane.push_back(tell),
            None => self.lanes.push_back((caller, VecDeque::from([tell]))),
        }
        self.count += 1;
        true
    }

    /// The next.
    pub(super) fn pop(&mut self) -> Option<Tell> {
        let (caller, mut lane) = self.lanes.pop_front()?;
        let next = lane.pop_front();
        if !lane.is_empty() {
            self.lanes.push_back((caller, lane));
        }
        self.count -= usize::from(next.is_some());
        next
    }

    /// Sends away the last of the caller that waits most often, if it would still wait as often as this one then.
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

    /// How many of them still wait.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.lanes.iter().flat_map(|(_, lane)| lane).filter(|one| !one.is_closed()).count()
    }
}

//! Which of the listed namespaces cannot be read, and since when.
//!
//! Pure. The API server refuses a namespace that is gone like one in which the Role is missing. Neither may keep the
//! operator from all others, so after a while such a namespace counts as empty, until it can be read again.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A namespace is refused for so long before it counts as empty: rights that have just been given take a moment to hold.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What is watched in each namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// McpServers.
    Servers,
    /// Services.
    Services,
}

/// The watches that are refused, each by its kind and number.
#[derive(Debug, Default)]
pub struct Refused {
    watches: BTreeMap<(Kind, usize), Since>,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    given_up: bool,
}

impl Refused {
    /// A watch was refused.
    pub fn refused(&mut self, kind: Kind, number: usize, now: Instant) {
        self.watches.entry((kind, number)).or_insert(Since { at: now, given_up: false });
    }

    /// A watch has listed everything. Returns whether it had been given up.
    pub fn listed(&mut self, kind: Kind, number: usize) -> bool {
        self.watches.remove(&(kind, number)).is_some_and(|since| since.given_up)
    }

    /// Whether a watch is given up.
    pub fn is_given_up(&self, kind: Kind, number: usize) -> bool {
        self.watches.get(&(kind, number)).is_some_and(|since| since.given_up)
    }

    /// When the next watch is to be given up.
    pub fn next(&self) -> Option<Instant> {
        self.watches.values().filter(|since| !since.given_up).map(|since| since.at + PATIENCE).min()
    }

    /// The watches that are given up now.
    pub fn due(&mut self, now: Instant) -> Vec<(Kind, usize)> {
        let due = self.watches.iter_mut().filter(|(_, since)| !since.given_up && since.at + PATIENCE <= now);
        due.map(|(watch, since)| {
            since.given_up = true;
            *watch
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_watch_that_is_refused_without_end_is_given_up_once_and_taken_back_when_it_lists() {
        let now = Instant::now();
        let mut refused = Refused::default();
        refused.refused(Kind::Servers, 1, now);
        refused.refused(Kind::Servers, 1, now + PATIENCE / 2);
        refused.refused(Kind::Services, 0, now + PATIENCE / 2);
        assert_eq!((refused.next(), refused.due(now)), (Some(now + PATIENCE), vec![]));
        assert!(!refused.listed(Kind::Services, 0));
        assert_eq!(refused.due(now + PATIENCE), [(Kind::Servers, 1)]);
        refused.refused(Kind::Servers, 1, now + PATIENCE);
        assert_eq!((refused.next(), refused.due(now + PATIENCE * 3)), (None, vec![]));
        assert!(refused.listed(Kind::Servers, 1) && !refused.listed(Kind::Servers, 1));
    }
}

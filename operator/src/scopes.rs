//! Tracks the namespaces that the API server refuses to list, and since when.
//!
//! Pure. The API server answers a deleted namespace like one without the Role. Neither may block the operator from all
//! others, so after a while such a namespace counts as empty, until the namespace can be listed again. Only its policies
//! do not count as absent: nobody may use its servers before they are known.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

/// A refused namespace counts as empty after this time: new rights take a moment to apply.
pub(crate) const REFUSAL_GRACE: Duration = Duration::from_secs(20);

/// A resource that is watched in each namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NamespacedKind {
    /// McpServers.
    Servers,
    /// Services.
    Services,
    /// McpAccessPolicies.
    Policies,
    /// McpViews.
    Views,
}

/// The refused watches, by kind and number.
#[derive(Debug, Default)]
pub(crate) struct RefusedWatches {
    watches: BTreeMap<(NamespacedKind, usize), Since>,
}

#[derive(Clone, Copy, Debug)]
struct Since {
    at: Instant,
    given_up: bool,
}

impl RefusedWatches {
    /// Notes that a watch was refused.
    pub(crate) fn refused(&mut self, kind: NamespacedKind, number: usize, now: Instant) {
        self.watches.entry((kind, number)).or_insert(Since { at: now, given_up: false });
    }

    /// Notes that a watch has listed everything. Returns whether it had been given up.
    pub(crate) fn listed(&mut self, kind: NamespacedKind, number: usize) -> bool {
        self.watches.remove(&(kind, number)).is_some_and(|since| since.given_up)
    }

    /// Whether a watch is given up.
    pub(crate) fn is_given_up(&self, kind: NamespacedKind, number: usize) -> bool {
        self.watches.get(&(kind, number)).is_some_and(|since| since.given_up)
    }

    /// When the next watch will be given up.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.watches.values().filter(|since| !since.given_up).map(|since| since.at + REFUSAL_GRACE).min()
    }

    /// Gives up the watches that are due, and returns them.
    pub(crate) fn due(&mut self, now: Instant) -> Vec<(NamespacedKind, usize)> {
        let due = self.watches.iter_mut().filter(|(_, since)| !since.given_up && since.at + REFUSAL_GRACE <= now);
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
        let mut refused = RefusedWatches::default();
        refused.refused(NamespacedKind::Servers, 1, now);
        refused.refused(NamespacedKind::Servers, 1, now + REFUSAL_GRACE / 2);
        refused.refused(NamespacedKind::Services, 0, now + REFUSAL_GRACE / 2);
        assert_eq!((refused.next(), refused.due(now)), (Some(now + REFUSAL_GRACE), vec![]));
        assert!(!refused.listed(NamespacedKind::Services, 0));
        assert_eq!(refused.due(now + REFUSAL_GRACE), [(NamespacedKind::Servers, 1)]);
        refused.refused(NamespacedKind::Servers, 1, now + REFUSAL_GRACE);
        assert_eq!((refused.next(), refused.due(now + REFUSAL_GRACE * 3)), (None, vec![]));
        assert!(refused.listed(NamespacedKind::Servers, 1) && !refused.listed(NamespacedKind::Servers, 1));
    }
}

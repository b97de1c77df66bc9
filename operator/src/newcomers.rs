//! Holds new servers back for a moment, so that a policy that is applied together with one is there before it.
//!
//! Pure: the caller passes the time. The API server tells of servers and of policies by different watches, so their order
//! is lost. A server that is in its slot already is never held.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_crds::ServerKey;
use tokio::time::Instant;

use crate::share::EntryText;

/// The servers that wait.
#[derive(Debug, Default)]
pub(crate) struct Newcomers {
    held: BTreeMap<ServerKey, (Instant, EntryText)>,
    queue: BTreeSet<(Instant, ServerKey)>,
}

impl Newcomers {
    /// Holds a server until this time; one that is held already keeps its time. Returns the text if the time has come.
    pub(crate) fn hold(&mut self, key: &ServerKey, text: EntryText, until: Instant, now: Instant) -> Option<EntryText> {
        let until = self.release(key).map_or(until, |before| before.min(until));
        if until <= now {
            return Some(text);
        }
        self.queue.insert((until, key.clone()));
        self.held.insert(key.clone(), (until, text));
        None
    }

    /// Holds a server no longer. Returns the time until which it was held.
    pub(crate) fn release(&mut self, key: &ServerKey) -> Option<Instant> {
        let (until, _) = self.held.remove(key)?;
        self.queue.remove(&(until, key.clone()));
        Some(until)
    }

    /// Whether a server is held.
    pub(crate) fn holds(&self, key: &ServerKey) -> bool {
        self.held.contains_key(key)
    }

    /// When the next server is held no longer.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first().map(|(until, _)| *until)
    }

    /// The next server whose time has come.
    pub(crate) fn take_due(&mut self, now: Instant) -> Option<(ServerKey, EntryText)> {
        let (_, key) = self.queue.first().filter(|(until, _)| *until <= now)?.clone();
        let (_, text) = self.held.get(&key)?.clone();
        self.release(&key);
        Some((key, text))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_server_waits_once_and_in_its_newest_form() {
        let text = |text: &str| EntryText { text: text.into(), created: 0, policies: BTreeMap::new() };
        let (now, second, key) = (Instant::now(), Duration::from_secs(1), ServerKey::new("n", "a"));
        let mut held = Newcomers::default();
        assert_eq!(held.hold(&key, text("1"), now + second, now), None);
        assert_eq!(held.hold(&key, text("2"), now + second * 2, now), None);
        assert_eq!((held.next(), held.take_due(now)), (Some(now + second), None));
        assert!(held.holds(&key));
        assert_eq!(held.take_due(now + second), Some((key.clone(), text("2"))));
        assert_eq!((held.next(), held.take_due(now + second)), (None, None));
        assert_eq!(held.hold(&key, text("3"), now, now), Some(text("3")));
        assert_eq!(held.hold(&key, text("4"), now + second, now), None);
        assert_eq!((held.release(&key), held.release(&key), held.next()), (Some(now + second), None, None));
    }
}

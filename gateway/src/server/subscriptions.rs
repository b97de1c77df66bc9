//! The resources of one server to which callers are subscribed: one subscription at the server, however many callers
//! want it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use tokio::sync::Notify;

/// The limit for subscriptions at one server.
const MOST_OF_SERVER: usize = 1_000;

/// The wanted resources of one server, each with its number of callers.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    wanted: Mutex<BTreeMap<Arc<str>, usize>>,
    changed: Notify,
}

impl Subscriptions {
    /// Adds one caller.
    pub(crate) fn add(&self, uri: &Arc<str>) {
        let mut wanted = self.lock();
        let count = wanted.entry(uri.clone()).or_default();
        *count += 1;
        if *count == 1 {
            self.changed.notify_one();
        }
    }

    /// Removes one caller.
    pub(crate) fn remove(&self, uri: &str) {
        let mut wanted = self.lock();
        let Some(count) = wanted.get_mut(uri) else { return };
        *count -= 1;
        if *count == 0 {
            wanted.remove(uri);
            self.changed.notify_one();
        }
    }

    /// The wanted resources, up to the limit.
    pub(crate) fn all(&self) -> BTreeSet<Arc<str>> {
        self.lock().keys().take(MOST_OF_SERVER).cloned().collect()
    }

    /// Waits until these may have changed.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, usize>> {
        self.wanted.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    #[test]
    fn only_the_first_and_the_last_of_many_change_what_is_wanted() {
        let (subscriptions, uri) = (Subscriptions::default(), Arc::from("a:b"));
        let changed = || subscriptions.changed().now_or_never().is_some();
        subscriptions.add(&uri);
        assert!(changed());
        subscriptions.add(&uri);
        subscriptions.remove("a:b");
        subscriptions.remove("other");
        assert!(!changed());
        assert_eq!(subscriptions.all(), BTreeSet::from([uri]));
        subscriptions.remove("a:b");
        assert!(changed());
        assert!(subscriptions.all().is_empty());
    }

    #[test]
    fn a_server_is_told_of_no_more_than_it_may_be() {
        let subscriptions = Subscriptions::default();
        (0..=MOST_OF_SERVER).for_each(|n| subscriptions.add(&Arc::from(format!("a:{n}"))));
        assert_eq!(subscriptions.all().len(), MOST_OF_SERVER);
    }
}

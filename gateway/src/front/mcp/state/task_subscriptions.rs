//! Stores which streams are told of which tasks, by the ids that their clients have for them.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::ServerKey;

use crate::catalog::Catalog;
use crate::server::handle::Handle;

/// Tasks that one stream is told of.
pub(crate) const MOST_TASKS: usize = 100;

/// Pairs of a stream and a task, in all.
const MOST_PAIRS: usize = 10_000;

/// A stream that is told of a task.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskFollower {
    /// The stream.
    pub(crate) stream: u64,
    /// The id that its client has for the task.
    pub(crate) shown: Arc<str>,
    /// The server's own name of the tool that was called.
    pub(crate) tool: Arc<str>,
}

/// All of them.
#[derive(Default)]
pub(crate) struct TaskSubscriptions(Mutex<TaskTable>);

#[derive(Default)]
struct TaskTable {
    servers: HashMap<ServerKey, FollowedServer>,
    pairs: usize,
}

/// The tasks of one server, by its own ids.
struct FollowedServer {
    handle: Arc<Handle>,
    tasks: HashMap<Arc<str>, Vec<TaskFollower>>,
}

impl TaskSubscriptions {
    /// From now on a stream is told of a task of a server; false if there are too many.
    pub(crate) fn subscribe(&self, server: &Arc<Handle>, own: &str, follower: TaskFollower) -> bool {
        let mut all = self.lock();
        if all.pairs >= MOST_PAIRS {
            return false;
        }
        let fresh = || FollowedServer { handle: server.clone(), tasks: HashMap::new() };
        let followed = all.servers.entry(server.key.clone()).or_insert_with(fresh);
        let own: Arc<str> = own.into();
        let followers = followed.tasks.entry(own.clone()).or_default();
        if followers.contains(&follower) {
            return true;
        }
        followers.push(follower);
        followed.handle.tasks.add(&own);
        all.pairs += 1;
        true
    }

    /// Forgets a stream.
    pub(crate) fn forget(&self, stream: u64) {
        let mut all = self.lock();
        let mut left = 0;
        all.servers.retain(|_, followed| {
            followed.tasks.retain(|own, followers| {
                let before = followers.len();
                followers.retain(|follower| follower.stream != stream);
                (followers.len()..before).for_each(|_| followed.handle.tasks.remove(own));
                left += followers.len();
                !followers.is_empty()
            });
            !followed.tasks.is_empty()
        });
        all.pairs = left;
    }

    /// The streams to tell that a task of a server has changed.
    pub(crate) fn followers(&self, server: &ServerKey, own: &str) -> Vec<TaskFollower> {
        self.lock().servers.get(server).and_then(|followed| followed.tasks.get(own)).cloned().unwrap_or_default()
    }

    /// Servers have come or gone: another handle may stand for the same server.
    pub(crate) fn resolve(&self, catalog: &Catalog) {
        for (key, followed) in &mut self.lock().servers {
            let Some(now) = catalog.server_of(key).filter(|now| !Arc::ptr_eq(now, &followed.handle)) else { continue };
            for (own, followers) in &followed.tasks {
                for _ in followers {
                    now.tasks.add(own);
                    followed.handle.tasks.remove(own);
                }
            }
            followed.handle = now.clone();
        }
    }

    fn lock(&self) -> MutexGuard<'_, TaskTable> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_crds::Server;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn server() -> Arc<Handle> {
        Arc::new(Handle::new(Server::from_url("a", "http://a/mcp"), &Metrics::new()))
    }

    fn follower(stream: u64, shown: &str) -> TaskFollower {
        TaskFollower { stream, shown: shown.into(), tool: "t".into() }
    }

    #[test]
    fn streams_are_told_of_their_tasks_until_they_close_and_the_server_is_asked_for_no_more() {
        let (all, a) = (TaskSubscriptions::default(), server());
        for (own, stream, shown) in [("1", 7, "x"), ("1", 7, "x"), ("1", 8, "y"), ("2", 8, "z")] {
            assert!(all.subscribe(&a, own, follower(stream, shown)));
        }
        assert_eq!(all.followers(&a.key, "1"), [follower(7, "x"), follower(8, "y")]);
        assert_eq!((a.tasks.all().len(), all.lock().pairs), (2, 3));
        all.forget(8);
        assert_eq!(all.followers(&a.key, "1"), [follower(7, "x")]);
        assert_eq!((all.followers(&a.key, "2"), a.tasks.all().len()), (vec![], 1));
        all.forget(7);
        let (pairs, servers) = {
            let table = all.lock();
            (table.pairs, table.servers.len())
        };
        assert_eq!((a.tasks.all().len(), pairs, servers), (0, 0, 0));
    }

    #[test]
    fn another_handle_of_the_same_server_takes_the_tasks_over() {
        let (all, before, now) = (TaskSubscriptions::default(), server(), server());
        assert!(all.subscribe(&before, "1", follower(7, "x")));
        all.resolve(&Catalog::build(vec![now.clone()]));
        assert_eq!((before.tasks.all().len(), now.tasks.all().len()), (0, 1));
    }

    #[test]
    fn there_are_never_more_than_there_may_be() {
        let (all, a) = (TaskSubscriptions::default(), server());
        assert!((0..MOST_PAIRS).all(|n| all.subscribe(&a, &n.to_string(), follower(n as u64, "x"))));
        assert!(!all.subscribe(&a, "more", follower(0, "x")));
        all.forget(5);
        assert!(all.subscribe(&a, "more", follower(0, "x")));
    }
}

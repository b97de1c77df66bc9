//! Who wants to hear of which resources, and which server has them at the moment.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use portcullis_crds::ServerKey;

use super::live::SessionKey;
use crate::catalog::{Catalog, Scope};
use crate::handle::Handle;

/// Resources that one session or stream may subscribe to.
pub const MOST_SUBSCRIPTIONS: usize = 1_000;

/// Sessions and streams with subscriptions.
const MOST_FOLLOWERS: usize = 20_000;

/// A session without an open stream is forgotten after so long: nobody would hear what it is told.
const QUIET: Duration = Duration::from_secs(600);

/// A resource, asked of all servers or of one alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    scope: Option<ServerKey>,
    uri: Arc<str>,
}

/// Who wants to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Follower {
    /// A session, on its stream.
    Session(SessionKey),
    /// A stream.
    Stream(u64),
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

/// Who wants to hear of what.
#[derive(Default)]
pub struct Topics(Mutex<All>);

#[derive(Default)]
struct All {
    topics: HashMap<Topic, Followed>,
    followers: HashMap<Follower, Following>,
}

#[derive(Default)]
struct Followed {
    by: HashSet<Follower>,
    /// Who has it.
    reader: Option<Arc<Handle>>,
}

struct Following {
    topics: HashSet<Topic>,
    /// When it had an open stream last.
    heard: Instant,
}

impl Topics {
    /// From now on `follower` is told of changes of a resource.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn follow(&self, catalog: &Catalog, scope: Scope<'_>, follower: Follower, uri: &str) -> Result<(), TooMany> {
        let topic = Topic { scope: scope.map(|server| server.key.clone()), uri: uri.into() };
        let mut guard = self.lock();
        let all = &mut *guard;
        if all.followers.len() >= MOST_FOLLOWERS && !all.followers.contains_key(&follower) {
            return Err(TooMany);
        }
        let fresh = || Following { topics: HashSet::new(), heard: Instant::now() };
        let following = all.followers.entry(follower).or_insert_with(fresh);
        if following.topics.len() >= MOST_SUBSCRIPTIONS && !following.topics.contains(&topic) {
            return Err(TooMany);
        }
        following.topics.insert(topic.clone());
        let followed = all.topics.entry(topic.clone()).or_default();
        followed.by.insert(follower);
        followed.resolve(&topic, catalog);
        Ok(())
    }

    /// No longer; false if it was not told before.
    pub fn unfollow(&self, scope: Scope<'_>, follower: Follower, uri: &str) -> bool {
        let topic = Topic { scope: scope.map(|server| server.key.clone()), uri: uri.into() };
        let mut all = self.lock();
        let Some(following) = all.followers.get_mut(&follower) else { return false };
        let was = following.topics.remove(&topic);
        if following.topics.is_empty() {
            all.followers.remove(&follower);
        }
        all.leave(follower, &topic);
        was
    }

    /// Forgets a follower.
    pub fn forget(&self, follower: Follower) {
        self.lock().forget(follower);
    }

    /// Whom to tell that a resource of a server has changed.
    pub fn followers(&self, server: &ServerKey, uri: &str) -> HashSet<Follower> {
        let all = self.lock();
        let uri: Arc<str> = uri.into();
        let topics = [None, Some(server.clone())].map(|scope| Topic { scope, uri: uri.clone() });
        let followed = topics.iter().filter_map(|topic| all.topics.get(topic));
        let of_server = followed.filter(|it| it.reader.as_ref().is_some_and(|reader| reader.key == *server));
        of_server.flat_map(|followed| followed.by.iter().copied()).collect()
    }

    /// Servers have come or gone: others may have what is wanted.
    pub fn resolve(&self, catalog: &Catalog) {
        for (topic, followed) in &mut self.lock().topics {
            followed.resolve(topic, catalog);
        }
    }

    /// Forgets sessions that nobody has listened to for long. `is_open`: whether a session has an open stream.
    pub fn tidy(&self, is_open: impl Fn(&SessionKey) -> bool) {
        let (mut all, now) = (self.lock(), Instant::now());
        let mut quiet = Vec::new();
        for (follower, following) in &mut all.followers {
            match follower {
                Follower::Session(session) if !is_open(session) => {
                    if now.duration_since(following.heard) >= QUIET {
                        quiet.push(*follower);
                    }
                }
                Follower::Session(_) | Follower::Stream(_) => following.heard = now,
            }
        }
        quiet.into_iter().for_each(|follower| all.forget(follower));
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn forget(&mut self, follower: Follower) {
        for topic in self.followers.remove(&follower).into_iter().flat_map(|following| following.topics) {
            self.leave(follower, &topic);
        }
    }

    fn leave(&mut self, follower: Follower, topic: &Topic) {
        let Some(followed) = self.topics.get_mut(topic) else { return };
        followed.by.remove(&follower);
        if followed.by.is_empty() {
            followed.belongs_to(topic, None);
            self.topics.remove(topic);
        }
    }
}

impl Followed {
    fn resolve(&mut self, topic: &Topic, catalog: &Catalog) {
        let reader = match topic.scope.as_ref().map(|key| catalog.server_of(key)) {
            // The one server that was asked is gone.
            Some(None) => None,
            scope => catalog.reader(scope.flatten(), &topic.uri),
        };
        let reader = reader.and_then(|entry| entry.candidates.first().map(|candidate| candidate.server.clone()));
        let same = match (&reader, &self.reader) {
            (None, None) => true,
            (Some(new), Some(old)) => Arc::ptr_eq(new, old),
            _ => false,
        };
        if !same {
            self.belongs_to(topic, reader);
        }
    }

    fn belongs_to(&mut self, topic: &Topic, reader: Option<Arc<Handle>>) {
        if let Some(new) = &reader {
            new.subscriptions.add(&topic.uri);
        }
        if let Some(old) = std::mem::replace(&mut self.reader, reader) {
            old.subscriptions.remove(&topic.uri);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(topics: &Topics) -> (usize, usize) {
        let all = topics.lock();
        (all.topics.len(), all.followers.len())
    }

    #[test]
    fn what_nobody_follows_is_forgotten() {
        let (topics, catalog) = (Topics::default(), Catalog::default());
        let (session, stream) = (Follower::Session([1; 12]), Follower::Stream(7));
        for (follower, uri) in [(session, "a:1"), (session, "a:2"), (session, "a:2"), (stream, "a:2")] {
            assert_eq!(topics.follow(&catalog, None, follower, uri), Ok(()));
        }
        assert_eq!(count(&topics), (2, 2));
        assert!(topics.unfollow(None, session, "a:1") && !topics.unfollow(None, session, "a:1"));
        assert_eq!(count(&topics), (1, 2));
        topics.forget(session);
        assert_eq!(count(&topics), (1, 1));
        topics.forget(stream);
        assert_eq!(count(&topics), (0, 0));
    }

    #[test]
    fn one_follower_follows_no_more_than_it_may() {
        let (topics, catalog) = (Topics::default(), Catalog::default());
        let follow = |uri: &str| topics.follow(&catalog, None, Follower::Stream(1), uri);
        assert!((0..MOST_SUBSCRIPTIONS).all(|n| follow(&format!("a:{n}")).is_ok()));
        assert_eq!((follow("a:more"), follow("a:0")), (Err(TooMany), Ok(())));
        assert_eq!(count(&topics), (MOST_SUBSCRIPTIONS, 1));
    }

    #[test]
    fn a_session_that_nobody_listens_to_is_forgotten_after_a_while() {
        let (topics, catalog) = (Topics::default(), Catalog::default());
        for session in [[1; 12], [2; 12], [3; 12]] {
            assert!(topics.follow(&catalog, None, Follower::Session(session), "a:b").is_ok());
        }
        assert!(topics.follow(&catalog, None, Follower::Stream(1), "a:b").is_ok());
        let before = Instant::now().checked_sub(QUIET).unwrap();
        for (follower, following) in &mut topics.lock().followers {
            following.heard = if *follower == Follower::Session([3; 12]) { following.heard } else { before };
        }
        topics.tidy(|session| *session == [1; 12]);
        let left: HashSet<_> = topics.lock().followers.keys().copied().collect();
        assert_eq!(left, HashSet::from([Follower::Session([1; 12]), Follower::Session([3; 12]), Follower::Stream(1)]));
    }
}

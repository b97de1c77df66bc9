//! Stores the subscriptions of clients to resources, and the server that has each resource at the moment.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::iter::once;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::ServerKey;

use crate::auth::SubjectId;
use crate::catalog::{Catalog, Scope, uri_forms};
use crate::seal::SessionKey;
use crate::server::handle::Handle;

/// Subscriptions of one subject, in all its sessions and streams.
pub(crate) const MOST_SUBSCRIPTIONS: usize = 1_000;

/// Different resources that are subscribed to.
const MOST_TOPICS: usize = 10_000;

/// Bytes of a URI that is subscribed to.
const LONGEST_URI: usize = 2_048;

/// Ends within a URI up to which it is looked whether somebody has subscribed, the last ones first.
const MOST_ENDS: usize = 64;

/// Sessions and streams with subscriptions.
const MAX_SUBSCRIBERS: usize = 20_000;

/// The life of the subscriptions of a session without an open stream: nobody would hear what it is told.
const QUIET: Duration = Duration::from_secs(600);

/// A resource, as it is called where it is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Topic {
    scope: TopicScope,
    uri: Arc<str>,
}

/// The servers of which a resource is asked.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum TopicScope {
    All,
    Namespace(Arc<str>),
    Server(ServerKey),
    View(ServerKey),
}

/// A subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subscriber {
    /// A session, on its stream.
    Session(SessionKey),
    /// A stream.
    Stream(u64),
}

/// The reason why a resource cannot be subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CannotSubscribe {
    /// There are as many as there may be.
    TooMany,
    /// Its URI is too long.
    TooLong,
}

/// All subscriptions.
#[derive(Default)]
pub(crate) struct ResourceSubscriptions(Mutex<SubscriptionTable>);

#[derive(Default)]
struct SubscriptionTable {
    topics: HashMap<Topic, TopicState>,
    subscribers: HashMap<Subscriber, SubscriberState>,
    /// Number of topics of each subject's subscribers.
    by_subject: HashMap<SubjectId, usize>,
    /// Number of topics of each view.
    views: BTreeMap<ServerKey, usize>,
}

#[derive(Default)]
struct TopicState {
    by: HashSet<Subscriber>,
    /// The server that has it, and the URI by which that server knows it.
    reader: Option<(Arc<Handle>, Arc<str>)>,
}

struct SubscriberState {
    subject: SubjectId,
    topics: HashSet<Topic>,
    /// When it had an open stream last.
    heard: Instant,
}

impl ResourceSubscriptions {
    /// From now on `subscriber`, of `subject`, is told of changes of a resource.
    ///
    /// # Errors
    /// [`CannotSubscribe`].
    pub(crate) fn subscribe(
        &self,
        catalog: &Catalog,
        scope: Scope<'_>,
        (subscriber, subject): (Subscriber, SubjectId),
        uri: &str,
    ) -> Result<(), CannotSubscribe> {
        if uri.len() > LONGEST_URI {
            return Err(CannotSubscribe::TooLong);
        }
        let topic = Topic { scope: TopicScope::of(catalog, scope), uri: uri.into() };
        let mut guard = self.lock();
        let all = &mut *guard;
        if !all.has_room(subscriber, subject, &topic) {
            return Err(CannotSubscribe::TooMany);
        }
        let fresh = || SubscriberState { subject, topics: HashSet::new(), heard: Instant::now() };
        let following = all.subscribers.entry(subscriber).or_insert_with(fresh);
        if following.topics.insert(topic.clone()) {
            *all.by_subject.entry(subject).or_default() += 1;
        }
        if let (TopicScope::View(view), false) = (&topic.scope, all.topics.contains_key(&topic)) {
            *all.views.entry(view.clone()).or_default() += 1;
        }
        let followed = all.topics.entry(topic.clone()).or_default();
        followed.by.insert(subscriber);
        followed.resolve(&topic, catalog);
        Ok(())
    }

    /// No longer; false if it was not told before.
    pub(crate) fn unsubscribe(&self, catalog: &Catalog, scope: Scope<'_>, subscriber: Subscriber, uri: &str) -> bool {
        let topic = Topic { scope: TopicScope::of(catalog, scope), uri: uri.into() };
        let mut all = self.lock();
        let Some(following) = all.subscribers.get_mut(&subscriber) else { return false };
        let (was, subject) = (following.topics.remove(&topic), following.subject);
        if following.topics.is_empty() {
            all.subscribers.remove(&subscriber);
        }
        all.leave(subscriber, &topic);
        if was {
            all.count_less(subject, 1);
        }
        was
    }

    /// Forgets a subscriber.
    pub(crate) fn forget(&self, subscriber: Subscriber) {
        self.lock().forget(subscriber);
    }

    /// The subscribers to tell that a resource of a server has changed, by the URI that they know: those of the resource,
    /// and of what it is a part of.
    pub(crate) fn subscribers(&self, server: &ServerKey, uri: &str) -> Vec<(String, HashSet<Subscriber>)> {
        let namespace = || TopicScope::Namespace(server.namespace.as_str().into());
        let [by_namespace, by_server] = uri_forms(server, uri);
        let forms = [
            (Some(uri.to_owned()), vec![TopicScope::All, namespace(), TopicScope::Server(server.clone())]),
            (by_namespace, vec![TopicScope::All]),
            (by_server, vec![TopicScope::All, namespace()]),
        ];
        let all = self.lock();
        // A view may name it by any of these.
        let views = || all.views.keys().cloned().map(TopicScope::View);
        let forms =
            forms.into_iter().filter_map(|(uri, asked)| Some((uri?, asked.into_iter().chain(views()).collect())));
        let told = forms.map(|(uri, asked): (String, Vec<TopicScope>)| {
            let subscribers = all.of_server(server, &uri, &asked);
            (uri, subscribers)
        });
        told.filter(|(_, subscribers)| !subscribers.is_empty()).collect()
    }

    /// Servers have come or gone: others may have what is wanted.
    pub(crate) fn resolve(&self, catalog: &Catalog) {
        for (topic, followed) in &mut self.lock().topics {
            followed.resolve(topic, catalog);
        }
    }

    /// Forgets sessions that nobody has listened to for long. `is_open`: whether a session has an open stream.
    pub(crate) fn tidy(&self, is_open: impl Fn(&SessionKey) -> bool) {
        let (mut all, now) = (self.lock(), Instant::now());
        let mut quiet = Vec::new();
        for (subscriber, following) in &mut all.subscribers {
            match subscriber {
                Subscriber::Session(session) if !is_open(session) => {
                    if now.duration_since(following.heard) >= QUIET {
                        quiet.push(*subscriber);
                    }
                }
                Subscriber::Session(_) | Subscriber::Stream(_) => following.heard = now,
            }
        }
        quiet.into_iter().for_each(|subscriber| all.forget(subscriber));
    }

    fn lock(&self) -> MutexGuard<'_, SubscriptionTable> {
        self.0.lock()
    }
}

/// The wholes that a resource may be a part of: its URI before and after each mark that ends a part, the longest first.
fn beginnings(uri: &str) -> impl Iterator<Item = &str> {
    let marks = uri.rmatch_indices(['/', '?', '#']);
    marks.flat_map(|(at, mark)| [&uri[..at + mark.len()], &uri[..at]]).take(MOST_ENDS)
}

impl TopicScope {
    fn of(catalog: &Catalog, scope: Scope<'_>) -> Self {
        if let Some(view) = catalog.view_key() {
            return Self::View(view.clone());
        }
        match scope {
            Scope::All => Self::All,
            Scope::Namespace(namespace) => Self::Namespace(namespace.into()),
            Scope::Server(server) => Self::Server(server.key.clone()),
        }
    }
}

impl SubscriptionTable {
    /// The subscribers to this resource of a server, or to what it is a part of, where it is asked for so.
    fn of_server(&self, server: &ServerKey, uri: &str, asked: &[TopicScope]) -> HashSet<Subscriber> {
        let topic = |uri: &str, asked: &TopicScope| self.topics.get(&Topic { scope: asked.clone(), uri: uri.into() });
        let is_its = |followed: &&TopicState| followed.reader.as_ref().is_some_and(|(reader, _)| reader.key == *server);
        let wholes = once(uri).chain(beginnings(uri));
        let followed = wholes.flat_map(|uri| asked.iter().filter_map(move |asked| topic(uri, asked)).filter(is_its));
        followed.flat_map(|followed| followed.by.iter().copied()).collect()
    }

    /// Whether a subscriber of a subject may have this topic, too.
    fn has_room(&self, subscriber: Subscriber, subject: SubjectId, topic: &Topic) -> bool {
        let following = self.subscribers.get(&subscriber);
        if following.is_some_and(|following| following.topics.contains(topic)) {
            return true;
        }
        (following.is_some() || self.subscribers.len() < MAX_SUBSCRIBERS)
            && (self.topics.len() < MOST_TOPICS || self.topics.contains_key(topic))
            && self.by_subject.get(&subject).is_none_or(|count| *count < MOST_SUBSCRIPTIONS)
    }

    fn forget(&mut self, subscriber: Subscriber) {
        let Some(following) = self.subscribers.remove(&subscriber) else { return };
        self.count_less(following.subject, following.topics.len());
        for topic in following.topics {
            self.leave(subscriber, &topic);
        }
    }

    fn count_less(&mut self, subject: SubjectId, topics: usize) {
        let Some(count) = self.by_subject.get_mut(&subject) else { return };
        *count = count.saturating_sub(topics);
        if *count == 0 {
            self.by_subject.remove(&subject);
        }
    }

    fn leave(&mut self, subscriber: Subscriber, topic: &Topic) {
        let Some(followed) = self.topics.get_mut(topic) else { return };
        followed.by.remove(&subscriber);
        if followed.by.is_empty() {
            followed.belongs_to(None);
            self.topics.remove(topic);
            if let TopicScope::View(view) = &topic.scope
                && let Some(count) = self.views.get_mut(view)
            {
                *count -= 1;
                if *count == 0 {
                    self.views.remove(view);
                }
            }
        }
    }
}

impl TopicState {
    fn resolve(&mut self, topic: &Topic, catalog: &Catalog) {
        let scope = match &topic.scope {
            TopicScope::All => Some(Scope::All),
            TopicScope::Namespace(namespace) => Some(Scope::Namespace(namespace)),
            // None: the one server that was asked is gone.
            TopicScope::Server(key) => catalog.server_of(key).map(Scope::Server),
            // Subscribed to in the catalog of the view, and looked at in that of all servers later.
            TopicScope::View(_) if catalog.view_key().is_some() => Some(Scope::All),
            TopicScope::View(_) => None,
        };
        let of_view = match &topic.scope {
            TopicScope::View(key) if scope.is_none() => catalog.view(&key.to_string()),
            _ => None,
        };
        let reader = match of_view {
            Some(view) => view.reader(Scope::All, &topic.uri),
            None => scope.and_then(|scope| catalog.reader(scope, &topic.uri)),
        };
        let reader = reader.as_ref().and_then(|entry| entry.update_source().or(entry.candidates.first()));
        let reader = reader.map(|candidate| (candidate.server.clone(), candidate.item.own_name.clone()));
        let same = match (&reader, &self.reader) {
            (None, None) => true,
            (Some((new, uri)), Some((old, known))) => Arc::ptr_eq(new, old) && uri == known,
            _ => false,
        };
        if !same {
            self.belongs_to(reader);
        }
    }

    fn belongs_to(&mut self, reader: Option<(Arc<Handle>, Arc<str>)>) {
        if let Some((new, uri)) = &reader {
            new.subscriptions.add(uri);
        }
        if let Some((old, uri)) = std::mem::replace(&mut self.reader, reader) {
            old.subscriptions.remove(&uri);
        }
    }
}

#[cfg(test)]
mod tests {
    use portcullis_crds::Server;

    use super::*;
    use crate::offer::item::Kind;
    use crate::offer::prompts_and_resources as plain;
    use crate::server::handle::Offer;
    use crate::telemetry::metrics::Metrics;

    const ME: SubjectId = SubjectId([1; 16]);

    fn count(topics: &ResourceSubscriptions) -> (usize, usize) {
        let all = topics.lock();
        let counted: usize = all.by_subject.values().sum();
        assert_eq!(counted, all.subscribers.values().map(|following| following.topics.len()).sum::<usize>());
        (all.topics.len(), all.subscribers.len())
    }

    #[test]
    fn what_nobody_follows_is_forgotten() {
        let (topics, catalog) = (ResourceSubscriptions::default(), Catalog::default());
        let (session, stream) = (Subscriber::Session([1; 12]), Subscriber::Stream(7));
        for (subscriber, uri) in [(session, "a:1"), (session, "a:2"), (session, "a:2"), (stream, "a:2")] {
            assert_eq!(topics.subscribe(&catalog, Scope::All, (subscriber, ME), uri), Ok(()));
        }
        assert_eq!(count(&topics), (2, 2));
        assert!(
            topics.unsubscribe(&catalog, Scope::All, session, "a:1")
                && !topics.unsubscribe(&catalog, Scope::All, session, "a:1")
        );
        assert_eq!(count(&topics), (1, 2));
        topics.forget(session);
        assert_eq!(count(&topics), (1, 1));
        topics.forget(stream);
        assert_eq!(count(&topics), (0, 0));
    }

    #[test]
    fn one_subject_follows_no_more_than_it_may_however_many_streams_it_has() {
        let (topics, catalog) = (ResourceSubscriptions::default(), Catalog::default());
        let follow =
            |stream, who, uri: &str| topics.subscribe(&catalog, Scope::All, (Subscriber::Stream(stream), who), uri);
        let mine = |n: usize| follow(n as u64 % 2, ME, &format!("a:{n}"));
        assert!((0..MOST_SUBSCRIPTIONS).all(|n| mine(n).is_ok()));
        assert_eq!((mine(MOST_SUBSCRIPTIONS), mine(0)), (Err(CannotSubscribe::TooMany), Ok(())));
        assert_eq!(follow(2, ME, "a:0"), Err(CannotSubscribe::TooMany));
        assert_eq!(follow(3, SubjectId([2; 16]), "a:more"), Ok(()));
        assert_eq!(count(&topics), (MOST_SUBSCRIPTIONS + 1, 3));
        assert!(topics.unsubscribe(&catalog, Scope::All, Subscriber::Stream(0), "a:0"));
        assert_eq!((follow(2, ME, "a:0"), follow(2, ME, "a:x")), (Ok(()), Err(CannotSubscribe::TooMany)));
    }

    #[test]
    fn all_together_follow_no_more_than_they_may_and_no_long_uri() {
        let (topics, catalog) = (ResourceSubscriptions::default(), Catalog::default());
        let follow = |who: usize, uri: &str| {
            let subscriber = (Subscriber::Stream(who as u64), SubjectId([who as u8; 16]));
            topics.subscribe(&catalog, Scope::All, subscriber, uri)
        };
        assert!((0..MOST_TOPICS).all(|n| follow(n / MOST_SUBSCRIPTIONS, &format!("a:{n}")).is_ok()));
        assert_eq!((follow(100, "a:more"), follow(100, "a:0")), (Err(CannotSubscribe::TooMany), Ok(())));
        let uri = |length| "a".repeat(length);
        topics.forget(Subscriber::Stream(0));
        assert_eq!(follow(101, &uri(LONGEST_URI)), Ok(()));
        assert_eq!(follow(101, &uri(LONGEST_URI + 1)), Err(CannotSubscribe::TooLong));
    }

    #[test]
    fn a_part_of_a_resource_begins_with_its_uri() {
        let all: Vec<&str> = beginnings("f:/dir/a?q#x").collect();
        assert_eq!(all, ["f:/dir/a?q#", "f:/dir/a?q", "f:/dir/a?", "f:/dir/a", "f:/dir/", "f:/dir", "f:/", "f:"]);
        assert_eq!(beginnings(&"/".repeat(1_000)).count(), MOST_ENDS);
    }

    #[test]
    fn an_update_of_a_part_goes_to_who_follows_the_whole() {
        let server = Arc::new(Handle::new(Server::from_url("a", "http://a/"), &Metrics::new()));
        let templates = plain::read(Kind::Templates, [r#"{"uriTemplate":"file:///{+path}","name":"n"}"#]).shared();
        server.set_offer(Offer { templates, listed: true, ..Offer::default() });
        let (topics, catalog) = (ResourceSubscriptions::default(), Catalog::build(vec![server.clone()]));
        let follow =
            |stream, scope, uri: &str| topics.subscribe(&catalog, scope, (Subscriber::Stream(stream), ME), uri);
        for (stream, uri) in [(1, "file:///dir"), (2, "file:///dir/"), (3, "file:///dir/a"), (4, "file:///di")] {
            assert_eq!(follow(stream, Scope::All, uri), Ok(()));
        }
        assert_eq!(follow(5, Scope::Server(&server), "file:///dir"), Ok(()));
        assert_eq!(follow(6, Scope::Namespace("default"), "file:///dir"), Ok(()));
        assert_eq!(follow(7, Scope::All, "file://~default//dir"), Ok(()));
        assert_eq!(follow(8, Scope::Namespace("default"), "file://~default.a//dir"), Ok(()));
        let told = topics.subscribers(&server.key, "file:///dir/a");
        let expected = [
            ("file:///dir/a", vec![1, 2, 3, 5, 6]),
            ("file://~default//dir/a", vec![7]),
            ("file://~default.a//dir/a", vec![8]),
        ];
        let expected = expected.map(|(uri, all)| (uri.to_owned(), all.into_iter().map(Subscriber::Stream).collect()));
        assert_eq!(told, expected);
        let wanted: Vec<_> = server.subscriptions.all().into_iter().collect();
        assert_eq!(wanted, ["file:///di", "file:///dir", "file:///dir/", "file:///dir/a"].map(Arc::from));
    }

    #[test]
    fn a_session_that_nobody_listens_to_is_forgotten_after_a_while() {
        let (topics, catalog) = (ResourceSubscriptions::default(), Catalog::default());
        for session in [[1; 12], [2; 12], [3; 12]] {
            assert!(topics.subscribe(&catalog, Scope::All, (Subscriber::Session(session), ME), "a:b").is_ok());
        }
        assert!(topics.subscribe(&catalog, Scope::All, (Subscriber::Stream(1), ME), "a:b").is_ok());
        let before = Instant::now().checked_sub(QUIET).unwrap();
        for (subscriber, following) in &mut topics.lock().subscribers {
            following.heard = if *subscriber == Subscriber::Session([3; 12]) { following.heard } else { before };
        }
        topics.tidy(|session| *session == [1; 12]);
        let left: HashSet<_> = topics.lock().subscribers.keys().copied().collect();
        assert_eq!(
            left,
            HashSet::from([Subscriber::Session([1; 12]), Subscriber::Session([3; 12]), Subscriber::Stream(1)])
        );
    }
}

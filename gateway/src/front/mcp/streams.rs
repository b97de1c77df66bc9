//! The open streams of all callers: counted, bounded, and woken when there is something to tell.
//!
//! A stream keeps nothing of the catalog but fingerprints of what its client was shown last.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use portcullis_runtime::memory::{Held, SMALL, account};
use prometheus::IntGauge;
use smallvec::SmallVec;

use super::live::SessionKey;
use super::topics::Follower;
use crate::seal::SubjectId;

/// Messages that may wait for one stream: who does not read them loses the newest.
const WAITING: usize = 256;

/// And so many bytes, or one that is longer.
const WAITING_BYTES: usize = 1024 * 1024;

/// How many streams may be open.
#[derive(Clone, Copy, Debug)]
pub struct StreamLimits {
    /// In all.
    pub all: usize,
    /// Of one subject.
    pub of_subject: usize,
}

/// All open streams.
pub struct Streams {
    limits: StreamLimits,
    open: Mutex<Open>,
    ended: AtomicBool,
    next: AtomicU64,
    gauge: IntGauge,
}

#[derive(Default)]
struct Open {
    streams: HashMap<u64, Arc<Line>>,
    /// The newest last: the older ones may have been lost by a client that came back.
    by_session: HashMap<SessionKey, SmallVec<[u64; 1]>>,
    by_subject: HashMap<SubjectId, usize>,
}

/// What is to be sent on one stream.
struct Line {
    session: Option<SessionKey>,
    /// Its session is over.
    over: AtomicBool,
    queue: Mutex<Queue>,
}

/// Something to tell on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Telling {
    /// This event, as it is.
    Event(Bytes),
    /// The resource with this URI has changed.
    Updated(Arc<str>),
}

struct Queue {
    waiting: VecDeque<Telling>,
    bytes: usize,
    /// What is not small of them counts.
    held: Held,
    reader: Option<Waker>,
}

/// One open stream; closes it when dropped.
pub struct Stream {
    streams: Arc<Streams>,
    line: Arc<Line>,
    number: u64,
    subject: SubjectId,
}

/// There are as many streams as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMany;

impl Streams {
    /// None yet.
    pub fn new(limits: StreamLimits, gauge: IntGauge) -> Self {
        Self { limits, open: Mutex::default(), ended: AtomicBool::new(false), next: AtomicU64::new(0), gauge }
    }

    /// Opens one.
    ///
    /// # Errors
    /// [`TooMany`].
    pub fn open(self: &Arc<Self>, subject: SubjectId, session: Option<SessionKey>) -> Result<Stream, TooMany> {
        let line = Arc::new(Line { session, over: AtomicBool::new(false), queue: Mutex::default() });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.lock();
        let of_subject = open.by_subject.get(&subject).copied().unwrap_or_default();
        if open.streams.len() >= self.limits.all || of_subject >= self.limits.of_subject {
            return Err(TooMany);
        }
        open.by_subject.insert(subject, of_subject + 1);
        open.streams.insert(number, line.clone());
        if let Some(session) = session {
            open.by_session.entry(session).or_default().push(number);
        }
        self.gauge.inc();
        Ok(Stream { streams: self.clone(), line, number, subject })
    }

    /// Wakes every stream: there may be something new to tell.
    pub fn wake_all(&self) {
        let lines: Vec<Arc<Line>> = self.lock().streams.values().cloned().collect();
        lines.iter().for_each(|line| line.wake());
    }

    /// Sends an event on the newest stream of this session; false if it has none, or it is full.
    pub fn send(&self, session: &SessionKey, event: Bytes) -> bool {
        self.line(Follower::Session(*session)).is_some_and(|line| line.push(Telling::Event(event)))
    }

    /// Tells these that a resource has changed; of a session with several streams, the newest.
    pub fn tell_updated(&self, uri: &str, followers: impl IntoIterator<Item = Follower>) {
        let uri: Arc<str> = uri.into();
        for line in followers.into_iter().filter_map(|follower| self.line(follower)) {
            line.push(Telling::Updated(uri.clone()));
        }
    }

    /// Whether a session has an open stream.
    pub fn is_open(&self, session: &SessionKey) -> bool {
        self.lock().by_session.contains_key(session)
    }

    fn line(&self, follower: Follower) -> Option<Arc<Line>> {
        let open = self.lock();
        let number = match follower {
            Follower::Session(session) => *open.by_session.get(&session)?.last()?,
            Follower::Stream(number) => number,
        };
        open.streams.get(&number).cloned()
    }

    /// Ends the streams of a session.
    pub fn end(&self, session: &SessionKey) {
        let open = self.lock();
        let numbers = open.by_session.get(session).into_iter().flatten();
        let lines: Vec<Arc<Line>> = numbers.filter_map(|number| open.streams.get(number).cloned()).collect();
        drop(open);
        for line in lines {
            line.over.store(true, Ordering::Release);
            line.wake();
        }
    }

    /// Ends every stream, now and in future.
    pub fn end_all(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telling {
    fn len(&self) -> usize {
        match self {
            Self::Event(event) => event.len(),
            Self::Updated(uri) => uri.len(),
        }
    }
}

impl Line {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self) {
        let reader = self.lock().reader.take();
        reader.into_iter().for_each(Waker::wake);
    }

    fn push(&self, telling: Telling) -> bool {
        let mut queue = self.lock();
        let too_much = queue.bytes > 0 && queue.bytes + telling.len() > WAITING_BYTES;
        let bytes = queue.bytes + telling.len();
        if queue.waiting.len() >= WAITING || too_much || !queue.count(bytes) {
            return false;
        }
        queue.waiting.push_back(telling);
        drop(queue);
        self.wake();
        true
    }
}

impl Queue {
    /// Holds so many bytes from now on; false if there is no memory for more.
    fn count(&mut self, bytes: usize) -> bool {
        let (before, now) = (self.held.bytes(), if bytes > SMALL { bytes } else { 0 });
        if now > before && !self.held.grow(now - before) {
            return false;
        }
        self.held.set(now);
        self.bytes = bytes;
        true
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, held: Held::none(&account().large), reader: None }
    }
}

impl Stream {
    /// Tells it from all others.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// The next event that waits. Whoever gets `Pending` is also woken when the catalog changes or all is to end.
    pub fn poll_next(&self, cx: &mut Context<'_>) -> Poll<Telling> {
        let mut queue = self.line.lock();
        if let Some(telling) = queue.waiting.pop_front() {
            let bytes = queue.bytes - telling.len();
            let _ = queue.count(bytes);
            return Poll::Ready(telling);
        }
        if !queue.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            queue.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether it is to end.
    pub fn is_over(&self) -> bool {
        self.line.over.load(Ordering::Acquire) || self.streams.ended.load(Ordering::Acquire)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.streams.remove(&self.number);
        if let Some(session) = self.line.session
            && let Some(numbers) = open.by_session.get_mut(&session)
        {
            numbers.retain(|number| *number != self.number);
            if numbers.is_empty() {
                open.by_session.remove(&session);
            }
        }
        if let Some(count) = open.by_subject.get_mut(&self.subject) {
            *count -= 1;
            if *count == 0 {
                open.by_subject.remove(&self.subject);
            }
        }
        drop(open);
        self.streams.gauge.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(all: usize, of_subject: usize) -> Arc<Streams> {
        let gauge = IntGauge::new("streams", "streams").unwrap();
        Arc::new(Streams::new(StreamLimits { all, of_subject }, gauge))
    }

    #[test]
    fn streams_are_bounded_in_all_and_by_subject_and_make_room_when_they_close() {
        let streams = streams(3, 2);
        let (a, b) = (SubjectId([1; 16]), SubjectId([2; 16]));
        let first = streams.open(a, None).unwrap();
        let second = streams.open(a, None).unwrap();
        assert_eq!(streams.open(a, None).err(), Some(TooMany));
        let third = streams.open(b, None).unwrap();
        assert_eq!(streams.open(b, None).err(), Some(TooMany));
        drop(first);
        assert!(streams.open(a, None).is_ok());
        drop((second, third));
        assert_eq!((streams.lock().streams.len(), streams.gauge.get()), (0, 0));
        assert!(streams.lock().by_subject.is_empty());
    }

    #[test]
    fn of_a_session_with_several_streams_the_newest_is_told() {
        let streams = streams(10, 10);
        let (subject, event) = (SubjectId([0; 16]), Bytes::from_static(b"1"));
        let mut cx = Context::from_waker(Waker::noop());
        // A client that comes back has often lost its stream before the gateway knows of it.
        let old = streams.open(subject, Some([7; 12])).unwrap();
        let new = streams.open(subject, Some([7; 12])).unwrap();
        assert!(streams.send(&[7; 12], event.clone()));
        assert_eq!(
            (old.poll_next(&mut cx), new.poll_next(&mut cx)),
            (Poll::Pending, Poll::Ready(Telling::Event(event.clone())))
        );
        drop(new);
        assert!(streams.send(&[7; 12], event.clone()));
        assert_eq!(old.poll_next(&mut cx), Poll::Ready(Telling::Event(event)));
    }

    #[test]
    fn events_reach_the_streams_that_they_are_for_up_to_a_bound() {
        let streams = streams(10, 10);
        let subject = SubjectId([0; 16]);
        let of_session = streams.open(subject, Some([7; 12])).unwrap();
        let listening = streams.open(subject, None).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        assert!(streams.send(&[7; 12], Bytes::from_static(b"1")));
        assert!(!streams.send(&[8; 12], Bytes::from_static(b"2")));
        streams.tell_updated("a:b", [Follower::Stream(listening.number()), Follower::Session([8; 12])]);
        streams.tell_updated("other", [Follower::Session([7; 12])]);
        let mut all = |stream: &Stream| {
            let mut texts = Vec::new();
            while let Poll::Ready(telling) = stream.poll_next(&mut cx) {
                texts.push(telling);
            }
            texts
        };
        let event = Telling::Event(Bytes::from_static(b"1"));
        assert_eq!(all(&of_session), [event, Telling::Updated("other".into())]);
        assert_eq!(all(&listening), [Telling::Updated("a:b".into())]);
        let taken = (0..1000).filter(|_| streams.send(&[7; 12], Bytes::new())).count();
        assert_eq!(taken, WAITING);
        let _ = all(&of_session);
        let long = Bytes::from(vec![b' '; WAITING_BYTES]);
        let sent = [&long, &Bytes::from_static(b"1")].map(|event| streams.send(&[7; 12], event.clone()));
        assert_eq!((sent, all(&of_session).len()), ([true, false], 1));
        assert!(streams.send(&[7; 12], long));
        assert!(!of_session.is_over());
        streams.end(&[7; 12]);
        assert!(of_session.is_over() && !listening.is_over());
        streams.end_all();
        assert!(of_session.is_over());
        assert!(streams.is_open(&[7; 12]));
        drop(of_session);
        assert!(!streams.is_open(&[7; 12]) && streams.lock().by_session.is_empty());
    }
}

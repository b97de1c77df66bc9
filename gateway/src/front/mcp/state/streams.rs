//! The open streams of all callers: counted, bounded, and woken when there is something to tell.
//!
//! A stream keeps nothing of the catalog but fingerprints of what its client was shown last.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::ServerKey;
use portcullis_runtime::memory::{Held, account};
use prometheus::IntGauge;
use smallvec::SmallVec;

use crate::auth::SubjectId;
use crate::front::mcp::state::resource_subscriptions::Subscriber;
use crate::seal::SessionKey;

/// Messages that may wait for one stream: a client that does not read them loses the newest.
const WAITING: usize = 256;

/// Bytes that may wait for one stream, or one message that is longer.
const WAITING_BYTES: usize = 1024 * 1024;

/// The limits of open streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamLimits {
    /// In all.
    pub(crate) all: usize,
    /// Of one subject.
    pub(crate) of_subject: usize,
}

/// All open streams.
pub(crate) struct Streams {
    limits: StreamLimits,
    open: Mutex<OpenStreams>,
    ended: AtomicBool,
    next: AtomicU64,
    gauge: IntGauge,
}

#[derive(Default)]
struct OpenStreams {
    streams: HashMap<u64, Arc<StreamQueue>>,
    /// The newest last: the older ones may have been lost by a client that came back.
    by_session: HashMap<SessionKey, SmallVec<[u64; 1]>>,
    by_subject: HashMap<SubjectId, usize>,
}

/// The messages that wait for one stream.
struct StreamQueue {
    session: Option<SessionKey>,
    /// Its session is over.
    over: AtomicBool,
    state: Mutex<QueueState>,
}

/// Something to tell on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StreamMessage {
    /// This event, as it is.
    Event(Bytes),
    /// The resource with this URI has changed.
    Updated(Arc<str>),
    /// A task has changed.
    Task(TaskUpdate),
}

/// A task that has changed, as one client knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskUpdate {
    /// The server that has it.
    pub(crate) server: ServerKey,
    /// The server's own name of the tool that was called.
    pub(crate) tool: Arc<str>,
    /// The client's id of it.
    pub(crate) shown: Arc<str>,
    /// All else that the server says of it, as members that each begin with a comma.
    pub(crate) rest: Arc<str>,
}

struct QueueState {
    waiting: VecDeque<StreamMessage>,
    bytes: usize,
    /// The memory held for the messages that are not small.
    held: Held,
    reader: Option<Waker>,
}

/// One open stream; closes it when dropped.
pub(crate) struct OpenStream {
    streams: Arc<Streams>,
    queue: Arc<StreamQueue>,
    number: u64,
    subject: SubjectId,
}

/// There are as many streams as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooManyStreams;

impl Streams {
    /// None yet.
    pub(crate) fn new(limits: StreamLimits, gauge: IntGauge) -> Self {
        Self { limits, open: Mutex::default(), ended: AtomicBool::new(false), next: AtomicU64::new(0), gauge }
    }

    /// Opens one.
    ///
    /// # Errors
    /// [`TooManyStreams`].
    pub(crate) fn open(
        self: &Arc<Self>,
        subject: SubjectId,
        session: Option<SessionKey>,
    ) -> Result<OpenStream, TooManyStreams> {
        let queue = Arc::new(StreamQueue { session, over: AtomicBool::new(false), state: Mutex::default() });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut open = self.lock();
        let of_subject = open.by_subject.get(&subject).copied().unwrap_or_default();
        if open.streams.len() >= self.limits.all || of_subject >= self.limits.of_subject {
            return Err(TooManyStreams);
        }
        open.by_subject.insert(subject, of_subject + 1);
        open.streams.insert(number, queue.clone());
        if let Some(session) = session {
            open.by_session.entry(session).or_default().push(number);
        }
        self.gauge.inc();
        Ok(OpenStream { streams: self.clone(), queue, number, subject })
    }

    /// Wakes every stream: there may be something new to tell.
    pub(crate) fn wake_all(&self) {
        let queues: Vec<Arc<StreamQueue>> = self.lock().streams.values().cloned().collect();
        queues.iter().for_each(|queue| queue.wake());
    }

    /// Sends an event on the newest stream of this session; false if it has none, or it is full.
    pub(crate) fn send(&self, session: &SessionKey, event: Bytes) -> bool {
        self.queue_of(Subscriber::Session(*session)).is_some_and(|queue| queue.push(StreamMessage::Event(event)))
    }

    /// Tells these that a resource has changed; of a session with several streams, the newest.
    pub(crate) fn tell_updated(&self, uri: &str, followers: impl IntoIterator<Item = Subscriber>) {
        let uri: Arc<str> = uri.into();
        for queue in followers.into_iter().filter_map(|follower| self.queue_of(follower)) {
            queue.push(StreamMessage::Updated(uri.clone()));
        }
    }

    /// Tells a stream that a task has changed.
    pub(crate) fn tell_task(&self, stream: u64, task: TaskUpdate) {
        if let Some(queue) = self.queue_of(Subscriber::Stream(stream)) {
            queue.push(StreamMessage::Task(task));
        }
    }

    /// Whether a session has an open stream.
    pub(crate) fn is_open(&self, session: &SessionKey) -> bool {
        self.lock().by_session.contains_key(session)
    }

    fn queue_of(&self, follower: Subscriber) -> Option<Arc<StreamQueue>> {
        let open = self.lock();
        let number = match follower {
            Subscriber::Session(session) => *open.by_session.get(&session)?.last()?,
            Subscriber::Stream(number) => number,
        };
        open.streams.get(&number).cloned()
    }

    /// Ends the streams of a session.
    pub(crate) fn end(&self, session: &SessionKey) {
        let open = self.lock();
        let numbers = open.by_session.get(session).into_iter().flatten();
        let queues: Vec<Arc<StreamQueue>> = numbers.filter_map(|number| open.streams.get(number).cloned()).collect();
        drop(open);
        for queue in queues {
            queue.over.store(true, Ordering::Release);
            queue.wake();
        }
    }

    /// Ends every stream, now and in future.
    pub(crate) fn end_all(&self) {
        self.ended.store(true, Ordering::Release);
        self.wake_all();
    }

    fn lock(&self) -> MutexGuard<'_, OpenStreams> {
        self.open.lock()
    }
}

impl StreamMessage {
    fn len(&self) -> usize {
        match self {
            Self::Event(event) => event.len(),
            Self::Updated(uri) => uri.len(),
            Self::Task(task) => task.shown.len() + task.rest.len(),
        }
    }
}

impl StreamQueue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock()
    }

    fn wake(&self) {
        let reader = self.lock().reader.take();
        reader.into_iter().for_each(Waker::wake);
    }

    fn push(&self, message: StreamMessage) -> bool {
        let mut state = self.lock();
        let too_much = state.bytes > 0 && state.bytes + message.len() > WAITING_BYTES;
        let bytes = state.bytes + message.len();
        if state.waiting.len() >= WAITING || too_much || !state.held.count(bytes) {
            return false;
        }
        state.bytes = bytes;
        state.waiting.push_back(message);
        drop(state);
        self.wake();
        true
    }
}

impl Default for QueueState {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, held: Held::none(&account().large), reader: None }
    }
}

impl OpenStream {
    /// Tells it from all others.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    /// The next event that waits. A task that gets `Pending` is also woken when the catalog changes or all is to end.
    pub(crate) fn poll_next(&self, cx: &mut Context<'_>) -> Poll<StreamMessage> {
        let mut state = self.queue.lock();
        if let Some(message) = state.waiting.pop_front() {
            state.bytes -= message.len();
            let bytes = state.bytes;
            state.held.count(bytes);
            return Poll::Ready(message);
        }
        if !state.reader.as_ref().is_some_and(|reader| reader.will_wake(cx.waker())) {
            state.reader = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Whether it is to end.
    pub(crate) fn is_over(&self) -> bool {
        self.queue.over.load(Ordering::Acquire) || self.streams.ended.load(Ordering::Acquire)
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        open.streams.remove(&self.number);
        if let Some(session) = self.queue.session
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
        assert_eq!(streams.open(a, None).err(), Some(TooManyStreams));
        let third = streams.open(b, None).unwrap();
        assert_eq!(streams.open(b, None).err(), Some(TooManyStreams));
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
            (Poll::Pending, Poll::Ready(StreamMessage::Event(event.clone())))
        );
        drop(new);
        assert!(streams.send(&[7; 12], event.clone()));
        assert_eq!(old.poll_next(&mut cx), Poll::Ready(StreamMessage::Event(event)));
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
        streams.tell_updated("a:b", [Subscriber::Stream(listening.number()), Subscriber::Session([8; 12])]);
        streams.tell_updated("other", [Subscriber::Session([7; 12])]);
        let mut all = |stream: &OpenStream| {
            let mut texts = Vec::new();
            while let Poll::Ready(message) = stream.poll_next(&mut cx) {
                texts.push(message);
            }
            texts
        };
        let event = StreamMessage::Event(Bytes::from_static(b"1"));
        assert_eq!(all(&of_session), [event, StreamMessage::Updated("other".into())]);
        assert_eq!(all(&listening), [StreamMessage::Updated("a:b".into())]);
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

//! Stores the requests of servers to clients before 2026-07-28, until the clients answer.
//!
//! Each gets an id of ours that cannot be guessed and, sealed in it, names the replica that asks; only the session that
//! was asked can answer it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::upstream::{ServerMessage, ServerRequest};
use prometheus::IntGauge;

use crate::auth::SubjectId;
use crate::client_sessions::{ClientInbox, SessionOwner};
use crate::front::mcp::messages::reply::{event, log_event};
use crate::front::mcp::messages::request::DEFAULT_LEVEL;
use crate::front::mcp::state::sessions::SessionStore;
use crate::front::mcp::state::streams::Streams;
use crate::seal::{Purpose, Sealer, SessionKey};
use crate::telemetry::metrics::Counted;

/// Requests that may be open in all.
const MOST: usize = 10_000;

/// Requests of one subject that may be open, in all its sessions: one caller must not use up what there is for all.
const MOST_OF_SUBJECT: usize = 1_000;

/// Requests of one session that may be open.
const MOST_OF_SESSION: usize = 100;

/// Random bytes in an id.
const RANDOM_BYTES: usize = 16;

/// A longer id would not be taken back.
const MAX_SEALED_LENGTH: usize = 250;

/// The life of a request that belongs to no call.
const REQUEST_LIFE: Duration = Duration::from_secs(3600);

/// The interval between two looks for requests that are too old.
const SWEEP_INTERVAL: Duration = Duration::from_secs(60);

/// The open requests to clients, and the streams that carry them.
pub(crate) struct ServerRequests {
    streams: Arc<Streams>,
    sessions: Arc<SessionStore>,
    open: Mutex<OpenRequests>,
    here: OnceLock<(Sealer, String)>,
    gauge: IntGauge,
}

/// All open requests, and how many each session and subject has.
struct OpenRequests {
    by_id: HashMap<String, OpenRequest>,
    of_session: HashMap<SessionKey, usize>,
    of_subject: HashMap<SubjectId, usize>,
    looked: Instant,
}

struct OpenRequest {
    owner: SessionOwner,
    request: ServerRequest,
    since: Instant,
    _counted: Counted,
}

impl ServerRequests {
    /// Nothing is asked yet.
    pub(crate) fn new(streams: Arc<Streams>, sessions: Arc<SessionStore>, gauge: IntGauge) -> Self {
        Self { streams, sessions, open: Mutex::new(OpenRequests::new()), here: OnceLock::new(), gauge }
    }

    /// Says which replica this is: answers may come to others.
    pub(crate) fn is_at(&self, sealer: Sealer, replica: String) {
        let _ = self.here.set((sealer, replica));
    }

    /// The replica that has sent the request with this id, as JSON, if it is another one.
    pub(crate) fn place_of(&self, id: &str) -> Option<String> {
        let (sealer, here) = self.here.get()?;
        let sealed = id.strip_prefix('"')?.strip_suffix('"')?;
        let place = sealer.open(Purpose::ServerRequest, sealed).ok()?;
        let place = String::from_utf8(place.get(RANDOM_BYTES..)?.to_vec()).ok()?;
        (place != *here).then_some(place)
    }

    /// A JSON string with 128 random bits.
    fn new_id(&self) -> String {
        let mut bits = [0; RANDOM_BYTES];
        aws_lc_rs::rand::fill(&mut bits).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        let sealed = self
            .here
            .get()
            .map(|(sealer, here)| sealer.seal(Purpose::ServerRequest, &[bits.as_slice(), here.as_bytes()].concat()));
        match sealed.filter(|sealed| sealed.len() <= MAX_SEALED_LENGTH) {
            Some(sealed) => format!("\"{sealed}\""),
            None => format!("\"{:032x}\"", u128::from_be_bytes(bits)),
        }
    }

    /// Opens a request: its id, as JSON, and the event that asks. None if too much is open: its server is told.
    fn ask(&self, owner: SessionOwner, request: ServerRequest) -> Option<(String, Bytes)> {
        let id = self.new_id();
        let raw = request.raw();
        let params = match raw.params.as_ref() {
            b"" => String::new(),
            params => format!(r#","params":{}"#, String::from_utf8_lossy(params)),
        };
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{}{params}}}"#, json_string(&raw.method));
        let mut all = self.lock();
        let old = all.take_old();
        let is_full = all.by_id.len() >= MOST
            || count_of(&all.of_subject, &owner.subject) >= MOST_OF_SUBJECT
            || count_of(&all.of_session, &owner.session) >= MOST_OF_SESSION;
        if is_full {
            drop(all);
            request.refuse_as_too_many();
            return None;
        }
        all.add(id.clone(), OpenRequest { owner, request, since: Instant::now(), _counted: Counted::new(&self.gauge) });
        drop(all);
        drop(old);
        Some((id, event(text.as_bytes())))
    }

    /// Passes an answer on, of the session that was asked; false if there is no such request. `id` is JSON.
    pub(crate) fn answer(&self, session: &SessionKey, id: &str, answer: Result<&str, &str>) -> bool {
        let mut all = self.lock();
        if all.by_id.get(id).is_none_or(|open| open.owner.session != *session) {
            return false;
        }
        let open = all.remove(id);
        drop(all);
        open.map(|open| open.request.answer(answer)).is_some()
    }

    /// Takes a request back.
    fn take(&self, id: &str) -> Option<ServerRequest> {
        self.lock().remove(id).map(|open| open.request)
    }

    /// A session is over: nobody will answer.
    pub(crate) fn forget(&self, session: &SessionKey) {
        let mut all = self.lock();
        if !all.of_session.contains_key(session) {
            return;
        }
        let gone = all.take_where(|open| open.owner.session == *session);
        drop(all);
        drop(gone);
    }

    fn lock(&self) -> MutexGuard<'_, OpenRequests> {
        self.open.lock()
    }
}

impl ClientInbox for ServerRequests {
    fn deliver(
        &self,
        owner: SessionOwner,
        able: ClientCapabilities,
        message: ServerMessage,
    ) -> Result<(), ServerMessage> {
        match message {
            ServerMessage::Log(params) => {
                let level = self.sessions.level(&owner.session).unwrap_or(DEFAULT_LEVEL);
                let sent = log_event(&params, level).is_none_or(|event| self.streams.send(&owner.session, event));
                if sent { Ok(()) } else { Err(ServerMessage::Log(params)) }
            }
            ServerMessage::Request(request) => {
                if !able.allow(&request.raw().method, &request.raw().params) {
                    return Err(ServerMessage::Request(request));
                }
                let Some((id, event)) = self.ask(owner, request) else { return Ok(()) };
                if self.streams.send(&owner.session, event) {
                    return Ok(());
                }
                self.take(&id).map_or(Ok(()), |request| Err(ServerMessage::Request(request)))
            }
            progress @ ServerMessage::Progress(_) => Err(progress),
        }
    }
}

impl OpenRequests {
    fn new() -> Self {
        Self { by_id: HashMap::new(), of_session: HashMap::new(), of_subject: HashMap::new(), looked: Instant::now() }
    }

    fn add(&mut self, id: String, open: OpenRequest) {
        *self.of_session.entry(open.owner.session).or_default() += 1;
        *self.of_subject.entry(open.owner.subject).or_default() += 1;
        self.by_id.insert(id, open);
    }

    fn remove(&mut self, id: &str) -> Option<OpenRequest> {
        let open = self.by_id.remove(id)?;
        count_less(&mut self.of_session, &open.owner.session);
        count_less(&mut self.of_subject, &open.owner.subject);
        Some(open)
    }

    fn take_where(&mut self, is_meant: impl Fn(&OpenRequest) -> bool) -> Vec<OpenRequest> {
        let meant = self.by_id.iter().filter(|(_, open)| is_meant(open)).map(|(id, _)| id.clone());
        let ids: Vec<String> = meant.collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Those that nobody will answer any more.
    fn take_old(&mut self) -> Vec<OpenRequest> {
        if self.looked.elapsed() < SWEEP_INTERVAL {
            return Vec::new();
        }
        self.looked = Instant::now();
        self.take_where(|open| open.since.elapsed() > REQUEST_LIFE)
    }
}

fn count_of<K: Eq + Hash>(counts: &HashMap<K, usize>, key: &K) -> usize {
    counts.get(key).copied().unwrap_or_default()
}

fn count_less<K: Eq + Hash>(counts: &mut HashMap<K, usize>, key: &K) {
    match counts.get_mut(key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => drop(counts.remove(key)),
    }
}

/// The requests to one session within one call; those that are still open are taken back when it ends.
pub(crate) struct ScopedRequests {
    requests: Arc<ServerRequests>,
    owner: SessionOwner,
    open: Vec<String>,
}

impl ScopedRequests {
    /// Nothing is asked yet.
    pub(crate) fn new(requests: Arc<ServerRequests>, owner: SessionOwner) -> Self {
        Self { requests, owner, open: Vec::new() }
    }

    /// The event that asks; none if too much is open.
    pub(crate) fn ask(&mut self, request: ServerRequest) -> Option<Bytes> {
        let (id, event) = self.requests.ask(self.owner, request)?;
        self.open.push(id);
        Some(event)
    }
}

impl Drop for ScopedRequests {
    fn drop(&mut self) {
        for id in &self.open {
            drop(self.requests.take(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::mcp::state::streams::StreamLimits;

    const ROOTS: ClientCapabilities = ClientCapabilities::ROOTS;

    fn requests() -> Arc<ServerRequests> {
        let limits = StreamLimits { all: 10, of_subject: 10 };
        let streams = Arc::new(Streams::new(limits, IntGauge::new("a", "b").unwrap()));
        Arc::new(ServerRequests::new(streams, Arc::default(), IntGauge::new("c", "d").unwrap()))
    }

    fn owner(session: u8, subject: u8) -> SessionOwner {
        SessionOwner { session: [session; 12], subject: SubjectId([subject; 16]) }
    }

    fn roots() -> ServerRequest {
        ServerRequest::by_us("roots/list", Bytes::new()).0
    }

    #[tokio::test]
    async fn only_the_session_that_was_asked_can_answer_and_only_once() {
        let requests = requests();
        let (request, answer) = ServerRequest::by_us("roots/list", Bytes::from_static(b"{\"a\":1}"));
        let (id, event) = requests.ask(owner(1, 1), request).unwrap();
        let expected = format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"roots/list\",\"params\":{{\"a\":1}}}}\n\n"
        );
        assert_eq!((event.as_ref(), id.len()), (expected.as_bytes(), 34));
        assert!(!requests.answer(&[2; 12], &id, Ok("{}")));
        assert!(!requests.answer(&[1; 12], "1", Ok("{}")));
        assert!(requests.answer(&[1; 12], &id, Ok("{\"x\" :1}")));
        assert!(!requests.answer(&[1; 12], &id, Ok("{}")));
        assert_eq!(answer.await, Ok(Ok("{\"x\" :1}".into())));
        assert_eq!(requests.gauge.get(), 0);
    }

    #[tokio::test]
    async fn what_nobody_will_answer_is_given_up() {
        let requests = requests();
        let mut scoped = ScopedRequests::new(requests.clone(), owner(1, 1));
        let (request, of_call) = ServerRequest::by_us("roots/list", Bytes::new());
        assert!(scoped.ask(request).is_some());
        let (request, of_session) = ServerRequest::by_us("roots/list", Bytes::new());
        assert!(requests.ask(owner(1, 1), request).is_some());
        assert_eq!(requests.gauge.get(), 2);
        drop(scoped);
        assert_eq!(requests.gauge.get(), 1);
        assert!(of_call.await.is_err());
        requests.forget(&[1; 12]);
        assert!(of_session.await.is_err());
        assert_eq!(requests.gauge.get(), 0);
    }

    #[tokio::test]
    async fn one_subject_is_asked_no_more_than_it_may_be_however_many_sessions_it_has_and_others_still_are() {
        let requests = requests();
        let count_asked = |session, subject, times: usize| {
            (0..times).filter(|_| requests.ask(owner(session, subject), roots()).is_some()).count()
        };
        assert_eq!(count_asked(0, 1, 200), MOST_OF_SESSION);
        let by_session: Vec<usize> = (1..=10).map(|session| count_asked(session, 1, MOST_OF_SESSION)).collect();
        assert_eq!(by_session, [vec![MOST_OF_SESSION; 9], vec![0]].concat());
        let (one_more, answer) = ServerRequest::by_us("roots/list", Bytes::new());
        let stream = requests.streams.open(SubjectId([1; 16]), Some([11; 12]));
        assert!(requests.deliver(owner(11, 1), ROOTS, ServerMessage::Request(one_more)).is_ok());
        let refusal =
            r#"{"code":-32603,"message":"too many requests to clients are open: ask again when some are answered"}"#;
        assert_eq!((answer.await, stream.is_ok()), (Ok(Err(refusal.into())), true));

        assert_eq!(count_asked(12, 2, 1), 1, "another subject");
        requests.forget(&[0; 12]);
        assert_eq!(count_asked(11, 1, 200), MOST_OF_SESSION, "there is room again");
        let others =
            (3..=20).map(|subject| (0..10).map(|of| count_asked(10 * subject + of, subject, 100)).sum::<usize>());
        assert_eq!((others.sum::<usize>(), requests.gauge.get()), (MOST - MOST_OF_SUBJECT - 1, 10_000), "in all");
        (0..=255).for_each(|session| requests.forget(&[session; 12]));
        let all = requests.lock();
        assert_eq!((all.by_id.len(), all.of_session.len(), all.of_subject.len(), requests.gauge.get()), (0, 0, 0, 0));
    }

    #[test]
    fn an_id_says_to_replicas_with_the_same_keys_alone_where_the_question_is_open() {
        let keys = Sealer::random();
        let at = |replica: &str| {
            let one = requests();
            one.is_at(keys.clone(), replica.into());
            one
        };
        let (here, there) = (at("http://10.0.0.1:8080"), at("http://10.0.0.2:8080"));
        let (id, _) = here.ask(owner(1, 1), roots()).unwrap();
        assert_eq!(there.place_of(&id).as_deref(), Some("http://10.0.0.1:8080"));
        assert!(id.len() < 256 && here.place_of(&id).is_none() && requests().place_of(&id).is_none());
        for forged in ["7", "\"x\"", &id.replace('A', "B").replace('a', "b")] {
            assert_eq!(there.place_of(forged), None, "{forged}");
        }
    }

    #[test]
    fn outside_calls_a_session_is_asked_on_its_stream_if_it_has_one() {
        let requests = requests();
        let message = || ServerMessage::Request(roots());
        assert!(requests.deliver(owner(1, 0), ROOTS, message()).is_err());
        assert!(requests.lock().by_id.is_empty());
        let _stream = requests.streams.open(SubjectId([0; 16]), Some([1; 12])).unwrap();
        assert!(requests.deliver(owner(1, 0), ROOTS, message()).is_ok());
        assert!(requests.deliver(owner(1, 0), ClientCapabilities::SAMPLING, message()).is_err());
        assert_eq!(requests.lock().by_id.len(), 1);
    }
}

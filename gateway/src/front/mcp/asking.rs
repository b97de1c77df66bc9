//! Questions of servers that clients before 2026-07-28 were asked, until they answer.
//!
//! Each gets an id of ours that cannot be guessed and, sealed in it, names the replica that asks; only the session that
//! was asked can answer it.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::IntGauge;

use super::live::{Live, SessionKey};
use super::reply::event;
use super::stream::{DEFAULT_LEVEL, log_event};
use super::streams::Streams;
use crate::capabilities::ClientCapabilities;
use crate::metrics::Counted;
use crate::seal::{Purpose, Sealer, Session, SubjectId};
use crate::upstream::message::json_string;
use crate::upstream::{Asked, Told};

/// Questions that may be open in all.
const MOST: usize = 10_000;

/// Questions of one subject that may be open, in all its sessions: one caller must not use up what there is for all.
const MOST_OF_SUBJECT: usize = 1_000;

/// Questions of one session that may be open.
const MOST_OF_SESSION: usize = 100;

/// Random bytes in an id.
const RANDOM: usize = 16;

/// A longer id would not be taken back.
const MAX_SEALED: usize = 250;

/// A question that belongs to no call is given up after so long.
const PATIENCE: Duration = Duration::from_secs(3600);

/// Questions that are too old are looked for this often, so that one may be given up so much later.
const LOOK: Duration = Duration::from_secs(60);

/// What clients were asked, and the ways to ask them.
pub struct Asking {
    streams: Arc<Streams>,
    live: Arc<Live>,
    open: Mutex<All>,
    here: OnceLock<(Sealer, String)>,
    gauge: IntGauge,
}

/// All open questions, and how many each one has.
struct All {
    by_id: HashMap<String, Open>,
    of_session: HashMap<SessionKey, usize>,
    of_subject: HashMap<SubjectId, usize>,
    looked: Instant,
}

/// Who is asked: a session, and whose it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whom {
    /// The session.
    pub session: SessionKey,
    /// Its subject.
    pub subject: SubjectId,
}

struct Open {
    whom: Whom,
    asked: Asked,
    since: Instant,
    _counted: Counted,
}

impl Asking {
    /// Nothing is asked yet.
    pub fn new(streams: Arc<Streams>, live: Arc<Live>, gauge: IntGauge) -> Self {
        Self { streams, live, open: Mutex::new(All::new()), here: OnceLock::new(), gauge }
    }

    /// Says which replica this is: answers may come to others.
    pub fn is_at(&self, sealer: Sealer, replica: String) {
        let _ = self.here.set((sealer, replica));
    }

    /// The replica that has asked the question with this id, as JSON, if it is another one.
    pub fn place_of(&self, id: &str) -> Option<String> {
        let (sealer, here) = self.here.get()?;
        let sealed = id.strip_prefix('"')?.strip_suffix('"')?;
        let place = sealer.open(Purpose::Question, sealed).ok()?;
        let place = String::from_utf8(place.get(RANDOM..)?.to_vec()).ok()?;
        (place != *here).then_some(place)
    }

    /// A JSON string with 128 random bits.
    fn new_id(&self) -> String {
        let mut bits = [0; RANDOM];
        aws_lc_rs::rand::fill(&mut bits).unwrap_or_else(|_| unreachable!("the system has random numbers"));
        let sealed = self
            .here
            .get()
            .map(|(sealer, here)| sealer.seal(Purpose::Question, &[bits.as_slice(), here.as_bytes()].concat()));
        match sealed.filter(|sealed| sealed.len() <= MAX_SEALED) {
            Some(sealed) => format!("\"{sealed}\""),
            None => format!("\"{:032x}\"", u128::from_be_bytes(bits)),
        }
    }

    /// Opens a question: its id, as JSON, and the event that asks. None if too much is open: its server is told.
    fn ask(&self, whom: Whom, asked: Asked) -> Option<(String, Bytes)> {
        let id = self.new_id();
        let question = asked.question();
        let params = match question.params.as_ref() {
            b"" => String::new(),
            params => format!(r#","params":{}"#, String::from_utf8_lossy(params)),
        };
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{}{params}}}"#, json_string(&question.method));
        let mut all = self.lock();
        let old = all.take_old();
        let is_full = all.by_id.len() >= MOST
            || count_of(&all.of_subject, &whom.subject) >= MOST_OF_SUBJECT
            || count_of(&all.of_session, &whom.session) >= MOST_OF_SESSION;
        if is_full {
            drop(all);
            asked.refuse_as_too_many();
            return None;
        }
        all.add(id.clone(), Open { whom, asked, since: Instant::now(), _counted: Counted::new(&self.gauge) });
        drop(all);
        drop(old);
        Some((id, event(text.as_bytes())))
    }

    /// Passes an answer on, of the session that was asked; false if there is no such question. `id` is JSON.
    pub fn answer(&self, session: &SessionKey, id: &str, answer: Result<&str, &str>) -> bool {
        let mut all = self.lock();
        if all.by_id.get(id).is_none_or(|open| open.whom.session != *session) {
            return false;
        }
        let open = all.remove(id);
        drop(all);
        open.map(|open| open.asked.answer(answer)).is_some()
    }

    /// Takes a question back.
    fn take(&self, id: &str) -> Option<Asked> {
        self.lock().remove(id).map(|open| open.asked)
    }

    /// A session is over: nobody will answer.
    pub fn forget(&self, session: &SessionKey) {
        let mut all = self.lock();
        if !all.of_session.contains_key(session) {
            return;
        }
        let gone = all.take_where(|open| open.whom.session == *session);
        drop(all);
        drop(gone);
    }

    /// Tells a session on the stream that it listens on, outside any call.
    ///
    /// # Errors
    /// It does not listen, or does not want it: gives it back.
    pub fn tell(&self, whom: Whom, able: ClientCapabilities, told: Told) -> Result<(), Told> {
        match told {
            Told::Log(params) => {
                let level = self.live.level(&whom.session).unwrap_or(DEFAULT_LEVEL);
                let sent = log_event(&params, level).is_none_or(|event| self.streams.send(&whom.session, event));
                if sent { Ok(()) } else { Err(Told::Log(params)) }
            }
            Told::Question(asked) => {
                if !able.allow(&asked.question().method, &asked.question().params) {
                    return Err(Told::Question(asked));
                }
                let Some((id, event)) = self.ask(whom, asked) else { return Ok(()) };
                if self.streams.send(&whom.session, event) {
                    return Ok(());
                }
                self.take(&id).map_or(Ok(()), |asked| Err(Told::Question(asked)))
            }
            told @ Told::Progress(_) => Err(told),
        }
    }

    fn lock(&self) -> MutexGuard<'_, All> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl All {
    fn new() -> Self {
        Self { by_id: HashMap::new(), of_session: HashMap::new(), of_subject: HashMap::new(), looked: Instant::now() }
    }

    fn add(&mut self, id: String, open: Open) {
        *self.of_session.entry(open.whom.session).or_default() += 1;
        *self.of_subject.entry(open.whom.subject).or_default() += 1;
        self.by_id.insert(id, open);
    }

    fn remove(&mut self, id: &str) -> Option<Open> {
        let open = self.by_id.remove(id)?;
        count_less(&mut self.of_session, &open.whom.session);
        count_less(&mut self.of_subject, &open.whom.subject);
        Some(open)
    }

    fn take_where(&mut self, is_meant: impl Fn(&Open) -> bool) -> Vec<Open> {
        let meant = self.by_id.iter().filter(|(_, open)| is_meant(open)).map(|(id, _)| id.clone());
        let ids: Vec<String> = meant.collect();
        ids.iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Those that nobody will answer any more.
    fn take_old(&mut self) -> Vec<Open> {
        if self.looked.elapsed() < LOOK {
            return Vec::new();
        }
        self.looked = Instant::now();
        self.take_where(|open| open.since.elapsed() > PATIENCE)
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

impl Whom {
    /// The client of a session.
    pub fn of_session(session: &Session) -> Self {
        Self { session: session.id, subject: session.subject }
    }
}

/// Asks one session in the course of one call; takes what is open back when it ends.
pub struct Asker {
    asking: Arc<Asking>,
    whom: Whom,
    open: Vec<String>,
}

impl Asker {
    /// Nothing is asked yet.
    pub fn new(asking: Arc<Asking>, whom: Whom) -> Self {
        Self { asking, whom, open: Vec::new() }
    }

    /// The event that asks; none if too much is open.
    pub fn ask(&mut self, asked: Asked) -> Option<Bytes> {
        let (id, event) = self.asking.ask(self.whom, asked)?;
        self.open.push(id);
        Some(event)
    }
}

impl Drop for Asker {
    fn drop(&mut self) {
        for id in &self.open {
            drop(self.asking.take(id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::mcp::streams::StreamLimits;

    const ROOTS: ClientCapabilities = ClientCapabilities::ROOTS;

    fn asking() -> Arc<Asking> {
        let limits = StreamLimits { all: 10, of_subject: 10 };
        let streams = Arc::new(Streams::new(limits, IntGauge::new("a", "b").unwrap()));
        Arc::new(Asking::new(streams, Arc::default(), IntGauge::new("c", "d").unwrap()))
    }

    fn whom(session: u8, subject: u8) -> Whom {
        Whom { session: [session; 12], subject: SubjectId([subject; 16]) }
    }

    fn roots() -> Asked {
        Asked::by_us("roots/list", Bytes::new()).0
    }

    #[tokio::test]
    async fn only_the_session_that_was_asked_can_answer_and_only_once() {
        let asking = asking();
        let (asked, answer) = Asked::by_us("roots/list", Bytes::from_static(b"{\"a\":1}"));
        let (id, event) = asking.ask(whom(1, 1), asked).unwrap();
        let expected = format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"roots/list\",\"params\":{{\"a\":1}}}}\n\n"
        );
        assert_eq!((event.as_ref(), id.len()), (expected.as_bytes(), 34));
        assert!(!asking.answer(&[2; 12], &id, Ok("{}")));
        assert!(!asking.answer(&[1; 12], "1", Ok("{}")));
        assert!(asking.answer(&[1; 12], &id, Ok("{\"x\" :1}")));
        assert!(!asking.answer(&[1; 12], &id, Ok("{}")));
        assert_eq!(answer.await, Ok(Ok("{\"x\" :1}".into())));
        assert_eq!(asking.gauge.get(), 0);
    }

    #[tokio::test]
    async fn what_nobody_will_answer_is_given_up() {
        let asking = asking();
        let mut asker = Asker::new(asking.clone(), whom(1, 1));
        let (asked, of_call) = Asked::by_us("roots/list", Bytes::new());
        assert!(asker.ask(asked).is_some());
        let (asked, of_session) = Asked::by_us("roots/list", Bytes::new());
        assert!(asking.ask(whom(1, 1), asked).is_some());
        assert_eq!(asking.gauge.get(), 2);
        drop(asker);
        assert_eq!(asking.gauge.get(), 1);
        assert!(of_call.await.is_err());
        asking.forget(&[1; 12]);
        assert!(of_session.await.is_err());
        assert_eq!(asking.gauge.get(), 0);
    }

    #[tokio::test]
    async fn one_subject_is_asked_no_more_than_it_may_be_however_many_sessions_it_has_and_others_still_are() {
        let asking = asking();
        let asked = |session, subject, times: usize| {
            (0..times).filter(|_| asking.ask(whom(session, subject), roots()).is_some()).count()
        };
        assert_eq!(asked(0, 1, 200), MOST_OF_SESSION);
        let by_session: Vec<usize> = (1..=10).map(|session| asked(session, 1, MOST_OF_SESSION)).collect();
        assert_eq!(by_session, [vec![MOST_OF_SESSION; 9], vec![0]].concat());
        let (one_more, answer) = Asked::by_us("roots/list", Bytes::new());
        let stream = asking.streams.open(SubjectId([1; 16]), Some([11; 12]));
        assert!(asking.tell(whom(11, 1), ROOTS, Told::Question(one_more)).is_ok());
        let refusal = r#"{"code":-32603,"message":"as many questions to clients are open as may be: ask again when some are answered"}"#;
        assert_eq!((answer.await, stream.is_ok()), (Ok(Err(refusal.into())), true));

        assert_eq!(asked(12, 2, 1), 1, "another subject");
        asking.forget(&[0; 12]);
        assert_eq!(asked(11, 1, 200), MOST_OF_SESSION, "there is room again");
        let others = (3..=20).map(|subject| (0..10).map(|of| asked(10 * subject + of, subject, 100)).sum::<usize>());
        assert_eq!((others.sum::<usize>(), asking.gauge.get()), (MOST - MOST_OF_SUBJECT - 1, 10_000), "in all");
        (0..=255).for_each(|session| asking.forget(&[session; 12]));
        let all = asking.lock();
        assert_eq!((all.by_id.len(), all.of_session.len(), all.of_subject.len(), asking.gauge.get()), (0, 0, 0, 0));
    }

    #[test]
    fn an_id_says_to_replicas_with_the_same_keys_alone_where_the_question_is_open() {
        let keys = Sealer::random();
        let at = |replica: &str| {
            let one = asking();
            one.is_at(keys.clone(), replica.into());
            one
        };
        let (here, there) = (at("http://10.0.0.1:8080"), at("http://10.0.0.2:8080"));
        let (id, _) = here.ask(whom(1, 1), roots()).unwrap();
        assert_eq!(there.place_of(&id).as_deref(), Some("http://10.0.0.1:8080"));
        assert!(id.len() < 256 && here.place_of(&id).is_none() && asking().place_of(&id).is_none());
        for forged in ["7", "\"x\"", &id.replace('A', "B").replace('a', "b")] {
            assert_eq!(there.place_of(forged), None, "{forged}");
        }
    }

    #[test]
    fn outside_calls_a_session_is_asked_on_its_stream_if_it_has_one() {
        let asking = asking();
        let question = || Told::Question(roots());
        assert!(asking.tell(whom(1, 0), ROOTS, question()).is_err());
        assert!(asking.lock().by_id.is_empty());
        let _stream = asking.streams.open(SubjectId([0; 16]), Some([1; 12])).unwrap();
        assert!(asking.tell(whom(1, 0), ROOTS, question()).is_ok());
        assert!(asking.tell(whom(1, 0), ClientCapabilities::SAMPLING, question()).is_err());
        assert_eq!(asking.lock().by_id.len(), 1);
    }
}

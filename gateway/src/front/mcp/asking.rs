//! Questions of servers that clients before 2026-07-28 were asked, until they answer.
//!
//! Each gets an id of ours that cannot be guessed and, sealed in it, names the replica that asks; only the session that
//! was asked can answer it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::live::{Live, SessionKey};
use super::reply::event;
use super::stream::{DEFAULT_LEVEL, log_event};
use super::streams::Streams;
use crate::capabilities::ClientCapabilities;
use crate::seal::{Purpose, Sealer};
use crate::upstream::message::json_string;
use crate::upstream::{Asked, Told};

/// Questions that may be open in all.
const MOST: usize = 10_000;

/// Questions of one session that may be open.
const MOST_OF_SESSION: usize = 100;

/// Random bytes in an id.
const RANDOM: usize = 16;

/// A longer id would not be taken back.
const MAX_SEALED: usize = 250;

/// A question that belongs to no call is given up after so long.
const PATIENCE: Duration = Duration::from_secs(3600);

/// What clients were asked, and the ways to ask them.
pub struct Asking {
    streams: Arc<Streams>,
    live: Arc<Live>,
    open: Mutex<HashMap<String, Open>>,
    here: OnceLock<(Sealer, String)>,
}

struct Open {
    session: SessionKey,
    asked: Asked,
    since: Instant,
}

impl Asking {
    /// Nothing is asked yet.
    pub fn new(streams: Arc<Streams>, live: Arc<Live>) -> Self {
        Self { streams, live, open: Mutex::default(), here: OnceLock::new() }
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

    /// Opens a question: its id, as JSON, and the event that asks.
    ///
    /// # Errors
    /// Too much is open: gives it back.
    pub fn ask(&self, session: SessionKey, asked: Asked) -> Result<(String, Bytes), Asked> {
        let id = self.new_id();
        let question = asked.question();
        let params = match question.params.as_ref() {
            b"" => String::new(),
            params => format!(r#","params":{}"#, String::from_utf8_lossy(params)),
        };
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":{}{params}}}"#, json_string(&question.method));
        let mut all = self.lock();
        let stale = |open: &Open| open.since.elapsed() > PATIENCE;
        let old: Vec<Open> = all.extract_if(|_, open| stale(open)).map(|(_, open)| open).collect();
        let of_session = all.values().filter(|open| open.session == session).count();
        if all.len() >= MOST || of_session >= MOST_OF_SESSION {
            return Err(asked);
        }
        all.insert(id.clone(), Open { session, asked, since: Instant::now() });
        drop(all);
        drop(old);
        Ok((id, event(text.as_bytes())))
    }

    /// Passes an answer on, of the session that was asked; false if there is no such question. `id` is JSON.
    pub fn answer(&self, session: &SessionKey, id: &str, answer: Result<&str, &str>) -> bool {
        let mut all = self.lock();
        if all.get(id).is_none_or(|open| open.session != *session) {
            return false;
        }
        let open = all.remove(id);
        drop(all);
        open.map(|open| open.asked.answer(answer)).is_some()
    }

    /// Takes a question back.
    pub fn take(&self, id: &str) -> Option<Asked> {
        self.lock().remove(id).map(|open| open.asked)
    }

    /// A session is over: nobody will answer.
    pub fn forget(&self, session: &SessionKey) {
        let gone: Vec<Open> =
            self.lock().extract_if(|_, open| open.session == *session).map(|(_, open)| open).collect();
        drop(gone);
    }

    /// Tells a session on the stream that it listens on, outside any call.
    ///
    /// # Errors
    /// It does not listen, or does not want it: gives it back.
    pub fn tell(&self, session: &SessionKey, able: ClientCapabilities, told: Told) -> Result<(), Told> {
        match told {
            Told::Log(params) => {
                let level = self.live.level(session).unwrap_or(DEFAULT_LEVEL);
                let sent = log_event(&params, level).is_none_or(|event| self.streams.send(session, event));
                if sent { Ok(()) } else { Err(Told::Log(params)) }
            }
            Told::Question(asked) => {
                if !able.allow(&asked.question().method, &asked.question().params) {
                    return Err(Told::Question(asked));
                }
                let (id, event) = self.ask(*session, asked).map_err(Told::Question)?;
                if self.streams.send(session, event) {
                    return Ok(());
                }
                self.take(&id).map_or(Ok(()), |asked| Err(Told::Question(asked)))
            }
            told @ Told::Progress(_) => Err(told),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks one session in the course of one call; takes what is open back when it ends.
pub struct Asker {
    asking: Arc<Asking>,
    session: SessionKey,
    open: Vec<String>,
}

impl Asker {
    /// Nothing is asked yet.
    pub fn new(asking: Arc<Asking>, session: SessionKey) -> Self {
        Self { asking, session, open: Vec::new() }
    }

    /// The event that asks; none if too much is open.
    pub fn ask(&mut self, asked: Asked) -> Option<Bytes> {
        let (id, event) = self.asking.ask(self.session, asked).ok()?;
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
    use crate::seal::SubjectId;
    use prometheus::IntGauge;

    const ROOTS: ClientCapabilities = ClientCapabilities::ROOTS;

    fn asking() -> Arc<Asking> {
        let limits = StreamLimits { all: 10, of_subject: 10 };
        let streams = Arc::new(Streams::new(limits, IntGauge::new("a", "b").unwrap()));
        Arc::new(Asking::new(streams, Arc::default()))
    }

    #[tokio::test]
    async fn only_the_session_that_was_asked_can_answer_and_only_once() {
        let asking = asking();
        let (asked, answer) = Asked::by_us("roots/list", Bytes::from_static(b"{\"a\":1}"));
        let (id, event) = asking.ask([1; 12], asked).unwrap();
        let expected = format!(
            "event: message\ndata: {{\"jsonrpc\":\"2.0\",\"id\":{id},\"method\":\"roots/list\",\"params\":{{\"a\":1}}}}\n\n"
        );
        assert_eq!((event.as_ref(), id.len()), (expected.as_bytes(), 34));
        assert!(!asking.answer(&[2; 12], &id, Ok("{}")));
        assert!(!asking.answer(&[1; 12], "1", Ok("{}")));
        assert!(asking.answer(&[1; 12], &id, Ok("{\"x\" :1}")));
        assert!(!asking.answer(&[1; 12], &id, Ok("{}")));
        assert_eq!(answer.await, Ok(Ok("{\"x\" :1}".into())));
    }

    #[tokio::test]
    async fn what_nobody_will_answer_is_given_up() {
        let asking = asking();
        let mut asker = Asker::new(asking.clone(), [1; 12]);
        let (asked, of_call) = Asked::by_us("roots/list", Bytes::new());
        assert!(asker.ask(asked).is_some());
        let (asked, of_session) = Asked::by_us("roots/list", Bytes::new());
        assert!(asking.ask([1; 12], asked).is_ok());
        drop(asker);
        assert!(of_call.await.is_err());
        asking.forget(&[1; 12]);
        assert!(of_session.await.is_err());
        let many = (0..200).filter(|_| asking.ask([1; 12], Asked::by_us("roots/list", Bytes::new()).0).is_ok());
        assert_eq!(many.count(), MOST_OF_SESSION);
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
        let (id, _) = here.ask([1; 12], Asked::by_us("roots/list", Bytes::new()).0).unwrap();
        assert_eq!(there.place_of(&id).as_deref(), Some("http://10.0.0.1:8080"));
        assert!(id.len() < 256 && here.place_of(&id).is_none() && asking().place_of(&id).is_none());
        for forged in ["7", "\"x\"", &id.replace('A', "B").replace('a', "b")] {
            assert_eq!(there.place_of(forged), None, "{forged}");
        }
    }

    #[test]
    fn outside_calls_a_session_is_asked_on_its_stream_if_it_has_one() {
        let asking = asking();
        let question = || Told::Question(Asked::by_us("roots/list", Bytes::new()).0);
        assert!(asking.tell(&[1; 12], ROOTS, question()).is_err());
        assert!(asking.lock().is_empty());
        let _stream = asking.streams.open(SubjectId([0; 16]), Some([1; 12])).unwrap();
        assert!(asking.tell(&[1; 12], ROOTS, question()).is_ok());
        assert!(asking.tell(&[1; 12], ClientCapabilities::SAMPLING, question()).is_err());
        assert_eq!(asking.lock().len(), 1);
    }
}

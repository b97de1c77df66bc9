//! Calls that wait until their client of 2026-07-28 comes back with answers: its server asks by requests, within the
//! call, so the call goes on meanwhile, while the client was answered already.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::{Instant, SystemTime};

use axum::response::Response;
use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use super::calls::{INPUT_LIFE, Work};
use super::problem::RpcProblem;
use super::reply::Reply;
use super::request::Params;
use super::state::Caller;
use super::stream::{self, Ears, Patience, Shape};
use crate::front::access_log::Facts;
use crate::front::app::App;
use crate::front::routes::{Recorder, record};
use crate::json::{Members, text};
use crate::metrics::Counted;
use crate::revision::Revision;
use crate::seal::{Inner, RequestState, SubjectId};
use crate::upstream::message::json_string;
use crate::upstream::timing::woken;
use crate::upstream::{Asked, Mailbox, Told};

/// Calls that may wait in all.
const MOST: usize = 1_000;

/// Calls of one caller that may wait.
const MOST_OF_SUBJECT: usize = 16;

const REVISION: Revision = Revision::V2026_07_28;

/// The calls that may have to wait, and those that do.
pub struct Parking {
    running: Mutex<JoinSet<()>>,
    parked: Mutex<HashMap<u64, (Parked, Counted)>>,
    gauge: IntGauge,
}

/// A call that waits. Dropping it cancels it.
struct Parked {
    work: Work,
    mailbox: Mailbox,
    /// The request that its answer will be made for.
    id: String,
    questions: Questions,
    /// Questions until now.
    asked: usize,
    subject: SubjectId,
    since: Instant,
    facts: FoundOut,
}

/// What was found out for the request that began a call, or went on with it last.
type FoundOut = Box<dyn FnOnce() -> Facts + Send>;

/// What its server wants to know, by the keys that the client was given.
type Questions = Vec<(String, Asked)>;

/// Parks one call as often as its server asks.
pub struct Parker {
    app: Arc<App>,
    id: String,
    server: String,
    subject: SubjectId,
    digest: [u8; 16],
    /// Questions until now.
    asked: usize,
    recorder: Recorder,
}

/// Ends the task of a call whose caller goes away.
struct AbortOnDrop(AbortHandle);

impl Parking {
    /// None yet.
    pub fn new(gauge: IntGauge) -> Self {
        Self { running: Mutex::default(), parked: Mutex::default(), gauge }
    }

    /// Starts a call on its own, so that it can outlive the request that began it. `id`: of that request.
    pub fn run(&self, work: Work, id: String) -> Work {
        let (done, reply) = oneshot::channel();
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        while running.try_join_next().is_some() {}
        let task = AbortOnDrop(running.spawn(async move {
            let mut reply = work.await;
            // Its client may come for it much later, or never.
            reply.places.clear();
            drop(done.send(reply));
        }));
        drop(running);
        Box::pin(async move {
            let reply = reply.await;
            drop(task);
            reply.unwrap_or_else(|_| Reply::error(Some(&id), &RpcProblem::Unavailable, REVISION))
        })
    }

    /// Cancels those that wait for their clients. Those that somebody listens to go on until they have answered.
    pub fn end_all(&self) {
        let parked = std::mem::take(&mut *self.lock());
        drop(parked);
    }

    /// Keeps one; its number.
    fn park(&self, parked: Parked) -> Option<u64> {
        let mut all = self.lock();
        let mut stale: Vec<_> = all.extract_if(|_, (parked, _)| parked.since.elapsed() > INPUT_LIFE).collect();
        let has_room = |all: &HashMap<u64, (Parked, Counted)>| {
            let of_subject = all.values().filter(|(other, _)| other.subject == parked.subject).count();
            all.len() < MOST && of_subject < MOST_OF_SUBJECT
        };
        if !has_room(&all) {
            // Clients often do not come back, and their calls run out of time long before they are stale.
            let full = all.len() >= MOST;
            let in_the_way = |other: &mut Parked| (full || other.subject == parked.subject) && other.is_over();
            stale.extend(all.extract_if(|_, (other, _)| in_the_way(other)));
        }
        if !has_room(&all) {
            return None;
        }
        let mut number = [0; 8];
        aws_lc_rs::rand::fill(&mut number).ok()?;
        let number = u64::from_be_bytes(number);
        all.insert(number, (parked, Counted::new(&self.gauge)));
        drop(all);
        drop(stale);
        Some(number)
    }

    fn take(&self, number: u64, subject: &SubjectId) -> Option<Parked> {
        let mut all = self.lock();
        all.get(&number).filter(|(parked, _)| parked.subject == *subject)?;
        all.remove(&number).map(|(parked, _)| parked)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (Parked, Counted)>> {
        self.parked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parked {
    /// Whether it has ended meanwhile. If so, its answer is lost.
    fn is_over(&mut self) -> bool {
        self.work.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === parking ===

impl Parker {
    /// For the request `id` of `caller`, to `server`, with this digest.
    pub fn new(caller: &Caller, id: &str, server: String, digest: [u8; 16]) -> Self {
        let (app, recorder) = (caller.app().clone(), caller.recorder.clone());
        Self { app, id: id.to_owned(), server, subject: caller.subject, digest, asked: 0, recorder }
    }

    /// Parks the call with the first of its questions, and those that came with it; tells the client what is asked.
    pub fn park(mut self, work: Work, mailbox: Mailbox, first: Asked) -> Reply {
        let mut questions = vec![(self.next_key(), first)];
        while let Some(told) = mailbox.take() {
            if let Told::Question(asked) = told {
                questions.push((self.next_key(), asked));
            }
        }
        self.keep(work, mailbox, questions)
    }

    fn next_key(&mut self) -> String {
        self.asked += 1;
        format!("question-{}", self.asked)
    }

    fn keep(self, work: Work, mailbox: Mailbox, questions: Questions) -> Reply {
        const FULL: RpcProblem = RpcProblem::TooMany("as many calls wait for input as may: answer some, or try later");
        let requests: Vec<String> = questions.iter().map(|(key, asked)| request_text(key, asked)).collect();
        let (id, subject, asked) = (self.id.clone(), self.subject, self.asked);
        let (recorder, since) = (self.recorder.clone(), Instant::now());
        let facts = Box::new(move || std::mem::take(&mut **record(&recorder)));
        let parked = Parked { work, mailbox, id: id.clone(), questions, asked, subject, since, facts };
        let state = self.app.mcp.parking.park(parked).and_then(|number| self.state(number));
        let Some(state) = state else { return Reply::error(Some(&id), &FULL, REVISION) };
        self.recorder.end_with_answer();
        let requests = requests.join(",");
        let result =
            format!(r#"{{"resultType":"input_required","inputRequests":{{{requests}}},"requestState":"{state}"}}"#);
        Reply::result(&id, [result.into()])
    }

    fn state(&self, number: u64) -> Option<String> {
        let state = RequestState {
            server: self.server.clone(),
            subject: self.subject,
            digest: self.digest,
            expires: SystemTime::now() + INPUT_LIFE,
            inner: Inner::Parked(number),
            owner: self.app.replica.clone(),
        };
        state.seal(&self.app.sealer).ok()
    }
}

fn request_text(key: &str, asked: &Asked) -> String {
    let question = asked.question();
    let params = match question.params.as_ref() {
        b"" => String::new(),
        params => format!(r#","params":{}"#, String::from_utf8_lossy(params)),
    };
    format!(r#"{}:{{"method":{}{params}}}"#, json_string(key), json_string(&question.method))
}

// === going on ===

/// The state that a request brings, if a call waits for it; at this replica or at its owner.
pub fn state_of(caller: &Caller, params: &Params<'_, '_>, digest: &[u8; 16]) -> Option<RequestState> {
    let sealed = text(params.get("requestState")?)?;
    let state = RequestState::open(&caller.app().sealer, &sealed, &caller.subject, digest, SystemTime::now()).ok()?;
    matches!(state.inner, Inner::Parked(_)).then_some(state)
}

/// Goes on with the call that waits, with the answers that the client has brought.
///
/// # Errors
/// It does not wait any more, or the answers are not of their form.
pub async fn resume(
    caller: &Caller,
    id: &str,
    params: &Params<'_, '_>,
    shape: Shape,
    state: RequestState,
) -> Result<Response, RpcProblem> {
    const OVER: RpcProblem = RpcProblem::Params(
        "the call of this \"requestState\" does not wait any more: send the request again without it",
    );
    const FORM: RpcProblem = RpcProblem::Params("\"inputResponses\" must be an object with an answer for each key");
    let answers = match params.get("inputResponses") {
        Some(raw) => Members::read(raw.get()).map_err(|_| FORM)?,
        None => Members::default(),
    };
    let Inner::Parked(number) = state.inner else { return Err(OVER) };
    let parked = caller.app().mcp.parking.take(number, &caller.subject).ok_or(OVER)?;
    let Parked { work, mailbox, id: before, questions, asked, facts, .. } = parked;
    let mut parker = Parker::new(caller, id, state.server, state.digest);
    parker.asked = asked;
    let work = retold(readdressed(work, before, id.to_owned()), facts, caller.recorder.clone());
    let left = answer_all(questions, &answers);
    if !left.is_empty() {
        return Ok(parker.keep(work, mailbox, left).into_response());
    }
    let shape = Shape { ears: Ears::Parks(Box::new(parker)), ..shape };
    // The call began long ago, and wakes nobody any more.
    let until = caller.goes_on_at();
    let work = Box::pin(woken(work, until));
    Ok(stream::answer(work, mailbox, shape, Patience::until(until)).await)
}

/// Answers what there is an answer for, and gives back the rest. An answer is an object; anything else is none.
fn answer_all(questions: Questions, answers: &Members<'_>) -> Questions {
    let mut left = Vec::new();
    for (key, asked) in questions {
        match answers.get(&key).filter(|answer| answer.get().starts_with('{')) {
            Some(answer) => asked.answer(Ok(answer.get())),
            None => left.push((key, asked)),
        }
    }
    left
}

/// The answer to a request is made when it is sent; whoever goes on with it asks under another id.
fn readdressed(work: Work, before: String, now: String) -> Work {
    Box::pin(async move { work.await.readdressed(&before, &now) })
}

/// What is found out of a call is noted in the record of the request that began it; it belongs to that which ends it.
fn retold(work: Work, facts: FoundOut, now: Recorder) -> Work {
    Box::pin(async move {
        let reply = work.await;
        let facts = facts();
        record(&now).take_over(facts);
        reply
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capabilities::ClientCapabilities;
    use bytes::Bytes;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn parked(subject: u8, work: Work) -> Parked {
        let mailbox = Mailbox::new(ClientCapabilities::ROOTS);
        let subject = SubjectId([subject; 16]);
        let (since, facts) = (Instant::now(), Box::new(Facts::default));
        Parked { work, mailbox, id: "1".into(), questions: Vec::new(), asked: 0, subject, since, facts }
    }

    fn parking() -> Parking {
        Parking::new(IntGauge::new("a", "b").unwrap())
    }

    fn never() -> Work {
        Box::pin(std::future::pending())
    }

    #[test]
    fn a_parked_call_is_there_once_for_its_own_caller_and_there_are_not_too_many() {
        let parking = parking();
        let number = parking.park(parked(1, never())).unwrap();
        assert!(parking.take(number, &SubjectId([2; 16])).is_none());
        assert_eq!(parking.gauge.get(), 1);
        assert!(parking.take(number, &SubjectId([1; 16])).is_some());
        assert_eq!(parking.gauge.get(), 0);
        assert!(parking.take(number, &SubjectId([1; 16])).is_none());
        let kept = |subject, count| (0..count).filter(|_| parking.park(parked(subject, never())).is_some()).count();
        assert_eq!(kept(1, 200), MOST_OF_SUBJECT);
        assert_eq!((2..=20).map(|subject| kept(subject, 100)).sum::<usize>(), 19 * MOST_OF_SUBJECT);
        assert_eq!(parking.gauge.get(), 20 * 16);
        parking.end_all();
        assert_eq!(parking.gauge.get(), 0);
    }

    #[test]
    fn calls_that_are_over_make_room_for_those_of_the_same_caller_that_wait() {
        let parking = parking();
        let done = || -> Work { Box::pin(async { Reply::result("1", [Bytes::from_static(b"{}")]) }) };
        let over = parking.park(parked(1, done())).unwrap();
        assert!((1..MOST_OF_SUBJECT).all(|_| parking.park(parked(1, never())).is_some()));
        let number = parking.park(parked(1, never())).unwrap();
        assert!(parking.take(over, &SubjectId([1; 16])).is_none());
        assert!(parking.take(number, &SubjectId([1; 16])).is_some());
    }

    #[tokio::test]
    async fn a_call_goes_on_without_its_request_and_ends_with_whoever_waits_for_it() {
        struct Gone(Arc<AtomicBool>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (parking, gone) = (parking(), Arc::<AtomicBool>::default());
        let inside = Gone(gone.clone());
        let work = parking.run(
            Box::pin(async move {
                drop(std::future::pending::<Gone>().await);
                drop(inside);
                unreachable!()
            }),
            "1".into(),
        );
        tokio::task::yield_now().await;
        assert!(!gone.load(Ordering::Relaxed));
        drop(work);
        while !gone.load(Ordering::Relaxed) {
            tokio::task::yield_now().await;
        }
        let done = Box::pin(async { Reply::result("1", [Bytes::from_static(b"{}")]) });
        let work = readdressed(parking.run(done, "1".into()), "1".into(), "\"b\"".into());
        assert_eq!(work.await.into_bytes(), r#"{"jsonrpc":"2.0","id":"b","result":{}}"#);
        let going = Box::pin(async { Reply::result("7", [Bytes::from_static(b"{}")]) });
        let work = parking.run(going, "7".into());
        parking.end_all();
        assert_eq!(work.await.into_bytes(), r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, "somebody listens to it");
    }

    #[tokio::test]
    async fn only_questions_with_an_answer_are_answered() {
        let (first, answer) = Asked::by_us("roots/list", Bytes::new());
        let (second, _) = Asked::by_us("roots/list", Bytes::new());
        let (third, _) = Asked::by_us("roots/list", Bytes::new());
        let questions = vec![("a".to_owned(), first), ("b".to_owned(), second), ("c".to_owned(), third)];
        let answers = Members::read(r#"{"x":{},"b":null,"a":{"roots": []}}"#).unwrap();
        let left: Vec<String> = answer_all(questions, &answers).into_iter().map(|(key, _)| key).collect();
        assert_eq!((left, answer.await), (vec!["b".to_owned(), "c".to_owned()], Ok(Ok(r#"{"roots": []}"#.into()))));
    }
}

//! Calls that wait until their client of 2026-07-28 comes back with answers.

use std::collections::HashMap;
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use portcullis_mcp::protocol::json::Members;
use portcullis_mcp::upstream::{Mailbox, ServerRequest};
use prometheus::IntGauge;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, JoinSet};

use crate::auth::SubjectId;
use crate::front::http::access_log::Facts;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::{RpcReply, Work};
use crate::front::mcp::messages::request::SESSIONLESS_REVISION;
use crate::telemetry::metrics::Counted;

/// The time in which a client has to bring the answers to a server's requests.
pub(crate) const INPUT_LIFE: Duration = Duration::from_secs(3600);

/// Calls that may wait in all.
const MOST: usize = 1_000;

/// Calls of one caller that may wait.
const MOST_OF_SUBJECT: usize = 16;

/// The calls that may have to wait, and those that do.
pub(crate) struct SuspendedCalls {
    running: Mutex<JoinSet<()>>,
    suspended: Mutex<HashMap<u64, (SuspendedCall, Counted)>>,
    gauge: IntGauge,
}

/// A call that waits. Dropping it cancels it.
pub(crate) struct SuspendedCall {
    /// The call itself.
    pub(crate) work: Work,
    /// Takes what comes before its answer.
    pub(crate) mailbox: Mailbox,
    /// The request that its answer will be made for.
    pub(crate) id: String,
    /// The requests that its client has not answered yet.
    pub(crate) requests: InputRequests,
    /// The number of requests until now.
    pub(crate) asked: usize,
    /// The subject that owns it.
    pub(crate) subject: SubjectId,
    /// When it began to wait.
    pub(crate) since: Instant,
    /// Takes what was found out for the request that began it.
    pub(crate) facts: TakeFacts,
}

/// Takes the log facts of the request that began a call, or continued it last.
pub(crate) type TakeFacts = Box<dyn FnOnce() -> Facts + Send>;

/// The open server requests, by the keys that the client received.
pub(crate) type InputRequests = Vec<(String, ServerRequest)>;

/// Ends the task of a call whose caller goes away.
struct AbortOnDrop(AbortHandle);

impl SuspendedCalls {
    /// None yet.
    pub(crate) fn new(gauge: IntGauge) -> Self {
        Self { running: Mutex::default(), suspended: Mutex::default(), gauge }
    }

    /// Starts a call on its own, so that it can outlive the request that began it. `id`: of that request.
    pub(crate) fn run(&self, work: Work, id: String) -> Work {
        let (done, reply) = oneshot::channel();
        let mut running = self.running.lock();
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
            reply.unwrap_or_else(|_| RpcReply::error(Some(&id), &RpcProblem::Unavailable, SESSIONLESS_REVISION))
        })
    }

    /// Cancels those that wait for their clients. Those that somebody listens to go on until they have answered.
    pub(crate) fn end_all(&self) {
        let suspended = std::mem::take(&mut *self.lock());
        drop(suspended);
    }

    /// Keeps one; its number.
    pub(crate) fn suspend(&self, suspended: SuspendedCall) -> Option<u64> {
        let mut all = self.lock();
        let mut stale: Vec<_> = all.extract_if(|_, (suspended, _)| suspended.since.elapsed() > INPUT_LIFE).collect();
        let has_room = |all: &HashMap<u64, (SuspendedCall, Counted)>| {
            let of_subject = all.values().filter(|(other, _)| other.subject == suspended.subject).count();
            all.len() < MOST && of_subject < MOST_OF_SUBJECT
        };
        if !has_room(&all) {
            // Clients often do not come back, and their calls run out of time long before they are stale.
            let full = all.len() >= MOST;
            let in_the_way =
                |other: &mut SuspendedCall| (full || other.subject == suspended.subject) && other.is_over();
            stale.extend(all.extract_if(|_, (other, _)| in_the_way(other)));
        }
        if !has_room(&all) {
            return None;
        }
        let mut number = [0; 8];
        aws_lc_rs::rand::fill(&mut number).ok()?;
        let number = u64::from_be_bytes(number);
        all.insert(number, (suspended, Counted::new(&self.gauge)));
        drop(all);
        drop(stale);
        Some(number)
    }

    /// Takes one back, for its own caller.
    pub(crate) fn take(&self, number: u64, subject: &SubjectId) -> Option<SuspendedCall> {
        let mut all = self.lock();
        all.get(&number).filter(|(suspended, _)| suspended.subject == *subject)?;
        all.remove(&number).map(|(suspended, _)| suspended)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<u64, (SuspendedCall, Counted)>> {
        self.suspended.lock()
    }
}

impl SuspendedCall {
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

/// Answers what there is an answer for, and gives back the rest. An answer is an object; anything else is none.
pub(crate) fn answer_all(requests: InputRequests, answers: &Members<'_>) -> InputRequests {
    let mut left = Vec::new();
    for (key, request) in requests {
        match answers.get(&key).filter(|answer| answer.get().starts_with('{')) {
            Some(answer) => request.answer(Ok(answer.get())),
            None => left.push((key, request)),
        }
    }
    left
}

/// The answer to a request is made when it is sent; the request that goes on with it has another id.
pub(crate) fn readdressed(work: Work, before: String, now: String) -> Work {
    Box::pin(async move { work.await.readdressed(&before, &now) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    fn suspended(subject: u8, work: Work) -> SuspendedCall {
        let mailbox = Mailbox::new(ClientCapabilities::ROOTS);
        let subject = SubjectId([subject; 16]);
        let (since, facts) = (Instant::now(), Box::new(Facts::default));
        SuspendedCall { work, mailbox, id: "1".into(), requests: Vec::new(), asked: 0, subject, since, facts }
    }

    fn calls() -> SuspendedCalls {
        SuspendedCalls::new(IntGauge::new("a", "b").unwrap())
    }

    fn never() -> Work {
        Box::pin(std::future::pending())
    }

    #[test]
    fn a_suspended_call_is_there_once_for_its_own_caller_and_there_are_not_too_many() {
        let calls = calls();
        let number = calls.suspend(suspended(1, never())).unwrap();
        assert!(calls.take(number, &SubjectId([2; 16])).is_none());
        assert_eq!(calls.gauge.get(), 1);
        assert!(calls.take(number, &SubjectId([1; 16])).is_some());
        assert_eq!(calls.gauge.get(), 0);
        assert!(calls.take(number, &SubjectId([1; 16])).is_none());
        let kept = |subject, count| (0..count).filter(|_| calls.suspend(suspended(subject, never())).is_some()).count();
        assert_eq!(kept(1, 200), MOST_OF_SUBJECT);
        assert_eq!((2..=20).map(|subject| kept(subject, 100)).sum::<usize>(), 19 * MOST_OF_SUBJECT);
        assert_eq!(calls.gauge.get(), 20 * 16);
        calls.end_all();
        assert_eq!(calls.gauge.get(), 0);
    }

    #[test]
    fn calls_that_are_over_make_room_for_those_of_the_same_caller_that_wait() {
        let calls = calls();
        let done = || -> Work { Box::pin(async { RpcReply::result("1", [Bytes::from_static(b"{}")]) }) };
        let over = calls.suspend(suspended(1, done())).unwrap();
        assert!((1..MOST_OF_SUBJECT).all(|_| calls.suspend(suspended(1, never())).is_some()));
        let number = calls.suspend(suspended(1, never())).unwrap();
        assert!(calls.take(over, &SubjectId([1; 16])).is_none());
        assert!(calls.take(number, &SubjectId([1; 16])).is_some());
    }

    #[tokio::test]
    async fn a_call_goes_on_without_its_request_and_ends_with_whoever_waits_for_it() {
        struct Gone(Arc<AtomicBool>);
        impl Drop for Gone {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (calls, gone) = (calls(), Arc::<AtomicBool>::default());
        let inside = Gone(gone.clone());
        let work = calls.run(
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
        let done = Box::pin(async { RpcReply::result("1", [Bytes::from_static(b"{}")]) });
        let work = readdressed(calls.run(done, "1".into()), "1".into(), "\"b\"".into());
        assert_eq!(work.await.into_bytes(), r#"{"jsonrpc":"2.0","id":"b","result":{}}"#);
        let going = Box::pin(async { RpcReply::result("7", [Bytes::from_static(b"{}")]) });
        let work = calls.run(going, "7".into());
        calls.end_all();
        assert_eq!(work.await.into_bytes(), r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, "somebody listens to it");
    }

    #[tokio::test]
    async fn only_questions_with_an_answer_are_answered() {
        let (first, answer) = ServerRequest::by_us("roots/list", Bytes::new());
        let (second, _) = ServerRequest::by_us("roots/list", Bytes::new());
        let (third, _) = ServerRequest::by_us("roots/list", Bytes::new());
        let requests = vec![("a".to_owned(), first), ("b".to_owned(), second), ("c".to_owned(), third)];
        let answers = Members::read(r#"{"x":{},"b":null,"a":{"roots": []}}"#).unwrap();
        let left: Vec<String> = answer_all(requests, &answers).into_iter().map(|(key, _)| key).collect();
        assert_eq!((left, answer.await), (vec!["b".to_owned(), "c".to_owned()], Ok(Ok(r#"{"roots": []}"#.into()))));
    }
}

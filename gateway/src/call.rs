//! Carries out one call, of a tool or any other request: tries the picked servers in order, within one deadline.
//!
//! Tries another server only if the first provably never received the call, or if the call may be repeated.

pub(crate) mod caller_lists;
pub(crate) mod in_client_session;
pub(crate) mod pick;
mod settle;
mod shown_caller;

use std::future::ready;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::{HeaderMap, HeaderValue};
use portcullis_runtime::serve::Fields;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::auth::Identity;
use crate::call::pick::CandidateState;
use crate::catalog::{Candidate, Entry};
use crate::client_sessions::Client;
use crate::outbound::{Outbound, OutboundError};
use crate::server::concurrency_limit::Permit;
use crate::server::handle::{Handle, HeldPermit, HeldPermits, OpenSession};
use crate::server::loops::passed_before;
use crate::telemetry::metrics::{Metrics, Outcome};
use portcullis_mcp::http1::INSTANCE;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::param_headers::mirror;
use portcullis_mcp::upstream::timing::{Timing, woken};
use portcullis_mcp::upstream::{Call, CallError, CallerMeta, Mailbox, Reply, RpcError, Session};

/// The delay after which callers should retry if no server can be reached.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The same if all servers are busy: an immediate retry would find the same queue.
pub(crate) const RETRY_AFTER_BUSY: Duration = Duration::from_secs(5);

/// Rotates among equal candidates; shared by all calls.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// `tools/call`.
pub(crate) const CALL_TOOL: &str = "tools/call";

/// A request to a server.
pub(crate) struct Request<'a> {
    /// The method; for metrics and the log.
    pub(crate) method: &'static str,
    /// The method itself, where the gateway does not know it.
    pub(crate) custom: Option<&'a str>,
    /// The first member of `params`.
    pub(crate) subject: Subject<'a>,
    /// The other members of `params` except `_meta`, as JSON text that is forwarded byte for byte, in parts that begin
    /// with a comma.
    pub(crate) params: &'a [&'a str],
    /// The arguments among them, some of which may travel as headers.
    pub(crate) arguments: &'a str,
    /// The server that the caller prefers.
    pub(crate) preferred: Option<&'a Handle>,
    /// Header fields of the caller, some of which may be forwarded.
    pub(crate) fields: &'a Fields,
    /// The caller, for servers that keep a session for each client.
    pub(crate) client: Client<'a>,
    /// The bearer of the caller's token.
    pub(crate) identity: &'a Identity,
    /// The query of the caller's request, which may hold its token.
    pub(crate) query: Option<&'a str>,
    /// Makes the credentials of calls to servers that learn who calls.
    pub(crate) outbound: &'a Arc<Outbound>,
    /// The information about the caller that is sent to the server.
    pub(crate) caller: CallerMeta<'a>,
    /// The caller's extensions, of which a server is told those that it has too.
    pub(crate) extensions: &'a Extensions,
    /// Receives the server's messages before the answer, if the caller wants them.
    pub(crate) mailbox: Option<&'a Mailbox>,
    /// The caller can answer a result that asks for input.
    pub(crate) answers_input: bool,
    /// The caller can do with a task instead of a result.
    pub(crate) takes_tasks: bool,
    /// When to wake the task that waits for the answer, even without one.
    pub(crate) looks_up: Option<Instant>,
}

/// The subject of a call.
#[derive(Clone, Copy)]
pub(crate) enum Subject<'a> {
    /// `name`: the name under which the server knows the item.
    Named,
    /// Verbatim: the member as JSON, and the value for a header.
    Given(&'a str, &'a str),
}

/// The end of a call.
pub(crate) struct Called {
    /// The server that answered, or was tried last.
    pub(crate) server: Option<Arc<Handle>>,
    /// The number of servers that received the call or were tried.
    pub(crate) attempts: u32,
    /// The outcome, computed once: detecting a tool's own failure scans the whole result.
    pub(crate) outcome: Outcome,
    /// The answer.
    pub(crate) answer: Result<Reply, Failure>,
    /// The permits that the answer holds until it is written.
    pub(crate) places: HeldPermits,
}

/// The reason a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Servers offer the item, but none can be reached.
    Unavailable,
    /// Every server that offers the item is at its concurrency limit.
    Busy,
    /// The server's state for the client's session is gone.
    SessionLost,
    /// The server has reached the limit for client sessions.
    TooManySessions,
    /// The server cannot be shown who calls: nothing was sent.
    Identity(OutboundError),
    /// The server that received the call gave no usable answer.
    Server(CallError),
}

/// The headers of one call to one server, besides the session's own.
pub(crate) struct CallHeaders {
    passed: HeaderMap,
    authorization: Option<HeaderValue>,
}

/// Carries a call out. Dropping the future cancels it.
pub(crate) async fn call(entry: &Entry, call: &Request<'_>, metrics: &Metrics) -> Called {
    let began = Instant::now();
    let (method, tool) = (call.method, &entry.name);
    let mut guard = Observed { metrics, method, tool, server: None, outcome: Outcome::Cancelled, began };
    let mut called = attempt_all(entry, call, &mut guard).await;
    if settle::is_due(&called, call) {
        called = settle::settle(called, entry, call, (began, metrics)).await;
    }
    guard.outcome = called.outcome;
    called
}

async fn attempt_all<'a>(entry: &'a Entry, call: &Request<'_>, guard: &mut Observed<'a>) -> Called {
    let order = order(entry, call);
    let mut turns = order.iter().copied();
    // Servers without a free permit: after all others were tried, the call waits for the first of them to become free.
    let mut busy: SmallVec<[usize; 4]> = SmallVec::new();
    let (mut attempts, mut was_busy) = (0, false);
    // The first server's limit is the call's: a second attempt gets the remaining time. The clock is read once for
    // each.
    let (mut now, mut until) = (guard.began, None);
    let mut failure = Failure::Unavailable;
    let mut last: Option<&Candidate> = None;
    // An error in an HTTP failure: it is the answer, unless another server has a better one.
    let mut refused: Option<(&Candidate, Reply)> = None;
    guard.server = entry.candidates.first().map(|candidate| &*candidate.server);
    loop {
        if attempts > 0 {
            now = Instant::now();
        }
        if until.is_some_and(|until| until <= now) {
            // Progress may have extended the limit of the first server, but leaves no time for another.
            break;
        }
        let (index, slot) = match turns.next() {
            Some(index) => (index, entry.candidates[index].server.slot()),
            None if busy.is_empty() => break,
            None => {
                was_busy = true;
                // Boxed, so that the future of the usual call does not include it.
                let Some((index, slot)) = Box::pin(first_free(entry, &mem::take(&mut busy), call)).await else { break };
                // The clock of a call starts when it has its permit.
                let begins = Instant::now();
                until = until.map(|until: Instant| until + (begins - now));
                now = begins;
                (index, Some(slot))
            }
        };
        let candidate = &entry.candidates[index];
        let previous = last.replace(candidate).filter(|previous| !std::ptr::eq(*previous, candidate));
        previous.into_iter().for_each(|previous| previous.server.series.failovers.inc());
        guard.server = Some(&candidate.server);
        attempts += 1;
        let Some(slot) = slot else {
            busy.push(index);
            continue;
        };
        let silence = candidate.server.silence();
        let until = *until.get_or_insert(now + silence);
        let silence = silence.min(until.saturating_duration_since(now));
        match attempt(candidate, call, slot, (now, silence)).await {
            Ok((reply, place)) => {
                candidate.server.succeeded();
                if turns.len() > 0 && may_be_tried_elsewhere(&reply, candidate.item.repeatable) {
                    refused = Some((candidate, reply));
                    continue;
                }
                let mut called = called(last, attempts.min(order.len()), Ok(reply));
                called.places.push(place);
                return called;
            }
            Err(Failure::Server(error)) => {
                note(candidate, &error);
                let again = error.is_harmless() || (candidate.item.repeatable && error != CallError::Timeout);
                failure = worth_telling(failure, error);
                if !again {
                    break;
                }
            }
            Err(refused @ (Failure::SessionLost | Failure::TooManySessions)) => {
                failure = refused;
                break;
            }
            Err(Failure::Identity(error)) => failure = Failure::Identity(error),
            Err(Failure::Busy | Failure::Unavailable) => {}
        }
    }
    let (last, answer) = match refused {
        Some((candidate, reply)) => (Some(candidate), Ok(reply)),
        None => (last, Err(summed_up(failure, was_busy || !busy.is_empty()))),
    };
    called(last, attempts.min(order.len()), answer)
}

/// Records an error that is about the server.
fn note(candidate: &Candidate, error: &CallError) {
    if let CallError::Later { after, .. } = error {
        candidate.server.leave_alone(*after);
    } else if error.lies_with_the_server() {
        candidate.server.failed();
    }
}

/// The failure of a call that no server has answered. Busy says more than unreachable.
fn summed_up(failure: Failure, was_busy: bool) -> Failure {
    let unreachable = matches!(
        failure,
        Failure::Unavailable
            | Failure::Server(CallError::NotSent(_) | CallError::Blocked(_) | CallError::SessionExpired)
    );
    match (unreachable, was_busy) {
        (true, true) => Failure::Busy,
        (true, false) => Failure::Unavailable,
        (false, _) => failure,
    }
}

/// Whether to try another server after an error in an HTTP failure.
fn may_be_tried_elsewhere(reply: &Reply, repeatable: bool) -> bool {
    match reply {
        Reply::Error(RpcError { status: Some(401 | 403 | 429), .. }) => true,
        Reply::Error(RpcError { status: Some(500..), .. }) => repeatable,
        _ => false,
    }
}

/// Of two servers that refuse a call for now, reports the one that accepts it sooner; either says more than an
/// unreachable one.
fn worth_telling(before: Failure, error: CallError) -> Failure {
    match (&before, &error) {
        (Failure::Server(CallError::Later { after: first, .. }), CallError::Later { after: second, .. })
            if first <= second =>
        {
            before
        }
        (
            Failure::Server(CallError::Later { .. }),
            CallError::NotSent(_) | CallError::Blocked(_) | CallError::SessionExpired,
        ) => before,
        _ => Failure::Server(error),
    }
}

fn called(last: Option<&Candidate>, attempts: usize, answer: Result<Reply, Failure>) -> Called {
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    let outcome = outcome(&answer);
    let server = last.map(|candidate| candidate.server.clone());
    Called { server, attempts, outcome, answer, places: HeldPermits::new() }
}

fn order(entry: &Entry, call: &Request<'_>) -> SmallVec<[usize; 4]> {
    let preferred = call.preferred;
    if let [only] = entry.candidates.as_slice() {
        let chosen = only.server.is_usable() && (only.server.weighs() || is_same(preferred, &only.server));
        return if chosen { smallvec::smallvec![0] } else { SmallVec::new() };
    }
    // A client's own session holds its state.
    let own = |candidate: &Candidate| candidate.server.clients().is_some_and(|clients| clients.has(&call.client.key()));
    if let Some(index) = entry.candidates.iter().position(own) {
        let usable = entry.candidates[index].server.is_usable();
        return if usable { smallvec::smallvec![index] } else { SmallVec::new() };
    }
    if entry.in_order {
        let usable = |candidate: &Candidate| candidate.server.is_usable() && candidate.server.weighs();
        let priority = |index: &usize| entry.candidates[*index].server.spec().priority;
        let all = 0..entry.candidates.len();
        return all.filter(|index| usable(&entry.candidates[*index])).min_by_key(priority).into_iter().collect();
    }
    let views: SmallVec<[CandidateState; 8]> =
        entry.candidates.iter().map(|candidate| view(candidate, preferred)).collect();
    pick::order(&views, TURN.fetch_add(1, Ordering::Relaxed))
}

fn view(candidate: &Candidate, preferred: Option<&Handle>) -> CandidateState {
    let server = &candidate.server;
    let spec = server.spec();
    CandidateState {
        priority: spec.priority,
        weight: spec.weight,
        outstanding: server.outstanding(),
        usable: server.is_usable(),
        ejected: server.is_ejected() || server.is_degraded(),
        preferred: is_same(preferred, server),
    }
}

fn is_same(preferred: Option<&Handle>, server: &Handle) -> bool {
    preferred.is_some_and(|preferred| preferred.key == server.key)
}

/// A permit of the first of these servers that becomes free.
async fn first_free<'a>(entry: &'a Entry, busy: &[usize], call: &Request<'_>) -> Option<(usize, Permit<'a>)> {
    let (caller, now) = (call.client.key().subject.number(), Instant::now());
    let waits = busy.iter().map(|index| async move {
        let server = &entry.candidates[*index].server;
        Some((*index, server.wait_for_slot(caller, now + server.patience()).await?))
    });
    let mut waits: FuturesUnordered<_> = waits.collect();
    let first = async { (&mut waits).filter_map(ready).next().await };
    woken(first, call.looks_up).await
}

/// Sends the call to one server, under its permit; if the server has forgotten the session, reopens it once.
async fn attempt(
    candidate: &Candidate,
    call: &Request<'_>,
    slot: Permit<'_>,
    (began, silence): (Instant, Duration),
) -> Result<(Reply, HeldPermit), Failure> {
    let server = &candidate.server;
    let spec = server.spec();
    let Some(live) = server.live() else { return Err(Failure::Server(CallError::NotSent("it has no session"))) };
    let mut headers = forwarded(&spec.forward_headers, call.fields);
    if let Some(passed) = call.fields.get(INSTANCE.as_str()).and_then(passed_before) {
        headers.insert(INSTANCE, passed);
    }
    if !candidate.item.params.is_empty() {
        mirror(&candidate.item.params, call.arguments, &mut headers);
    }
    let authorization = match spec.identity {
        None => None,
        Some(_) => shown_caller::credential(candidate, call, (began, silence)).await?,
    };
    let mut headers = CallHeaders { passed: headers, authorization };
    if let Some(forward) = &spec.forward_caller_token {
        shown_caller::forward(forward, call, &mut headers)?;
    }
    let timing = Arc::new(Timing::since(began, silence).waking(call.looks_up));
    if let Some(clients) = server.clients()
        && !live.session.is_modern()
    {
        // Boxed, so that the future of the usual call does not include it.
        let reply = Box::pin(in_client_session::attempt(clients, candidate, call, &headers, &timing)).await?;
        return Ok((reply, HeldPermit::of(server, slot)));
    }
    let answer = match send(&live.session, candidate, call, &headers, &timing).await {
        Err(CallError::SessionExpired) => Box::pin(send_anew(&live, candidate, call, &headers, &timing)).await,
        answer => answer,
    };
    Ok((answer.map_err(Failure::Server)?, HeldPermit::of(server, slot)))
}

/// Sends a call once more, in the session that follows a forgotten one.
async fn send_anew(
    old: &OpenSession,
    candidate: &Candidate,
    call: &Request<'_>,
    headers: &CallHeaders,
    timing: &Arc<Timing>,
) -> Result<Reply, CallError> {
    let step = Duration::from_secs(candidate.server.spec().timeouts.connect_seconds.into());
    let heal_by = timing.deadline().min(Instant::now() + 2 * step);
    match candidate.server.newer_than(old.number, heal_by).await {
        Some(live) => send(&live.session, candidate, call, headers, timing).await,
        None => Err(CallError::SessionExpired),
    }
}

/// Sends the call in one session.
///
/// # Errors
/// The reason there is no answer to forward.
pub(crate) async fn send(
    session: &Session,
    candidate: &Candidate,
    call: &Request<'_>,
    headers: &CallHeaders,
    timing: &Arc<Timing>,
) -> Result<Reply, CallError> {
    let tool = &candidate.item;
    let (first, name): ([&str; 2], &str) = match call.subject {
        Subject::Named => ([r#""name":"#, &tool.own_name_json], &tool.own_name),
        Subject::Given(member, value) => ([member, ""], value),
    };
    let params: SmallVec<[&str; 8]> = first.into_iter().chain(call.params.iter().copied()).collect();
    let Request { method, mut caller, mailbox, .. } = *call;
    let capabilities = session.told_of(call.extensions, caller.capabilities);
    if let Some(capabilities) = &capabilities {
        caller.capabilities = capabilities;
    }
    let progress = method == CALL_TOOL || mailbox.is_some();
    let request = Call {
        method: call.custom.unwrap_or(method),
        params: &params,
        name: Some(name).filter(|name| !name.is_empty()),
        headers: &headers.passed,
        authorization: headers.authorization.as_ref(),
        is_own: false,
        progress,
        repeatable: tool.repeatable,
        caller,
        mailbox,
    };
    let reply = session.call(&request, timing).await?;
    match &reply {
        Reply::Result(result) if !call.answers_input && result.says.asks_for_input => {
            Err(CallError::Unfit("it asks the caller for input, which this session does not support"))
        }
        _ => Ok(reply),
    }
}

fn forwarded(names: &[String], fields: &Fields) -> HeaderMap {
    let mut chosen = HeaderMap::new();
    for name in names {
        if let Some(value) = fields.get(name)
            && let Ok(value) = http::HeaderValue::from_bytes(value)
            && let Ok(name) = http::HeaderName::from_bytes(name.as_bytes())
        {
            chosen.insert(name, value);
        }
    }
    chosen
}

/// The outcome as a metric label.
fn outcome(answer: &Result<Reply, Failure>) -> Outcome {
    match answer {
        Ok(Reply::Result(result)) if result.says.is_error => Outcome::ToolError,
        Ok(Reply::Result(_)) => Outcome::Ok,
        Ok(Reply::Error(RpcError { .. })) => Outcome::RpcError,
        Err(Failure::Unavailable | Failure::SessionLost | Failure::Identity(_)) => Outcome::Unavailable,
        Err(Failure::Busy | Failure::TooManySessions) => Outcome::Busy,
        Err(Failure::Server(CallError::Timeout)) => Outcome::Timeout,
        Err(Failure::Server(CallError::NotSent(_) | CallError::Blocked(_) | CallError::SessionExpired)) => {
            Outcome::Unavailable
        }
        Err(Failure::Server(_)) => Outcome::BadAnswer,
    }
}

/// Counts a call however it ends, even if its caller leaves.
struct Observed<'a> {
    metrics: &'a Metrics,
    method: &'static str,
    tool: &'a Arc<str>,
    server: Option<&'a Handle>,
    outcome: Outcome,
    began: Instant,
}

impl Drop for Observed<'_> {
    fn drop(&mut self) {
        let Some(server) = self.server.filter(|server| !server.is_retired()) else { return };
        let seconds = self.began.elapsed().as_secs_f64();
        if self.method != CALL_TOOL {
            let labels = [server.name.as_str(), self.method, self.outcome.as_str()];
            self.metrics.request_duration.own().with_label_values(&labels).observe(seconds);
            return;
        }
        if self.outcome == Outcome::Ok {
            server.series.ok.observe(seconds);
        } else {
            let labels = [server.name.as_str(), self.outcome.as_str()];
            self.metrics.call_duration.own().with_label_values(&labels).observe(seconds);
        }
        server.series.calls.count(self.tool, self.outcome, |name| server.offers_tool(name));
    }
}

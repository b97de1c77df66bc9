//! Carries one call out, of a tool or of whatever else servers do: tries the picked servers in order, within one deadline.
//!
//! Another server is tried only if the first provably never got the call, or if it may be made twice.

use std::future::ready;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use http::HeaderMap;
use portcullis_runtime::serve::Fields;
use smallvec::SmallVec;
use tokio::time::Instant;

use crate::catalog::{Candidate, Entry};
use crate::clients::{self, Client};
use crate::handle::{Handle, Live, Place, Places};
use crate::limit::Slot;
use crate::loops::{INSTANCE, passed_before};
use crate::metrics::{Metrics, Outcome};
use crate::pick::{self, View};
use crate::upstream::params::mirror;
use crate::upstream::timing::{Timing, woken};
use crate::upstream::{Call, CallError, Caller, Mailbox, Reply, RpcError, Session};

/// What callers are told to wait when no server can be reached.
pub const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The same when all servers are busy: whoever comes back at once finds the same queue.
pub const RETRY_AFTER_BUSY: Duration = Duration::from_secs(5);

/// Spreads equal candidates; shared by all calls.
static TURN: AtomicUsize = AtomicUsize::new(0);

/// `tools/call`.
pub const CALL_TOOL: &str = "tools/call";

/// What is asked of a server.
pub struct Request<'a> {
    /// The method.
    pub method: &'static str,
    /// The first member of `params`.
    pub subject: Subject<'a>,
    /// The other members of `params` but for `_meta`, as JSON text that is passed on byte for byte, in parts that begin
    /// with a comma.
    pub params: &'a [&'a str],
    /// The arguments among them, where some may travel as headers.
    pub arguments: &'a str,
    /// The server the caller prefers.
    pub preferred: Option<&'a Handle>,
    /// Header fields of the caller, of which a server may get some.
    pub fields: &'a Fields,
    /// Who it is, where servers have a session for each.
    pub client: Client<'a>,
    /// What a server is told of the caller.
    pub caller: Caller<'a>,
    /// Where what comes before the answer goes, if anybody wants it.
    pub mailbox: Option<&'a Mailbox>,
    /// The caller can answer a result that asks for input.
    pub answers_input: bool,
    /// When whoever waits for the answer looks up, though there is none.
    pub looks_up: Option<Instant>,
}

/// What a call is about.
#[derive(Clone, Copy)]
pub enum Subject<'a> {
    /// `name`: that by which the server knows it.
    Named,
    /// As it is: the member as JSON, and the value that goes into a header.
    Given(&'a str, &'a str),
}

/// How a call ended.
pub struct Called {
    /// The server that answered, or was tried last.
    pub server: Option<Arc<Handle>>,
    /// How many servers got it, or were meant to.
    pub attempts: u32,
    /// What happened, told once: finding a tool's own failure takes a look through the whole result.
    pub outcome: Outcome,
    /// The answer.
    pub answer: Result<Reply, Failure>,
    /// The place at the server that its answer keeps until it is written.
    pub places: Places,
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Servers offer it, but none can be reached.
    Unavailable,
    /// All servers that offer it have as many calls as they may.
    Busy,
    /// What the server kept for the client's session is gone.
    SessionLost,
    /// There are as many sessions of clients with the server as there may be.
    TooManySessions,
    /// The server that got it gave no usable answer.
    Server(CallError),
}

/// Carries a call out. Dropping the future cancels it.
pub async fn call(entry: &Entry, call: &Request<'_>, metrics: &Metrics) -> Called {
    let began = Instant::now();
    let (method, tool) = (call.method, &entry.name);
    let mut guard = Observed { metrics, method, tool, server: None, outcome: Outcome::Cancelled, began };
    let called = attempt_all(entry, call, &mut guard).await;
    guard.outcome = called.outcome;
    called
}

async fn attempt_all<'a>(entry: &'a Entry, call: &Request<'_>, guard: &mut Observed<'a>) -> Called {
    let order = order(entry, call);
    let mut turns = order.iter().copied();
    // Those without a free place: waited for when all others have had their turn, whoever is free first.
    let mut busy: SmallVec<[usize; 4]> = SmallVec::new();
    let (mut attempts, mut was_busy) = (0, false);
    // The first server's limit is the call's: a second attempt gets what is left of it. The clock is read once for each.
    let (mut now, mut until) = (guard.began, None);
    let mut failure = Failure::Unavailable;
    let mut last: Option<&Candidate> = None;
    // An error that came as an HTTP failure: it is the answer, unless another server has a better one.
    let mut refused: Option<(&Candidate, Reply)> = None;
    guard.server = entry.candidates.first().map(|candidate| &*candidate.server);
    loop {
        if attempts > 0 {
            now = Instant::now();
        }
        if until.is_some_and(|until| until <= now) {
            // Progress may have moved the limit of the first server, but leaves nothing for another.
            break;
        }
        let (index, slot) = match turns.next() {
            Some(index) => (index, entry.candidates[index].server.slot()),
            None if busy.is_empty() => break,
            None => {
                was_busy = true;
                // In a box, so that the usual call does not carry the room for it.
                let Some((index, slot)) = Box::pin(first_free(entry, &mem::take(&mut busy), call)).await else { break };
                // The time of a call begins when it has its place.
                let begins = Instant::now();
                until = until.map(|until: Instant| until + (begins - now));
                now = begins;
                (index, Some(slot))
            }
        };
        let candidate = &entry.candidates[index];
        if let Some(previous) = last.replace(candidate)
            && !std::ptr::eq(previous, candidate)
        {
            previous.server.series.failovers.inc();
        }
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
                if let CallError::Later { after, .. } = error {
                    candidate.server.leave_alone(after);
                } else if error.lies_with_the_server() {
                    candidate.server.failed();
                }
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
            Err(Failure::Busy | Failure::Unavailable) => {}
        }
    }
    if let Some((candidate, reply)) = refused {
        return called(Some(candidate), attempts.min(order.len()), Ok(reply));
    }
    let unreachable = matches!(
        failure,
        Failure::Unavailable
            | Failure::Server(CallError::NotSent(_) | CallError::Blocked(_) | CallError::SessionExpired)
    );
    // Busy says more than a server that could not be reached.
    match (unreachable, was_busy || !busy.is_empty()) {
        (true, true) => failure = Failure::Busy,
        (true, false) => failure = Failure::Unavailable,
        (false, _) => {}
    }
    called(last, attempts.min(order.len()), Err(failure))
}

/// Whether another server may do what this one has answered with an error in an HTTP failure.
fn may_be_tried_elsewhere(reply: &Reply, repeatable: bool) -> bool {
    match reply {
        Reply::Error(RpcError { status: Some(401 | 403 | 429), .. }) => true,
        Reply::Error(RpcError { status: Some(500..), .. }) => repeatable,
        _ => false,
    }
}

/// Of two servers that refuse a call for now, the one that takes it first; it says more than one that is away.
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
    Called { server, attempts, outcome, answer, places: Places::new() }
}

fn order(entry: &Entry, call: &Request<'_>) -> SmallVec<[usize; 4]> {
    let preferred = call.preferred;
    if let [only] = entry.candidates.as_slice() {
        let chosen = only.server.is_usable() && (only.server.weighs() || is_same(preferred, &only.server));
        return if chosen { smallvec::smallvec![0] } else { SmallVec::new() };
    }
    // Where a client has a session of its own lies what it keeps there.
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
    let views: SmallVec<[View; 8]> = entry.candidates.iter().map(|candidate| view(candidate, preferred)).collect();
    pick::order(&views, TURN.fetch_add(1, Ordering::Relaxed))
}

fn view(candidate: &Candidate, preferred: Option<&Handle>) -> View {
    let server = &candidate.server;
    let spec = server.spec();
    View {
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

/// A place at one of these servers, the first that is free.
async fn first_free<'a>(entry: &'a Entry, busy: &[usize], call: &Request<'_>) -> Option<(usize, Slot<'a>)> {
    let (caller, now) = (call.client.key().subject.number(), Instant::now());
    let waits = busy.iter().map(|index| async move {
        let server = &entry.candidates[*index].server;
        Some((*index, server.wait_for_slot(caller, now + server.patience()).await?))
    });
    let mut waits: FuturesUnordered<_> = waits.collect();
    let first = async { (&mut waits).filter_map(ready).next().await };
    woken(first, call.looks_up).await
}

/// One server, where the call has a place: sends the call, and once opens the session anew where the server has forgotten it.
async fn attempt(
    candidate: &Candidate,
    call: &Request<'_>,
    slot: Slot<'_>,
    (began, silence): (Instant, Duration),
) -> Result<(Reply, Place), Failure> {
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
    let timing = Arc::new(Timing::since(began, silence).waking(call.looks_up));
    if let Some(clients) = server.clients()
        && !live.session.is_modern()
    {
        // In a box, so that the usual call does not carry the room for it.
        let reply = Box::pin(clients::attempt(clients, candidate, call, &headers, &timing)).await?;
        return Ok((reply, Place::of(server, slot)));
    }
    let answer = match send(&live.session, candidate, call, &headers, &timing).await {
        Err(CallError::SessionExpired) => Box::pin(send_anew(&live, candidate, call, &headers, &timing)).await,
        answer => answer,
    };
    Ok((answer.map_err(Failure::Server)?, Place::of(server, slot)))
}

/// Sends a call once more, in the session that follows one which the server has forgotten.
async fn send_anew(
    old: &Live,
    candidate: &Candidate,
    call: &Request<'_>,
    headers: &HeaderMap,
    timing: &Arc<Timing>,
) -> Result<Reply, CallError> {
    let step = Duration::from_secs(candidate.server.spec().timeouts.connect_seconds.into());
    let heal_by = timing.deadline().min(Instant::now() + 2 * step);
    match candidate.server.newer_than(old.number, heal_by).await {
        Some(live) => send(&live.session, candidate, call, headers, timing).await,
        None => Err(CallError::SessionExpired),
    }
}

/// Sends it in one session.
///
/// # Errors
/// Why there is no answer that can be passed on.
pub(crate) async fn send(
    session: &Session,
    candidate: &Candidate,
    call: &Request<'_>,
    headers: &HeaderMap,
    timing: &Arc<Timing>,
) -> Result<Reply, CallError> {
    let tool = &candidate.item;
    let (first, name): ([&str; 2], &str) = match call.subject {
        Subject::Named => ([r#""name":"#, &tool.own_name_json], &tool.own_name),
        Subject::Given(member, value) => ([member, ""], value),
    };
    let params: SmallVec<[&str; 8]> = first.into_iter().chain(call.params.iter().copied()).collect();
    let Request { method, caller, mailbox, .. } = *call;
    let progress = method == CALL_TOOL || mailbox.is_some();
    let request = Call {
        method,
        params: &params,
        name: Some(name).filter(|name| !name.is_empty()),
        headers,
        progress,
        repeatable: tool.repeatable,
        caller,
        mailbox,
    };
    let reply = session.call(&request, timing).await?;
    match &reply {
        Reply::Result(result) if !call.answers_input && result.says.asks_for_input => {
            Err(CallError::Unfit("it asks the caller for input, which this session does not offer"))
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

/// What happened, as a metric label.
fn outcome(answer: &Result<Reply, Failure>) -> Outcome {
    match answer {
        Ok(Reply::Result(result)) if result.says.is_error => Outcome::ToolError,
        Ok(Reply::Result(_)) => Outcome::Ok,
        Ok(Reply::Error(RpcError { .. })) => Outcome::RpcError,
        Err(Failure::Unavailable | Failure::SessionLost) => Outcome::Unavailable,
        Err(Failure::Busy | Failure::TooManySessions) => Outcome::Busy,
        Err(Failure::Server(CallError::Timeout)) => Outcome::Timeout,
        Err(Failure::Server(CallError::NotSent(_) | CallError::Blocked(_) | CallError::SessionExpired)) => {
            Outcome::Unavailable
        }
        Err(Failure::Server(_)) => Outcome::BadAnswer,
    }
}

/// Counts a call however it ends, also when its caller goes away.
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

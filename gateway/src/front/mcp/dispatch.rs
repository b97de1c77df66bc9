//! Answers one message of a client: [`classify`] tells its kind, and one `match` answers each kind.
//!
//! It waits for nothing, so that the message stays on the stack: an answer that has to wait comes back as [`Next`].

use std::borrow::Cow;
use std::ops::Range;
use std::pin::Pin;

use axum::response::{IntoResponse as _, Response};
use bytestring::ByteString;
use http::{HeaderValue, Method, StatusCode};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::revision::Revision;
use portcullis_mcp::upstream::CallError;

use crate::front::http::access_log::short;
use crate::front::http::error::ApiError;
use crate::front::mcp::call_plan::{self, CUSTOM, CallPlan, place};
use crate::front::mcp::call_target::check_returning;
use crate::front::mcp::caller::Caller;
use crate::front::mcp::forward::{self, Forwarded};
use crate::front::mcp::messages::classify::{LegacyMethod, MessageKind, ModernMethod, classify, method_of};
use crate::front::mcp::messages::headers::{McpHeaders, SESSION};
use crate::front::mcp::messages::message::{self, BadMessage, Incoming, MessageBody, Space};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::RpcReply;
use crate::front::mcp::messages::request::{DEFAULT_REVISION, Params, SESSIONLESS_REVISION, check_modern};
use crate::front::mcp::refusal::{McpRefusal, note_refusal, refused};
use crate::front::mcp::session_of::Requester;
use crate::front::mcp::stream::Presentation;
use crate::front::mcp::{answers, client_notifications, custom, listen, resume, tasks};
use crate::front::request::observe::{Recorder, record};
use crate::seal::RequestState;

/// The next step for a body that has been read.
pub(crate) enum Next {
    /// A server answers.
    Call(CallPlan),
    /// Its messages are answered together.
    Batch(Box<Batch>),
    /// It needs what servers list for its sender alone: to be dispatched again with that.
    Incomplete(Box<Requester>),
    /// It is answered.
    Answered(Response),
    /// Somebody else may have to be asked. In a box, so that the usual call does not carry the room for it.
    Later(Pin<Box<dyn Future<Output = Result<Response, McpRefusal>> + Send>>),
}

/// Several messages of one body.
pub(crate) struct Batch {
    /// Their sender.
    pub(crate) caller: Caller,
    /// Their places in the body.
    pub(crate) messages: Vec<Range<usize>>,
    /// The revision that the caller speaks.
    pub(crate) revision: Revision,
}

impl Next {
    fn later(answer: impl Future<Output = Result<Response, McpRefusal>> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// Another replica was asked, and may have carried the request out.
pub(super) const LOST: RpcProblem = RpcProblem::Server(CallError::Lost);

/// Answers a body, or says how it is answered.
///
/// # Errors
/// Why it is not.
pub(crate) fn dispatch(requester: Requester, recorder: &Recorder, body: &ByteString) -> Result<Next, McpRefusal> {
    let headers = McpHeaders::of(&recorder.head().fields);
    if !headers.takes_json && !headers.takes_streams {
        return Err(ApiError::Accept.into());
    }
    let mut space = Space::default();
    let read = message::read(body, &mut space);
    note_message(recorder, body, &read);
    let (kind, params) = classify(read, &space, headers.version)
        .map_err(|(id, problem)| refused(id.as_deref(), &problem, DEFAULT_REVISION))?;
    if requester.is_to_complete(recorder.app(), &kind, &params) {
        return Ok(Next::Incomplete(Box::new(requester)));
    }
    let caller = |requester: Requester, session| requester.caller(recorder, (session, headers.takes_streams));
    let session = |requester: &Requester, id: Option<&str>| requester.session(recorder.app(), &headers, id);
    match kind {
        MessageKind::Modern(request, method) => {
            let (capabilities, extensions) = check_modern(&request, &params, &headers).map_err(|problem| {
                note_refusal(recorder, &problem);
                refused(Some(request.id), &problem, SESSIONLESS_REVISION)
            })?;
            let caller = Caller { extensions, is_modern: true, ..caller(requester, None) };
            modern(caller, (&request, method), &params, body, capabilities)
        }
        MessageKind::Legacy(request, LegacyMethod::Initialize) => {
            initialize(&caller(requester, None), &request, &params).map(Next::Answered)
        }
        MessageKind::Legacy(request, method) => {
            let (session, revision) = session(&requester, Some(request.id))?;
            legacy(caller(requester, session), (&request, method), &params, body, revision)
        }
        MessageKind::SessionlessNotification => Ok(Next::Answered(accepted())),
        MessageKind::Notification(method) => {
            let (session, _) = session(&requester, None)?;
            Ok(notification(caller(requester, session), &method, &params, body))
        }
        MessageKind::Response(id, answer) => {
            let (session, _) = session(&requester, None)?;
            Ok(response(caller(requester, session), id, answer, body))
        }
        MessageKind::Batch(all) => {
            let (session, revision) = session(&requester, None)?;
            let messages = all.into_iter().map(|one| place(one, body)).collect();
            Ok(Next::Batch(Box::new(Batch { caller: caller(requester, session), messages, revision })))
        }
    }
}

fn modern(
    caller: Caller,
    (request, method): (&message::RpcRequest<'_>, ModernMethod),
    params: &Params<'_, '_>,
    body: &ByteString,
    capabilities: ClientCapabilities,
) -> Result<Next, McpRefusal> {
    let reply = match method {
        ModernMethod::Call(method) => {
            if let Some((digest, presentation)) = call_plan::returning(&caller, method, params)
                && let Some(state) = resume::state_of(&caller, params, &digest)
            {
                let may = check_returning(&caller, method, params);
                may.map_err(|problem| noted(&caller, request, &problem))?;
                return resumed(caller, request, params, body, (state, presentation));
            }
            return call(caller, (request, method), params, body, (SESSIONLESS_REVISION, capabilities));
        }
        ModernMethod::Task(method) => match tasks::check(&caller, method) {
            Ok(()) => return call(caller, (request, method), params, body, (SESSIONLESS_REVISION, capabilities)),
            Err(problem) => Err(problem),
        },
        ModernMethod::Discover => Ok(answers::discover(&caller, request).into_response()),
        ModernMethod::Listen => listen::subscribed(&caller, request, params),
        ModernMethod::List(kind) => {
            answers::list(&caller, request, params, kind, SESSIONLESS_REVISION).map(RpcReply::into_response)
        }
        ModernMethod::Skills => {
            answers::skills(&caller, request, params, SESSIONLESS_REVISION).map(RpcReply::into_response)
        }
        ModernMethod::Unknown => match custom::check(&caller, &request.method) {
            Ok(()) => return call(caller, (request, CUSTOM), params, body, (SESSIONLESS_REVISION, capabilities)),
            Err(problem) => Err(problem),
        },
    };
    reply.map(Next::Answered).map_err(|problem| noted(&caller, request, &problem))
}

fn noted(caller: &Caller, request: &message::RpcRequest<'_>, problem: &RpcProblem) -> McpRefusal {
    note_refusal(&caller.recorder, problem);
    refused(Some(request.id), problem, SESSIONLESS_REVISION)
}

fn initialize(
    caller: &Caller,
    request: &message::RpcRequest<'_>,
    params: &Params<'_, '_>,
) -> Result<Response, McpRefusal> {
    let begun = answers::initialize(caller, request, params);
    let (reply, session) = begun.map_err(|problem| refused(Some(request.id), &problem, DEFAULT_REVISION))?;
    let mut response = reply.into_response();
    if let Ok(id) = HeaderValue::from_str(&session.seal(&caller.app().sealer)) {
        response.headers_mut().insert(SESSION, id);
    }
    Ok(response)
}

fn legacy(
    caller: Caller,
    (request, method): (&message::RpcRequest<'_>, LegacyMethod),
    params: &Params<'_, '_>,
    body: &ByteString,
    revision: Revision,
) -> Result<Next, McpRefusal> {
    if let LegacyMethod::Call(method) = method {
        let able = caller.session.as_ref().filter(|_| caller.takes_streams).map(|session| session.capabilities);
        return call(caller, (request, method), params, body, (revision, able.unwrap_or_default()));
    }
    if method == LegacyMethod::Unknown && custom::check(&caller, &request.method).is_ok() {
        let able = caller.session.as_ref().filter(|_| caller.takes_streams).map(|session| session.capabilities);
        return call(caller, (request, CUSTOM), params, body, (revision, able.unwrap_or_default()));
    }
    if method.is_for_owner() && forward::is_of_another(&caller) {
        return Ok(Next::later(answer_as_owner(caller, method, body.clone(), revision)));
    }
    let reply = answer_from_memory(&caller, (request, method), params, revision);
    if method.is_for_owner() {
        return Ok(Next::later(remembered(caller, method, reply)));
    }
    Ok(Next::Answered(reply.into_response()))
}

fn call(
    caller: Caller,
    request: (&message::RpcRequest<'_>, &'static str),
    params: &Params<'_, '_>,
    body: &ByteString,
    speaks: (Revision, ClientCapabilities),
) -> Result<Next, McpRefusal> {
    let planned = call_plan::plan(caller, body, request, params, speaks);
    planned.map(Next::Call).map_err(|problem| refused(Some(request.0.id), &problem, speaks.0))
}

/// The answer to a request before 2026-07-28 that no server is asked for.
pub(super) fn answer_from_memory(
    caller: &Caller,
    (request, method): (&message::RpcRequest<'_>, LegacyMethod),
    params: &Params<'_, '_>,
    revision: Revision,
) -> RpcReply {
    let reply = match method {
        LegacyMethod::Ping => Ok(answers::nothing(request, revision)),
        LegacyMethod::SetLevel => answers::set_level(caller, request, params),
        LegacyMethod::Subscribe => answers::subscribe(caller, request, params),
        LegacyMethod::Unsubscribe => answers::unsubscribe(caller, request, params),
        LegacyMethod::List(kind) => answers::list(caller, request, params, kind, revision),
        LegacyMethod::Skills => answers::skills(caller, request, params, revision),
        LegacyMethod::Call(_) | LegacyMethod::Initialize => Err(RpcProblem::method(&request.method)),
        LegacyMethod::Unknown => {
            // What is passed on is so where the message is read.
            Err(custom::check(caller, &request.method).err().unwrap_or_else(|| RpcProblem::method(&request.method)))
        }
    };
    reply.unwrap_or_else(|problem| {
        note_refusal(&caller.recorder, &problem);
        RpcReply::error(Some(request.id), &problem, revision)
    })
}

// === notifications and responses ===

fn notification(caller: Caller, method: &str, params: &Params<'_, '_>, body: &ByteString) -> Next {
    if take_notification(&caller, method, params) {
        return Next::Answered(accepted());
    }
    let body = body.as_bytes().clone();
    Next::later(async move { Ok(forward::answer_of_owner(&caller, Method::POST, body).await.unwrap_or_else(accepted)) })
}

/// Carries a notification out; false if this replica has nothing to do for it.
pub(super) fn take_notification(caller: &Caller, method: &str, params: &Params<'_, '_>) -> bool {
    if method == "notifications/roots/list_changed" {
        client_notifications::roots_changed(caller);
    }
    let Some(session) = &caller.session else { return false };
    if method == "notifications/cancelled"
        && let Some(id) = params.get("requestId")
    {
        return caller.app().mcp.sessions.cancel(session.id, id.get());
    }
    false
}

fn response(caller: Caller, id: &str, answer: message::ClientAnswer<'_>, body: &ByteString) -> Next {
    let elsewhere =
        if take_response(&caller, id, answer) { None } else { caller.app().mcp.server_requests.place_of(id) };
    let body = body.as_bytes().clone();
    Next::later(async move {
        let forwarded =
            forward::forward_to(&caller, elsewhere.as_deref(), Method::POST, body, forward::MEMORY_ANSWER_LIMIT);
        Ok(match forwarded.await {
            Forwarded::Answered(response) => *response,
            Forwarded::Here | Forwarded::Unreachable | Forwarded::Lost => accepted(),
        })
    })
}

/// Passes on the response of a client to a request of a server; false if no such request is open here.
pub(super) fn take_response(caller: &Caller, id: &str, answer: message::ClientAnswer<'_>) -> bool {
    let Some(session) = &caller.session else { return false };
    let answer = match answer {
        message::ClientAnswer::Result(result) => Ok(result.get()),
        message::ClientAnswer::Error(error) => Err(error.get()),
    };
    caller.app().mcp.server_requests.answer(&session.id, id, answer)
}

// === answers of other replicas ===

/// Goes on with a call that waits, at the replica where it does.
fn resumed(
    caller: Caller,
    request: &message::RpcRequest<'_>,
    params: &Params<'_, '_>,
    body: &ByteString,
    (state, presentation): (RequestState, Presentation),
) -> Result<Next, McpRefusal> {
    if state.owner.as_deref().is_some_and(|owner| forward::is_elsewhere(&caller, owner)) {
        return Ok(Next::later(resume_at_owner(caller, body.clone(), (state, presentation))));
    }
    match resume::resume(&caller, request.id, params, presentation, state) {
        Ok(answer) => Ok(Next::later(async move { Ok(answer.await) })),
        Err(problem) => Err(noted(&caller, request, &problem)),
    }
}

async fn resume_at_owner(
    caller: Caller,
    body: ByteString,
    (state, presentation): (RequestState, Presentation),
) -> Result<Response, McpRefusal> {
    let owner = state.owner.as_deref();
    let forwarded =
        forward::forward_to(&caller, owner, Method::POST, body.as_bytes().clone(), forward::SERVER_ANSWER_LIMIT).await;
    let answer = {
        let mut space = Space::default();
        let request = read_again(&body, &mut space)?;
        let outcome = match forwarded {
            Forwarded::Answered(response) => return Ok(*response),
            Forwarded::Lost => Err(LOST),
            Forwarded::Unreachable | Forwarded::Here => {
                Params::of(&space).and_then(|params| resume::resume(&caller, request.id, &params, presentation, state))
            }
        };
        outcome.map_err(|problem| noted(&caller, &request, &problem))?
    };
    Ok(answer.await)
}

/// Answers a request whose effect the owner of the session has to remember, unless the owner does.
async fn answer_as_owner(
    caller: Caller,
    method: LegacyMethod,
    body: ByteString,
    revision: Revision,
) -> Result<Response, McpRefusal> {
    if let Some(response) = forward::answer_of_owner(&caller, Method::POST, body.as_bytes().clone()).await {
        return Ok(response);
    }
    let reply = {
        let mut space = Space::default();
        let request = read_again(&body, &mut space)?;
        let params = Params::of(&space).map_err(|problem| refused(Some(request.id), &problem, DEFAULT_REVISION))?;
        answer_from_memory(&caller, (&request, method), &params, revision)
    };
    remembered(caller, method, reply).await
}

/// Answers when the servers of the session have heard what it wants.
async fn remembered(caller: Caller, method: LegacyMethod, reply: RpcReply) -> Result<Response, McpRefusal> {
    if method == LegacyMethod::SetLevel {
        client_notifications::level(&caller).await;
    }
    Ok(reply.into_response())
}

/// The request that was read from this body before.
fn read_again<'a>(body: &'a ByteString, space: &mut Space<'a>) -> Result<message::RpcRequest<'a>, McpRefusal> {
    match message::single(body.trim_ascii(), space) {
        Ok(Incoming::Request(request)) => Ok(request),
        _ => Err(refused(None, &RpcProblem::Message(message::syntax()), DEFAULT_REVISION)),
    }
}

// === shared ===

fn note_message(recorder: &Recorder, body: &str, read: &Result<MessageBody<'_>, BadMessage>) {
    let mut facts = record(recorder);
    facts.bytes = body.len();
    if let Ok(MessageBody::One(Ok(Incoming::Request(request)))) = read {
        facts.rpc_method = Some(method_name(&request.method));
    }
}

/// Notes the method for the log.
pub(super) fn note_method(recorder: &Recorder, method: &str) {
    record(recorder).rpc_method = Some(method_name(method));
}

/// As the log has it.
fn method_name(method: &str) -> Cow<'static, str> {
    method_of(method).map_or_else(|| short(method).into(), Into::into)
}

fn accepted() -> Response {
    StatusCode::ACCEPTED.into_response()
}

//! The routes of `/mcp`: one message, or several, and what they are answered with.

use std::borrow::Cow;
use std::future::Future;
use std::ops::Range;
use std::pin::Pin;

use axum::Router;
use axum::extract::{Path, Request};
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use http::{HeaderValue, Method, StatusCode};
use portcullis_runtime::memory::account;

use super::answers;
use super::calls::{self, Plan, Planned, place};
use super::gate;
use super::legacy_sse;
use super::listen;
use super::message::{self, Body, Incoming, Space};
use super::owner::{self, Handed};
use super::parking;
use super::problem::RpcProblem;
use super::reply::Reply;
use super::request::{Params, check_modern, is_modern};
use super::state::Caller;
use super::stream::{self, Patience};
use super::told;
use super::who::{SESSION, Said, Who};
use crate::boxed::pinned;
use crate::capabilities::ClientCapabilities;
use crate::front::access_log::short;
use crate::front::body;
use crate::front::error::ApiError;
use crate::front::head::Sent;
use crate::front::routes::{Recorder, record, taken_apart};
use crate::handle::Places;
use crate::loops::INSTANCE;
use crate::revision::Revision;
use crate::seal::RequestState;
use crate::upstream::CallError;
use crate::upstream::timing::woken;

/// The routes.
pub fn routes() -> Router {
    let all = || post(answer_all).get(listen_all).delete(end_all).options(gate::preflight);
    let one = || post(answer_one).get(listen_one).delete(end_one).options(gate::preflight);
    Router::new()
        .route("/mcp", all())
        .route("/mcp/{server}", one())
        .route("/mcp/{namespace}/{server}", one())
        .merge(legacy_sse::routes())
        .layer(from_fn(gate::keep))
        .merge(owner::routes())
}

/// The path of one server: its name, after its namespace where it has one.
type ServerPath = Path<Vec<(String, String)>>;

fn name_of(path: &ServerPath) -> String {
    path.0.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join("/")
}

async fn answer_all(request: Request) -> Response {
    post_to(None, request).await
}

/// Answers `POST /mcp`, which comes here past the router and its layers.
pub async fn answer_post(recorder: &Recorder, body: Sent) -> Response {
    let origin = match gate::admitted(recorder.app(), &recorder.head().fields) {
        Ok(origin) => origin,
        Err(refused) => return refused.into_response(),
    };
    let mut response = answer(recorder, None, body).await;
    gate::show_to(origin, &mut response);
    response
}

async fn answer_one(path: ServerPath, request: Request) -> Response {
    post_to(Some(name_of(&path)), request).await
}

async fn listen_all(request: Request) -> Response {
    get_from(None, request).await
}

async fn listen_one(path: ServerPath, request: Request) -> Response {
    get_from(Some(name_of(&path)), request).await
}

async fn end_all(request: Request) -> Response {
    delete(None, request).await
}

async fn end_one(path: ServerPath, request: Request) -> Response {
    delete(Some(name_of(&path)), request).await
}

/// A request that cannot be answered as it is.
pub(super) enum Refused {
    /// Before its message was looked at.
    Http(ApiError),
    /// Because of its message.
    Rpc(Reply),
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        Self::Http(error)
    }
}

pub(super) fn finish(outcome: Result<Response, Refused>) -> Response {
    match outcome {
        Ok(response) => response,
        Err(Refused::Http(error)) => error.into_response(),
        Err(Refused::Rpc(reply)) => reply.into_response(),
    }
}

pub(super) fn refused(id: Option<&str>, problem: &RpcProblem, revision: Revision) -> Refused {
    Refused::Rpc(Reply::error(id, problem, revision))
}

// === POST ===

async fn post_to(server: Option<String>, request: Request) -> Response {
    let (recorder, body) = taken_apart(request);
    answer(&recorder, server.as_deref(), body).await
}

async fn answer(recorder: &Recorder, server: Option<&str>, body: Sent) -> Response {
    let next = async {
        let who = Who::of(recorder, server).await?;
        body::check_media_type(&recorder.head().fields)?;
        let body = body::read(body, recorder.app().options.max_body).await?;
        let bytes = body.len();
        let body = ByteString::try_from(body).map_err(|_| {
            record(recorder).bytes = bytes;
            refused(None, &RpcProblem::Message(message::syntax()), LEGACY)
        })?;
        Ok::<_, Refused>((understood(who, recorder, &body)?, body))
    };
    match next.await {
        Ok((Next::Call(plan), body)) => call(plan.of(body)).await,
        Ok((Next::Answered(mut response), _)) => {
            if recorder.head().fields.get(INSTANCE.as_str()).is_some() {
                response.headers_mut().insert(INSTANCE, recorder.app().loops.answer());
            }
            response
        }
        Ok((Next::Later(answer), _)) => finish(answer.await),
        Err(refused) => finish(Err(refused)),
    }
}

/// What is to be done about a request that has been read.
enum Next {
    /// A server answers.
    Call(Plan),
    /// It is answered.
    Answered(Response),
    /// Somebody else may have to be asked. In a box, so that the usual call does not carry the room for it.
    Later(Pin<Box<dyn Future<Output = Result<Response, Refused>> + Send>>),
}

impl Next {
    fn later(answer: impl Future<Output = Result<Response, Refused>> + Send + 'static) -> Self {
        Self::Later(Box::pin(answer))
    }
}

/// Waits for nothing, so that what the message is read into stays on the stack.
fn understood(who: Who, recorder: &Recorder, body: &ByteString) -> Result<Next, Refused> {
    let (app, said) = (recorder.app(), Said::of(&recorder.head().fields));
    if !said.takes_json && !said.takes_streams {
        return Err(ApiError::Accept.into());
    }
    let bad = |bad| refused(None, &RpcProblem::Message(bad), LEGACY);
    let mut space = Space::default();
    let read = message::read(body, &mut space);
    note_message(recorder, body, &read);
    let one = match read.map_err(bad)? {
        Body::One(one) => one.map_err(|bad| {
            let id = bad.id.clone();
            refused(id.as_deref(), &RpcProblem::Message(bad), LEGACY)
        })?,
        Body::Batch(all) => {
            let (session, revision) = who.session(app, &said, None)?;
            let says = (session, said.takes_streams);
            let all = all.into_iter().map(|one| place(one, body)).collect();
            let caller = who.caller(recorder, says);
            return Ok(Next::later(answer_batch(caller, all, body.clone(), revision)));
        }
    };
    let request = match one {
        Incoming::Request(request) => request,
        Incoming::Notification(method) => {
            let meta = Params::of(&space).map(|params| params.meta).unwrap_or_default();
            if !is_modern(&method, &meta, said.version) {
                let says = (who.session(app, &said, None)?.0, said.takes_streams);
                let caller = who.caller(recorder, says);
                if !notified(&caller, &method, &space) {
                    let body = body.as_bytes().clone();
                    return Ok(Next::later(async move {
                        Ok(of_owner(&caller, Method::POST, body).await.unwrap_or_else(accepted))
                    }));
                }
            }
            return Ok(Next::Answered(accepted()));
        }
        Incoming::Response(id, answer) => {
            let says = (who.session(app, &said, None)?.0, said.takes_streams);
            let caller = who.caller(recorder, says);
            let elsewhere = if answered(&caller, id, answer) { None } else { app.mcp.asking.place_of(id) };
            let body = body.as_bytes().clone();
            return Ok(Next::later(async move {
                let handed = owner::hand_on_to(&caller, elsewhere.as_deref(), Method::POST, body, owner::SOON);
                Ok(match handed.await {
                    Handed::Answered(response) => *response,
                    Handed::Here | Handed::Unreachable | Handed::Lost => accepted(),
                })
            }));
        }
    };
    let params = Params::of(&space).map_err(|problem| refused(Some(request.id), &problem, LEGACY))?;
    if is_modern(&request.method, &params.meta, said.version) {
        let capabilities = check_modern(&request, &params, &said).map_err(|problem| {
            calls::note_refusal(recorder, &problem);
            refused(Some(request.id), &problem, MODERN)
        })?;
        let says = (None, said.takes_streams);
        let caller = who.caller(recorder, says);
        return next_modern(caller, &request, &params, body, capabilities);
    }
    let (session, revision) = match &*request.method {
        "initialize" => (None, LEGACY),
        _ => who.session(app, &said, Some(request.id))?,
    };
    let says = (session, said.takes_streams);
    let caller = who.caller(recorder, says);
    next_legacy(caller, &request, &params, body, revision)
}

/// What is spoken where nothing says otherwise.
pub(super) const LEGACY: Revision = Revision::V2025_03_26;

/// The revision that has no sessions.
const MODERN: Revision = Revision::V2026_07_28;

/// What another replica was to answer, and may have carried out.
const LOST: RpcProblem = RpcProblem::Server(CallError::Lost);

fn next_modern(
    caller: Caller,
    request: &message::Request<'_>,
    params: &Params<'_, '_>,
    body: &ByteString,
    capabilities: ClientCapabilities,
) -> Result<Next, Refused> {
    let reply = match &*request.method {
        "server/discover" => Ok(answers::discover(request).into_response()),
        "subscriptions/listen" => listen::subscribed(&caller, request, params),
        method if let Some(kind) = answers::listed_by(method) => {
            answers::list(&caller, request, params, kind, MODERN).map(Reply::into_response)
        }
        method if calls::method_of(method).is_some() => {
            if let Some((digest, shape)) = calls::returning(&caller, request, params)
                && let Some(state) = parking::state_of(&caller, params, &digest)
            {
                return Ok(Next::later(go_on(caller, body.clone(), (state, shape))));
            }
            return next_call(caller, request, params, body, (MODERN, capabilities));
        }
        method => Err(RpcProblem::method(method)),
    };
    reply.map(Next::Answered).map_err(|problem| {
        calls::note_refusal(&caller.recorder, &problem);
        refused(Some(request.id), &problem, MODERN)
    })
}

/// Goes on with a call that waits, at the replica where it does.
async fn go_on(
    caller: Caller,
    body: ByteString,
    (state, shape): (RequestState, stream::Shape),
) -> Result<Response, Refused> {
    let place = state.owner.as_deref();
    let handed = owner::hand_on_to(&caller, place, Method::POST, body.as_bytes().clone(), owner::LONG).await;
    let mut space = Space::default();
    let request = read_again(&body, &mut space)?;
    let outcome = match handed {
        Handed::Answered(response) => return Ok(*response),
        Handed::Lost => Err(LOST),
        Handed::Unreachable | Handed::Here => match Params::of(&space) {
            Ok(params) => parking::resume(&caller, request.id, &params, shape, state).await,
            Err(problem) => Err(problem),
        },
    };
    outcome.map_err(|problem| {
        calls::note_refusal(&caller.recorder, &problem);
        refused(Some(request.id), &problem, MODERN)
    })
}

/// The request that was read from this body before.
fn read_again<'a>(body: &'a ByteString, space: &mut Space<'a>) -> Result<message::Request<'a>, Refused> {
    match message::single(body.trim_ascii(), space) {
        Ok(Incoming::Request(request)) => Ok(request),
        _ => Err(refused(None, &RpcProblem::Message(message::syntax()), LEGACY)),
    }
}

fn next_legacy(
    caller: Caller,
    request: &message::Request<'_>,
    params: &Params<'_, '_>,
    body: &ByteString,
    revision: Revision,
) -> Result<Next, Refused> {
    if calls::method_of(&request.method).is_some() {
        let able = caller.session.as_ref().filter(|_| caller.takes_streams).map(|session| session.capabilities);
        return next_call(caller, request, params, body, (revision, able.unwrap_or_default()));
    }
    if request.method == "initialize" {
        let begun = answers::initialize(&caller, request, params);
        let (reply, session) = begun.map_err(|problem| refused(Some(request.id), &problem, LEGACY))?;
        let mut response = reply.into_response();
        if let Ok(id) = HeaderValue::from_str(&session.seal(&caller.app().sealer)) {
            response.headers_mut().insert(SESSION, id);
        }
        return Ok(Next::Answered(response));
    }
    if OF_OWNER.contains(&&*request.method) {
        return Ok(Next::later(answer_as_owner(caller, body.clone(), revision)));
    }
    Ok(Next::Answered(from_memory(&caller, request, params, revision).into_response()))
}

/// Methods whose effect the owner of the session has to remember.
const OF_OWNER: [&str; 3] = ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// Answers one of [`OF_OWNER`], unless the owner does.
async fn answer_as_owner(caller: Caller, body: ByteString, revision: Revision) -> Result<Response, Refused> {
    if let Some(response) = of_owner(&caller, Method::POST, body.as_bytes().clone()).await {
        return Ok(response);
    }
    let mut space = Space::default();
    let request = read_again(&body, &mut space)?;
    let params = Params::of(&space).map_err(|problem| refused(Some(request.id), &problem, LEGACY))?;
    let reply = from_memory(&caller, &request, &params, revision);
    if request.method == "logging/setLevel" {
        told::level(&caller).await;
    }
    Ok(reply.into_response())
}

/// What the owner of the session answers, if that is another replica and can be reached. Who only needs what all
/// replicas have is served without it.
async fn of_owner(caller: &Caller, method: Method, body: Bytes) -> Option<Response> {
    match Box::pin(owner::hand_on(caller, method, body, owner::SOON)).await {
        Handed::Answered(response) => Some(*response),
        Handed::Here | Handed::Unreachable | Handed::Lost => None,
    }
}

/// The answer to a request that no server is asked for.
pub(super) fn from_memory(
    caller: &Caller,
    request: &message::Request<'_>,
    params: &Params<'_, '_>,
    revision: Revision,
) -> Reply {
    let reply = match &*request.method {
        "ping" => Ok(answers::nothing(request, revision)),
        "logging/setLevel" => answers::set_level(caller, request, params),
        "resources/subscribe" => answers::follow(caller, request, params),
        "resources/unsubscribe" => answers::unfollow(caller, request, params),
        method if let Some(kind) = answers::listed_by(method) => answers::list(caller, request, params, kind, revision),
        method => Err(RpcProblem::method(method)),
    };
    reply.unwrap_or_else(|problem| {
        calls::note_refusal(&caller.recorder, &problem);
        Reply::error(Some(request.id), &problem, revision)
    })
}

fn next_call(
    caller: Caller,
    request: &message::Request<'_>,
    params: &Params<'_, '_>,
    body: &ByteString,
    speaks: (Revision, ClientCapabilities),
) -> Result<Next, Refused> {
    let planned = calls::plan(caller, body, request, params, speaks);
    planned.map(Next::Call).map_err(|problem| refused(Some(request.id), &problem, speaks.0))
}

async fn call(planned: Box<Planned>) -> Response {
    if planned.is_bound() {
        // In a box, so that the usual call does not carry the room for it.
        let handed = Box::pin(owner::hand_on(planned.caller(), Method::POST, planned.message(), owner::LONG)).await;
        match handed {
            Handed::Answered(response) => return *response,
            // What was kept is gone, or cannot be reached: the client is to start anew.
            Handed::Unreachable => return planned.refusal(&RpcProblem::StateLost).into_response(),
            Handed::Lost => return planned.refusal(&LOST).into_response(),
            Handed::Here => {}
        }
    }
    let until = planned.caller().goes_on_at();
    let patience = Patience::until(until);
    if !planned.wants_more() {
        // In a box as below, so that no request carries the room for it, which would be moved with it.
        return stream::answer_alone(pinned(|| planned.send(None)), patience).await;
    }
    let (mailbox, shape) = (planned.mailbox(), planned.shape());
    let parks = planned.may_park().then(|| (planned.caller().app().clone(), planned.id().to_owned()));
    let told = mailbox.clone();
    let mut work: calls::Work = pinned(|| planned.send(Some(told)));
    if let Some((app, id)) = parks {
        // It runs on its own, and wakes itself alone.
        work = Box::pin(woken(app.mcp.parking.run(work, id), until));
    }
    stream::answer(work, mailbox, shape, patience).await
}

/// Several messages, as 2025-03-26 alone has them: the answers come together.
async fn answer_batch(
    caller: Caller,
    all: Vec<Range<usize>>,
    body: ByteString,
    revision: Revision,
) -> Result<Response, Refused> {
    const OTHER: RpcProblem =
        RpcProblem::Request("only protocol version 2025-03-26 has batches: send one message at a time");
    if revision != LEGACY {
        return Err(refused(None, &OTHER, revision));
    }
    // Some of them may be for the owner of the session, and their answers come together.
    match owner::hand_on(&caller, Method::POST, body.as_bytes().clone(), owner::LONG).await {
        Handed::Answered(response) => return Ok(*response),
        // Calls among them may have been carried out: they are not made again here.
        Handed::Lost => return Err(refused(None, &LOST, revision)),
        Handed::Unreachable | Handed::Here => {}
    }
    let patience = Patience::until(caller.goes_on_at());
    let work = async move {
        let all = all.into_iter().filter_map(|one| body.get(one));
        let replies = join_all(all.map(|one| answer_in_batch(&caller, one, &body, revision))).await;
        together(replies.into_iter().flatten().collect())
    };
    Ok(stream::answer_alone(Box::pin(work), patience).await)
}

/// The answers to a batch in one, or that there are none.
fn together(replies: Vec<Reply>) -> Reply {
    let mut places = Places::new();
    let taken = |mut reply: Reply| {
        places.append(&mut reply.places);
        reply.into_bytes()
    };
    let replies: Vec<Bytes> = replies.into_iter().map(taken).collect();
    if replies.is_empty() {
        return Reply::none();
    }
    let mut text = Vec::with_capacity(replies.iter().map(|reply| reply.len() + 1).sum::<usize>() + 1);
    for reply in replies {
        text.push(if text.is_empty() { b'[' } else { b',' });
        text.extend_from_slice(&reply);
    }
    text.push(b']');
    Reply { parts: smallvec::smallvec![account().kept(text)], status: StatusCode::OK, places }
}

async fn answer_in_batch(caller: &Caller, one: &str, body: &ByteString, revision: Revision) -> Option<Reply> {
    let planned = {
        let mut space = Space::default();
        let request = match message::single(one, &mut space) {
            Ok(Incoming::Request(request)) => request,
            Ok(Incoming::Notification(method)) => {
                let _ = notified(caller, &method, &space);
                return None;
            }
            Ok(Incoming::Response(id, answer)) => {
                let _ = answered(caller, id, answer);
                return None;
            }
            Err(bad) => {
                let id = bad.id.clone();
                return Some(Reply::error(id.as_deref(), &RpcProblem::Message(bad), revision));
            }
        };
        let fail = |problem: &RpcProblem| Some(Reply::error(Some(request.id), problem, revision));
        let params = match Params::of(&space) {
            Ok(params) => params,
            Err(problem) => return fail(&problem),
        };
        if request.method == "initialize" {
            return fail(&RpcProblem::Request("initialize must not be part of a batch"));
        }
        if calls::method_of(&request.method).is_none() {
            return Some(from_memory(caller, &request, &params, revision));
        }
        match calls::plan(caller.clone(), body, &request, &params, (revision, ClientCapabilities::NONE)) {
            Ok(plan) => plan.of(body.clone()),
            Err(problem) => return fail(&problem),
        }
    };
    Some(planned.send(None).await)
}

/// Does what a notification of a client says; false if it says nothing to this replica.
pub(super) fn notified(caller: &Caller, method: &str, space: &Space<'_>) -> bool {
    if method == "notifications/roots/list_changed" {
        told::roots_changed(caller);
    }
    let Some(session) = &caller.session else { return false };
    if method == "notifications/cancelled"
        && let Ok(params) = Params::of(space)
        && let Some(id) = params.get("requestId")
    {
        return caller.app().mcp.live.cancel(session.id, id.get());
    }
    false
}

/// Passes on what a client answers to a question of a server.
/// False if none is open here.
pub(super) fn answered(caller: &Caller, id: &str, answer: message::Answer<'_>) -> bool {
    let Some(session) = &caller.session else { return false };
    let answer = match answer {
        message::Answer::Result(result) => Ok(result.get()),
        message::Answer::Error(error) => Err(error.get()),
    };
    caller.app().mcp.asking.answer(&session.id, id, answer)
}

// === GET, DELETE ===

async fn get_from(server: Option<String>, request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let listening = async {
        let who = Who::of(&recorder, server.as_deref()).await?;
        let said = Said::of(&recorder.head().fields);
        if !said.takes_streams {
            return Err(ApiError::Accept.into());
        }
        let (session, revision) = who.session(recorder.app(), &said, None)?;
        let caller = who.caller(&recorder, (session, false));
        if let Some(response) = of_owner(&caller, Method::GET, Bytes::new()).await {
            return Ok(response);
        }
        listen::of_session(&caller).map_err(|problem| refused(None, &problem, revision))
    };
    finish(listening.await)
}

async fn delete(server: Option<String>, request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let ending = async {
        let who = Who::of(&recorder, server.as_deref()).await?;
        let (session, _) = who.session(recorder.app(), &Said::of(&recorder.head().fields), None)?;
        let caller = who.caller(&recorder, (session, false));
        if let Some(response) = of_owner(&caller, Method::DELETE, Bytes::new()).await {
            return Ok(response);
        }
        if let Some(session) = &caller.session {
            told::over(recorder.app(), session.id);
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    finish(ending.await)
}

// === shared ===

fn note_message(recorder: &Recorder, body: &str, read: &Result<Body<'_>, message::BadMessage>) {
    let mut facts = record(recorder);
    facts.bytes = body.len();
    if let Ok(Body::One(Ok(Incoming::Request(request)))) = read {
        facts.rpc_method = Some(method_name(&request.method));
    }
}

pub(super) fn note_method(recorder: &Recorder, method: &str) {
    record(recorder).rpc_method = Some(method_name(method));
}

/// As the log has it.
fn method_name(method: &str) -> Cow<'static, str> {
    calls::method_of(method).map_or_else(|| short(method).into(), Into::into)
}

fn accepted() -> Response {
    StatusCode::ACCEPTED.into_response()
}

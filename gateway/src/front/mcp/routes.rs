//! The routes of `/mcp`: one message, or several, and what they are answered with.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{Path, Request, State};
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use futures_util::future::join_all;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};

use super::answers;
use super::calls;
use super::gate;
use super::legacy_sse;
use super::listen;
use super::message::{self, Body, Incoming};
use super::metadata::Resource;
use super::owner::{self, Handed};
use super::parking;
use super::problem::RpcProblem;
use super::reply::Reply;
use super::request::{Params, VERSION_HEADER, check_modern, is_modern};
use super::state::Caller;
use super::stream;
use super::told;
use crate::capabilities::ClientCapabilities;
use crate::front::access_log::short;
use crate::front::app::App;
use crate::front::body;
use crate::front::error::ApiError;
use crate::front::routes::{Recorder, identify_with, record, recorder};
use crate::revision::Revision;
use crate::seal::{RequestState, Session, SubjectId};
use crate::upstream::CallError;

/// The header of a session's id.
const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The routes.
pub fn routes(app: &Arc<App>) -> Router<Arc<App>> {
    let all = || post(answer_all).get(listen_all).delete(end_all).options(gate::preflight);
    let one = || post(answer_one).get(listen_one).delete(end_one).options(gate::preflight);
    Router::new()
        .route("/mcp", all())
        .route("/mcp/{server}", one())
        .route("/mcp/{namespace}/{server}", one())
        .merge(legacy_sse::routes())
        .layer(from_fn_with_state(app.clone(), gate::keep))
        .merge(owner::routes())
}

/// The path of one server: its name, after its namespace where it has one.
type ServerPath = Path<Vec<(String, String)>>;

fn name_of(path: &ServerPath) -> String {
    path.0.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join("/")
}

async fn answer_all(State(app): State<Arc<App>>, request: Request) -> Response {
    post_to(app, None, request).await
}

/// Answers `POST /mcp`, which comes here past the router and its layers.
pub async fn answer_post(app: &Arc<App>, head: Parts, body: HttpBody, recorder: Recorder) -> Response {
    let origin = match gate::admitted(app, &head.headers) {
        Ok(origin) => origin,
        Err(refused) => return refused.into_response(),
    };
    let mut response = finish(answer(app.clone(), None, McpParts { head, recorder }, body).await);
    gate::show_to(origin, &mut response);
    response
}

async fn answer_one(State(app): State<Arc<App>>, path: ServerPath, request: Request) -> Response {
    post_to(app, Some(name_of(&path)), request).await
}

async fn listen_all(State(app): State<Arc<App>>, request: Request) -> Response {
    get_from(app, None, request).await
}

async fn listen_one(State(app): State<Arc<App>>, path: ServerPath, request: Request) -> Response {
    get_from(app, Some(name_of(&path)), request).await
}

async fn end_all(State(app): State<Arc<App>>, request: Request) -> Response {
    delete(app, None, request).await
}

async fn end_one(State(app): State<Arc<App>>, path: ServerPath, request: Request) -> Response {
    delete(app, Some(name_of(&path)), request).await
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

async fn post_to(app: Arc<App>, server: Option<String>, request: Request) -> Response {
    let (parts, body) = with_recorder(request);
    finish(answer(app, server, parts, body).await)
}

async fn answer(app: Arc<App>, server: Option<String>, parts: McpParts, body: HttpBody) -> Result<Response, Refused> {
    let mut caller = caller(app, server, &parts).await?;
    body::check_media_type(&parts.head.headers)?;
    let accepts = Accepts::of(&parts.head.headers);
    if !accepts.json && !accepts.streams {
        return Err(ApiError::Accept.into());
    }
    caller.takes_streams = accepts.streams;
    let body = body::read(&parts.head.headers, body, caller.app.options.max_body).await?;
    record(&caller.recorder).bytes = body.len();
    caller.headers = parts.head.headers;
    match message::read(&body).map_err(|bad| refused(None, &RpcProblem::Message(bad), LEGACY))? {
        Body::One(one) => answer_single(caller, one, &body).await,
        // In a box, like all that is seldom: so the usual request does not carry the room for it.
        Body::Batch(all) => Box::pin(answer_batch(caller, all, &body)).await,
    }
}

/// What is spoken where nothing says otherwise.
const LEGACY: Revision = Revision::V2025_03_26;

/// What another replica was to answer, and may have carried out.
const LOST: RpcProblem = RpcProblem::Server(CallError::Lost);

async fn answer_single(
    mut caller: Caller,
    one: Result<Incoming<'_>, message::BadMessage>,
    body: &Bytes,
) -> Result<Response, Refused> {
    let one = one.map_err(|bad| {
        let id = bad.id.clone();
        refused(id.as_deref(), &RpcProblem::Message(bad), LEGACY)
    })?;
    let mut request = match one {
        Incoming::Request(request) => request,
        Incoming::Notification(method, params) => {
            let meta = Params::read(params).map(|params| params.meta).unwrap_or_default();
            if !is_modern(&method, &meta, &caller.headers) {
                legacy(&mut caller, None)?;
                if !notified(&caller, &method, params)
                    && let Some(response) = of_owner(&caller, Method::POST, body).await
                {
                    return Ok(response);
                }
            }
            return Ok(accepted());
        }
        Incoming::Response(id, answer) => {
            legacy(&mut caller, None)?;
            let elsewhere = if answered(&caller, id, answer) { None } else { caller.app.mcp.asking.place_of(id) };
            if let Handed::Answered(response) =
                owner::hand_on_to(&caller, elsewhere.as_deref(), Method::POST, body.clone(), owner::SOON).await
            {
                return Ok(*response);
            }
            return Ok(accepted());
        }
    };
    note_method(&caller, &request.method);
    let params = Params::of(&mut request).map_err(|problem| refused(Some(request.id), &problem, LEGACY))?;
    if is_modern(&request.method, &params.meta, &caller.headers) {
        return answer_modern(caller, &request, &params, body).await;
    }
    if request.method == "initialize" {
        let begun = answers::initialize(&caller, &request);
        let (reply, session) = begun.map_err(|problem| refused(Some(request.id), &problem, LEGACY))?;
        let mut response = reply.into_response();
        if let Ok(id) = HeaderValue::from_str(&session.seal(&caller.app.sealer)) {
            response.headers_mut().insert(SESSION, id);
        }
        return Ok(response);
    }
    let revision = legacy(&mut caller, Some(request.id))?;
    answer_legacy(Arc::new(caller), &request, &params, body, revision).await
}

async fn answer_modern(
    caller: Caller,
    request: &message::Request<'_>,
    params: &Params<'_>,
    body: &Bytes,
) -> Result<Response, Refused> {
    let revision = Revision::V2026_07_28;
    let fail = |problem: RpcProblem| {
        calls::note_refusal(&caller, &problem);
        refused(Some(request.id), &problem, revision)
    };
    let capabilities = check_modern(request, params, &caller.headers).map_err(fail)?;
    let reply = match &*request.method {
        "server/discover" => Ok(answers::discover(request)),
        "subscriptions/listen" => return listen::subscribed(&caller, request, params).map_err(fail),
        method if let Some(kind) = answers::listed_by(method) => {
            answers::list(&caller, request, params, kind, revision)
        }
        method if calls::method_of(method).is_some() => {
            if let Some((digest, shape)) = calls::returning(&caller, request, params)
                && let Some(state) = parking::state_of(&caller, params, &digest)
            {
                let going_on = go_on(&caller, request.id, params, body, (state, shape));
                return Box::pin(going_on).await.map_err(fail);
            }
            return call(Arc::new(caller), request, params, body, (revision, capabilities)).await;
        }
        method => Err(RpcProblem::method(method)),
    };
    reply.map(Reply::into_response).map_err(fail)
}

/// Goes on with a call that waits, at the replica where it does.
async fn go_on(
    caller: &Caller,
    id: &str,
    params: &Params<'_>,
    body: &Bytes,
    (state, shape): (RequestState, stream::Shape),
) -> Result<Response, RpcProblem> {
    let place = state.owner.as_deref();
    match owner::hand_on_to(caller, place, Method::POST, body.clone(), owner::LONG).await {
        Handed::Answered(response) => Ok(*response),
        Handed::Lost => Err(LOST),
        Handed::Unreachable | Handed::Here => parking::resume(caller, id, params, shape, state).await,
    }
}

async fn answer_legacy(
    caller: Arc<Caller>,
    request: &message::Request<'_>,
    params: &Params<'_>,
    body: &Bytes,
    revision: Revision,
) -> Result<Response, Refused> {
    if calls::method_of(&request.method).is_some() {
        let able = caller.session.as_ref().filter(|_| caller.takes_streams).map(|session| session.capabilities);
        return call(caller, request, params, body, (revision, able.unwrap_or_default())).await;
    }
    if OF_OWNER.contains(&&*request.method)
        && let Some(response) = of_owner(&caller, Method::POST, body).await
    {
        return Ok(response);
    }
    let reply = from_memory(&caller, request, params, revision);
    if request.method == "logging/setLevel" {
        Box::pin(told::level(&caller)).await;
    }
    Ok(reply.into_response())
}

/// Methods whose effect the owner of the session has to remember.
const OF_OWNER: [&str; 3] = ["logging/setLevel", "resources/subscribe", "resources/unsubscribe"];

/// What the owner of the session answers, if that is another replica and can be reached. Who only needs what all
/// replicas have is served without it.
async fn of_owner(caller: &Caller, method: Method, body: &Bytes) -> Option<Response> {
    match Box::pin(owner::hand_on(caller, method, body.clone(), owner::SOON)).await {
        Handed::Answered(response) => Some(*response),
        Handed::Here | Handed::Unreachable | Handed::Lost => None,
    }
}

/// The answer to a request that no server is asked for.
pub(super) fn from_memory(
    caller: &Caller,
    request: &message::Request<'_>,
    params: &Params<'_>,
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
        calls::note_refusal(caller, &problem);
        Reply::error(Some(request.id), &problem, revision)
    })
}

async fn call(
    caller: Arc<Caller>,
    request: &message::Request<'_>,
    params: &Params<'_>,
    body: &Bytes,
    speaks: (Revision, ClientCapabilities),
) -> Result<Response, Refused> {
    let planned = calls::plan(&caller, body, request, params, speaks).map_err(|problem| {
        calls::note_refusal(&caller, &problem);
        refused(Some(request.id), &problem, speaks.0)
    })?;
    if planned.is_bound() {
        // In a box, so that the usual call does not carry the room for it.
        match Box::pin(owner::hand_on(&caller, Method::POST, body.clone(), owner::LONG)).await {
            Handed::Answered(response) => return Ok(*response),
            // What was kept is gone, or cannot be reached: the client is to start anew.
            Handed::Unreachable => return Err(refused(Some(request.id), &RpcProblem::StateLost, speaks.0)),
            Handed::Lost => return Err(refused(Some(request.id), &LOST, speaks.0)),
            Handed::Here => {}
        }
    }
    if !planned.wants_more() {
        let work: calls::Work = Box::pin(planned.send(None));
        return Ok(work.await.into_response());
    }
    let (mailbox, shape) = (planned.mailbox(), planned.shape());
    let parks = planned.may_park().then(|| (caller.clone(), planned.id().to_owned()));
    let mut work: calls::Work = Box::pin(planned.send(Some(mailbox.clone())));
    if let Some((caller, id)) = parks {
        work = caller.app.mcp.parking.run(work, id);
    }
    Ok(stream::answer(work, Some(mailbox), shape).await)
}

/// Several messages, as 2025-03-26 alone has them: the answers come together.
async fn answer_batch(
    mut caller: Caller,
    all: Vec<Result<Incoming<'_>, message::BadMessage>>,
    body: &Bytes,
) -> Result<Response, Refused> {
    const OTHER: RpcProblem =
        RpcProblem::Request("only protocol version 2025-03-26 has batches: send one message at a time");
    let revision = legacy(&mut caller, None)?;
    if revision != LEGACY {
        return Err(refused(None, &OTHER, revision));
    }
    // Some of them may be for the owner of the session, and their answers come together.
    match owner::hand_on(&caller, Method::POST, body.clone(), owner::LONG).await {
        Handed::Answered(response) => return Ok(*response),
        // Calls among them may have been carried out: they are not made again here.
        Handed::Lost => return Err(refused(None, &LOST, revision)),
        Handed::Unreachable | Handed::Here => {}
    }
    let caller = Arc::new(caller);
    let replies = join_all(all.into_iter().map(|one| answer_in_batch(&caller, one, body, revision))).await;
    let replies: Vec<Bytes> = replies.into_iter().flatten().map(Reply::into_bytes).collect();
    if replies.is_empty() {
        return Ok(accepted());
    }
    let mut text = Vec::with_capacity(replies.iter().map(|reply| reply.len() + 1).sum::<usize>() + 1);
    for reply in replies {
        text.push(if text.is_empty() { b'[' } else { b',' });
        text.extend_from_slice(&reply);
    }
    text.push(b']');
    Ok(Reply { parts: smallvec::smallvec![text.into()], status: StatusCode::OK }.into_response())
}

async fn answer_in_batch(
    caller: &Arc<Caller>,
    one: Result<Incoming<'_>, message::BadMessage>,
    body: &Bytes,
    revision: Revision,
) -> Option<Reply> {
    let mut request = match one {
        Ok(Incoming::Request(request)) => request,
        Ok(Incoming::Notification(method, params)) => {
            let _ = notified(caller, &method, params);
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
    let params = match Params::of(&mut request) {
        Ok(params) => params,
        Err(problem) => return fail(&problem),
    };
    if request.method == "initialize" {
        return fail(&RpcProblem::Request("initialize must not be part of a batch"));
    }
    if calls::method_of(&request.method).is_none() {
        return Some(from_memory(caller, &request, &params, revision));
    }
    match calls::plan(caller, body, &request, &params, (revision, ClientCapabilities::NONE)) {
        Ok(planned) => Some(planned.send(None).await),
        Err(problem) => fail(&problem),
    }
}

/// Does what a notification of a client says; false if it says nothing to this replica.
pub(super) fn notified(caller: &Caller, method: &str, params: Option<crate::json::Raw<'_>>) -> bool {
    if method == "notifications/roots/list_changed" {
        told::roots_changed(caller);
    }
    let (Some(session), Some(params)) = (&caller.session, params) else { return false };
    if method == "notifications/cancelled"
        && let Ok(params) = Params::read(Some(params))
        && let Some(id) = params.members.get("requestId")
    {
        return caller.app.mcp.live.cancel(session.id, id.get());
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
    caller.app.mcp.asking.answer(&session.id, id, answer)
}

// === GET, DELETE ===

async fn get_from(app: Arc<App>, server: Option<String>, request: Request) -> Response {
    let (parts, _) = with_recorder(request);
    let listening = async {
        let mut caller = caller(app, server, &parts).await?;
        if !Accepts::of(&parts.head.headers).streams {
            return Err(ApiError::Accept.into());
        }
        caller.headers = parts.head.headers;
        let revision = legacy(&mut caller, None)?;
        if let Some(response) = of_owner(&caller, Method::GET, &Bytes::new()).await {
            return Ok(response);
        }
        listen::of_session(&caller).map_err(|problem| refused(None, &problem, revision))
    };
    finish(listening.await)
}

async fn delete(app: Arc<App>, server: Option<String>, request: Request) -> Response {
    let (parts, _) = with_recorder(request);
    let ending = async {
        let mut caller = caller(app, server, &parts).await?;
        caller.headers = parts.head.headers;
        legacy(&mut caller, None)?;
        if let Some(response) = of_owner(&caller, Method::DELETE, &Bytes::new()).await {
            return Ok(response);
        }
        if let Some(session) = &caller.session {
            told::over(&caller.app, session.id);
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    finish(ending.await)
}

// === shared ===

/// The head of a request, and where its log line is gathered.
pub(super) struct McpParts {
    pub(super) head: Parts,
    pub(super) recorder: Recorder,
}

pub(super) fn with_recorder(request: Request) -> (McpParts, HttpBody) {
    let recorder = recorder(&request);
    let (head, body) = request.into_parts();
    (McpParts { head, recorder }, body)
}

/// Who asks.
pub(super) async fn caller(app: Arc<App>, server: Option<String>, parts: &McpParts) -> Result<Caller, Refused> {
    let (headers, query) = (&parts.head.headers, parts.head.uri.query());
    let resource = server.as_deref().map_or(Resource::Mcp, Resource::Server);
    let place = (app.options.allow_query_token_mcp, Some(resource));
    let identity = identify_with(&app, headers, query, place, &parts.recorder).await?;
    let server = match server {
        None => None,
        Some(name) => {
            let catalog = app.published.load();
            Some(catalog.server(&name).cloned().ok_or_else(|| ApiError::UnknownServer(short(&name)))?)
        }
    };
    Ok(Caller {
        app,
        server,
        subject: SubjectId::of(&identity),
        uri: parts.head.uri.clone(),
        headers: HeaderMap::new(),
        session: None,
        takes_streams: false,
        recorder: parts.recorder.clone(),
    })
}

/// The revision of a request before 2026-07-28, and its session if it has one.
fn legacy(caller: &mut Caller, id: Option<&str>) -> Result<Revision, Refused> {
    let app = &caller.app;
    if let Some(sealed) = caller.headers.get(&SESSION) {
        let sealed = sealed.to_str().unwrap_or_default();
        let session = Session::open(&app.sealer, sealed, &caller.subject, SystemTime::now()).ok();
        let session = session.filter(|session| !app.mcp.live.has_ended(&session.id));
        caller.session = Some(session.ok_or_else(|| refused(id, &RpcProblem::Session, LEGACY))?);
    }
    let agreed = caller.session.as_ref().map(|session| session.revision);
    match caller.headers.get(VERSION_HEADER) {
        None => Ok(agreed.unwrap_or(LEGACY)),
        Some(version) => {
            let version = version.to_str().unwrap_or_default();
            let known = Revision::parse(version).filter(|revision| !revision.is_modern());
            let known = known.ok_or_else(|| refused(id, &RpcProblem::Version(short(version)), LEGACY))?;
            Ok(agreed.unwrap_or(known))
        }
    }
}

/// What kinds of answers a caller takes.
struct Accepts {
    json: bool,
    streams: bool,
}

/// What the specification has clients send; most send just that.
const USUAL: &str = "application/json, text/event-stream";

impl Accepts {
    /// Who says nothing takes JSON: curl cannot do much with a stream.
    fn of(headers: &HeaderMap) -> Self {
        let mut accepts = Self { json: true, streams: false };
        if headers.get(header::ACCEPT).is_some_and(|value| value == USUAL) {
            return Self { json: true, streams: true };
        }
        let mut values = headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok()).peekable();
        if values.peek().is_none() {
            return accepts;
        }
        accepts.json = false;
        for range in values.flat_map(|value| value.split(',')) {
            let range = range.split(';').next().unwrap_or_default().trim();
            let is_one_of = |kinds: &[&str]| kinds.iter().any(|kind| range.eq_ignore_ascii_case(kind));
            accepts.json |= is_one_of(&["application/json", "*/*", "application/*"]);
            accepts.streams |= is_one_of(&["text/event-stream", "text/*"]);
        }
        accepts
    }
}

pub(super) fn note_method(caller: &Caller, method: &str) {
    let known = calls::method_of(method);
    record(&caller.recorder).rpc_method = Some(known.map_or_else(|| short(method).into(), Into::into));
}

fn accepted() -> Response {
    StatusCode::ACCEPTED.into_response()
}

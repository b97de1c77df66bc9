//! HTTP+SSE, the transport of 2024-11-05: `GET /sse` opens a stream that says where messages go and brings all answers.
//!
//! The session is the stream: it is at one replica, named in the sealed session, and others forward messages to it.

use std::time::SystemTime;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{Path, Request};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytestring::ByteString;
use http::{Method, StatusCode};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::revision::Revision;
use url::form_urlencoded::byte_serialize;

use crate::front::http::body;
use crate::front::http::head::{IncomingBody, IncomingHead, parameter};
use crate::front::mcp::caller::Caller;
use crate::front::mcp::dispatch::{answer_from_memory, note_method, take_notification, take_response};
use crate::front::mcp::forward::{self, Forwarded};
use crate::front::mcp::messages::classify::LegacyMethod;
use crate::front::mcp::messages::message::{self, Incoming, MessageBody, Space};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::{RpcReply, event, event_stream};
use crate::front::mcp::messages::request::Params;
use crate::front::mcp::refusal::{McpRefusal, finish, note_refusal, refused};
use crate::front::mcp::session_of::{Requester, VIEWS};
use crate::front::mcp::state::legacy_streams::{CannotTake, Job, LegacyCall, LegacyStream, Negotiated};
use crate::front::mcp::stream::{InputMode, Presentation};
use crate::front::mcp::{answers, call_plan, client_notifications, legacy_stream, listen, origin_check};
use crate::front::request::app::App;
use crate::front::request::observe::{Recorder, record, taken_apart};
use crate::seal::SealedSession;
use crate::util::boxed::pinned;

/// The parameter that names a session.
const SESSION: &str = "sessionId";

/// The revision where nothing was agreed upon.
const FIRST: Revision = Revision::V2024_11_05;

const TOO_MANY: RpcProblem =
    RpcProblem::TooMany("the session has too many requests under way: wait for some to finish");

/// The routes.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/sse", get(open).options(origin_check::preflight))
        .route("/message", post(take).options(origin_check::preflight))
        .route("/sse/_views/{*view}", get(open_view).options(origin_check::preflight))
        .route("/message/_views/{*view}", post(take_view).options(origin_check::preflight))
}

// === GET /sse ===

async fn open(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    finish(opened(&recorder, None).await)
}

async fn open_view(Path(view): Path<String>, request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    finish(opened(&recorder, Some(format!("{VIEWS}{view}"))).await)
}

/// `view` is a view, as [`VIEWS`] begins it.
async fn opened(recorder: &Recorder, view: Option<String>) -> Result<Response, McpRefusal> {
    let app = recorder.app();
    let requester = Requester::of(recorder, view.as_deref()).await?;
    let expires = SystemTime::now() + app.options.session_life;
    let able = (ClientCapabilities::NONE, Extensions::default());
    let session = SealedSession::new(requester.subject, FIRST, able, expires, app.replica.clone());
    let first = format!("event: endpoint\ndata: {}\n\n", endpoint(app, &session, (recorder.head(), view.as_deref())));
    let caller = requester.caller(recorder, (Some(session.clone()), false));
    let listening = listen::before_agreement(&caller, first.into());
    let listening = listening.map_err(|problem| refused(None, &problem, FIRST))?;
    Ok(event_stream(HttpBody::new(legacy_stream::open(app, session, listening))))
}

/// The address for the messages of a session, relative to the stream's own.
///
/// A client that brought its token in the address is told it back, for it takes the new address as it is; every message
/// is checked like any other request.
fn endpoint(app: &App, session: &SealedSession, (head, view): (&IncomingHead, Option<&str>)) -> String {
    let view = view.map_or_else(String::new, |view| format!("/{view}"));
    let (base, sealed) = (app.metadata.base_path(), session.seal(&app.sealer));
    let mut endpoint = format!("{base}/message{view}?{SESSION}={sealed}");
    let by_query = app.options.allow_query_token_mcp && head.fields.get("authorization").is_none();
    if let Some(token) = parameter(head.query(), "token").filter(|_| by_query) {
        endpoint.push_str("&token=");
        endpoint.extend(byte_serialize(token.as_bytes()));
    }
    endpoint
}

// === POST /message ===

async fn take(request: Request) -> Response {
    let (recorder, body) = taken_apart(request);
    finish(taken(&recorder, None, body).await)
}

async fn take_view(Path(view): Path<String>, request: Request) -> Response {
    let (recorder, body) = taken_apart(request);
    finish(taken(&recorder, Some(format!("{VIEWS}{view}")), body).await)
}

async fn taken(recorder: &Recorder, view: Option<String>, body: IncomingBody) -> Result<Response, McpRefusal> {
    let over = || refused(None, &RpcProblem::Session, FIRST);
    let (app, head) = (recorder.app(), recorder.head());
    let requester = Requester::of(recorder, view.as_deref()).await?;
    let sealed = parameter(head.query(), SESSION).ok_or_else(over)?;
    let session = SealedSession::open(&app.sealer, &sealed, &requester.subject, SystemTime::now());
    let mut session = session.map_err(|_| over())?;
    body::check_media_type(&head.fields)?;
    let body = body::read(body, app.options.max_body).await?;
    record(recorder).bytes = body.len();
    let mut caller = requester.caller(recorder, (Some(session.clone()), true));
    match forward::forward(&caller, Method::POST, body.clone(), forward::MEMORY_ANSWER_LIMIT).await {
        Forwarded::Answered(response) => return Ok(*response),
        Forwarded::Unreachable | Forwarded::Lost => return Err(over()),
        Forwarded::Here => {}
    }
    let channel = app.mcp.legacy_streams.of(&session.id).ok_or_else(over)?;
    let agreed = channel.agreed();
    (session.revision, session.capabilities) = (agreed.revision, agreed.capabilities);
    caller.extensions = agreed.extensions.clone();
    session.extensions = agreed.extensions.clone();
    caller.session = Some(session);
    let fail = |(id, problem): (Option<String>, RpcProblem)| refused(id.as_deref(), &problem, agreed.revision);
    let body = ByteString::try_from(body).map_err(|_| fail((None, RpcProblem::Message(message::syntax()))))?;
    let mut space = Space::default();
    match read(&body, &mut space).map_err(fail)? {
        Incoming::Request(request) => {
            note_method(recorder, &request.method);
            let tells_level = (request.method == "logging/setLevel").then(|| caller.clone());
            let job = job(caller, &channel, (&request, &space), &body, agreed.clone());
            if let Some(caller) = tells_level {
                client_notifications::level(&caller).await;
            }
            channel.put(job).map_err(|cannot| match cannot {
                CannotTake::Full => refused(Some(request.id), &TOO_MANY, agreed.revision),
                CannotTake::Over => over(),
            })?;
        }
        Incoming::Notification(method) => {
            let _ = take_notification(&caller, &method, &Params::of(&space).unwrap_or_default());
        }
        Incoming::Response(id, answer) => drop(take_response(&caller, id, answer)),
    }
    Ok((StatusCode::ACCEPTED, "Accepted").into_response())
}

fn read<'a>(body: &'a str, space: &mut Space<'a>) -> Result<Incoming<'a>, (Option<String>, RpcProblem)> {
    const BATCH: RpcProblem =
        RpcProblem::Request("this transport does not support batches: send one message at a time");
    match message::read(body, space) {
        Ok(MessageBody::One(Ok(one))) => Ok(one),
        Ok(MessageBody::One(Err(bad))) | Err(bad) => Err((bad.id.clone(), RpcProblem::Message(bad))),
        Ok(MessageBody::Batch(_)) => Err((None, BATCH)),
    }
}

/// The item that a request puts onto the stream.
fn job(
    caller: Caller,
    channel: &LegacyStream,
    (request, space): (&message::RpcRequest<'_>, &Space<'_>),
    body: &ByteString,
    agreed: Negotiated,
) -> Job {
    let revision = agreed.revision;
    let refusal =
        |problem: &RpcProblem| Job::Event(event(&RpcReply::error(Some(request.id), problem, revision).into_bytes()));
    let fail = |caller: &Caller, problem: &RpcProblem| {
        note_refusal(&caller.recorder, problem);
        refusal(problem)
    };
    let params = match Params::of(space) {
        Ok(params) => params,
        Err(problem) => return fail(&caller, &problem),
    };
    let planned = match LegacyMethod::of(&request.method) {
        LegacyMethod::Initialize => {
            return match answers::initialize(&caller, request, &params) {
                Ok((reply, begun)) => {
                    let SealedSession { revision, capabilities, extensions, .. } = begun;
                    channel.agree(Negotiated { revision, capabilities, extensions });
                    Job::Begun(event(&reply.into_bytes()))
                }
                Err(problem) => fail(&caller, &problem),
            };
        }
        LegacyMethod::Call(method) => {
            call_plan::plan(caller, body, (request, method), &params, (revision, agreed.capabilities))
        }
        method => {
            let reply = answer_from_memory(&caller, (request, method), &params, revision);
            return Job::Event(event(&reply.into_bytes()));
        }
    };
    match planned {
        Ok(plan) => {
            let planned = plan.of(body.clone());
            let (mailbox, presentation) = (planned.wants_more().then(|| planned.mailbox()), planned.presentation());
            let Presentation { progress_token, log_level, input } = presentation;
            let requests = if let InputMode::Requests(requests) = input { Some(requests) } else { None };
            let work = pinned(|| planned.send(mailbox.clone()));
            Job::Call(LegacyCall { work, mailbox, progress_token, log_level, requests })
        }
        Err(problem) => refusal(&problem),
    }
}

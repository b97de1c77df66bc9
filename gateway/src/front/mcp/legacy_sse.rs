//! HTTP+SSE, the transport of 2024-11-05: `GET /sse` opens a stream that says where messages go and brings all answers.
//!
//! The session is the stream: it is at one replica, named in the sealed session, and others hand messages on to it.

use std::time::SystemTime;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::Request;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytestring::ByteString;
use http::{Method, StatusCode};
use url::form_urlencoded::byte_serialize;

use super::channel::{Agreed, CannotTake, Channel, Channels, Job};
use super::message::{self, Body, Incoming, Space};
use super::owner::{self, Handed};
use super::problem::RpcProblem;
use super::reply::{Reply, event, event_stream};
use super::request::Params;
use super::routes::{Refused, answered, finish, from_memory, note_method, notified, refused};
use super::state::Caller;
use super::stream::Answering;
use super::told;
use super::who::Who;
use super::{answers, calls, gate, listen};
use crate::boxed::pinned;
use crate::capabilities::ClientCapabilities;
use crate::front::app::App;
use crate::front::body;
use crate::front::head::{Head, Sent};
use crate::front::routes::{Recorder, parameter, record, taken_apart};
use crate::revision::Revision;
use crate::seal::Session;

/// The parameter that names a session.
const SESSION: &str = "sessionId";

/// What is spoken where nothing was agreed upon.
const FIRST: Revision = Revision::V2024_11_05;

const TOO_MANY: RpcProblem = RpcProblem::TooMany("the session has as many requests as it may: wait for some");

/// The routes.
pub(super) fn routes() -> Router {
    Router::new()
        .route("/sse", get(open).options(gate::preflight))
        .route("/message", post(take).options(gate::preflight))
}

// === GET /sse ===

async fn open(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    finish(opened(&recorder).await)
}

async fn opened(recorder: &Recorder) -> Result<Response, Refused> {
    let app = recorder.app();
    let who = Who::of(recorder, None).await?;
    let expires = SystemTime::now() + app.options.session_life;
    let session = Session::new(who.subject, FIRST, ClientCapabilities::NONE, expires, app.replica.clone());
    let first = format!("event: endpoint\ndata: {}\n\n", endpoint(app, &session, recorder.head()));
    let caller = who.caller(recorder, (Some(session.clone()), false));
    let listening = listen::before_agreement(&caller, first.into());
    let listening = listening.map_err(|problem| refused(None, &problem, FIRST))?;
    Ok(event_stream(HttpBody::new(Channels::open(app, session, listening))))
}

/// Where the messages of a session go, relative to the stream's own address.
///
/// A client that brought its token in the address is told it back, for it takes the new address as it is; every message
/// is checked like any other request.
fn endpoint(app: &App, session: &Session, head: &Head) -> String {
    let mut endpoint = format!("{}/message?{SESSION}={}", app.metadata.base_path(), session.seal(&app.sealer));
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
    finish(taken(&recorder, body).await)
}

async fn taken(recorder: &Recorder, body: Sent) -> Result<Response, Refused> {
    let over = || refused(None, &RpcProblem::Session, FIRST);
    let (app, head) = (recorder.app(), recorder.head());
    let who = Who::of(recorder, None).await?;
    let sealed = parameter(head.query(), SESSION).ok_or_else(over)?;
    let session = Session::open(&app.sealer, &sealed, &who.subject, SystemTime::now());
    let mut session = session.map_err(|_| over())?;
    body::check_media_type(&head.fields)?;
    let body = body::read(body, app.options.max_body).await?;
    record(recorder).bytes = body.len();
    let mut caller = who.caller(recorder, (Some(session.clone()), true));
    match owner::hand_on(&caller, Method::POST, body.clone(), owner::SOON).await {
        Handed::Answered(response) => return Ok(*response),
        Handed::Unreachable | Handed::Lost => return Err(over()),
        Handed::Here => {}
    }
    let channel = app.mcp.channels.of(&session.id).ok_or_else(over)?;
    let agreed = channel.agreed();
    (session.revision, session.capabilities) = (agreed.revision, agreed.capabilities);
    caller.session = Some(session);
    let fail = |(id, problem): (Option<String>, RpcProblem)| refused(id.as_deref(), &problem, agreed.revision);
    let body = ByteString::try_from(body).map_err(|_| fail((None, RpcProblem::Message(message::syntax()))))?;
    let mut space = Space::default();
    match read(&body, &mut space).map_err(fail)? {
        Incoming::Request(request) => {
            note_method(recorder, &request.method);
            let tells_level = (request.method == "logging/setLevel").then(|| caller.clone());
            let job = job(caller, &channel, (&request, &space), &body, agreed);
            if let Some(caller) = tells_level {
                told::level(&caller).await;
            }
            channel.put(job).map_err(|cannot| match cannot {
                CannotTake::Full => refused(Some(request.id), &TOO_MANY, agreed.revision),
                CannotTake::Over => over(),
            })?;
        }
        Incoming::Notification(method) => {
            let _ = notified(&caller, &method, &space);
        }
        Incoming::Response(id, answer) => drop(answered(&caller, id, answer)),
    }
    Ok((StatusCode::ACCEPTED, "Accepted").into_response())
}

fn read<'a>(body: &'a str, space: &mut Space<'a>) -> Result<Incoming<'a>, (Option<String>, RpcProblem)> {
    const BATCH: RpcProblem = RpcProblem::Request("this transport has no batches: send one message at a time");
    match message::read(body, space) {
        Ok(Body::One(Ok(one))) => Ok(one),
        Ok(Body::One(Err(bad))) | Err(bad) => Err((bad.id.clone(), RpcProblem::Message(bad))),
        Ok(Body::Batch(_)) => Err((None, BATCH)),
    }
}

/// What a request puts onto the stream.
fn job(
    caller: Caller,
    channel: &Channel,
    (request, space): (&message::Request<'_>, &Space<'_>),
    body: &ByteString,
    agreed: Agreed,
) -> Job {
    let revision = agreed.revision;
    let refusal =
        |problem: &RpcProblem| Job::Event(event(&Reply::error(Some(request.id), problem, revision).into_bytes()));
    let fail = |caller: &Caller, problem: &RpcProblem| {
        calls::note_refusal(&caller.recorder, problem);
        refusal(problem)
    };
    let params = match Params::of(space) {
        Ok(params) => params,
        Err(problem) => return fail(&caller, &problem),
    };
    if request.method == "initialize" {
        return match answers::initialize(&caller, request, &params) {
            Ok((reply, begun)) => {
                channel.agree(Agreed { revision: begun.revision, capabilities: begun.capabilities });
                Job::Begun(event(&reply.into_bytes()))
            }
            Err(problem) => fail(&caller, &problem),
        };
    }
    if calls::method_of(&request.method).is_none() {
        return Job::Event(event(&from_memory(&caller, request, &params, revision).into_bytes()));
    }
    match calls::plan(caller, body, request, &params, (revision, agreed.capabilities)) {
        Ok(plan) => {
            let planned = plan.of(body.clone());
            let (mailbox, shape) = (planned.wants_more().then(|| planned.mailbox()), planned.shape());
            Job::Answering(Answering::among_others(pinned(|| planned.send(mailbox.clone())), mailbox, shape))
        }
        Err(problem) => refusal(&problem),
    }
}

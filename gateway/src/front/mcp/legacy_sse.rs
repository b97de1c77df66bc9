//! HTTP+SSE, the transport of 2024-11-05: `GET /sse` opens a stream that says where messages go and brings all answers.
//!
//! The session is the stream: it is at one replica, named in the sealed session, and others hand messages on to it.

use std::sync::Arc;
use std::time::SystemTime;

use axum::Router;
use axum::body::Body as HttpBody;
use axum::extract::{Request, State};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{Method, StatusCode, header};
use url::form_urlencoded::byte_serialize;

use super::channel::{Agreed, CannotTake, Channel, Channels, Job};
use super::message::{self, Body, Incoming};
use super::owner::{self, Handed};
use super::problem::RpcProblem;
use super::reply::{Reply, event, event_stream};
use super::request::Params;
use super::routes::{
    McpParts, Refused, answered, caller, finish, from_memory, note_method, notified, refused, with_recorder,
};
use super::state::Caller;
use super::stream::Answering;
use super::told;
use super::{answers, calls, gate, listen};
use crate::capabilities::ClientCapabilities;
use crate::front::app::App;
use crate::front::body;
use crate::front::routes::{parameter, record};
use crate::revision::Revision;
use crate::seal::Session;

/// The parameter that names a session.
const SESSION: &str = "sessionId";

/// What is spoken where nothing was agreed upon.
const FIRST: Revision = Revision::V2024_11_05;

const TOO_MANY: RpcProblem = RpcProblem::TooMany("the session has as many requests as it may: wait for some");

/// The routes.
pub(super) fn routes() -> Router<Arc<App>> {
    Router::new()
        .route("/sse", get(open).options(gate::preflight))
        .route("/message", post(take).options(gate::preflight))
}

// === GET /sse ===

async fn open(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = with_recorder(request);
    finish(opened(app, &parts).await)
}

async fn opened(app: Arc<App>, parts: &McpParts) -> Result<Response, Refused> {
    let mut caller = caller(app, None, parts).await?;
    let app = caller.app.clone();
    let expires = SystemTime::now() + app.options.session_life;
    let session = Session::new(caller.subject, FIRST, ClientCapabilities::NONE, expires, app.replica.clone());
    let first = format!("event: endpoint\ndata: {}\n\n", endpoint(&app, &session, parts));
    caller.session = Some(session.clone());
    let listening = listen::before_agreement(&caller, first.into());
    let listening = listening.map_err(|problem| refused(None, &problem, FIRST))?;
    Ok(event_stream(HttpBody::new(Channels::open(&app, session, listening))))
}

/// Where the messages of a session go, relative to the stream's own address.
///
/// A client that brought its token in the address is told it back, for it takes the new address as it is; every message
/// is checked like any other request.
fn endpoint(app: &App, session: &Session, parts: &McpParts) -> String {
    let mut endpoint = format!("{}/message?{SESSION}={}", app.metadata.base_path(), session.seal(&app.sealer));
    let by_query = app.options.allow_query_token_mcp && !parts.head.headers.contains_key(header::AUTHORIZATION);
    if let Some(token) = parameter(parts.head.uri.query(), "token").filter(|_| by_query) {
        endpoint.push_str("&token=");
        endpoint.extend(byte_serialize(token.as_bytes()));
    }
    endpoint
}

// === POST /message ===

async fn take(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, body) = with_recorder(request);
    finish(taken(app, parts, body).await)
}

async fn taken(app: Arc<App>, parts: McpParts, body: HttpBody) -> Result<Response, Refused> {
    let over = || refused(None, &RpcProblem::Session, FIRST);
    let mut caller = caller(app, None, &parts).await?;
    let sealed = parameter(parts.head.uri.query(), SESSION).ok_or_else(over)?;
    let session = Session::open(&caller.app.sealer, &sealed, &caller.subject, SystemTime::now());
    let mut session = session.map_err(|_| over())?;
    body::check_media_type(&parts.head.headers)?;
    let body = body::read(&parts.head.headers, body, caller.app.options.max_body).await?;
    record(&caller.recorder).bytes = body.len();
    caller.headers = parts.head.headers;
    caller.session = Some(session.clone());
    match owner::hand_on(&caller, Method::POST, body.clone(), owner::SOON).await {
        Handed::Answered(response) => return Ok(*response),
        Handed::Unreachable | Handed::Lost => return Err(over()),
        Handed::Here => {}
    }
    let channel = caller.app.mcp.channels.of(&session.id).ok_or_else(over)?;
    let agreed = channel.agreed();
    (session.revision, session.capabilities) = (agreed.revision, agreed.capabilities);
    caller.session = Some(session);
    caller.takes_streams = true;
    let caller = Arc::new(caller);
    match read(&body).map_err(|(id, problem)| refused(id.as_deref(), &problem, agreed.revision))? {
        Incoming::Request(request) => {
            note_method(&caller, &request.method);
            let job = job(&caller, &channel, &request, &body, agreed);
            if request.method == "logging/setLevel" {
                told::level(&caller).await;
            }
            channel.put(job).map_err(|cannot| match cannot {
                CannotTake::Full => refused(Some(request.id), &TOO_MANY, agreed.revision),
                CannotTake::Over => over(),
            })?;
        }
        Incoming::Notification(method, params) => {
            let _ = notified(&caller, &method, params);
        }
        Incoming::Response(id, answer) => drop(answered(&caller, id, answer)),
    }
    Ok((StatusCode::ACCEPTED, "Accepted").into_response())
}

fn read(body: &Bytes) -> Result<Incoming<'_>, (Option<String>, RpcProblem)> {
    const BATCH: RpcProblem = RpcProblem::Request("this transport has no batches: send one message at a time");
    match message::read(body) {
        Ok(Body::One(Ok(one))) => Ok(one),
        Ok(Body::One(Err(bad))) | Err(bad) => Err((bad.id.clone(), RpcProblem::Message(bad))),
        Ok(Body::Batch(_)) => Err((None, BATCH)),
    }
}

/// What a request puts onto the stream.
fn job(caller: &Arc<Caller>, channel: &Channel, request: &message::Request<'_>, body: &Bytes, agreed: Agreed) -> Job {
    let revision = agreed.revision;
    let fail = |caller: &Caller, problem: &RpcProblem| {
        calls::note_refusal(caller, problem);
        Job::Event(event(&Reply::error(Some(request.id), problem, revision).into_bytes()))
    };
    let params = match Params::read(request.params) {
        Ok(params) => params,
        Err(problem) => return fail(caller, &problem),
    };
    if request.method == "initialize" {
        return match answers::initialize(caller, request) {
            Ok((reply, begun)) => {
                channel.agree(Agreed { revision: begun.revision, capabilities: begun.capabilities });
                Job::Begun(event(&reply.into_bytes()))
            }
            Err(problem) => fail(caller, &problem),
        };
    }
    if calls::method_of(&request.method).is_none() {
        return Job::Event(event(&from_memory(caller, request, &params, revision).into_bytes()));
    }
    match calls::plan(caller, body, request, &params, (revision, agreed.capabilities)) {
        Ok(planned) => {
            let (mailbox, shape) = (planned.wants_more().then(|| planned.mailbox()), planned.shape());
            Job::Answering(Answering::among_others(Box::pin(planned.send(mailbox.clone())), mailbox, shape))
        }
        Err(problem) => fail(caller, &problem),
    }
}

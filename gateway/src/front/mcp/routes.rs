//! The routes of `/mcp`: one message, or several, and what they are answered with.

use axum::Router;
use axum::extract::{Path, Request};
use axum::middleware::from_fn;
use axum::response::{IntoResponse as _, Response};
use axum::routing::post;
use bytes::Bytes;
use bytestring::ByteString;
use http::{Method, StatusCode};
use portcullis_mcp::http1::INSTANCE;

use crate::front::http::body;
use crate::front::http::error::ApiError;
use crate::front::http::head::IncomingBody;
use crate::front::mcp::dispatch::{Next, dispatch};
use crate::front::mcp::messages::headers::McpHeaders;
use crate::front::mcp::messages::message::{self};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::request::DEFAULT_REVISION;
use crate::front::mcp::refusal::{McpRefusal, finish, refused};
use crate::front::mcp::session_of::{Requester, VIEWS};
use crate::front::mcp::{batch, calls, client_notifications, forward, legacy_sse, listen, metadata, origin_check};
use crate::front::request::observe::{Recorder, record, taken_apart};

/// The routes.
pub(crate) fn routes() -> Router {
    let all = || post(answer_all).get(listen_all).delete(end_all).options(origin_check::preflight);
    let one = || post(answer_one).get(listen_one).delete(end_one).options(origin_check::preflight);
    let view = || post(answer_view).get(listen_view).delete(end_view).options(origin_check::preflight);
    Router::new()
        .route("/mcp", all())
        .route("/mcp/{server}", one())
        .route("/mcp/{namespace}/{server}", one())
        .route("/mcp/_views/{namespace}/{view}", view())
        .merge(legacy_sse::routes())
        .layer(from_fn(origin_check::check_origin))
        .merge(forward::routes())
        .merge(metadata::routes())
}

/// The path of one server: its name, after its namespace where it has one.
type ServerPath = Path<Vec<(String, String)>>;

fn name_of(path: &ServerPath) -> String {
    path.0.iter().map(|(_, part)| part.as_str()).collect::<Vec<_>>().join("/")
}

/// What names a view of a namespace, in the form in which [`VIEWS`] begins it.
fn view_of(path: &ServerPath) -> String {
    format!("{VIEWS}{}", name_of(path))
}

async fn answer_all(request: Request) -> Response {
    post_to(None, request).await
}

/// Answers `POST /mcp`, which comes here past the router and its layers.
pub(crate) async fn answer_post(recorder: &Recorder, body: IncomingBody) -> Response {
    let origin = match origin_check::admitted(recorder.app(), &recorder.head().fields) {
        Ok(origin) => origin,
        Err(refused) => return refused.into_response(),
    };
    let mut response = answer(recorder, None, body).await;
    origin_check::show_to(origin, &mut response);
    response
}

async fn answer_one(path: ServerPath, request: Request) -> Response {
    post_to(Some(name_of(&path)), request).await
}

async fn answer_view(path: ServerPath, request: Request) -> Response {
    post_to(Some(view_of(&path)), request).await
}

async fn listen_view(path: ServerPath, request: Request) -> Response {
    get_from(Some(view_of(&path)), request).await
}

async fn end_view(path: ServerPath, request: Request) -> Response {
    delete(Some(view_of(&path)), request).await
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

// === POST ===

async fn post_to(server: Option<String>, request: Request) -> Response {
    let (recorder, body) = taken_apart(request);
    answer(&recorder, server.as_deref(), body).await
}

async fn answer(recorder: &Recorder, server: Option<&str>, body: IncomingBody) -> Response {
    let next = async {
        let requester = Requester::of(recorder, server).await?;
        body::check_media_type(&recorder.head().fields)?;
        let body = body::read(body, recorder.app().options.max_body).await?;
        let bytes = body.len();
        let body = ByteString::try_from(body).map_err(|_| {
            record(recorder).bytes = bytes;
            refused(None, &RpcProblem::Message(message::syntax()), DEFAULT_REVISION)
        })?;
        let next = match dispatch(requester, recorder, &body)? {
            // In a box, so that the usual call does not carry the room for it.
            Next::Incomplete(requester) => dispatch(Box::pin(requester.completed(recorder)).await, recorder, &body)?,
            next => next,
        };
        Ok::<_, McpRefusal>((next, body))
    };
    match next.await {
        Ok((Next::Call(plan), body)) => calls::answer(plan.of(body)).await,
        // In a box, so that the usual call does not carry the room for it.
        Ok((Next::Batch(batch), body)) => finish(Box::pin(batch::answer(*batch, body)).await),
        Ok((Next::Answered(mut response), _)) => {
            if recorder.head().fields.get(INSTANCE.as_str()).is_some() {
                response.headers_mut().insert(INSTANCE, recorder.app().loops.answer());
            }
            response
        }
        Ok((Next::Later(answer), _)) => finish(answer.await),
        // What is complete is not completed again.
        Ok((Next::Incomplete(_), _)) => finish(Err(ApiError::Internal.into())),
        Err(refused) => finish(Err(refused)),
    }
}

// === GET, DELETE ===

async fn get_from(server: Option<String>, request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let listening = async {
        let requester = Requester::of(&recorder, server.as_deref()).await?;
        let headers = McpHeaders::of(&recorder.head().fields);
        if !headers.takes_streams {
            return Err(ApiError::Accept.into());
        }
        let (session, revision) = requester.session(recorder.app(), &headers, None)?;
        let caller = requester.caller(&recorder, (session, false));
        if let Some(response) = forward::answer_of_owner(&caller, Method::GET, Bytes::new()).await {
            return Ok(response);
        }
        listen::of_session(&caller).map_err(|problem| refused(None, &problem, revision))
    };
    finish(listening.await)
}

async fn delete(server: Option<String>, request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let ending = async {
        let requester = Requester::of(&recorder, server.as_deref()).await?;
        let (session, _) = requester.session(recorder.app(), &McpHeaders::of(&recorder.head().fields), None)?;
        let caller = requester.caller(&recorder, (session, false));
        if let Some(response) = forward::answer_of_owner(&caller, Method::DELETE, Bytes::new()).await {
            return Ok(response);
        }
        if let Some(session) = &caller.session {
            client_notifications::over(recorder.app(), session.id);
        }
        Ok(StatusCode::NO_CONTENT.into_response())
    };
    finish(ending.await)
}

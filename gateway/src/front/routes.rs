//! The REST routes.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use portcullis_crds::ServerKey;
use portcullis_runtime::memory::account;
use smallvec::smallvec;

use super::access_log::{Facts, short};
use super::app::App;
use super::body;
use super::error::{ApiError, clip};
use super::head::Sent;
use super::mcp;
use super::mcp::metadata::{self, Resource};
use super::mcp::reply::{HEADERS, pieces};
use super::observe::note_route;
pub use super::observe::{Recorder, record, recorder, taken_apart};
use super::openapi;
use super::page;
use super::view::{Health, Servers};
use super::wire::{read_call, unwrapped_value};
use crate::auth::{AuthError, Identity, Look};
use crate::call::{self, CALL_TOOL, Called, Subject};
use crate::catalog::{Catalog, Entry, Kind, Scope};
use crate::clients::Client;
use crate::handle::Handle;
use crate::metrics::Outcome;
use crate::upstream::{Caller, Reply};

const X_SERVER: HeaderName = HeaderName::from_static("x-portcullis-server");
const X_ATTEMPTS: HeaderName = HeaderName::from_static("x-portcullis-attempts");

/// All routes, and those of `more`.
pub(super) fn router(more: Router) -> Router {
    Router::new()
        .route("/tools", post(tools))
        .route("/tools/list", get(tools_list))
        .route("/servers", get(servers))
        .route("/health", get(health))
        .route("/openapi.json", get(openapi_json))
        .route("/docs", get(page::answer))
        .merge(mcp::routes())
        .merge(metadata::routes())
        .merge(more)
        .fallback(no_route)
        .method_not_allowed_fallback(method)
        .layer(from_fn(note_route))
}

// === POST /tools ===

async fn tools(request: Request) -> Response {
    let (recorder, body) = taken_apart(request);
    call_tool(&recorder, body).await
}

/// Answers `POST /tools`.
pub(super) async fn call_tool(recorder: &Recorder, body: Sent) -> Response {
    answer_call(recorder, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer_call(recorder: &Recorder, body: Sent) -> Result<Response, ApiError> {
    let (app, head) = (recorder.app(), recorder.head());
    let query = head.query();
    let identity = identify(recorder).await?;
    body::check_media_type(&head.fields)?;
    let shape = Shape::of(query)?;
    let body = body::read(body, app.options.max_body).await?;
    record(recorder).bytes = body.len();
    let wanted = read_call(&body).map_err(ApiError::Call)?;
    let catalog = app.published.load_full();
    let preferred = match wanted.server.as_deref() {
        None => None,
        Some(name) => Some(catalog.server(name).ok_or_else(|| ApiError::UnknownServer(short(name)))?),
    };
    let entry = match preferred {
        None => catalog.find(Kind::Tools, Scope::All, &wanted.method),
        Some(server) => tool_at(&catalog, server, &wanted.method),
    };
    {
        let mut facts = record(recorder);
        facts.tool = Some(called_name(&wanted.method, entry.as_deref().map(|entry| &**entry)));
        facts.arguments = app.log.payloads().then(|| wanted.args.to_owned());
    }
    let Some(entry) = entry else {
        let mut response = unknown_tool(app, &catalog, &wanted.method, recorder).into_response();
        response.headers_mut().insert(X_ATTEMPTS, HeaderValue::from(0));
        return Ok(response);
    };
    let call = call::Request {
        method: CALL_TOOL,
        subject: Subject::Named,
        params: &[r#","arguments":"#, wanted.args],
        arguments: wanted.args,
        preferred: preferred.map(|server| &**server),
        fields: &head.fields,
        client: Client::Identity(&identity),
        caller: Caller::default(),
        mailbox: None,
        answers_input: false,
        looks_up: None,
    };
    let called = call::call(&entry, &call, &app.metrics).await;
    note_call(&mut record(recorder), &called, app.log.payloads());
    let mut response = match called.answer {
        Ok(Reply::Result(result)) => json_of_pieces(pieces(smallvec![shape.apply(result.text)], called.places)),
        Ok(Reply::Error(error)) => ApiError::Rpc(error).into_response(),
        Err(failure) => ApiError::of_call(failure, &wanted.method).into_response(),
    };
    if let Some(server) = &called.server
        && let Ok(name) = HeaderValue::from_str(&server.name)
    {
        response.headers_mut().insert(X_SERVER, name);
    }
    response.headers_mut().insert(X_ATTEMPTS, HeaderValue::from(called.attempts));
    Ok(response)
}

/// The tool that a caller means who names a server: that server's own of this name, if it has one, rather than another's.
fn tool_at<'a>(catalog: &'a Catalog, server: &Arc<Handle>, name: &str) -> Option<Cow<'a, Arc<Entry>>> {
    let find = |scope| catalog.find(Kind::Tools, scope, name);
    let around = if server.spec().is_home() { Scope::All } else { Scope::Namespace(&server.key.namespace) };
    let shared = find(around);
    if shared.as_ref().is_some_and(|entry| entry.is_of(server)) {
        return shared;
    }
    find(Scope::Server(server)).or(shared).or_else(|| find(Scope::All))
}

/// Why a tool that nobody offers cannot be called.
fn unknown_tool(app: &App, catalog: &Catalog, tool: &str, recorder: &Recorder) -> ApiError {
    // A server that has just been configured may be the one that offers it.
    if catalog.is_incomplete() {
        record(recorder).outcome = Some(Outcome::Unavailable.as_str());
        return ApiError::of_call(call::Failure::Unavailable, tool);
    }
    record(recorder).outcome = Some("unknown_tool");
    app.metrics.unknown_tools.inc();
    ApiError::UnknownTool(clip(tool))
}

/// The name of a tool as the log has it: what the catalog has already, or a copy.
pub(super) fn called_name(wanted: &str, entry: Option<&Entry>) -> Arc<str> {
    match entry {
        Some(entry) if *entry.name == *wanted => entry.name.clone(),
        _ => short(wanted).into(),
    }
}

pub(super) fn note_call(facts: &mut Facts, called: &Called, payloads: bool) {
    facts.server.clone_from(&called.server);
    facts.attempts = called.attempts;
    facts.outcome = Some(called.outcome.as_str());
    if let (true, Ok(Reply::Result(result))) = (payloads, &called.answer) {
        facts.result = Some(String::from_utf8_lossy(result).into_owned());
    }
}

/// How the answer of a call is shaped.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// The whole result, as the server sent it.
    Result,
    /// The older proxy's unwrapped value.
    Value,
}

impl Shape {
    fn of(query: Option<&str>) -> Result<Self, ApiError> {
        match parameter(query, "shape").as_deref() {
            None | Some("result") => Ok(Self::Result),
            Some("value") => Ok(Self::Value),
            Some(_) => Err(ApiError::Query("shape must be result or value")),
        }
    }

    fn apply(self, result: Bytes) -> Bytes {
        match self {
            Self::Result => result,
            Self::Value => unwrapped_value(&result).map_or(result, |value| account().kept(value)),
        }
    }
}

// === GET ===

async fn tools_list(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let answer = async {
        identify(&recorder).await?;
        let catalog = recorder.app().published.load_full();
        let query = recorder.head().query();
        Ok::<_, ApiError>(match (parameter(query, "server"), parameter(query, "namespace")) {
            (None, None) => catalog.listing(),
            (None, Some(name)) => catalog.listing_in(&name).ok_or_else(|| ApiError::UnknownNamespace(short(&name)))?,
            (Some(name), namespace) => {
                let server = match namespace {
                    Some(namespace) => catalog.server_of(&ServerKey::new(namespace, &*name)),
                    None => catalog.server(&name),
                };
                let server = server.ok_or_else(|| ApiError::UnknownServer(short(&name)))?;
                record(&recorder).server = Some(server.clone());
                catalog.listing_of(server)
            }
        })
    };
    answer.await.map_or_else(IntoResponse::into_response, json)
}

async fn servers(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    match identify(&recorder).await {
        Ok(_) => json_of(&Servers::of(&recorder.app().published.load())),
        Err(error) => error.into_response(),
    }
}

async fn health(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let app = recorder.app();
    let known = caller(&recorder, app.options.allow_query_token).await.is_ok();
    let soundness = app.soundness.borrow().clone();
    json_of(&Health::of(&app.published.load(), &soundness, known))
}

async fn openapi_json() -> Response {
    json(openapi::served())
}

async fn no_route() -> ApiError {
    ApiError::NoRoute
}

async fn method(method: Method) -> ApiError {
    ApiError::Method(short(method.as_str()))
}

// === shared ===

async fn identify(recorder: &Recorder) -> Result<Arc<Identity>, ApiError> {
    identify_with(recorder, recorder.app().options.allow_query_token, None).await
}

/// Who asks. `resource` is what of `/mcp` it is that is asked.
///
/// # Errors
/// [`ApiError::Auth`].
pub async fn identify_with(
    recorder: &Recorder,
    allow_query_token: bool,
    resource: Option<Resource<'_>>,
) -> Result<Arc<Identity>, ApiError> {
    match caller(recorder, allow_query_token).await {
        Ok(identity) => {
            record(recorder).identity = Some(identity.clone());
            Ok(identity)
        }
        Err(error) => {
            let app = recorder.app();
            app.metrics.auth_rejections.with_label_values(&[error.kind()]).inc();
            let challenge = match resource {
                None => app.auth.challenge(error, None),
                Some(resource) => metadata::challenge(app, &recorder.head().fields, resource, error),
            };
            Err(ApiError::Auth(error, challenge))
        }
    }
}

/// Whose the request is. Waits only for a token that somebody has to be asked about.
async fn caller(recorder: &Recorder, allow_query_token: bool) -> Result<Arc<Identity>, AuthError> {
    let (auth, head) = (&recorder.app().auth, recorder.head());
    let identity = match auth.look_at(&head.fields, head.query(), allow_query_token, recorder.arrived()) {
        Look::Known(identity) => Ok(identity),
        Look::Refused(error) => Err(error),
        // In a box, so that the usual request does not carry the room for it.
        Look::Open(question) => Box::pin(auth.ask(*question)).await,
    };
    if identity.is_ok() {
        recorder.trust();
    }
    identity
}

/// A parameter of the query, decoded.
pub fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let query = query?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn json(body: Bytes) -> Response {
    json_of_pieces(Body::from(body))
}

fn json_of_pieces(body: Body) -> Response {
    let mut response = Response::new(body);
    response.headers_mut().reserve(HEADERS);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_of(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json(account().kept(body)),
        Err(_) => ApiError::Internal.into_response(),
    }
}

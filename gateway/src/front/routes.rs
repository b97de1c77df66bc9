//! The REST routes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;

use super::access_log::{Facts, Line, short};
use super::app::App;
use super::body;
use super::error::{ApiError, clip};
use super::mcp;
use super::mcp::metadata::{self, Resource};
use super::openapi;
use super::page;
use super::view::{Health, Servers};
use super::wire::{read_call, unwrapped_value};
use crate::auth::{AuthError, Identity, Look};
use crate::call::{self, CALL_TOOL, Called, Subject};
use crate::catalog::{Catalog, Kind};
use crate::clients::Client;
use crate::metrics::Outcome;
use crate::upstream::{Caller, Reply};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_SERVER: HeaderName = HeaderName::from_static("x-portcullis-server");
const X_ATTEMPTS: HeaderName = HeaderName::from_static("x-portcullis-attempts");

/// What a handler tells about the request for its log line.
pub type Recorder = Arc<Mutex<Facts>>;

/// All REST routes, and those of `more`: they get request ids, log lines and measures too.
pub fn router(app: Arc<App>, more: Router) -> Router {
    Router::new()
        .route("/tools", post(tools))
        .route("/tools/list", get(tools_list))
        .route("/servers", get(servers))
        .route("/health", get(health))
        .route("/openapi.json", get(openapi_json))
        .route("/docs", get(page::answer))
        .merge(mcp::routes(&app))
        .merge(metadata::routes(&app))
        .merge(more.with_state(()))
        .fallback(no_route)
        .method_not_allowed_fallback(method)
        .layer(from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

// === POST /tools ===

async fn tools(State(app): State<Arc<App>>, request: Request) -> Response {
    let recorder = recorder(&request);
    let (parts, body) = request.into_parts();
    answer_call(&app, &parts, body, &recorder).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer_call(
    app: &App,
    parts: &http::request::Parts,
    body: Body,
    recorder: &Recorder,
) -> Result<Response, ApiError> {
    let query = parts.uri.query();
    let identity = identify(app, &parts.headers, query, recorder).await?;
    body::check_media_type(&parts.headers)?;
    let shape = Shape::of(query)?;
    let body = body::read(&parts.headers, body, app.options.max_body).await?;
    record(recorder, |facts| facts.bytes = body.len());
    let wanted = read_call(&body).map_err(ApiError::Call)?;
    record(recorder, |facts| {
        facts.tool = Some(short(&wanted.method));
        facts.arguments = app.log.payloads().then(|| wanted.args.to_owned());
    });
    let catalog = app.published.load_full();
    let preferred = match wanted.server.as_deref() {
        None => None,
        Some(name) => Some(catalog.server(name).ok_or_else(|| ApiError::UnknownServer(short(name)))?),
    };
    let Some(entry) = catalog.find(Kind::Tools, None, &wanted.method) else {
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
        headers: &parts.headers,
        client: Client::Identity(&identity),
        caller: Caller::default(),
        mailbox: None,
        answers_input: false,
    };
    let called = call::call(&entry, &call, &app.metrics).await;
    record(recorder, |facts| note_call(facts, &called, app.log.payloads()));
    let mut response = match called.answer {
        Ok(Reply::Result(result)) => json(shape.apply(result)),
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

/// Why a tool that nobody offers cannot be called.
fn unknown_tool(app: &App, catalog: &Catalog, tool: &str, recorder: &Recorder) -> ApiError {
    // A server that has just been configured may be the one that offers it.
    if catalog.is_incomplete() {
        record(recorder, |facts| facts.outcome = Some(Outcome::Unavailable.as_str()));
        return ApiError::of_call(call::Failure::Unavailable, tool);
    }
    record(recorder, |facts| facts.outcome = Some("unknown_tool"));
    app.metrics.unknown_tools.inc();
    ApiError::UnknownTool(clip(tool))
}

fn note_call(facts: &mut Facts, called: &Called, payloads: bool) {
    facts.server = called.server.as_ref().map(|server| server.name.clone());
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
            Self::Value => unwrapped_value(&result).map_or(result, Bytes::from),
        }
    }
}

// === GET ===

async fn tools_list(State(app): State<Arc<App>>, request: Request) -> Response {
    let recorder = recorder(&request);
    let (parts, _) = request.into_parts();
    let query = parts.uri.query();
    let answer = async {
        identify(&app, &parts.headers, query, &recorder).await?;
        let catalog = app.published.load_full();
        Ok::<_, ApiError>(match parameter(query, "server") {
            None => catalog.listing(),
            Some(name) => {
                let server = catalog.server(&name).ok_or_else(|| ApiError::UnknownServer(short(&name)))?;
                record(&recorder, |facts| facts.server = Some(server.name.clone()));
                catalog.listing_of(server)
            }
        })
    };
    answer.await.map_or_else(IntoResponse::into_response, json)
}

async fn servers(State(app): State<Arc<App>>, request: Request) -> Response {
    let recorder = recorder(&request);
    let (parts, _) = request.into_parts();
    match identify(&app, &parts.headers, parts.uri.query(), &recorder).await {
        Ok(_) => json_of(&Servers::of(&app.published.load())),
        Err(error) => error.into_response(),
    }
}

async fn health(State(app): State<Arc<App>>, request: Request) -> Response {
    let (parts, _) = request.into_parts();
    let known = caller(&app, &parts.headers, parts.uri.query(), app.options.allow_query_token).await.is_ok();
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

async fn identify(
    app: &App,
    headers: &HeaderMap,
    query: Option<&str>,
    recorder: &Recorder,
) -> Result<Arc<Identity>, ApiError> {
    identify_with(app, headers, query, (app.options.allow_query_token, None), recorder).await
}

/// Who asks. Of `place`: whether `?token=` counts there, and what of `/mcp` it is.
///
/// # Errors
/// [`ApiError::Auth`].
pub async fn identify_with(
    app: &App,
    headers: &HeaderMap,
    query: Option<&str>,
    (allow_query_token, resource): (bool, Option<Resource<'_>>),
    recorder: &Recorder,
) -> Result<Arc<Identity>, ApiError> {
    match caller(app, headers, query, allow_query_token).await {
        Ok(identity) => {
            record(recorder, |facts| facts.identity = Some(identity.clone()));
            Ok(identity)
        }
        Err(error) => {
            app.metrics.auth_rejections.with_label_values(&[error.kind()]).inc();
            let challenge = match resource {
                None => app.auth.challenge(error, None),
                Some(resource) => metadata::challenge(app, headers, resource, error),
            };
            Err(ApiError::Auth(error, challenge))
        }
    }
}

/// Whose the request is. Waits only for a token that somebody has to be asked about.
async fn caller(
    app: &App,
    headers: &HeaderMap,
    query: Option<&str>,
    allow_query_token: bool,
) -> Result<Arc<Identity>, AuthError> {
    match app.auth.look(headers, query, allow_query_token) {
        Look::Known(identity) => Ok(identity),
        Look::Refused(error) => Err(error),
        // In a box, so that the usual request does not carry the room for it.
        Look::Open(question) => Box::pin(app.auth.ask(*question)).await,
    }
}

fn parameter(query: Option<&str>, name: &str) -> Option<String> {
    let query = query?;
    url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn json(body: Bytes) -> Response {
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn json_of(value: &impl serde::Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(body) => json(body.into()),
        Err(_) => ApiError::Internal.into_response(),
    }
}

/// Where the log line of a request is gathered.
pub fn recorder(request: &Request) -> Recorder {
    request.extensions().get::<Recorder>().cloned().unwrap_or_default()
}

fn record(recorder: &Recorder, change: impl FnOnce(&mut Facts)) {
    change(&mut recorder.lock().unwrap_or_else(PoisonError::into_inner));
}

// === around every request ===

/// Gives every request an id, measures it, and writes its log line, also when its caller goes away.
async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = request_id(request.headers());
    let recorder = Recorder::default();
    let mut watch = Watch {
        line: Line {
            method: request.method().clone(),
            path: short(request.uri().path()),
            user_agent: text(request.headers(), &header::USER_AGENT),
            peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
            request_id: request_id.clone(),
            began: Instant::now(),
        },
        route: request.extensions().get::<MatchedPath>().cloned(),
        recorder: recorder.clone(),
        app,
        status: 499,
        bytes: None,
    };
    request.extensions_mut().insert(recorder);
    let mut response = next.run(request).await;
    watch.status = response.status().as_u16();
    watch.bytes = response.body().size_hint().exact();
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(X_REQUEST_ID, value);
    }
    // Addresses of requests may hold tokens, and answers are for their callers alone.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A client that keeps connections leaves by itself then, rather than meet one that is closed under its next request.
    if watch.app.readiness.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Writes the line when it is dropped: at the end of the request, or when its caller goes away.
struct Watch {
    line: Line,
    route: Option<MatchedPath>,
    recorder: Recorder,
    app: Arc<App>,
    status: u16,
    bytes: Option<u64>,
}

impl Drop for Watch {
    fn drop(&mut self) {
        let route = self.route.as_ref().map_or("other", MatchedPath::as_str);
        let method = known_method(&self.line.method);
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let labels = [route, method, status.as_str()];
        self.app.metrics.http_duration.with_label_values(&labels).observe(self.line.began.elapsed().as_secs_f64());
        let facts = self.recorder.lock().unwrap_or_else(PoisonError::into_inner);
        self.app.log.write(&self.line, &facts, self.status, self.bytes);
    }
}

/// Callers can invent methods; a metric must not grow with them.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// The caller's id if it is harmless, else a new one: 16 hexadecimal digits.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    match given.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())) {
        Some(id) => id.to_owned(),
        None => {
            let mut bytes = [0; 8];
            let _ = aws_lc_rs::rand::fill(&mut bytes);
            format!("{:016x}", u64::from_be_bytes(bytes))
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.chars().take(256).collect())
}

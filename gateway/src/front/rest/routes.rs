//! The REST routes.

use std::borrow::Cow;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode, header};
use portcullis_crds::ServerKey;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::{CallerMeta, Reply};
use portcullis_runtime::memory::account;
use smallvec::smallvec;

use crate::auth::Identity;
use crate::call::{self, CALL_TOOL, Subject};
use crate::catalog::{Basis, Catalog, Entry, Kind, NotAllowed, Scope};
use crate::client_sessions::Client;
use crate::front::http::access_log::short;
use crate::front::http::body;
use crate::front::http::call_facts::{called_name, note_call};
use crate::front::http::error::{ApiError, clip};
use crate::front::http::head::{IncomingBody, parameter};
use crate::front::http::pieces::{HEADERS, pieces};
use crate::front::request::admit::{Admitted, NotAdmitted, Wanted, admit, note_denial};
use crate::front::request::app::App;
use crate::front::request::caller_lists;
use crate::front::request::identify::{caller, identify_with};
use crate::front::request::missing;
use crate::front::request::observe::{Recorder, record, taken_apart};
use crate::front::request::search_tools::{Asked, asked};
use crate::front::rest::call_body::{read_call, unwrapped_value};
use crate::front::rest::servers::{HealthView, ServersView};
use crate::front::rest::{docs_page as page, explain, issuer, openapi};
use crate::server::handle::Handle;
use crate::telemetry::metrics::Outcome;

const X_SERVER: HeaderName = HeaderName::from_static("x-portcullis-server");
const X_ATTEMPTS: HeaderName = HeaderName::from_static("x-portcullis-attempts");

/// The routes.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/tools", post(tools))
        .route("/tools/list", get(tools_list))
        .route("/servers", get(servers))
        .route(explain::PATH, get(explain::answer))
        .route("/health", get(health))
        .route("/openapi.json", get(openapi_json))
        .route("/docs", get(page::answer))
        .merge(issuer::routes())
}

// === POST /tools ===

async fn tools(request: Request) -> Response {
    let (recorder, body) = taken_apart(request);
    call_tool(&recorder, body).await
}

/// Answers `POST /tools`.
pub(crate) async fn call_tool(recorder: &Recorder, body: IncomingBody) -> Response {
    answer_call(recorder, body).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer_call(recorder: &Recorder, body: IncomingBody) -> Result<Response, ApiError> {
    let (app, head) = (recorder.app(), recorder.head());
    let query = head.query();
    let identity = identify(recorder).await?;
    body::check_media_type(&head.fields)?;
    let shape = ResultShape::of(query)?;
    let body = body::read(body, app.options.max_body).await?;
    record(recorder).bytes = body.len();
    let mut wanted = read_call(&body).map_err(ApiError::Call)?;
    let mut catalog = app.published.load_full();
    if let Some(name) = &wanted.view {
        catalog = catalog.view(name).cloned().ok_or_else(|| ApiError::UnknownView(short(name)))?;
        match asked(&catalog, &identity, &wanted.method, wanted.args) {
            Asked::Tool => {}
            Asked::Answered(result) => return Ok(json(shape.apply(account().kept(result)))),
            Asked::Call(inner) => {
                wanted.method = Cow::Owned(inner.name().into_owned());
                wanted.args = inner.args.map_or("{}", |args| args.get());
            }
        }
    }
    let server_of = |catalog: &Catalog| match wanted.server.as_deref() {
        None => Ok(None),
        Some(name) => catalog.server(name).cloned().map(Some).ok_or_else(|| ApiError::UnknownServer(short(name))),
    };
    let preferred = server_of(&catalog)?;
    if catalog.has_caller_lists() && tool_of(&catalog, preferred.as_ref(), &wanted.method).is_none() {
        catalog = Box::pin(caller_lists::completed(recorder, &identity, &catalog, Scope::All)).await;
    }
    let found = tool_of(&catalog, preferred.as_ref(), &wanted.method);
    {
        let mut facts = record(recorder);
        facts.tool = Some(called_name(&wanted.method, found.as_deref().map(|entry| &**entry)));
        facts.arguments = app.log.payloads().then(|| wanted.args.to_owned());
    }
    let Some(entry) = found else {
        let mut response = unknown_tool(app, &catalog, &wanted.method, recorder).into_response();
        response.headers_mut().insert(X_ATTEMPTS, HeaderValue::from(0));
        return Ok(response);
    };
    let asked =
        Wanted { recorder, identity: &identity, method: CALL_TOOL, name: &wanted.method, args: Some(wanted.args) };
    let denied = |denied: NotAllowed| {
        record(recorder).outcome = Some("denied");
        let error = ApiError::NotAllowed(clip(&wanted.method));
        note_denial(&asked, &denied, error.status().as_u16());
        error
    };
    let mut entry = catalog.permitted(&identity, Kind::Tools, entry).map_err(denied)?;
    let basis = catalog.decide(&identity, Kind::Tools, &mut entry, wanted.args).map_err(denied)?;
    let mut admitted = match app.admits(&catalog, &basis) {
        false => Admitted::none(),
        true => {
            let (admitted, left) = admitted(&asked, &catalog, entry.into_owned(), basis)?;
            entry = Cow::Owned(left);
            admitted
        }
    };
    let call = call::Request {
        method: CALL_TOOL,
        custom: None,
        subject: Subject::Named,
        params: &[r#","arguments":"#, wanted.args],
        arguments: wanted.args,
        preferred: preferred.as_deref(),
        fields: &head.fields,
        client: Client::Identity(&identity),
        identity: &identity,
        query,
        outbound: &app.outbound,
        caller: CallerMeta::default(),
        extensions: Extensions::tasks(),
        mailbox: None,
        answers_input: false,
        takes_tasks: false,
        looks_up: None,
    };
    let called = call::call(&entry, &call, &app.metrics).await;
    note_call(&mut record(recorder), &called, app.log.payloads());
    admitted.note(&called);
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
    admitted.end(response.status());
    Ok(response)
}

/// Admits a call: the servers that are left for it.
fn admitted(
    asked: &Wanted<'_>,
    catalog: &Catalog,
    mut entry: Arc<Entry>,
    basis: Basis,
) -> Result<(Admitted, Arc<Entry>), ApiError> {
    let admitted = admit(asked, catalog, Kind::Tools, (&mut entry, basis), StatusCode::TOO_MANY_REQUESTS);
    let admitted = admitted.map_err(|refused| {
        record(asked.recorder).outcome = Some(refused.outcome());
        match refused {
            NotAdmitted::Limited(pause) => ApiError::Limited(clip(asked.name), pause),
            NotAdmitted::Unaudited => ApiError::Unaudited,
        }
    })?;
    Ok((admitted, entry))
}

/// The tool that a caller means, who may name a server.
fn tool_of<'a>(catalog: &'a Catalog, server: Option<&'a Arc<Handle>>, name: &str) -> Option<Cow<'a, Arc<Entry>>> {
    match server {
        None => catalog.find(Kind::Tools, Scope::All, name),
        Some(server) => tool_at(catalog, server, name),
    }
}

/// The tool that a caller means who names a server: that server's own of this name, if it has one, rather than another's.
fn tool_at<'a>(catalog: &'a Catalog, server: &'a Arc<Handle>, name: &str) -> Option<Cow<'a, Arc<Entry>>> {
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
    if catalog.is_incomplete() || catalog.lacks_lists(Scope::All) {
        record(recorder).outcome = Some(Outcome::Unavailable.as_str());
        return ApiError::of_call(call::Failure::Unavailable, tool);
    }
    record(recorder).outcome = Some("unknown_tool");
    app.metrics.unknown_tools.inc();
    ApiError::UnknownTool(clip(tool))
}

/// The shape of a call's answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ResultShape {
    /// The whole result, as the server sent it.
    Result,
    /// The older proxy's unwrapped value.
    Value,
}

impl ResultShape {
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
        let identity = identify(&recorder).await?;
        let mut all = recorder.app().published.load_full();
        let query = recorder.head().query();
        if let Some(name) = parameter(query, "view") {
            all = all.view(&name).cloned().ok_or_else(|| ApiError::UnknownView(short(&name)))?;
        }
        if all.has_caller_lists() {
            all = caller_lists::completed(&recorder, &identity, &all, Scope::All).await;
        }
        let catalog = all.seen_by(&identity);
        Ok::<_, ApiError>(match (parameter(query, "server"), parameter(query, "namespace")) {
            (None, None) => with_missing(catalog.listing(), &catalog, Scope::All),
            (None, Some(name)) => match catalog.listing_in(&name) {
                Some(listing) => with_missing(listing, &catalog, Scope::Namespace(&name)),
                None if all.has_namespace(&name) => Catalog::default().listing(),
                None => return Err(ApiError::UnknownNamespace(short(&name))),
            },
            (Some(name), namespace) => {
                let server = match namespace {
                    Some(namespace) => all.server_of(&ServerKey::new(namespace, &*name)),
                    None => all.server(&name),
                };
                let server = server.ok_or_else(|| ApiError::UnknownServer(short(&name)))?;
                record(&recorder).server = Some(server.clone());
                with_missing(catalog.listing_of(server), &catalog, Scope::Server(server))
            }
        })
    };
    answer.await.map_or_else(IntoResponse::into_response, json)
}

/// A list of tools with the servers that are missing from it, if there are any.
fn with_missing(listing: Bytes, catalog: &Catalog, scope: Scope<'_>) -> Bytes {
    match (missing::of(catalog, scope), listing.strip_suffix(b"}")) {
        (Some(servers), Some(begin)) => {
            account().kept([begin, br#","missing_servers":"#, servers.as_bytes(), b"}"].concat())
        }
        _ => listing,
    }
}

async fn servers(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    match identify(&recorder).await {
        Ok(identity) => json_of(&ServersView::of(&recorder.app().published.load().seen_by(&identity))),
        Err(error) => error.into_response(),
    }
}

async fn health(request: Request) -> Response {
    let (recorder, _) = taken_apart(request);
    let app = recorder.app();
    let identity = caller(&recorder, app.options.allow_query_token).await.ok();
    let mut soundness = app.soundness.borrow().clone();
    let of_tls = app.certificate.as_ref().and_then(|certificate| certificate.problem.borrow().clone());
    soundness.problems.extend(of_tls);
    let all = app.published.load_full();
    match identity {
        Some(identity) => json_of(&HealthView::of(&all.seen_by(&identity), &soundness, true)),
        None => json_of(&HealthView::of(&all, &soundness, false)),
    }
}

async fn openapi_json() -> Response {
    json(openapi::served())
}

// === shared ===

async fn identify(recorder: &Recorder) -> Result<Arc<Identity>, ApiError> {
    identify_with(recorder, recorder.app().options.allow_query_token, None).await
}

/// An answer in JSON.
pub(crate) fn json(body: Bytes) -> Response {
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

//! Serves the documents by which servers verify assertions. They need no token.

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;

use crate::front::http::error::ApiError;
use crate::front::request::observe::recorder;
use crate::outbound::{DISCOVERY_PATH, KEYS_PATH, Published};

/// How long servers and proxies may keep them: a new key is published for longer before it signs.
const CACHE_CONTROL: &str = "public, max-age=60";

/// The routes of the documents.
pub(crate) fn routes() -> Router {
    Router::new().route(KEYS_PATH, get(keys)).route(DISCOVERY_PATH, get(discovery))
}

async fn keys(request: Request) -> Response {
    answer(&request, |published| published.keys)
}

async fn discovery(request: Request) -> Response {
    answer(&request, |published| published.discovery)
}

fn answer(request: &Request, document: impl FnOnce(Published) -> String) -> Response {
    let Some(published) = recorder(request).app().outbound.published() else {
        return ApiError::NoRoute.into_response();
    };
    let headers = [(header::CONTENT_TYPE, "application/json"), (header::CACHE_CONTROL, CACHE_CONTROL)];
    (headers, document(published)).into_response()
}

//! Serves the protected resource metadata (RFC 9728), which need no token.

use axum::Router;
use axum::extract::{Path, Request};
use axum::middleware::from_fn;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::header;

use crate::front::http::error::ApiError;
use crate::front::http::resource_metadata::{Resource, WELL_KNOWN};
use crate::front::mcp::origin_check;
use crate::front::request::observe::{Recorder, recorder};

/// The routes of the metadata. They need no token.
pub(crate) fn routes() -> Router {
    Router::new()
        .route(WELL_KNOWN, get(whole).options(origin_check::preflight))
        .route(&format!("{WELL_KNOWN}/{{*path}}"), get(part).options(origin_check::preflight))
        .layer(from_fn(origin_check::check_origin))
}

async fn whole(request: Request) -> Response {
    answer(recorder(&request), "")
}

async fn part(Path(path): Path<String>, request: Request) -> Response {
    answer(recorder(&request), &path)
}

fn answer(recorder: &Recorder, path: &str) -> Response {
    let (metadata, fields) = (&recorder.app().metadata, &recorder.head().fields);
    let Some(resource) = Resource::parse(metadata.without_prefix(path)) else {
        return ApiError::NoRoute.into_response();
    };
    match metadata.document(fields, resource) {
        Some(document) => ([(header::CONTENT_TYPE, "application/json")], document).into_response(),
        None => ApiError::NoHost.into_response(),
    }
}

//! The router: the routes of REST and of `/mcp`, and what answers when there is none.

use axum::Router;
use axum::middleware::from_fn;
use http::Method;

use crate::front::http::access_log::short;
use crate::front::http::error::ApiError;
use crate::front::request::observe::note_route;
use crate::front::{mcp, rest};

/// All routes, and those of `more`.
pub(crate) fn router(more: Router) -> Router {
    Router::new()
        .merge(rest::routes::routes())
        .merge(mcp::routes())
        .merge(more)
        .fallback(no_route)
        .method_not_allowed_fallback(method)
        .layer(from_fn(note_route))
}

async fn no_route() -> ApiError {
    ApiError::NoRoute
}

async fn method(method: Method) -> ApiError {
    ApiError::Method(short(method.as_str()))
}

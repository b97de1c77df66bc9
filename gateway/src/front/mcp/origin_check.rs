//! Applies the origin policy to requests, and answers the questions of browsers (CORS).

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use portcullis_runtime::serve::Fields;

use crate::front::http::error::ApiError;
use crate::front::http::origin_policy::ORIGIN;
use crate::front::request::app::App;
use crate::front::request::observe::recorder;

/// Refuses requests that are not admitted, and tells browsers that an admitted page may read the answer.
///
/// Routes below it take `OPTIONS` with [`preflight`].
pub(crate) async fn check_origin(request: Request, next: Next) -> Response {
    let recorder = recorder(&request);
    match admitted(recorder.app(), &recorder.head().fields) {
        Ok(origin) => {
            let mut response = next.run(request).await;
            show_to(origin, &mut response);
            response
        }
        Err(refused) => refused.into_response(),
    }
}

/// The page that a request comes from, if it comes from one.
///
/// # Errors
/// It is not admitted.
pub(crate) fn admitted(app: &App, fields: &Fields) -> Result<Option<HeaderValue>, ApiError> {
    match app.origin_policy.admits(fields) {
        Ok(()) => Ok(fields.get(ORIGIN).and_then(|origin| HeaderValue::from_bytes(origin).ok())),
        Err(refused) => {
            app.metrics.origin_refusals.with_label_values(&[refused.kind()]).inc();
            Err(ApiError::Gate(refused))
        }
    }
}

/// Tells a browser that this page may read the answer.
pub(crate) fn show_to(origin: Option<HeaderValue>, response: &mut Response) {
    let Some(origin) = origin else { return };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// Answers `OPTIONS`, by which a browser asks before it sends the request of a page.
pub(crate) async fn preflight(asked: HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBER));
    // Arguments of tools may travel as headers of any name, so no list would do.
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

/// The time for which a browser may remember what it was allowed, in seconds.
const REMEMBER: &str = "600";

const METHODS: &str = "GET, POST, DELETE";

/// The headers of answers that pages may read.
const SHOWN: &str = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, X-Request-Id, Retry-After";

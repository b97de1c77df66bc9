//! Reads a request's body: whole, within a bound and a deadline.

use axum::body::Body;
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use tokio::time::timeout;

use super::app::BODY_LIMIT;
use super::error::ApiError;

/// Refuses a body that is declared as something else than JSON.
///
/// # Errors
/// [`ApiError::MediaType`].
pub fn check_media_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let text = value.to_str().unwrap_or_default();
    let kind = text.split(';').next().unwrap_or_default().trim();
    let suffix = kind.len().checked_sub(5).and_then(|at| kind.get(at..));
    if kind.eq_ignore_ascii_case("application/json") || suffix.is_some_and(|end| end.eq_ignore_ascii_case("+json")) {
        Ok(())
    } else {
        Err(ApiError::MediaType)
    }
}

/// The whole body.
///
/// # Errors
/// [`ApiError::BodyTooLarge`] and [`ApiError::BodyIncomplete`].
pub async fn read(headers: &HeaderMap, body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > limit as u64) {
        return Err(ApiError::BodyTooLarge(limit));
    }
    match timeout(BODY_LIMIT, Limited::new(body, limit).collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::BodyTooLarge(limit)),
        Ok(Err(_)) | Err(_) => Err(ApiError::BodyIncomplete),
    }
}

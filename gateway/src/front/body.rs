//! Reads a request's body: whole, within a bound and a deadline.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use portcullis_runtime::serve::{Fields, as_text};
use tokio::time::timeout;

use super::app::BODY_LIMIT;
use super::error::ApiError;
use super::head::Sent;

/// Refuses a body that is declared as something else than JSON.
///
/// # Errors
/// [`ApiError::MediaType`].
pub fn check_media_type(fields: &Fields) -> Result<(), ApiError> {
    let Some(value) = fields.get("content-type") else { return Ok(()) };
    if value == b"application/json" {
        return Ok(());
    }
    let text = as_text(value).unwrap_or_default();
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
pub async fn read(body: Sent, limit: usize) -> Result<Bytes, ApiError> {
    let body = match body {
        Sent::Whole(body) if body.len() > limit => return Err(ApiError::BodyTooLarge(limit)),
        Sent::Whole(body) => return Ok(body),
        Sent::Coming(body) => body,
    };
    // Of a body with a length, its length.
    if body.size_hint().lower() > limit as u64 {
        return Err(ApiError::BodyTooLarge(limit));
    }
    let mut reading = pin!(collected(body, limit));
    // Most are here already: those need no clock.
    match poll_fn(|cx| Poll::Ready(reading.as_mut().poll(cx))).await {
        Poll::Ready(read) => read,
        Poll::Pending => timeout(BODY_LIMIT, reading).await.unwrap_or(Err(ApiError::BodyIncomplete)),
    }
}

/// Most bodies come in one piece, which is not copied then.
async fn collected(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let Some(first) = piece(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(ApiError::BodyTooLarge(limit));
    }
    if body.is_end_stream() {
        return Ok(first);
    }
    let mut all = BytesMut::from(first);
    while let Some(next) = piece(&mut body).await? {
        if all.len() + next.len() > limit {
            return Err(ApiError::BodyTooLarge(limit));
        }
        all.extend_from_slice(&next);
    }
    Ok(all.freeze())
}

async fn piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        // What is no data are trailers, which mean nothing here.
        if let Ok(data) = frame.map_err(|_| ApiError::BodyIncomplete)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

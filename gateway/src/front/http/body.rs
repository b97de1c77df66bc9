//! Reads a request's body: whole, within a bound and a deadline.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use portcullis_runtime::memory::{Full, Held, SMALL, account};
use portcullis_runtime::serve::{BrokenBody, Fields, as_text};
use tokio::time::timeout;

use crate::front::http::error::ApiError;
use crate::front::http::head::IncomingBody;

/// For a request's body to arrive.
pub(crate) const BODY_LIMIT: Duration = Duration::from_secs(30);

/// Refuses a body that is declared as something else than JSON.
///
/// # Errors
/// [`ApiError::MediaType`].
pub(crate) fn check_media_type(fields: &Fields) -> Result<(), ApiError> {
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

/// The whole body. What is not small counts until it is dropped.
///
/// # Errors
/// [`ApiError::BodyTooLarge`], [`ApiError::BodyIncomplete`], [`ApiError::BodyMalformed`] and [`ApiError::NoMemory`].
pub(crate) async fn read(body: IncomingBody, limit: usize) -> Result<Bytes, ApiError> {
    let body = match body {
        IncomingBody::Whole(body) if body.len() > limit => return Err(ApiError::BodyTooLarge(limit)),
        IncomingBody::Whole(body) => return Ok(body),
        IncomingBody::Coming(body) => body,
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

/// Short bodies come in one piece, which is not copied then.
async fn collected(mut body: Body, limit: usize) -> Result<Bytes, ApiError> {
    let length = body.size_hint().exact().and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    let mut held = Held::none(&account().large);
    if length > SMALL {
        room(&mut held, length).await?;
    }
    let Some(first) = piece(&mut body).await? else { return Ok(Bytes::new()) };
    if first.len() > limit {
        return Err(ApiError::BodyTooLarge(limit));
    }
    if body.is_end_stream() || first.len() == length {
        return Ok(held.keeping(first));
    }
    let mut all = BytesMut::with_capacity(length.max(first.len()));
    all.extend_from_slice(&first);
    drop(first);
    while let Some(next) = piece(&mut body).await? {
        let whole = all.len() + next.len();
        if whole > limit {
            return Err(ApiError::BodyTooLarge(limit));
        }
        if whole > all.capacity() {
            let wanted = (2 * whole).min(limit);
            if wanted > SMALL {
                let more = wanted.saturating_sub(held.bytes());
                room(&mut held, more).await?;
            }
            all.reserve(wanted - all.len());
        }
        all.extend_from_slice(&next);
    }
    Ok(held.keeping(all.freeze()))
}

async fn room(held: &mut Held, bytes: usize) -> Result<(), ApiError> {
    account().room(held, bytes).await.map_err(|Full| ApiError::NoMemory)
}

async fn piece(body: &mut Body) -> Result<Option<Bytes>, ApiError> {
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await {
        // What is no data are trailers, which mean nothing here.
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            return Ok(Some(data));
        }
    }
    Ok(None)
}

fn broken(error: axum::Error) -> ApiError {
    match error.into_inner().downcast_ref() {
        Some(BrokenBody::Malformed) => ApiError::BodyMalformed,
        Some(BrokenBody::Incomplete) | None => ApiError::BodyIncomplete,
    }
}

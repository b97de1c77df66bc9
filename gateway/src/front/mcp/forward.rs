//! Forwards a request to the replica that keeps something for its session: its open stream, its own servers' sessions.
//!
//! Addresses come out of sealed ids alone. But the address of a replica that is gone may be another's by now, so it
//! proves that it is one, with a key of the session keys, before it is sent a caller's token.

use std::io;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use portcullis_mcp::http1::{Exchange, HttpError};
use tokio::time::timeout;

use crate::front::mcp::caller::Caller;
use crate::front::mcp::state::replicas::{ForwardError, PROOF_PATH, failed, solution};
use crate::front::mcp::state::streams::{OpenStream, TooManyStreams};
use crate::front::request::observe::recorder;
use crate::seal::Purpose;

/// The outcomes of forwarding, as a metric label.
pub const FORWARD_OUTCOMES: [&str; 3] = ["ok", "unreachable", "lost"];

/// Marks a forwarded request: it is never forwarded again.
const FORWARDED_MARK: HeaderName = HeaderName::from_static("x-portcullis-handed-on");

/// The limit of answers from memory.
pub(crate) const MEMORY_ANSWER_LIMIT: Duration = Duration::from_secs(10);

/// The limit of answers of servers: `requestSeconds` is at most an hour, and half of that may go by before it begins.
pub(crate) const SERVER_ANSWER_LIMIT: Duration = Duration::from_secs(5460);

/// A stream says something every 15 s, if only a comment. One that does not is dead.
const QUIET_LIMIT: Duration = Duration::from_secs(50);

/// Headers that are not passed on: they belong to one connection, or were for this replica.
const OF_ONE_HOP: [HeaderName; 13] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::ORIGIN,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// The outcome of forwarding a request.
pub enum Forwarded {
    /// It is to be answered here.
    Here,
    /// The other has answered.
    Answered(Box<Response>),
    /// The other cannot be reached: it never got the request.
    Unreachable,
    /// The other is there, but gave no answer: it may have carried the request out.
    Lost,
}

/// The route that proves to holders of a session key that this is a replica.
pub(super) fn routes() -> Router {
    Router::new().route(PROOF_PATH, get(prove))
}

/// Lets the owner of the caller's session answer, if that is another replica.
pub(crate) async fn forward(caller: &Caller, method: Method, body: Bytes, limit: Duration) -> Forwarded {
    let owner = caller.session.as_ref().and_then(|session| session.owner.as_deref());
    forward_to(caller, owner, method, body, limit).await
}

/// Lets this replica answer, if it is another one.
pub(crate) async fn forward_to(
    caller: &Caller,
    replica: Option<&str>,
    method: Method,
    body: Bytes,
    limit: Duration,
) -> Forwarded {
    let Some(owner) = replica.filter(|replica| is_elsewhere(caller, replica)) else { return Forwarded::Here };
    let stream = match (&method, &caller.session) {
        // As long as it is open, it is a stream of this replica too.
        (&Method::GET, _) => match caller.app().mcp.streams.open(caller.subject, None) {
            Ok(stream) => Some(stream),
            Err(TooManyStreams) => return Forwarded::Here,
        },
        _ => None,
    };
    let outcome = ask(caller, owner, method, body, limit).await;
    let (word, forwarded) = match outcome {
        Ok(exchange) => (FORWARD_OUTCOMES[0], Forwarded::Answered(Box::new(answered(exchange, stream)))),
        Err(ForwardError::Unreachable) => (FORWARD_OUTCOMES[1], Forwarded::Unreachable),
        Err(ForwardError::Lost) => (FORWARD_OUTCOMES[2], Forwarded::Lost),
    };
    caller.app().metrics.forwarded.with_label_values(&[word]).inc();
    forwarded
}

/// Whether this is another replica, which may be asked.
pub(crate) fn is_elsewhere(caller: &Caller, replica: &str) -> bool {
    caller.app().replica.as_deref() != Some(replica) && caller.head().fields.get(FORWARDED_MARK.as_str()).is_none()
}

/// Whether the caller's session is another replica's, which may be asked.
pub(crate) fn is_of_another(caller: &Caller) -> bool {
    let owner = caller.session.as_ref().and_then(|session| session.owner.as_deref());
    owner.is_some_and(|owner| is_elsewhere(caller, owner))
}

async fn ask(
    caller: &Caller,
    owner: &str,
    method: Method,
    body: Bytes,
    limit: Duration,
) -> Result<Exchange, ForwardError> {
    let replicas = &caller.app().mcp.replicas;
    let (pool, is_proven) = replicas.pool(owner).ok_or(ForwardError::Unreachable)?;
    if !is_proven {
        replicas.prove(&pool, &caller.app().sealer, owner).await?;
    }
    let path: Uri = caller.head().target.parse().map_err(|_| ForwardError::Unreachable)?;
    let sent = timeout(limit, pool.send(method, &path, &passed_on(caller), body)).await;
    sent.unwrap_or(Err(HttpError::Lost)).map_err(|error| {
        let failed = failed(&error);
        if failed == ForwardError::Unreachable {
            replicas.note(owner, false);
        }
        failed
    })
}

fn passed_on(caller: &Caller) -> HeaderMap {
    let mut headers = caller.head().fields.to_map();
    drop_hop_headers(&mut headers);
    headers.insert(FORWARDED_MARK, HeaderValue::from_static("1"));
    if let Ok(id) = HeaderValue::from_str(caller.recorder.request_id()) {
        headers.insert("x-request-id", id);
    }
    headers
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_ONE_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn answered(exchange: Exchange, stream: Option<OpenStream>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = exchange.head.status;
    let mut headers = exchange.head.headers();
    drop_hop_headers(&mut headers);
    *response.headers_mut() = headers;
    *response.body_mut() = Body::from_stream(unfold(Some((exchange, stream)), |open| async {
        let (mut exchange, stream) = open?;
        let piece = tokio::select! {
            biased;
            () = over(stream.as_ref()) => return None,
            piece = timeout(QUIET_LIMIT, exchange.chunk()) => piece,
        };
        match piece {
            Ok(Ok(piece)) => Some((Ok(piece?), Some((exchange, stream)))),
            Ok(Err(_)) | Err(_) => Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), None)),
        }
    }));
    response
}

/// Waits until this replica is to end its streams.
async fn over(stream: Option<&OpenStream>) {
    let Some(stream) = stream else { return std::future::pending().await };
    std::future::poll_fn(|cx| {
        while stream.poll_next(cx).is_ready() {}
        if stream.is_over() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

// === the proof ===

async fn prove(request: Request) -> Response {
    let recorder = recorder(&request);
    let (app, riddle) = (recorder.app(), recorder.head().query());
    let solved = riddle.and_then(|riddle| app.sealer.open(Purpose::Replica, riddle).ok());
    let solved = solved.as_deref().and_then(<[u8]>::split_first_chunk::<16>);
    match solved {
        Some((secret, owner)) if app.replica.as_deref().map(str::as_bytes) == Some(owner) => {
            solution(secret, recorder.own_certificate()).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

/// The answer of the replica that owns the session, if that is another one and can be reached. Requests that need only
/// what all replicas have are answered without it.
pub(crate) async fn answer_of_owner(caller: &Caller, method: Method, body: Bytes) -> Option<Response> {
    match Box::pin(forward(caller, method, body, MEMORY_ANSWER_LIMIT)).await {
        Forwarded::Answered(response) => Some(*response),
        Forwarded::Here | Forwarded::Unreachable | Forwarded::Lost => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_one_hop_are_dropped_and_those_that_it_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("host", "gateway"),
            ("origin", "https://page.example"),
            ("transfer-encoding", "chunked"),
            ("authorization", "Bearer t"),
            ("mcp-session-id", "s"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        drop_hop_headers(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "mcp-session-id"]);
    }
}

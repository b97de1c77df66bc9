//! Translates the heads of HTTP/2: a request's into the fields that all services read, a response's into what may be sent.

use h2::RecvStream;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, EXPECT, HOST, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, Method, Response, StatusCode, Version, request, response};
use hyper::body::Body;
use tokio::time::Instant;

use crate::serve::body::{Coming, Sent};
use crate::serve::fields::Fields;
use crate::serve::places::Place;
use crate::serve::refusal::Refusal;
use crate::serve::reply::date;
use crate::serve::request::{FIELDS, is_host};
use crate::serve::service::{Answer, Request};

/// Headers that speak of the connection, which HTTP/2 does not have (RFC 9113 section 8.2.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The bytes of a request's head as RFC 9113 section 6.5.2 counts them: 32 for each field besides its text.
pub(super) fn size(head: &request::Parts) -> usize {
    let fields = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32);
    fields.sum::<usize>() + head.uri.path_and_query().map_or(0, |target| target.as_str().len())
}

/// The request for a service.
///
/// # Errors
/// The request cannot be answered by the service.
pub(super) fn request<S: Answer>(
    service: &S,
    place: &Place,
    head: &request::Parts,
    body: RecvStream,
) -> Result<Request<S::Route>, Refusal> {
    if head.headers.len() > FIELDS {
        return Err(Refusal::TooLong);
    }
    let host = host(head)?;
    if head.headers.get(EXPECT).is_some_and(|value| !value.as_bytes().eq_ignore_ascii_case(b"100-continue")) {
        return Err(Refusal::Expectation);
    }
    let target = head.uri.path_and_query().filter(|_| head.method != Method::CONNECT).ok_or(Refusal::Target)?.as_str();
    if place.is_kept() && !service.is_probe(target) {
        return Err(Refusal::KeptForProbes);
    }
    let route = service.route(head.method.as_str(), target).ok_or(Refusal::Target)?;
    let own = std::iter::once((HOST.as_str(), host));
    let others = head.headers.iter().filter(|(name, _)| **name != HOST);
    let fields: Fields = own.chain(others.map(|(name, value)| (name.as_str(), value.as_bytes()))).collect();
    let body = if body.is_end_stream() {
        Sent::Whole(bytes::Bytes::new())
    } else {
        Sent::Coming(Coming::of_stream(body, length(&head.headers)))
    };
    Ok(Request { route, fields, body })
}

/// The one host that a request names, in `:authority` or in `Host`. Other parties on the path may read either.
fn host(head: &request::Parts) -> Result<&[u8], Refusal> {
    let mut named = head.headers.get_all(HOST).iter().map(|value| value.as_bytes());
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let host = match (authority, named.next(), named.next()) {
        (_, Some(_), Some(_)) | (None, None, _) => return Err(Refusal::Hosts),
        (Some(authority), Some(host), None) if authority != host => return Err(Refusal::Hosts),
        (Some(host), _, None) | (None, Some(host), None) => host,
        (Some(host), None, Some(_)) => host,
    };
    if is_host(host) { Ok(host) } else { Err(Refusal::Host) }
}

/// The declared length of a body.
fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The head of a response, and whether a body follows it.
pub(super) fn response(head: response::Parts, body: &impl Body, is_head: bool) -> (Response<()>, bool) {
    let mut sent = Response::new(());
    let has_none = matches!(head.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    (*sent.status_mut(), *sent.version_mut()) = (head.status, Version::HTTP_2);
    let mut headers = head.headers;
    OF_CONNECTIONS.iter().for_each(|name| drop(headers.remove(name)));
    if has_none {
        headers.remove(CONTENT_LENGTH);
    } else if !is_head || !headers.contains_key(CONTENT_LENGTH) {
        match body.size_hint().exact() {
            Some(exact) => drop(headers.insert(CONTENT_LENGTH, exact.into())),
            None => drop(headers.remove(CONTENT_LENGTH)),
        }
    }
    if !headers.contains_key(DATE) {
        headers.insert(DATE, date(Instant::now()));
    }
    *sent.headers_mut() = headers;
    (sent, !has_none && !is_head && !body.is_end_stream())
}

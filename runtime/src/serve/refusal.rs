//! Requests that the listener itself rejects: the problem, as a status and a sentence.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use thiserror::Error;

/// The reason the listener itself answers a request, and closes its connection.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Refusal {
    #[error("the request is not HTTP/1.1: check what sends it")]
    Malformed,
    #[error("a line of the head does not end with CR and LF: end each with both")]
    LineEnd,
    #[error("the head is too long: send at most 100 fields, and 32 KiB in all")]
    TooLong,
    #[error("the target of the request is not a path: send one that begins with a slash")]
    Target,
    #[error("the request must name one host: send one Host header")]
    Hosts,
    #[error("the Host header is not a host name: send one host, with its port if need be")]
    Host,
    #[error("the Content-Length is not a number, or appears twice: send one, in decimal digits")]
    Length,
    #[error("the request has both a Content-Length and a Transfer-Encoding: send one of them")]
    Both,
    #[error("the Transfer-Encoding cannot be understood: send chunked, once, with HTTP/1.1")]
    Coding,
    #[error("this transfer coding is not known here: send chunked alone")]
    UnknownCoding,
    #[error("this expectation cannot be met: send no Expect header, or 100-continue")]
    Expectation,
    #[error("the gateway has no memory left for this request: try again")]
    NoMemory,
    #[error("this port speaks HTTPS alone: write https:// instead of http:// in the URL")]
    PlainHttp,
    #[error("this connection is reserved for probes: try again on another one")]
    KeptForProbes,
}

impl Refusal {
    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::TooLong => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::NoMemory | Self::KeptForProbes => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The answer.
    pub(super) fn response(self) -> Response<Bytes> {
        let status = self.status();
        let body = format!(r#"{{"error":{{"message":"{self}","code":{}}}}}"#, status.as_u16());
        let length = HeaderValue::from(body.len());
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        let mut set = |name: HeaderName, value| response.headers_mut().insert(name, value);
        set(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if status == StatusCode::SERVICE_UNAVAILABLE {
            set(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        set(header::CONTENT_LENGTH, length);
        set(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        set(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        set(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        response
    }

    /// The answer as HTTP/1.1; the connection is closed after it.
    pub(super) fn answer(self) -> Vec<u8> {
        let (head, body) = self.response().into_parts();
        let (code, reason) = (head.status.as_u16(), head.status.canonical_reason().unwrap_or_default());
        let mut out = format!("HTTP/1.1 {code} {reason}\r\n").into_bytes();
        for (name, value) in &head.headers {
            out.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
        }
        out.extend_from_slice(b"connection: close\r\n\r\n");
        out.extend_from_slice(&body);
        out
    }
}

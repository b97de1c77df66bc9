//! What callers of `/mcp` are answered: JSON-RPC messages put together from bytes that are there already.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use http_body::{Frame, SizeHint};
use memchr::memmem;
use smallvec::SmallVec;

use super::problem::RpcProblem;
use crate::json::{Members, on_one_line};
use crate::revision::Revision;
use crate::upstream::message::json_string;

/// How the gateway introduces itself to callers, as JSON.
pub const SERVER_INFO: &str =
    concat!(r#"{"name":"portcullis","title":"Portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// Members that results have since 2026-07-28, and had not before.
const MODERN_MEMBERS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// One message, and the HTTP status that goes with it where it is the whole answer.
pub struct Reply {
    /// Its bytes, in parts.
    pub parts: SmallVec<[Bytes; 3]>,
    /// The HTTP status.
    pub status: StatusCode,
}

impl Reply {
    /// The answer with this result: the parts of a JSON object.
    pub fn result(id: &str, result: impl IntoIterator<Item = Bytes>) -> Self {
        let mut parts: SmallVec<[Bytes; 3]> = SmallVec::new();
        parts.push(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#).into());
        parts.extend(result);
        parts.push(Bytes::from_static(b"}"));
        Self { parts, status: StatusCode::OK }
    }

    /// The answer with this error.
    pub fn error(id: Option<&str>, problem: &RpcProblem, revision: Revision) -> Self {
        let (id, error) = (id.unwrap_or("null"), problem.object(revision));
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
        Self { parts: SmallVec::from_iter([text.into()]), status: problem.status(revision) }
    }

    /// The answer with a result that a server gave.
    pub fn passed_on(id: &str, result: &Bytes, method: &str, revision: Revision) -> Self {
        let fitted = fitted(result, method, revision);
        let mut text = Vec::with_capacity(fitted.len() + id.len() + 48);
        text.extend_from_slice(br#"{"jsonrpc":"2.0","id":"#);
        text.extend_from_slice(id.as_bytes());
        text.extend_from_slice(br#","result":"#);
        text.extend_from_slice(&fitted);
        text.push(b'}');
        Self { parts: SmallVec::from_iter([text.into()]), status: StatusCode::OK }
    }

    /// The same answer to a request with another id.
    #[must_use]
    pub fn readdressed(self, before: &str, now: &str) -> Self {
        let begin = format!(r#"{{"jsonrpc":"2.0","id":{before}"#);
        let status = self.status;
        let text = self.into_bytes();
        let rest = if text.starts_with(begin.as_bytes()) { text.slice(begin.len()..) } else { text };
        let begin = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{now}"#));
        Self { parts: SmallVec::from_iter([begin, rest]), status }
    }

    /// As one piece.
    pub fn into_bytes(self) -> Bytes {
        let mut parts = self.parts;
        if parts.len() == 1 {
            return parts.remove(0);
        }
        parts.concat().into()
    }

    /// As an HTTP answer of one JSON message.
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::new(Pieces(self.parts.into_iter().collect())));
        *response.status_mut() = self.status;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// A result as a caller of this revision expects it: what the server wrote, but for what the revisions differ in.
fn fitted(result: &Bytes, method: &str, revision: Revision) -> Bytes {
    // A search is cheaper than reading, and most results of legacy servers hold none of the words.
    let may_be_modern = memmem::find(result, br#""resultType""#).is_some();
    match (revision.is_modern(), may_be_modern) {
        (false, false) => result.clone(),
        (false, true) => without_modern_members(result).unwrap_or_else(|| result.clone()),
        (true, _) => with_modern_members(result, method).unwrap_or_else(|| result.clone()),
    }
}

fn with_modern_members(result: &Bytes, method: &str) -> Option<Bytes> {
    let text = std::str::from_utf8(result).ok()?;
    let members = Members::read(text).ok()?;
    let mut added = String::new();
    if members.get("resultType").is_none() {
        added.push_str(r#""resultType":"complete","#);
    }
    if method == "resources/read" {
        if members.get("ttlMs").is_none() {
            added.push_str(r#""ttlMs":0,"#);
        }
        if members.get("cacheScope").is_none() {
            added.push_str(r#""cacheScope":"private","#);
        }
    }
    if added.is_empty() {
        return None;
    }
    if members.0.is_empty() {
        added.pop();
    }
    let inside = text.trim_start().strip_prefix('{')?;
    Some(format!("{{{added}{inside}").into())
}

fn without_modern_members(result: &Bytes) -> Option<Bytes> {
    let members = Members::read(std::str::from_utf8(result).ok()?).ok()?;
    let kept = members.0.iter().filter(|(key, _)| !MODERN_MEMBERS.contains(&&**key));
    let kept: Vec<String> = kept.map(|(key, value)| format!("{}:{}", json_string(key), value.get())).collect();
    Some(format!("{{{}}}", kept.join(",")).into())
}

/// One event of a stream.
pub fn event(message: &[u8]) -> Bytes {
    let line = on_one_line(message);
    let mut text = Vec::with_capacity(line.len() + 24);
    text.extend_from_slice(b"event: message\ndata: ");
    text.extend_from_slice(&line);
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// A notification, of which the params are raw JSON.
pub fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

/// The head of a stream of events.
pub fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // nginx would hold events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// A body that is sent as it is, piece by piece.
struct Pieces(std::collections::VecDeque<Bytes>);

impl http_body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.iter().map(|piece| piece.len() as u64).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_fitted_to_what_the_caller_speaks_and_are_else_the_same_bytes() {
        let (old, new) = (Revision::V2025_06_18, Revision::V2026_07_28);
        for (result, method, revision, expected) in [
            (r#"{ "content":[],"x":1.10}"#, "tools/call", old, r#"{ "content":[],"x":1.10}"#),
            (r#"{ "content":[],"x":1.10}"#, "tools/call", new, r#"{"resultType":"complete", "content":[],"x":1.10}"#),
            ("{}", "tools/call", new, r#"{"resultType":"complete"}"#),
            (r#"{"resultType":"complete","a":1}"#, "tools/call", new, r#"{"resultType":"complete","a":1}"#),
            (r#"{"resultType":"complete","a": 1,"ttlMs":5,"cacheScope":"public"}"#, "tools/call", old, r#"{"a":1}"#),
            (r#"{"a":"\"resultType\""}"#, "tools/call", old, r#"{"a":"\"resultType\""}"#),
            (
                r#"{"contents":[]}"#,
                "resources/read",
                new,
                r#"{"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[]}"#,
            ),
            (
                r#"{"ttlMs":9,"contents":[]}"#,
                "resources/read",
                new,
                r#"{"resultType":"complete","cacheScope":"private","ttlMs":9,"contents":[]}"#,
            ),
        ] {
            assert_eq!(fitted(&Bytes::from(result), method, revision), expected, "{result} {revision}");
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_the_message_looks_like() {
        assert_eq!(event(b"{\n \"a\": 1\r\n}"), "event: message\ndata: {  \"a\": 1  }\n\n");
    }
}

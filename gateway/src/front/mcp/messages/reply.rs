//! Writes the messages to clients: JSON-RPC, put together from bytes that are there already.

use std::borrow::Cow;
use std::pin::Pin;

use axum::body::Body;
use axum::response::{IntoResponse as _, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use portcullis_mcp::protocol::json::{Members, json_string, on_one_line};
use portcullis_mcp::protocol::revision::Revision;
use portcullis_mcp::upstream::RpcResult;
use portcullis_runtime::memory::account;
use smallvec::SmallVec;

use crate::front::http::pieces::{HEADERS, pieces};
use crate::front::mcp::messages::classify::{DIRECTORY, SKILL};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::request::level;
use crate::server::handle::HeldPermits;

/// The gateway's `serverInfo`, as JSON.
pub(crate) const SERVER_INFO: &str =
    concat!(r#"{"name":"portcullis","title":"Portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#);

/// Members that results have since 2026-07-28, and had not before.
const MODERN_MEMBERS: [&str; 3] = ["resultType", "ttlMs", "cacheScope"];

/// Bytes up to which a result is copied into its message; a longer one is sent beside it.
const COPIED: usize = 4096;

/// A request on its way to a server.
pub(crate) type Work = Pin<Box<dyn Future<Output = RpcReply> + Send>>;

/// One message, and the HTTP status that goes with it where it is the whole answer.
pub(crate) struct RpcReply {
    /// Its bytes, in parts. Most have one; what has more is long, so that the room for it does not count.
    pub(crate) parts: SmallVec<[Bytes; 1]>,
    /// The HTTP status.
    pub(crate) status: StatusCode,
    /// Permits of servers, which stay taken until it is written.
    pub(crate) places: HeldPermits,
}

impl RpcReply {
    /// The answer with this result: the parts of a JSON object.
    pub(crate) fn result(id: &str, result: impl IntoIterator<Item = Bytes>) -> Self {
        let mut parts: SmallVec<[Bytes; 1]> = SmallVec::new();
        parts.push(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":"#).into());
        parts.extend(result);
        parts.push(Bytes::from_static(b"}"));
        Self { parts, status: StatusCode::OK, places: HeldPermits::new() }
    }

    /// The answer with this error.
    pub(crate) fn error(id: Option<&str>, problem: &RpcProblem, revision: Revision) -> Self {
        let (id, error) = (id.unwrap_or("null"), problem.object(revision));
        let text = format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#);
        Self { parts: SmallVec::from_iter([text.into()]), status: problem.status(revision), places: HeldPermits::new() }
    }

    /// That what came is accepted, and has no answer.
    pub(crate) fn none() -> Self {
        Self { parts: SmallVec::new(), status: StatusCode::ACCEPTED, places: HeldPermits::new() }
    }

    /// The answer with a result that a server gave.
    pub(crate) fn passed_on(id: &str, result: &RpcResult, method: &str, revision: Revision) -> Self {
        let (begin, rest) = fitted(result, method, revision);
        let copied = if rest.len() <= COPIED { rest.len() + 1 } else { 0 };
        let head: [&[u8]; 4] = [br#"{"jsonrpc":"2.0","id":"#, id.as_bytes(), br#","result":"#, begin.as_bytes()];
        // Not one byte more: with a rest of room, `Bytes` would need memory of its own.
        let mut text = Vec::with_capacity(copied + head.iter().map(|part| part.len()).sum::<usize>());
        head.iter().for_each(|part| text.extend_from_slice(part));
        let mut parts: SmallVec<[Bytes; 1]> = SmallVec::new();
        if copied > 0 {
            text.extend_from_slice(&rest);
            text.push(b'}');
            parts.push(text.into());
        } else {
            let rest = match rest {
                Cow::Borrowed(rest) => result.text.slice_ref(rest),
                Cow::Owned(rest) => rest.into(),
            };
            parts.extend([text.into(), rest, Bytes::from_static(b"}")]);
        }
        Self { parts, status: StatusCode::OK, places: HeldPermits::new() }
    }

    /// The same answer to a request with another id.
    #[must_use]
    pub(crate) fn readdressed(self, before: &str, now: &str) -> Self {
        let begin = format!(r#"{{"jsonrpc":"2.0","id":{before}"#);
        let (status, mut before) = (self.status, self);
        let places = std::mem::take(&mut before.places);
        let text = before.into_bytes();
        let rest = if text.starts_with(begin.as_bytes()) { text.slice(begin.len()..) } else { text };
        let begin = Bytes::from(format!(r#"{{"jsonrpc":"2.0","id":{now}"#));
        Self { parts: SmallVec::from_iter([begin, rest]), status, places }
    }

    /// Keeps these places until it is written.
    #[must_use]
    pub(crate) fn keeping(self, places: HeldPermits) -> Self {
        Self { places, ..self }
    }

    /// As one event of a stream, and the places that it keeps.
    pub(crate) fn into_event(mut self) -> (Bytes, HeldPermits) {
        let places = std::mem::take(&mut self.places);
        (account().kept(event(&self.into_bytes())), places)
    }

    /// As one piece.
    pub(crate) fn into_bytes(self) -> Bytes {
        let mut parts = self.parts;
        if parts.len() == 1 {
            return parts.remove(0);
        }
        account().kept(parts.concat())
    }

    /// As an HTTP answer of one JSON message.
    pub(crate) fn into_response(self) -> Response {
        if self.parts.is_empty() {
            return self.status.into_response();
        }
        let mut response = Response::new(pieces(self.parts, self.places));
        *response.status_mut() = self.status;
        response.headers_mut().reserve(HEADERS);
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// A result as a caller of this revision expects it: what the server wrote, but for what the revisions differ in. It
/// begins with a text, and goes on with what is left of it.
fn fitted<'r>(result: &'r RpcResult, method: &str, revision: Revision) -> (Cow<'static, str>, Cow<'r, [u8]>) {
    let says = result.says;
    let fitted = match (revision.is_modern(), says.has_type || says.is_cacheable) {
        _ if says.nothing => None,
        (false, false) => None,
        (false, true) => without_result_type(result)
            .filter(|_| !says.is_cacheable)
            .or_else(|| Some((Cow::Borrowed(""), Cow::Owned(without_modern_members(result)?)))),
        (true, _) if says.has_type && !is_cacheable(method) => None,
        (true, _) => with_modern_members(result, method),
    };
    fitted.unwrap_or_else(|| (Cow::Borrowed(""), Cow::Borrowed(result)))
}

/// The result without the member that it begins with, if that is the usual one.
fn without_result_type(result: &[u8]) -> Option<(Cow<'static, str>, Cow<'_, [u8]>)> {
    let rest = result.strip_prefix(br#"{"resultType":"complete","#)?;
    Some((Cow::Borrowed("{"), Cow::Borrowed(rest)))
}

fn with_modern_members<'r>(result: &'r [u8], method: &str) -> Option<(Cow<'static, str>, Cow<'r, [u8]>)> {
    const USUAL: &str = r#"{"resultType":"complete","#;
    let inside = result.trim_ascii_start().strip_prefix(b"{")?;
    let is_empty = inside.trim_ascii_start().starts_with(b"}");
    if !is_cacheable(method) && !is_empty {
        return Some((Cow::Borrowed(USUAL), Cow::Borrowed(inside)));
    }
    let members = Members::read(std::str::from_utf8(result).ok()?).ok()?;
    let mut added = String::from("{");
    if members.get("resultType").is_none() {
        added.push_str(r#""resultType":"complete","#);
    }
    if is_cacheable(method) {
        if members.get("ttlMs").is_none() {
            added.push_str(r#""ttlMs":0,"#);
        }
        if members.get("cacheScope").is_none() {
            added.push_str(r#""cacheScope":"private","#);
        }
    }
    if members.0.is_empty() {
        added.pop();
    }
    Some((Cow::Owned(added), Cow::Borrowed(inside)))
}

/// Whether results of a method say since 2026-07-28 how long they may be kept.
fn is_cacheable(method: &str) -> bool {
    matches!(method, "resources/read" | SKILL | DIRECTORY)
}

fn without_modern_members(result: &[u8]) -> Option<Vec<u8>> {
    let members = Members::read(std::str::from_utf8(result).ok()?).ok()?;
    let kept = members.0.iter().filter(|(key, _)| !MODERN_MEMBERS.contains(&&**key));
    let kept: Vec<String> = kept.map(|(key, value)| format!("{}:{}", json_string(key), value.get())).collect();
    Some(format!("{{{}}}", kept.join(",")).into())
}

/// One event of a stream.
pub(crate) fn event(message: &[u8]) -> Bytes {
    let line = on_one_line(message);
    let mut text = Vec::with_capacity(line.len() + 24);
    text.extend_from_slice(b"event: message\ndata: ");
    text.extend_from_slice(&line);
    text.extend_from_slice(b"\n\n");
    text.into()
}

/// A notification, of which the params are raw JSON.
pub(crate) fn notification(method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#)
}

/// The head of a stream of events.
pub(crate) fn event_stream(body: Body) -> Response {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
    // nginx would hold events back until its buffer is full.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// The event of a log message, if it is at least so urgent.
pub(crate) fn log_event(params: &Bytes, least: usize) -> Option<Bytes> {
    let text = std::str::from_utf8(params).ok()?;
    let of = Members::read(text).ok().and_then(|members| level(members.get("level")?).ok());
    (of? >= least).then(|| event(notification("notifications/message", text).as_bytes()))
}

/// The params of `notifications/progress` with another token.
pub(crate) fn with_token(params: &Bytes, token: &str) -> Option<String> {
    let members = Members::read(std::str::from_utf8(params).ok()?).ok()?;
    let others: String = members
        .0
        .iter()
        .filter(|(key, _)| key != "progressToken")
        .map(|(key, value)| format!(",{}:{}", json_string(key), value.get()))
        .collect();
    Some(format!(r#"{{"progressToken":{token}{others}}}"#))
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
            (r#"{"resultType":"complete","a":1}"#, "tools/call", old, r#"{"a":1}"#),
            (r#"{"resultType":"complete"}"#, "tools/call", old, "{}"),
            (r#"{"a":{"resultType":"x"}}"#, "tools/call", new, r#"{"resultType":"complete","a":{"resultType":"x"}}"#),
            (r#"{"resultType":"complete","a":{"ttlMs":1}}"#, "tools/call", old, r#"{"a":{"ttlMs":1}}"#),
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
            let given = RpcResult::of(result.into());
            let (begin, rest) = fitted(&given, method, revision);
            assert_eq!(format!("{begin}{}", std::str::from_utf8(&rest).unwrap()), expected, "{result} {revision}");
        }
    }

    #[test]
    fn a_long_result_is_the_same_as_a_short_one_but_is_not_copied() {
        for length in [COPIED - 8, COPIED - 7] {
            let result = RpcResult::of(format!(r#"{{"a":"{}"}}"#, "x".repeat(length)).into());
            let reply = RpcReply::passed_on("7", &result, "tools/call", Revision::V2025_06_18);
            assert_eq!(reply.parts.len(), if result.len() > COPIED { 3 } else { 1 });
            let expected = [br#"{"jsonrpc":"2.0","id":7,"result":"#, &result[..], b"}"].concat();
            assert_eq!(reply.into_bytes(), expected);
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_the_message_looks_like() {
        assert_eq!(event(b"{\n \"a\": 1\r\n}"), "event: message\ndata: {  \"a\": 1  }\n\n");
    }
}

//! The heads of a session's requests. What is the same for all is written out once; a call adds only what differs.
//!
//! Of headers with the same name, the session's own count before the configured ones, and those before a call's.

use std::sync::{Mutex, MutexGuard, PoisonError};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use arc_swap::ArcSwap;
use bytes::Bytes;

use super::http::{HttpPool, Outgoing, RequestHead};

/// Room for what a call adds to its head.
const ROOM: usize = 128;

/// The heads of one session's requests.
pub(super) struct Heads {
    source: Mutex<Source>,
    written: ArcSwap<Written>,
}

/// What heads are written from.
struct Source {
    endpoint: Uri,
    authority: HeaderValue,
    configured: HeaderMap,
    own: HeaderMap,
    /// Own headers whose values differ from call to call.
    varying: &'static [HeaderName],
}

struct Written {
    /// A POST, up to what a call adds.
    post: Box<[u8]>,
    /// The names of the headers in it, and of those that vary.
    names: Box<[HeaderName]>,
}

impl Heads {
    /// For requests to this endpoint.
    pub(super) fn new(pool: &HttpPool, endpoint: Uri, configured: HeaderMap, varying: &'static [HeaderName]) -> Self {
        let own = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
        ]);
        let source = Source { endpoint, authority: pool.authority().clone(), configured, own, varying };
        let written = ArcSwap::from_pointee(source.write());
        Self { source: Mutex::new(source), written }
    }

    /// Replaces the configured headers.
    pub(super) fn configure(&self, headers: HeaderMap) {
        self.rewrite(|source| source.configured = headers);
    }

    /// Adds a header of the session's own, or replaces it.
    pub(super) fn own(&self, name: &'static str, value: HeaderValue) {
        self.rewrite(|source| drop(source.own.insert(name, value)));
    }

    fn rewrite(&self, change: impl FnOnce(&mut Source)) {
        let mut source = self.source();
        change(&mut source);
        self.written.store(source.write().into());
    }

    fn source(&self) -> MutexGuard<'_, Source> {
        self.source.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A POST of a call: its headers, those that vary, and the parts of its body.
    pub(super) fn call(&self, headers: &HeaderMap, varying: &[(&'static str, &str)], parts: &[&str]) -> Outgoing {
        let written = self.written.load();
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let mut head = RequestHead::after(&written.post, ROOM + length);
        for (name, value) in varying {
            head.push_text(name, value);
        }
        for (name, value) in headers {
            if !written.names.contains(name) {
                head.push(name, value);
            }
        }
        head.with_parts(parts)
    }

    /// A POST of anything else.
    pub(super) fn post(&self, body: Bytes) -> Outgoing {
        RequestHead::after(&self.written.load().post, ROOM).with_body(body)
    }

    /// A GET of an event stream; with the id of an event, of what comes after it.
    pub(super) fn listen(&self, after: Option<HeaderValue>) -> Outgoing {
        let source = self.source();
        let mut headers = source.merged();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = after {
            headers.insert("last-event-id", id);
        }
        source.without_body(&Method::GET, &headers)
    }

    /// A DELETE.
    pub(super) fn delete(&self) -> Outgoing {
        let source = self.source();
        source.without_body(&Method::DELETE, &source.merged())
    }
}

impl Source {
    fn merged(&self) -> HeaderMap {
        let mut all = HeaderMap::with_capacity(self.configured.len() + self.own.len());
        for source in [&self.configured, &self.own] {
            for (name, value) in source {
                all.insert(name.clone(), value.clone());
            }
        }
        all
    }

    fn write(&self) -> Written {
        let mut headers = self.merged();
        for name in self.varying {
            headers.remove(name);
        }
        let mut head = RequestHead::new(&Method::POST, &self.endpoint, &self.authority);
        for (name, value) in &headers {
            head.push(name, value);
        }
        let names = headers.keys().chain(self.varying).cloned().collect();
        Written { post: head.into_begun(), names }
    }

    fn without_body(&self, method: &Method, headers: &HeaderMap) -> Outgoing {
        Outgoing::new(method, &self.endpoint, &self.authority, headers, Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::super::http::Origin;
    use super::*;

    static VARYING: [HeaderName; 1] = [HeaderName::from_static("mcp-name")];

    fn map(headers: &[(&'static str, &'static str)]) -> HeaderMap {
        let read = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        headers.iter().map(read).collect()
    }

    fn heads(configured: &[(&'static str, &'static str)]) -> Heads {
        let pool = HttpPool::new(Origin {
            host: "h".into(),
            port: 1,
            authority: HeaderValue::from_static("h:1"),
            guard: Arc::default(),
            tls: None,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Duration::from_secs(1),
        });
        Heads::new(&pool, Uri::from_static("/mcp?x=1"), map(configured), &VARYING)
    }

    /// The request line, the headers in the order of the alphabet, and the body.
    fn lines(request: &Outgoing) -> Vec<String> {
        let text = String::from_utf8([&request.text[..], &request.body[..]].concat()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<String> = head.split("\r\n").map(str::to_owned).collect();
        lines[1..].sort();
        lines.push(body.to_owned());
        lines
    }

    #[test]
    fn own_headers_count_before_configured_ones_and_those_before_a_calls() {
        let heads = heads(&[("x-b", "configured"), ("accept", "configured"), ("mcp-name", "configured")]);
        heads.own("x-c", HeaderValue::from_static("own"));
        let call = map(&[("x-a", "call"), ("x-b", "call"), ("x-c", "call"), ("accept", "call"), ("mcp-name", "call")]);
        let expected = [
            "POST /mcp?x=1 HTTP/1.1",
            "accept: application/json, text/event-stream",
            "content-length: 2",
            "content-type: application/json",
            "host: h:1",
            "mcp-name: echo",
            "x-a: call",
            "x-b: configured",
            "x-c: own",
            "{}",
        ];
        assert_eq!(lines(&heads.call(&call, &[("mcp-name", "echo")], &["{", "}"])), expected);
    }

    #[test]
    fn replaced_headers_count_from_the_next_request_on() {
        let heads = heads(&[("x-a", "1")]);
        heads.configure(map(&[("x-b", "2")]));
        heads.own("mcp-session-id", HeaderValue::from_static("old"));
        heads.own("mcp-session-id", HeaderValue::from_static("new"));
        let post = [
            "POST /mcp?x=1 HTTP/1.1",
            "accept: application/json, text/event-stream",
            "content-length: 4",
            "content-type: application/json",
            "host: h:1",
            "mcp-session-id: new",
            "x-b: 2",
            "body",
        ];
        assert_eq!(lines(&heads.post(Bytes::from_static(b"body"))), post);
        let listen =
            ["GET /mcp?x=1 HTTP/1.1", "accept: text/event-stream", "host: h:1", "mcp-session-id: new", "x-b: 2", ""];
        assert_eq!(lines(&heads.listen(None)), listen);
        let delete = [
            "DELETE /mcp?x=1 HTTP/1.1",
            "accept: application/json, text/event-stream",
            "content-type: application/json",
            "host: h:1",
            "mcp-session-id: new",
            "x-b: 2",
            "",
        ];
        assert_eq!(lines(&heads.delete()), delete);
    }
}

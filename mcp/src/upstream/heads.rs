//! Writes the heads of a session's requests. The common part is serialized once; a call appends only its own.
//!
//! Of headers with the same name, the session's own override the configured ones, and those override a call's; only the
//! credential of a call overrides a configured one. Cookies that the server has set are added to the configured ones.

use std::sync::Arc;

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use tokio::time::Instant;
use url::Url;

use super::cookies::{CookieJar, Now};
use super::send::Redirect;
use crate::http1::INSTANCE;
use crate::http1::{ACCEPT_ENCODING, Head, HttpPool, Outgoing, RequestHead, USER_AGENT};

/// Space for the headers that a call adds.
const ROOM: usize = 128;

/// The heads of one session's requests.
pub(super) struct Heads {
    source: Mutex<HeadInputs>,
    written: ArcSwap<Written>,
}

/// The inputs for writing heads.
struct HeadInputs {
    endpoint: Uri,
    authority: HeaderValue,
    configured: HeaderMap,
    own: HeaderMap,
    cookies: CookieJar,
    is_secure: bool,
    /// The last redirect that was not followed.
    redirect: Option<Redirect>,
    /// The token of this gateway.
    hop: Option<HeaderValue>,
    /// The gateways behind the server, as it last reported them.
    instances: Option<HeaderValue>,
    /// The session's own headers whose values differ from call to call.
    varying: &'static [HeaderName],
}

struct Written {
    /// The head of a POST, up to the headers that a call adds.
    post: Box<[u8]>,
    /// The length without `User-Agent`, for calls that have their own.
    without_agent: usize,
    /// The length without `User-Agent` and this gateway's token, for calls that have passed other gateways.
    without_hop: usize,
    hop: Option<HeaderValue>,
    /// The names of the headers in it that a call must not set, and of those that vary.
    names: Box<[HeaderName]>,
    /// When a cookie in it expires.
    until: Option<Instant>,
    /// The same without `Authorization`, if it has one, for calls with a credential of their own.
    without_authorization: Option<Box<Written>>,
}

impl Heads {
    /// Heads for requests to this endpoint.
    pub(super) fn new(pool: &HttpPool, endpoint: Uri, configured: HeaderMap, varying: &'static [HeaderName]) -> Self {
        let own = HeaderMap::from_iter([
            (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
            (header::ACCEPT, HeaderValue::from_static("application/json, text/event-stream")),
            (header::ACCEPT_ENCODING, ACCEPT_ENCODING),
        ]);
        let (authority, is_secure) = (pool.authority().clone(), pool.is_secure());
        let cookies = CookieJar::new(pool.host(), is_secure);
        let (redirect, hop, instances) = (None, None, None);
        let source =
            HeadInputs { endpoint, authority, configured, own, cookies, is_secure, redirect, hop, instances, varying };
        let written = ArcSwap::from_pointee(source.write(Instant::now()));
        Self { source: Mutex::new(source), written }
    }

    /// Replaces the configured headers.
    pub(super) fn configure(&self, headers: HeaderMap) {
        self.rewrite(|source| source.configured = headers);
    }

    /// Sets a header of the session's own.
    pub(super) fn own(&self, name: &'static str, value: HeaderValue) {
        self.rewrite(|source| drop(source.own.insert(name, value)));
    }

    /// Adds this gateway's token to every request.
    pub(super) fn name_instance(&self, hop: HeaderValue) {
        self.rewrite(|source| source.hop = Some(hop));
    }

    /// Remembers the gateways that the server reports behind it.
    pub(super) fn note_instances(&self, head: &Head) {
        self.source().instances = head.header(INSTANCE.as_str());
    }

    /// The last reported gateways behind the server, if it reported any.
    pub(super) fn instances(&self) -> Option<HeaderValue> {
        self.source().instances.clone()
    }

    /// Sends requests to another path of the same origin from now on.
    pub(super) fn move_to(&self, endpoint: Uri) {
        self.rewrite(|source| source.endpoint = endpoint);
    }

    /// The target of requests.
    pub(super) fn url(&self) -> Url {
        self.source().url()
    }

    /// Remembers the target of a redirect, for users.
    pub(super) fn note_redirect(&self, head: &Head) {
        let mut source = self.source();
        source.redirect = Some(Redirect::read(&source.url(), head));
    }

    /// The last redirect that was not followed.
    pub(super) fn redirect(&self) -> Option<Redirect> {
        self.source().redirect.clone()
    }

    /// Stores the cookies that a response sets.
    pub(super) fn keep_cookies(&self, head: &Head) {
        let (headers, now) = (head.headers(), Now::read());
        let mut source = self.source();
        let mut changed = false;
        for value in headers.get_all(header::SET_COOKIE) {
            let HeadInputs { cookies, endpoint, .. } = &mut *source;
            changed |= cookies.take(value.as_bytes(), endpoint.path(), now);
        }
        if changed {
            self.written.store(Arc::new(source.write(now.0)));
        }
    }

    fn rewrite(&self, change: impl FnOnce(&mut HeadInputs)) {
        let mut source = self.source();
        change(&mut source);
        self.written.store(Arc::new(source.write(Instant::now())));
    }

    fn source(&self) -> MutexGuard<'_, HeadInputs> {
        self.source.lock()
    }

    /// The serialized heads, without expired cookies.
    fn written(&self) -> Guard<Arc<Written>> {
        let written = self.written.load();
        if written.until.is_some_and(|until| until <= Instant::now()) {
            self.rewrite(|_| {});
            return self.written.load();
        }
        written
    }

    /// A POST of a call: its headers, its credential, the varying headers, and the parts of its body.
    pub(super) fn call(
        &self,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        varying: &[(&'static str, &str)],
        parts: &[&str],
    ) -> Outgoing {
        let written = self.written();
        let mut written: &Written = &written;
        let mut length: usize = parts.iter().map(|part| part.len()).sum();
        if let Some(value) = authorization {
            written = written.without_authorization.as_deref().unwrap_or(written);
            length += value.len();
        }
        let has_agent = headers.contains_key(header::USER_AGENT);
        let mut head = match headers.get(&INSTANCE) {
            None => {
                let end = if has_agent { written.without_agent } else { written.post.len() };
                RequestHead::after(&written.post[..end], ROOM + length)
            }
            Some(passed) => written.after_others(passed, has_agent, ROOM + length),
        };
        for (name, value) in varying {
            head.push_text(name, value);
        }
        if let Some(value) = authorization {
            head.push(&header::AUTHORIZATION, value);
        }
        for (name, value) in headers {
            if !written.names.contains(name) {
                head.push(name, value);
            }
        }
        head.with_parts(parts)
    }

    /// A POST of any other message.
    pub(super) fn post(&self, body: Bytes) -> Outgoing {
        RequestHead::after(&self.written().post, ROOM).with_body(body)
    }

    /// A GET of an event stream; with the id of an event, of what follows it.
    pub(super) fn listen(&self, after: Option<&HeaderValue>) -> Outgoing {
        let source = self.source();
        let mut headers = source.merged();
        headers.remove(header::CONTENT_TYPE);
        headers.insert(header::ACCEPT, HeaderValue::from_static("text/event-stream"));
        if let Some(id) = after {
            headers.insert("last-event-id", id.clone());
        }
        source.without_body(&Method::GET, headers)
    }

    /// A DELETE.
    pub(super) fn delete(&self) -> Outgoing {
        let source = self.source();
        source.without_body(&Method::DELETE, source.merged())
    }
}

impl Written {
    /// The head of a call that has passed other gateways.
    #[cold]
    fn after_others(&self, passed: &HeaderValue, has_agent: bool, room: usize) -> RequestHead {
        let mut head = RequestHead::after(&self.post[..self.without_hop], room + 2 * passed.len());
        if let Some(hop) = &self.hop {
            let all = [passed.as_bytes(), b", ", hop.as_bytes()].concat();
            HeaderValue::from_bytes(&all).into_iter().for_each(|all| head.push(&INSTANCE, &all));
        }
        if !has_agent && !self.names.contains(&header::USER_AGENT) {
            head.push(&header::USER_AGENT, &USER_AGENT);
        }
        head
    }
}

impl HeadInputs {
    fn url(&self) -> Url {
        let scheme = if self.is_secure { "https" } else { "http" };
        let authority = String::from_utf8_lossy(self.authority.as_bytes());
        let text = format!("{scheme}://{authority}{}", self.endpoint);
        Url::parse(&text).unwrap_or_else(|_| Url::parse("http://invalid.invalid/").expect("a URL"))
    }

    fn merged(&self) -> HeaderMap {
        let mut all = HeaderMap::with_capacity(self.configured.len() + self.own.len() + 1);
        for source in [&self.configured, &self.own] {
            for (name, value) in source {
                all.insert(name.clone(), value.clone());
            }
        }
        all
    }

    /// Adds the cookies to the headers; returns when the first of them expires.
    fn put_cookies(&self, headers: &mut HeaderMap, now: Instant) -> Option<Instant> {
        let path = self.endpoint.path();
        let sent = self.cookies.sent(path, headers.get(header::COOKIE), now)?;
        headers.insert(header::COOKIE, sent.value);
        sent.until
    }

    fn write(&self, now: Instant) -> Written {
        let mut headers = self.merged();
        for name in self.varying {
            headers.remove(name);
        }
        let until = self.put_cookies(&mut headers, now);
        let mut written = self.write_these(&headers, until);
        if headers.remove(header::AUTHORIZATION).is_some() {
            written.without_authorization = Some(Box::new(self.write_these(&headers, until)));
        }
        written
    }

    fn write_these(&self, headers: &HeaderMap, until: Option<Instant>) -> Written {
        let mut head = RequestHead::new(&Method::POST, &self.endpoint, &self.authority);
        for (name, value) in headers {
            head.push(name, value);
        }
        let without_hop = head.written();
        if let Some(hop) = &self.hop {
            head.push(&INSTANCE, hop);
        }
        let without_agent = head.written();
        if !headers.contains_key(header::USER_AGENT) {
            head.push(&header::USER_AGENT, &USER_AGENT);
        }
        // A caller's cookies for the gateway are not for servers.
        let names = headers.keys().chain(self.varying).chain([&header::COOKIE, &INSTANCE]).cloned().collect();
        let (hop, post, without_authorization) = (self.hop.clone(), head.into_begun(), None);
        Written { post, without_agent, without_hop, hop, names, until, without_authorization }
    }

    fn without_body(&self, method: &Method, mut headers: HeaderMap) -> Outgoing {
        if let Some(hop) = &self.hop {
            headers.insert(INSTANCE, hop.clone());
        }
        self.put_cookies(&mut headers, Instant::now());
        Outgoing::new(method, &self.endpoint, &self.authority, &headers, Bytes::new())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::http1::Origin;

    const AGENT: &str = concat!("user-agent: portcullis/", env!("CARGO_PKG_VERSION"));

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
            "accept-encoding: identity",
            "accept: application/json, text/event-stream",
            "content-length: 2",
            "content-type: application/json",
            "host: h:1",
            "mcp-name: echo",
            AGENT,
            "x-a: call",
            "x-b: configured",
            "x-c: own",
            "{}",
        ];
        assert_eq!(lines(&heads.call(&call, None, &[("mcp-name", "echo")], &["{", "}"])), expected);
    }

    #[test]
    fn replaced_headers_count_from_the_next_request_on() {
        let heads = heads(&[("x-a", "1")]);
        heads.configure(map(&[("x-b", "2")]));
        heads.own("mcp-session-id", HeaderValue::from_static("old"));
        heads.own("mcp-session-id", HeaderValue::from_static("new"));
        let post = [
            "POST /mcp?x=1 HTTP/1.1",
            "accept-encoding: identity",
            "accept: application/json, text/event-stream",
            "content-length: 4",
            "content-type: application/json",
            "host: h:1",
            "mcp-session-id: new",
            AGENT,
            "x-b: 2",
            "body",
        ];
        assert_eq!(lines(&heads.post(Bytes::from_static(b"body"))), post);
        let listen = [
            "GET /mcp?x=1 HTTP/1.1",
            "accept-encoding: identity",
            "accept: text/event-stream",
            "host: h:1",
            "mcp-session-id: new",
            AGENT,
            "x-b: 2",
            "",
        ];
        assert_eq!(lines(&heads.listen(None)), listen);
        let delete = [
            "DELETE /mcp?x=1 HTTP/1.1",
            "accept-encoding: identity",
            "accept: application/json, text/event-stream",
            "content-type: application/json",
            "host: h:1",
            "mcp-session-id: new",
            AGENT,
            "x-b: 2",
            "",
        ];
        assert_eq!(lines(&heads.delete()), delete);
    }

    /// The lines of all kinds of requests that begin so.
    fn of_all(heads: &Heads, call: &HeaderMap, begin: &str) -> [Vec<String>; 4] {
        let all = [heads.call(call, None, &[], &["{}"]), heads.post(Bytes::new()), heads.listen(None), heads.delete()];
        all.map(|request| lines(&request).into_iter().filter(|line| line.starts_with(begin)).collect())
    }

    #[test]
    fn every_request_says_who_asks_once_and_what_is_configured_counts_before_what_a_caller_says() {
        let (none, caller) = (HeaderMap::new(), map(&[("user-agent", "a caller"), ("accept-encoding", "gzip")]));
        for (configured, call, expected) in [
            (&[][..], &none, [AGENT, AGENT]),
            (&[], &caller, ["user-agent: a caller", AGENT]),
            (&[("user-agent", "mine")], &none, ["user-agent: mine"; 2]),
            (&[("user-agent", "mine"), ("accept-encoding", "br")], &caller, ["user-agent: mine"; 2]),
        ] {
            let [of_call, of_others] = expected;
            let heads = heads(configured);
            assert_eq!(of_all(&heads, call, "user-agent"), [[of_call], [of_others], [of_others], [of_others]]);
            assert_eq!(of_all(&heads, call, "accept-encoding"), [["accept-encoding: identity"]; 4]);
        }
    }

    #[test]
    fn a_call_that_has_passed_other_gateways_names_them_and_this_one() {
        let heads = heads(&[]);
        let passed = map(&[("portcullis-instance", "a, b")]);
        let none = HeaderMap::new();
        let names = |call: &HeaderMap| of_all(&heads, call, "portcullis-instance");
        assert_eq!(names(&passed), [const { Vec::<String>::new() }; 4]);
        heads.name_instance(HeaderValue::from_static("own"));
        let (own, all) = (["portcullis-instance: own"], ["portcullis-instance: a, b, own"]);
        assert_eq!(names(&none), [own, own, own, own]);
        assert_eq!(names(&passed), [all, own, own, own]);
        assert_eq!(of_all(&heads, &passed, "user-agent"), [[AGENT]; 4]);
        let both = map(&[("portcullis-instance", "a"), ("user-agent", "caller")]);
        assert_eq!(of_all(&heads, &both, "user-agent")[0], ["user-agent: caller"]);
    }

    fn setting(cookie: &str) -> Head {
        let mut arrived = bytes::BytesMut::from(format!("HTTP/1.1 200 OK\r\nset-cookie: {cookie}\r\n\r\n").as_bytes());
        Head::read(&mut arrived).expect("a head")
    }

    #[tokio::test(start_paused = true)]
    async fn cookies_of_the_server_go_along_with_every_request_until_they_end_and_those_of_callers_never() {
        let heads = heads(&[("cookie", "mine=1")]);
        let caller = map(&[("cookie", "theirs=1")]);
        let expect = |line: &str| assert_eq!(of_all(&heads, &caller, "cookie"), [[line]; 4]);
        expect("cookie: mine=1");
        heads.keep_cookies(&setting("a=1; Path=/; Max-Age=5"));
        heads.keep_cookies(&setting("b=1; Path=/mcp"));
        expect("cookie: mine=1; b=1; a=1");
        heads.move_to(Uri::from_static("/messages"));
        expect("cookie: mine=1; a=1");
        tokio::time::advance(Duration::from_secs(5)).await;
        expect("cookie: mine=1");
        let heads = self::heads(&[]);
        assert_eq!(of_all(&heads, &caller, "cookie"), [const { Vec::<String>::new() }; 4]);
    }
}

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

/// The configured headers of a session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SessionHeaders {
    /// Those of every request.
    pub all: HeaderMap,
    /// Those of requests that are no calls, instead of the ones with the same names above.
    pub listing: HeaderMap,
}

/// The heads of one session's requests.
pub(super) struct Heads {
    source: Mutex<HeadInputs>,
    written: ArcSwap<Written>,
}

/// The inputs for writing heads.
struct HeadInputs {
    endpoint: Uri,
    authority: HeaderValue,
    configured: SessionHeaders,
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
    /// Of calls, and of the gateway's own requests unless they have other headers.
    calls: WrittenPost,
    /// Of calls with a credential of their own, if the others have one: without `Authorization`.
    without_authorization: Option<Box<WrittenPost>>,
    /// Of the gateway's own requests.
    own: Option<Box<WrittenPost>>,
}

struct WrittenPost {
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
}

impl Heads {
    /// Heads for requests to this endpoint.
    pub(super) fn new(
        pool: &HttpPool,
        endpoint: Uri,
        configured: SessionHeaders,
        varying: &'static [HeaderName],
    ) -> Self {
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
    pub(super) fn configure(&self, headers: SessionHeaders) {
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
        if written.calls.until.is_some_and(|until| until <= Instant::now()) {
            self.rewrite(|_| {});
            return self.written.load();
        }
        written
    }

    /// A POST of a call: its headers, its credential, the varying headers, and the parts of its body. `is_own`: of the
    /// gateway itself.
    pub(super) fn call(
        &self,
        is_own: bool,
        headers: &HeaderMap,
        authorization: Option<&HeaderValue>,
        varying: &[(&'static str, &str)],
        parts: &[&str],
    ) -> Outgoing {
        let written = self.written();
        let written: &Written = &written;
        let mut length: usize = parts.iter().map(|part| part.len()).sum();
        let written = match authorization {
            Some(value) => {
                length += value.len();
                written.without_authorization.as_deref().unwrap_or(&written.calls)
            }
            None if is_own => written.own(),
            None => &written.calls,
        };
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
        RequestHead::after(&self.written().own().post, ROOM).with_body(body)
    }

    /// A GET of an event stream; with the id of an event, of what follows it.
    pub(super) fn listen(&self, after: Option<&HeaderValue>) -> Outgoing {
        let source = self.source();
        let mut headers = source.merged(true);
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
        source.without_body(&Method::DELETE, source.merged(true))
    }
}

impl Written {
    fn own(&self) -> &WrittenPost {
        self.own.as_deref().unwrap_or(&self.calls)
    }
}

impl WrittenPost {
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

    /// All headers but cookies. `is_own`: of the gateway's own requests.
    fn merged(&self, is_own: bool) -> HeaderMap {
        let SessionHeaders { all: configured, listing } = &self.configured;
        let listing = is_own.then_some(listing);
        let mut all = HeaderMap::with_capacity(configured.len() + self.own.len() + 1);
        for source in [Some(configured), listing, Some(&self.own)].into_iter().flatten() {
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
        let sent = |is_own| {
            let mut headers = self.merged(is_own);
            for name in self.varying {
                headers.remove(name);
            }
            let until = self.put_cookies(&mut headers, now);
            (headers, until)
        };
        let (mut headers, until) = sent(false);
        let calls = self.write_these(&headers, until);
        let has_authorization = headers.remove(header::AUTHORIZATION).is_some();
        let without_authorization = has_authorization.then(|| Box::new(self.write_these(&headers, until)));
        let own = (!self.configured.listing.is_empty()).then(|| {
            let (headers, until) = sent(true);
            Box::new(self.write_these(&headers, until))
        });
        Written { calls, without_authorization, own }
    }

    fn write_these(&self, headers: &HeaderMap, until: Option<Instant>) -> WrittenPost {
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
        let (hop, post) = (self.hop.clone(), head.into_begun());
        WrittenPost { post, without_agent, without_hop, hop, names, until }
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
mod tests;

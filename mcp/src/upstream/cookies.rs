//! Cookies that a server sets in one session: load balancers use them to pin a client to its replica.
//!
//! Pure. Source of the rules: RFC 6265, section 5; where it leaves a choice, the strict one is taken. Cookies return
//! only to the origin that set them, so their attributes for other hosts are only checked.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use ::http::HeaderValue;
use tokio::time::Instant;

use crate::http1::date;

/// The limit for the cookies of one session.
const MAX_COOKIES: usize = 32;

/// The limit for the bytes of a cookie's name and value.
const MAX_COOKIE: usize = 4096;

/// The limit for the bytes of all names and values of one session: servers refuse much longer heads.
const MAX_ALL: usize = 8192;

/// The longest lifetime of a cookie, whatever its server sets.
const MAX_AGE: Duration = Duration::from_secs(400 * 86_400);

/// The cookies of one session with one origin.
pub(super) struct CookieJar {
    host: String,
    is_secure: bool,
    cookies: Vec<Cookie>,
}

/// The cookies of a jar for one request.
pub(super) struct Sent {
    /// The value of the header.
    pub(super) value: HeaderValue,
    /// When the first of these cookies expires.
    pub(super) until: Option<Instant>,
}

struct Cookie {
    name: Vec<u8>,
    value: Vec<u8>,
    path: String,
    until: Option<Instant>,
}

/// The attributes of a cookie.
#[derive(Default)]
struct Attributes {
    domain: Option<String>,
    path: Option<String>,
    max_age: Option<i64>,
    expires: Option<SystemTime>,
    secure: bool,
}

/// A point in time, on both clocks.
#[derive(Clone, Copy)]
pub(super) struct Now(pub(super) Instant, pub(super) SystemTime);

impl Now {
    pub(super) fn read() -> Self {
        Self(Instant::now(), SystemTime::now())
    }
}

impl CookieJar {
    /// A jar for an origin: its host without brackets, and whether it uses TLS.
    pub(super) fn new(host: &str, is_secure: bool) -> Self {
        Self { host: host.to_ascii_lowercase(), is_secure, cookies: Vec::new() }
    }

    /// Stores the cookie of a `Set-Cookie` in the answer to a request of this path; false if nothing changes.
    pub(super) fn take(&mut self, text: &[u8], request_path: &str, now: Now) -> bool {
        let Some((cookie, is_over)) = self.read(text, request_path, now) else { return false };
        let known = self.cookies.iter().position(|known| known.name == cookie.name && known.path == cookie.path);
        match (known, is_over) {
            (Some(at), true) => drop(self.cookies.remove(at)),
            (Some(at), false) => {
                let known = &mut self.cookies[at];
                let changed = known.value != cookie.value || known.until != cookie.until;
                *known = cookie;
                if !changed {
                    return false;
                }
            }
            (None, true) => return false,
            (None, false) => self.cookies.push(cookie),
        }
        self.shrink(now);
        true
    }

    /// Parses a `Set-Cookie`: the cookie, and whether it has expired already; `None` if it is not for this origin.
    fn read(&self, text: &[u8], request_path: &str, now: Now) -> Option<(Cookie, bool)> {
        if text.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t') {
            return None;
        }
        let mut parts = text.split(|byte| *byte == b';');
        let pair = parts.next()?;
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        if name.is_empty() || name.len() + value.len() > MAX_COOKIE {
            return None;
        }
        let attributes = Attributes::read(parts);
        if !self.may_hold(name, &attributes) {
            return None;
        }
        let (until, is_over) = attributes.end(now);
        let path = attributes.path.unwrap_or_else(|| default_path(request_path).to_owned());
        Some((Cookie { name: name.to_vec(), value: value.to_vec(), path, until }, is_over))
    }

    /// Whether this origin may set a cookie with these attributes and receive it back.
    fn may_hold(&self, name: &[u8], attributes: &Attributes) -> bool {
        let begins =
            |prefix: &str| name.get(..prefix.len()).is_some_and(|it| it.eq_ignore_ascii_case(prefix.as_bytes()));
        let of_host = attributes.domain.as_deref().is_none_or(|domain| self.is_in(domain));
        let secure = !attributes.secure || self.is_secure;
        let prefix = match (begins("__Host-"), begins("__Secure-")) {
            (true, _) => attributes.secure && attributes.domain.is_none() && attributes.path.as_deref() == Some("/"),
            (_, true) => attributes.secure,
            _ => true,
        };
        of_host && secure && prefix
    }

    fn is_in(&self, domain: &str) -> bool {
        if self.host == domain {
            return true;
        }
        let below = self.host.strip_suffix(domain).is_some_and(|rest| rest.ends_with('.'));
        below && self.host.parse::<IpAddr>().is_err()
    }

    /// Drops expired cookies, and the oldest ones above the limits.
    fn shrink(&mut self, now: Now) {
        self.cookies.retain(|cookie| cookie.lives(now.0));
        let size = |cookies: &[Cookie]| cookies.iter().map(|it| it.name.len() + it.value.len()).sum::<usize>();
        while self.cookies.len() > MAX_COOKIES || size(&self.cookies) > MAX_ALL {
            self.cookies.remove(0);
        }
    }

    /// The cookies for a request of this path, after the configured ones; `None` if there are none.
    pub(super) fn sent(&self, path: &str, configured: Option<&HeaderValue>, now: Instant) -> Option<Sent> {
        let configured = configured.map_or(&b""[..], HeaderValue::as_bytes).trim_ascii();
        let is_configured = |name: &[u8]| {
            let names = configured.split(|byte| *byte == b';').map(|pair| pair.split(|byte| *byte == b'=').next());
            names.flatten().any(|configured| configured.trim_ascii() == name)
        };
        let fits = |cookie: &&Cookie| cookie.lives(now) && covers(&cookie.path, path) && !is_configured(&cookie.name);
        let mut chosen: Vec<&Cookie> = self.cookies.iter().filter(fits).collect();
        if chosen.is_empty() {
            return None;
        }
        // The sort is stable: cookies with paths of equal length stay in order of creation.
        chosen.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs = chosen.iter().map(|cookie| [&cookie.name[..], b"=", &cookie.value].concat());
        let all: Vec<Vec<u8>> =
            Some(configured.to_vec()).filter(|it| !it.is_empty()).into_iter().chain(pairs).collect();
        let mut value = HeaderValue::from_bytes(&all.join(&b"; "[..])).ok()?;
        value.set_sensitive(true);
        Some(Sent { value, until: chosen.iter().filter_map(|cookie| cookie.until).min() })
    }
}

impl Cookie {
    fn lives(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| now < until)
    }
}

impl Attributes {
    fn read<'a>(parts: impl Iterator<Item = &'a [u8]>) -> Self {
        let mut found = Self::default();
        for part in parts.filter_map(|part| std::str::from_utf8(part).ok()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.trim();
            match name.trim().to_ascii_lowercase().as_str() {
                "domain" => {
                    let domain = value.strip_prefix('.').unwrap_or(value).to_ascii_lowercase();
                    found.domain = Some(domain).filter(|domain| !domain.is_empty());
                }
                "path" => found.path = Some(value.to_owned()).filter(|path| path.starts_with('/')),
                "max-age" => found.max_age = seconds(value).or(found.max_age),
                "expires" => found.expires = date::parse(value).or(found.expires),
                "secure" => found.secure = true,
                _ => {}
            }
        }
        found
    }

    /// The expiry, and whether it has passed. `Max-Age` overrides `Expires`.
    fn end(&self, now: Now) -> (Option<Instant>, bool) {
        let left = match (self.max_age, self.expires) {
            (Some(seconds), _) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)),
            (None, Some(at)) => at.duration_since(now.1).unwrap_or(Duration::ZERO),
            (None, None) => return (None, false),
        };
        (Some(now.0 + left.min(MAX_AGE)), left.is_zero())
    }
}

/// Parses a number of seconds of any length; `None` if it is not a number.
fn seconds(text: &str) -> Option<i64> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(if text.starts_with('-') { -1 } else { i64::MAX }))
}

/// The directory of a path.
fn default_path(path: &str) -> &str {
    let path = path.split('?').next().unwrap_or_default();
    match path.rfind('/') {
        Some(at) if at > 0 && path.starts_with('/') => &path[..at],
        _ => "/",
    }
}

/// Whether a cookie of path `cookie` is sent with a request of path `request`.
fn covers(cookie: &str, request: &str) -> bool {
    let request = request.split('?').next().unwrap_or_default();
    let rest = request.strip_prefix(cookie);
    rest.is_some_and(|rest| rest.is_empty() || cookie.ends_with('/') || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    /// A point in time with this many seconds after another.
    fn at(seconds: u64) -> Now {
        thread_local! { static BEGAN: Instant = Instant::now(); }
        Now(BEGAN.with(|it| *it) + Duration::from_secs(seconds), UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds))
    }

    fn sent(jar: &CookieJar, path: &str, seconds: u64) -> String {
        let sent = jar.sent(path, None, at(seconds).0);
        sent.map(|sent| String::from_utf8_lossy(sent.value.as_bytes()).into_owned()).unwrap_or_default()
    }

    /// The cookies for `/mcp` after its response has set these.
    fn after(jar: &mut CookieJar, all: &[&str]) -> String {
        for text in all {
            jar.take(text.as_bytes(), "/mcp?key=1", at(0));
        }
        sent(jar, "/mcp?key=1", 0)
    }

    fn plain() -> CookieJar {
        CookieJar::new("Mcp.Example.com", false)
    }

    #[test]
    fn cookies_go_back_in_their_order_and_a_new_value_takes_the_place_of_the_old() {
        assert_eq!(after(&mut plain(), &["a=1", "b=2; HttpOnly", "a=3"]), "a=3; b=2");
        assert_eq!(after(&mut plain(), &["a=1; Path=/mcp", "b=2", "a=0"]), "a=1; b=2; a=0");
        let odd = &[" a = x=y \t; SameSite=None", "c=\"q\"", "empty=", "caf\u{e9}=1"];
        assert_eq!(after(&mut plain(), odd), "a=x=y; c=\"q\"; empty=; caf\u{e9}=1");
    }

    #[test]
    fn what_is_no_cookie_or_not_for_this_origin_is_ignored() {
        for text in [
            "",
            "a",
            "=1",
            "; Path=/",
            "a=1\r\nx: y",
            "a=\0",
            "a=1; Domain=example.org",
            "a=1; Domain=other.example.com",
            "a=1; Domain=cp.example.com",
            "a=1; Domain=deep.mcp.example.com",
            "a=1; Secure",
            "__Secure-a=1",
            "__Host-a=1; Path=/",
            &format!("a={}", "x".repeat(MAX_COOKIE)),
        ] {
            assert_eq!(after(&mut plain(), &[text]), "", "{text}");
        }
        for text in ["a=1; Domain=mcp.example.com", "a=1; domain=.EXAMPLE.com", "a=1; Domain=", "a=1; Domain=."] {
            assert_eq!(after(&mut plain(), &[text]), "a=1", "{text}");
        }
        let address = &mut CookieJar::new("10.0.0.1", false);
        assert_eq!(after(address, &["a=1; Domain=0.0.1", "b=1; Domain=10.0.0.1"]), "b=1");
        let secure = &mut CookieJar::new("mcp.example.com", true);
        let all =
            &["a=1; Secure", "__Host-b=1; Secure; Path=/", "__host-c=1; Secure; Path=/mcp", "__Secure-d=1; secure"];
        assert_eq!(after(secure, all), "a=1; __Host-b=1; __Secure-d=1");
    }

    #[test]
    fn a_cookie_goes_along_with_requests_below_its_path() {
        let cases = [
            ("/", "/mcp", true),
            ("/mcp", "/mcp", true),
            ("/mcp", "/mcp/", true),
            ("/mcp", "/mcp?x=1", true),
            ("/mcp/", "/mcp/x", true),
            ("/mcp/", "/mcp", false),
            ("/mcp", "/mcpx", false),
            ("/other", "/mcp", false),
        ];
        for (cookie, request, goes) in cases {
            let mut jar = plain();
            jar.take(format!("a=1; Path={cookie}").as_bytes(), "/elsewhere", at(0));
            assert_eq!(sent(&jar, request, 0), if goes { "a=1" } else { "" }, "{cookie} {request}");
        }
        // Without a valid path, the cookie's path is the directory of the request.
        for (request, other, goes) in
            [("/mcp", "/messages", true), ("/a/sse", "/a/messages", true), ("/a/sse", "/b", false), ("", "/b", true)]
        {
            for text in ["a=1", "a=1; Path=", "a=1; Path=elsewhere"] {
                let mut jar = plain();
                jar.take(text.as_bytes(), request, at(0));
                assert_eq!(sent(&jar, other, 0), if goes { "a=1" } else { "" }, "{request} {other} {text}");
            }
        }
    }

    #[test]
    fn a_cookie_ends_when_it_says() {
        for (end, lives_until) in [
            ("Max-Age=10", Some(10)),
            ("max-age=10; Expires=Thu, 01 Jan 1970 00:00:00 GMT", Some(10)),
            ("Expires=Mon, 12 Jan 1970 13:46:50 GMT", Some(10)),
            ("Expires=Monday, 12-Jan-70 13:46:50 GMT", Some(10)),
            ("Expires=never", None),
            ("Max-Age=x", None),
            ("Max-Age=", None),
        ] {
            let mut jar = plain();
            jar.take(format!("a=1; {end}").as_bytes(), "/", at(0));
            assert_eq!(sent(&jar, "/", 9), "a=1", "{end}");
            assert_eq!(sent(&jar, "/", 10), if lives_until.is_some() { "" } else { "a=1" }, "{end}");
            let until = jar.sent("/", None, at(0).0).and_then(|sent| sent.until);
            assert_eq!(until, lives_until.map(|seconds| at(seconds).0), "{end}");
        }
        let mut jar = plain();
        jar.take(b"a=1; Max-Age=99999999999999999999", "/", at(0));
        assert_eq!(jar.sent("/", None, at(0).0).and_then(|sent| sent.until), Some(at(0).0 + MAX_AGE));
        for end in ["Max-Age=0", "Max-Age=-1", "Max-Age=-99999999999999999999", "Expires=Thu, 01 Jan 1970 00:00:00 GMT"]
        {
            let mut jar = plain();
            assert!(jar.take(b"a=1", "/", at(0)));
            assert!(jar.take(format!("a=gone; {end}").as_bytes(), "/", at(0)));
            assert_eq!(sent(&jar, "/", 0), "", "{end}");
            assert!(!jar.take(format!("a=gone; {end}").as_bytes(), "/", at(0)));
        }
    }

    #[test]
    fn a_jar_holds_no_more_than_it_may_and_the_oldest_go() {
        let mut jar = plain();
        for number in 0..1000 {
            jar.take(format!("a{number}=1").as_bytes(), "/", at(0));
        }
        let expected: Vec<String> = (1000 - MAX_COOKIES..1000).map(|number| format!("a{number}=1")).collect();
        assert_eq!(sent(&jar, "/", 0), expected.join("; "));
        for name in ["x", "y", "z"] {
            jar.take(format!("{name}={}", "v".repeat(MAX_COOKIE - 1)).as_bytes(), "/", at(0));
        }
        let found = sent(&jar, "/", 0);
        assert!(found.starts_with("y=v") && found.contains("; z=v") && found.len() == MAX_ALL + 4, "{}", found.len());
    }

    #[test]
    fn configured_cookies_come_first_and_count_before_those_of_the_server() {
        let mut jar = plain();
        for text in ["a=1", "key=theirs"] {
            jar.take(text.as_bytes(), "/", at(0));
        }
        let with = |configured: &'static str| {
            let sent = jar.sent("/", Some(&HeaderValue::from_static(configured)), at(0).0).unwrap();
            assert!(sent.value.is_sensitive());
            sent.value.to_str().unwrap().to_owned()
        };
        assert_eq!(with("key=ours; b=2"), "key=ours; b=2; a=1");
        assert_eq!(with(""), "a=1; key=theirs");
    }

    proptest! {
        #[test]
        fn whatever_is_set_the_header_is_valid_and_bounded(all in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..60)) {
            let mut jar = plain();
            for text in &all {
                jar.take(text, "/mcp", at(0));
            }
            if let Some(sent) = jar.sent("/mcp", None, at(0).0) {
                prop_assert!(sent.value.len() <= MAX_ALL + 3 * MAX_COOKIES);
            }
        }
    }
}

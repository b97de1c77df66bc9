//! Sends a session's requests: stores the cookies of their responses, and follows a redirect within the origin.

use std::fmt;
use std::time::{Duration, SystemTime};

use ::http::{Uri, header};
use url::Url;

use super::call::CallError;
use super::core::Core;
use super::heads::Heads;
use crate::http1::{Exchange, Head, HttpError, Outgoing, date};

/// The longest accepted delay before a retry.
const MAX_LATER: Duration = Duration::from_secs(86_400);

/// The limit for the shown target of a redirect.
const MAX_SHOWN: usize = 256;

/// A redirect that is not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The HTTP status.
    pub(crate) status: u16,
    /// The target: scheme, host, port and path. `None` if the response gives none.
    pub(crate) to: Option<String>,
}

impl fmt::Display for Redirect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, to } = self;
        match to {
            Some(to) => write!(
                f,
                "redirects to {to} (HTTP status {status}), where the gateway does not follow: if that is the server, write \
                 it as spec.url, or its path as spec.service.path"
            ),
            None => write!(f, "redirects without saying where to (HTTP status {status}): correct spec.url"),
        }
    }
}

impl Core {
    /// Sends a request, which `write` writes, and waits for the head of its response. The caller sets the deadline. A
    /// 307 or 308 within the origin is followed once, and remembered for the session. A `repeatable` request is sent
    /// again on a new connection if the server closed the idle connection that carried it.
    ///
    /// # Errors
    /// See [`crate::http1::HttpPool::exchange`].
    pub(super) async fn exchange(
        &self,
        heads: &Heads,
        repeatable: bool,
        write: impl Fn(&Heads) -> Outgoing,
    ) -> Result<Exchange, HttpError> {
        let exchange = self.exchange_in_place(heads, repeatable, &write).await?;
        if matches!(exchange.head.status.as_u16(), 307 | 308)
            && let Some(endpoint) = within_origin(&heads.url(), &exchange.head)
        {
            heads.move_to(endpoint);
            exchange.linger();
            return Box::pin(self.exchange_in_place(heads, repeatable, &write)).await;
        }
        Ok(exchange)
    }

    /// The same without following a redirect: the redirect would not apply to requests of other kinds.
    pub(super) async fn exchange_in_place(
        &self,
        heads: &Heads,
        repeatable: bool,
        write: impl Fn(&Heads) -> Outgoing,
    ) -> Result<Exchange, HttpError> {
        let exchange = match self.pool.exchange(write(heads)).await {
            Err(HttpError::Stale) if repeatable => Box::pin(self.pool.exchange_anew(write(heads))).await?,
            outcome => outcome?,
        };
        if exchange.head.sets_cookies {
            heads.keep_cookies(&exchange.head);
        }
        if exchange.head.names_instances {
            heads.note_instances(&exchange.head);
        }
        if exchange.head.status.is_redirection() {
            heads.note_redirect(&exchange.head);
        }
        Ok(exchange)
    }
}

/// The meaning of a response with this status that announces when to retry.
pub(super) fn later(head: &Head) -> Option<CallError> {
    let status = head.status.as_u16();
    let value = matches!(status, 429 | 503).then(|| head.header(header::RETRY_AFTER.as_str()))??;
    let after = pause(value.to_str().ok()?.trim(), SystemTime::now())?;
    Some(CallError::Later { status, after: after.clamp(Duration::from_secs(1), MAX_LATER) })
}

/// Parses a number of seconds, or the time until a date.
fn pause(text: &str, now: SystemTime) -> Option<Duration> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Some(text.parse().map_or(MAX_LATER, Duration::from_secs));
    }
    date::parse(text).map(|at| at.duration_since(now).unwrap_or(Duration::ZERO))
}

impl Redirect {
    /// The redirect in the response to a request at `from`.
    pub(super) fn read(from: &Url, head: &Head) -> Self {
        let to = target(from, head).map(|to| {
            let shown = format!("{}{}", to.origin().ascii_serialization(), to.path());
            if shown.len() > MAX_SHOWN { format!("{}...", shown.get(..MAX_SHOWN).unwrap_or_default()) } else { shown }
        });
        Self { status: head.status.as_u16(), to }
    }
}

fn target(from: &Url, head: &Head) -> Option<Url> {
    let location = head.header(header::LOCATION.as_str())?;
    let to = from.join(location.to_str().ok()?).ok()?;
    matches!(to.scheme(), "http" | "https").then_some(to)
}

/// Path and query of a redirect's target, if it is another path of the same origin.
fn within_origin(from: &Url, head: &Head) -> Option<Uri> {
    let to = target(from, head)?;
    let is_within = to.origin() == from.origin() && to.username().is_empty() && to.password().is_none();
    let moves = (to.path(), to.query()) != (from.path(), from.query());
    if is_within && moves { path_and_query(&to) } else { None }
}

/// Path and query of a URL, as in a request line.
pub(super) fn path_and_query(url: &Url) -> Option<Uri> {
    let mut text = url.path().to_owned();
    if let Some(query) = url.query() {
        text.push('?');
        text.push_str(query);
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_a_server_may_be_asked_again_is_read_in_both_forms_and_bounded() {
        let now = date::parse("Sun, 06 Nov 1994 08:49:00 GMT").unwrap();
        for (text, expected) in [
            ("37", Some(37)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sunday, 06-Nov-94 08:50:00 GMT", Some(60)),
            ("Sun, 06 Nov 1994 08:00:00 GMT", Some(0)),
            ("", None),
            ("-1", None),
            ("1.5", None),
            ("soon", None),
        ] {
            assert_eq!(pause(text, now).map(|after| after.as_secs()), expected, "{text}");
        }
        let said = |status: u16, text: &str| {
            let text = format!("HTTP/1.1 {status} X\r\nretry-after: {text}\r\n\r\n");
            later(&Head::read(&mut text.as_bytes().into()).unwrap())
        };
        let after = |status, seconds| Some(CallError::Later { status, after: Duration::from_secs(seconds) });
        assert_eq!(said(429, " 37 "), after(429, 37));
        assert_eq!(said(503, "0"), after(503, 1));
        assert_eq!(said(429, "9999999"), after(429, 86_400));
        assert_eq!(said(503, "Fri, 31 Dec 9999 23:59:59 GMT"), after(503, 86_400));
        assert_eq!([said(500, "37"), said(429, "soon"), said(404, "37")], [None, None, None]);
    }

    #[test]
    fn only_what_stays_within_the_origin_is_followed_and_what_is_shown_holds_no_query() {
        let from = Url::parse("http://server:8080/a/mcp?key=secret").unwrap();
        for (location, followed, shown) in [
            ("/a/mcp/?key=secret", Some("/a/mcp/?key=secret"), Some("http://server:8080/a/mcp/")),
            ("/a/mcp/", Some("/a/mcp/"), Some("http://server:8080/a/mcp/")),
            ("mcp/", Some("/a/mcp/"), Some("http://server:8080/a/mcp/")),
            ("HTTP://SERVER:8080/x#part", Some("/x"), Some("http://server:8080/x")),
            ("?other=1", Some("/a/mcp?other=1"), Some("http://server:8080/a/mcp")),
            ("/a/mcp?key=secret", None, Some("http://server:8080/a/mcp")),
            ("https://server:8080/a/mcp", None, Some("https://server:8080/a/mcp")),
            ("http://server/a/mcp", None, Some("http://server/a/mcp")),
            ("http://evil.example/a/mcp?key=1", None, Some("http://evil.example/a/mcp")),
            ("//evil.example/", None, Some("http://evil.example/")),
            ("http://user:secret@server:8080/x", None, Some("http://server:8080/x")),
            ("http://server:8080@evil/x", None, Some("http://evil/x")),
            ("ftp://server:8080/x", None, None),
            ("javascript:alert(1)", None, None),
            ("http://[", None, None),
        ] {
            let text = format!("HTTP/1.1 307 X\r\nlocation: {location}\r\n\r\n");
            let head = Head::read(&mut text.as_bytes().into()).unwrap();
            let found = within_origin(&from, &head).map(|uri| uri.to_string());
            assert_eq!(found.as_deref(), followed, "{location}");
            assert_eq!(Redirect::read(&from, &head).to.as_deref(), shown, "{location}");
        }
        let head = Head::read(&mut "HTTP/1.1 302 X\r\n\r\n".as_bytes().into()).unwrap();
        assert_eq!(Redirect::read(&from, &head), Redirect { status: 302, to: None });
        let text = format!("HTTP/1.1 302 X\r\nlocation: /{}\r\n\r\n", "x".repeat(2000));
        let head = Head::read(&mut text.as_bytes().into()).unwrap();
        assert!(Redirect::read(&from, &head).to.is_some_and(|to| to.len() == MAX_SHOWN + 3));
    }
}

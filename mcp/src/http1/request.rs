//! Writes the heads of requests.
//!
//! Pure. Only this module declares the body's length and presence: headers of callers never do.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};

/// A request as sent on the wire.
pub(crate) struct Outgoing {
    /// The head, with the body if that was written behind it.
    pub(crate) text: Vec<u8>,
    /// The bytes that follow `text`.
    pub(crate) body: Bytes,
    /// How many bytes of both have been written.
    pub(super) sent: usize,
}

/// The head of a request that is being written.
pub(crate) struct RequestHead(Vec<u8>);

/// Headers that belong to the connection or to the framing of the body.
const RESERVED: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];

/// The default `User-Agent`: firewalls refuse requests without one.
pub(crate) const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("portcullis/", env!("CARGO_PKG_VERSION")));

/// Responses are forwarded byte for byte and never decoded. A request without this header allows any coding (RFC 9110,
/// section 12.5.3).
pub(crate) const ACCEPT_ENCODING: HeaderValue = HeaderValue::from_static("identity");

impl RequestHead {
    /// Writes the request line and `Host`.
    pub(crate) fn new(method: &Method, path: &Uri, authority: &HeaderValue) -> Self {
        let path = path.path_and_query().map_or("/", |path| path.as_str());
        let mut head = Vec::with_capacity(512);
        for part in [method.as_str().as_bytes(), b" ", path.as_bytes(), b" HTTP/1.1\r\nhost: ", authority.as_bytes()] {
            head.extend_from_slice(part);
        }
        head.extend_from_slice(b"\r\n");
        Self(head)
    }

    /// Continues a prepared head, with space for this many bytes more.
    pub(crate) fn after(begun: &[u8], room: usize) -> Self {
        let mut head = Vec::with_capacity(begun.len() + room);
        head.extend_from_slice(begun);
        Self(head)
    }

    /// The bytes written so far.
    pub(crate) fn into_begun(self) -> Box<[u8]> {
        self.0.into()
    }

    /// How many bytes are written so far.
    pub(crate) fn written(&self) -> usize {
        self.0.len()
    }

    /// Adds a header, unless only this module may write it. The caller ensures that no header is added twice.
    pub(crate) fn push(&mut self, name: &HeaderName, value: &HeaderValue) {
        if !RESERVED.contains(name) {
            self.line(name.as_str(), value.as_bytes());
        }
    }

    /// Adds a header with this text as its value; skips a text that is not a valid value.
    pub(crate) fn push_text(&mut self, name: &'static str, value: &str) {
        if value.bytes().all(|byte| byte == b'\t' || (byte >= b' ' && byte != 0x7f)) {
            self.line(name, value.as_bytes());
        }
    }

    /// Ends the head of a request without a body.
    pub(crate) fn without_body(mut self) -> Outgoing {
        self.0.extend_from_slice(b"\r\n");
        Outgoing { text: self.0, body: Bytes::new(), sent: 0 }
    }

    /// Ends the head of a request with this body, which is not copied.
    pub(crate) fn with_body(mut self, body: Bytes) -> Outgoing {
        self.end(body.len());
        Outgoing { text: self.0, body, sent: 0 }
    }

    /// Ends the head of a request whose body consists of these parts, and appends them: one buffer, one write.
    pub(crate) fn with_parts(mut self, parts: &[&str]) -> Outgoing {
        let length = parts.iter().map(|part| part.len()).sum();
        self.end(length);
        self.0.reserve_exact(length);
        parts.iter().for_each(|part| self.0.extend_from_slice(part.as_bytes()));
        Outgoing { text: self.0, body: Bytes::new(), sent: 0 }
    }

    fn end(&mut self, length: usize) {
        self.0.extend_from_slice(b"content-length: ");
        self.0.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        self.0.extend_from_slice(b"\r\n\r\n");
    }

    fn line(&mut self, name: &str, value: &[u8]) {
        for part in [name.as_bytes(), b": ", value, b"\r\n"] {
            self.0.extend_from_slice(part);
        }
    }
}

impl Outgoing {
    /// A request with these headers, and with the default headers that they do not override.
    pub(crate) fn new(method: &Method, path: &Uri, authority: &HeaderValue, headers: &HeaderMap, body: Bytes) -> Self {
        let mut head = RequestHead::new(method, path, authority);
        for (name, value) in [(header::USER_AGENT, USER_AGENT), (header::ACCEPT_ENCODING, ACCEPT_ENCODING)] {
            if !headers.contains_key(&name) {
                head.push(&name, &value);
            }
        }
        for (name, value) in headers {
            head.push(name, value);
        }
        let silent = body.is_empty() && [Method::GET, Method::DELETE].contains(method);
        if silent { head.without_body() } else { head.with_body(body) }
    }

    /// The bytes still to be written, in two parts.
    pub(super) fn rest(&self) -> (&[u8], &[u8]) {
        let text = self.text.get(self.sent..).unwrap_or_default();
        let body = &self.body[self.sent.saturating_sub(self.text.len()).min(self.body.len())..];
        (text, body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(outgoing: &Outgoing) -> String {
        String::from_utf8([&outgoing.text[..], &outgoing.body[..]].concat()).unwrap()
    }

    #[test]
    fn a_request_says_how_long_its_body_is_and_no_header_can_say_otherwise() {
        let headers: HeaderMap = [("host", "other"), ("x-a", "1"), ("content-length", "9"), ("transfer-encoding", "x")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect();
        let begin = format!("/a?b=c HTTP/1.1\r\nhost: h:1\r\nuser-agent: {}\r\n", USER_AGENT.to_str().unwrap());
        let begin = format!("{begin}accept-encoding: identity\r\nx-a: 1\r\n");
        let cases = [
            (Method::POST, "{}", "content-length: 2\r\n\r\n{}"),
            (Method::POST, "", "content-length: 0\r\n\r\n"),
            (Method::GET, "", "\r\n"),
            (Method::DELETE, "", "\r\n"),
        ];
        let (path, authority) = (Uri::from_static("/a?b=c"), HeaderValue::from_static("h:1"));
        for (method, body, expected) in cases {
            let request = Outgoing::new(&method, &path, &authority, &headers, Bytes::from_static(body.as_bytes()));
            assert_eq!(written(&request), format!("{method} {begin}{expected}"));
        }
        let own: HeaderMap = [(header::USER_AGENT, "me"), (header::ACCEPT_ENCODING, "br")]
            .into_iter()
            .map(|(name, value)| (name, HeaderValue::from_static(value)))
            .collect();
        let request = written(&Outgoing::new(&Method::GET, &path, &authority, &own, Bytes::new()));
        assert_eq!(request, "GET /a?b=c HTTP/1.1\r\nhost: h:1\r\nuser-agent: me\r\naccept-encoding: br\r\n\r\n");
    }

    #[test]
    fn what_is_left_to_write_is_known_after_any_number_of_bytes() {
        let head = RequestHead::new(&Method::POST, &Uri::from_static("/"), &HeaderValue::from_static("h"));
        let mut request = head.with_body(Bytes::from_static(b"body"));
        let whole = written(&request);
        for sent in 0..=whole.len() {
            request.sent = sent;
            let (text, body) = request.rest();
            assert_eq!([text, body].concat(), whole.as_bytes()[sent..], "{sent}");
        }
    }

    #[test]
    fn parts_of_a_body_are_written_behind_the_head() {
        let begun =
            RequestHead::new(&Method::POST, &Uri::from_static("/"), &HeaderValue::from_static("h")).into_begun();
        let mut head = RequestHead::after(&begun, 10);
        head.push_text("x-a", "caf\u{e9}\tb");
        head.push_text("x-b", "two\r\nlines");
        let request = head.with_parts(&["one", "", "two"]);
        let expected = "POST / HTTP/1.1\r\nhost: h\r\nx-a: caf\u{e9}\tb\r\ncontent-length: 6\r\n\r\nonetwo";
        assert_eq!(written(&request), expected);
    }
}

//! Parses the head of a request. Pure.
//!
//! Source of the rules: RFC 9112. A request that two parsers could read differently is invalid: another parser on the
//! path may have read it the other way.

use std::mem::MaybeUninit;

use httparse::{Error, Header, ParserConfig, Request, Status};

use super::body::Framing;
use super::fields::Fields;
use super::refusal::Refusal;

/// The limit for the bytes of a head; a longer one is answered with 431.
pub(super) const HEAD: usize = 32 * 1024;

/// The limit for the fields of a head; more are answered with 431.
pub(super) const FIELDS: usize = 100;

/// The content at the front of the received bytes.
pub(super) enum Read<T> {
    /// The head of a request.
    Head(Head<T>),
    /// An incomplete head.
    Part,
    /// A request that cannot be answered.
    Refused(Refusal),
}

/// The head of a request.
pub(super) struct Head<T> {
    pub(super) route: T,
    pub(super) fields: Fields,
    pub(super) asks: Asks,
    /// Its length in bytes.
    pub(super) length: usize,
}

/// What a head requires of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Asks {
    /// How the end of the body is found.
    pub(super) framing: Framing,
    /// The connection continues after the answer.
    pub(super) keeps: bool,
    /// The client uses HTTP/1.0.
    pub(super) is_old: bool,
    /// The answer has no body.
    pub(super) is_head: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub(super) awaits: bool,
}

/// Parses the received bytes, at least one. `route` translates a method and a target; `None`: the target is invalid.
pub(super) fn read<T>(come: &[u8], route: impl FnOnce(&str, &str) -> Option<T>) -> Read<T> {
    let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS];
    let mut request = Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, come, &mut space);
    let length = match parsed {
        Ok(Status::Complete(length)) if length <= HEAD => length,
        Ok(Status::Partial) if come.len() < HEAD => return Read::Part,
        Ok(_) | Err(Error::TooManyHeaders) => return Read::Refused(Refusal::TooLong),
        Err(_) => return Read::Refused(Refusal::Malformed),
    };
    let (Some(method), Some(target), Some(minor)) = (request.method, request.path, request.version) else {
        return Read::Refused(Refusal::Malformed);
    };
    let head = &come[..length];
    if !has_whole_line_ends(head, target, request.headers) {
        return Read::Refused(Refusal::LineEnd);
    }
    let asks = match asks(method, minor, request.headers) {
        Ok(asks) => asks,
        Err(refusal) => return Read::Refused(refusal),
    };
    let Some(route) = route(method, target) else { return Read::Refused(Refusal::Target) };
    Read::Head(Head { route, fields: Fields::of_head(head, request.headers), asks, length })
}

/// Whether every line ends with CR and LF. The parser also accepts a bare LF, others on the path may not.
fn has_whole_line_ends(head: &[u8], target: &str, headers: &[Header<'_>]) -> bool {
    let start = head.as_ptr().addr();
    let end_of = |part: &[u8]| part.as_ptr().addr().wrapping_sub(start) + part.len();
    let version = " HTTP/1.1".len();
    let is_whole = |header: &Header<'_>| match head.get(end_of(header.value)..).unwrap_or_default() {
        [b'\r', ..] => true,
        // Spaces may follow a value.
        rest => rest.iter().find(|byte| !matches!(byte, b' ' | b'\t')) == Some(&b'\r'),
    };
    head.get(end_of(target.as_bytes()) + version) == Some(&b'\r')
        && head.ends_with(b"\r\n\r\n")
        && headers.iter().all(is_whole)
}

/// What the fields require of the connection and of the body.
fn asks(method: &str, minor: u8, headers: &[Header<'_>]) -> Result<Asks, Refusal> {
    let is_old = minor == 0;
    let mut asks =
        Asks { framing: Framing::Length(0), keeps: !is_old, is_old, is_head: method == "HEAD", awaits: false };
    let (mut hosts, mut length, mut is_chunked) = (0, None, false);
    for Header { name, value } in headers {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 if is("host") => {
                hosts += 1;
                if !is_host(value) {
                    return Err(Refusal::Host);
                }
            }
            6 if is("expect") => asks.awaits = expects(value)? || asks.awaits,
            10 if is("connection") => connection(value, &mut asks),
            14 if is("content-length") => once(&mut length, number(value).ok_or(Refusal::Length)?)?,
            17 if is("transfer-encoding") => {
                if std::mem::replace(&mut is_chunked, true) {
                    return Err(Refusal::Coding);
                }
                coding(value)?;
            }
            _ => {}
        }
    }
    // RFC 9112 section 3.2: 1.1 requires exactly one, 1.0 at most one.
    if hosts > 1 || (hosts == 0 && !is_old) {
        return Err(Refusal::Hosts);
    }
    asks.framing = match (is_chunked, length) {
        (true, Some(_)) => return Err(Refusal::Both),
        (true, None) if is_old => return Err(Refusal::Coding),
        (true, None) => Framing::Chunked,
        // Section 6.3: a request without framing fields has no body.
        (false, length) => Framing::Length(length.unwrap_or_default()),
    };
    asks.awaits &= !is_old && asks.framing != Framing::Length(0);
    Ok(asks)
}

/// Sets a value that must not occur twice.
fn once(length: &mut Option<u64>, number: u64) -> Result<(), Refusal> {
    if length.replace(number).is_some() { Err(Refusal::Length) } else { Ok(()) }
}

/// Bytes of a host and its port: RFC 3986 section 3.2.2, without the comma, because two joined hosts are not a host. A
/// table, because every byte of every `Host` is looked up.
static OF_HOST: [bool; 256] = {
    let (mut table, mut byte) = ([false; 256], 0u8);
    loop {
        table[byte as usize] = byte.is_ascii_alphanumeric() || is_one_of(byte, b"-._~%!$&'()*+;=:[]");
        if byte == u8::MAX {
            break table;
        }
        byte += 1;
    }
};

const fn is_one_of(byte: u8, all: &[u8]) -> bool {
    let mut at = 0;
    while at < all.len() && all[at] != byte {
        at += 1;
    }
    at < all.len()
}

pub(super) fn is_host(value: &[u8]) -> bool {
    value.iter().all(|byte| OF_HOST[usize::from(*byte)])
}

/// Whether the client waits for `100 Continue`.
fn expects(value: &[u8]) -> Result<bool, Refusal> {
    if value.eq_ignore_ascii_case(b"100-continue") { Ok(true) } else { Err(Refusal::Expectation) }
}

fn connection(value: &[u8], asks: &mut Asks) {
    for option in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
        if option.eq_ignore_ascii_case(b"close") {
            asks.keeps = false;
        } else if asks.is_old && option.eq_ignore_ascii_case(b"keep-alive") {
            asks.keeps = true;
        }
    }
}

/// Parses a decimal number.
fn number(digits: &[u8]) -> Option<u64> {
    let few = (1..=18).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    few.then(|| digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

/// Accepts only `chunked`. RFC 9112 section 6.1: further codings are unknown here, and a body whose last coding is
/// another has no detectable end.
fn coding(value: &[u8]) -> Result<(), Refusal> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let codings: Vec<&[u8]> = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii).collect();
    let is_chunked = |coding: &&[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let is_token = |coding: &&[u8]| {
        !coding.is_empty() && coding.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-_.+".contains(byte))
    };
    match codings.split_last() {
        Some((last, others)) if is_chunked(last) && others.iter().all(|one| is_token(one) && !is_chunked(one)) => {
            Err(Refusal::UnknownCoding)
        }
        _ => Err(Refusal::Coding),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn route(_: &str, target: &str) -> Option<()> {
        target.starts_with('/').then_some(())
    }

    fn head(text: &str) -> Option<Head<()>> {
        match read(text.as_bytes(), route) {
            Read::Head(head) => Some(head),
            Read::Part | Read::Refused(_) => None,
        }
    }

    #[test]
    fn what_a_head_asks_of_the_connection_is_read() {
        let usual = Asks { framing: Framing::Length(0), keeps: true, is_old: false, is_head: false, awaits: false };
        for (text, expected) in [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", usual),
            ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", Asks { is_head: true, ..usual }),
            (
                "POST / HTTP/1.1\r\nhOST:a:1\r\ncontent-length:\t007 \r\n\r\n",
                Asks { framing: Framing::Length(7), ..usual },
            ),
            ("GET / HTTP/1.1\r\nHost: \r\nConnection: x, CLOSE\r\n\r\n", Asks { keeps: false, ..usual }),
            ("GET / HTTP/1.0\r\n\r\n", Asks { keeps: false, is_old: true, ..usual }),
            ("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", Asks { is_old: true, ..usual }),
            (
                "POST / HTTP/1.1\r\nHost: [::1]:8\r\nTransfer-Encoding: Chunked\r\nExpect: 100-Continue\r\n\r\n",
                Asks { framing: Framing::Chunked, awaits: true, ..usual },
            ),
            ("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\r\n", usual),
        ] {
            assert_eq!(head(text).map(|head| (head.asks, head.length)), Some((expected, text.len())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_head_is_a_part_before_it_is_whole(fields in "([a-z]{1,3}: [ -~]{0,20}\r\n){0,9}", behind in ".{0,50}") {
            let text = format!("POST /a HTTP/1.1\r\nhost: a\r\n{fields}\r\n");
            for end in 1..text.len() {
                prop_assert!(matches!(read(&text.as_bytes()[..end], route), Read::Part), "{end}");
            }
            let whole = head(&format!("{text}{behind}"));
            prop_assert_eq!(whole.map(|head| head.length), Some(text.len()));
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(come in prop::collection::vec(any::<u8>(), 1..200), at in 0usize..40) {
            let text = b"POST /a HTTP/1.1\r\nhost: a\r\ncontent-length: 4\r\n\r\nbody";
            let spoilt = [&text[..at], &come, &text[at..]].concat();
            let _ = (read(&come, route), read(&spoilt, route));
        }
    }
}

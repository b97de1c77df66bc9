//! Parses the head of a response: its end, its fields, and how its body will end.
//!
//! Pure. Source of the rules: RFC 9112 §2–§9; where it leaves a choice, the strict one is taken.

use std::mem::MaybeUninit;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use httparse::{Header, ParserConfig, Response};
use memchr::memchr;

use super::Malformed;
use super::body::Body;

/// The header in which gateways list the gateways that a request has passed, and those behind a server.
pub const INSTANCE: HeaderName = HeaderName::from_static("portcullis-instance");

/// The limit for a head, including the 1xx heads before it.
pub(super) const MAX_HEAD: usize = 64 * 1024;

/// The limit for the headers of a head.
pub(super) const MAX_HEADERS: usize = 100;

/// The head of a response.
#[derive(Debug)]
pub struct Head {
    /// The status.
    pub status: StatusCode,
    /// The media type of the body.
    pub media: Media,
    /// The bytes as received.
    raw: Box<[u8]>,
    /// The head sets cookies.
    pub(crate) sets_cookies: bool,
    /// The head names gateways behind the server.
    pub(crate) names_instances: bool,
    /// The server keeps the connection open for another request.
    pub(super) keeps: bool,
    /// How long the server keeps it, if announced.
    pub(super) announced_idle: Option<Duration>,
}

/// A media type, as far as it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `text/event-stream`.
    EventStream,
    /// Any type that is compressed or otherwise encoded, which the gateway does not decode.
    Coded,
    /// Any other, or none.
    Other,
}

/// Finds the head in the received bytes.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// This many bytes were searched without finding the end.
    searched: usize,
    /// Bytes of earlier 1xx heads.
    skipped: usize,
}

/// The relevant headers, gathered in one pass.
#[derive(Default)]
struct Said {
    media: Option<Media>,
    length: Option<u64>,
    chunked: bool,
    coded: bool,
    cookies: bool,
    instances: bool,
    close: bool,
    keep_alive: bool,
    announced_idle: Option<Duration>,
}

impl Finder {
    /// Takes the head, and the 1xx heads before it, from the front of the received bytes; `None` if it is incomplete.
    pub(super) fn take(&mut self, arrived: &mut BytesMut) -> Result<Option<(Head, Body)>, Malformed> {
        loop {
            if arrived.is_empty() || !self.may_be_whole(arrived) {
                return Ok(None);
            }
            let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_HEADERS];
            let mut response = Response::new(&mut []);
            let parsed =
                ParserConfig::default().parse_response_with_uninit_headers(&mut response, arrived, &mut headers);
            let length = match parsed {
                Ok(httparse::Status::Complete(length)) => length,
                Ok(httparse::Status::Partial) => {
                    self.searched = arrived.len();
                    return if self.skipped + arrived.len() > MAX_HEAD { Err(Malformed) } else { Ok(None) };
                }
                Err(_) => return Err(Malformed),
            };
            self.skipped += length;
            if self.skipped > MAX_HEAD {
                return Err(Malformed);
            }
            let is_1_1 = response.version == Some(1);
            let status = StatusCode::from_u16(response.code.unwrap_or_default()).map_err(|_| Malformed)?;
            match status.as_u16() {
                // The gateway never requests another protocol.
                101 => return Err(Malformed),
                100..=199 => {
                    arrived.advance(length);
                    self.searched = 0;
                }
                _ => {
                    let said = Said::read(response.headers)?;
                    let body = said.body(status, is_1_1)?;
                    let head = said.head(status, is_1_1, arrived[..length].into());
                    arrived.advance(length);
                    return Ok(Some((head, body)));
                }
            }
        }
    }

    /// Searches only the new bytes for the end of the head, so that a head in many pieces is not read again with each.
    fn may_be_whole(&mut self, arrived: &[u8]) -> bool {
        if self.searched == 0 {
            return true;
        }
        let mut from = self.searched.saturating_sub(3);
        while let Some(found) = memchr(b'\n', &arrived[from..]) {
            from += found + 1;
            if arrived[from..].starts_with(b"\n") || arrived[from..].starts_with(b"\r\n") {
                return true;
            }
        }
        self.searched = arrived.len();
        // The parser refuses a head that is too long.
        arrived.len() > MAX_HEAD
    }
}

impl Said {
    fn read(headers: &[Header<'_>]) -> Result<Self, Malformed> {
        let mut said = Self::default();
        for Header { name, value } in headers {
            // The length rules out most irrelevant headers.
            match name.len() {
                10 if name.eq_ignore_ascii_case("connection") => said.connection(value),
                10 if name.eq_ignore_ascii_case("keep-alive") => {
                    said.announced_idle = said.announced_idle.or_else(|| announced_idle(value));
                }
                10 if name.eq_ignore_ascii_case("set-cookie") => said.cookies = true,
                12 if name.eq_ignore_ascii_case("content-type") => {
                    said.media = said.media.or_else(|| Some(media(value)));
                }
                14 if name.eq_ignore_ascii_case("content-length") => {
                    let length = decimal(value).ok_or(Malformed)?;
                    if said.length.replace(length).is_some() {
                        return Err(Malformed);
                    }
                }
                16 if name.eq_ignore_ascii_case("content-encoding") => said.coded |= is_coding(value),
                19 if name.eq_ignore_ascii_case(INSTANCE.as_str()) => said.instances = true,
                17 if name.eq_ignore_ascii_case("transfer-encoding") => {
                    said.transfer_encoding(value)?;
                }
                _ => {}
            }
        }
        if said.chunked && said.length.is_some() { Err(Malformed) } else { Ok(said) }
    }

    /// Chunked is the only supported coding.
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        let twice = std::mem::replace(&mut self.chunked, true);
        if twice || !value.eq_ignore_ascii_case(b"chunked") { Err(Malformed) } else { Ok(()) }
    }

    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|byte| *byte == b',') {
            let option = option.trim_ascii();
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    fn body(&self, status: StatusCode, is_1_1: bool) -> Result<Body, Malformed> {
        match (self.chunked, self.length) {
            // HTTP/1.0 has no chunks: the framing of such a head cannot be trusted.
            (true, _) if !is_1_1 => Err(Malformed),
            _ if matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED) => Ok(Body::Length(0)),
            (true, _) => Ok(Body::chunked()),
            (false, Some(length)) => Ok(Body::Length(length)),
            (false, None) => Ok(Body::UntilClose),
        }
    }

    fn head(&self, status: StatusCode, is_1_1: bool, raw: Box<[u8]>) -> Head {
        let keeps = !self.close && (is_1_1 || self.keep_alive);
        let media = if self.coded { Media::Coded } else { self.media.unwrap_or(Media::Other) };
        let (sets_cookies, names_instances, announced_idle) = (self.cookies, self.instances, self.announced_idle);
        Head { status, media, raw, sets_cookies, names_instances, keeps, announced_idle }
    }
}

impl Head {
    /// All headers.
    pub fn headers(&self) -> HeaderMap {
        let mut headers = [const { MaybeUninit::<Header<'_>>::uninit() }; MAX_HEADERS];
        let mut response = Response::new(&mut []);
        let _ = ParserConfig::default().parse_response_with_uninit_headers(&mut response, &self.raw, &mut headers);
        let read = |header: &Header<'_>| {
            let name = HeaderName::from_bytes(header.name.as_bytes()).ok()?;
            Some((name, HeaderValue::from_bytes(header.value).ok()?))
        };
        response.headers.iter().filter_map(read).collect()
    }

    /// Parses the head at the front of these bytes.
    #[cfg(test)]
    pub(crate) fn read(arrived: &mut BytesMut) -> Option<Self> {
        Finder::default().take(arrived).ok()?.map(|(head, _)| head)
    }

    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<HeaderValue> {
        self.headers().get(name).cloned()
    }
}

fn media(value: &[u8]) -> Media {
    let end = memchr(b';', value).unwrap_or(value.len());
    match value[..end].trim_ascii() {
        essence if essence.eq_ignore_ascii_case(b"application/json") => Media::Json,
        essence if essence.eq_ignore_ascii_case(b"text/event-stream") => Media::EventStream,
        _ => Media::Other,
    }
}

/// Whether a list of content codings holds one that changes the content.
fn is_coding(value: &[u8]) -> bool {
    let codings = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    codings.into_iter().any(|coding| !coding.is_empty() && !coding.eq_ignore_ascii_case(b"identity"))
}

/// How long the server keeps the connection, less a margin: `None` if not announced, zero if it accepts no more
/// requests.
fn announced_idle(value: &[u8]) -> Option<Duration> {
    let text = std::str::from_utf8(value).ok()?.to_ascii_lowercase();
    let parts = text.split(',').filter_map(|part| part.split_once('='));
    let numbers = parts.filter_map(|(name, value)| Some((name.trim(), value.trim().trim_matches('"').parse().ok()?)));
    let number = |wanted: &str| numbers.clone().find(|(name, _)| *name == wanted).map(|(_, number): (_, u64)| number);
    if number("max") == Some(0) {
        return Some(Duration::ZERO);
    }
    Some(Duration::from_secs(number("timeout")?.min(86_400)).saturating_sub(Duration::from_millis(500)))
}

/// Parses digits and nothing else; `None` also above 2^63.
fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 || !value.iter().all(u8::is_ascii_digit) {
        return None;
    }
    Some(value.iter().fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')))
}

//! Parses `text/event-stream` from pieces of any size.
//!
//! Pure. Accepts LF, CRLF and CR line ends, a BOM, comments, fields with and without a space, data over several lines.
//! An event in one piece is forwarded without copying; one beyond the limit is skipped as it arrives. Source of the
//! rules: WHATWG HTML §9.2.6.

use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use memchr::{memchr, memchr2};
use portcullis_runtime::memory::{Held, SMALL, account};
use thiserror::Error;

/// One event, or a comment (which shows only that the peer lives).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// `:...`
    Comment,
    /// A dispatched event; `name` is empty if the stream gave none.
    Message {
        /// The `event` field.
        name: Bytes,
        /// The `data` field, lines joined by LF.
        data: Bytes,
    },
    /// The data of an event exceeds the limit; the rest of it is skipped.
    TooLarge {
        /// The `event` field.
        name: Bytes,
        /// The start of the data.
        head: Bytes,
    },
    /// An event that exceeds the limit has ended.
    PassedOver {
        /// The end of its data.
        tail: Bytes,
    },
}

/// An event, or a line outside its data, exceeds every limit; the stream is unusable from here on.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("an event does not end within {0} bytes")]
pub(crate) struct Endless(pub(crate) usize);

/// The parser's state between pieces.
pub(crate) struct Parser {
    buffer: BytesMut,
    searched: usize,
    limit: usize,
    name: Bytes,
    data: Data,
    /// The id of the event that is being read.
    id: Option<Bytes>,
    last_id: Option<Bytes>,
    retry: Option<Duration>,
    after_cr: bool,
    started: bool,
    over: SkippedData,
    /// Counts the buffer, unless it is small.
    held: Held,
}

/// The data that is being skipped.
#[derive(Default)]
struct SkippedData {
    /// A line that is too long has not ended yet.
    line: Option<Long>,
    /// An event that is too large has not ended yet: the end of its data so far.
    tail: Option<Vec<u8>>,
    bytes: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Long {
    Data,
    Other,
}

enum Line {
    Whole(usize),
    Long,
    Begun,
}

/// This much is reported of the start and of the end of an event that is too large.
const TOLD: usize = 1024;

/// Skipped data is at most this many times the limit.
const MOST_PASSED_OVER: usize = 64;

/// Longer ids are ignored: they would have to be sent back.
const MAX_ID: usize = 1024;

enum Data {
    None,
    One(Bytes),
    Many(BytesMut),
}

impl Parser {
    /// Creates a parser that accepts events of up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            searched: 0,
            limit,
            name: Bytes::new(),
            data: Data::None,
            id: None,
            last_id: None,
            retry: None,
            after_cr: false,
            started: false,
            over: SkippedData::default(),
            held: Held::none(&account().large),
        }
    }

    /// A parser for the stream that resumes the one of this parser.
    #[must_use]
    pub(crate) fn going_on(self) -> Self {
        Self { last_id: self.last_id, retry: self.retry, ..Self::new(self.limit) }
    }

    /// The id of the last complete event that had one, from which the stream can be resumed.
    pub(crate) fn last_id(&self) -> Option<&Bytes> {
        self.last_id.as_ref()
    }

    /// The delay before resuming, if the stream sets one.
    pub(crate) fn retry(&self) -> Option<Duration> {
        self.retry
    }

    /// Takes the next piece of the stream.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
        self.count();
    }

    /// Counts the buffer, unless it is small.
    fn count(&mut self) {
        let is_small = self.buffer.len() <= SMALL;
        if !is_small || self.held.bytes() > 0 {
            self.held.set(if is_small { 0 } else { self.buffer.capacity() });
        }
    }

    /// The next event that is complete, or too large.
    ///
    /// # Errors
    /// [`Endless`] if skipped data does not end.
    pub(crate) fn next_event(&mut self) -> Result<Option<Event>, Endless> {
        while self.pass_over_line()? {
            let event = match self.line() {
                Line::Begun => break,
                Line::Long => self.long_line(),
                Line::Whole(length) => self.whole_line(length)?,
            };
            if event.is_some() {
                return Ok(event);
            }
        }
        if self.buffer.is_empty() {
            // The buffer of one long event is not kept.
            self.buffer = BytesMut::new();
        }
        self.count();
        Ok(None)
    }

    fn whole_line(&mut self, length: usize) -> Result<Option<Event>, Endless> {
        let (event, left) = match self.buffer[..length] {
            [] => (self.dispatch(), 0),
            [b':', ..] => (Some(Event::Comment), length),
            _ => (None, self.field(length)?),
        };
        self.pass(left);
        let grown = matches!(&self.data, Data::Many(all) if all.len() > self.limit);
        Ok(if grown { Some(self.begin_over(0)) } else { event })
    }

    /// Handles the start of a line that is too long.
    fn long_line(&mut self) -> Option<Event> {
        let Some(value) = self.buffer.strip_prefix(b"data:") else {
            self.over.line = Some(Long::Other);
            return None;
        };
        let begin = self.buffer.len() - value.strip_prefix(b" ").unwrap_or(value).len();
        self.over.line = Some(Long::Data);
        let event = self.over.tail.is_none().then(|| self.begin_over(begin));
        self.buffer.advance(begin);
        event
    }

    /// Drops the data of an event, more of which may follow in the buffer from `begin`.
    fn begin_over(&mut self, begin: usize) -> Event {
        let data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => Bytes::new(),
            Data::One(data) => data,
            Data::Many(data) => data.freeze(),
        };
        let mut head = data[..data.len().min(TOLD)].to_vec();
        if begin > 0 && head.len() < TOLD {
            let end = self.buffer.len().min(begin + TOLD - head.len());
            head.extend_from_slice(&self.buffer[begin..end]);
        }
        self.over.tail = Some(data[data.len().saturating_sub(TOLD)..].to_vec());
        Event::TooLarge { name: self.name.clone(), head: head.into() }
    }

    /// Skips the rest of a line that is too long; false if it has not ended yet.
    fn pass_over_line(&mut self) -> Result<bool, Endless> {
        let Some(kind) = self.over.line else { return Ok(true) };
        let end = memchr2(b'\n', b'\r', &self.buffer);
        let length = end.unwrap_or(self.buffer.len());
        let passed = self.buffer.split_to(length);
        self.count_passed_over(&passed, kind == Long::Data)?;
        self.searched = 0;
        if end.is_none() {
            return Ok(false);
        }
        self.over.line = None;
        self.pass(0);
        Ok(true)
    }

    fn count_passed_over(&mut self, passed: &[u8], is_data: bool) -> Result<(), Endless> {
        self.over.bytes += passed.len();
        let most = self.limit.saturating_mul(MOST_PASSED_OVER);
        if self.over.bytes > most {
            return Err(Endless(most));
        }
        if let Some(tail) = self.over.tail.as_mut().filter(|_| is_data) {
            let new = &passed[passed.len().saturating_sub(TOLD)..];
            tail.drain(..(tail.len() + new.len()).saturating_sub(TOLD).min(tail.len()));
            tail.extend_from_slice(new);
        }
        Ok(())
    }

    /// The first line of the buffer.
    fn line(&mut self) -> Line {
        if self.after_cr && !self.buffer.is_empty() {
            self.after_cr = false;
            if self.buffer[0] == b'\n' {
                self.buffer.advance(1);
            }
        }
        if !self.started && !self.skip_bom() {
            return Line::Begun;
        }
        let found = memchr2(b'\n', b'\r', &self.buffer[self.searched..]).map(|found| self.searched + found);
        if found.unwrap_or(self.buffer.len()) > self.limit {
            return Line::Long;
        }
        self.searched = if found.is_some() { 0 } else { self.buffer.len() };
        found.map_or(Line::Begun, Line::Whole)
    }

    /// Skips the rest of a line, and its end.
    fn pass(&mut self, left: usize) {
        self.after_cr = self.buffer[left] == b'\r';
        self.buffer.advance(left + 1);
    }

    /// Takes the bytes between these positions at the front of the buffer.
    fn take(&mut self, begin: usize, end: usize) -> Bytes {
        self.buffer.advance(begin);
        self.buffer.split_to(end - begin).freeze()
    }

    /// Skips a byte order mark; false while more bytes are needed to recognize it.
    fn skip_bom(&mut self) -> bool {
        const BOM: &[u8] = b"\xef\xbb\xbf";
        if self.buffer.starts_with(BOM) {
            self.buffer.advance(BOM.len());
        } else if BOM.starts_with(&self.buffer) {
            return false;
        }
        self.started = true;
        true
    }

    /// Parses a line of this length; returns how much of it is left in the buffer.
    fn field(&mut self, length: usize) -> Result<usize, Endless> {
        let line = &self.buffer[..length];
        let colon = memchr(b':', line).unwrap_or(length);
        let begin = (colon + 1 + usize::from(line.get(colon + 1) == Some(&b' '))).min(length);
        match &line[..colon] {
            b"data" => {
                let value = self.take(begin, length);
                match self.over.tail {
                    Some(_) => self.count_passed_over(&value, true)?,
                    None => self.append(value),
                }
                Ok(0)
            }
            // The name of nearly all events costs no allocation.
            b"event" if line[begin..] == *b"message" => {
                self.name = Bytes::from_static(b"message");
                Ok(length)
            }
            b"event" => {
                self.name = self.take(begin, length);
                Ok(0)
            }
            b"id" => {
                let id = &line[begin..];
                self.id = (id.len() <= MAX_ID).then(|| Bytes::copy_from_slice(id));
                Ok(length)
            }
            b"retry" => {
                let millis = std::str::from_utf8(&line[begin..]).ok().and_then(|text| text.parse().ok());
                self.retry = millis.map(Duration::from_millis).or(self.retry);
                Ok(length)
            }
            _ => Ok(length),
        }
    }

    fn append(&mut self, value: Bytes) {
        self.data = match std::mem::replace(&mut self.data, Data::None) {
            Data::None => Data::One(value),
            Data::One(first) => {
                let mut all = BytesMut::with_capacity(first.len() + value.len() + 1);
                all.extend_from_slice(&first);
                Data::Many(joined(all, &value))
            }
            Data::Many(all) => Data::Many(joined(all, &value)),
        };
    }

    fn dispatch(&mut self) -> Option<Event> {
        let name = std::mem::take(&mut self.name);
        self.last_id = self.id.take().or(self.last_id.take());
        self.over.bytes = 0;
        if let Some(tail) = self.over.tail.take() {
            return Some(Event::PassedOver { tail: tail.into() });
        }
        match std::mem::replace(&mut self.data, Data::None) {
            Data::None => None,
            Data::One(data) => Some(Event::Message { name, data }),
            Data::Many(data) => Some(Event::Message { name, data: data.freeze() }),
        }
    }
}

fn joined(mut all: BytesMut, value: &[u8]) -> BytesMut {
    all.extend_from_slice(b"\n");
    all.extend_from_slice(value);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(pieces: &[&[u8]], limit: usize) -> Result<Vec<Event>, Endless> {
        let mut parser = Parser::new(limit);
        let mut events = Vec::new();
        for piece in pieces {
            parser.push(piece);
            while let Some(event) = parser.next_event()? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn message(name: &'static str, data: &'static str) -> Event {
        Event::Message { name: Bytes::from_static(name.as_bytes()), data: Bytes::from_static(data.as_bytes()) }
    }

    #[test]
    fn every_spelling_of_a_stream_is_understood() {
        let cases: [(&str, Vec<Event>); 10] = [
            ("data: a\n\n", vec![message("", "a")]),
            ("data:a\r\n\r\n", vec![message("", "a")]),
            ("data: a\r\r", vec![message("", "a")]),
            ("\u{feff}event: endpoint\ndata: /x\n\n", vec![message("endpoint", "/x")]),
            (": ping\n\n", vec![Event::Comment]),
            ("data: a\ndata\ndata: b\n\n", vec![message("", "a\n\nb")]),
            ("event: x\n\ndata: a\n\n", vec![message("", "a")]),
            ("id: 7\nretry: 10\ndata:  a\nother\n\n", vec![message("", " a")]),
            ("data: cut", vec![]),
            ("\n\n\r\n\r\rdata: a\n\r\n", vec![message("", "a")]),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(&[text.as_bytes()], 64), Ok(expected.clone()), "{text:?} in one piece");
            let bytes: Vec<&[u8]> = text.as_bytes().chunks(1).collect();
            assert_eq!(parse(&bytes, 64), Ok(expected), "{text:?} byte by byte");
        }
    }

    #[test]
    fn the_last_id_is_that_of_the_last_whole_event_that_had_one() {
        let long = "x".repeat(MAX_ID + 1);
        for (text, id, retry) in [
            ("data: a\n\n", None, None),
            ("id: 1\ndata: a\n\nid: 2\nretry: 7\ndata: b\n\ndata: c\n\nid: 3\ndata: d\n", Some("2"), Some(7)),
            ("id:é 1\n\nretry: soon\n\n", Some("é 1"), None),
            ("id: 1\n\nretry: 5\nretry: -5\n", Some("1"), Some(5)),
            (&format!("id: 1\n\nid: {long}\n\n"), Some("1"), None),
        ] {
            let mut parser = Parser::new(4096);
            parser.push(text.as_bytes());
            while parser.next_event().unwrap().is_some() {}
            let parser = parser.going_on();
            let found = (parser.last_id().map(|id| std::str::from_utf8(id).unwrap()), parser.retry());
            assert_eq!(found, (id, retry.map(Duration::from_millis)), "{text}");
        }
    }

    #[test]
    fn what_does_not_end_is_refused() {
        let most = 64 * MOST_PASSED_OVER;
        for (begin, rest) in
            [("x", "x"), (":", "x"), ("data: ", "x"), ("", "data: 0123456789\n"), ("data: x\n", "id: 7\n")]
        {
            let (mut parser, mut pushed) = (Parser::new(64), 0);
            parser.push(begin.as_bytes());
            let end = loop {
                match parser.next_event() {
                    Ok(Some(_)) => {}
                    Ok(None) if pushed < 100 * most => {
                        parser.push(rest.repeat(10).as_bytes());
                        pushed += 10 * rest.len();
                    }
                    end => break end,
                }
            };
            let expected = if rest.starts_with("id") { Ok(None) } else { Err(Endless(most)) };
            assert_eq!(end, expected, "{begin}{rest}");
            assert!(parser.buffer.capacity() < 64 * 1024, "{}", parser.buffer.capacity());
        }
    }

    #[test]
    fn an_event_that_is_too_large_is_passed_over_and_the_next_is_read() {
        let large = |head: &'static str, tail: &'static str| {
            let name = Bytes::from_static(b"message");
            let head = Bytes::from_static(head.as_bytes());
            [Event::TooLarge { name, head }, Event::PassedOver { tail: Bytes::from_static(tail.as_bytes()) }]
        };
        let x = "x".repeat(70);
        let cases = [
            format!("event: message\ndata: a{x}b\n\n"),
            format!("event: message\r\ndata: a{x}b\r\nid: 7\r\n\r\n"),
            format!("event: message\rdata:a{x}b\r\r"),
            format!("event: message\ndata: a\ndata: {}\ndata: {}b\n\n", &x[..40], &x[..29]),
            format!("event: message\ndata: a\n:{x}\n{x}\ndata: {x}\ndata: b\n\n"),
        ];
        for text in cases {
            let text = format!("data: 1\n\n{text}data: 2\n\n");
            for size in [1, 3, text.len()] {
                let pieces: Vec<&[u8]> = text.as_bytes().chunks(size).collect();
                let mut events = parse(&pieces, 64).unwrap();
                events.retain(|event| *event != Event::Comment);
                let shown = |bytes: &Bytes| bytes.first().copied().zip(bytes.last().copied());
                let brief = |event: &Event| match event {
                    Event::TooLarge { name, head } => (name.clone(), shown(head).map(|(first, _)| first)),
                    Event::PassedOver { tail } => (Bytes::new(), shown(tail).map(|(_, last)| last)),
                    Event::Message { data, .. } => (data.clone(), None),
                    Event::Comment => (Bytes::new(), None),
                };
                let found: Vec<_> = events.iter().map(brief).collect();
                let [begin, end] = large("a", "b").map(|event| brief(&event));
                let expected = [(Bytes::from_static(b"1"), None), begin, end, (Bytes::from_static(b"2"), None)];
                assert_eq!(found, expected, "{text:?} in pieces of {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "(data: [a-z]{0,5}|event: x|: c|[a-z:]{0,4}|)(\n|\r\n|\r){1,2}(data:y|\u{feff}|)(\n\n|\r\r|)", cut in 0usize..20) {
            let bytes = text.as_bytes();
            let cut = cut.min(bytes.len());
            prop_assert_eq!(parse(&[bytes], 256), parse(&[&bytes[..cut], &bytes[cut..]], 256));
        }

        #[test]
        fn arbitrary_bytes_never_panic(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..10)) {
            let pieces: Vec<&[u8]> = pieces.iter().map(Vec::as_slice).collect();
            let _ = parse(&pieces, 100);
        }
    }
}

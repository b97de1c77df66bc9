//! Reads a request that is plain and whole. Pure.
//!
//! Source of the rules: RFC 9112. What is read here is read as hyper does, by the same parser; where a length could be
//! understood in two ways, it is none of these requests.

use std::mem::MaybeUninit;

use httparse::{Header, ParserConfig, Request, Status};
use hyper::body::Bytes;

use super::super::connection::HEAD;
use super::super::fields::Fields;
use super::{Plain, WHOLE};

/// Fields of one request; with more it is hyper's.
const FIELDS: usize = 64;

/// A head of which so much is there, but not all, is hyper's: here it would be read again for each piece that comes.
const LONG: usize = 4096;

/// What stands at the front of what has come.
pub(super) enum Read<T> {
    /// A plain request, and its length in bytes.
    Whole(Plain<T>, usize),
    /// What may become one, once so many bytes are there.
    Part(usize),
    /// Something else.
    Other,
}

/// Reads what has come, at least one byte. `route` tells which methods of which targets are of interest.
pub(super) fn read<T>(come: &[u8], route: impl FnOnce(&str, &str) -> Option<T>) -> Read<T> {
    let mut space = [const { MaybeUninit::<Header<'_>>::uninit() }; FIELDS];
    let mut request = Request::new(&mut []);
    let parsed = ParserConfig::default().parse_request_with_uninit_headers(&mut request, come, &mut space);
    let head = match parsed {
        Ok(Status::Complete(length)) if length <= HEAD => length,
        Ok(Status::Partial) if come.len() < LONG => return Read::Part(come.len() + 1),
        _ => return Read::Other,
    };
    let (Some(method), Some(target), Some(1)) = (request.method, request.path, request.version) else {
        return Read::Other;
    };
    if matches!(method, "HEAD" | "CONNECT") {
        return Read::Other;
    }
    let (Some(route), Some(length)) = (route(method, target), length(request.headers)) else { return Read::Other };
    let whole = head + length;
    if whole > WHOLE {
        return Read::Other;
    }
    let Some(body) = come.get(head..whole) else { return Read::Part(whole) };
    let fields = Fields::of_head(&come[..head], request.headers);
    Read::Whole(Plain { route, fields, body: Bytes::copy_from_slice(body) }, whole)
}

/// Bytes of the body, if there is no doubt about it and nothing else is asked of the connection.
fn length(headers: &[Header<'_>]) -> Option<usize> {
    let mut length: Option<usize> = None;
    for Header { name, value } in headers {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            14 if is("content-length") && length.replace(number(value)?).is_some() => return None,
            10 if is("connection") && !value.eq_ignore_ascii_case(b"keep-alive") => return None,
            17 if is("transfer-encoding") => return None,
            6 if is("expect") => return None,
            7 if is("upgrade") => return None,
            _ => {}
        }
    }
    // RFC 9112 section 6.3: a request that says nothing of a body has none.
    Some(length.unwrap_or_default())
}

/// A number of a few decimal digits.
fn number(digits: &[u8]) -> Option<usize> {
    let few = (1..=6).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    few.then(|| digits.iter().fold(0, |number, digit| number * 10 + usize::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn post(fields: &str, body: &str) -> String {
        format!("POST /a HTTP/1.1\r\n{fields}Content-Length: {}\r\n\r\n{body}", body.len())
    }

    fn route(method: &str, target: &str) -> Option<()> {
        (method == "POST" && target == "/a").then_some(())
    }

    proptest! {
        #[test]
        fn a_request_is_no_other_before_it_is_whole(fields in "([a-z]{1,9}: [ -~]{0,20}\r\n){0,9}", body in ".{0,50}") {
            let text = post(&fields, &body);
            for end in 1..text.len() {
                prop_assert!(matches!(read(&text.as_bytes()[..end], route), Read::Part(needed) if (end + 1..=text.len()).contains(&needed)), "{end}");
            }
            let more = text.clone() + "POST";
            for come in [&text, &more] {
                let Read::Whole(plain, length) = read(come.as_bytes(), route) else { panic!("{text}") };
                prop_assert_eq!((length, &plain.body[..]), (text.len(), body.as_bytes()));
            }
        }

        #[test]
        fn whatever_comes_is_read_without_a_panic(come in prop::collection::vec(any::<u8>(), 1..200), at in 0usize..50) {
            let text = post("x: y\r\n", "body").into_bytes();
            let spoilt = [&text[..at], &come, &text[at..]].concat();
            let _ = (read(&come, route), read(&spoilt, route));
        }
    }
}

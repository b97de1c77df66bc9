//! Parses JSON objects one level deep: keys as text, values as raw bytes.
//!
//! Pure.

mod scan;
pub mod tree;

use std::borrow::Cow;
use std::fmt;

use serde_json::value::RawValue;
use smallvec::SmallVec;
use thiserror::Error;

use self::scan::{Scanner, Syntax};

/// The limit for the members of an object that callers send: keys are searched linearly.
const MOST: usize = 64;

/// The text of one JSON value, without surrounding space.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a>(&'a str);

/// The members of an object in their order, each key once: parsers disagree on which of two duplicates counts.
#[derive(Debug, Default)]
pub struct Members<'a>(pub SmallVec<[(Cow<'a, str>, Raw<'a>); 6]>);

/// An object nested in another.
#[derive(Debug, Default)]
pub struct Inside<'a> {
    members: Members<'a>,
    /// Whether it could be parsed; `None`: it is absent.
    read: Option<Result<(), NoObject>>,
}

/// The reason a text is not a readable object.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum NoObject {
    /// The text is not valid JSON.
    #[error("it is not valid JSON")]
    Syntax,
    /// The value is not an object.
    #[error("it is not an object")]
    Kind,
    /// A member is duplicated.
    #[error("a member appears twice")]
    Twice,
    /// The object has more than 64 members.
    #[error("it has more than 64 members")]
    TooMany,
}

// === impl Raw ===

impl<'a> Raw<'a> {
    /// The text of the value.
    pub fn get(self) -> &'a str {
        self.0
    }

    /// Whether the value is `null`, which serializers of several languages write for an absent member.
    pub fn is_null(self) -> bool {
        self.0 == "null"
    }
}

impl fmt::Debug for Raw<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl<'a> From<&'a RawValue> for Raw<'a> {
    fn from(value: &'a RawValue) -> Self {
        Self(value.get())
    }
}

// === impl Members ===

impl<'a> Members<'a> {
    /// Parses an object.
    ///
    /// # Errors
    /// See [`NoObject`]; invalid JSON is reported before any other error.
    pub fn read(text: &'a str) -> Result<Self, NoObject> {
        let mut members = Self::default();
        members.read_along(text, &[], &mut [])?;
        Ok(members)
    }

    /// Parses an object into this empty value and, in the same pass, the objects nested in it on a path: with
    /// `["params", "_meta"]` the value of `params` and that of its `_meta`. `inside` holds one entry per step that
    /// exists. All are parsed in place: they are too large to be moved for each message.
    ///
    /// # Errors
    /// As [`Members::read`]; errors of the nested objects are stored in their entries.
    pub fn read_along(&mut self, text: &'a str, path: &[&str], inside: &mut [Inside<'a>]) -> Result<(), NoObject> {
        let mut scanner = Scanner::new(text);
        scanner.space();
        if scanner.peek() != Some(b'{') {
            scanner.value()?;
            return Err(if is_at_end(&mut scanner, text) { NoObject::Kind } else { NoObject::Syntax });
        }
        let read = self.scan(&mut scanner, text, path, inside)?;
        if is_at_end(&mut scanner, text) { read } else { Err(NoObject::Syntax) }
    }

    /// Parses the object that begins here. Only invalid JSON ends the scan.
    fn scan(
        &mut self,
        scanner: &mut Scanner<'a>,
        text: &'a str,
        path: &[&str],
        inside: &mut [Inside<'a>],
    ) -> Result<Result<(), NoObject>, Syntax> {
        scanner.passes(b'{');
        scanner.space();
        let mut more = !scanner.passes(b'}');
        let mut too_many = false;
        while more {
            scanner.space();
            let begin = scanner.at();
            let (end, has_escapes) = scanner.key()?;
            let key = if has_escapes { unescaped(&text[begin..end]) } else { Some(text[begin + 1..end - 1].into()) };
            let key = key.ok_or(Syntax)?;
            scanner.space();
            let begin = scanner.at();
            match (path, &mut *inside) {
                ([step, path @ ..], [place, inside @ ..]) if scanner.peek() == Some(b'{') && *step == key => {
                    place.members.0.clear();
                    place.read = Some(place.members.scan(scanner, text, path, inside)?);
                }
                _ => scanner.value()?,
            }
            let value = Raw(&text[begin..scanner.at()]);
            too_many |= self.0.len() >= MOST;
            if !too_many {
                self.0.push((key, value));
            }
            scanner.space();
            more = scanner.passes(b',');
            if !more && !scanner.passes(b'}') {
                return Err(Syntax);
            }
        }
        Ok(if too_many { Err(NoObject::TooMany) } else { self.each_once() })
    }

    fn each_once(&self) -> Result<(), NoObject> {
        let twice = |(at, (key, _)): (usize, &(Cow<'_, str>, _))| self.0[..at].iter().any(|(other, _)| other == key);
        if self.0.iter().enumerate().any(twice) { Err(NoObject::Twice) } else { Ok(()) }
    }

    /// The value of this member.
    pub fn get(&self, key: &str) -> Option<Raw<'a>> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The text of this member; `None` if it is absent or not a string.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        text(self.get(key)?)
    }
}

impl<'a> Inside<'a> {
    /// The members of the nested object; `None` if it is absent.
    ///
    /// # Errors
    /// As [`Members::read`].
    pub fn get(&self) -> Option<Result<&Members<'a>, NoObject>> {
        self.read.map(|read| read.map(|()| &self.members))
    }
}

impl From<Syntax> for NoObject {
    fn from(_: Syntax) -> Self {
        Self::Syntax
    }
}

fn is_at_end(scanner: &mut Scanner<'_>, text: &str) -> bool {
    scanner.space();
    scanner.at() == text.len()
}

/// Whether a text needs only quotes around it to be a JSON string.
pub fn is_plain(text: &str) -> bool {
    scan::is_plain(text)
}

/// Decodes a JSON string, borrowed if it has no escapes; `None` if the value is not a string, or not Unicode.
pub fn text(raw: Raw<'_>) -> Option<Cow<'_, str>> {
    unquoted(raw.0)
}

/// The same for the text of a value.
fn unquoted(value: &str) -> Option<Cow<'_, str>> {
    let inside = value.strip_prefix('"')?.strip_suffix('"')?;
    if is_plain(inside) { Some(Cow::Borrowed(inside)) } else { unescaped(value) }
}

/// A text as JSON.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Decodes the content of these quotes.
fn unescaped(quoted: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(quoted).ok().map(Cow::Owned)
}

/// A result on one line: an event of a stream must not contain line ends, which JSON has only between its tokens.
pub fn on_one_line(json: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return Cow::Borrowed(json);
    }
    Cow::Owned(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect())
}

/// Writes `text` as a JSON string.
pub fn json_string(text: &str) -> String {
    serde_json::to_string(text).expect("a string is always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_keep_their_order_and_their_bytes() {
        let members = Members::read(r#"{"b": 1.10,"a":{"x" : 1},"\u0063":"d\n"}"#).unwrap();
        let shown: Vec<_> = members.0.iter().map(|(key, value)| (&**key, value.get())).collect();
        assert_eq!(shown, [("b", "1.10"), ("a", r#"{"x" : 1}"#), ("c", r#""d\n""#)]);
        assert_eq!((members.text("c").as_deref(), members.text("b")), (Some("d\n"), None));
    }

    #[test]
    fn objects_on_a_path_are_read_on_the_way() {
        let text = r#"{"id":1,"params":{"_meta":{"a":[{}]},"name":"n"},"_meta":{"b":2}}"#;
        let (mut members, mut inside) = <(Members<'_>, [Inside<'_>; 2])>::default();
        members.read_along(text, &["params", "_meta"], &mut inside).unwrap();
        let keys = |members: &Members<'_>| members.0.iter().map(|(key, _)| key.to_string()).collect::<Vec<_>>();
        assert_eq!(keys(&members), ["id", "params", "_meta"]);
        assert_eq!(members.get("params").unwrap().get(), r#"{"_meta":{"a":[{}]},"name":"n"}"#);
        let [params, meta] = inside.map(|inside| keys(inside.get().unwrap().unwrap()));
        assert_eq!((params, meta), (vec!["_meta".to_owned(), "name".to_owned()], vec!["a".to_owned()]));

        let read = |text| {
            let mut inside = <[Inside<'_>; 2]>::default();
            let read = Members::default().read_along(text, &["params", "_meta"], &mut inside);
            (read, inside.map(|inside| inside.read))
        };
        assert_eq!(read(r#"{"params":[],"a":1}"#), (Ok(()), [None, None]));
        assert_eq!(read(r#"{"params":{"_meta":{"a":1,"a":2}}}"#), (Ok(()), [Some(Ok(())), Some(Err(NoObject::Twice))]));
        assert_eq!(read(r#"{"params":{"a":1,"a":2}}"#), (Ok(()), [Some(Err(NoObject::Twice)), None]));
        assert_eq!(read(r#"{"params":{"a":1},"params":{"b":1}}"#).0, Err(NoObject::Twice));
        assert_eq!(read(r#"{"params":{"a":1}"#).0, Err(NoObject::Syntax));
    }

    #[test]
    fn what_is_no_plain_object_is_refused() {
        let many: Vec<String> = (0..65).map(|n| format!("\"{n}\":0")).collect();
        for (text, why) in [
            ("", NoObject::Syntax),
            ("[]", NoObject::Kind),
            ("[] ]", NoObject::Syntax),
            ("7", NoObject::Kind),
            (r#"{"a":1,"a":1}"#, NoObject::Twice),
            (r#"{"a":1,"\u0061":1}"#, NoObject::Twice),
            (r#"{"a":1,"a":1"#, NoObject::Syntax),
            (r#"{"a":1} x"#, NoObject::Syntax),
            (r#"{"a":1,}"#, NoObject::Syntax),
            (r#"{"a":1 "b":2}"#, NoObject::Syntax),
            (r#"{"\ud800":1}"#, NoObject::Syntax),
            ("{1:1}", NoObject::Syntax),
            (&format!("{{{}}}", many.join(",")), NoObject::TooMany),
        ] {
            assert_eq!(Members::read(text).err(), Some(why), "{text}");
        }
    }

    #[test]
    fn a_text_on_several_lines_becomes_one() {
        assert_eq!(&*on_one_line(b"{\n\"a\": \"\\n\"\r\n}"), b"{ \"a\": \"\\n\"  }");
        assert!(matches!(on_one_line(b"{}"), Cow::Borrowed(_)));
    }
}

//! JSON objects read one level deep: keys as text, values as the bytes that they are.
//!
//! Pure.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserializer, MapAccess, Visitor};
use serde::{Deserialize, de};
use serde_json::value::RawValue;
use smallvec::SmallVec;

/// An object has no more members than this where callers send it: keys are searched one by one.
const MOST: usize = 64;

/// The members of an object in their order. Twice the same key is refused: readers would not agree on which counts.
#[derive(Debug, Default)]
pub struct Members<'a>(pub SmallVec<[(Cow<'a, str>, &'a RawValue); 6]>);

impl<'a> Members<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// It is none, has a member twice, or more than 64.
    pub fn read(text: &'a str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The value of this member.
    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| *value)
    }

    /// The text of this member; `None` if it is absent or no text.
    pub fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        text(self.get(key)?)
    }
}

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Members::default();
                while let Some((Text(key), value)) = map.next_entry::<Text<'de>, &'de RawValue>()? {
                    if members.0.len() >= MOST {
                        return Err(de::Error::custom("an object has too many members"));
                    }
                    if members.0.iter().any(|(other, _)| *other == key) {
                        return Err(de::Error::custom("a member is there twice"));
                    }
                    members.0.push((key, value));
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// The text that a value is; `None` if it is none.
pub fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    serde_json::from_str::<Text<'_>>(raw.get()).ok().map(|text| text.0)
}

/// A string, borrowed where it has no escapes.
pub struct Text<'a>(pub Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Take;
        impl<'de> Visitor<'de> for Take {
            type Value = Text<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }

            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }

            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Take)
    }
}

/// A result as one line: an event of a stream must not hold line ends, which JSON has only between its tokens.
pub fn on_one_line(json: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'\n', b'\r', json).is_none() {
        return Cow::Borrowed(json);
    }
    Cow::Owned(json.iter().map(|byte| if matches!(byte, b'\n' | b'\r') { b' ' } else { *byte }).collect())
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
    fn what_is_no_plain_object_is_refused() {
        let many: Vec<String> = (0..65).map(|n| format!("\"{n}\":0")).collect();
        for text in
            ["", "[]", "7", r#"{"a":1,"a":1}"#, r#"{"a":1,"\u0061":1}"#, "{1:1}", &format!("{{{}}}", many.join(","))]
        {
            assert!(Members::read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_text_on_several_lines_becomes_one() {
        assert_eq!(&*on_one_line(b"{\n\"a\": \"\\n\"\r\n}"), b"{ \"a\": \"\\n\"  }");
        assert!(matches!(on_one_line(b"{}"), Cow::Borrowed(_)));
    }
}

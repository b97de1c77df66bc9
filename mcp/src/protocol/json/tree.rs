//! JSON as a tree for small edits: members keep their order, and numbers and texts their notation.
//!
//! Pure. Parses in one pass, within limits of depth and size: the input is untrusted.

use std::borrow::Cow;
use std::collections::HashSet;

use super::scan::{Scanner, Syntax};
use super::{unescaped, unquoted};

/// The limit for nesting.
const MOST_LEVELS: usize = 96;

/// A JSON value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Tree<'a> {
    /// Members in their order, each key once.
    Object(Vec<(Cow<'a, str>, Tree<'a>)>),
    /// Items.
    Array(Vec<Tree<'a>>),
    /// Any other value, as written.
    Scalar(Cow<'a, str>),
}

struct TreeReader<'a> {
    text: &'a str,
    scanner: Scanner<'a>,
    /// This many more values may follow.
    room: usize,
}

impl<'a> Tree<'a> {
    /// Parses a text of up to `most` values; `None` if it is invalid, too deep or has more. Of duplicate keys the last
    /// counts, as in most parsers.
    pub fn read(text: &'a str, most: usize) -> Option<Self> {
        let mut reader = TreeReader { text, scanner: Scanner::new(text), room: most };
        let tree = reader.value(MOST_LEVELS).ok()?;
        reader.scanner.space();
        (reader.scanner.at() == text.len()).then_some(tree)
    }

    /// A JSON string of this text.
    pub fn text_of(text: &str) -> Self {
        Self::Scalar(super::quoted(text).into())
    }

    /// The value of this member, if this is an object that has the member.
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            Self::Array(_) | Self::Scalar(_) => None,
        }
    }

    /// The text of the value, if it is neither an object nor an array.
    pub fn scalar(&self) -> Option<&str> {
        match self {
            Self::Scalar(text) => Some(text),
            Self::Object(_) | Self::Array(_) => None,
        }
    }

    /// The decoded string; `None` if this is not a string, or not Unicode.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        unquoted(self.scalar()?)
    }

    /// Whether it is a string, even one that is not Unicode.
    pub fn is_text(&self) -> bool {
        self.scalar().is_some_and(|text| text.starts_with('"'))
    }

    /// Whether it is this word: `null`, `true` or `false`.
    pub fn is(&self, word: &str) -> bool {
        self.scalar() == Some(word)
    }

    /// Whether it is `true` or `false`.
    pub fn is_flag(&self) -> bool {
        self.is("true") || self.is("false")
    }

    /// Appends it to a text, as JSON without spaces.
    pub fn write(&self, out: &mut String) {
        match self {
            Self::Scalar(text) => out.push_str(text),
            Self::Array(items) => {
                let mut open = '[';
                for item in items {
                    out.push(open);
                    item.write(out);
                    open = ',';
                }
                out.push_str(if items.is_empty() { "[]" } else { "]" });
            }
            Self::Object(members) => {
                let mut open = '{';
                for (key, value) in members {
                    out.push(open);
                    out.push_str(&super::quoted(key));
                    out.push(':');
                    value.write(out);
                    open = ',';
                }
                out.push_str(if members.is_empty() { "{}" } else { "}" });
            }
        }
    }
}

impl<'a> TreeReader<'a> {
    fn value(&mut self, levels: usize) -> Result<Tree<'a>, Syntax> {
        self.room = self.room.checked_sub(1).ok_or(Syntax)?;
        self.scanner.space();
        match self.scanner.peek() {
            Some(b'{') => self.object(levels.checked_sub(1).ok_or(Syntax)?),
            Some(b'[') => self.array(levels.checked_sub(1).ok_or(Syntax)?),
            _ => {
                let begin = self.scanner.at();
                self.scanner.value()?;
                Ok(Tree::Scalar(Cow::Borrowed(&self.text[begin..self.scanner.at()])))
            }
        }
    }

    fn object(&mut self, levels: usize) -> Result<Tree<'a>, Syntax> {
        let mut members = Vec::new();
        self.all(b'{', b'}', |reader| {
            let begin = reader.scanner.at();
            let (end, has_escapes) = reader.scanner.key()?;
            let key = &reader.text[begin..end];
            let key = if has_escapes { unescaped(key).ok_or(Syntax)? } else { key[1..key.len() - 1].into() };
            members.push((key, reader.value(levels)?));
            Ok(())
        })?;
        Ok(Tree::Object(each_once(members)))
    }

    fn array(&mut self, levels: usize) -> Result<Tree<'a>, Syntax> {
        let mut items = Vec::new();
        self.all(b'[', b']', |reader| {
            items.push(reader.value(levels)?);
            Ok(())
        })?;
        Ok(Tree::Array(items))
    }

    /// Parses the items between these brackets, separated by commas.
    fn all(&mut self, open: u8, close: u8, mut one: impl FnMut(&mut Self) -> Result<(), Syntax>) -> Result<(), Syntax> {
        self.scanner.passes(open);
        self.scanner.space();
        let mut more = !self.scanner.passes(close);
        while more {
            self.scanner.space();
            one(self)?;
            self.scanner.space();
            more = self.scanner.passes(b',');
            if !more && !self.scanner.passes(close) {
                return Err(Syntax);
            }
        }
        Ok(())
    }
}

/// Drops earlier members with the same key.
fn each_once<'a>(mut members: Vec<(Cow<'a, str>, Tree<'a>)>) -> Vec<(Cow<'a, str>, Tree<'a>)> {
    let mut order: Vec<usize> = (0..members.len()).collect();
    order.sort_by(|a, b| members[*a].0.cmp(&members[*b].0).then(a.cmp(b)));
    let earlier = |pair: &[usize]| (members[pair[0]].0 == members[pair[1]].0).then_some(pair[0]);
    let dropped: HashSet<usize> = order.windows(2).filter_map(earlier).collect();
    if !dropped.is_empty() {
        let mut at = 0..;
        members.retain(|_| at.next().is_some_and(|at| !dropped.contains(&at)));
    }
    members
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(text: &str) -> Option<String> {
        let mut out = String::new();
        Tree::read(text, 1000)?.write(&mut out);
        Some(out)
    }

    #[test]
    fn what_is_not_changed_is_the_same_but_for_spaces_and_doubled_members() {
        for (text, expected) in [
            (
                r#" { "b" : 1.10 , "a":[ ] , "c":{ },"d":[true,null,"\u00e9\/"] } "#,
                r#"{"b":1.10,"a":[],"c":{},"d":[true,null,"\u00e9\/"]}"#,
            ),
            (r#"{"a":1,"b":2,"\u0061":3,"a":12345678901234567890123}"#, r#"{"b":2,"a":12345678901234567890123}"#),
            (r#""x""#, r#""x""#),
        ] {
            assert_eq!(written(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_or_beyond_the_bounds_is_not_read() {
        let deep = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(written(&deep(MOST_LEVELS)).is_some());
        for text in ["", "{", "[1,]", "{\"a\":1,}", "{\"a\" 1}", "1 2", "{\"\\ud800\":1}", &deep(MOST_LEVELS + 1)] {
            assert_eq!(written(text), None, "{text}");
        }
        let wide = format!("[{}]", vec!["1"; 1000].join(","));
        assert_eq!(written(&wide), None);
    }

    proptest! {
        #[test]
        fn arbitrary_text_is_json_here_if_it_is_elsewhere(text in "[\\[\\]{}\":, a1tfn\\\\u0]{0,24}") {
            let elsewhere: Option<serde_json::Value> = serde_json::from_str(&text).ok();
            let here = written(&text).and_then(|text| serde_json::from_str(&text).ok());
            prop_assert_eq!(here, elsewhere);
        }
    }
}

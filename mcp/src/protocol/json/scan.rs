//! Finds where JSON values begin and end: as strict as RFC 8259, without recursion, and without decoding.
//!
//! Pure. Every byte of every call passes here, so strings are searched eight bytes at a time.

/// The text is not valid JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Syntax;

/// A position in a text.
pub(super) struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

/// Which of the open brackets are braces: the innermost is the lowest bit.
#[derive(Default)]
struct Levels {
    bits: u64,
    depth: usize,
    /// The bits of outer levels, 64 at a time.
    outer: Vec<u64>,
}

// === impl Scanner ===

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        Self { text: text.as_bytes(), at: 0 }
    }

    /// How many bytes were passed.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// The next byte.
    pub(super) fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    /// Skips spaces and line ends.
    pub(super) fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// Skips this byte, if it is the next.
    pub(super) fn passes(&mut self, wanted: u8) -> bool {
        let found = self.peek() == Some(wanted);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, wanted: u8) -> Result<(), Syntax> {
        if self.passes(wanted) { Ok(()) } else { Err(Syntax) }
    }

    /// Skips a key and its colon. Returns where the key ends, quotes included, and whether it has escapes.
    pub(super) fn key(&mut self) -> Result<(usize, bool), Syntax> {
        let has_escapes = self.string()?;
        let end = self.at;
        self.space();
        self.expect(b':')?;
        Ok((end, has_escapes))
    }

    /// Skips the value that begins here.
    pub(super) fn value(&mut self) -> Result<(), Syntax> {
        if matches!(self.peek(), Some(b'{' | b'[')) { self.nested() } else { self.scalar() }
    }

    /// The same for an object or an array.
    fn nested(&mut self) -> Result<(), Syntax> {
        let mut open = Levels::default();
        loop {
            self.space();
            let opened = match self.peek().ok_or(Syntax)? {
                b'{' => self.begins(b'}')? && open.push(true),
                b'[' => self.begins(b']')? && open.push(false),
                _ => self.scalar().map(|()| false)?,
            };
            if opened {
                if open.in_braces() {
                    self.key()?;
                }
            } else if !self.goes_on(&mut open)? {
                return Ok(());
            }
        }
    }

    /// The same for any other value.
    fn scalar(&mut self) -> Result<(), Syntax> {
        match self.peek() {
            Some(b'"') => self.string().map(drop),
            Some(b't') => self.literal(b"true"),
            Some(b'f') => self.literal(b"false"),
            Some(b'n') => self.literal(b"null"),
            _ => self.number(),
        }
    }

    /// Skips an opening bracket; false if the closing one follows, which is skipped too.
    fn begins(&mut self, closing: u8) -> Result<bool, Syntax> {
        self.at += 1;
        self.space();
        Ok(!self.passes(closing))
    }

    /// Skips the separators after a value, up to the next value; false if there is none.
    fn goes_on(&mut self, open: &mut Levels) -> Result<bool, Syntax> {
        while open.depth > 0 {
            self.space();
            let braces = open.in_braces();
            if self.passes(b',') {
                if braces {
                    self.space();
                    self.key()?;
                }
                return Ok(true);
            }
            self.expect(if braces { b'}' } else { b']' })?;
            open.pop();
        }
        Ok(false)
    }

    fn literal(&mut self, word: &[u8]) -> Result<(), Syntax> {
        if !self.text[self.at..].starts_with(word) {
            return Err(Syntax);
        }
        self.at += word.len();
        Ok(())
    }

    fn number(&mut self) -> Result<(), Syntax> {
        self.passes(b'-');
        // No digit follows a leading zero.
        if !self.passes(b'0') {
            self.digits()?;
        }
        if self.passes(b'.') {
            self.digits()?;
        }
        if self.passes(b'e') || self.passes(b'E') {
            if !self.passes(b'+') {
                self.passes(b'-');
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Skips one or more digits.
    fn digits(&mut self) -> Result<(), Syntax> {
        let digits = self.text[self.at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.at += digits;
        if digits > 0 { Ok(()) } else { Err(Syntax) }
    }

    /// Skips a string. Returns whether it has escapes.
    fn string(&mut self) -> Result<bool, Syntax> {
        self.expect(b'"')?;
        self.at += plain(&self.text[self.at..]);
        if self.passes(b'"') { Ok(false) } else { self.rest_of_string().map(|()| true) }
    }

    /// The same from its first escape on.
    fn rest_of_string(&mut self) -> Result<(), Syntax> {
        while !self.passes(b'"') {
            // Otherwise it is a control character, or the end.
            if self.peek() != Some(b'\\') {
                return Err(Syntax);
            }
            self.escape()?;
            self.at += plain(&self.text[self.at..]);
        }
        Ok(())
    }

    fn escape(&mut self) -> Result<(), Syntax> {
        match self.text.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => {
                let digits = self.text.get(self.at + 2..self.at + 6).ok_or(Syntax)?;
                if !digits.iter().all(u8::is_ascii_hexdigit) {
                    return Err(Syntax);
                }
                self.at += 6;
            }
            _ => return Err(Syntax),
        }
        Ok(())
    }
}

// === impl Levels ===

impl Levels {
    /// Opens a level. Always true.
    fn push(&mut self, braces: bool) -> bool {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.bits);
        }
        self.bits = (self.bits << 1) | u64::from(braces);
        self.depth += 1;
        true
    }

    fn pop(&mut self) {
        self.bits >>= 1;
        self.depth -= 1;
        if self.depth.is_multiple_of(64) {
            self.bits = self.outer.pop().unwrap_or_default();
        }
    }

    fn in_braces(&self) -> bool {
        self.bits & 1 == 1
    }
}

/// From this length on, a string is searched with instructions that take some time to start.
const LONG: usize = 64;

/// How many bytes of a string need no decoding: from its beginning to the first quote, backslash or control character.
#[inline]
fn plain(text: &[u8]) -> usize {
    let Some((first, rest)) = text.split_first_chunk() else { return plain_words(text) };
    // Most strings end here.
    match special_in(first) {
        0 => first.len() + plain_words(rest),
        special => place(special),
    }
}

/// The same, eight bytes at a time.
fn plain_words(text: &[u8]) -> usize {
    let (mut rest, mut passed) = (text, 0);
    while let Some((bytes, after)) = rest.split_first_chunk() {
        let special = special_in(bytes);
        if special != 0 {
            return passed + place(special);
        }
        (rest, passed) = (after, passed + bytes.len());
        if passed == LONG {
            return passed + plain_long(rest);
        }
    }
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    passed + rest.iter().position(special).unwrap_or(rest.len())
}

/// The same, as many bytes at a time as the processor allows.
fn plain_long(text: &[u8]) -> usize {
    let run = &text[..memchr::memchr2(b'"', b'\\', text).unwrap_or(text.len())];
    // No early exit, so that many bytes are compared at a time.
    let controls = run.iter().fold(false, |found, byte| found | (*byte < 0x20));
    let control = if controls { run.iter().position(|byte| *byte < 0x20) } else { None };
    control.unwrap_or(run.len())
}

/// The high bits of bytes that are quotes, backslashes or control characters. The lowest set bit is exact.
///
/// A byte is below a value if subtracting the value sets its high bit, which was clear (A. Mycroft, 1987). A borrow can
/// only produce errors above a byte that is found.
#[inline]
fn special_in(bytes: &[u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    let word = u64::from_le_bytes(*bytes);
    let below = |word: u64, value: u8| word.wrapping_sub(ONES * u64::from(value));
    let is = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    (below(word, 0x20) | is(b'"') | is(b'\\')) & !word & HIGH
}

/// The index of the byte with the lowest of these high bits.
fn place(high: u64) -> usize {
    high.trailing_zeros() as usize / 8
}

/// Whether a text needs no escapes between quotes.
pub(super) fn is_plain(text: &str) -> bool {
    plain(text.as_bytes()) == text.len()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde::de::IgnoredAny;

    /// Whether a text is one value, with nothing but spaces around it.
    fn is_json(text: &str) -> bool {
        let mut scanner = Scanner::new(text);
        scanner.space();
        let valid = scanner.value().is_ok();
        scanner.space();
        valid && scanner.at() == text.len()
    }

    fn says_serde(text: &str) -> bool {
        serde_json::from_str::<IgnoredAny>(text).is_ok()
    }

    #[test]
    fn what_is_json_and_what_is_not() {
        for text in [
            "{}",
            "[]",
            " 7 ",
            "-0",
            "0.5e+10",
            "1E-2",
            "\"\"",
            "\"é\\u00e9\\ud800\\n\"",
            "true",
            "[null,[],{}]",
            "{\"a\":{\"b\":[1, {\"c\" : \"]}\"} ]}}",
            "\t[\n1\r]",
            "\"\u{7f}1234567\u{20ac}\"",
        ] {
            assert!(is_json(text), "{text}");
        }
        for text in [
            "",
            "{",
            "}",
            "[1",
            "[1,]",
            "[,1]",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\":1,}",
            "{1:1}",
            "{\"a\":1]",
            "[1}",
            "01",
            "-",
            "1.",
            ".5",
            "1e",
            "+1",
            "tru",
            "nulll",
            "\"",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12\"",
            "\"a\nb\"",
            "\"1234567\u{1f}\"",
            "[1 2]",
            "1 2",
            "{\"a\" 1}",
            "{a:1}",
            "'a'",
        ] {
            assert!(!is_json(text), "{text}");
        }
    }

    #[test]
    fn depth_costs_a_bit_for_each_level() {
        let mut mixed = String::new();
        for level in 0..1_000 {
            mixed.push_str(if level % 3 == 0 { "[" } else { "{\"a\":" });
        }
        mixed.push('1');
        for level in (0..1_000).rev() {
            mixed.push(if level % 3 == 0 { ']' } else { '}' });
        }
        assert!(is_json(&mixed) && is_json(&format!("{}{}", "[".repeat(300_000), "]".repeat(300_000))));
        let wrong = mixed.replacen("1]", "1}", 1);
        assert!(!is_json(&wrong) && !is_json(&mixed[..mixed.len() - 1]));
    }

    /// Texts that are nearly JSON: the pieces of it in any order.
    fn pieces() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            "{",
            "}",
            "[",
            "]",
            ",",
            ":",
            "\"",
            "\"a\"",
            "\"b\":",
            "\\",
            "\\n",
            "\\u00e9",
            "1",
            "-",
            "0",
            ".5",
            "e3",
            "true",
            "null",
            " ",
            "\n",
            "\u{1}",
            "é",
            "longer than a word",
        ]);
        prop::collection::vec(piece, 0..16).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn it_agrees_with_serde_about_any_text(text in "\\PC{0,40}") {
            prop_assert_eq!(is_json(&text), says_serde(&text));
        }

        #[test]
        fn it_agrees_with_serde_about_what_is_nearly_json(text in pieces()) {
            prop_assert_eq!(is_json(&text), says_serde(&text), "{}", text);
        }

        #[test]
        fn it_agrees_with_serde_about_strings_of_any_length(before in "[a-zé]{0,100}", odd in any::<char>(), after in "[a-z]{0,100}") {
            let text = format!("[\"{before}{odd}{after}\"]");
            prop_assert_eq!(is_json(&text), says_serde(&text), "{}", text);
        }
    }
}

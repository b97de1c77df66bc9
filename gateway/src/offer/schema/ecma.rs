//! Translates regular expressions to ECMAScript, as clients compile those of a schema: with the flag `u`.
//!
//! Pure. Servers use the syntax of their own language. A pattern with an equivalent form is translated; one without, or
//! one that may not compile, is refused: a pattern that does not compile costs some clients the whole list. No pattern
//! is matched, and each is traversed once, so that a hostile one costs no more than its length.

mod properties;

use std::borrow::Cow;
use std::collections::HashSet;

use self::properties::{CATEGORIES, PROPERTIES, SCRIPTS};

/// A longer pattern is refused.
const MOST_BYTES: usize = 4096;

/// Groups within groups, and groups in all.
const MOST_OPEN: usize = 64;

/// The greatest accepted number of repetitions: compilers expand repetitions.
const MOST_REPEATED: u32 = 65_535;

/// The characters that need an escape; all others must not have one.
const SYNTAX: &str = "^$\\.*+?()[]{}|/";

/// The same pattern in a form that clients can compile; `None` if there is none.
pub(crate) fn translated(pattern: &str) -> Option<Cow<'_, str>> {
    if pattern.len() > MOST_BYTES {
        return None;
    }
    let written = Translator::new(pattern).run()?;
    Some(if written == pattern { Cow::Borrowed(pattern) } else { Cow::Owned(written) })
}

/// The element before the current position, which may be repeatable.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Before {
    /// Not repeatable.
    Nothing,
    /// Repeatable.
    Atom,
}

/// One character of a class, or a set of them, which cannot start or end a range.
#[derive(Clone, Copy)]
enum ClassMember {
    One(u32),
    Set,
}

struct Translator<'a> {
    rest: &'a str,
    out: String,
    /// For each open group, whether it will be repeatable: lookarounds are not.
    open: Vec<Before>,
    groups: u32,
    names: HashSet<&'a str>,
    /// The referenced groups, which may come later.
    numbers_used: u32,
    names_used: Vec<&'a str>,
}

impl<'a> Translator<'a> {
    fn new(pattern: &'a str) -> Self {
        let out = String::with_capacity(pattern.len());
        Self {
            rest: pattern,
            out,
            open: Vec::new(),
            groups: 0,
            names: HashSet::new(),
            numbers_used: 0,
            names_used: Vec::new(),
        }
    }

    fn run(mut self) -> Option<String> {
        let mut before = Before::Nothing;
        while let Some(next) = self.next() {
            before = match next {
                '^' | '$' | '|' => {
                    self.out.push(next);
                    Before::Nothing
                }
                '(' => self.opened()?,
                ')' => {
                    self.out.push(')');
                    self.open.pop()?
                }
                '[' => self.class()?,
                '\\' => self.escape()?,
                '*' | '+' | '?' => self.repeated(before, &next.to_string())?,
                '{' => match self.braces()? {
                    Some(braces) => self.repeated(before, &braces)?,
                    None => self.literal('{'),
                },
                other => self.literal(other),
            };
        }
        let known = self.numbers_used <= self.groups && self.names_used.iter().all(|name| self.names.contains(name));
        (self.open.is_empty() && known).then_some(self.out)
    }

    fn next(&mut self) -> Option<char> {
        let next = self.rest.chars().next()?;
        self.rest = &self.rest[next.len_utf8()..];
        Some(next)
    }

    fn passes(&mut self, wanted: &str) -> bool {
        let rest = self.rest.strip_prefix(wanted);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    /// The text up to this character, which is skipped too.
    fn up_to(&mut self, end: char) -> Option<&'a str> {
        let (found, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(found)
    }

    /// A character that matches itself.
    fn literal(&mut self, character: char) -> Before {
        if matches!(character, '{' | '}' | ']') {
            self.out.push('\\');
        }
        self.out.push(character);
        Before::Atom
    }

    fn repeated(&mut self, before: Before, how: &str) -> Option<Before> {
        if before == Before::Nothing {
            return None;
        }
        self.out.push_str(how);
        if self.passes("?") {
            self.out.push('?');
        }
        Some(Before::Nothing)
    }

    /// The braces of a repetition; `Some(None)` if they are literal. `None` refuses braces that only some engines read as
    /// a repetition.
    fn braces(&mut self) -> Option<Option<String>> {
        let Some((inside, rest)) = self.rest.split_once('}') else { return Some(None) };
        let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let (least, most) = inside.split_once(',').map_or((inside, inside), |(least, most)| (least, most));
        if least.is_empty() && is_number(most) {
            return None;
        }
        if !is_number(least) || !(most.is_empty() || is_number(most)) {
            return Some(None);
        }
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number <= MOST_REPEATED);
        let least = number(least)?;
        if !most.is_empty() && number(most)? < least {
            return None;
        }
        self.rest = rest;
        Some(Some(format!("{{{inside}}}")))
    }

    fn opened(&mut self) -> Option<Before> {
        let mut closed = Before::Atom;
        if self.passes("?:") {
            self.out.push_str("(?:");
        } else if let Some(look) = ["?=", "?!", "?<=", "?<!"].into_iter().find(|look| self.passes(look)) {
            self.out.push('(');
            self.out.push_str(look);
            closed = Before::Nothing;
        } else if self.passes("?P=") {
            let name = self.up_to(')').filter(|name| is_name(name))?;
            self.names_used.push(name);
            self.out.push_str(&format!("\\k<{name}>"));
            return Some(Before::Atom);
        } else if self.passes("?P<") || self.passes("?<") {
            let name = self.up_to('>').filter(|name| is_name(name) && self.names.insert(name))?;
            self.groups += 1;
            self.out.push_str(&format!("(?<{name}>"));
        } else if self.rest.starts_with('?') || self.rest.starts_with('*') {
            return None;
        } else {
            self.groups += 1;
            self.out.push('(');
        }
        self.open.push(closed);
        (self.open.len() <= MOST_OPEN && self.groups <= 1000).then_some(Before::Nothing)
    }

    // === escapes ===

    /// An escape outside a class.
    fn escape(&mut self) -> Option<Before> {
        let next = self.next()?;
        match next {
            'b' | 'B' => {
                self.out.push_str(&format!("\\{next}"));
                Some(Before::Nothing)
            }
            // The start and the end of the text, in the syntax of other languages.
            'A' => {
                self.out.push('^');
                Some(Before::Nothing)
            }
            'Z' | 'z' => {
                self.out.push('$');
                Some(Before::Nothing)
            }
            'k' => {
                let name = if self.passes("<") { self.up_to('>') } else { None };
                let name = name.filter(|name| is_name(name))?;
                self.names_used.push(name);
                self.out.push_str(&format!("\\k<{name}>"));
                Some(Before::Atom)
            }
            '1'..='9' => {
                let mut number = next.to_digit(10)?;
                while let Some(digit) = self.rest.chars().next().and_then(|digit| digit.to_digit(10)) {
                    self.next();
                    number = number.checked_mul(10)?.checked_add(digit).filter(|number| *number < 1000)?;
                }
                self.numbers_used = self.numbers_used.max(number);
                self.out.push_str(&format!("\\{number}"));
                Some(Before::Atom)
            }
            _ => self.character(next, false).map(|_| Before::Atom),
        }
    }

    /// An escape for one character, or for a set of them.
    fn character(&mut self, escaped: char, in_class: bool) -> Option<ClassMember> {
        let one = |code: u32| Some(ClassMember::One(code));
        match escaped {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => {
                self.out.push_str(&format!("\\{escaped}"));
                Some(ClassMember::Set)
            }
            'p' | 'P' => self.property(escaped),
            'f' | 'n' | 'r' | 't' | 'v' => {
                self.out.push_str(&format!("\\{escaped}"));
                one(match escaped {
                    't' => 9,
                    'n' => 10,
                    'v' => 11,
                    'f' => 12,
                    _ => 13,
                })
            }
            'c' => {
                let letter = self.next().filter(char::is_ascii_alphabetic)?;
                self.out.push_str(&format!("\\c{letter}"));
                one(u32::from(letter) % 32)
            }
            '0' if !self.rest.starts_with(|next: char| next.is_ascii_digit()) => {
                self.out.push_str("\\0");
                one(0)
            }
            'x' | 'u' | 'U' => self.code_point(escaped),
            '-' if in_class => {
                self.out.push_str("\\-");
                one(u32::from('-'))
            }
            syntax if SYNTAX.contains(syntax) => {
                self.out.push('\\');
                self.out.push(syntax);
                one(syntax.into())
            }
            // Other languages allow escapes of these.
            other if other.is_ascii_punctuation() || other == ' ' => {
                self.out.push(other);
                one(other.into())
            }
            _ => None,
        }
    }

    /// `\xHH`, `\uHHHH` and `\u{…}`, and the forms of other languages: `\x{…}`, `\UHHHHHHHH`.
    fn code_point(&mut self, kind: char) -> Option<ClassMember> {
        let digits = if kind != 'U' && self.passes("{") {
            self.up_to('}')?
        } else {
            let length = match kind {
                'x' => 2,
                'u' => 4,
                _ => 8,
            };
            let digits = self.rest.get(..length)?;
            self.rest = &self.rest[length..];
            digits
        };
        let is_code = (1..=8).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let code = u32::from_str_radix(digits, 16).ok().filter(|_| is_code)?;
        match (kind, digits.len()) {
            // Half of a surrogate pair is not a character.
            _ if char::from_u32(code).is_none() => return None,
            ('x', 2) | ('u', 4) => self.out.push_str(&format!("\\{kind}{digits}")),
            _ => self.out.push_str(&format!("\\u{{{digits}}}")),
        }
        Some(ClassMember::One(code))
    }

    fn property(&mut self, kind: char) -> Option<ClassMember> {
        let name = if self.passes("{") {
            self.up_to('}')?
        } else {
            let name = self.rest.get(..1)?;
            self.rest = &self.rest[1..];
            name
        };
        let known = match name.split_once('=') {
            None => CATEGORIES.contains(&name) || PROPERTIES.contains(&name),
            Some(("gc" | "General_Category", name)) => CATEGORIES.contains(&name),
            Some(("sc" | "Script" | "scx" | "Script_Extensions", name)) => SCRIPTS.contains(&name),
            Some(_) => false,
        };
        self.out.push_str(&format!("\\{kind}{{{name}}}"));
        known.then_some(ClassMember::Set)
    }

    // === classes ===

    fn class(&mut self) -> Option<Before> {
        self.out.push('[');
        if self.passes("^") {
            self.out.push('^');
        }
        // An empty class: other engines read the bracket as its first member.
        if self.rest.starts_with(']') {
            return None;
        }
        loop {
            let member = match self.next()? {
                ']' => {
                    self.out.push(']');
                    return Some(Before::Atom);
                }
                next => self.member(next)?,
            };
            let is_range = self.rest.starts_with('-') && !self.rest.starts_with("-]");
            if !is_range {
                continue;
            }
            self.next();
            let (begin, dash) = (member, self.out.len());
            let next = self.next()?;
            self.out.push('-');
            let end = self.member(next)?;
            match (begin, end) {
                (ClassMember::One(begin), ClassMember::One(end)) if begin <= end => {}
                (ClassMember::One(_), ClassMember::One(_)) => return None,
                // One more dash, which some engines read as a range.
                (_, ClassMember::One(0x2d)) => return None,
                _ if self.rest.starts_with('-') && !self.rest.starts_with("-]") => return None,
                // A set cannot end a range: the dash matches itself.
                _ => self.out.insert(dash, '\\'),
            }
        }
    }

    /// A member of a class that starts with this character.
    fn member(&mut self, first: char) -> Option<ClassMember> {
        match first {
            '\\' => match self.next()? {
                'b' => {
                    self.out.push_str("\\b");
                    Some(ClassMember::One(8))
                }
                escaped => self.character(escaped, true),
            },
            // In other languages these start a nested class.
            '[' if self.rest.starts_with([':', '.', '=']) => None,
            other => {
                self.out.push(other);
                Some(ClassMember::One(other.into()))
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    let is_letter = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    let rest = |byte: u8| is_letter(byte) || byte.is_ascii_digit();
    name.bytes().next().is_some_and(is_letter) && name.bytes().all(rest) && name.len() <= 64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_can_compile_stays_as_it_is() {
        for pattern in [
            "",
            "^[a-z0-9]+(?:-[a-z0-9]+)*$",
            r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}(?:\.\d+)?(?:Z|[+-]\d{2}:\d{2})$",
            r"^[\w.+\-]+@[\w\-]+\.[a-z]{2,}?$",
            r"(?<year>\d+)\/(?<month>\d+)|\k<year>",
            r"^(?!.*\.\.)(?<=a)(?<!b)(?=c)\bx\B",
            r"(a)(b)\2\1*",
            r"[^\]\\[^$.*+?(){}|/-]",
            r"[\b\0\cA\x41\u00e9\u{1F600}]",
            r"\p{L}\P{Script=Greek}[\p{Nd}\p{Emoji}]",
            "[é-ü日本]+",
            "a{3}b{2,}c{0,5}?",
        ] {
            assert_eq!(translated(pattern).as_deref(), Some(pattern), "{pattern}");
        }
    }

    #[test]
    fn what_other_languages_write_is_translated() {
        for (pattern, expected) in [
            (r"(?P<major>[0-9]+)\.(?P=major)", r"(?<major>[0-9]+)\.\k<major>"),
            (r"\Aab\Z", "^ab$"),
            (r"\Aab\z", "^ab$"),
            (r"^[\w\_\-\@\.]+\@\-\_\ x\'\:$", r"^[\w_\-@\.]+@-_ x':$"),
            (r"[\w-.]", r"[\w\-.]"),
            (r"[.-\w]", r"[.\-\w]"),
            ("{a}", r"\{a\}"),
            ("x{,}]", r"x\{,\}\]"),
            (r"\U0001F600\x{41}\x{1f600}", r"\u{0001F600}\x41\u{1f600}"),
            (r"\pL\PN", r"\p{L}\P{N}"),
        ] {
            assert_eq!(translated(pattern).as_deref(), Some(expected), "{pattern}");
        }
    }

    #[test]
    fn what_has_no_equal_form_is_refused() {
        let deep = "(".repeat(MOST_OPEN + 1) + &")".repeat(MOST_OPEN + 1);
        for pattern in [
            "(",
            ")",
            "[",
            "[]",
            "[]a]",
            "[^]",
            "a**",
            "*a",
            "a++",
            "(?i)a",
            "(?i:a)",
            "(?>a)",
            "(?#x)",
            "(?P>a)",
            "a{,3}",
            "a{3,1}",
            "a{99999}",
            "^*",
            r"\b+",
            "(?=a)*",
            "|*",
            "(*a)",
            r"\1",
            r"(a)\2",
            r"\k<a>",
            r"\k",
            "(?<a>b)(?<a>c)",
            "(?<1>a)",
            r"\e",
            r"\a",
            r"\Q",
            r"\h",
            r"\é",
            r"\u12",
            r"\ud83d",
            r"\u{110000}",
            r"\xg1",
            r"\c1",
            r"\01",
            r"\p{Klingon}",
            r"\p{Greek}",
            r"\p{Script=Klingon}",
            r"\p",
            "[z-a]",
            "[[:alpha:]]",
            r"a\",
            &deep,
            &"a".repeat(MOST_BYTES + 1),
        ] {
            assert_eq!(translated(pattern), None, "{pattern}");
        }
    }
}

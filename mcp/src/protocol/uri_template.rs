//! Matches URIs against resource templates (RFC 6570).
//!
//! Pure, and lenient: matching serves to find the server of a URI, and the server itself judges the rest. The time is
//! bounded by the length of the URI times the number of the template's parts.

/// The longest accepted template, in bytes.
pub(crate) const MAX_TEMPLATE_BYTES: usize = 1_024;

/// The longest accepted URI, in bytes.
pub const MAX_URI_BYTES: usize = 8_192;

/// A parsed template.
#[derive(Debug, PartialEq, Eq)]
pub struct UriTemplate<'a> {
    parts: Vec<Part<'a>>,
}

#[derive(Debug, PartialEq, Eq)]
enum Part<'a> {
    Literal(&'a [u8]),
    Expression(Expression),
}

/// An expression, which matches one or more bytes up to one that it excludes.
#[derive(Debug, PartialEq, Eq)]
struct Expression {
    /// The byte before the expression, absent with it.
    lead: Option<u8>,
    /// The excluded bytes.
    not: &'static [u8],
    /// The expression may be empty or absent.
    optional: bool,
}

/// Whether the template matches the URI; a malformed template matches none.
pub fn matches(template: &str, uri: &str) -> bool {
    // Most templates begin differently, and need no parsing.
    let literal = template.split('{').next().unwrap_or_default();
    uri.len() <= MAX_URI_BYTES
        && uri.starts_with(literal)
        && UriTemplate::parse(template).is_some_and(|template| template.matches(uri))
}

impl<'a> UriTemplate<'a> {
    /// Parses a template; `None` if it is malformed or too long.
    pub fn parse(template: &'a str) -> Option<Self> {
        if template.is_empty() || template.len() > MAX_TEMPLATE_BYTES {
            return None;
        }
        let mut parts = Vec::new();
        let mut rest = template;
        while let Some((literal, after)) = rest.split_once('{') {
            let (expression, after) = after.split_once('}')?;
            parts.push(Part::Literal(literal.as_bytes()));
            parts.push(Part::Expression(Expression::read(expression)?));
            rest = after;
        }
        parts.push(Part::Literal(rest.as_bytes()));
        let closed = |part: &Part<'_>| !matches!(part, Part::Literal(literal) if literal.contains(&b'}'));
        parts.iter().all(closed).then_some(Self { parts })
    }

    /// The number of bytes outside expressions: of two templates, the one with more is more specific.
    pub fn literals(&self) -> usize {
        let bytes = |part: &Part<'_>| if let Part::Literal(literal) = part { literal.len() } else { 0 };
        self.parts.iter().map(bytes).sum()
    }

    /// Whether the template matches the URI.
    pub(crate) fn matches(&self, uri: &str) -> bool {
        let uri = uri.as_bytes();
        // The positions at which the parts so far can end.
        let mut ends = vec![false; uri.len() + 1];
        ends[0] = true;
        for part in &self.parts {
            ends = match part {
                Part::Literal([]) => ends,
                Part::Literal(literal) => after_literal(&ends, uri, literal),
                Part::Expression(expression) => expression.after(&ends, uri),
            };
        }
        ends[uri.len()]
    }
}

fn after_literal(ends: &[bool], uri: &[u8], literal: &[u8]) -> Vec<bool> {
    let mut after = vec![false; ends.len()];
    for start in (0..ends.len()).filter(|start| ends[*start]) {
        if uri[start..].starts_with(literal) {
            after[start + literal.len()] = true;
        }
    }
    after
}

impl Expression {
    /// Parses the text between braces: an operator, then names with modifiers, separated by commas.
    fn read(text: &str) -> Option<Self> {
        let (operator, names) = match text.as_bytes().first()? {
            b'+' | b'#' | b'.' | b'/' | b';' | b'?' | b'&' => (text.as_bytes()[0], &text[1..]),
            _ => (b' ', text),
        };
        let is_name = |name: &str| {
            let name = name.split_once(':').map_or(name, |(name, _)| name).trim_end_matches('*');
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-%".contains(&b))
        };
        if !names.split(',').all(is_name) {
            return None;
        }
        // Some servers write `{path*}` for values that may contain slashes.
        let within: &[u8] = if names.contains('*') { b"" } else { b"/" };
        Some(match operator {
            b'+' => Self { lead: None, not: b"", optional: false },
            b'?' | b'&' => Self { lead: Some(operator), not: b"#", optional: true },
            b'#' | b'.' | b'/' | b';' => {
                let not = if operator == b'/' && names.contains(',') || operator == b'#' { b"" } else { within };
                Self { lead: Some(operator), not, optional: true }
            }
            _ => Self { lead: None, not: within, optional: false },
        })
    }

    fn after(&self, ends: &[bool], uri: &[u8]) -> Vec<bool> {
        let mut after = if self.optional { ends.to_vec() } else { vec![false; ends.len()] };
        // Whether the previous byte belongs to the expression.
        let mut within = false;
        for at in 0..uri.len() {
            let (begins, byte) = match self.lead {
                None => (ends[at], uri[at]),
                Some(lead) => (ends[at] && uri[at] == lead, uri[at]),
            };
            // The lead itself may be an excluded byte.
            within = (self.lead.is_some() && begins) || ((within || begins) && !self.not.contains(&byte));
            after[at + 1] |= within;
        }
        after
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn templates_stand_for_the_uris_that_servers_give_out() {
        let cases = [
            ("test://template/{id}/data", "test://template/1/data", true),
            ("test://template/{id}/data", "test://template//data", false),
            ("test://template/{id}/data", "test://template/1/2/data", false),
            ("test://template/{id}/data", "test://template/1/data/", false),
            ("demo://resource/dynamic/text/{resourceId}", "demo://resource/dynamic/text/7", true),
            ("file:///{path}", "file:///a/b", false),
            ("file:///{+path}", "file:///a/b?c#d", true),
            ("file:///{path*}", "file:///a/b", true),
            ("file:///{+path}", "file:///", false),
            ("x://{a}{+b}.md", "x://a/b.md", true),
            ("x://{a}-{b}", "x://1-2-3", true),
            ("x://{a},{b}", "x://1,2", true),
            ("x://{a,b}", "x://1,2", true),
            ("x://files{/dir,name}", "x://files/a/b", true),
            ("x://files{/dir}", "x://files/a/b", false),
            ("x://files{/path*}", "x://files/a/b", true),
            ("x://files{/path*}", "x://files", true),
            ("x://s{?q*}", "x://s", true),
            ("x://s{?q,page}", "x://s?page=2&q=a%20b", true),
            ("x://s{?q}", "x://s#q", false),
            ("x://s?fixed=1{&q}", "x://s?fixed=1&q=2", true),
            ("x://s?fixed=1{&q}", "x://s?fixed=1", true),
            ("x://{name}{.ext}", "x://a.tar.gz", true),
            ("x://p{;v*}", "x://p;v=1", true),
            ("x://p{#frag}", "x://p#a/b", true),
            ("x://{v:3}", "x://abc", true),
            ("x://fixed", "x://fixed", true),
            ("x://fixed", "x://fixed/", false),
            ("x://ü/{a}", "x://ü/ß", true),
            ("{+any}", "x://y", true),
        ];
        for (template, uri, expected) in cases {
            assert_eq!(matches(template, uri), expected, "{template} {uri}");
        }
    }

    #[test]
    fn malformed_templates_stand_for_nothing() {
        for template in ["", "x://{", "x://{}", "x://}", "x://{a}}", "x://{a{b}}", "x://{a b}", "x://{+}", "x://{a,}"] {
            assert_eq!(UriTemplate::parse(template), None, "{template}");
        }
        assert_eq!(UriTemplate::parse(&"x".repeat(MAX_TEMPLATE_BYTES + 1)), None);
        assert!(!matches("{+a}", &"x".repeat(MAX_URI_BYTES + 1)));
        assert_eq!(UriTemplate::parse("x://{a}/y{?q}").map(|template| template.literals()), Some(6));
    }

    /// A part of a template and what RFC 6570 makes of it for some value.
    fn part() -> impl Strategy<Value = (String, String)> {
        let value = "[A-Za-z0-9_.~-]{1,8}";
        prop_oneof![
            "[a-z/]{1,5}".prop_map(|text| (text.clone(), text)),
            value.prop_map(|value| ("{v}".to_owned(), value)),
            "[a-z/?=&%]{1,8}".prop_map(|value| ("{+v}".to_owned(), value)),
            value.prop_map(|value| ("{/v}".to_owned(), format!("/{value}"))),
            prop::collection::vec(value, 0..3)
                .prop_map(|all| ("{/v*}".to_owned(), all.iter().map(|value| format!("/{value}")).collect())),
            prop::collection::vec(value, 0..3).prop_map(|all| {
                let pairs: Vec<String> = all.iter().map(|value| format!("k={value}")).collect();
                let query = if pairs.is_empty() { String::new() } else { format!("?{}", pairs.join("&")) };
                ("{?q*}".to_owned(), query)
            }),
        ]
    }

    proptest! {
        #[test]
        fn a_template_stands_for_all_that_it_expands_to(parts in prop::collection::vec(part(), 0..8)) {
            let template = parts.iter().fold("x://".to_owned(), |text, (part, _)| text + part);
            let uri = parts.iter().fold("x://".to_owned(), |text, (_, value)| text + value);
            prop_assert!(matches(&template, &uri), "{} {}", template, uri);
        }

        #[test]
        fn arbitrary_texts_never_panic_and_a_plain_one_stands_for_itself_alone(a in ".{0,60}", b in "[{}+/?*,a-c#:]{0,40}") {
            let _ = (matches(&a, &b), matches(&b, &a), matches(&b, &b));
            if !a.is_empty() && !a.contains(['{', '}']) {
                let longer = format!("{a}x");
                prop_assert!(matches(&a, &a) && !matches(&a, &longer));
            }
        }
    }

    #[test]
    fn the_worst_template_for_the_longest_uri_takes_no_time() {
        let template = "{+a}".repeat(MAX_TEMPLATE_BYTES / 4);
        let began = std::time::Instant::now();
        assert!(!matches(&format!("{}!", &template[4..]), &"a".repeat(MAX_URI_BYTES)));
        assert!(began.elapsed() < std::time::Duration::from_secs(5), "{:?}", began.elapsed());
    }
}

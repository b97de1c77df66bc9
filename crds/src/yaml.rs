//! Bounds the depth, size and repetition of YAML before it is parsed, because parsing some texts of a
//! hundred kilobytes takes minutes, and others would fill the memory.
//!
//! Pure. It reads the text event by event, in time proportional to its length, and stops at the first bound.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser};

/// Largest depth; an object of Kubernetes has some ten levels.
const MAX_DEPTH: usize = 64;

/// Largest number of values of one text, keys included; a short manifest has thirteen.
const MAX_VALUES: usize = 250_000;

/// Largest number of values that aliases repeat.
const MAX_REPEATED: usize = 50_000;

/// Largest number of documents of one text.
const MAX_DOCUMENTS: usize = 20_000;

/// The counts of a text.
#[derive(Default)]
struct YamlSize {
    documents: usize,
    values: usize,
    repeated: usize,
    /// For each list or mapping that is open: its anchor, and the count of values before it.
    open: Vec<(usize, usize)>,
    /// Values under each anchor.
    anchored: HashMap<usize, usize>,
}

/// Checks that a text is within all bounds.
///
/// # Errors
/// One sentence with the exceeded bound, the document and the line, and nothing of the content.
pub fn check(text: &str) -> Result<(), String> {
    let mut seen = YamlSize::default();
    for next in Parser::new_from_str(text) {
        let problem = match next {
            Ok((event, span)) => seen.take(&event).map_err(|problem| (span.start.line(), problem)),
            // It looks ahead, and has a bound of its own for that.
            Err(error) if error.info().contains("recursion") => Err((error.marker().line(), too_deep())),
            Err(error) => Err((error.marker().line(), error.info().to_owned())),
        };
        if let Err((line, problem)) = problem {
            let document = if seen.documents > 1 { format!("document {}: ", seen.documents) } else { String::new() };
            return Err(format!("{document}line {line}: {problem}"));
        }
    }
    Ok(())
}

impl YamlSize {
    fn take(&mut self, event: &Event<'_>) -> Result<(), String> {
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                self.anchored.clear();
            }
            Event::Scalar(_, _, anchor, _) => {
                self.values += 1;
                self.anchor(*anchor, 1);
            }
            Event::SequenceStart(anchor, _) | Event::MappingStart(anchor, _) => {
                self.open.push((*anchor, self.values + self.repeated));
                self.values += 1;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some((anchor, before)) = self.open.pop() {
                    self.anchor(anchor, self.values + self.repeated - before);
                }
            }
            Event::Alias(anchor) => match self.anchored.get(anchor) {
                Some(values) => self.repeated = self.repeated.saturating_add(*values),
                None => return Err("an alias refers to a value that contains it: write the value out".to_owned()),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
        self.bounds()
    }

    fn anchor(&mut self, anchor: usize, values: usize) {
        if anchor > 0 {
            self.anchored.insert(anchor, values);
        }
    }

    fn bounds(&self) -> Result<(), String> {
        let too = |what: &str, limit: usize, cure: &str| Err(format!("more than {limit} {what}: {cure}"));
        if self.open.len() > MAX_DEPTH {
            return Err(too_deep());
        }
        if self.values > MAX_VALUES {
            return too("values", MAX_VALUES, "split it into several files");
        }
        if self.repeated > MAX_REPEATED {
            return too("values come from aliases", MAX_REPEATED, "use fewer aliases");
        }
        if self.documents > MAX_DOCUMENTS {
            return too("documents", MAX_DOCUMENTS, "split it into several files");
        }
        Ok(())
    }
}

fn too_deep() -> String {
    format!("more than {MAX_DEPTH} levels of nesting: close what is open, or flatten it")
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Enough to tell slow from fast.
    const LENGTH: usize = 128 * 1024;

    fn repeated(unit: &str) -> String {
        unit.repeat(LENGTH / unit.len())
    }

    #[test]
    fn usual_texts_are_within_all_bounds() {
        let server = "apiVersion: v1\nkind: McpServer\nmetadata: {name: a, labels: &l {x: 'y'}}\nspec:\n  url: http://a/\n  text: |\n    {{{{ [[[[ \"\n  same: *l\n";
        for text in ["", "# nothing\n", "a", server, "[{}, [], 'x', \"y\"]", "---\n---\na: 1\n...\n"] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        assert_eq!(check(&format!("---\n{server}").repeat(10_000)), Ok(()));
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(check(&deep(MAX_DEPTH)), Ok(()));
        assert!(check(&deep(MAX_DEPTH + 1)).is_err());
    }

    #[test]
    fn what_is_too_deep_too_much_or_repeated_too_often_is_named_with_its_line() {
        let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let before = format!("*a{}, ", n - 1).repeat(10);
            bomb.push_str(&format!("a{n}: &a{n} [{}]\n", before.trim_end_matches(", ")));
        }
        let long = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(1_000), "*a,".repeat(60));
        let stairs: String = (0..200).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
        for (text, expected) in [
            (repeated("{"), "line 1: more than 64 levels"),
            (repeated("- "), "line 1: more than 64 levels"),
            (repeated("? "), "line 1: more than 64 levels"),
            (stairs, "more than 64 levels"),
            (format!("a: 1\n---\nb: {}", "{a: ".repeat(100)), "document 2: line 3: more than 64 levels"),
            ("- a\n".repeat(300_000), "more than 250000 values"),
            (bomb, "more than 50000 values come from aliases"),
            (long, "more than 50000 values come from aliases"),
            ("a: &a [*a]\n".to_owned(), "refers to a value that contains it"),
            (repeated("---\n"), "more than 20000 documents"),
        ] {
            let problem = check(&text).unwrap_err();
            assert!(problem.contains(expected), "{} gives {problem}", &text[..text.len().min(80)]);
        }
        for text in ["{", "[", "{\"]\":", "['}',", "{a: [", "&a [", "!t {"] {
            assert!(check(&repeated(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn no_text_takes_long() {
        let units = [
            "{", "[", "{\"]\":", "- ", "? ", ": ", "a", "a ", "\"", "'", "\n", " ", "\t", "#", "# \n", "!a ", "&a ",
            "*a ", "%", ",", "}", "---\n", "- &a b\n", "a: |\n", " x\n", "\\", "\r", "\u{85}", "a: b\n", "[a,\n",
            "|\n", "> \n", "- - ", "'a': ", "\"\\x41", "[]", "{}", "{a: b}\n", "-\n", "?\n",
        ];
        for unit in units {
            for text in [repeated(unit), format!("a: [{}", repeated(unit)), format!("a: |\n {}", repeated(unit))] {
                let began = Instant::now();
                let _ = check(&text);
                // A hundred times what is usual: the machine may be busy.
                assert!(began.elapsed() < Duration::from_secs(10), "{unit:?} takes {:?}", began.elapsed());
            }
        }
    }
}

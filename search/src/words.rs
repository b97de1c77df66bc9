//! Text → terms: words are split, lowered, freed of words that mean nothing, and stemmed.

use std::cell::RefCell;
use std::sync::LazyLock;

use hashbrown::HashSet;
use snowball_stemmers_rs::{Algorithm, Stemmer};

/// The most bytes of a term. Longer words are cut, at a character.
pub(crate) const MAX_TERM_BYTES: usize = 32;

/// Words that stand in most sentences and tell no tool from another: function words, and verbs that mean little alone.
#[rustfmt::skip]
const STOP_WORDS: [&str; 136] = [
    "a", "about", "all", "also", "am", "an", "and", "any", "anything", "are", "as", "at", "be", "been", "being",
    "but", "by", "can", "could", "did", "do", "does", "doing", "each", "either", "etc", "every", "everything", "for",
    "from", "give", "go", "goes", "going", "had", "has", "have", "having", "he", "her", "here", "him", "his", "how",
    "i", "if", "in", "instead", "into", "is", "it", "its", "itself", "just", "keep", "know", "let", "like", "look",
    "looking", "looks", "may", "me", "might", "must", "my", "need", "no", "not", "of", "on", "one", "only", "onto",
    "or", "other", "our", "own", "please", "put", "s", "say", "see", "shall", "she", "should", "so", "some",
    "something", "such", "t", "take", "taken", "takes", "tell", "than", "that", "the", "their", "them", "then",
    "there", "these", "they", "thing", "things", "this", "those", "to", "too", "us", "use", "used", "uses", "using",
    "via", "want", "was", "we", "were", "what", "when", "where", "whether", "which", "while", "who", "whose", "why",
    "will", "with", "within", "would", "yet", "you", "your",
];

/// One term of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Term<'a> {
    /// The stem that is indexed and looked up.
    pub stem: &'a str,
    /// The word as it stood, lowered: how long a word was decides how many typos it may hold.
    pub word: &'a str,
    pub kind: Kind,
}

/// How a term stood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// By itself.
    Word,
    /// Written as several words in one, as `GitHub`; its parts follow.
    Whole,
    /// A part of the whole before it.
    Part,
}

/// The same, by hash: every word of every text is looked up.
static STOPS: LazyLock<HashSet<&str>> = LazyLock::new(|| STOP_WORDS.into_iter().collect());

thread_local! {
    // The tables are static; a stemmer is a pointer to a function that costs a box to make.
    static ENGLISH: Stemmer = Stemmer::create(Algorithm::English);
    static LOWERED: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Gives `take` every term of a text, in order, until it answers `false`.
pub(crate) fn each_term(text: &str, mut take: impl FnMut(Term<'_>) -> bool) {
    LOWERED.with(|lowered| {
        // A `take` that calls this function again gets a buffer of its own.
        let mut own = String::new();
        let mut shared = lowered.try_borrow_mut();
        let buffer = shared.as_deref_mut().unwrap_or(&mut own);
        for run in text.split(|c: char| !(c.is_alphanumeric() || c == '\'' || c == '’')) {
            if !run_terms(run, buffer, &mut take) {
                return;
            }
        }
    });
}

/// The terms of a run of letters, digits and apostrophes: its parts, and the whole if there are several.
fn run_terms(run: &str, buffer: &mut String, take: &mut impl FnMut(Term<'_>) -> bool) -> bool {
    // What follows an apostrophe is `s`, `t`, `ll`: an ending.
    let run = run.trim_start_matches(['\'', '’']);
    let run = run.split(['\'', '’']).next().unwrap_or_default();
    if run.is_empty() {
        return true;
    }
    if run.chars().any(is_unspaced) {
        return unspaced(run, buffer, take);
    }
    // A letter or digit split off, as in `k8s`, means nothing.
    let means = |part: &&str| part.chars().nth(1).is_some();
    if first_part(run) == run.len() || !parts(run).any(|part| means(&part)) {
        return word(run, Kind::Word, buffer, take);
    }
    word(run, Kind::Whole, buffer, take) && parts(run).filter(means).all(|part| word(part, Kind::Part, buffer, take))
}

/// A run, parted where its writing changes.
fn parts(run: &str) -> impl Iterator<Item = &str> {
    let mut rest = run;
    std::iter::from_fn(move || {
        let (part, after) = rest.split_at(first_part(rest));
        rest = after;
        Some(part).filter(|part| !part.is_empty())
    })
}

/// Whether a script writes words without spaces: Thai, Lao, Khmer, kana, Han.
fn is_unspaced(c: char) -> bool {
    matches!(c, '\u{0e00}'..='\u{0eff}' | '\u{1780}'..='\u{17ff}' | '\u{3040}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{20000}'..='\u{323af}')
}

/// Pairs of characters stand for the words of such a script; what is written between them in another is a word.
fn unspaced(run: &str, buffer: &mut String, take: &mut impl FnMut(Term<'_>) -> bool) -> bool {
    let mut rest = run;
    while let Some(first) = rest.chars().next() {
        let kind = is_unspaced(first);
        let (part, after) = rest.split_at(rest.find(|c| is_unspaced(c) != kind).unwrap_or(rest.len()));
        if !kind {
            if !word(part, Kind::Word, buffer, take) {
                return false;
            }
        } else if part.chars().nth(1).is_none() {
            if !take(Term { stem: part, word: part, kind: Kind::Word }) {
                return false;
            }
        } else {
            let starts = part.char_indices().map(|(at, _)| at);
            let ends = part.char_indices().skip(2).map(|(at, _)| at).chain([part.len()]);
            for (start, end) in starts.zip(ends) {
                let pair = &part[start..end];
                if !take(Term { stem: pair, word: pair, kind: Kind::Word }) {
                    return false;
                }
            }
        }
        rest = after;
    }
    true
}

/// Bytes of the first part of a run: up to where letters turn to digits, lower to upper case, or an acronym to a word.
fn first_part(run: &str) -> usize {
    let class = |c: char| (c.is_numeric(), c.is_uppercase());
    let mut characters = run.char_indices().peekable();
    let mut previous: Option<char> = None;
    while let Some((at, c)) = characters.next() {
        let next = characters.peek().map(|&(_, c)| c);
        if let Some(previous) = previous {
            let ((was_digit, was_upper), (is_digit, is_upper)) = (class(previous), class(c));
            let acronym_ends = was_upper && is_upper && next.is_some_and(|next| next.is_lowercase());
            // `URLs` and `IDs` are one word each.
            let is_plural = acronym_ends && &run[at + c.len_utf8()..] == "s";
            if was_digit != is_digit || (!was_digit && !was_upper && is_upper) || (acronym_ends && !is_plural) {
                return at;
            }
        }
        previous = Some(c);
    }
    run.len()
}

/// One word: lowered, cut, and stemmed if it is English by its letters.
fn word(word: &str, kind: Kind, buffer: &mut String, take: &mut impl FnMut(Term<'_>) -> bool) -> bool {
    buffer.clear();
    if word.is_ascii() {
        buffer.push_str(&word[..word.len().min(MAX_TERM_BYTES)]);
        buffer.make_ascii_lowercase();
    } else {
        for c in word.chars().flat_map(char::to_lowercase) {
            if buffer.len() + c.len_utf8() > MAX_TERM_BYTES {
                break;
            }
            buffer.push(c);
        }
    }
    let lowered = buffer.as_str();
    if STOPS.contains(lowered) {
        return true;
    }
    // The stemmer counts bytes, so it is given ASCII alone.
    if lowered.len() < 3 || !lowered.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return take(Term { stem: lowered, word: lowered, kind });
    }
    ENGLISH.with(|english| take(Term { stem: &english.stem(lowered), word: lowered, kind }))
}

/// The stem of one word of a table.
pub(crate) fn stem(word: &str) -> String {
    let mut stem = String::new();
    each_term(word, |term| {
        stem = term.stem.to_owned();
        true
    });
    stem
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn terms(text: &str) -> Vec<String> {
        let mut terms = Vec::new();
        each_term(text, |term| {
            terms.push(term.stem.to_owned());
            true
        });
        terms
    }

    #[test]
    fn names_are_split_where_their_writing_changes() {
        for (text, expected) in [
            ("create_pull_request", "creat pull request"),
            ("list-api-resources", "list api resourc"),
            ("getFileContents", "getfilecont get file content"),
            ("HTTPServer", "httpserver http server"),
            ("listURLs", "listurl list url"),
            ("URLs and IDs", "url id"),
            ("GitHub", "github git hub"),
            ("k8s", "k8s"),
            ("base64", "base64 base 64"),
            ("What's the users' time?", "user time"),
            ("the and of", ""),
            ("Übergröße", "übergröße"),
            ("東京都の天気", "東京 京都 都の の天 天気"),
            ("Tokyo東京", "tokyo 東京"),
            ("天", "天"),
            ("", ""),
        ] {
            assert_eq!(terms(text).join(" "), expected, "{text}");
        }
    }

    #[test]
    fn a_taker_that_has_enough_gets_no_more() {
        let mut taken = 0;
        each_term("alpha beta gamma deltaEpsilon 東京都", |_| {
            taken += 1;
            taken < 2
        });
        assert_eq!(taken, 2);
    }

    proptest! {
        #[test]
        fn no_text_panics_and_no_term_is_empty_or_longer_than_the_bound(text in "\\PC{0,80}|[a-zA-Z0-9'’ _.-]{0,80}") {
            each_term(&text, |term| {
                assert!(!term.stem.is_empty() && term.stem.len() <= MAX_TERM_BYTES, "{term:?}");
                assert!(!term.word.is_empty() && term.word.len() <= MAX_TERM_BYTES, "{term:?}");
                true
            });
        }
    }
}

//! The different terms of an index: their numbers, and which of them look like a word.

use std::hash::BuildHasher as _;

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::near::{Sketch, allowed_edits, edits};
use crate::words::Term;

/// The most terms. Further ones are not found, and share the number of the empty term.
const MAX_TERMS: usize = 1 << 20;

/// The shortest word that is taken for the beginning of another.
const MIN_BEGINNING: usize = 3;

/// Terms by their numbers, which follow the order in which they came. The first is the empty one.
pub(crate) struct Terms {
    hasher: DefaultHashBuilder,
    /// Numbers, by the texts of their terms.
    numbers: HashTable<u32>,
    /// All texts, and where each ends.
    texts: String,
    ends: Vec<u32>,
    sketches: Vec<Sketch>,
}

impl Terms {
    pub(crate) fn new() -> Self {
        let mut terms = Self {
            hasher: DefaultHashBuilder::default(),
            numbers: HashTable::new(),
            texts: String::new(),
            ends: Vec::new(),
            sketches: Vec::new(),
        };
        terms.number_or_new(b"");
        terms
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes on the heap.
    pub(crate) fn held_bytes(&self) -> usize {
        self.numbers.allocation_size()
            + self.texts.capacity()
            + size_of::<u32>() * self.ends.capacity()
            + size_of::<Sketch>() * self.sketches.capacity()
    }

    /// Gives back what it has too much, when all terms are there.
    pub(crate) fn shrink(&mut self) {
        let Self { hasher, texts, ends, .. } = self;
        self.numbers.shrink_to_fit(|&number| hasher.hash_one(text_of(texts, ends, number).as_bytes()));
        self.texts.shrink_to_fit();
        self.ends.shrink_to_fit();
        self.sketches.shrink_to_fit();
    }

    /// The number of a term, as bytes, since most are known and need not be read.
    pub(crate) fn number_or_new(&mut self, term: &[u8]) -> u32 {
        let hash = self.hasher.hash_one(term);
        let Self { hasher, texts, ends, .. } = self;
        if let Some(&number) = self.numbers.find(hash, |&number| text_of(texts, ends, number).as_bytes() == term) {
            return number;
        }
        if ends.len() >= MAX_TERMS {
            return 0;
        }
        let number = ends.len() as u32;
        self.numbers.insert_unique(hash, number, |&number| hasher.hash_one(text_of(texts, ends, number).as_bytes()));
        // A tool's terms are texts.
        let term = str::from_utf8(term).unwrap_or_default();
        texts.push_str(term);
        ends.push(texts.len() as u32);
        self.sketches.push(Sketch::new(term));
        number
    }

    pub(crate) fn number(&self, term: &str) -> Option<u32> {
        let hash = self.hasher.hash_one(term.as_bytes());
        self.numbers.find(hash, |&number| self.text(number) == term).copied()
    }

    /// Longer terms that begin with this one, and their bytes: at most so many, the shortest first.
    pub(crate) fn begun_by(&self, beginning: &str, most: usize) -> Vec<(u32, u8)> {
        if beginning.len() < MIN_BEGINNING {
            return Vec::new();
        }
        let sketch = Sketch::new(beginning);
        let mut shortest: Vec<(u8, &str, u32)> = Vec::new();
        for (number, other) in (0..).zip(&self.sketches) {
            if !sketch.may_begin(other) {
                continue;
            }
            let text = self.text(number);
            let found = (text.len() as u8, text, number);
            let is_wanted = shortest.len() < most || shortest.last().is_some_and(|last| found < *last);
            if is_wanted && text.starts_with(beginning) {
                shortest.truncate(most.saturating_sub(1));
                shortest.insert(shortest.partition_point(|it| *it < found), found);
            }
        }
        shortest.into_iter().map(|(length, _, number)| (number, length)).collect()
    }

    /// Terms that this one may be with a typo, and the typos: at most so many, all of the fewest; those that begin alike first.
    ///
    /// Takes a comparison from `comparisons` for each term it reads, and ends when none is left.
    pub(crate) fn near(&self, term: Term<'_>, most: usize, comparisons: &mut usize) -> Vec<(u32, u8)> {
        let allowed = allowed_edits(term.word.chars().count());
        if allowed == 0 {
            return Vec::new();
        }
        // A typo may have kept a word from being stemmed, or have it stemmed to something else.
        let forms = [term.stem, term.word].map(|form| (form, Sketch::new(form)));
        let mut near: Vec<(u8, bool, &str, u32)> = Vec::new();
        for (number, other) in (0..).zip(&self.sketches) {
            let mut alike = forms.iter().filter(|(_, sketch)| sketch.may_be_near(other, allowed)).peekable();
            if alike.peek().is_none() {
                continue;
            }
            let Some(left) = comparisons.checked_sub(1) else { break };
            *comparisons = left;
            let text = self.text(number);
            if let Some(edits) = alike.filter_map(|(form, _)| edits(form, text, allowed)).min() {
                near.push((edits, term.stem.chars().next() != text.chars().next(), text, number));
            }
        }
        near.sort_unstable();
        let fewest = near.first().map_or(0, |best| best.0);
        let near = near.into_iter().take_while(|it| it.0 == fewest).take(most);
        near.map(|(edits, _, _, number)| (number, edits)).collect()
    }

    fn text(&self, number: u32) -> &str {
        text_of(&self.texts, &self.ends, number)
    }
}

fn text_of<'t>(texts: &'t str, ends: &[u32], number: u32) -> &'t str {
    let number = number as usize;
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    &texts[start as usize..ends[number] as usize]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Kind;

    fn terms(all: &[&str]) -> Terms {
        let mut terms = Terms::new();
        for term in all {
            terms.number_or_new(term.as_bytes());
        }
        terms
    }

    #[test]
    fn terms_have_the_numbers_of_their_order_and_keep_them() {
        let mut terms = terms(&["a", "b", "a", "c"]);
        assert_eq!(["", "a", "b", "c", "d"].map(|term| terms.number(term)), [Some(0), Some(1), Some(2), Some(3), None]);
        terms.shrink();
        assert_eq!(terms.number("c"), Some(3));
        assert_eq!(terms.number_or_new(b"b"), 2);
    }

    #[test]
    fn the_shortest_of_many_longer_terms_are_kept() {
        let terms =
            terms(&["report", "repeats", "repos", "repx", "rep", "other", "repa", "abcdefghijk", "abcdefghxyz"]);
        assert_eq!(terms.begun_by("rep", 3), [(7, 4), (4, 4), (3, 5)]);
        assert_eq!(terms.begun_by("rep", 9).len(), 5);
        assert_eq!(terms.begun_by("abcdefghi", 9), [(8, 11)]);
        assert_eq!(terms.begun_by("re", 9), []);
        assert_eq!(terms.begun_by("rep", 0), []);
    }

    #[test]
    fn terms_that_look_alike_cost_no_more_comparisons_than_there_are() {
        let all: Vec<String> = ('a'..='t').map(|letter| format!("alikeword{letter}")).collect();
        let terms = terms(&all.iter().map(String::as_str).collect::<Vec<_>>());
        let near = |most, mut left| {
            let term = Term { stem: "alikeworx", word: "alikeworx", kind: Kind::Word };
            let found = terms.near(term, most, &mut left);
            (found.len(), left)
        };
        assert_eq!(near(24, 1000), (20, 980));
        assert_eq!(near(4, 1000), (4, 980));
        assert_eq!(near(24, 3), (3, 0));
        assert_eq!(near(24, 0), (0, 0));
    }
}

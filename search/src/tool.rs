//! One tool as the index sees it: which terms it has, and how much each says about it.

use crate::schema::{self, Part};
use crate::words::each_term;

/// The most bytes of one text that are read.
const MAX_TEXT_BYTES: usize = 16 * 1024;

/// The most bytes of a server's name that tell it from another.
const MAX_SERVER_BYTES: usize = 256;

/// The most bytes of a schema that are read.
const MAX_SCHEMA_BYTES: usize = 128 * 1024;

/// The most distinct terms of one tool. Names, titles and descriptions come before arguments.
const MAX_TERMS: usize = 400;

/// The most terms of one field that are counted.
const MAX_FIELD_TERMS: usize = 4_000;

/// The most times that a term counts in a field: who says it more often says no more.
const MAX_REPEATS: u16 = 3;

/// Where the weight of a term stops growing: `k1` of BM25.
const SATURATION: f32 = 2.5;

/// A tool as it is searched.
#[derive(Clone, Copy, Debug, Default)]
pub struct Document<'a> {
    /// The name that its server gave it.
    pub name: &'a str,
    /// The title for people.
    pub title: Option<&'a str>,
    /// What it does.
    pub description: Option<&'a str>,
    /// The schema of its arguments, as JSON. What is no JSON is passed over.
    pub input_schema: Option<&'a str>,
    /// The name of its server.
    pub server: &'a str,
}

/// A text of a tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Name,
    Title,
    Server,
    Description,
    ArgumentNames,
    ArgumentDescriptions,
}

const FIELDS: usize = 6;

/// How a field counts.
struct Rule {
    /// What a term in it weighs, compared with one in a description.
    weight: f32,
    /// How much its length thins it out: `b` of BM25.
    thinning: f32,
    /// Terms that such a field has commonly, over the tools of search/testdata. A constant instead of the mean over the
    /// index: a tool's terms weigh the same whatever other tools there are.
    typical: f32,
}

impl Field {
    /// Tuned on search/testdata/tuned.jsonl.
    fn rule(self) -> Rule {
        let (weight, thinning, typical) = match self {
            Self::Name => (3.0, 0.4, 3.0),
            Self::Title => (2.0, 0.5, 3.0),
            // Who names a product means its server.
            Self::Server => (8.0, 0.0, 1.0),
            Self::Description => (1.5, 0.5, 25.0),
            Self::ArgumentNames => (0.7, 0.5, 8.0),
            Self::ArgumentDescriptions => (0.5, 0.6, 50.0),
        };
        Rule { weight, thinning, typical }
    }

    const ALL: [Self; FIELDS] =
        [Self::Name, Self::Title, Self::Server, Self::Description, Self::ArgumentNames, Self::ArgumentDescriptions];
}

/// The terms of one tool, each with its weight. Made once; indexes share it.
#[derive(Debug, PartialEq, Eq)]
pub struct IndexedTool {
    /// Tools of one server stand by each other.
    server: Box<str>,
    /// For each term the length of its text, its weight, and its text.
    terms: Box<[u8]>,
}

impl IndexedTool {
    /// Reads a tool's texts. Never fails: what is too long or no JSON is passed over.
    pub fn new(document: &Document<'_>) -> Self {
        let mut counts = Counts::new();
        counts.read(Field::Name, document.name);
        counts.read(Field::Title, document.title.unwrap_or_default());
        counts.read(Field::Server, document.server);
        counts.read(Field::Description, document.description.unwrap_or_default());
        schema::each_text(cut(document.input_schema.unwrap_or_default(), MAX_SCHEMA_BYTES), |part, text| {
            match part {
                Part::Name => counts.read(Field::ArgumentNames, text),
                Part::Description => counts.read(Field::ArgumentDescriptions, text),
            }
            !counts.is_full()
        });
        Self { server: cut(document.server, MAX_SERVER_BYTES).into(), terms: counts.pack() }
    }

    /// Bytes that it holds, with its own.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>() + self.server.len() + self.terms.len()
    }

    /// The name of its server.
    pub(crate) fn server(&self) -> &str {
        &self.server
    }

    /// Its terms with their weights, in the order in which they first stood.
    pub(crate) fn terms(&self) -> impl Iterator<Item = (&[u8], u8)> {
        let mut rest = &*self.terms;
        std::iter::from_fn(move || {
            let (&[length, weight], after) = rest.split_first_chunk()?;
            let (text, after) = after.split_at_checked(length.into())?;
            rest = after;
            Some((text, weight))
        })
    }
}

/// How often each term stands in each field.
#[derive(Default)]
struct Counts {
    /// Every distinct term: the end of its text in `texts`, and its counts.
    terms: Vec<(usize, [u16; FIELDS])>,
    texts: String,
    places: hashbrown::HashTable<usize>,
    hasher: hashbrown::DefaultHashBuilder,
    lengths: [usize; FIELDS],
}

impl Counts {
    /// With room for what a tool has as a rule.
    fn new() -> Self {
        Self {
            terms: Vec::with_capacity(64),
            texts: String::with_capacity(512),
            places: hashbrown::HashTable::with_capacity(64),
            ..Self::default()
        }
    }

    fn read(&mut self, field: Field, text: &str) {
        each_term(cut(text, MAX_TEXT_BYTES), |term| {
            self.count(field, term.stem);
            self.lengths[field as usize] < MAX_FIELD_TERMS
        });
    }

    /// Whether no further text can change much.
    fn is_full(&self) -> bool {
        self.terms.len() >= MAX_TERMS || self.lengths.iter().any(|&length| length >= MAX_FIELD_TERMS)
    }

    fn count(&mut self, field: Field, stem: &str) {
        use std::hash::BuildHasher as _;
        self.lengths[field as usize] += 1;
        let text = |place: usize| {
            let start = place.checked_sub(1).map_or(0, |before| self.terms[before].0);
            &self.texts[start..self.terms[place].0]
        };
        let hash = self.hasher.hash_one(stem);
        let found = self.places.find(hash, |&place| text(place) == stem).copied();
        let place = match found {
            Some(place) => place,
            None if self.terms.len() >= MAX_TERMS => return,
            None => {
                let place = self.terms.len();
                let rehash = |&place: &usize| self.hasher.hash_one(text(place));
                self.places.insert_unique(hash, place, rehash);
                self.texts.push_str(stem);
                self.terms.push((self.texts.len(), [0; FIELDS]));
                place
            }
        };
        let count = &mut self.terms[place].1[field as usize];
        *count = count.saturating_add(1);
    }

    /// BM25F: the counts of all fields make one weight, which stops growing.
    fn pack(self) -> Box<[u8]> {
        // What one occurrence is worth in each field of this length.
        let worth = Field::ALL.map(|field| {
            let Rule { weight, thinning, typical } = field.rule();
            weight / (1.0 - thinning + thinning * self.lengths[field as usize] as f32 / typical)
        });
        let mut packed = Vec::with_capacity(self.texts.len() + 2 * self.terms.len());
        let mut start = 0;
        for (end, counts) in self.terms {
            let sum: f32 =
                counts.iter().zip(worth).map(|(&count, worth)| f32::from(count.min(MAX_REPEATS)) * worth).sum();
            let weight = (255.0 * sum / (SATURATION + sum)).round().clamp(1.0, 255.0) as u8;
            let text = &self.texts.as_bytes()[start..end];
            // A term is no longer than `MAX_TERM_BYTES`.
            packed.extend([text.len() as u8, weight]);
            packed.extend(text);
            start = end;
        }
        packed.into()
    }
}

/// The beginning of a text that has at most so many bytes.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    &text[..text.floor_char_boundary(most)]
}

//! Many tools, and which of them a query means.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::Arc;

use hashbrown::HashMap;

use crate::synonyms::{spelled_out, synonyms};
use crate::terms::Terms;
use crate::tool::{IndexedTool, cut};
use crate::words::{Kind, Term, each_term, stem};

/// The most tools of an index: all their postings have a number of 32 bits, and all positions one of 24. Further ones are not
/// found.
const MAX_TOOLS: usize = 1 << 22;

/// Terms of a tool, as a rule.
const USUAL_TERMS: usize = 40;

/// The most bytes of a query that are read.
const MAX_QUERY_BYTES: usize = 1024;

/// The most distinct terms of a query.
const MAX_QUERY_TERMS: usize = 24;

/// The most terms that one of a query is taken to mean.
const MAX_VARIANTS: usize = 24;

/// The most comparisons of one query, letter by letter. Words of tools that look alike in great numbers are no words.
const MAX_COMPARISONS: usize = 20_000;

/// How sure it is that a term means the query's, of `CERTAIN`. Tuned on search/testdata/tuned.jsonl.
const CERTAIN: u32 = 256;
const SPELLED_OUT: u32 = 230;
const SYNONYM: u32 = 160;
const BEGINNING: u32 = 128;
const TYPO: [u32; 3] = [CERTAIN, 220, 140];

/// How many tools of a server speak for it, and what a tool gains by the mean of their scores: half.
const SPEAKERS: usize = 4;
const SERVER_SHARE: u32 = 2;

/// A tool that was found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Hit {
    /// Its position among the tools that the index was made from.
    pub at: usize,
    /// How well it fits: more is better. Comparable within one answer only.
    pub score: f32,
}

/// Orders tools by how well they fit a query: the one place where another ranking, say of embeddings, comes in.
pub trait Ranking: Send + Sync {
    /// The best tools that `accepts` lets through, at most `limit`, the best first; of equal ones the earlier first.
    ///
    /// `accepts` is asked in that order, and no more often than needed.
    fn rank(&self, query: &str, limit: usize, accepts: &mut dyn FnMut(usize) -> bool) -> Vec<Hit>;
}

/// Terms, and the tools that have them. Immutable; the same tools in the same order give the same answers everywhere.
///
/// How rare a word is counts over all tools of an index, whoever may see them. Where one party must not learn of, or sway,
/// what another finds, each needs an index of its own.
pub struct Index {
    /// For each tool the number of its server.
    servers: Vec<u32>,
    /// For each server how many tools speak for it.
    speakers: Vec<u32>,
    terms: Terms,
    /// For each term where its postings end.
    posting_ends: Vec<u32>,
    postings: Vec<Posting>,
}

/// A tool that has a term, in the high 24 bits; what the term says of it, in the low 8.
#[derive(Clone, Copy)]
struct Posting(u32);

impl Posting {
    fn new(at: usize, weight: u8) -> Self {
        Self((at as u32) << 8 | u32::from(weight))
    }

    fn at(self) -> usize {
        (self.0 >> 8) as usize
    }

    fn weight(self) -> u32 {
        self.0 & 0xff
    }
}

/// What one term of a query may mean: the numbers of terms, each with how sure that is.
struct Meaning {
    variants: Vec<(u32, u32)>,
}

impl Index {
    /// Indexes tools; each is named by its position.
    pub fn new(tools: impl IntoIterator<Item = Arc<IndexedTool>>) -> Self {
        let tools: Vec<Arc<IndexedTool>> = tools.into_iter().take(MAX_TOOLS).collect();
        let mut index = Self {
            servers: Vec::with_capacity(tools.len()),
            speakers: Vec::new(),
            terms: Terms::new(),
            posting_ends: Vec::new(),
            postings: Vec::new(),
        };
        index.number_servers(&tools);
        let mut counts: Vec<u32> = Vec::new();
        let mut numbers: Vec<u32> = Vec::with_capacity(USUAL_TERMS * tools.len());
        for (term, _) in tools.iter().flat_map(|tool| tool.terms()) {
            let number = index.terms.number_or_new(term);
            counts.resize(index.terms.len(), 0);
            counts[number as usize] += 1;
            numbers.push(number);
        }
        let mut places = Vec::with_capacity(counts.len());
        let mut end = 0;
        for count in counts {
            places.push(end as usize);
            end += count;
            index.posting_ends.push(end);
        }
        index.postings = vec![Posting(0); numbers.len()];
        let weights = tools.iter().enumerate().flat_map(|(at, tool)| tool.terms().map(move |(_, weight)| (at, weight)));
        for (number, (at, weight)) in numbers.into_iter().zip(weights) {
            let place = &mut places[number as usize];
            index.postings[*place] = Posting::new(at, weight);
            *place += 1;
        }
        index.terms.shrink();
        index.posting_ends.shrink_to_fit();
        index
    }

    /// The best tools that `accepts` lets through, at most `limit`, the best first; of equal ones the earlier first.
    ///
    /// `accepts` is asked about positions in that order, and no more often than needed. Of a query, the first 1,024 bytes and
    /// 24 distinct terms count.
    pub fn search(&self, query: &str, limit: usize, mut accepts: impl FnMut(usize) -> bool) -> Vec<Hit> {
        let mut found: BinaryHeap<(u32, Reverse<usize>)> = self.scores(query).into();
        let mut hits = Vec::new();
        while hits.len() < limit
            && let Some((score, Reverse(at))) = found.pop()
        {
            if accepts(at) {
                hits.push(Hit { at, score: score as f32 / (255 * CERTAIN) as f32 });
            }
        }
        hits
    }

    /// Bytes that it holds, with its own, but not the tools it was made from.
    pub fn held_bytes(&self) -> usize {
        size_of::<Self>()
            + self.terms.held_bytes()
            + size_of::<u32>() * (self.servers.capacity() + self.speakers.capacity())
            + size_of::<u32>() * self.posting_ends.capacity()
            + size_of::<Posting>() * self.postings.capacity()
    }

    /// The number of tools.
    pub fn len(&self) -> usize {
        self.servers.len()
    }

    /// Whether there is no tool.
    pub fn is_empty(&self) -> bool {
        self.servers.is_empty()
    }

    fn number_servers(&mut self, tools: &[Arc<IndexedTool>]) {
        let mut numbers: HashMap<&str, u32> = HashMap::new();
        for tool in tools {
            let next = numbers.len() as u32;
            let number = *numbers.entry(tool.server()).or_insert(next);
            self.servers.push(number);
            match self.speakers.get_mut(number as usize) {
                Some(speakers) => *speakers = (*speakers + 1).min(SPEAKERS as u32),
                None => self.speakers.push(1),
            }
        }
    }

    fn postings(&self, number: u32) -> &[Posting] {
        let number = number as usize;
        let start = number.checked_sub(1).map_or(0, |before| self.posting_ends[before]);
        &self.postings[start as usize..self.posting_ends[number] as usize]
    }

    /// The scores of all tools that have one, in no order. Sums of integers, so that no order of summing shows.
    fn scores(&self, query: &str) -> Vec<(u32, Reverse<usize>)> {
        let mut scores = vec![0_u32; self.len()];
        let mut bests = vec![0_u32; self.len()];
        let mut touched = Vec::new();
        for meaning in self.meanings(query) {
            // A tool counts a term once, in the surest of its meanings.
            for (number, sureness) in &meaning.variants {
                for posting in self.postings(*number) {
                    let (at, value) = (posting.at(), posting.weight() * sureness);
                    if bests[at] == 0 {
                        touched.push(at);
                    }
                    bests[at] = bests[at].max(value);
                }
            }
            // As rare as the most frequent of its meanings, so that a rare misreading is worth no more.
            let having = meaning.variants.iter().map(|&(number, _)| self.postings(number).len()).max();
            let rarity = rarity(self.len(), having.unwrap_or_default());
            for at in touched.drain(..) {
                // At most 25 << 8 times 255: 24 of them stay below 2^30.
                scores[at] += rarity * (std::mem::take(&mut bests[at]) / CERTAIN);
            }
        }
        self.add_servers(&mut scores);
        let found = scores.into_iter().enumerate().filter(|&(_, score)| score > 0);
        found.map(|(at, score)| (score, Reverse(at))).collect()
    }

    /// A tool gains by what its server's best tools score: who asks for pods means the server that knows of pods.
    fn add_servers(&self, scores: &mut [u32]) {
        let mut bests = vec![[0_u32; SPEAKERS]; self.speakers.len()];
        for (&score, &server) in scores.iter().zip(&self.servers) {
            let bests = &mut bests[server as usize];
            if let Some(place) = bests.iter().position(|&best| score > best) {
                bests[place..].rotate_right(1);
                bests[place] = score;
            }
        }
        for (score, &server) in scores.iter_mut().zip(&self.servers) {
            if *score > 0 {
                // A quarter of 2^32 each, since a score is below that.
                let sum: u32 = bests[server as usize].iter().map(|best| best / SERVER_SHARE).sum();
                *score += sum / self.speakers[server as usize];
            }
        }
    }

    /// What the terms of a query may mean in this index.
    fn meanings(&self, query: &str) -> Vec<Meaning> {
        let mut meanings = Vec::new();
        let mut seen: Vec<String> = Vec::new();
        let mut comparisons = MAX_COMPARISONS;
        let mut whole_is_known = false;
        each_term(cut(query, MAX_QUERY_BYTES), |term| {
            // What is known as a whole, as `GitHub` is, is not looked for in parts.
            match term.kind {
                Kind::Word => {}
                Kind::Whole => {
                    whole_is_known = self.terms.number(term.stem).is_some();
                    if !whole_is_known {
                        return true;
                    }
                }
                Kind::Part if whole_is_known => return true,
                Kind::Part => {}
            }
            if !seen.iter().any(|it| it == term.stem) {
                seen.push(term.stem.to_owned());
                meanings.push(self.meaning(term, &mut comparisons));
                for word in spelled_out(term.stem) {
                    let number = self.terms.number(&stem(word));
                    let variants = number.map(|number| (number, SPELLED_OUT)).into_iter().collect();
                    meanings.push(Meaning { variants });
                }
            }
            seen.len() < MAX_QUERY_TERMS
        });
        meanings
    }

    fn meaning(&self, term: Term<'_>, comparisons: &mut usize) -> Meaning {
        let own = self.terms.number(term.stem).map(|number| (number, CERTAIN));
        let synonyms = synonyms(term.stem).iter().filter_map(|synonym| self.terms.number(synonym));
        let longer = self.terms.begun_by(term.stem, MAX_VARIANTS).into_iter().map(|(number, length)| {
            // The longer the rest, the less it is the same word.
            (number, BEGINNING * term.stem.len() as u32 / u32::from(length))
        });
        let mut variants: Vec<(u32, u32)> =
            own.into_iter().chain(synonyms.map(|number| (number, SYNONYM))).chain(longer).collect();
        if variants.is_empty() {
            let near = self.terms.near(term, MAX_VARIANTS, comparisons).into_iter();
            variants.extend(near.map(|(number, edits)| (number, TYPO[usize::from(edits.min(2))])));
        }
        variants.truncate(MAX_VARIANTS);
        Meaning { variants }
    }
}

impl Ranking for Index {
    fn rank(&self, query: &str, limit: usize, accepts: &mut dyn FnMut(usize) -> bool) -> Vec<Hit> {
        self.search(query, limit, accepts)
    }
}

/// How much a term says that so many of the tools have: the logarithm of BM25, to base 2, in 256ths.
///
/// Of integers, so that every processor and library gives the same.
fn rarity(tools: usize, having: usize) -> u32 {
    // 1 + (N - n + 0.5) / (n + 0.5), with 32 bits after the point.
    let mut ratio = ((2 * tools as u128 + 2) << 32) / (2 * having as u128 + 1);
    let whole = ratio.checked_ilog2().unwrap_or(0).saturating_sub(32);
    ratio >>= whole;
    let mut logarithm = whole;
    for _ in 0..8 {
        ratio = (ratio * ratio) >> 32;
        logarithm <<= 1;
        if ratio >= 2 << 32 {
            ratio >>= 1;
            logarithm |= 1;
        }
    }
    logarithm
}

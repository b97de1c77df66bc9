//! What ours is compared with: counting words that occur somewhere, and BM25 over whole words.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::Tool;

/// All texts of a tool, names and descriptions of its arguments too.
fn text(tool: &Tool) -> String {
    let mut text = format!(
        "{} {} {} {}",
        tool.server,
        tool.name,
        tool.title.as_deref().unwrap_or_default(),
        tool.description.as_deref().unwrap_or_default()
    );
    arguments(&tool.schema, &mut text);
    text.to_lowercase()
}

fn arguments(schema: &Value, text: &mut String) {
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        *text += &format!(" {name} {}", schema["description"].as_str().unwrap_or_default());
        arguments(schema, text);
        arguments(&schema["items"], text);
    }
}

/// Positions by score, the best first, without those that have none.
fn order(scores: impl Iterator<Item = f64>) -> Vec<usize> {
    let mut order: Vec<(f64, usize)> = scores.enumerate().map(|(at, score)| (score, at)).collect();
    order.retain(|&(score, _)| score > 0.0);
    order.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    order.into_iter().map(|(_, at)| at).collect()
}

/// How many of a query's words occur in a tool's texts, also inside of other words.
pub(crate) struct Substring(Vec<String>);

impl Substring {
    pub(crate) fn new(tools: &[Tool]) -> Self {
        Self(tools.iter().map(text).collect())
    }

    pub(crate) fn rank(&self, query: &str) -> Vec<usize> {
        let query = query.to_lowercase();
        let words: BTreeSet<&str> = query.split_whitespace().collect();
        order(self.0.iter().map(|text| words.iter().filter(|&&word| text.contains(word)).count() as f64))
    }
}

/// BM25 as in the textbook: whole words, one field, k1 = 1.2, b = 0.75.
pub(crate) struct Words {
    counts: Vec<BTreeMap<String, f64>>,
    lengths: Vec<f64>,
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty())
}

impl Words {
    pub(crate) fn new(tools: &[Tool]) -> Self {
        let counts: Vec<BTreeMap<String, f64>> = tools
            .iter()
            .map(|tool| {
                let mut counts = BTreeMap::new();
                words(&text(tool)).for_each(|word| *counts.entry(word.to_owned()).or_default() += 1.0);
                counts
            })
            .collect();
        let lengths = counts.iter().map(|counts| counts.values().sum()).collect();
        Self { counts, lengths }
    }

    pub(crate) fn rank(&self, query: &str) -> Vec<usize> {
        let query = query.to_lowercase();
        let tools = self.counts.len() as f64;
        let mean = self.lengths.iter().sum::<f64>() / tools;
        let mut scores = vec![0.0; self.counts.len()];
        for word in words(&query).collect::<BTreeSet<&str>>() {
            let having = self.counts.iter().filter(|counts| counts.contains_key(word)).count() as f64;
            let rarity = (1.0 + (tools - having + 0.5) / (having + 0.5)).ln();
            for (at, counts) in self.counts.iter().enumerate() {
                let count = counts.get(word).copied().unwrap_or_default();
                scores[at] += rarity * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * self.lengths[at] / mean));
            }
        }
        order(scores.into_iter())
    }
}

//! How often the right tool is among the first five: 400 queries over 339 tools of real servers, beside two simple rankings.
//!
//! docs/search.md holds the figures, and every query that fails.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
mod simple;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use portcullis_search::{Document, Index, IndexedTool};
use serde::Deserialize;
use serde_json::Value;

/// The rankings.
const OURS: &str = "this search";
const BM25: &str = "plain BM25";
const SUBSTRING: &str = "substring";

/// Recall@5 that this search must reach, by part.
const LEAST_RECALL: [(&str, f64); 3] = [("all", 0.88), ("tuned", 0.9), ("held out", 0.81)];

/// How many tools an agent looks at.
const SEEN: usize = 5;

/// A tool of a real server, with the texts of its authors.
pub(crate) struct Tool {
    server: String,
    name: String,
    title: Option<String>,
    description: Option<String>,
    schema: Value,
}

#[derive(Deserialize)]
struct Query {
    kind: String,
    query: String,
    /// Tools of which each is an answer, as `server/tool`.
    expected: Vec<String>,
}

fn read(file: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file)).unwrap()
}

fn tools() -> Vec<Tool> {
    let servers: Vec<Value> = serde_json::from_str(&read("tools.json")).unwrap();
    let mut all = Vec::new();
    for server in &servers {
        for tool in server["tools"].as_array().unwrap() {
            let text = |key: &str| tool[key].as_str().map(str::to_owned);
            all.push(Tool {
                server: server["server"].as_str().unwrap().to_owned(),
                name: text("name").unwrap(),
                title: text("title"),
                description: text("description"),
                schema: tool["inputSchema"].clone(),
            });
        }
    }
    all
}

/// The queries that the ranking was tuned on, and those written after that.
const PARTS: [(&str, &str); 2] = [("tuned", "tuned.jsonl"), ("held out", "held-out.jsonl")];

/// All queries, each with the name of its part.
fn queries() -> Vec<(&'static str, Query)> {
    let parts = PARTS.map(|(part, file)| {
        let queries: Vec<Query> = read(file).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        queries.into_iter().map(move |query| (part, query))
    });
    parts.into_iter().flatten().collect()
}

fn index(tools: &[Tool]) -> Index {
    Index::new(tools.iter().map(|tool| {
        Arc::new(IndexedTool::new(&Document {
            name: &tool.name,
            title: tool.title.as_deref(),
            description: tool.description.as_deref(),
            input_schema: Some(&tool.schema.to_string()),
            server: &tool.server,
        }))
    }))
}

/// Figures of one ranking over some queries.
#[derive(Default)]
struct Figures {
    queries: usize,
    /// Queries of which a right tool is among the first five.
    found: usize,
    /// The sum of 1 / the place of the first right tool among the first fifty.
    reciprocal_ranks: f64,
}

impl Figures {
    fn add(&mut self, place: Option<usize>) {
        self.queries += 1;
        self.found += usize::from(place.is_some_and(|place| place < SEEN));
        self.reciprocal_ranks += place.map_or(0.0, |place| 1.0 / (place + 1) as f64);
    }

    fn recall(&self) -> f64 {
        self.found as f64 / self.queries as f64
    }

    fn mean_reciprocal_rank(&self) -> f64 {
        self.reciprocal_ranks / self.queries as f64
    }
}

#[test]
fn the_right_tool_is_among_the_first_five_more_often_than_with_simple_rankings() {
    let (tools, queries) = (tools(), queries());
    let names: Vec<String> = tools.iter().map(|tool| format!("{}/{}", tool.server, tool.name)).collect();
    assert!(tools.len() >= 200 && queries.len() >= 150, "{} tools, {} queries", tools.len(), queries.len());
    let (ours, substring, words) = (index(&tools), simple::Substring::new(&tools), simple::Words::new(&tools));
    let mut failed = Vec::new();
    let mut figures: BTreeMap<(String, &str), Figures> = BTreeMap::new();
    for (part, query) in &queries {
        for expected in &query.expected {
            assert!(names.contains(expected), "{expected} is no tool");
        }
        let ranked: [(&str, Vec<usize>); 3] = [
            (OURS, ours.search(&query.query, 50, |_| true).iter().map(|hit| hit.at).collect()),
            (BM25, words.rank(&query.query)),
            (SUBSTRING, substring.rank(&query.query)),
        ];
        for (ranking, order) in ranked {
            let place = order.iter().take(50).position(|&at| query.expected.contains(&names[at]));
            for group in ["all".to_owned(), (*part).to_owned(), query.kind.clone()] {
                figures.entry((group, ranking)).or_default().add(place);
            }
            if ranking == OURS && place.is_none_or(|place| place >= SEEN) {
                let first = order.first().map_or("nothing", |&at| names[at].as_str());
                let wanted = &query.expected[0];
                failed.push(format!("- {} ({part}): `{wanted}`; first comes `{first}`\n", query.query));
            }
        }
    }
    let page = page(&figures, &failed);
    println!("{page}");
    for (group, least) in LEAST_RECALL {
        let of = |ranking| &figures[&(group.to_owned(), ranking)];
        let ours = of(OURS);
        assert!(ours.recall() >= least, "{group}: recall@5 is {:.3}", ours.recall());
        for other in [of(BM25), of(SUBSTRING)] {
            assert!(ours.recall() > other.recall(), "{group}");
            assert!(ours.mean_reciprocal_rank() > other.mean_reciprocal_rank(), "{group}");
        }
    }
    keep(&page);
}

/// The figures and failures as docs/search.md shows them.
fn page(figures: &BTreeMap<(String, &str), Figures>, failed: &[String]) -> String {
    let mut page = format!("| queries | | {OURS} | {BM25} | {SUBSTRING} |\n|---|---|---|---|---|\n");
    let groups: BTreeSet<&String> = figures.keys().map(|(group, _)| group).collect();
    for group in groups {
        let cell = |ranking| {
            let figures = &figures[&(group.clone(), ranking)];
            format!("{:.2}, {:.2}", figures.recall(), figures.mean_reciprocal_rank())
        };
        let count = figures[&(group.clone(), OURS)].queries;
        writeln!(page, "| {group} | {count} | {} | {} | {} |", cell(OURS), cell(BM25), cell(SUBSTRING)).unwrap();
    }
    writeln!(page, "\nThese {} queries fail:\n", failed.len()).unwrap();
    page + &failed.concat()
}

/// Fails unless docs/search.md holds this, or with `WRITE_FIGURES=1` writes it there.
fn keep(figures: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/search.md");
    let page = fs::read_to_string(&path).unwrap();
    let (before, rest) = page.split_once("<!-- quality: begin -->\n").unwrap();
    let (kept, after) = rest.split_once("<!-- quality: end -->").unwrap();
    let wanted = format!("\n{figures}\n");
    if std::env::var_os("WRITE_FIGURES").is_some() {
        fs::write(path, format!("{before}<!-- quality: begin -->\n{wanted}<!-- quality: end -->{after}")).unwrap();
    } else {
        assert_eq!(kept, wanted, "write them with WRITE_FIGURES=1 cargo test --workspace --test quality");
    }
}

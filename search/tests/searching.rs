//! What a search finds, in which order, and that nobody's texts or queries get more than their due.

use std::sync::Arc;

use portcullis_search::{Document, Hit, Index, IndexedTool, Ranking};
use proptest::prelude::*;

fn tool(name: &str, description: &str) -> Arc<IndexedTool> {
    Arc::new(IndexedTool::new(&Document { name, description: Some(description), ..Document::default() }))
}

fn index(tools: &[(&str, &str)]) -> Index {
    Index::new(tools.iter().map(|(name, description)| tool(name, description)))
}

/// The positions that a query finds, the best first.
fn found(index: &Index, query: &str) -> Vec<usize> {
    index.search(query, 100, |_| true).iter().map(|hit| hit.at).collect()
}

#[test]
fn a_tool_is_found_by_other_forms_beginnings_typos_and_synonyms_of_its_words() {
    let index = index(&[
        ("create_repository", "Creates a new repository"),
        ("listPullRequests", "Lists pull requests"),
        ("send-mail", "Sends mail to people"),
        ("k8s_nodes", "Shows nodes"),
    ]);
    for (query, expected) in [
        ("creating repositories", &[0][..]),
        ("repo", &[0]),
        ("repositry", &[0]),
        ("reopsitory", &[0]),
        ("PULL-REQUEST", &[1]),
        ("open PRs", &[3]),
        ("a pr", &[1]),
        ("email", &[2]),
        ("kubernetes", &[3]),
        ("nodse", &[3]),
        ("the of and", &[]),
        ("zzzzzz", &[]),
        ("", &[]),
    ] {
        assert_eq!(found(&index, query), expected, "{query}");
    }
}

#[test]
fn a_name_says_more_than_a_title_a_description_or_an_argument() {
    let schema = r#"{"properties":{"invoice":{}}}"#;
    let described = r#"{"properties":{"n":{"description":"the invoice"}}}"#;
    let tools = [
        Document { name: "a", input_schema: Some(described), ..Document::default() },
        Document { name: "a", input_schema: Some(schema), ..Document::default() },
        Document { name: "a", description: Some("An invoice"), ..Document::default() },
        Document { name: "a", title: Some("Invoice"), ..Document::default() },
        Document { name: "invoice", ..Document::default() },
        Document { name: "a", server: "invoice", ..Document::default() },
        Document { name: "a", ..Document::default() },
    ];
    let index = Index::new(tools.iter().map(|tool| Arc::new(IndexedTool::new(tool))));
    assert_eq!(found(&index, "invoice"), [5, 4, 3, 2, 1, 0]);
}

#[test]
fn of_tools_that_fit_alike_that_of_the_server_which_knows_the_subject_is_better() {
    let tools = [("list", "a", "Lists things"), ("list", "b", "Lists things"), ("logs", "b", "Logs of pods")];
    let index = Index::new(tools.map(|(name, server, description)| {
        let document = Document { name, server, description: Some(description), ..Document::default() };
        Arc::new(IndexedTool::new(&document))
    }));
    assert_eq!(found(&index, "list pods"), [2, 1, 0]);
    assert_eq!(found(&index, "list"), [0, 1]);
}

#[test]
fn of_equal_tools_the_earlier_is_better_and_one_that_is_not_accepted_is_passed_over() {
    let index = index(&[("read", "Reads"); 5]);
    let mut asked = Vec::new();
    let hits = index.search("read", 2, |at| {
        asked.push(at);
        at != 1
    });
    assert_eq!(hits.iter().map(|hit| hit.at).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(asked, [0, 1, 2]);
    assert_eq!(hits[0].score, hits[1].score);
    assert_eq!(index.search("read", 0, |_| panic!("nobody asked for any")), []);
}

#[test]
fn a_word_repeated_ten_thousand_times_wins_nothing() {
    let spam = "invoice ".repeat(10_000);
    let mix = "invoice payment order customer mail ".repeat(2_000);
    let index = index(&[("helper", &spam), ("helper2", &mix), ("create_invoice", "Creates an invoice for a customer")]);
    assert_eq!(found(&index, "create an invoice for a customer")[0], 2);
    assert_eq!(found(&index, "invoice")[0], 2);
}

#[test]
fn scores_are_the_same_on_every_machine_and_in_every_run() {
    let tools =
        [("create_issue", "Creates an issue"), ("list_issues", "Lists issues"), ("ping", "Checks the connection")];
    let expected = [(0, 1.7286764), (1, 0.719424)];
    for _ in 0..10 {
        let hits = index(&tools).search("create an isue", 5, |_| true);
        assert_eq!(hits, expected.map(|(at, score)| Hit { at, score }));
    }
}

#[test]
fn a_query_and_a_tool_of_any_size_are_read_to_a_bound() {
    let words: String = (0..100_000).map(|n| format!("word{n} ")).collect();
    let schema = format!(r#"{{"properties":{{{}"z":{{}}}}}}"#, r#""a":{"description":"b c d"},"#.repeat(100_000));
    let tool = IndexedTool::new(&Document {
        name: &words,
        title: Some(&words),
        description: Some(&words),
        input_schema: Some(&schema),
        server: &words,
    });
    assert!(tool.held_bytes() < 16 * 1024, "{}", tool.held_bytes());
    let index = Index::new([Arc::new(tool)]);
    assert_eq!(index.search(&words, 1, |_| true).len(), 1);
    // 24 terms are looked for; this one comes after them.
    let others: String = ('a'..='x').map(|letter| format!("q{letter} ")).collect();
    assert_eq!(index.search(&format!("{others} word1"), 1, |_| true), []);
}

#[test]
fn an_index_of_nothing_finds_nothing() {
    let index = Index::new([]);
    assert!(index.is_empty());
    assert_eq!(index.search("anything", 5, |_| true), []);
    assert_eq!(Ranking::rank(&index, "anything", 5, &mut |_| true), []);
}

proptest! {
    #[test]
    fn no_texts_panic_and_hits_are_in_order_and_of_the_index(
        texts in proptest::collection::vec("\\PC{0,40}|[a-dA-D_ ]{0,40}", 0..8),
        query in "\\PC{0,40}|[a-dA-D_ ]{0,40}",
        limit in 0_usize..10,
    ) {
        let tools = texts.iter().map(|text| {
            let document =
                Document { name: text, title: Some(text), description: Some(text), input_schema: Some(text), server: text };
            Arc::new(IndexedTool::new(&document))
        });
        let index = Index::new(tools.clone());
        let hits = index.search(&query, limit, |at| at % 2 == 0);
        prop_assert!(hits.len() <= limit);
        prop_assert!(hits.iter().all(|hit| hit.at < texts.len() && hit.at % 2 == 0 && hit.score > 0.0));
        prop_assert!(hits.is_sorted_by(|a, b| a.score > b.score || (a.score == b.score && a.at < b.at)));
        prop_assert_eq!(hits, Index::new(tools).search(&query, limit, |at| at % 2 == 0));
    }

    #[test]
    fn a_tool_is_found_by_every_word_of_its_name(words in proptest::collection::vec("[b-z]{5,9}", 1..5)) {
        let name = words.join("_");
        let index = index(&[("other", "Nothing"), (&name, "")]);
        for word in &words {
            prop_assert!(found(&index, word).contains(&1), "{} in {}", word, name);
        }
    }
}

//! A query in the first line; in the next three the name, description and server of a tool; its schema in the rest.
#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use portcullis_search::{Document, Index, IndexedTool, estimate_tokens};

/// The most bytes of a tool, whose terms are bounded in number and length.
const MAX_TOOL_BYTES: usize = 16 * 1024;

fuzz_target!(|bytes: &[u8]| {
    assert!(estimate_tokens(bytes) <= 2 * bytes.len());
    let Ok(text) = str::from_utf8(bytes) else { return };
    let mut lines = text.splitn(5, '\n');
    let [query, name, description, server, schema] = std::array::from_fn(|_| lines.next().unwrap_or_default());
    let document = Document { name, title: None, description: Some(description), input_schema: Some(schema), server };
    let tool = Arc::new(IndexedTool::new(&document));
    assert!(tool.held_bytes() <= MAX_TOOL_BYTES);
    let other = Document { name: query, description: Some(schema), ..Document::default() };
    let tools = [Arc::clone(&tool), Arc::new(IndexedTool::new(&other)), tool];
    let hits = Index::new(tools.clone()).search(query, 3, |_| true);
    assert!(hits.is_sorted_by(|a, b| a.score > b.score || (a.score == b.score && a.at < b.at)));
    // Equal tools are equal to every query, and hash maps show in no answer.
    assert_eq!(hits.iter().any(|hit| hit.at == 0), hits.iter().any(|hit| hit.at == 2));
    assert_eq!(hits, Index::new(tools).search(query, 3, |_| true));
});

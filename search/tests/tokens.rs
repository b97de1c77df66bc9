//! The estimate of tokens beside a real tokenizer, over lists of real tools and over texts of thirteen languages.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::fs;
use std::path::Path;

use portcullis_search::estimate_tokens;
use serde_json::{Map, Value, json};
use tiktoken_rs::o200k_base;

/// Tools of the shortest list that the promise is for.
const LEAST_TOOLS: usize = 10;

/// The most that the estimate may be off.
const TOLERANCE: f64 = 0.15;

fn read(file: &str) -> Value {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// Lists of tools, each with a name: every ten tools that stand together, every server's, and those of each language.
fn lists() -> Vec<(String, String)> {
    let servers = read("tools.json");
    let mut lists = Vec::new();
    let mut all: Vec<&Value> = Vec::new();
    for server in servers.as_array().unwrap() {
        let tools = server["tools"].as_array().unwrap();
        all.extend(tools);
        if tools.len() >= LEAST_TOOLS {
            lists.push((server["server"].to_string(), json!({ "tools": tools }).to_string()));
        }
    }
    for (at, tools) in all.chunks_exact(LEAST_TOOLS).enumerate() {
        lists.push((format!("tools from {}", at * LEAST_TOOLS), json!({ "tools": tools }).to_string()));
    }
    let languages: Map<String, Value> = read("languages.json").as_object().unwrap().clone();
    for (language, texts) in languages {
        let tool = |(at, text): (usize, &Value)| {
            let schema = json!({"type": "object", "properties": {"id": {"type": "string", "description": text}}});
            json!({"name": format!("tool_{at}"), "description": text, "inputSchema": schema})
        };
        let tools: Vec<Value> = texts.as_array().unwrap().iter().enumerate().map(tool).collect();
        assert!(tools.len() >= LEAST_TOOLS, "{language}");
        lists.push((language, json!({ "tools": tools }).to_string()));
    }
    lists
}

#[test]
fn the_estimate_for_a_list_of_ten_tools_is_near_what_a_tokenizer_counts() {
    let tokenizer = o200k_base().unwrap();
    let lists = lists();
    assert!(lists.len() >= 50, "{} lists", lists.len());
    let mut faults = Vec::new();
    let mut worst: f64 = 0.0;
    for (name, list) in lists {
        let counted = tokenizer.encode_ordinary(&list).len();
        let estimated = estimate_tokens(list.as_bytes());
        let off = estimated as f64 / counted as f64 - 1.0;
        println!("{name}: {counted} tokens, estimated {estimated}, {:+.1} %", off * 100.0);
        worst = worst.max(off.abs());
        if off.abs() > TOLERANCE {
            faults.push(name);
        }
    }
    println!("at most {:.1} % off", worst * 100.0);
    assert_eq!(faults, Vec::<String>::new());
}

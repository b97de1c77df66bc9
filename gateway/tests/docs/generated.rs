//! Files that are written from the code. `cargo xtask generate` writes them; otherwise they are compared.

use std::path::{Path, PathBuf};

use portcullis_gateway::front::openapi;

/// Set by `cargo xtask generate`.
const GENERATE: &str = "PORTCULLIS_GENERATE";

pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn check(path: &str, text: &str) {
    let file = repository().join(path);
    if std::env::var_os(GENERATE).is_some() {
        std::fs::write(&file, text).unwrap();
        return;
    }
    let there = std::fs::read_to_string(&file).unwrap_or_default();
    let differs = there.lines().zip(text.lines()).position(|(old, new)| old != new);
    let line = differs.unwrap_or_else(|| there.lines().count().min(text.lines().count())) + 1;
    assert!(there == text, "{path}, line {line}, is not what the code says: run `cargo xtask generate`");
}

#[test]
fn the_openapi_document_is_up_to_date() {
    check("docs/openapi.json", &format!("{}\n", openapi::document().to_pretty_json().unwrap()));
}
#[test]
fn the_page_of_metrics_is_up_to_date() {
    check("docs/metrics.md", &super::metrics::page());
}

//! Files that are written from the code. `cargo xtask generate` writes them; otherwise they are compared.

use portcullis_gateway::front::rest::openapi;
use xtask::generate::check;
pub use xtask::generate::repository;

#[test]
fn the_openapi_document_is_up_to_date() {
    check("docs/openapi.json", &format!("{}\n", openapi::document().to_pretty_json().unwrap()));
}

#[test]
fn the_page_of_metrics_is_up_to_date() {
    check("docs/metrics.md", &super::metrics::page());
}

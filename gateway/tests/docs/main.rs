//! What the documents say is what the code does: generated files, the README's tables, the examples.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod examples;
mod generated;
mod metrics;
mod readme;

//! What the documents say is what the code does: generated files, the README's tables, the examples.

mod examples;
mod generated;
mod metrics;
mod readme;

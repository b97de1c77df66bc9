//! Compares the documents with the code: the definition of McpServer, its reference, and the metrics.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod generated;
mod metrics;
mod reference;
mod troubleshooting;

//! What the documents say is what the code does: generated files, the table of settings, commands and examples.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod commands;
mod examples;
mod generated;
mod metrics;
mod settings;

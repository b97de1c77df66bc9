//! Reconciles McpServers, McpAccessPolicies and McpViews into the ConfigMaps that the gateway watches, and writes their status.
//!
//! watches → `inventory` (pure) → `publish`; gateway replicas → `fleet` (pure) → `status` (pure) → `statuses`.
//! The `controller` alone owns all of it. The operator knows nothing of MCP, tokens or Secrets.

// A command's reader may be gone: `runtime::print` knows.
#![cfg_attr(not(test), warn(clippy::print_stdout))]

mod audit_counts;
mod bucket;
pub mod command;
mod config;
mod controller;
mod entries;
mod events;
mod fleet;
mod inventory;
mod keys;
mod leader;
mod listings;
pub mod metrics;
mod newcomers;
mod object_key;
mod objects;
mod operator;
mod ownership;
mod policies;
mod poll;
mod publish;
mod ready_counts;
mod replica_count;
mod replicas;
mod report;
pub mod retire;
pub mod run_command;
mod scopes;
mod share;
mod status;
mod statuses;
mod views;
mod watch;

pub use config::{OperatorConfig, OperatorOptions};

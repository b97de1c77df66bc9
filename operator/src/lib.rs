//! Reconciles McpServers into the ConfigMaps that the gateway watches, and tells the truth in their status.
//!
//! watches → [`inventory`] (pure) → [`publish`]; gateway replicas → [`fleet`] (pure) → [`status`] (pure) → [`statuses`].
//! The [`controller`] alone owns all of it. Knows nothing of MCP, of tokens, or of Secrets.

pub mod bucket;
pub mod command;
pub mod config;
pub mod controller;
pub mod events;
pub mod fleet;
pub mod inventory;
pub mod keys;
pub mod leader;
pub mod metrics;
pub mod operator;
pub mod ownership;
pub mod poll;
pub mod publish;
pub mod replicas;
pub mod report;
pub mod retire;
pub mod run_command;
pub mod scopes;
pub mod share;
pub mod status;
pub mod statuses;
pub mod watch;

pub use config::{Config, Options};
pub use operator::{Operator, StartError};

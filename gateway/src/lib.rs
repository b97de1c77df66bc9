//! One door for many MCP servers: snapshot → pool of upstream sessions → catalog of tools → HTTP.
//!
//! The gateway writes nothing to Kubernetes. No call decodes its arguments or its result. No task is detached.

pub mod auth;
pub mod backoff;
pub mod board;
mod boxed;
pub mod call;
pub mod capabilities;
pub mod catalog;
pub mod check_command;
pub mod clients;
pub mod cluster;
pub mod command;
pub mod config;
pub mod definition;
pub mod demo;
pub mod front;
pub mod gateway;
pub mod guard;
pub mod handle;
pub mod item;
pub mod json;
mod limit;
pub mod links;
pub mod listing;
mod loops;
pub mod metrics;
pub mod pick;
pub mod plain;
pub mod plan;
pub mod pool;
mod random_keys;
mod raw_tools;
pub mod report;
pub mod revision;
pub mod run_command;
pub mod schema;
pub mod seal;
pub mod secrets;
pub mod server;
mod setting_names;
mod sharded;
pub mod short;
pub mod shown;
pub mod source;
pub mod subscriptions;
pub mod token_command;
pub mod tool;
pub mod touched;
pub mod trouble;
pub mod upstream;
pub mod uri_template;

pub use config::{Config, Options};
pub use gateway::{Gateway, StartError};

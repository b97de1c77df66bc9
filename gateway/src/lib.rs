//! A gateway for many MCP servers: snapshot → pool of upstream sessions → catalog of tools → HTTP.
//!
//! The gateway writes nothing to Kubernetes. No call decodes its arguments or its result. No task is detached.

// A command's reader may be gone: `runtime::print` knows.
#![cfg_attr(not(test), warn(clippy::print_stdout))]
// Whatever no other crate takes is `pub(crate)`: then the compiler finds what nobody uses.
#![warn(unreachable_pub)]

pub mod auth;
pub(crate) mod call;
pub mod catalog;
pub mod cli;
pub(crate) mod client_sessions;
pub mod config;
pub(crate) mod credentials;
pub(crate) mod explain;
pub mod front;
pub mod gateway;
pub(crate) mod identity;
mod key_file;
pub(crate) mod kubernetes;
mod learn_addresses;
pub(crate) mod offer;
pub(crate) mod outbound;
pub mod pool;
pub mod seal;
pub(crate) mod secrets;
pub mod server;
pub mod source;
pub(crate) mod status;
pub mod telemetry;
pub(crate) mod tls;
pub(crate) mod util;
mod watch_files;

pub use config::{Config, Options};
pub use gateway::{Gateway, StartError};

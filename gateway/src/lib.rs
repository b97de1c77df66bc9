//! One door for many MCP servers: snapshot → pool of upstream sessions → catalog of tools → HTTP.

pub mod backoff;
pub mod call;
pub mod catalog;
pub mod handle;
pub mod listing;
pub mod metrics;
pub mod pick;
pub mod plan;
pub mod pool;
pub mod secrets;
pub mod server;
pub mod tool;
pub mod upstream;

//! Sessions of `/mcp` and `/sse`, and their state with several replicas.

mod bound;
mod intercepted;
mod kit;
mod legacy_sse;
mod owner;
mod subscriptions;

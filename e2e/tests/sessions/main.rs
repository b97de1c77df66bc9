//! Sessions of `/mcp` and `/sse`: what is kept for them, and what becomes of it with several replicas.

mod bound;
mod kit;
mod legacy_sse;
mod owner;
mod subscriptions;

//! Sessions of `/mcp` and `/sse`: what is kept for them, and what becomes of it with several replicas.

mod legacy_sse;

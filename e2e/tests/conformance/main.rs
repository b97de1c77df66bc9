//! The conformance suite of the MCP project: what it requires of servers, of 2025-11-25 and of 2026-07-28.

mod crossing;
mod direct;
mod suite;
mod through;

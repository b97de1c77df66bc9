//! The MCP project's conformance suite for servers of 2025-11-25 and 2026-07-28.

mod crossing;
mod direct;
mod suite;
mod through;

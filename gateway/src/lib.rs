//! The gateway: one door for many MCP servers.
pub mod auth;
pub mod token_command;

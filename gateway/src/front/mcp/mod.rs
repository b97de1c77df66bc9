//! `/mcp`: one MCP server in front of all.

pub mod gate;
pub mod metadata;

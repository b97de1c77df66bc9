//! MCP clients of others: each connects, lists, calls, sees progress and hears of a change.

mod direct;
mod inspector;
mod program;
mod replicas;
mod rust;
mod snippets;
mod story;
mod through;

//! Third-party MCP clients: each connects, lists, calls, sees progress and gets notified of a change.

mod apps;
mod direct;
mod inspector;
mod program;
mod replicas;
mod rust;
mod snippets;
mod story;
mod through;

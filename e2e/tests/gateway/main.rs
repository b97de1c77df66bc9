//! The standalone gateway as its users see it: real MCP servers behind it, callers in front, changes while it runs.

mod away;
mod bytes;
mod cluster_secrets;
mod commands;
mod configmaps;
mod direct;
mod entrance;
mod files;
mod fleet;
mod guard;
mod in_force;
mod issuers;
mod log;
mod memory;
mod neighbours;
mod probes;
mod real_servers;
mod reload;
mod rest;
mod secrets;
mod tls;
mod tokens;
mod tools_rules;
mod unsound;
mod views;

//! The whole thing on a real node: the chart, the image, real MCP servers as pods, and callers with their own tokens.
//!
//! All tests share one release, which the README's quick start installs; they take turns, for some of them shake it.

mod callers;
mod load;
mod own_tokens;
mod quick_start;
mod release;
mod servers;
mod teams;
mod upheaval;

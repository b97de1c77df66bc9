//! One MCP server for every client: revisions 2024-11-05 to 2026-07-28, of all servers at `/mcp`, of one at `/mcp/NAME`.
//!
//! The gateway answers what it knows by itself; the rest goes to a server through the same call path as REST.

pub(crate) mod answers;
pub(crate) mod batch;
pub(crate) mod call_plan;
mod call_target;
pub(crate) mod caller;
pub(crate) mod calls;
pub(crate) mod client_notifications;
pub(crate) mod custom;
pub(crate) mod dispatch;
pub mod forward;
pub(crate) mod input_rounds;
mod instructions;
pub(crate) mod legacy_sse;
pub(crate) mod legacy_stream;
pub(crate) mod listen;
pub(crate) mod messages;
pub(crate) mod metadata;
pub(crate) mod notify;
pub(crate) mod origin_check;
pub(crate) mod refusal;
pub(crate) mod resume;
pub(crate) mod routes;
pub(crate) mod session_of;
pub(crate) mod state;
pub(crate) mod stream;
pub(crate) mod suspend;
pub(crate) mod tasks;
mod view_search;

pub(crate) use routes::{answer_post, routes};

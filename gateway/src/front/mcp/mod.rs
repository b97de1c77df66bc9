//! One MCP server for every client: revisions 2024-11-05 to 2026-07-28, of all servers at `/mcp`, of one at `/mcp/NAME`.
//!
//! What the gateway knows it answers itself; the rest goes to a server through the same call path as REST.

pub mod answers;
pub mod asking;
pub mod calls;
pub mod changes;
pub mod channel;
pub mod gate;
pub mod legacy_sse;
pub mod listen;
pub mod live;
pub mod message;
pub mod metadata;
pub mod owner;
pub mod parking;
pub mod problem;
pub mod reply;
pub mod request;
pub mod rounds;
pub mod routes;
pub mod state;
pub mod stream;
pub mod streams;
pub mod told;
pub mod topics;
mod who;

pub use routes::{answer_post, routes};
pub use state::Mcp;

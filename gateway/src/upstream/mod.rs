//! Upstream sessions: how the gateway speaks MCP to one backend.
//!
//! One session per backend and replica, shared by all callers, with ids of our own and no client capabilities.

pub mod connect;
mod dial;
pub mod event_stream;
pub mod http;
pub mod message;
pub mod params;
pub mod session;
pub mod sse;
pub mod stream;
pub mod streamable;
pub mod timing;

pub use connect::{ConnectError, Connected, ServerCapabilities, Target, connect};
pub use message::{Reply, RpcError};
pub use session::{Call, CallError, End, Notices, Session};

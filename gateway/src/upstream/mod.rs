//! Upstream sessions: how the gateway speaks MCP to one backend.
//!
//! One session per backend and replica, shared by all callers, with ids of our own; or one for each client.

/// How the gateway introduces itself to servers, as JSON.
macro_rules! client_info {
    () => {
        concat!(r#"{"name":"portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#)
    };
}

mod asked;
pub mod connect;
mod cookies;
mod dial;
mod doubts;
pub mod event_stream;
mod events;
mod heads;
pub mod http;
mod in_name;
mod large;
mod listening;
mod mailbox;
pub mod message;
pub mod params;
mod refusal;
mod request;
pub mod result;
mod send;
pub mod session;
pub mod sse;
pub mod stream;
pub mod streamable;
pub mod timing;

pub use asked::{Answer, Asked};
pub use connect::{ConnectError, Connected, ServerCapabilities, Target, connect};
pub use mailbox::{Mailbox, Told};
pub use message::{Question, Reply, RpcError};
pub use result::RpcResult;
pub use session::{Call, CallError, Caller, End, Notices, Session, Unasked, whole_seconds};

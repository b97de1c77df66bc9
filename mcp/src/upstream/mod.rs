//! Upstream sessions: the gateway's MCP client for one backend.
//!
//! One session per backend and replica, shared by all callers, with the gateway's own ids; or one for each client.

/// How the gateway introduces itself to servers, as JSON.
macro_rules! client_info {
    () => {
        concat!(r#"{"name":"portcullis","version":""#, env!("CARGO_PKG_VERSION"), r#""}"#)
    };
}

pub(crate) mod call;
pub mod connect;
mod cookies;
mod core;
mod doubts;
pub(crate) mod event_stream;
mod events;
mod heads;
mod in_name;
mod large;
mod listening;
mod loop_guard;
mod mailbox;
pub(crate) mod message;
mod refusal;
mod request;
pub(crate) mod result;
mod send;
mod server_request;
pub(crate) mod session;
pub(crate) mod sse;
pub(crate) mod streamable;
pub mod timing;

pub use call::{Call, CallError, CallerMeta, whole_seconds};
pub use connect::{ConnectError, Connected, ServerCapabilities, Target, connect};
pub use core::{End, Notices, Unsolicited};
pub use heads::SessionHeaders;
pub use loop_guard::LoopGuard;
pub use mailbox::{Mailbox, ServerMessage};
pub use message::{RawRequest, Reply, RpcError};
pub use result::RpcResult;
pub use server_request::{Answer, ServerRequest};
pub use session::Session;
pub use streamable::Wanted;

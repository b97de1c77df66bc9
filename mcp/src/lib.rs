//! MCP towards servers: the protocol's own rules, sessions with servers, and the HTTP client that carries them.

// Whatever no other crate takes is `pub(crate)`: then the compiler finds what nobody uses.
#![warn(unreachable_pub)]

pub mod guard;
pub mod http1;
pub mod protocol;
pub mod upstream;

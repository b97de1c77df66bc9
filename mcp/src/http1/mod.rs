//! HTTP/1.1 to one origin: pooled connections, driven by the task that waits for the response.
//!
//! Connections have no tasks: the task that waits for a response also moves the bytes, so a call wakes no other task.
//! Redirects are never followed and no proxy is used. Strict: a response whose end is ambiguous is invalid, and ends
//! the connection.

mod body;
mod connection;
pub(crate) mod date;
pub mod dial;
mod exchange;
mod habit;
mod head;
pub mod pinned;
mod pool;
mod request;
pub mod stream;
#[cfg(test)]
mod tests;

use portcullis_runtime::memory::Full;
use thiserror::Error;

pub use exchange::Exchange;
pub use head::{Head, INSTANCE, Media};
pub use pool::{HttpPool, Origin};
pub(crate) use request::{ACCEPT_ENCODING, Outgoing, RequestHead, USER_AGENT};

use crate::guard::AddressRefusal;

/// The reason there is no response.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HttpError {
    /// No connection could be made: the request was never sent.
    #[error("cannot connect: {0}")]
    Connect(&'static str),
    /// The address is refused: nothing was sent.
    #[error("it has a refused address: {0}")]
    Blocked(AddressRefusal),
    /// The connection ended before a byte of the request was written.
    #[error("the connection closed before the request was sent")]
    NotSent,
    /// The connection ended after the request was written, or the response is not HTTP: the server may have carried the
    /// request out.
    #[error("the connection closed before the answer was complete")]
    Lost,
    /// The same on a reused connection before any byte of a response: the server may have closed it for being idle. A
    /// repeatable request can be sent on a new connection.
    #[error("the reused connection closed before an answer came")]
    Stale,
    /// The response exceeds its limit.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// There is no memory for the response.
    #[error("there is no memory left for the answer")]
    NoMemory,
}

impl From<Full> for HttpError {
    fn from(_: Full) -> Self {
        Self::NoMemory
    }
}

/// The received bytes are not an HTTP/1.1 response.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

impl From<Malformed> for HttpError {
    fn from(_: Malformed) -> Self {
        Self::Lost
    }
}

//! HTTP/1.1 to one origin: pooled connections, driven by the task that waits for the answer.
//!
//! No connection has a task of its own: whoever waits for an answer also moves the bytes, so a call costs no
//! wake-up of another task. Redirects are never followed and no proxy is used. Strict: an answer whose end could be
//! understood in two ways is none, and ends the connection.

mod body;
mod connection;
pub mod date;
mod exchange;
mod habit;
mod head;
mod pool;
mod request;
#[cfg(test)]
mod tests;

use portcullis_runtime::memory::Full;
use thiserror::Error;

pub use exchange::Exchange;
pub use head::{Head, Media};
pub use pool::{HttpPool, Origin};
pub use request::{ACCEPT_ENCODING, Outgoing, RequestHead, USER_AGENT};

use crate::guard::Refusal;

/// Why there is no answer.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum HttpError {
    /// No connection could be made: the request was never sent.
    #[error("cannot connect: {0}")]
    Connect(&'static str),
    /// It has an address that it must not have: nothing was sent.
    #[error("it has a refused address: {0}")]
    Blocked(Refusal),
    /// The connection ended before a byte of the request was written.
    #[error("the connection closed before the request was sent")]
    NotSent,
    /// The connection ended after the request was written, or the answer is no HTTP: it may have been carried out.
    #[error("the connection closed before the answer was complete")]
    Lost,
    /// The same on a connection that was used before, of which not one byte of an answer came: the server may have closed
    /// it because nobody used it. What may be carried out twice can go on a new one.
    #[error("the connection, which was used before, closed before an answer came")]
    Stale,
    /// The answer is longer than it may be.
    #[error("the answer is longer than {0} bytes")]
    TooLarge(usize),
    /// There is no memory for the answer.
    #[error("there is no memory left for the answer")]
    NoMemory,
}

impl From<Full> for HttpError {
    fn from(_: Full) -> Self {
        Self::NoMemory
    }
}

/// What came is no answer in HTTP/1.1.
#[derive(Debug, PartialEq, Eq)]
struct Malformed;

impl From<Malformed> for HttpError {
    fn from(_: Malformed) -> Self {
        Self::Lost
    }
}

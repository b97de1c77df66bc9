//! One request to a server, and the reasons it has no answer.

use std::time::Duration;

use ::http::{HeaderMap, HeaderValue};
use thiserror::Error;

use super::mailbox::Mailbox;
use super::timing::Elapsed;
use crate::guard::AddressRefusal;
use crate::http1::HttpError;
use crate::protocol::extensions::OWN_CAPABILITIES;

/// One request to a server.
pub struct Call<'a> {
    /// The method.
    pub method: &'a str,
    /// The members of `params` besides `_meta`, without braces: `"name":"x","arguments":{}`.
    pub params: &'a [&'a str],
    /// The tool's name, where the request has one.
    pub name: Option<&'a str>,
    /// Headers besides the session's own.
    pub headers: &'a HeaderMap,
    /// The credential of this call, which replaces the session's `Authorization`.
    pub authorization: Option<&'a HeaderValue>,
    /// The gateway asks, for itself: the request has the headers of lists.
    pub is_own: bool,
    /// Ask the server to report progress.
    pub progress: bool,
    /// The server may carry the request out twice.
    pub repeatable: bool,
    /// The forwarded parts of the caller's request.
    pub caller: CallerMeta<'a>,
    /// Receives the server's messages before the answer.
    pub mailbox: Option<&'a Mailbox>,
}

/// The information about the caller that is sent to the server.
#[derive(Clone, Copy, Default)]
pub struct CallerMeta<'a> {
    /// Forwarded members of `_meta`, without braces.
    pub meta: &'a str,
    /// The caller's capabilities, as a JSON object; empty: none. Requests carry them only since 2026-07-28.
    pub capabilities: &'a str,
    /// The log level that the caller requests, as JSON. Requests carry it only since 2026-07-28.
    pub log_level: Option<&'a str>,
}

/// The reason a call has no answer.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CallError {
    /// The server never received the request: another server may be tried.
    #[error("the server cannot be reached: {0}")]
    NotSent(&'static str),
    /// The server has an address that the gateway must not connect to.
    #[error("the server has a refused address")]
    Blocked(AddressRefusal),
    /// The server has forgotten the session and did nothing: open a new session and retry.
    #[error("the server has forgotten the session")]
    SessionExpired,
    /// The server refused the request before doing anything, with this HTTP status.
    #[error("the server refused the request with HTTP status {0}")]
    Refused(u16),
    /// The same with 429 or 503, and the server announced when to retry.
    #[error("the server refused the request with HTTP status {status}: try again in {} s", whole_seconds(*.after))]
    Later {
        /// The HTTP status.
        status: u16,
        /// Retry after this time.
        after: Duration,
    },
    /// The call may have been carried out, but the answer is lost.
    #[error("the connection to the server was lost during the call")]
    Lost,
    /// The call may have been carried out, but the answer is invalid.
    #[error("the server's answer is unusable: {0}")]
    Nonsense(&'static str),
    /// The call was carried out, but its answer cannot be forwarded; another server's would be no better.
    #[error("the server's answer cannot be passed on: {0}")]
    Unfit(&'static str),
    /// The call was carried out, but its answer is longer than this many bytes.
    #[error("the server's answer is too large, longer than {0} bytes: ask for less, or raise MAX_RESULT_BYTES")]
    TooLarge(usize),
    /// No answer in time.
    #[error("the server did not answer in time")]
    Timeout,
    /// The call may have been carried out, but there is no memory for its answer.
    #[error("the gateway has no memory left for the answer, and the call may have been carried out: try again later")]
    NoMemory,
}

/// A response to our request that is not valid JSON-RPC.
pub(super) const UNUSABLE: CallError = CallError::Nonsense("it is not a valid JSON-RPC response");

/// The server redirects to where the gateway does not follow.
pub(super) const REDIRECTS: &str = "it redirects to where the gateway does not follow";

/// The connection ended before the request was sent.
pub(super) const CLOSED: &str = "the connection closed";

/// The answer is compressed or otherwise encoded.
pub(super) const CODED: &str = "it is compressed, though the gateway asks for an answer that is not: turn compression off at the server, or at the proxy before it";

impl<'a> Call<'a> {
    /// A request of the gateway itself, which has no caller.
    pub fn of_our_own(method: &'a str, params: &'a [&'a str], headers: &'a HeaderMap) -> Self {
        let caller = CallerMeta { capabilities: OWN_CAPABILITIES, ..CallerMeta::default() };
        let (progress, repeatable) = (false, true);
        let (name, authorization, mailbox) = (None, None, None);
        Self { method, params, name, headers, is_own: true, authorization, progress, repeatable, caller, mailbox }
    }
}

impl From<HttpError> for CallError {
    fn from(error: HttpError) -> Self {
        match error {
            HttpError::Connect(why) => Self::NotSent(why),
            HttpError::Blocked(refusal) => Self::Blocked(refusal),
            HttpError::NotSent => Self::NotSent(CLOSED),
            HttpError::Lost | HttpError::Stale => Self::Lost,
            HttpError::TooLarge(limit) => Self::TooLarge(limit),
            HttpError::NoMemory => Self::NoMemory,
        }
    }
}

impl From<Elapsed> for CallError {
    fn from(_: Elapsed) -> Self {
        Self::Timeout
    }
}

impl CallError {
    /// Whether the server provably did nothing.
    ///
    /// Of HTTP statuses, only those that servers send before they process a request. 503 is not included: proxies also
    /// send it when the connection broke after the request was sent.
    pub fn is_harmless(&self) -> bool {
        match self {
            Self::NotSent(_) | Self::Blocked(_) | Self::SessionExpired => true,
            Self::Later { status, .. } => *status == 429,
            Self::Refused(status) => matches!(status, 400 | 401 | 403..=406 | 413 | 415 | 421 | 429),
            Self::Lost | Self::Nonsense(_) | Self::Unfit(_) | Self::TooLarge(_) | Self::Timeout | Self::NoMemory => {
                false
            }
        }
    }

    /// Whether the error is about the server rather than about this one call.
    pub fn lies_with_the_server(&self) -> bool {
        !matches!(
            self,
            Self::Refused(400 | 402 | 405..=428 | 430..=499) | Self::Unfit(_) | Self::TooLarge(_) | Self::NoMemory
        )
    }
}

/// Whole seconds, rounded up.
pub fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Classifies an HTTP status that carries no answer to a request.
pub(super) fn refusal(status: u16) -> CallError {
    match status {
        300..=399 => CallError::NotSent(REDIRECTS),
        400..=499 => CallError::Refused(status),
        503 => CallError::Refused(status),
        _ => CallError::Nonsense("it has an HTTP status for failures"),
    }
}

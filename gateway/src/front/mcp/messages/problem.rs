//! Every JSON-RPC error that callers of `/mcp` can get: its code, its HTTP status, and a sentence that says what to do.
//!
//! Source of the codes: JSON-RPC 2.0, and MCP 2026-07-28, basic, "Error Codes".

use std::time::Duration;

use http::StatusCode;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::protocol::revision::Revision;
use portcullis_mcp::upstream::{CallError, RpcError, whole_seconds};
use thiserror::Error;

use crate::call::{Failure, RETRY_AFTER, RETRY_AFTER_BUSY};
use crate::front::http::error::{clip, reset_at};
use crate::front::mcp::messages::message::BadMessage;
use crate::outbound::OutboundError;

const PARSE_ERROR: i64 = -32700;
const INVALID_REQUEST: i64 = -32600;
const METHOD_NOT_FOUND: i64 = -32601;
const INVALID_PARAMS: i64 = -32602;
const INTERNAL_ERROR: i64 = -32603;
/// Until 2025-11-25; since then it is a case of invalid params.
const RESOURCE_NOT_FOUND: i64 = -32002;
/// Clients take it for the end of their session, together with HTTP status 404.
const SESSION_NOT_FOUND: i64 = -32001;
/// Of the range that JSON-RPC leaves to servers: MCP has no code of its own for it.
const NOT_ALLOWED: i64 = -32003;
/// Likewise.
const LIMITED: i64 = -32004;
const HEADER_MISMATCH: i64 = -32020;
const MISSING_CAPABILITY: i64 = -32021;
const UNSUPPORTED_VERSION: i64 = -32022;

/// Why a message is answered with an error.
#[derive(Clone, Debug, Error)]
pub(crate) enum RpcProblem {
    /// The body is no message.
    #[error("{0}")]
    Message(BadMessage),
    /// A message that is not fit for its place.
    #[error("{0}")]
    Request(&'static str),
    /// Nobody knows the method.
    #[error("the method {0:?} is not supported")]
    Method(String),
    /// The experimental tasks of 2025-11-25, where they do not work.
    #[error(
        "tasks of 2025-11-25 work only at /mcp/NAME, of a server that has them and session: PerClient; of all servers use those of 2026-07-28"
    )]
    LegacyTasks,
    /// The params are wrong.
    #[error("{0}")]
    Params(&'static str),
    /// `_meta` lacks what every request must say since 2026-07-28.
    #[error("params._meta lacks {0:?}, or its value is invalid: send it with every request")]
    Meta(&'static str),
    /// A header does not say what the body says.
    #[error("the header {0} is missing or contradicts the body: send the same value in both")]
    Header(String),
    /// The revision is not served.
    #[error("the protocol version {0:?} is not supported: use one of data.supported")]
    Version(String),
    /// The session id is not known, or not the caller's.
    #[error("the session is not known, or has ended: send initialize again")]
    Session,
    /// A server has lost its state of the session.
    #[error("the server has lost its state of this session: send initialize again")]
    StateLost,
    /// No server offers the tool.
    #[error("no server offers the tool {0:?}: tools/list lists all")]
    UnknownTool(String),
    /// No server offers the prompt.
    #[error("no server offers the prompt {0:?}: prompts/list lists all")]
    UnknownPrompt(String),
    /// No server offers the resource.
    #[error("no server offers this resource: resources/list and resources/templates/list list all")]
    UnknownResource(String),
    /// The client has not declared the extension that the request belongs to.
    #[error("this needs the extension {0}: declare it in the client's capabilities")]
    Extension(&'static str),
    /// There is no such task, or it is not the caller's.
    #[error("no task of this caller has this taskId, or its server is gone: call the tool again")]
    UnknownTask,
    /// No policy allows it to the caller: the kind of the item, and its name.
    #[error("the {0} {1:?} is not allowed for this caller")]
    NotAllowed(&'static str, String),
    /// The limit of every rule that allows it is used up, until then: the kind of the item, and its name.
    #[error("the limit for calls of the {0} {1:?} is used up: try again in {secs} s", secs = whole_seconds(*.2).max(1))]
    Limited(&'static str, String, Duration),
    /// The audit log cannot take its line.
    #[error("the gateway cannot write its audit log, and makes no calls without it: try again")]
    Unaudited,
    /// The servers that offer it cannot be reached.
    #[error("no server that offers this can be reached: try again")]
    Unavailable,
    /// They have as many calls as they may.
    #[error("every server that offers this is at its concurrency limit: try again")]
    Busy,
    /// The server cannot be shown who calls.
    #[error("the call was not sent, because the server cannot be shown who calls: {0}")]
    Identity(OutboundError),
    /// The server gave no usable answer.
    #[error("{0}")]
    Server(CallError),
    /// The server answered with an error.
    #[error("{}", .0.message)]
    Rpc(RpcError),
    /// The caller has too much open.
    #[error("{0}")]
    TooMany(&'static str),
    /// The caller has taken the request back.
    #[error("the request was cancelled")]
    Cancelled,
}

impl RpcProblem {
    /// The problem of a failed call.
    pub(crate) fn of_call(failure: Failure) -> Self {
        match failure {
            Failure::Unavailable => Self::Unavailable,
            Failure::Busy => Self::Busy,
            Failure::SessionLost => Self::StateLost,
            Failure::TooManySessions => {
                Self::TooMany("the server has too many client sessions: end some, or try again later")
            }
            Failure::Identity(error) => Self::Identity(error),
            Failure::Server(error) => Self::Server(error),
        }
    }

    /// A method that is not offered.
    pub(crate) fn method(name: &str) -> Self {
        Self::Method(clip(name))
    }

    /// The JSON-RPC code for a caller of this revision.
    pub(crate) fn code(&self, revision: Revision) -> i64 {
        match self {
            Self::Message(BadMessage { syntax: true, .. }) => PARSE_ERROR,
            Self::Message(_) | Self::Request(_) | Self::Cancelled => INVALID_REQUEST,
            Self::Method(_) | Self::LegacyTasks => METHOD_NOT_FOUND,
            Self::UnknownResource(_) if !revision.is_modern() => RESOURCE_NOT_FOUND,
            Self::Params(_)
            | Self::Meta(_)
            | Self::UnknownTool(_)
            | Self::UnknownPrompt(_)
            | Self::UnknownTask
            | Self::UnknownResource(_) => INVALID_PARAMS,
            Self::Extension(_) => MISSING_CAPABILITY,
            Self::NotAllowed(..) => NOT_ALLOWED,
            Self::Limited(..) => LIMITED,
            Self::Header(_) => HEADER_MISMATCH,
            Self::Version(_) if revision.is_modern() => UNSUPPORTED_VERSION,
            Self::Version(_) => INVALID_REQUEST,
            Self::Session | Self::StateLost => SESSION_NOT_FOUND,
            Self::Rpc(error) if error.code == RESOURCE_NOT_FOUND && revision.is_modern() => INVALID_PARAMS,
            Self::Rpc(error) => error.code,
            Self::Unavailable
            | Self::Busy
            | Self::Identity(_)
            | Self::Server(_)
            | Self::TooMany(_)
            | Self::Unaudited => INTERNAL_ERROR,
        }
    }

    /// The HTTP status for a caller of this revision: until 2025-11-25, an error in answer to a request is a success.
    pub(crate) fn status(&self, revision: Revision) -> StatusCode {
        match (self, self.code(revision)) {
            (Self::Session | Self::StateLost, _) => StatusCode::NOT_FOUND,
            (Self::Message(_) | Self::Request(_) | Self::Meta(_) | Self::Version(_), _) => StatusCode::BAD_REQUEST,
            (Self::TooMany(_), _) => StatusCode::TOO_MANY_REQUESTS,
            (_, METHOD_NOT_FOUND) if revision.is_modern() => StatusCode::NOT_FOUND,
            (Self::NotAllowed(..), _) if revision.is_modern() => StatusCode::FORBIDDEN,
            (Self::Limited(..), _) if revision.is_modern() => StatusCode::TOO_MANY_REQUESTS,
            (_, HEADER_MISMATCH | MISSING_CAPABILITY | UNSUPPORTED_VERSION) if revision.is_modern() => {
                StatusCode::BAD_REQUEST
            }
            _ => StatusCode::OK,
        }
    }

    /// A word for the log: what became of the request.
    pub(crate) fn outcome(&self) -> &'static str {
        match self {
            Self::UnknownTool(_) => "unknown_tool",
            Self::NotAllowed(..) => "denied",
            Self::Limited(..) => "limited",
            Self::Unavailable | Self::StateLost | Self::Unaudited | Self::Identity(_) => "unavailable",
            Self::Busy | Self::TooMany(_) | Self::Server(CallError::NoMemory) => "busy",
            Self::Server(CallError::Timeout) => "timeout",
            Self::Server(_) => "bad_answer",
            Self::Rpc(_) => "rpc_error",
            Self::Cancelled => "cancelled",
            _ => "refused",
        }
    }

    /// The error object.
    pub(crate) fn object(&self, revision: Revision) -> String {
        let (code, message) = (self.code(revision), json_string(&self.to_string()));
        match self.data() {
            Some(data) => format!(r#"{{"code":{code},"message":{message},"data":{data}}}"#),
            None => format!(r#"{{"code":{code},"message":{message}}}"#),
        }
    }

    fn data(&self) -> Option<String> {
        match self {
            Self::Version(requested) => {
                let requested = json_string(requested);
                Some(format!(r#"{{"supported":["{}"],"requested":{requested}}}"#, Revision::V2026_07_28))
            }
            Self::Extension(name) => {
                Some(format!(r#"{{"requiredCapabilities":{{"extensions":{{{}:{{}}}}}}}}"#, json_string(name)))
            }
            Self::UnknownResource(uri) => Some(format!(r#"{{"uri":{}}}"#, json_string(uri))),
            Self::Limited(_, _, pause) => {
                let (pause, reset) = (pause.as_millis(), reset_at(*pause));
                Some(format!(r#"{{"reason":"limited","retryAfterMs":{pause},"resetAt":"{reset}"}}"#))
            }
            Self::Unavailable | Self::Busy | Self::Unaudited | Self::Server(CallError::NoMemory) => {
                let pause = if matches!(self, Self::Busy) { RETRY_AFTER_BUSY } else { RETRY_AFTER };
                Some(format!(r#"{{"reason":"{}","retryAfterMs":{}}}"#, self.outcome(), pause.as_millis()))
            }
            Self::Server(CallError::Later { status, after }) => {
                let reason = if *status == 429 { "busy" } else { "unavailable" };
                Some(format!(r#"{{"reason":"{reason}","retryAfterMs":{}}}"#, after.as_millis()))
            }
            Self::Identity(error) => Some(format!(r#"{{"reason":"{}"}}"#, error.reason())),
            Self::Rpc(error) => error.data.clone(),
            _ => None,
        }
    }
}

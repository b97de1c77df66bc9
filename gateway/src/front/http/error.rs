//! Every answer that is not a success: `{"error":{"message","code"}}` with the code as HTTP status.
//!
//! The texts are for callers: they say what to do, and hold nothing of tokens, arguments or the servers' insides.

use std::time::{Duration, SystemTime};

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use portcullis_mcp::upstream::{CallError, RpcError, whole_seconds};
use portcullis_runtime::log::timestamp;
use thiserror::Error;

use crate::auth::AuthError;
use crate::call::{Failure, RETRY_AFTER, RETRY_AFTER_BUSY};
use crate::explain::question::BadQuestion;
use crate::front::http::origin_policy::OriginRefusal;
use crate::outbound::OutboundError;

/// JSON-RPC: the caller's arguments are wrong.
const INVALID_PARAMS: i64 = -32602;

/// Bytes of JSON up to which the data of a server's error is passed on.
const MOST_DATA: usize = 64 * 1024;

/// Why a body is no call.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadCall {
    /// There is no body.
    #[error("the body is empty: send {{\"method\": TOOL, \"args\": {{...}}}}")]
    Empty,
    /// The body is no JSON.
    #[error("the body is not valid JSON (line {line}, column {column})")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Column, from 1.
        column: usize,
    },
    /// The body is JSON, but no object.
    #[error("the body must be a JSON object: {{\"method\": TOOL, \"args\": {{...}}}}")]
    NotAnObject,
    /// A member is there twice: servers would not agree on which one counts.
    #[error("a member of the body appears twice: send each once")]
    Twice,
    /// It has more members than any call.
    #[error("the body has more than 64 members: send only \"method\", \"args\" and \"server\"")]
    TooMany,
    /// No method.
    #[error("\"method\" is missing: set it to the name of a tool")]
    NoMethod,
    /// The method is not a string, or empty.
    #[error("\"method\" must be the name of a tool, as a string")]
    Method,
    /// The arguments are no object.
    #[error("\"args\" must be an object")]
    Args,
    /// The server is not a string.
    #[error("\"server\" must be the name or URL of a server, as a string")]
    Server,
    /// The view is not a string.
    #[error("\"view\" must be the name of a view, as a string")]
    View,
}

/// An answer that is not a success.
#[derive(Clone, Debug, Error)]
pub(crate) enum ApiError {
    /// The token is missing or refused; with what the caller is told to do about it.
    #[error("{0}")]
    Auth(AuthError, Option<HeaderValue>),
    /// The request comes from a page, or for a name, that is not admitted.
    #[error("{0}")]
    Gate(OriginRefusal),
    /// The request does not say for which host it is.
    #[error("the request must name one host: send one Host header")]
    NoHost,
    /// The body is no call.
    #[error("{0}")]
    Call(BadCall),
    /// The body is declared as something else than JSON.
    #[error("the body must be JSON: send Content-Type: application/json, or leave it out")]
    MediaType,
    /// Neither of the kinds of answers there are is taken.
    #[error("the Accept header must have application/json, text/event-stream, or both")]
    Accept,
    /// The body is too long.
    #[error("the body is longer than {0} bytes")]
    BodyTooLarge(usize),
    /// The body did not arrive in time, or broke off.
    #[error("the body did not arrive completely: send it again")]
    BodyIncomplete,
    /// The chunks of the body cannot be understood.
    #[error("the body has a malformed chunk: check what sends it")]
    BodyMalformed,
    /// There is no room for the body, or for the answer.
    #[error("the gateway has no memory left for this request: try again")]
    NoMemory,
    /// The query cannot be understood.
    #[error("{0}")]
    Query(&'static str),
    /// No such server.
    #[error("there is no server {0:?}: GET /servers lists them")]
    UnknownServer(String),
    /// No server is in that namespace.
    #[error("no server is in the namespace {0:?}: GET /servers lists all")]
    UnknownNamespace(String),
    /// No view has this name.
    #[error("view {0} does not exist: see kubectl get mcpviews --all-namespaces")]
    UnknownView(String),
    /// No server offers the tool.
    #[error("no server offers the tool {0:?}: GET /tools/list lists all")]
    UnknownTool(String),
    /// No server offers the prompt or the resource.
    #[error("no server offers the {0} {1:?}")]
    UnknownItem(&'static str, String),
    /// No server is known to offer it, but some are connected to for the first time.
    #[error("no server offers the {0} {1:?} yet: try again")]
    NotYetKnown(&'static str, String),
    /// A question about access policies makes no sense.
    #[error("{0}")]
    Question(BadQuestion),
    /// Too many explanations are being made.
    #[error("too many explanations are under way: try again")]
    TooManyExplanations,
    /// No policy allows it to the caller.
    #[error("the tool {0:?} is not allowed for this caller")]
    NotAllowed(String),
    /// The limit of every rule that allows it is used up; until then.
    #[error("the limit for calls of the tool {0:?} is used up: try again in {secs} s", secs = whole_seconds(*.1).max(1))]
    Limited(String, Duration),
    /// The audit log cannot take its line.
    #[error("the gateway cannot write its audit log, and makes no calls without it: try again")]
    Unaudited,
    /// No such path.
    #[error("there is nothing at this path: see GET /openapi.json")]
    NoRoute,
    /// The path exists, the method does not.
    #[error("this path does not take {0}")]
    Method(String),
    /// Every server that offers the tool is unreachable.
    #[error("no server that offers the tool {0:?} can be reached: try again")]
    Unavailable(String),
    /// Every server that offers the tool is busy.
    #[error("every server that offers the tool {0:?} is at its concurrency limit: try again")]
    Busy(String),
    /// The server answered with a JSON-RPC error.
    #[error("the server answered with error {}: {}", .0.code, shortened(&.0.message))]
    Rpc(RpcError),
    /// The server cannot be shown who calls.
    #[error("the call was not sent, because the server cannot be shown who calls: {0}")]
    Identity(OutboundError),
    /// The server gave no usable answer.
    #[error("{0}")]
    Server(CallError),
    /// It has come through here before.
    #[error("the request has come through this gateway before: one of its servers leads back to it")]
    Loop,
    /// A bug of ours.
    #[error("the gateway failed: the log has more under this request id")]
    Internal,
}

impl ApiError {
    /// The error of a failed call of `tool`.
    pub(crate) fn of_call(failure: Failure, tool: &str) -> Self {
        match failure {
            Failure::Unavailable | Failure::SessionLost => Self::Unavailable(clip(tool)),
            Failure::Busy | Failure::TooManySessions => Self::Busy(clip(tool)),
            Failure::Identity(error) => Self::Identity(error),
            Failure::Server(error) => Self::Server(error),
        }
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::Auth(error, _) => error.status(),
            Self::Gate(_) | Self::NotAllowed(_) => StatusCode::FORBIDDEN,
            Self::Call(_) | Self::Query(_) | Self::Question(_) | Self::NoHost | Self::BodyMalformed => {
                StatusCode::BAD_REQUEST
            }
            Self::MediaType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Accept => StatusCode::NOT_ACCEPTABLE,
            Self::BodyTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyIncomplete => StatusCode::REQUEST_TIMEOUT,
            Self::UnknownServer(_)
            | Self::UnknownNamespace(_)
            | Self::UnknownView(_)
            | Self::UnknownTool(_)
            | Self::UnknownItem(..)
            | Self::NoRoute => StatusCode::NOT_FOUND,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unavailable(_)
            | Self::NotYetKnown(..)
            | Self::TooManyExplanations
            | Self::NoMemory
            | Self::Unaudited => StatusCode::SERVICE_UNAVAILABLE,
            Self::Identity(error) => error.status(),
            Self::Busy(_) | Self::Limited(..) => StatusCode::TOO_MANY_REQUESTS,
            Self::Rpc(error) if error.code == INVALID_PARAMS => StatusCode::BAD_REQUEST,
            Self::Server(CallError::Timeout) => StatusCode::GATEWAY_TIMEOUT,
            Self::Server(CallError::Refused(429) | CallError::Later { status: 429, .. }) => {
                StatusCode::TOO_MANY_REQUESTS
            }
            Self::Server(CallError::Refused(503) | CallError::Later { .. } | CallError::NoMemory) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Rpc(_) | Self::Server(_) => StatusCode::BAD_GATEWAY,
            Self::Loop => StatusCode::LOOP_DETECTED,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        if let Self::Server(CallError::Later { after, .. }) | Self::Limited(_, after) = self {
            return Some(*after);
        }
        let later = matches!(self.status(), StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
        later.then_some(if matches!(self, Self::Busy(_)) { RETRY_AFTER_BUSY } else { RETRY_AFTER })
    }

    /// The JSON body.
    pub(crate) fn body(&self) -> String {
        let message = serde_json::Value::String(self.to_string());
        let code = self.status().as_u16();
        match self {
            Self::Rpc(error) => {
                let data = error.data.as_deref().filter(|data| data.len() <= MOST_DATA && *data != "null");
                let data = data.map_or_else(String::new, |data| format!(r#","rpc_data":{data}"#));
                format!(r#"{{"error":{{"message":{message},"code":{code},"rpc_code":{}{data}}}}}"#, error.code)
            }
            Self::Limited(_, pause) => {
                let (pause, reset) = (pause.as_millis(), reset_at(*pause));
                format!(
                    r#"{{"error":{{"message":{message},"code":{code},"retry_after_ms":{pause},"reset_at":"{reset}"}}}}"#
                )
            }
            _ => format!(r#"{{"error":{{"message":{message},"code":{code}}}}}"#),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = Response::new(self.body().into());
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Self::Auth(_, Some(challenge)) = &self {
            headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
        }
        if let Some(pause) = self.retry_after() {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(pause).max(1)));
        }
        response
    }
}

/// The time after this pause, as RFC 3339 has it.
pub(crate) fn reset_at(pause: Duration) -> String {
    let mut text = Vec::new();
    timestamp(SystemTime::now() + pause, &mut text);
    String::from_utf8(text).unwrap_or_default()
}

/// The message of a server may be a page; ours is cut.
fn shortened(message: &str) -> String {
    message.chars().take(4096).collect()
}

/// Names that callers send come back shortened: an error need not be as long as its request.
pub(crate) fn clip(name: &str) -> String {
    name.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(data: Option<&str>) -> String {
        ApiError::Rpc(RpcError { code: -32042, message: "m".into(), data: data.map(str::to_owned), status: None })
            .body()
    }

    #[test]
    fn the_data_of_a_servers_error_is_passed_on_as_it_is_up_to_a_bound() {
        let begin = r#"{"error":{"message":"the server answered with error -32042: m","code":502,"rpc_code":-32042"#;
        let text = |length: usize| format!("\"{}\"", "x".repeat(length - 2));
        let (most, more) = (text(MOST_DATA), text(MOST_DATA + 1));
        for (data, member) in [
            (None, String::new()),
            (Some("null"), String::new()),
            (
                Some(r#"{"b": 1.10,"a":[12345678901234567890123]}"#),
                r#","rpc_data":{"b": 1.10,"a":[12345678901234567890123]}"#.into(),
            ),
            (Some("0"), r#","rpc_data":0"#.into()),
            (Some(&most), format!(r#","rpc_data":{most}"#)),
            (Some(&more), String::new()),
        ] {
            assert_eq!(body(data), format!("{begin}{member}}}}}"));
        }
    }
}

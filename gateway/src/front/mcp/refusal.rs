//! Refuses requests of `/mcp`, and notes the reason in the log line.

use axum::response::{IntoResponse, Response};
use portcullis_mcp::protocol::revision::Revision;

use crate::front::http::error::ApiError;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::RpcReply;
use crate::front::request::observe::{Recorder, record};

/// A request that cannot be answered as it is.
pub(crate) enum McpRefusal {
    /// Before its message was looked at.
    Http(ApiError),
    /// Because of its message.
    Rpc(RpcReply),
}

impl From<ApiError> for McpRefusal {
    fn from(error: ApiError) -> Self {
        Self::Http(error)
    }
}

/// The answer, or why there is none.
pub(crate) fn finish(outcome: Result<Response, McpRefusal>) -> Response {
    match outcome {
        Ok(response) => response,
        Err(McpRefusal::Http(error)) => error.into_response(),
        Err(McpRefusal::Rpc(reply)) => reply.into_response(),
    }
}

/// Because of the message with this id.
pub(crate) fn refused(id: Option<&str>, problem: &RpcProblem, revision: Revision) -> McpRefusal {
    McpRefusal::Rpc(RpcReply::error(id, problem, revision))
}

/// Notes the outcome of a request that never got to a server.
pub(crate) fn note_refusal(recorder: &Recorder, problem: &RpcProblem) {
    record(recorder).outcome = Some(problem.outcome());
}

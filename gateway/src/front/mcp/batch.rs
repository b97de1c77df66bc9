//! Answers several messages in one body, as 2025-03-26 alone has them.

use axum::response::Response;
use bytes::Bytes;
use bytestring::ByteString;
use futures_util::future::join_all;
use http::{Method, StatusCode};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::revision::Revision;
use portcullis_runtime::memory::account;

use crate::front::mcp::call_plan;
use crate::front::mcp::caller::Caller;
use crate::front::mcp::dispatch::{Batch, LOST, answer_from_memory, take_notification, take_response};
use crate::front::mcp::forward::{self, Forwarded};
use crate::front::mcp::messages::classify::LegacyMethod;
use crate::front::mcp::messages::message::{self, Incoming, Space};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::RpcReply;
use crate::front::mcp::messages::request::{DEFAULT_REVISION, Params};
use crate::front::mcp::refusal::{McpRefusal, refused};
use crate::front::mcp::stream::{self, StreamDeadline};
use crate::server::handle::HeldPermits;

/// The answers to all of them, together.
///
/// # Errors
/// The revision has no batches, or it is not known what has become of them.
pub(crate) async fn answer(batch: Batch, body: ByteString) -> Result<Response, McpRefusal> {
    let Batch { caller, messages: all, revision } = batch;
    const OTHER: RpcProblem =
        RpcProblem::Request("only protocol version 2025-03-26 supports batches: send one message at a time");
    if revision != DEFAULT_REVISION {
        return Err(refused(None, &OTHER, revision));
    }
    // Some of them may be for the owner of the session, and their answers come together.
    match forward::forward(&caller, Method::POST, body.as_bytes().clone(), forward::SERVER_ANSWER_LIMIT).await {
        Forwarded::Answered(response) => return Ok(*response),
        // Calls among them may have been carried out: they are not made again here.
        Forwarded::Lost => return Err(refused(None, &LOST, revision)),
        Forwarded::Unreachable | Forwarded::Here => {}
    }
    let deadline = StreamDeadline::until(caller.goes_on_at());
    let work = async move {
        let all = all.into_iter().filter_map(|one| body.get(one));
        let replies = join_all(all.map(|one| answer_in_batch(&caller, one, &body, revision))).await;
        together(replies.into_iter().flatten().collect())
    };
    Ok(stream::answer_alone(Box::pin(work), deadline).await)
}

/// The answers to a batch in one, or that there are none.
fn together(replies: Vec<RpcReply>) -> RpcReply {
    let mut places = HeldPermits::new();
    let taken = |mut reply: RpcReply| {
        places.append(&mut reply.places);
        reply.into_bytes()
    };
    let replies: Vec<Bytes> = replies.into_iter().map(taken).collect();
    if replies.is_empty() {
        return RpcReply::none();
    }
    let mut text = Vec::with_capacity(replies.iter().map(|reply| reply.len() + 1).sum::<usize>() + 1);
    for reply in replies {
        text.push(if text.is_empty() { b'[' } else { b',' });
        text.extend_from_slice(&reply);
    }
    text.push(b']');
    RpcReply { parts: smallvec::smallvec![account().kept(text)], status: StatusCode::OK, places }
}

async fn answer_in_batch(caller: &Caller, one: &str, body: &ByteString, revision: Revision) -> Option<RpcReply> {
    let planned = {
        let mut space = Space::default();
        let request = match message::single(one, &mut space) {
            Ok(Incoming::Request(request)) => request,
            Ok(Incoming::Notification(method)) => {
                let _ = take_notification(caller, &method, &Params::of(&space).unwrap_or_default());
                return None;
            }
            Ok(Incoming::Response(id, answer)) => {
                let _ = take_response(caller, id, answer);
                return None;
            }
            Err(bad) => {
                let id = bad.id.clone();
                return Some(RpcReply::error(id.as_deref(), &RpcProblem::Message(bad), revision));
            }
        };
        let fail = |problem: &RpcProblem| Some(RpcReply::error(Some(request.id), problem, revision));
        let params = match Params::of(&space) {
            Ok(params) => params,
            Err(problem) => return fail(&problem),
        };
        let planned = match LegacyMethod::of(&request.method) {
            LegacyMethod::Initialize => {
                return fail(&RpcProblem::Request("initialize must not be part of a batch"));
            }
            LegacyMethod::Call(method) => {
                let speaks = (revision, ClientCapabilities::NONE);
                call_plan::plan(caller.clone(), body, (&request, method), &params, speaks)
            }
            method => return Some(answer_from_memory(caller, (&request, method), &params, revision)),
        };
        match planned {
            Ok(plan) => plan.of(body.clone()),
            Err(problem) => return fail(&problem),
        }
    };
    Some(planned.send(None).await)
}

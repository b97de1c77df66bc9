//! HTTP+SSE of 2024-11-05: `GET /sse` opens a session, `POST /message?sessionId=` feeds it.

use std::future::pending;
use std::sync::Arc;

use http::{Request, Response};

use super::call::{FaultyCall, Out};
use super::fault::{Behaviour, CallFault, EndpointFault, EventFraming};
use super::frame;
use super::methods;
use super::pipe::{BodyPipe, Payload, PipeCut, pipe};
use super::rpc::RpcMessage;
use super::service::{event_stream, json, lost, plain};
use super::state::FaultyState;

/// Opens a session.
pub(super) async fn open(state: &Arc<FaultyState>, behaviour: &Behaviour, request: &Request<()>) -> Response<Payload> {
    let (pipe, body) = pipe();
    let session = state.add_session(Some(pipe.clone()), request.extensions().get());
    state.seen().streams += 1;
    announce(state, behaviour, &pipe, &format!("message?sessionId={session}")).await;
    event_stream(body)
}

/// Takes a message for a session; what it answers goes onto the session's stream.
pub(super) async fn take(
    state: &Arc<FaultyState>,
    request: &Request<()>,
    message: Option<RpcMessage>,
) -> Result<Response<Payload>, PipeCut> {
    let query = request.uri().query().unwrap_or_default();
    let session = query.split('&').find_map(|pair| pair.strip_prefix("sessionId=")).unwrap_or_default();
    let id = message.as_ref().and_then(RpcMessage::id);
    let Some(Some(pipe)) = state.session(session) else { return lost(state, id).await };
    let Some(message) = message else { return Ok(plain(400, "Could not parse message")) };
    let out = Out { pipe, events: true };
    match message.method() {
        "tools/call" => {
            let call = FaultyCall::new(state, session, &message);
            if matches!(call.answer, CallFault::CutBeforeAccepting) {
                return Err(PipeCut);
            }
            if let Some(answer) = call.http(state) {
                return Ok(answer);
            }
            state.spawn(call.run(Arc::clone(state), out));
        }
        "notifications/initialized" => ask(state, out),
        "notifications/cancelled" => cancelled(state, session, &message),
        // An answer to a request of ours; it was recorded at the door.
        "" => {}
        _ => reply(state, out, message),
    }
    Ok(plain(202, "Accepted"))
}

/// Stops a call that the caller no longer wants.
pub(super) fn cancelled(state: &FaultyState, session: &str, message: &RpcMessage) {
    if let Some(id) = message.params().request_id {
        state.seen().cancelled.push(id.get().to_owned());
        state.cancel(session, id.get());
    }
}

/// Sends the requests that the server has for the client.
pub(super) fn ask(state: &Arc<FaultyState>, out: Out) {
    let shared = Arc::clone(state);
    state.spawn(async move {
        for ask in shared.behaviour().asks {
            out.message(&shared, &ask).await;
        }
    });
}

/// The JSON-RPC error for a session that is not there.
pub(super) fn lost_error(status: u16) -> Response<Payload> {
    json(status, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#)
}

fn reply(state: &Arc<FaultyState>, out: Out, message: RpcMessage) {
    let shared = Arc::clone(state);
    state.spawn(async move {
        match methods::answer(&shared, &message) {
            Some(text) => out.message(&shared, &text).await,
            None if message.id().is_some() => pending().await,
            None => {}
        }
    });
}

async fn announce(state: &FaultyState, behaviour: &Behaviour, pipe: &BodyPipe, target: &str) {
    let framing = &behaviour.framing;
    let host = state.address;
    let endpoint = match &behaviour.endpoint {
        EndpointFault::Honest | EndpointFault::Twice(_) | EndpointFault::MessageFirst | EndpointFault::PingFirst => {
            format!("/{target}")
        }
        EndpointFault::Absolute => format!("http://{host}/{target}"),
        EndpointFault::Relative => target.to_owned(),
        EndpointFault::Authority(authority) => format!("//{authority}/{target}"),
        EndpointFault::Origin(origin) => format!("{origin}/{target}"),
        EndpointFault::UserInfo => format!("http://user:secret@{host}/{target}"),
        EndpointFault::Text(text) => text.clone(),
        EndpointFault::Never => return,
        EndpointFault::EndlessLine => return endless_line(pipe).await,
    };
    if matches!(behaviour.endpoint, EndpointFault::MessageFirst) {
        let early = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        write(pipe, framing, "message", early).await;
    }
    if matches!(behaviour.endpoint, EndpointFault::PingFirst) {
        write(pipe, framing, "ping", "2026-09-01T12:00:00Z").await;
        pipe.write("data: hello\n\n", framing).await;
    }
    write(pipe, framing, "endpoint", &endpoint).await;
    if let EndpointFault::Twice(origin) = &behaviour.endpoint {
        write(pipe, framing, "endpoint", &format!("{origin}/{target}")).await;
    }
}

async fn write(pipe: &BodyPipe, framing: &EventFraming, kind: &str, data: &str) {
    pipe.write(frame::event(framing, kind, data, pipe.first()), framing).await;
}

async fn endless_line(pipe: &BodyPipe) {
    pipe.write("event: endpoint\ndata: /", &EventFraming::default()).await;
    pipe.repeat(vec![b'x'; 64 * 1024], u64::MAX, &EventFraming::default()).await;
}

//! HTTP+SSE of 2024-11-05: `GET /sse` opens a session, `POST /message?sessionId=` feeds it.

use std::future::pending;
use std::sync::Arc;

use http::{Request, Response};

use super::call::{Call, Out};
use super::frame;
use super::methods;
use super::pipe::{Cut, Payload, Pipe, pipe};
use super::rpc::Message;
use super::service::{event_stream, json, lost, plain};
use super::state::State;
use super::vice::{Answer, Behaviour, Endpoint, Framing};

/// Opens a session.
pub(super) async fn open(state: &Arc<State>, behaviour: &Behaviour, request: &Request<()>) -> Response<Payload> {
    let (pipe, body) = pipe();
    let session = state.add_session(Some(pipe.clone()), request.extensions().get());
    state.seen().streams += 1;
    announce(state, behaviour, &pipe, &format!("message?sessionId={session}")).await;
    event_stream(body)
}

/// Takes a message for a session; what it answers goes onto the session's stream.
pub(super) async fn take(
    state: &Arc<State>,
    request: &Request<()>,
    message: Option<Message>,
) -> Result<Response<Payload>, Cut> {
    let query = request.uri().query().unwrap_or_default();
    let session = query.split('&').find_map(|pair| pair.strip_prefix("sessionId=")).unwrap_or_default();
    let id = message.as_ref().and_then(Message::id);
    let Some(Some(pipe)) = state.session(session) else { return lost(state, id).await };
    let Some(message) = message else { return Ok(plain(400, "Could not parse message")) };
    let out = Out { pipe, events: true };
    match message.method() {
        "tools/call" => {
            let call = Call::new(state, session, &message);
            if matches!(call.answer, Answer::CutBeforeAccepting) {
                return Err(Cut);
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
pub(super) fn cancelled(state: &State, session: &str, message: &Message) {
    if let Some(id) = message.params().request_id {
        state.seen().cancelled.push(id.get().to_owned());
        state.cancel(session, id.get());
    }
}

/// Sends the requests that the server has for the client.
pub(super) fn ask(state: &Arc<State>, out: Out) {
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

fn reply(state: &Arc<State>, out: Out, message: Message) {
    let shared = Arc::clone(state);
    state.spawn(async move {
        match methods::answer(&shared, &message) {
            Some(text) => out.message(&shared, &text).await,
            None if message.id().is_some() => pending().await,
            None => {}
        }
    });
}

async fn announce(state: &State, behaviour: &Behaviour, pipe: &Pipe, target: &str) {
    let framing = &behaviour.framing;
    let host = state.address;
    let endpoint = match &behaviour.endpoint {
        Endpoint::Honest | Endpoint::Twice(_) | Endpoint::MessageFirst | Endpoint::PingFirst => format!("/{target}"),
        Endpoint::Absolute => format!("http://{host}/{target}"),
        Endpoint::Relative => target.to_owned(),
        Endpoint::Authority(authority) => format!("//{authority}/{target}"),
        Endpoint::Origin(origin) => format!("{origin}/{target}"),
        Endpoint::UserInfo => format!("http://user:secret@{host}/{target}"),
        Endpoint::Text(text) => text.clone(),
        Endpoint::Never => return,
        Endpoint::EndlessLine => return endless_line(pipe).await,
    };
    if matches!(behaviour.endpoint, Endpoint::MessageFirst) {
        let early = r#"{"jsonrpc":"2.0","method":"notifications/tools/list_changed"}"#;
        write(pipe, framing, "message", early).await;
    }
    if matches!(behaviour.endpoint, Endpoint::PingFirst) {
        write(pipe, framing, "ping", "2026-09-01T12:00:00Z").await;
        pipe.write("data: hello\n\n", framing).await;
    }
    write(pipe, framing, "endpoint", &endpoint).await;
    if let Endpoint::Twice(origin) = &behaviour.endpoint {
        write(pipe, framing, "endpoint", &format!("{origin}/{target}")).await;
    }
}

async fn write(pipe: &Pipe, framing: &Framing, kind: &str, data: &str) {
    pipe.write(frame::event(framing, kind, data, pipe.first()), framing).await;
}

async fn endless_line(pipe: &Pipe) {
    pipe.write("event: endpoint\ndata: /", &Framing::default()).await;
    pipe.repeat(vec![b'x'; 64 * 1024], u64::MAX, &Framing::default()).await;
}

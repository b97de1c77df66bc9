//! Streamable HTTP on `/mcp`: with sessions (until 2025-11-25), or stateless (2026-07-28).

use std::future::pending;
use std::sync::Arc;

use http::{HeaderValue, Method, Request, Response};

use super::call::{FaultyCall, Out};
use super::fault::{AnswerForm, Behaviour, CallFault, InName, Listen};
use super::legacy::{ask, cancelled};
use super::pipe::{Payload, PipeCut, pipe};
use super::rpc::RpcMessage;
use super::service::{event_stream, header, json, json_body, lost, plain};
use super::state::FaultyState;
use super::{FaultyMode, methods, modern, rpc};

const SESSION: &str = "mcp-session-id";

/// Answers GET, POST and DELETE.
pub(super) async fn handle(
    state: &Arc<FaultyState>,
    behaviour: &Behaviour,
    request: &Request<()>,
    message: Option<RpcMessage>,
) -> Result<Response<Payload>, PipeCut> {
    match (request.method(), state.mode) {
        (&Method::POST, FaultyMode::Modern) => {
            let Some(message) = message else { return Ok(parse_error()) };
            match modern::refusal(request, &message) {
                Some(refusal) => {
                    // Clients may ask for what this revision does not know, to find out that it does not.
                    state.seen().refused += u64::from(message.method() != "ping");
                    Ok(refusal)
                }
                None if message.method() == "subscriptions/listen" => Ok(modern::listen(state, &message).await),
                None => answer(state, behaviour, "", message).await,
            }
        }
        (&Method::POST, _) => post(state, behaviour, request, message).await,
        (&Method::GET, FaultyMode::Streamable) => get(state, behaviour, header(request, SESSION)).await,
        (&Method::DELETE, FaultyMode::Streamable) => {
            state.remove_session(header(request, SESSION));
            state.seen().deleted += 1;
            Ok(plain(200, ""))
        }
        _ => Ok(plain(405, "Method not allowed")),
    }
}

async fn post(
    state: &Arc<FaultyState>,
    behaviour: &Behaviour,
    request: &Request<()>,
    message: Option<RpcMessage>,
) -> Result<Response<Payload>, PipeCut> {
    let Some(message) = message else { return Ok(parse_error()) };
    let session = header(request, SESSION);
    if message.method() == "initialize" {
        let mut response = answer(state, behaviour, "", message).await?;
        let session = state.add_session(None, request.extensions().get());
        response.headers_mut().insert(SESSION, HeaderValue::from_str(&session).expect("letters and digits"));
        return Ok(response);
    }
    let id = message.id().unwrap_or("null");
    match (message.method(), behaviour.in_name) {
        ("server/discover", InName::Yes | InName::Lists) => {
            let versions = r#"{"supportedVersions":["2026-07-28","2025-11-25"],"capabilities":{"tools":{}}}"#;
            return Ok(json(200, rpc::result(id, versions)));
        }
        ("tools/list", InName::Lists) if session.is_empty() => return answer(state, behaviour, "", message).await,
        _ => {}
    }
    if session.is_empty() {
        let text =
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"Bad Request: Server not initialized"}}"#;
        return Ok(json(400, text));
    }
    if state.session(session).is_none() {
        return lost(state, message.id()).await;
    }
    answer(state, behaviour, session, message).await
}

async fn answer(
    state: &Arc<FaultyState>,
    behaviour: &Behaviour,
    session: &str,
    message: RpcMessage,
) -> Result<Response<Payload>, PipeCut> {
    if message.method() == "tools/call" {
        return call(state, behaviour, FaultyCall::new(state, session, &message)).await;
    }
    if message.method() == "notifications/cancelled" {
        cancelled(state, session, &message);
    }
    if message.id().is_none() || message.method().is_empty() {
        return Ok(plain(202, ""));
    }
    let Some(text) = methods::answer(state, &message) else { return pending().await };
    let (pipe, body) = pipe();
    let out = Out { pipe, events: behaviour.form == AnswerForm::Sse };
    out.message(state, &text).await;
    let status = if rpc::is_error(&text) { behaviour.error_status.unwrap_or(200) } else { 200 };
    Ok(if out.events && status == 200 { event_stream(body) } else { json_body(status, body) })
}

async fn call(state: &Arc<FaultyState>, behaviour: &Behaviour, call: FaultyCall) -> Result<Response<Payload>, PipeCut> {
    if matches!(call.answer, CallFault::CutBeforeAccepting) {
        return Err(PipeCut);
    }
    if let Some(answer) = call.http(state) {
        return Ok(answer);
    }
    let failing = behaviour.error_status.filter(|_| call.fails(state));
    let events = match behaviour.form {
        _ if failing.is_some() => false,
        AnswerForm::Auto => call.reports(),
        AnswerForm::Json => false,
        AnswerForm::Sse => true,
    };
    let endless = matches!(call.answer, CallFault::EndlessLine | CallFault::EndlessLines);
    let (pipe, body) = pipe();
    let out = Out { pipe, events };
    if events || endless {
        state.spawn(call.run(Arc::clone(state), out));
    } else {
        // The head of a JSON answer comes when the answer is there; dropping this future is the caller's going away.
        call.run(Arc::clone(state), out).await;
    }
    Ok(if events { event_stream(body) } else { json_body(failing.unwrap_or(200), body) })
}

async fn get(state: &Arc<FaultyState>, behaviour: &Behaviour, session: &str) -> Result<Response<Payload>, PipeCut> {
    match behaviour.listen {
        Listen::NotAllowed => return Ok(plain(405, "Method not allowed")),
        Listen::NotFound => return Ok(plain(404, "Cannot GET /mcp")),
        Listen::Open | Listen::Closes => {}
    }
    if state.session(session).is_none() {
        return lost(state, None).await;
    }
    let (pipe, body) = pipe();
    state.seen().streams += 1;
    if behaviour.listen == Listen::Open {
        state.attach(session, &pipe);
        ask(state, Out { pipe, events: true });
    }
    Ok(event_stream(body))
}

fn parse_error() -> Response<Payload> {
    json(400, r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"Parse error"}}"#)
}

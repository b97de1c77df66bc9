//! The door: TCP connections, HTTP requests, and the refusals that come before any protocol.

use std::future::pending;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::fault::{Behaviour, ConnectionFault, FixedAnswer, LostSessionAnswer, RequestFault};
use super::pipe::{Payload, PipeCut, whole};
use super::rpc::{self, RpcMessage};
use super::seen;
use super::state::FaultyState;
use super::{FaultyMode, balance, legacy, streamable};

/// The largest request body that is read.
const BODY_LIMIT: usize = 64 * 1024 * 1024;

/// Accepts connections until it is dropped.
pub(super) async fn accept(state: Arc<FaultyState>, listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        state.seen().connections += 1;
        let shared = Arc::clone(&state);
        state.spawn(async move { connection(shared, stream).await.unwrap_or_default() });
    }
}

async fn connection(state: Arc<FaultyState>, mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    match state.behaviour().connection {
        ConnectionFault::Honest => serve(state, stream).await,
        ConnectionFault::Silent => pending().await,
        ConnectionFault::Closed => {}
        ConnectionFault::Raw(bytes) => {
            read_head(&mut stream).await?;
            stream.write_all(&bytes).await?;
            stream.shutdown().await?;
        }
        ConnectionFault::EndlessHeaders => {
            read_head(&mut stream).await?;
            stream.write_all(b"HTTP/1.1 200 OK\r\n").await?;
            loop {
                stream.write_all(b"x-more: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\n").await?;
            }
        }
    }
    Ok(())
}

/// Closing with unread bytes would reset the connection and could take our bytes with it.
async fn read_head(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    stream.read(&mut buffer).await.map(drop)
}

async fn serve(state: Arc<FaultyState>, stream: TcpStream) {
    let service = service_fn(|request| handle(Arc::clone(&state), request));
    // An error is a cut of ours or a caller who left; both are seen elsewhere.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn handle(state: Arc<FaultyState>, request: Request<Incoming>) -> Result<Response<Payload>, PipeCut> {
    let (mut head, body) = request.into_parts();
    let body = Limited::new(body, BODY_LIMIT).collect().await.map_err(|_| PipeCut)?.to_bytes();
    let behaviour = state.behaviour();
    head.extensions.clear();
    let mut request = Request::from_parts(head, ());
    if behaviour.balanced {
        let replica = balance::replica(&state, &request);
        request.extensions_mut().insert(replica);
    }
    let caller = caller_of(header(&request, "authorization"));
    let message = RpcMessage::read(&body).map(|message| RpcMessage { caller, ..message });
    state.seen().record(seen::SeenRequest {
        http_method: request.method().to_string(),
        target: request.uri().to_string(),
        headers: request.headers().clone(),
        body: body.clone(),
        method: message.as_ref().and_then(|message| message.method.clone()),
        id: message.as_ref().and_then(|message| message.id().map(str::to_owned)),
    });
    let answer = answered(&state, &behaviour, &request, message, &body).await?;
    Ok(balance::passed(&behaviour, &request, answer))
}

async fn answered(
    state: &Arc<FaultyState>,
    behaviour: &Behaviour,
    request: &Request<()>,
    message: Option<RpcMessage>,
    body: &Bytes,
) -> Result<Response<Payload>, PipeCut> {
    if behaviour.wants_agent && header(request, "user-agent").is_empty() {
        return Ok(balance::forbidden());
    }
    let is = |method: &str| message.as_ref().is_some_and(|message| message.method() == method);
    let doors = match *request.method() {
        Method::GET => vec![behaviour.get.clone()],
        Method::POST if is("server/discover") => vec![behaviour.discover.clone(), behaviour.post.clone()],
        Method::POST if is("tools/call") => vec![behaviour.call.clone(), behaviour.post.clone()],
        Method::POST if is("ping") => vec![behaviour.ping_door.clone(), behaviour.post.clone()],
        _ => vec![behaviour.post.clone()],
    };
    if let Some(refusal) = knock(doors).await {
        return refusal;
    }
    if message.as_ref().is_some_and(|message| message.method.is_none() && message.id().is_some()) {
        state.seen().answers.push(String::from_utf8_lossy(body).into_owned());
    }
    if state.is_elsewhere(balance::session(request), request.extensions().get()) {
        return lost(state, message.as_ref().and_then(RpcMessage::id)).await;
    }
    let path = match (request.uri().path(), behaviour.moved) {
        ("/mcp", Some(status)) => return Ok(respond(status, &[("location", "/mcp/")], whole(""))),
        ("/mcp/", Some(_)) => "/mcp",
        (path, _) => path,
    };
    match (state.mode, request.method(), path) {
        (FaultyMode::Sse, &Method::GET, "/sse") => Ok(legacy::open(state, behaviour, request).await),
        (FaultyMode::Sse, &Method::POST, "/message") => legacy::take(state, request, message).await,
        (FaultyMode::Streamable | FaultyMode::Modern, _, "/mcp") => {
            streamable::handle(state, behaviour, request, message).await
        }
        _ => Ok(plain(404, "Not found")),
    }
}

async fn knock(doors: Vec<RequestFault>) -> Option<Result<Response<Payload>, PipeCut>> {
    for door in doors {
        match door {
            RequestFault::Open => {}
            RequestFault::Hangs => pending().await,
            RequestFault::Slams => return Some(Err(PipeCut)),
            RequestFault::Answers(refusal) => return Some(Ok(refused(refusal))),
        }
    }
    None
}

/// The answer to a request with an unknown session and this id.
pub(super) async fn lost(state: &FaultyState, id: Option<&str>) -> Result<Response<Payload>, PipeCut> {
    state.seen().lost += 1;
    Ok(match state.behaviour().lost {
        LostSessionAnswer::NotFound => plain(404, "Could not find session"),
        LostSessionAnswer::NotFoundError => legacy::lost_error(404),
        LostSessionAnswer::Error => legacy::lost_error(200),
        LostSessionAnswer::BadRequest => plain(400, "No valid session ID provided"),
        LostSessionAnswer::BadRequestError => json(
            400,
            r#"{"jsonrpc":"2.0","error":{"code":-32000,"message":"Bad Request: No valid session ID provided"},"id":null}"#,
        ),
        LostSessionAnswer::Gone => plain(410, "Gone"),
        LostSessionAnswer::Uninitialized(code) => {
            json(200, rpc::error_of(id.unwrap_or("null"), code, "Server not initialized"))
        }
        LostSessionAnswer::Hangs => pending().await,
    })
}

/// The subject of a signed credential, or its text.
fn caller_of(credential: &str) -> String {
    let claims = credential.strip_prefix("Bearer ").and_then(|token| token.split('.').nth(1));
    let claims = claims.and_then(|claims| URL_SAFE_NO_PAD.decode(claims).ok());
    let claims: Option<serde_json::Value> = claims.and_then(|claims| serde_json::from_slice(&claims).ok());
    let subject = claims.and_then(|claims| claims["sub"].as_str().map(str::to_owned));
    subject.unwrap_or_else(|| credential.to_owned())
}

/// A header as text, or "" when it is absent.
pub(super) fn header<'a>(request: &'a Request<()>, name: &str) -> &'a str {
    request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

pub(super) fn plain(status: u16, text: &'static str) -> Response<Payload> {
    respond(status, &[("content-type", "text/plain")], whole(text))
}

pub(super) fn event_stream(body: Payload) -> Response<Payload> {
    respond(200, &[("content-type", "text/event-stream"), ("cache-control", "no-cache")], body)
}

/// A JSON answer whose text is there already.
pub(super) fn json(status: u16, text: impl Into<Bytes>) -> Response<Payload> {
    json_body(status, whole(text))
}

/// A JSON answer whose text is still to come.
pub(super) fn json_body(status: u16, body: Payload) -> Response<Payload> {
    respond(status, &[("content-type", "application/json")], body)
}

fn refused(refusal: FixedAnswer) -> Response<Payload> {
    let headers: Vec<_> = refusal.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    respond(refusal.status, &headers, whole(refusal.body))
}

pub(super) fn respond(status: u16, headers: &[(&str, &str)], body: Payload) -> Response<Payload> {
    let builder = headers.iter().fold(Response::builder().status(status), |it, (name, value)| it.header(*name, *value));
    builder.body(body).expect("the test gives valid headers")
}

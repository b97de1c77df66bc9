//! Requests that are answered from memory: who the gateway is, what it serves, and the lists.

use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::calls;
use super::message::Request;
use super::problem::RpcProblem;
use super::reply::{Reply, SERVER_INFO};
use super::request::{self, Params};
use super::state::Caller;
use super::topics::{CannotFollow, Follower};
use crate::capabilities::ClientCapabilities;
use crate::catalog::Kind;
use crate::revision::Revision;
use crate::seal::Session;

/// What is served, as JSON: for all servers alike, whatever they have at the moment, so that a session need not end
/// when one comes that has more.
const CAPABILITIES: &str = r#"{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"completions":{},"logging":{}}"#;

/// How long a list may be kept by a client of 2026-07-28: who wants to know sooner listens.
const LIST_LIFE: Duration = Duration::from_secs(30);

/// The same for what the gateway says of itself.
const DISCOVERY_LIFE: Duration = Duration::from_secs(3600);

/// The answer to `initialize`, and the session that begins with it.
///
/// # Errors
/// The params are not of their form.
pub fn initialize(
    caller: &Caller,
    request: &Request<'_>,
    params: &Params<'_, '_>,
) -> Result<(Reply, Session), RpcProblem> {
    const FORM: RpcProblem = RpcProblem::Params("initialize needs \"protocolVersion\", as a text");
    let requested = params.text("protocolVersion").ok_or(FORM)?;
    let revision = Revision::negotiated(&requested);
    let capabilities = match params.get("capabilities") {
        Some(raw) => {
            ClientCapabilities::from_json(raw.get()).ok_or(RpcProblem::Params("\"capabilities\" must be an object"))?
        }
        None => ClientCapabilities::NONE,
    };
    let app = caller.app();
    let expires = SystemTime::now() + app.options.session_life;
    let session = Session::new(caller.subject, revision, capabilities, expires, app.replica.clone());
    let result =
        format!(r#"{{"protocolVersion":"{revision}","capabilities":{CAPABILITIES},"serverInfo":{SERVER_INFO}}}"#);
    Ok((Reply::result(request.id, [Bytes::from(result)]), session))
}

/// The answer to `server/discover`.
pub fn discover(request: &Request<'_>) -> Reply {
    let result = format!(
        r#"{{"resultType":"complete","supportedVersions":["{}"],"capabilities":{CAPABILITIES},"ttlMs":{},"cacheScope":"public","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}}}"#,
        Revision::V2026_07_28,
        DISCOVERY_LIFE.as_millis()
    );
    Reply::result(request.id, [Bytes::from(result)])
}

/// An empty answer.
pub fn nothing(request: &Request<'_>, revision: Revision) -> Reply {
    let result: &'static str = if revision.is_modern() { r#"{"resultType":"complete"}"# } else { "{}" };
    Reply::result(request.id, [Bytes::from_static(result.as_bytes())])
}

/// The kind that a method lists.
pub fn listed_by(method: &str) -> Option<Kind> {
    Some(match method {
        "tools/list" => Kind::Tools,
        "prompts/list" => Kind::Prompts,
        "resources/list" => Kind::Resources,
        "resources/templates/list" => Kind::Templates,
        _ => return None,
    })
}

/// A page of a list: the bytes that the catalog keeps, with what the revision wants around them.
///
/// # Errors
/// The cursor was never given out.
pub fn list(
    caller: &Caller,
    request: &Request<'_>,
    params: &Params<'_, '_>,
    kind: Kind,
    revision: Revision,
) -> Result<Reply, RpcProblem> {
    const CURSOR: RpcProblem = RpcProblem::Params("the cursor was not given out here: list again without one");
    let cursor = match params.get("cursor") {
        Some(raw) => Some(crate::json::text(raw).ok_or(CURSOR)?),
        None => None,
    };
    let page = caller.catalog().page(kind, caller.scope(), cursor.as_deref()).map_err(|_| CURSOR)?;
    let begin: Bytes = if revision.is_modern() {
        format!(
            r#"{{"resultType":"complete","ttlMs":{},"cacheScope":"private","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}},"#,
            LIST_LIFE.as_millis()
        )
        .into()
    } else {
        Bytes::from_static(b"{")
    };
    Ok(Reply::result(request.id, [begin, page, Bytes::from_static(b"}")]))
}

/// The answer to `logging/setLevel`.
///
/// # Errors
/// There is no such level.
pub fn set_level(caller: &Caller, request: &Request<'_>, params: &Params<'_, '_>) -> Result<Reply, RpcProblem> {
    let level = params.get("level").ok_or(RpcProblem::Params("\"level\" is missing"))?;
    let level = request::level(level)?;
    if let Some(session) = &caller.session {
        caller.app().mcp.live.set_level(session.id, level);
    }
    Ok(nothing(request, Revision::LATEST_WITH_INITIALIZE))
}

/// The answer to `resources/subscribe`.
///
/// # Errors
/// Nobody has the resource, or its server does not tell of changes; or there is no session that could be told.
pub fn follow(caller: &Caller, request: &Request<'_>, params: &Params<'_, '_>) -> Result<Reply, RpcProblem> {
    const TOO_MANY: RpcProblem =
        RpcProblem::TooMany("as many resources are subscribed to as may be: unsubscribe from some");
    const TOO_LONG: RpcProblem =
        RpcProblem::Params("\"uri\" is longer than 2048 bytes: subscribe to a shorter one, or read it now and then");
    let (follower, uri) = followed(caller, params)?;
    let catalog = caller.catalog();
    let entry = calls::reader(caller, &catalog, &uri)?;
    if entry.teller().is_none() {
        return Err(RpcProblem::Params("the server of this resource does not tell of changes: read it now and then"));
    }
    let followed = caller.app().mcp.topics.follow(&catalog, caller.scope(), (follower, caller.subject), &uri);
    followed.map_err(|cannot| match cannot {
        CannotFollow::TooMany => TOO_MANY,
        CannotFollow::TooLong => TOO_LONG,
    })?;
    Ok(nothing(request, Revision::LATEST_WITH_INITIALIZE))
}

/// The answer to `resources/unsubscribe`; who was not subscribed is so no less.
///
/// # Errors
/// The params are not of their form, or there is no session.
pub fn unfollow(caller: &Caller, request: &Request<'_>, params: &Params<'_, '_>) -> Result<Reply, RpcProblem> {
    let (follower, uri) = followed(caller, params)?;
    let _ = caller.app().mcp.topics.unfollow(caller.scope(), follower, &uri);
    Ok(nothing(request, Revision::LATEST_WITH_INITIALIZE))
}

fn followed(caller: &Caller, params: &Params<'_, '_>) -> Result<(Follower, String), RpcProblem> {
    const SESSION: RpcProblem =
        RpcProblem::Request("only a session can be told of changes: send the Mcp-Session-Id that initialize gave");
    let session = caller.session.as_ref().ok_or(SESSION)?;
    let uri = params.text("uri").filter(|uri| !uri.is_empty());
    let uri = uri.ok_or(RpcProblem::Params("\"uri\" is missing, or no text"))?;
    Ok((Follower::Session(session.id), uri.into_owned()))
}

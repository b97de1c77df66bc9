//! Answers requests from memory: the gateway's own description, the lists, log levels and subscriptions.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::{Extensions, SKILLS, TASKS};
use portcullis_mcp::protocol::json::{json_string, text};
use portcullis_mcp::protocol::revision::Revision;

use crate::catalog::{Catalog, Kind};
use crate::front::http::error::clip;
use crate::front::mcp::call_target::read_from;
use crate::front::mcp::caller::Caller;
use crate::front::mcp::messages::message::RpcRequest;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::{RpcReply, SERVER_INFO};
use crate::front::mcp::messages::request::{self, Params};
use crate::front::mcp::state::resource_subscriptions::{CannotSubscribe, Subscriber};
use crate::front::mcp::{custom, instructions};
use crate::front::request::admit::{Wanted, note_denial};
use crate::front::request::missing;
use crate::seal::SealedSession;

/// The capabilities, as JSON, but for extensions: the same for all servers, whatever they have at the moment, so that a
/// session need not end when one comes that has more.
const CAPABILITIES: &str = r#"{"tools":{"listChanged":true},"prompts":{"listChanged":true},"resources":{"subscribe":true,"listChanged":true},"completions":{},"logging":{}}"#;

/// The member of `_meta` of lists that names servers whose items are missing.
const MISSING: &str = "dev.portcullis/servers";

/// The life of a list at a client of 2026-07-28: a client that wants to know sooner listens.
const LIST_LIFE: Duration = Duration::from_secs(30);

/// The same for what the gateway says of itself.
const DISCOVERY_LIFE: Duration = Duration::from_secs(3600);

/// The answer to `initialize`, and the session that begins with it.
///
/// # Errors
/// The params are not of their form.
pub(crate) fn initialize(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
) -> Result<(RpcReply, SealedSession), RpcProblem> {
    const FORM: RpcProblem = RpcProblem::Params("initialize needs \"protocolVersion\", as a string");
    let requested = params.text("protocolVersion").ok_or(FORM)?;
    let revision = Revision::negotiated(&requested);
    let capabilities = match params.get("capabilities") {
        Some(raw) => {
            let able = ClientCapabilities::with_extensions(raw.get());
            able.ok_or(RpcProblem::Params("\"capabilities\" must be an object"))?
        }
        None => (ClientCapabilities::NONE, Extensions::default()),
    };
    let app = caller.app();
    let expires = SystemTime::now() + app.options.session_life;
    let session = SealedSession::new(caller.subject, revision, capabilities, expires, app.replica.clone());
    let instructions = instructions_of(caller);
    // Tasks need results of 2026-07-28.
    let announced = announced(caller).filtered(|name| name != TASKS);
    let mut capabilities = announced.in_capabilities(CAPABILITIES);
    capabilities.insert_str(capabilities.len() - 1, &custom::announced_tasks(caller, revision));
    let result = format!(
        r#"{{"protocolVersion":"{revision}","capabilities":{capabilities},"serverInfo":{SERVER_INFO}{instructions}}}"#
    );
    Ok((RpcReply::result(request.id, [Bytes::from(result)]), session))
}

/// The member with the instructions, after a comma; empty if there are none.
fn instructions_of(caller: &Caller) -> String {
    let text = instructions::of(&caller.seen_catalog(), caller.scope(), caller.app().options.instructions);
    text.map_or_else(String::new, |text| format!(r#","instructions":{}"#, json_string(&text)))
}

/// The extensions of the servers that the caller sees.
fn announced(caller: &Caller) -> Extensions {
    caller.seen_catalog().announced(caller.scope())
}

/// The answer to `server/discover`.
pub(crate) fn discover(caller: &Caller, request: &RpcRequest<'_>) -> RpcReply {
    let (instructions, extensions) = (instructions_of(caller), announced(caller));
    // Both are those of the servers that the caller sees now.
    let is_the_same_for_all = instructions.is_empty() && extensions.is_empty();
    let (life, scope) = if is_the_same_for_all { (DISCOVERY_LIFE, "public") } else { (LIST_LIFE, "private") };
    let capabilities = extensions.in_capabilities(CAPABILITIES);
    let result = format!(
        r#"{{"resultType":"complete","supportedVersions":["{}"],"capabilities":{capabilities}{instructions},"ttlMs":{},"cacheScope":"{scope}","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}}}}}"#,
        Revision::V2026_07_28,
        life.as_millis()
    );
    RpcReply::result(request.id, [Bytes::from(result)])
}

/// An empty answer.
pub(crate) fn nothing(request: &RpcRequest<'_>, revision: Revision) -> RpcReply {
    let result: &'static str = if revision.is_modern() { r#"{"resultType":"complete"}"# } else { "{}" };
    RpcReply::result(request.id, [Bytes::from_static(result.as_bytes())])
}

/// A page of a list: the bytes that the catalog keeps, with what the revision wants around them.
///
/// # Errors
/// The cursor was never given out.
pub(crate) fn list(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
    kind: Kind,
    revision: Revision,
) -> Result<RpcReply, RpcProblem> {
    let cursor = cursor(params)?;
    let catalog = caller.seen_catalog();
    let page = catalog.page(kind, caller.scope(), cursor.as_deref()).map_err(|_| CURSOR)?;
    Ok(listed(caller, request, &catalog, page, revision))
}

/// The answer to `skills/list`: one that is written for each caller.
///
/// # Errors
/// The cursor was never given out, or no server that the caller sees has skills: then there is no such method.
pub(crate) fn skills(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
    revision: Revision,
) -> Result<RpcReply, RpcProblem> {
    if !announced(caller).has(SKILLS) {
        return Err(RpcProblem::method(&request.method));
    }
    let cursor = cursor(params)?;
    // What a class of callers sees finds nothing by its URI.
    let page = caller.catalog().skills_page(&caller.identity, caller.scope(), cursor.as_deref());
    Ok(listed(caller, request, &caller.seen_catalog(), page.map_err(|_| CURSOR)?.into(), revision))
}

const CURSOR: RpcProblem = RpcProblem::Params("the cursor is not from this gateway: list again without it");

fn cursor(params: &Params<'_, '_>) -> Result<Option<String>, RpcProblem> {
    match params.get("cursor") {
        Some(raw) => Ok(Some(text(raw).ok_or(CURSOR)?.into_owned())),
        None => Ok(None),
    }
}

/// A page with what the revision wants around it.
fn listed(caller: &Caller, request: &RpcRequest<'_>, catalog: &Catalog, page: Bytes, revision: Revision) -> RpcReply {
    let missing = missing::of(catalog, caller.scope());
    let begin: Bytes = if revision.is_modern() {
        let missing = missing.map_or_else(String::new, |servers| format!(r#","{MISSING}":{servers}"#));
        format!(
            r#"{{"resultType":"complete","ttlMs":{},"cacheScope":"private","_meta":{{"io.modelcontextprotocol/serverInfo":{SERVER_INFO}{missing}}},"#,
            LIST_LIFE.as_millis()
        )
        .into()
    } else {
        missing.map_or(Bytes::from_static(b"{"), |servers| format!(r#"{{"_meta":{{"{MISSING}":{servers}}},"#).into())
    };
    RpcReply::result(request.id, [begin, page, Bytes::from_static(b"}")])
}

/// The answer to `logging/setLevel`.
///
/// # Errors
/// There is no such level.
pub(crate) fn set_level(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
) -> Result<RpcReply, RpcProblem> {
    let level = params.get("level").ok_or(RpcProblem::Params("\"level\" is missing"))?;
    let level = request::level(level)?;
    if let Some(session) = &caller.session {
        caller.app().mcp.sessions.set_level(session.id, level);
    }
    Ok(nothing(request, Revision::LATEST_WITH_INITIALIZE))
}

/// The answer to `resources/subscribe`.
///
/// # Errors
/// Nobody has the resource, or its server does not tell of changes; or there is no session that could be told.
pub(crate) fn subscribe(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
) -> Result<RpcReply, RpcProblem> {
    const TOO_MANY: RpcProblem = RpcProblem::TooMany("too many resources are subscribed to: unsubscribe from some");
    const TOO_LONG: RpcProblem =
        RpcProblem::Params("\"uri\" is longer than 2048 bytes: subscribe to a shorter one, or poll it");
    let (subscriber, uri) = followed(caller, params)?;
    let catalog = caller.catalog();
    let entry = read_from(caller, &catalog, &uri, |denied| {
        let (recorder, identity) = (&caller.recorder, &caller.identity);
        let wanted = Wanted { recorder, identity, method: "resources/subscribe", name: &uri, args: None };
        let problem = RpcProblem::NotAllowed(Kind::Resources.word(), clip(&uri));
        note_denial(&wanted, denied, problem.status(Revision::LATEST_WITH_INITIALIZE).as_u16());
        problem
    })?;
    if entry.update_source().is_none() {
        return Err(RpcProblem::Params("the server of this resource does not announce changes: poll it"));
    }
    let followed =
        caller.app().mcp.resource_subscriptions.subscribe(&catalog, caller.scope(), (subscriber, caller.subject), &uri);
    followed.map_err(|cannot| match cannot {
        CannotSubscribe::TooMany => TOO_MANY,
        CannotSubscribe::TooLong => TOO_LONG,
    })?;
    Ok(nothing(request, Revision::LATEST_WITH_INITIALIZE))
}

/// The answer to `resources/unsubscribe`, which succeeds without a subscription, too.
///
/// # Errors
/// The params are not of their form, or there is no session.
pub(crate) fn unsubscribe(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
) -> Result<RpcReply, RpcProblem> {
    let (subscriber, uri) = followed(caller, params)?;
    let _ = caller.app().mcp.resource_subscriptions.unsubscribe(&caller.catalog(), caller.scope(), subscriber, &uri);
    Ok(nothing(request, Revision::LATEST_WITH_INITIALIZE))
}

fn followed(caller: &Caller, params: &Params<'_, '_>) -> Result<(Subscriber, String), RpcProblem> {
    const SESSION: RpcProblem =
        RpcProblem::Request("only a session can receive changes: send the Mcp-Session-Id that initialize returned");
    let session = caller.session.as_ref().ok_or(SESSION)?;
    let uri = params.text("uri").filter(|uri| !uri.is_empty());
    let uri = uri.ok_or(RpcProblem::Params("\"uri\" is missing or not a string"))?;
    Ok((Subscriber::Session(session.id), uri.into_owned()))
}
